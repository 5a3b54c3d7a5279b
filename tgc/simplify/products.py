"""Products that share factors are multiplied in an order in which they share products.

2 x a, 2 x b and x x c are six multiplications as they are written, and five where 2 x is made once. Constants count as
factors, so that a multiple which several products need is made once. A quotient stays one factor: a / h may be of
ordinary size where neither 1 / h nor g a is. This is the last rewrite before operations are expanded: derivatives and
algebra want one order, constants outermost (see `multiples`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tgc.ir.nodes import Graph, Map, Node
from tgc.ir.rewrite import remake, users
from tgc.simplify.patterns import constant

Pair = tuple[int, int]

MOST = 16
"""Factors of a product that are looked at."""


def share_products(graph: Graph) -> Graph:
    """The same function with fewer multiplications: each product has the factors it had."""
    sharing = _Sharing()
    products = {node: sharing.product(factors) for node, factors in _products(graph).items()}
    changed = sharing.run(list(products.values()))
    if not changed:
        return graph
    builder = graph.builder
    made: dict[int, Node] = {}

    def times(a: Node, b: Node) -> Node:
        if a is b:
            return builder.map("square", a)
        return builder.map("mul", *sorted((a, b), key=lambda x: (constant(x) is None, x.id)))

    def visit(node: Node, done: Mapping[Node, Node]) -> Node | None:
        def value(number: int) -> Node:
            factor = sharing.factors[number]
            if isinstance(factor, Node):
                return done[factor]
            if number not in made:
                made[number] = times(value(factor[0]), value(factor[1]))
            return made[number]

        if node not in products or id(products[node]) not in changed:
            return None
        values = [value(number) for number in sorted(products[node].elements())]
        result, *others = sorted(values, key=lambda x: constant(x) is not None)
        for other in others:
            result = times(result, other)
        return result

    return remake(graph, visit)


def _products(graph: Graph) -> dict[Node, list[Node]]:
    """The factors of each product of floats that is not itself a factor of one product alone."""
    readers = users(graph)
    seen = {*graph.outputs, *(value for _, value in graph.writes)}

    def is_factor(node: Node) -> bool:
        reader = readers[node][0] if len(readers[node]) == 1 else None
        return (
            _is_product(node)
            and node not in seen
            and isinstance(reader, Map)
            and reader.op == "mul"
        )

    def factors(node: Node) -> list[Node]:
        found: list[Node] = []
        open_ = [*(node.args * 2)[:2]]
        while open_:
            arg = open_.pop()
            if is_factor(arg) and len(found) + len(open_) < MOST:
                open_ += (arg.args * 2)[:2]
            else:
                found.append(arg)
        return found

    return {n: factors(n) for n in graph.nodes() if _is_product(n) and not is_factor(n)}


def _is_product(node: Node) -> bool:
    return isinstance(node, Map) and node.op in ("mul", "square") and node.dtype.is_float


@dataclass
class _Sharing:
    """Greedy search for pairs that several products have: the most frequent first, then the oldest.

    Attributes:
        factors: by number, values of the graph and pairs of numbers.
    """

    factors: list[Node | Pair] = field(default_factory=list)
    numbers: dict[Node | Pair, int] = field(default_factory=dict)

    def product(self, factors: list[Node]) -> Counter[int]:
        """A product as numbers of factors, with how often each occurs."""
        return Counter(self._number(f) for f in factors)

    def run(self, products: list[Counter[int]]) -> set[int]:
        """Put one factor for each pair found, in place; the ids of the products that changed."""
        counts: Counter[Pair] = Counter()
        for product in products:
            counts.update(self._pairs(product))
        changed = set[int]()
        while counts:
            pair = max(counts, key=lambda p: (counts[p], -p[0], -p[1]))
            if counts[pair] < 2:
                break
            number = self._number(pair)
            for product in products:
                if product[pair[0]] and product[pair[1]] and (times := self._pairs(product)[pair]):
                    counts -= self._pairs(product)
                    product.subtract({pair[0]: times})
                    product.subtract({pair[1]: times})
                    product[number] += times
                    product += Counter()
                    counts.update(self._pairs(product))
                    changed.add(id(product))
        return changed

    def _number(self, factor: Node | Pair) -> int:
        if factor not in self.numbers:
            self.numbers[factor] = len(self.factors)
            self.factors.append(factor)
        return self.numbers[factor]

    def _pairs(self, product: Counter[int]) -> Counter[Pair]:
        """How often each pair of factors can be taken out."""
        found = Counter[Pair]()
        numbers = sorted(product)
        for i, a in enumerate(numbers):
            if product[a] > 1:
                found[a, a] = product[a] // 2
            for b in numbers[i + 1 :]:
                found[a, b] = min(product[a], product[b])
        return found
