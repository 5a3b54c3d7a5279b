"""Multiples of a value: one form for what is proportional, and sums whose order matters keep it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.support.random_graphs import Case, equal, graphs
from tests.unit.simplify.test_algebra import graph_of, shown
from tgc.ir.evaluate import evaluate
from tgc.ir.nodes import Graph
from tgc.simplify.run import simplify


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("mul(a, mul(3, b))", "mul(3.0, mul(a, b))"),
        ("div(a, mul(a, div(b, 4)))", "div(a, mul(0.25, mul(a, b)))"),
        ("sub(mul(4, a), mul(2, b))", "mul(2.0, sub(mul(2.0, a), b))"),
        ("add(mul(-2, a), mul(4, b))", "mul(-2.0, sub(a, mul(2.0, b)))"),
        ("sub(mul(-3, a), b)", "neg(add(b, mul(3.0, a)))"),
        ("add(mul(3, a), mul(2, a))", "mul(5.0, a)"),
        ("sub(neg(a), mul(2, a))", "mul(-3.0, a)"),
        ("add(add(a, b), b)", "add(a, mul(2.0, b))"),
        ("sub(sub(a, b), b)", "sub(a, mul(2.0, b))"),
        ("add(sub(a, b), a)", "sub(mul(2.0, a), b)"),
        ("sub(b, sub(a, mul(3, b)))", "sub(mul(4.0, b), a)"),
        ("div(div(a, c), div(b, c))", "div(a, b)"),
        ("mul(a, div(b, 3))", "mul(0.333333333333, mul(a, b))"),
        ("mul(mul(a, div(b, 1.4142135623730951)), 1.4142135623730951)", "mul(a, b)"),
    ],
)
def test_normal_forms(text: str, want: str) -> None:
    assert shown(simplify(graph_of(text))) == want


@pytest.mark.parametrize(
    "text",
    [
        "sub(sub(add(a, b), a), b)",  # what a sum has lost
        "sub(add(a, b), a)",
        "sub(sub(a, mul(0.693359375, b)), mul(0.000212194440, b))",  # an argument reduced in two steps
        "add(mul(0.1, a), mul(0.3, b))",
        "sub(a, a)",
        "sub(mul(3, a), a)",  # NaN for an infinite a
    ],
)
def test_sums_that_cancel_stay(text: str) -> None:
    graph = graph_of(text)
    assert shown(simplify(graph)) == shown(graph)


def test_what_is_proportional_is_one_value() -> None:
    """cos x - 2 x sin x and 4 x sin x - 2 cos x, as the derivative of a product brings them."""
    texts = ("sub(a, mul(2, mul(b, c)))", "sub(mul(b, mul(4, c)), mul(2, a))")
    first, second = (shown(simplify(graph_of(text))) for text in texts)
    assert second == f"mul(-2.0, {first})" or second == f"mul(2.0, {_swapped(first)})"


def _swapped(text: str) -> str:
    a, _, b = text.removeprefix("sub(").removesuffix(")").partition(", ")
    return f"sub({b}, {a})"


@settings(max_examples=150)
@given(graphs(smooth=True, size=12))
def test_values_stay(case: Case) -> None:
    graph: Graph = simplify(case.graph)
    assert equal(evaluate(graph, case.arrays), evaluate(case.graph, case.arrays), 1e-9)
