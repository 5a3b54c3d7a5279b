"""Derivatives of functions: grad, vjp, jvp and what is built of them.

Each transform makes a Python function that derives while it is traced, and compiles that function. So transforms nest
(`grad(grad(f))`, `hvp` of a `grad`), may be used inside other traced functions, accept compiled functions, and their
results are compiled functions like any other: for numpy arrays and torch tensors alike, differentiable by torch
autograd where the arguments ask for it.

Inside a trace, the function to be differentiated is called on fresh inputs in the places of the differentiated
arguments; its graph is derived with respect to those, and they are then replaced by the actual values. Fresh inputs
keep the perturbations of nested derivatives apart: a value the function sees by closure is a constant to it, even
where it is an expression of the argument.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from tgc import trees
from tgc.api import Compiled, jit
from tgc.errors import DerivativeError, DTypeError, ShapeError
from tgc.ir import dtypes
from tgc.ir.nodes import (
    DERIVATIVES,
    DIFFERENTIABLE_FOLDS,
    Call,
    Fold,
    Graph,
    Leaf,
    Node,
    inputs_below,
)
from tgc.ir.rewrite import substitute
from tgc.ir.sizes import product
from tgc.pipeline import Pipeline
from tgc.trace.abstract import container_of
from tgc.trace.core import array, lift
from tgc.trace.state import active, current
from tgc.trace.tracer import Tracer

Function = Callable[..., Any]
P = ParamSpec("P")
T = TypeVar("T")
_PIPELINE = Pipeline()


# --- a function as a graph, inside a trace --------------------------------------------------------


@dataclass(frozen=True)
class Local:
    """A call inside a trace, as a graph over fresh inputs.

    Attributes:
        graph: from the differentiated leaves (its first inputs) to the float leaves of the result.
        actual: the values those fresh inputs stand for.
        definition: structure of the result; `results` are all its leaves, over the fresh inputs.
        floats: positions of the graph's outputs among `results`.
    """

    graph: Graph
    actual: tuple[Tracer, ...]
    definition: trees.TreeDef
    results: tuple[Any, ...]
    floats: tuple[int, ...]

    @property
    def given(self) -> dict[Node, Node]:
        """What to put for the fresh inputs."""
        return {leaf: t.node for leaf, t in zip(self.graph.inputs, self.actual)}

    def settle(self, node: Node) -> Node:
        """A node over the fresh inputs as one over the actual values."""
        graph = Graph(self.graph.name, self.graph.inputs, (node,), self.graph.builder)
        return substitute(graph, self.given).outputs[0]

    def value(self, position: int) -> Any:
        """A leaf of the result over the actual values."""
        leaf = self.results[position]
        if not isinstance(leaf, Tracer):
            return leaf
        return Tracer(self.settle(leaf.node), leaf.container, leaf.device)

    def values(self) -> Any:
        """The result over the actual values."""
        return trees.unflatten(self.definition, [self.value(i) for i in range(len(self.results))])


def local(
    function: Function, args: tuple[Any, ...], argnums: tuple[int, ...], kwargs: Any
) -> Local:
    """Call `function` with fresh inputs for the float arrays of the arguments `argnums`."""
    trace = current()
    actual: list[Tracer] = []
    fresh: list[Leaf] = []
    arguments = list(args)
    for number in argnums:
        leaves, definition = trees.flatten((args[number],))
        made = []
        for leaf in leaves:
            tracer = _float_tracer(leaf, number)
            node = trace.builder.input(trace.unique("at"), tracer.node.dtype, tracer.node.shape)
            actual.append(tracer)
            fresh.append(node)
            made.append(Tracer(node, tracer.container, tracer.device))
        (arguments[number],) = trees.unflatten(definition, made)
    out = function(*arguments, **kwargs)
    results, structure = trees.flatten((out,))
    results = [_lifted(leaf) for leaf in results]
    floats = tuple(
        i for i, r in enumerate(results) if isinstance(r, Tracer) and r.node.dtype.is_float
    )
    outputs = tuple(results[i].node for i in floats)
    inputs = dict.fromkeys([*fresh, *inputs_below(outputs)])
    graph = trace.builder.graph(_name(function), tuple(inputs), outputs)
    return Local(graph, tuple(actual), structure.children[0], tuple(results), floats)


def _lifted(leaf: Any) -> Any:
    """A result that is an array or a number, as a traced value."""
    return array_of(leaf) if container_of(leaf) is not None else leaf


def array_of(value: Any) -> Tracer:
    """A traced value: an array or a tensor met while tracing is lifted, a number becomes a constant."""
    return array(lift(value))


def _float_tracer(leaf: Any, number: int) -> Tracer:
    tracer = array_of(leaf)
    if not tracer.node.dtype.is_float:
        raise DTypeError(
            f"the derivative with respect to argument {number} needs floats, not {tracer.node.dtype.name}",
            line=current().error_line(),
            hint="pass a float, or choose other arguments with argnums",
        )
    return tracer


def _name(function: Function) -> str:
    if not callable(function):
        raise TypeError(f"a transform takes a function, not {type(function).__name__}")
    name = getattr(function, "__name__", "f")
    return name if name.isidentifier() else "f"


def _numbers(argnums: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Positions of the differentiated arguments; negative ones count from the end.

    Raises:
        DerivativeError: there is no such argument.
    """
    wanted = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    for number in wanted:
        if not -count <= number < count:
            raise DerivativeError(
                f"there is no argument {number}: the function was called with {count} positional arguments",
                hint="arguments to differentiate by are passed by position",
            )
    return tuple(number % count for number in wanted)


def _one_of(node: Node) -> Node:
    """The cotangent 1 of a scalar result."""
    return current().builder.like(node, 1.0)


def _derivative(kind: str, site: Local, seeds: Sequence[Node], like: Sequence[Node]) -> list[Node]:
    """The results of a call of `DERIVATIVES`, of the types of `like`, over the actual values.

    They wait to be written out until something is compiled; what may turn out to have no derivative does not wait, so
    that the error is raised where the derivative is taken.
    """
    trace = current()
    given, wrt = site.given, tuple(range(len(site.actual)))
    args = [*(given.get(leaf, leaf) for leaf in site.graph.inputs), *seeds]
    params = {"graph": site.graph, "wrt": wrt}
    calls = [
        trace.builder.call(kind, *args, dtype=n.dtype, shape=n.shape, params=params, output=k)
        for k, n in enumerate(like)
    ]
    if trace.derive is not None and _differentiable(site.graph):
        return calls
    whole = trace.builder.graph(site.graph.name, inputs_below(tuple(calls)), tuple(calls))
    return list(_PIPELINE.derived(whole).outputs)


def _differentiable(graph: Graph) -> bool:
    """Whether every operation has a derivative rule."""
    for node in graph:
        if isinstance(node, Fold) and (node.mode, node.monoid) not in DIFFERENTIABLE_FOLDS:
            return False
        if isinstance(node, Call) and node.name not in DERIVATIVES:
            return False
    return True


def _pull(site: Local, cotangents: Sequence[Node]) -> list[Tracer]:
    """The cotangents of the differentiated leaves."""
    nodes = _derivative("vjp", site, cotangents, [t.node for t in site.actual])
    return [Tracer(n, t.container, t.device) for n, t in zip(nodes, site.actual)]


def _split(values: Sequence[Any], args: tuple[Any, ...], numbers: Sequence[int]) -> tuple[Any, ...]:
    """Flat values in the structures of the arguments `numbers`."""
    rest, out = list(values), []
    for number in numbers:
        _, definition = trees.flatten((args[number],))
        out.append(trees.unflatten(definition, rest[: definition.leaves])[0])
        del rest[: definition.leaves]
    return tuple(out)


def _compiled(function: Function, of: Function, suffix: str) -> Compiled:
    """Compile a transform of `of`, named after it."""
    functools.update_wrapper(function, of, updated=())
    function.__name__ = f"{_name(of)}_{suffix}"
    return jit(function)


def _remembered(make: Callable[P, T]) -> Callable[P, T]:
    """Transform a function once, as long as it can be a key: `grad(f)(x)` in a loop then derives and compiles once."""
    cached = functools.lru_cache(maxsize=128, typed=True)(make)

    @functools.wraps(make)
    def find(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            hash((args, tuple(kwargs.values())))
        except TypeError:
            return make(*args, **kwargs)
        return cached(*args, **kwargs)  # type: ignore[arg-type]

    return find


# --- first derivatives ----------------------------------------------------------------------------


@_remembered
def value_and_grad(
    f: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Compiled:
    """A function that returns `(f(...), gradient)`.

    Args:
        f: returns a scalar (a 0-d array, or one element); with `has_aux`, a pair of that and anything else.
        argnums: the argument, or arguments, to differentiate by. One gives a gradient of its structure, several a
            tuple of gradients.
    """

    def both(*args: Any, **kwargs: Any) -> Any:
        numbers = _numbers(argnums, len(args))
        site = local(f, args, numbers, kwargs)
        position = _scalar_result(site, has_aux)
        result = site.results[position].node
        slopes = _split(_pull(_only(site, position), [_one_of(result)]), args, numbers)
        slope = slopes[0] if isinstance(argnums, int) else slopes
        return site.values(), slope

    return _compiled(both, f, "value_and_grad")


def _only(site: Local, position: int) -> Local:
    """The same call with one result differentiated."""
    graph = Graph(
        site.graph.name, site.graph.inputs, (site.results[position].node,), site.graph.builder
    )
    return Local(graph, site.actual, site.definition, site.results, (position,))


def _scalar_result(site: Local, has_aux: bool) -> int:
    """The position of the result to differentiate.

    Raises:
        ShapeError, DTypeError, DerivativeError: it is not one float.
    """
    line = current().error_line()
    if has_aux and (site.definition.kind != "tuple" or len(site.definition.children) != 2):
        raise DerivativeError("with has_aux, the function returns (value, aux)", line=line)
    value = site.definition.children[0] if has_aux else site.definition
    if value != trees.LEAF:
        raise DerivativeError(
            "a gradient needs a function that returns one scalar",
            line=line,
            hint="has_aux=True for (value, aux); tgc.vjp for several results",
        )
    leaf = site.results[0]
    if not isinstance(leaf, Tracer) or not leaf.node.dtype.is_float:
        raise DTypeError("a gradient needs a float result", line=line)
    if any(d != 1 for d in leaf.node.shape):
        raise ShapeError(
            f"a gradient needs a scalar result, not shape {leaf.node.shape}",
            line=line,
            hint="sum it (tgc.sum), or use tgc.vjp or tgc.jacrev",
        )
    return 0


@_remembered
def grad(f: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Compiled:
    """The gradient of a scalar function; with `has_aux`, `(gradient, aux)`. See `value_and_grad`."""
    both = value_and_grad(f, argnums, has_aux).function

    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, slope = both(*args, **kwargs)
        return (slope, value[1]) if has_aux else slope

    return _compiled(gradient, f, "grad")


def vjp(f: Function, *primals: Any) -> tuple[Any, Function]:
    """`(f(*primals), pull)`, where `pull(cotangent)` is the tuple of cotangents of the primals.

    `cotangent` has the structure and shapes of the result.
    """
    if active() is not None:
        return _vjp_traced(f, primals)
    out = _value(f)(*primals)
    pullback = _pullback(f)
    return out, lambda cotangent: pullback(primals, cotangent)


def _vjp_traced(f: Function, primals: tuple[Any, ...]) -> tuple[Any, Function]:
    numbers = tuple(range(len(primals)))
    site = local(f, primals, numbers, {})

    def pull(cotangent: Any) -> Any:
        return _split(_pull(site, _seeds(site, cotangent)), primals, numbers)

    return site.values(), pull


def _seeds(site: Local, cotangent: Any) -> list[Node]:
    """The cotangents of the float results.

    Raises:
        DerivativeError, ShapeError: they do not have the result's structure and shapes.
    """
    leaves, definition = trees.flatten((cotangent,))
    if definition.children[0] != site.definition:
        raise DerivativeError(
            f"the cotangent has structure {definition.children[0]}, the result {site.definition}",
            line=current().error_line(),
        )
    return [_matching(leaves[i], site.results[i].node, "cotangent") for i in site.floats]


def _matching(value: Any, node: Node, what: str) -> Node:
    """A tangent or cotangent for a value, in its dtype."""
    found = array_of(value).node
    if found.shape != node.shape:
        raise ShapeError(
            f"the {what} has shape {found.shape}, its value {node.shape}",
            line=current().error_line(),
        )
    return current().builder.cast(found, node.dtype)


def jvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """`(f(*primals), its derivative along tangents)`; tangents have the structure and shapes of the primals."""
    if len(primals) != len(tangents):
        raise DerivativeError(f"{len(primals)} primals and {len(tangents)} tangents")
    out: tuple[Any, Any] = _pushforward(f)(tuple(primals), tuple(tangents))
    return out


def _push(f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """`jvp` inside a trace."""
    site = local(f, primals, tuple(range(len(primals))), {})
    leaves, _ = trees.flatten(tangents)
    if len(leaves) != len(site.actual):
        raise DerivativeError(f"{len(site.actual)} primal arrays and {len(leaves)} tangents")
    along = [_matching(v, t.node, "tangent") for v, t in zip(leaves, site.actual)]
    nodes = _derivative("jvp", site, along, site.graph.outputs)
    results: list[Any] = []
    moved = dict(zip(site.floats, nodes))
    for i, leaf in enumerate(site.results):
        if i in moved:
            results.append(Tracer(moved[i], leaf.container, leaf.device))
        elif isinstance(leaf, Tracer):
            results.append(
                Tracer(current().builder.like(leaf.node, 0), leaf.container, leaf.device)
            )
        else:
            results.append(leaf)
    return site.values(), trees.unflatten(site.definition, results)


@_remembered
def _value(f: Function) -> Compiled:
    return f if isinstance(f, Compiled) else jit(f)


@_remembered
def _pullback(f: Function) -> Compiled:
    def pullback(primals: tuple[Any, ...], cotangent: Any) -> Any:
        return _vjp_traced(f, primals)[1](cotangent)

    return _compiled_over(pullback, f, "vjp")


@_remembered
def _pushforward(f: Function) -> Compiled:
    def pushforward(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        return _push(f, primals, tangents)

    return _compiled_over(pushforward, f, "jvp")


def _compiled_over(function: Function, of: Function, suffix: str) -> Compiled:
    """Compile a transform whose own arguments differ from those of `of`."""
    function.__name__ = function.__qualname__ = f"{_name(of)}_{suffix}"
    return jit(function)


# --- second derivatives and Jacobians -------------------------------------------------------------


def hvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The Hessian of a scalar function times the tangents: for one primal its product, for several a tuple."""
    products = _hessian_product(f)(tuple(primals), tuple(tangents))
    return products[0] if len(primals) == 1 else products


@_remembered
def _hessian_product(f: Function) -> Compiled:
    def product_of(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        slopes = grad(f, tuple(range(len(primals)))).function
        return _push(slopes, primals, tangents)[1]

    return _compiled_over(product_of, f, "hvp")


@_remembered
def jacrev(f: Function, argnums: int | Sequence[int] = 0) -> Compiled:
    """The Jacobian by reverse mode, one pullback per element of the result; shape: the result's, then the argument's.

    The number of elements becomes part of the program: this is for results of few elements.
    """

    def jacobian(*args: Any, **kwargs: Any) -> Any:
        numbers = _numbers(argnums, len(args))
        site = local(f, args, numbers, kwargs)
        out = _array_result(site)
        rows = [[t.node for t in _pull(site, [e])] for e in _basis(out)]
        blocks = [
            _stacked([row[k] for row in rows], (*out.shape, *t.node.shape), first=True)
            for k, t in enumerate(site.actual)
        ]
        made = [Tracer(b, t.container, t.device) for b, t in zip(blocks, site.actual)]
        jacobians = _split(made, args, numbers)
        return jacobians[0] if isinstance(argnums, int) else jacobians

    return _compiled(jacobian, f, "jacrev")


@_remembered
def jacfwd(f: Function, argnums: int | Sequence[int] = 0) -> Compiled:
    """The Jacobian by forward mode, one tangent per element of the argument; otherwise as `jacrev`."""

    def jacobian(*args: Any, **kwargs: Any) -> Any:
        numbers = _numbers(argnums, len(args))
        found = [_forward_columns(f, args, number, kwargs) for number in numbers]
        return found[0] if isinstance(argnums, int) else tuple(found)

    return _compiled(jacobian, f, "jacfwd")


def _forward_columns(f: Function, args: tuple[Any, ...], number: int, kwargs: Any) -> Any:
    point = _float_tracer(args[number], number)

    def along(x: Any) -> Any:
        return f(*args[:number], x, *args[number + 1 :], **kwargs)

    columns: list[Node] = []
    result: Any = None
    for direction in _basis(point.node):
        result = _push(along, (point,), (Tracer(direction, point.container, point.device),))[1]
        columns.append(array_of(result).node)
    shape = (*columns[0].shape, *point.node.shape)
    return Tracer(_stacked(columns, shape, first=False), result.container, result.device)


@_remembered
def hessian(f: Function, argnums: int = 0) -> Compiled:
    """The matrix of second derivatives of a scalar function of one array: forward over reverse."""
    made = jacfwd(grad(f, argnums).function, argnums).function
    return _compiled(lambda *args, **kwargs: made(*args, **kwargs), f, "hessian")


@_remembered
def laplacian(f: Function, argnums: int = 0) -> Compiled:
    """The sum of the second derivatives of a scalar function with respect to each element of one array."""
    slope = grad(f, argnums).function

    def trace_of_hessian(*args: Any, **kwargs: Any) -> Any:
        (number,) = _numbers(argnums, len(args))
        point = _float_tracer(args[number], number)

        def along(x: Any) -> Any:
            return slope(*args[:number], x, *args[number + 1 :], **kwargs)

        builder = current().builder
        total: Node | None = None
        for e in _basis(point.node):
            moved = _push(along, (point,), (Tracer(e, point.container, point.device),))[1]
            masked = builder.map("mul", array_of(moved).node, e)
            term = builder.fold("sum", masked, axes=tuple(range(masked.ndim)))
            total = term if total is None else builder.map("add", total, term)
        if total is None:
            total = builder.const(0.0, point.node.dtype)
        return Tracer(total, point.container, point.device)

    return _compiled(trace_of_hessian, f, "laplacian")


@_remembered
def derivative(f: Function, n: int, argnums: int = 0) -> Compiled:
    """The n-th derivative of a function of one real variable, applied elementwise: `f` keeps its argument's shape.

    Each element of the result is differentiated by the element of the argument at the same place.
    """
    if n < 0:
        raise DerivativeError(f"there is no derivative of order {n}")
    found = f
    for _ in range(n):
        found = _elementwise(found, argnums)
    last = found
    return _compiled(lambda *args, **kwargs: last(*args, **kwargs), f, f"derivative_{n}")


def _elementwise(f: Function, argnum: int) -> Function:
    def slope(*args: Any, **kwargs: Any) -> Any:
        numbers = _numbers(argnum, len(args))
        site = local(f, args, numbers, kwargs)
        out = _array_result(site)
        if out.shape != site.actual[0].node.shape:
            raise ShapeError(
                f"an elementwise derivative needs a result of the argument's shape "
                f"{site.actual[0].node.shape}, not {out.shape}",
                line=current().error_line(),
                hint="tgc.jacrev gives the derivative of every element by every other",
            )
        return _pull(site, [_one_of(out)])[0]

    return slope


def _array_result(site: Local) -> Node:
    """The node of a result that is one float array."""
    if site.definition != trees.LEAF or site.floats != (0,):
        raise DerivativeError(
            "this derivative needs a function that returns one float array",
            line=current().error_line(),
        )
    node: Node = site.results[0].node
    return node


def _basis(node: Node) -> list[Node]:
    """The unit arrays of a node's shape, in row-major order."""
    trace = current()
    builder, sizes = trace.builder, trace.sizes
    extents = [d if isinstance(d, int) else sizes.fix(d) for d in node.shape]
    count = 1
    for extent in extents:
        count *= extent
    number: Node = builder.const(0, dtypes.int64, node.shape)
    stride = count
    for axis, extent in enumerate(extents):
        stride = stride // extent if extent else 0
        step = builder.const(stride, dtypes.int64, node.shape)
        place = builder.map("mul", builder.iota(axis, node.shape), step)
        number = place if axis == 0 else builder.map("add", number, place)
    one, zero = builder.like(node, 1.0), builder.like(node, 0.0)
    return [
        builder.map("where", builder.map("eq", number, builder.like(number, k)), one, zero)
        for k in range(count)
    ]


def _stacked(nodes: Sequence[Node], shape: tuple[Any, ...], *, first: bool) -> Node:
    """Nodes of one shape joined along a new first (or last) axis, then given `shape`: a selection between them."""
    builder = current().builder
    inner = nodes[0].shape
    whole = (len(nodes), *inner) if first else (*inner, len(nodes))
    axis = 0 if first else len(inner)
    dims = tuple(range(1, len(inner) + 1)) if first else tuple(range(len(inner)))
    number = builder.iota(axis, whole)
    joined = builder.broadcast(nodes[-1], shape=whole, dims=dims)
    for k, node in reversed(list(enumerate(nodes[:-1]))):
        here = builder.map("eq", number, builder.like(number, k))
        joined = builder.map("where", here, builder.broadcast(node, shape=whole, dims=dims), joined)
    assert product(whole) == product(shape) or current().sizes.same(product(whole), product(shape))
    return builder.reshape(joined, shape=shape)
