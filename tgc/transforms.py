"""Derivatives of functions: grad, vjp, jvp and what is built of them.

Each transform makes a Python function that derives while it is traced, and compiles that function. So transforms nest
(`grad(grad(f))`, `hvp` of a `grad`), may be used inside other traced functions, accept compiled functions, and their
results are compiled functions like any other: for numpy arrays and torch tensors alike, differentiable by torch
autograd where the arguments ask for it. What is differentiated is a call on fresh inputs: see sites.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from tgc import sites, trees
from tgc.api import Compiled, jit
from tgc.errors import DerivativeError, DTypeError, ShapeError
from tgc.ir import dtypes
from tgc.ir.nodes import Node
from tgc.ir.sizes import product
from tgc.sites import Function, Site, array_of, float_tracer, name_of, over
from tgc.trace.state import active, current
from tgc.trace.tracer import Tracer

P = ParamSpec("P")
T = TypeVar("T")


# --- arguments and functions ------------------------------------------------------------------------


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
    function.__name__ = f"{name_of(of)}_{suffix}"
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

    Raises (when it is called):
        DTypeError: the value, or a leaf of these arguments, is no float.
        ShapeError: the value has more than one element.
        DerivativeError: `f` returns several values, or an operation has no derivative.
    """

    def both(*args: Any, **kwargs: Any) -> Any:
        numbers = _numbers(argnums, len(args))
        site = sites.call(f, args, numbers, kwargs)
        one = current().builder.like(_scalar_result(site, has_aux), 1.0)
        slopes = _split(site.only(0).pull([one]), args, numbers)
        slope = slopes[0] if isinstance(argnums, int) else slopes
        return site.values(), slope

    return _compiled(both, f, "value_and_grad")


def _scalar_result(site: Site, has_aux: bool) -> Node:
    """The result to differentiate, the first leaf of all.

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
    return leaf.node


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

    `cotangent` has the structure and shapes of the result; else `pull` raises DerivativeError or ShapeError.
    """
    if active() is not None:
        return _vjp_traced(f, primals)
    out = _value(f)(*primals)
    pullback = _pullback(f)
    return out, lambda cotangent: pullback(primals, cotangent)


def _vjp_traced(f: Function, primals: tuple[Any, ...]) -> tuple[Any, Function]:
    numbers = tuple(range(len(primals)))
    site = sites.call(f, primals, numbers, {})

    def pull(cotangent: Any) -> Any:
        return _split(site.pull(_seeds(site, cotangent)), primals, numbers)

    return site.values(), pull


def _seeds(site: Site, cotangent: Any) -> list[Node]:
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
    """`(f(*primals), its derivative along tangents)`; tangents have the structure and shapes of the primals.

    Raises:
        DerivativeError, ShapeError: they have not.
    """
    if len(primals) != len(tangents):
        raise DerivativeError(f"{len(primals)} primals and {len(tangents)} tangents")
    out: tuple[Any, Any] = _pushforward(f)(tuple(primals), tuple(tangents))
    return out


def _push(f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """`jvp` inside a trace."""
    site = sites.call(f, primals, tuple(range(len(primals))), {})
    leaves, _ = trees.flatten(tangents)
    if len(leaves) != len(site.actual):
        raise DerivativeError(f"{len(site.actual)} primal arrays and {len(leaves)} tangents")
    along = [_matching(v, t.node, "tangent") for v, t in zip(leaves, site.actual)]
    return site.values(), site.push(along)


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
    function.__name__ = function.__qualname__ = f"{name_of(of)}_{suffix}"
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

    The number of elements becomes part of the program: this is for results of few elements. One float array is
    differentiated; anything else raises DerivativeError.
    """

    def jacobian(*args: Any, **kwargs: Any) -> Any:
        numbers = _numbers(argnums, len(args))
        site = sites.call(f, args, numbers, kwargs)
        out = _array_result(site)
        rows = [[t.node for t in site.pull([e])] for e in _basis(out)]
        blocks = [
            _stacked([row[k] for row in rows], (*out.shape, *t.node.shape), first=True)
            for k, t in enumerate(site.actual)
        ]
        made = [over(b, t) for b, t in zip(blocks, site.actual)]
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
    point = float_tracer(args[number], number)

    along = _along(f, args, number, kwargs)
    columns: list[Node] = []
    result: Any = None
    for direction in _basis(point.node):
        result = _push(along, (point,), (over(direction, point),))[1]
        columns.append(array_of(result).node)
    shape = (*columns[0].shape, *point.node.shape)
    return over(_stacked(columns, shape, first=False), result)


def _along(f: Function, args: tuple[Any, ...], number: int, kwargs: Any) -> Function:
    """`f` of one argument, the others as they are."""
    return lambda x: f(*args[:number], x, *args[number + 1 :], **kwargs)


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
        point = float_tracer(args[number], number)

        along = _along(slope, args, number, kwargs)
        builder = current().builder
        total: Node | None = None
        for e in _basis(point.node):
            moved = _push(along, (point,), (over(e, point),))[1]
            masked = builder.map("mul", array_of(moved).node, e)
            term = builder.fold("sum", masked, axes=tuple(range(masked.ndim)))
            total = term if total is None else builder.map("add", total, term)
        if total is None:
            total = builder.const(0.0, point.node.dtype)
        return over(total, point)

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
        site = sites.call(f, args, numbers, kwargs)
        out = _array_result(site)
        if out.shape != site.actual[0].node.shape:
            raise ShapeError(
                f"an elementwise derivative needs a result of the argument's shape "
                f"{site.actual[0].node.shape}, not {out.shape}",
                line=current().error_line(),
                hint="tgc.jacrev gives the derivative of every element by every other",
            )
        return site.pull([current().builder.like(out, 1.0)])[0]

    return slope


def _array_result(site: Site) -> Node:
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
    count = math.prod(extents)
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
