"""Products that share factors: fewer multiplications, the same values."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings

from tests.support.random_graphs import Case, equal, graphs
from tgc.ir.build import Builder
from tgc.ir.evaluate import evaluate
from tgc.ir.expressions import parse
from tgc.ir.nodes import Graph, Map
from tgc.simplify.products import share_products
from tgc.simplify.rewriter import build_expression


def several(*texts: str, dtype: str = "f64") -> Graph:
    """One output per text, of the operands a, b, c and d."""
    g = Builder()
    (n,) = g.sizes("n")
    bindings = {name: g.input(name, dtype, (n,)) for name in "abcd"}
    outputs = tuple(
        build_expression(g.map, g.like, parse(text), bindings, bindings["a"]) for text in texts
    )
    return g.graph("f", tuple(bindings.values()), outputs)


def work(graph: Graph) -> int:
    """Multiplications, with four for a division."""
    counts = Counter(node.op for node in graph.nodes() if isinstance(node, Map))
    return counts["mul"] + counts["square"] + 4 * counts["div"]


@pytest.mark.parametrize(
    ("texts", "before", "after"),
    [
        (("mul(2, mul(a, b))", "mul(2, mul(a, c))"), 4, 3),
        (("mul(a, mul(b, c))", "mul(b, mul(a, d))"), 4, 3),
        (("mul(a, mul(a, b))", "mul(a, mul(a, c))"), 4, 3),
        (("mul(a, mul(a, mul(a, a)))",), 3, 2),
        (("mul(a, b)", "mul(c, mul(a, mul(b, d)))"), 4, 3),
        (("exp(mul(a, mul(b, c)))", "sin(mul(c, mul(d, b)))", "mul(b, c)"), 4, 3),
        (("mul(a, b)", "mul(c, d)"), 2, 2),
        (("mul(square(a), b)", "mul(square(a), c)"), 3, 3),
        (("exp(mul(a, b))", "mul(exp(mul(a, b)), c)"), 2, 2),
        (("mul(a, div(b, c))", "mul(a, div(d, c))"), 10, 10),
    ],
)
def test_shared_factors_are_multiplied_once(
    texts: tuple[str, ...], before: int, after: int
) -> None:
    graph = several(*texts)
    shared = share_products(graph)
    assert (work(graph), work(shared)) == (before, after)
    arrays = np.random.default_rng(0).normal(size=(4, 50))
    for got, want in zip(evaluate(shared, arrays), evaluate(graph, arrays)):
        np.testing.assert_allclose(got, want, rtol=1e-13)


def test_a_graph_without_shared_factors_is_the_same_graph() -> None:
    graph = several("mul(a, mul(b, c))", "exp(mul(3, d))")
    assert share_products(graph) is graph


def test_integers_wrap_as_they_did() -> None:
    graph = several("mul(a, mul(b, c))", "mul(a, mul(c, d))", dtype="i32")
    assert share_products(graph) is graph


def test_a_product_of_thousands_ends() -> None:
    g = Builder()
    (n,) = g.sizes("n")
    x, y = g.input("x", "f64", (n,)), g.input("y", "f64", (n,))
    value = x
    for _ in range(3000):
        value = g.map("mul", g.map("mul", value, y), x)
    graph = g.graph("f", (x, y), (value,))
    arrays = [np.array([1.0, -1.0, 1.0001]), np.array([1.0, 1.0, 0.9999])]
    got, want = evaluate(share_products(graph), arrays)[0], evaluate(graph, arrays)[0]
    np.testing.assert_allclose(got, want, rtol=1e-11)


@settings(max_examples=150)
@given(graphs(smooth=True, size=14))
def test_values_stay_and_work_does_not_grow(case: Case) -> None:
    shared = share_products(case.graph)
    assert work(shared) <= work(case.graph)
    assert equal(evaluate(shared, case.arrays), evaluate(case.graph, case.arrays), 1e-9)
