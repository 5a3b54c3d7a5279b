"""Precision made explicit: half types are computed in float32, and every rounding is a cast in the graph.

In mode "fused" a value is rounded to its half type only where the user's program shows it: at the function's results
and where the program converts it. What is computed in between does not depend on how it is fused. In mode "eager"
every operation rounds, as separate kernels would. Folds accumulate in float32 in both.
"""

from __future__ import annotations

from dataclasses import replace

from tgc.ir.build import Builder
from tgc.ir.dtypes import DType
from tgc.ir.nodes import Call, Const, Fold, Graph, Input, Leaf, Map, Monoid, Node, reachable
from tgc.ir.verify import verified

MODES = ("fused", "eager")


@verified
def legalize(graph: Graph, mode: str = "fused") -> Graph:
    """The same function with half types only in inputs, in results and in casts.

    Args:
        mode: "fused" or "eager"; see the module.

    Raises:
        ValueError: for another mode.
    """
    if mode not in MODES:
        raise ValueError(f"precision is one of {', '.join(MODES)}, not {mode!r}")
    roots = (*graph.outputs, *(value for _, value in graph.writes))
    if not any(node.dtype.is_half for node in reachable(roots)):
        return graph
    widening = _Widening(graph.builder, eager=mode == "eager")
    outputs = tuple(widening.visible(node) for node in graph.outputs)
    writes = tuple((leaf, widening.visible(value)) for leaf, value in graph.writes)
    return replace(graph, outputs=outputs, writes=writes)


class _Widening:
    """Maps each node to one of its compute dtype."""

    def __init__(self, builder: Builder, *, eager: bool) -> None:
        self.builder, self.eager = builder, eager
        self.done: dict[Node, Node] = {}
        self.monoids: dict[Monoid, Monoid] = {}

    def visible(self, root: Node) -> Node:
        """The value of `root`, rounded to its own dtype."""
        for node in reachable((root,)):
            if node not in self.done:
                with self.builder.at(node.line):
                    self.done[node] = self._wide(node)
                if node in self.builder.names:
                    self.builder.names.setdefault(self.done[node], self.builder.names[node])
        wide = self.done[root]
        if wide.dtype is root.dtype:
            return wide
        if isinstance(wide, Map) and wide.op == "cast" and wide.args[0].dtype is root.dtype:
            return wide.args[0]
        return self.builder.cast(wide, root.dtype)

    def _wide(self, node: Node) -> Node:
        if isinstance(node, Leaf):
            return self._leaf(node)
        args = tuple(self.done[arg] for arg in node.args)
        if isinstance(node, Map) and node.op == "cast":
            return self._cast(args[0], node.args[0].dtype, node.dtype)
        if isinstance(node, Fold) and isinstance(node.monoid, Monoid):
            wide = self.builder.fold(
                self._monoid(node.monoid),
                *args,
                axes=node.axes,
                mode=node.mode,
                output=node.output,
                reverse=node.reverse,
            )
        elif isinstance(node, Call):
            wide = self.builder.call(
                node.name,
                *args,
                dtype=node.dtype.compute,
                shape=node.shape,
                params=dict(node.params),
                output=node.output,
            )
        else:
            wide = self.builder.remake(node, args)
        computes = isinstance(node, (Map, Fold, Call))
        return self._rounded(wide, node.dtype) if self.eager and computes else wide

    def _leaf(self, leaf: Leaf) -> Node:
        if not leaf.dtype.is_half:
            return leaf
        if isinstance(leaf.source, Const):
            return self.builder.const(leaf.source.value, leaf.dtype.compute, leaf.shape)
        assert isinstance(leaf.source, Input), "an iota is an integer"
        return self.builder.cast(leaf, leaf.dtype.compute)

    def _cast(self, x: Node, source: DType, target: DType) -> Node:
        """A conversion in the user's program shows both the value it converts and its result."""
        return self._rounded(self.builder.cast(self._rounded(x, source), target.compute), target)

    def _rounded(self, x: Node, dtype: DType) -> Node:
        """`x` rounded to a half type, held in float32."""
        if not dtype.is_half or _holds(x, dtype):
            return x
        return self.builder.cast(self.builder.cast(x, dtype), dtype.compute)

    def _monoid(self, monoid: Monoid) -> Monoid:
        if monoid not in self.monoids:
            self.monoids[monoid] = _wide_monoid(monoid)
        return self.monoids[monoid]


def _holds(x: Node, dtype: DType) -> bool:
    """x was just converted from `dtype`, so it needs no rounding."""
    return isinstance(x, Map) and x.op == "cast" and x.args[0].dtype is dtype


def _wide_monoid(monoid: Monoid) -> Monoid:
    """The monoid with half types replaced by the type they are computed in."""
    merge = monoid.merge
    if not any(node.dtype.is_half for node in (*merge.inputs, *merge.nodes())):
        return monoid
    builder = Builder()
    done: dict[Node, Node] = {}
    for leaf in merge.inputs:
        assert isinstance(leaf.source, Input)
        done[leaf] = builder.input(leaf.source.name, leaf.dtype.compute, leaf.shape)
    for node in merge.nodes():
        if node in done:
            continue
        if isinstance(node, Leaf) and isinstance(node.source, Const):
            done[node] = builder.const(node.source.value, node.dtype.compute, node.shape)
            continue
        args = tuple(done[arg] for arg in node.args)
        is_cast = isinstance(node, Map) and node.op == "cast"
        done[node] = (
            builder.cast(args[0], node.dtype.compute) if is_cast else builder.remake(node, args)
        )
    inputs = tuple(leaf for leaf in builder.inputs())
    graph = builder.graph(merge.name, inputs, tuple(done[root] for root in merge.outputs))
    return replace(monoid, merge=graph)
