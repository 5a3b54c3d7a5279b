"""Chains: parts of a graph made of elementwise operations, with one way in and one way out.

A cotangent passes a chain as one product with the chain's derivative. That factor is made forward, from the way in to
the way out: a tangent of a node is made once, whatever comes after it uses it, and the next order differentiates
tangents of tangents. Taken apart from the outside, as reverse mode does, each order would see the last one's
expression inside out: the second derivative of a quotient of polynomials has twice the operations then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import replace
from functools import reduce

from tgc.calculus.cotangents import Cotangent, accumulate, negation, scaled, taken
from tgc.calculus.scalars import finite, partials
from tgc.ir.build import Builder
from tgc.ir.nodes import Map, Node


def tangent(g: Builder, node: Map, tangents: Sequence[Cotangent | None]) -> Cotangent | None:
    """The tangent of an elementwise operation from those of its operands; None is zero."""
    if node.op == "cast":
        first = tangents[0]
        return first and replace(first, value=g.cast(first.value, node.dtype))
    terms: list[Cotangent | None]
    if node.op == "where":
        mask = node.args[0]
        sides = ((tangents[1], mask), (tangents[2], negation(g, mask)))
        terms = [t and taken(g, t, side) for t, side in sides]
    else:
        terms = [
            None if t is None or p is None else scaled(g, t, p, finite=finite(node))
            for t, p in zip(tangents, partials(g, node))
        ]
    total: Cotangent | None = None
    for term in terms:
        if term is not None:
            total = term if total is None else accumulate(g, total, term)
    return total


class Chains:
    """The chains among the nodes of a graph that depend on what is differentiated by.

    `targets` is what is differentiated by, `wanted` are nodes whose own cotangent is needed: outputs.
    """

    def __init__(self, active: Set[Node], targets: Iterable[Node], wanted: Set[Node]) -> None:
        self.active = active
        self.wanted = wanted
        self.users: dict[Node, list[Node]] = {}
        self.above: dict[Node, Node | None] = dict.fromkeys(targets)
        """What every way from a target to a node passes last; None if nothing."""
        for node in sorted(active, key=lambda n: n.id):
            operands = self._operands(node)
            for arg in operands:
                self.users.setdefault(arg, []).append(node)
            if node not in self.above:
                ways: list[Node | None] = [*operands]
                self.above[node] = reduce(self._common, ways)

    def _common(self, a: Node | None, b: Node | None) -> Node | None:
        while a is not b and a is not None and b is not None:
            if a.id > b.id:
                a = self.above[a]
            else:
                b = self.above[b]
        return a if a is b else None

    def longest(self, end: Node) -> tuple[Node, list[Node]] | None:
        """The longest chain that ends in a node: its way in and its nodes in order; None if it is one operation."""
        if not _is_operation(end) or self.above[end] is None:
            return None
        inside, passed = {end}, [end]
        found: tuple[Node, int] | None = None
        frontier = self._operands(end)
        while frontier:
            node = max(frontier, key=lambda n: n.id)
            if len(frontier) == 1:
                found = (node, len(passed))
            if not self._passes(node, inside):
                break
            inside.add(node)
            passed.append(node)
            frontier = (frontier - {node}) | self._operands(node)
        if found is None or found[1] == 1:
            return None
        start, length = found
        return start, passed[:length][::-1]

    def _operands(self, node: Node) -> set[Node]:
        return {arg for arg in node.args if arg in self.active}

    def _passes(self, node: Node, inside: set[Node]) -> bool:
        """Whether a node is an operation that nothing outside the chain sees."""
        inner = _is_operation(node) and node not in self.wanted
        return inner and all(user in inside for user in self.users[node])


def _is_operation(node: Node) -> bool:
    """Elementwise, of one dtype."""
    return isinstance(node, Map) and node.op != "cast"


def derivative(g: Builder, start: Node, nodes: Sequence[Node]) -> Cotangent | None:
    """The derivative of the last node of a chain by its way in; None is zero."""
    found: dict[Node, Cotangent | None] = {start: Cotangent(g.like(start, 1))}
    for node in nodes:
        assert isinstance(node, Map)
        with g.at(node.line):
            found[node] = tangent(g, node, [found.get(a) for a in node.args])
    return found[nodes[-1]]
