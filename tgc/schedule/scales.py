"""Constants around the products of a library: they multiply what a kernel computes for it anyway.

Algebra takes constants out of sums. Behind a library's product such a constant would be a kernel of its own, which
reads the whole product again; before it, the kernel that computes a factor multiplies once more in its registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tgc.ir.nodes import Fold, Graph, Map, Node, View
from tgc.ir.rewrite import remake, users
from tgc.schedule.contraction import contraction
from tgc.simplify.multiples import Multiple


def absorb_scales(graph: Graph) -> Graph:
    """The same function: where all that is made of a value is k * sum(value * ...), the value is multiplied by k."""
    above = users(graph)
    kept = {*graph.outputs, *(value for _, value in graph.writes)}
    scales: dict[Node, float] = {}
    unscaled: dict[Node, Node] = {}  # what stands for each k * sum
    for node in graph.nodes():
        if not isinstance(node, Map) or not node.dtype.is_float or node in kept:
            continue
        sums = list(_sums(node, above))
        if not any(contraction(s) for s in sums if s) or len(set(sums)) != len(sums):
            continue  # a product of the value with itself would have the factor twice
        if any(s is None or s in kept or len(above[s]) != 1 for s in sums):
            continue
        found = {above[s][0]: s for s in sums if s is not None}
        multiples = {total: Multiple.of(total) for total in found}
        factors = {m.k for m in multiples.values()}
        if factors == {1.0} or len(factors) != 1 or unscaled.keys() & found.keys():
            continue
        if all(multiples[total].node is s for total, s in found.items()):
            scales[node] = factors.pop()
            unscaled |= found
    if not scales:
        return graph

    def visit(node: Node, done: Mapping[Node, Node]) -> Node | None:
        if node in unscaled:
            return done[unscaled[node]]
        if node not in scales:
            return None
        new = graph.builder.remake(node, tuple(done[a] for a in node.args))
        return graph.builder.map("mul", graph.builder.like(new, scales[node]), new)

    return remake(graph, visit)


def _sums(node: Node, above: Mapping[Node, list[Node]]) -> Iterator[Node | None]:
    """The sums of a value, and of its products with something else; None for all else that is made of it."""
    for user in above[node]:
        if isinstance(user, View):
            yield from _sums(user, above)
        elif isinstance(user, Fold):
            is_sum = user.monoid == "sum" and user.mode == "reduce" and contraction(user) is None
            yield user if is_sum else None
        else:
            sole = above[user][0] if len(above[user]) == 1 else None
            yield sole if sole is not None and contraction(sole) is not None else None
