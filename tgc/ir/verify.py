"""What must hold of every graph, checked after every pass.

Each check is small and says what it found; `verify` adds the name of the pass and the printed lines around the node,
so that a broken pass is found where it broke something and not three stages later.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec

from tgc.errors import ShapeError, VerifyError
from tgc.ir import dtypes
from tgc.ir.build import const_key, moved_shape, result_dtype
from tgc.ir.dtypes import DType
from tgc.ir.nodes import (
    BASIC_MONOIDS,
    Broadcast,
    Call,
    Const,
    Fold,
    Graph,
    Input,
    Iota,
    Leaf,
    Map,
    Monoid,
    Node,
    Pad,
    Put,
    Shape,
    Slice,
    Take,
    View,
)
from tgc.ir.ops import OPS
from tgc.ir.sizes import Dim, Size
from tgc.ir.text import printed_lines
from tgc.settings import current

P = ParamSpec("P")

NODE_BUDGET = 50_000
"""More nodes than this mean a pass that blows graphs up."""

MODES = ("reduce", "scan", "sequential")
_CONTEXT = 3


def verify(graph: Graph, after: str, *, budget: int = NODE_BUDGET) -> None:
    """Check every invariant of a graph.

    Args:
        after: the pass that made it, for the message.

    Raises:
        VerifyError: names the pass, what does not hold, and the lines around it.
    """
    for node, problem in problems(graph, budget):
        where = "" if node is None else f" at {node!r}"
        context = _neighbours(graph, node)
        raise VerifyError(
            f"after {after}: {problem}{where}" + (f"\n{context}" if context else ""),
            line=None if node is None else node.line,
        )


def verified(run: Callable[P, Graph]) -> Callable[P, Graph]:
    """A pass with its result verified after it runs, unless the settings say no."""

    @functools.wraps(run)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Graph:
        graph = run(*args, **kwargs)
        if current().verify:
            verify(graph, run.__name__)
        return graph

    return checked


def problems(graph: Graph, budget: int = NODE_BUDGET) -> Iterator[tuple[Node | None, str]]:
    """Everything wrong with a graph, as (node, text)."""
    nodes = graph.nodes()
    if len(nodes) > budget:
        yield None, f"{len(nodes)} nodes are over the budget of {budget}"
        return
    yield from _interface(graph, nodes)
    yield from _effects(graph)
    for node in nodes:
        if any(arg.id >= node.id for arg in node.args):
            yield node, "an argument is not older than its user"
        for problem in _node(node):
            yield node, problem


def _neighbours(graph: Graph, node: Node | None) -> str:
    """The printed lines around `node`, marked; nothing where the graph is too broken to print."""
    try:
        lines = printed_lines(graph)
    except (AttributeError, TypeError, KeyError, ValueError):
        return ""
    at = next((i for i, (made, _) in enumerate(lines) if made is node and node is not None), None)
    if at is None:
        return ""
    span = range(max(0, at - _CONTEXT), min(len(lines), at + _CONTEXT + 1))
    return "\n".join(("  > " if i == at else "    ") + lines[i][1] for i in span)


# --- the function's interface -----------------------------------------------------------------------------------------


def _interface(graph: Graph, nodes: list[Node]) -> Iterator[tuple[Node | None, str]]:
    names: set[str] = set()
    for leaf in graph.inputs:
        if not isinstance(leaf, Leaf) or not isinstance(leaf.source, Input):
            yield leaf, "an input is not an Input leaf"
            continue
        if leaf.source.name in names:
            yield leaf, f"two inputs are named {leaf.source.name!r}"
        names.add(leaf.source.name)
    listed = set(graph.inputs)
    for node in nodes:
        if isinstance(node, Leaf) and isinstance(node.source, Input) and node not in listed:
            yield node, f"input {node.source.name!r} is reached but not listed"


def _effects(graph: Graph) -> Iterator[tuple[Node | None, str]]:
    listed, written = set(graph.inputs), set()
    for leaf, value in graph.writes:
        if leaf not in listed:
            yield leaf, "a write goes to something that is no input"
        if leaf in written:
            yield leaf, "an input is written twice"
        if (leaf.dtype, leaf.shape) != (value.dtype, value.shape):
            yield value, f"a value of {value!r} is written to {leaf!r}"
        written.add(leaf)
    for index, leaf in graph.aliases:
        if not 0 <= index < len(graph.outputs):
            yield None, f"an alias names output {index} of {len(graph.outputs)}"
        elif leaf not in listed:
            yield leaf, "an output aliases something that is no input"
        elif graph.outputs[index].dtype is not leaf.dtype:
            yield graph.outputs[index], "an output aliases an input of another dtype"


# --- nodes ------------------------------------------------------------------------------------------------------------


def _node(node: Node) -> Iterator[str]:
    if any(isinstance(extent, int) and extent < 0 for extent in node.shape):
        yield f"a negative extent in {node.shape}"
    if node.dtype not in dtypes.DTYPES:
        yield f"no such dtype: {node.dtype}"
    if isinstance(node, Leaf):
        yield from _leaf(node)
    elif isinstance(node, Map):
        yield from _map(node)
    elif isinstance(node, View):
        yield from _view(node)
    elif isinstance(node, Fold):
        yield from _fold(node)
    elif isinstance(node, (Take, Put)):
        yield from _gather(node)
    elif not isinstance(node, Call):
        yield f"{type(node).__name__} is no kind of node"


def _typed(node: Node, dtype: DType, shape: Shape) -> Iterator[str]:
    if node.dtype is not dtype:
        yield f"the dtype is {node.dtype}, inferred {dtype}"
    if node.shape != shape:
        yield f"the shape is {node.shape}, inferred {shape}"


def _leaf(node: Leaf) -> Iterator[str]:
    source = node.source
    if node.args:
        yield "a leaf has arguments"
    if isinstance(source, Iota):
        if not 0 <= source.axis < node.ndim:
            yield f"an iota along axis {source.axis} of {node.ndim}"
        if node.dtype.kind not in ("int", "uint"):
            yield f"an iota of dtype {node.dtype}"
    elif isinstance(source, Const):
        expected = float if node.dtype.is_float else bool if node.dtype is dtypes.bool_ else int
        if not isinstance(source.value, (expected, Size)):
            yield f"a constant of dtype {node.dtype} holds {source.value!r}"
        elif source.key != const_key(source.value, node.dtype):
            yield f"a constant's key {source.key!r} is not that of {source.value!r}"
    elif not isinstance(source, Input):
        yield f"no source of a leaf: {source!r}"


def _map(node: Map) -> Iterator[str]:
    spec = OPS.get(node.op)
    if spec is None:
        yield f"no operation {node.op!r} in the table"
        return
    if len(node.args) != spec.arity:
        yield f"{node.op} takes {spec.arity} operands, not {len(node.args)}"
        return
    if any(arg.shape != node.shape for arg in node.args):
        yield f"{node.op}: operands of shapes {', '.join(str(arg.shape) for arg in node.args)}"
    values = node.args[1:] if node.op == "where" else node.args
    if node.op == "where" and node.args[0].dtype is not dtypes.bool_:
        yield "where: the condition is not bool"
    if any(value.dtype is not values[0].dtype for value in values):
        yield f"{node.op}: operands of dtypes {', '.join(value.dtype.name for value in values)}"
    if values[0].dtype.kind not in spec.accepts:
        yield f"{node.op} is not defined for {values[0].dtype.name}"
    if spec.result != "cast":
        yield from _typed(node, result_dtype(spec, values[0].dtype), node.shape)
    elif node.dtype is values[0].dtype:
        yield "a cast to the type it has"


def _view(node: View) -> Iterator[str]:
    x, movement = node.args[0], node.movement
    try:
        yield from _typed(node, x.dtype, moved_shape(x.shape, movement))
    except ShapeError as error:
        yield error.message
        return
    if isinstance(movement, Slice):
        for start, stop, step, extent in zip(movement.start, movement.stop, movement.step, x.shape):
            if step < 1 or _less(start, 0) or _less(stop, start) or _less(extent, stop):
                yield f"slice {start}:{stop}:{step} of an axis of extent {extent}"
    if isinstance(movement, Pad):
        if any(_less(n, 0) for n in (*movement.before, *movement.after, *movement.interior)):
            yield "a negative pad"
    if isinstance(movement, Broadcast) and node.shape != movement.shape:
        yield "a broadcast to another shape than it says"


def _less(a: Dim, b: Dim) -> bool:
    """a < b where both are known."""
    difference = a - b
    return isinstance(difference, int) and difference < 0


def _fold(node: Fold) -> Iterator[str]:
    x = node.args[0]
    if node.mode not in MODES:
        yield f"no mode of a fold: {node.mode!r}"
    if (
        list(node.axes) != sorted(set(node.axes))
        or not all(0 <= a < x.ndim for a in node.axes)
        or not node.axes
    ):
        yield f"axes {node.axes} of a value of {x.ndim} dimensions"
        return
    if any(arg.shape != x.shape for arg in node.args):
        yield "a fold over operands of different shapes"
    shape = (
        tuple(d for i, d in enumerate(x.shape) if i not in node.axes)
        if node.mode == "reduce"
        else x.shape
    )
    if isinstance(node.monoid, Monoid):
        yield from _monoid(node, node.monoid, shape)
    else:
        yield from _basic(node, node.monoid, shape)


def _basic(node: Fold, monoid: str, shape: Shape) -> Iterator[str]:
    x = node.args[0]
    if monoid not in BASIC_MONOIDS:
        yield f"no monoid {monoid!r}"
    if len(node.args) != 1 or node.output != 0:
        yield f"{monoid} takes one operand and has one result"
    if monoid in ("any", "all") and x.dtype is not dtypes.bool_:
        yield f"{monoid} of {x.dtype.name}"
    if monoid in ("sum", "prod") and x.dtype is dtypes.bool_:
        yield f"{monoid} of bool: cast to an integer first"
    if node.mode == "sequential":
        yield f"{monoid} has no step"
    yield from _typed(node, x.dtype, shape)


def _monoid(node: Fold, monoid: Monoid, shape: Shape) -> Iterator[str]:
    merge, count = monoid.merge, len(monoid.init)
    if len(merge.outputs) != count:
        yield f"{monoid.name} has {count} starting values and {len(merge.outputs)} carries"
        return
    if not 0 <= node.output < count:
        yield f"result {node.output} of a fold with {count}"
        return
    if len(merge.inputs) != count + len(node.args) or (
        node.mode != "sequential" and len(node.args) != count
    ):
        yield f"{monoid.name} takes {len(merge.inputs)} values, for {count} carries and {len(node.args)} operands"
        return
    wanted = [root.dtype for root in merge.outputs] + [arg.dtype for arg in node.args]
    for leaf, dtype in zip(merge.inputs, wanted, strict=True):
        if leaf.dtype is not dtype or leaf.shape:
            yield f"{monoid.name}: {leaf!r} receives a scalar of {dtype}"
    for inner, problem in problems(merge):
        yield f"in {monoid.name}: {problem} at {inner!r}"
    yield from _typed(node, merge.outputs[node.output].dtype, shape)


def _gather(node: Take | Put) -> Iterator[str]:
    x, index = node.args
    axis = node.axis
    if index.dtype.kind not in ("int", "uint"):
        yield f"an index of dtype {index.dtype.name}"
    if x.ndim != index.ndim or not 0 <= axis < x.ndim:
        yield f"gather of {x.shape} by {index.shape} along axis {axis}"
        return
    if isinstance(node, Take):
        if _without(x.shape, axis) != _without(index.shape, axis):
            yield f"value {x.shape} and index {index.shape} differ off axis {axis}"
        yield from _typed(node, x.dtype, index.shape)
        return
    if x.shape != index.shape:
        yield f"value {x.shape} is put at index {index.shape}"
    yield from _typed(node, x.dtype, (*x.shape[:axis], node.shape[axis], *x.shape[axis + 1 :]))


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]
