"""Contraction: a product and the sum it goes into become one operation that rounds once, where processors have it.

What a user may rely on stays:

- Where two products meet, both are rounded: a b - c d is 0 where they are equal, as sqrt(x x - y y) needs at x = y and
  the second derivative of a softmax where one term is all of the sum, and a b + c d does not depend on the order of its
  terms. A product by a power of two is exact and counts as none.
- A product that something besides sums reads, an output or another operation, is rounded for all of them alike.
- The terms of a fold are rounded before it adds them up.

What is decided here holds wherever a value is computed: in vectors, in what is left behind them, in every program and
on any number of threads. A result is as accurate or more so, and a product that overflows alone may come closer to the
exact value. Precision "eager", which asks for every rounding, does without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.nodes import Graph, Map, Node, View
from tgc.ir.rewrite import remake, users
from tgc.ir.verify import verified
from tgc.simplify.patterns import constant


class _Pair(NamedTuple):
    """The operands of a sum: a product, which comes first or not, and the other."""

    product: Map
    other: Node
    first: bool


@verified
def contract(graph: Graph) -> Graph:
    """The same function with products absorbed by the sums that alone read them, as `fma`."""
    readers = users(graph)
    seen = {*graph.outputs, *(value for _, value in graph.writes)}
    pairs = {node: pair for node in graph.nodes() if (pair := _pair(node)) is not None}

    def absorbed(product: Node) -> bool:
        return product not in seen and all(
            user in pairs and pairs[user].product is product for user in readers[product]
        )

    def visit(node: Node, done: Mapping[Node, Node]) -> Node | None:
        pair = pairs.get(node)
        return (
            None
            if pair is None or not absorbed(pair.product)
            else _fused(graph.builder, node, pair, done)
        )

    return remake(graph, visit)


def _pair(node: Node) -> _Pair | None:
    """The product a sum may absorb: one that is rounded, unless both are, rather than one that is exact."""
    if not isinstance(node, Map) or node.op not in ("add", "sub"):
        return None
    if node.dtype not in (dtypes.float32, dtypes.float64):
        return None
    a, b = node.args
    products = [x for x in (a, b) if _is_product(x)]
    rounded = [x for x in (a, b) if _is_rounded(x)]
    if not products or len(rounded) > 1:
        return None
    product = next((x for x in rounded if x in products), products[0])
    assert isinstance(product, Map)
    return _Pair(product, b if product is a else a, product is a)


def _is_product(node: Node) -> bool:
    return isinstance(node, Map) and node.op in ("mul", "square")


def _is_rounded(node: Node) -> bool:
    """A product that is not exact, as one by a power of two is; also one repeated along axes, or its negative."""
    while isinstance(node, View) or (isinstance(node, Map) and node.op == "neg"):
        node = node.args[0]
    values = [constant(x) for x in node.args]
    exact = any(v is not None and abs(math.frexp(v)[0]) == 0.5 for v in values)
    return _is_product(node) and not exact


def _fused(builder: Builder, node: Node, pair: _Pair, done: Mapping[Node, Node]) -> Node:
    """The sum as a b + c, its signs moved into the operands."""
    a, b = (done[x] for x in (pair.product.args * 2)[:2])
    c = done[pair.other]
    if isinstance(node, Map) and node.op == "sub":
        if pair.first:
            c = _negated(builder, c)
        elif constant(b) is not None:
            b = _negated(builder, b)
        else:
            a = _negated(builder, a)
    return builder.map("fma", a, b, c)


def _negated(builder: Builder, node: Node) -> Node:
    value = constant(node)
    return builder.map("neg", node) if value is None else builder.like(node, -value)
