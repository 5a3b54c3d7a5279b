"""A call that is differentiated: a function as a graph over fresh inputs, inside a trace.

The function is called on fresh inputs in the places of the differentiated arguments; its graph is derived with respect
to those, and they are then replaced by the actual values. Fresh inputs keep the perturbations of nested derivatives
apart: a value the function sees by closure is a constant to it, even where it is an expression of the argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tgc import trees
from tgc.errors import DTypeError
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
from tgc.pipeline import Pipeline
from tgc.trace.abstract import container_of
from tgc.trace.core import array, lift
from tgc.trace.state import current
from tgc.trace.tracer import Tracer

Function = Callable[..., Any]
_PIPELINE = Pipeline()


@dataclass(frozen=True)
class Site:
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

    def values(self) -> Any:
        """The result over the actual values."""
        return trees.unflatten(self.definition, [self._value(leaf) for leaf in self.results])

    def only(self, position: int) -> Site:
        """The same call with one result differentiated."""
        graph = replace(self.graph, outputs=(self.results[position].node,))
        return replace(self, graph=graph, floats=(position,))

    def pull(self, cotangents: Sequence[Node]) -> list[Tracer]:
        """The cotangents of the differentiated leaves, from those of the float results."""
        nodes = self._derivative("vjp", cotangents, [t.node for t in self.actual])
        return [over(n, t) for n, t in zip(nodes, self.actual)]

    def push(self, tangents: Sequence[Node]) -> Any:
        """The tangent of the result, in its structure, from those of the differentiated leaves."""
        nodes = self._derivative("jvp", tangents, self.graph.outputs)
        moved = dict(zip(self.floats, nodes))
        results, zero = list(self.results), current().builder.like
        for i, leaf in enumerate(results):
            if isinstance(leaf, Tracer):
                results[i] = over(moved[i] if i in moved else zero(leaf.node, 0), leaf)
        return trees.unflatten(self.definition, results)

    @property
    def _given(self) -> dict[Node, Node]:
        """What to put for the fresh inputs."""
        return {leaf: t.node for leaf, t in zip(self.graph.inputs, self.actual)}

    def _value(self, leaf: Any) -> Any:
        """A leaf of the result over the actual values."""
        if not isinstance(leaf, Tracer):
            return leaf
        graph = replace(self.graph, outputs=(leaf.node,))
        return over(substitute(graph, self._given).outputs[0], leaf)

    def _derivative(self, kind: str, seeds: Sequence[Node], like: Sequence[Node]) -> list[Node]:
        """The results of a call of `DERIVATIVES`, of the types of `like`, over the actual values.

        They wait to be written out until something is compiled; what may turn out to have no derivative does not wait,
        so that the error is raised where the derivative is taken.
        """
        trace = current()
        given, wrt = self._given, tuple(range(len(self.actual)))
        args = [*(given.get(leaf, leaf) for leaf in self.graph.inputs), *seeds]
        params = {"graph": self.graph, "wrt": wrt}
        calls = [
            trace.builder.call(kind, *args, dtype=n.dtype, shape=n.shape, params=params, output=k)
            for k, n in enumerate(like)
        ]
        if trace.derive is not None and _differentiable(self.graph):
            return calls
        whole = trace.builder.graph(self.graph.name, inputs_below(tuple(calls)), tuple(calls))
        return list(_PIPELINE.derived(whole).outputs)


def call(function: Function, args: tuple[Any, ...], argnums: tuple[int, ...], kwargs: Any) -> Site:
    """Call `function` with fresh inputs for the float arrays of the arguments `argnums`.

    Raises:
        DTypeError: a leaf of these arguments is no float.
        TypeError: `function` cannot be called.
    """
    trace = current()
    actual: list[Tracer] = []
    fresh: list[Leaf] = []
    arguments = list(args)
    for number in argnums:
        leaves, definition = trees.flatten((args[number],))
        made = []
        for leaf in leaves:
            tracer = float_tracer(leaf, number)
            node = trace.builder.input(trace.unique("at"), tracer.node.dtype, tracer.node.shape)
            actual.append(tracer)
            fresh.append(node)
            made.append(over(node, tracer))
        (arguments[number],) = trees.unflatten(definition, made)
    out = function(*arguments, **kwargs)
    leaves, structure = trees.flatten((out,))
    results = [array_of(leaf) if container_of(leaf) is not None else leaf for leaf in leaves]
    floats = tuple(
        i for i, r in enumerate(results) if isinstance(r, Tracer) and r.node.dtype.is_float
    )
    outputs = tuple(results[i].node for i in floats)
    inputs = dict.fromkeys([*fresh, *inputs_below(outputs)])
    graph = trace.builder.graph(name_of(function), tuple(inputs), outputs)
    return Site(graph, tuple(actual), structure.children[0], tuple(results), floats)


def over(node: Node, like: Tracer) -> Tracer:
    """A node as a traced value of the library and on the device of another."""
    return Tracer(node, like.container, like.device)


def array_of(value: Any) -> Tracer:
    """A traced value: an array or a tensor met while tracing is lifted, a number becomes a constant."""
    return array(lift(value))


def float_tracer(leaf: Any, number: int) -> Tracer:
    """An argument as a traced value.

    Raises:
        DTypeError: it is no float.
    """
    tracer = array_of(leaf)
    if not tracer.node.dtype.is_float:
        raise DTypeError(
            f"the derivative with respect to argument {number} needs floats, not {tracer.node.dtype.name}",
            line=current().error_line(),
            hint="pass a float, or choose other arguments with argnums",
        )
    return tracer


def name_of(function: Function) -> str:
    """A function's name, if a graph may have it."""
    if not callable(function):
        raise TypeError(f"a transform takes a function, not {type(function).__name__}")
    name = getattr(function, "__name__", "f")
    return name if name.isidentifier() else "f"


def _differentiable(graph: Graph) -> bool:
    """Whether every operation has a derivative rule."""
    for node in graph:
        if isinstance(node, Fold) and (node.mode, node.monoid) not in DIFFERENTIABLE_FOLDS:
            return False
        if isinstance(node, Call) and node.name not in DERIVATIVES:
            return False
    return True
