"""Simplified forms are as differentiable as what they replace: to third order, also at kinks of |x| and at zero."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings

from tests.support.expression_graphs import expression_graph
from tests.support.random_graphs import Case, equal, graphs
from tests.unit.simplify.test_stability import exponentials, truth
from tgc.calculus.reverse import vjp
from tgc.ir import dtypes
from tgc.ir.evaluate import evaluate
from tgc.ir.nodes import Graph
from tgc.simplify.patterns import Rule
from tgc.simplify.run import simplify
from tgc.simplify.stability import RULES

POINTS = np.array([-3.0, -1.0, -0.5, -1e-3, 0.0, 1e-3, 0.3, 1.0, 2.7])


def differentiated(graph: Graph, order: int) -> Graph:
    """The derivative by the first input, simplified before and after each differentiation."""
    graph = simplify(graph)
    for _ in range(order):
        graph = simplify(vjp(graph, (0,)))
    return graph


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_rules_keep_derivatives(rule: Rule, order: int) -> None:
    x = POINTS[POINTS < 0] if rule.name == "log(1-exp)" else POINTS
    if rule.name in ("log1p", "log1p of negative"):
        x = x[np.abs(x) < 1]
    with mpmath.workdps(50):
        want = [
            float(mpmath.diff(lambda t: truth(rule.root, t), mpmath.mpf(float(v)), order))
            for v in x
        ]
    graph = differentiated(expression_graph(rule.pattern, {"a": dtypes.float64}), order)
    seeds = [np.ones_like(x)] * (len(graph.inputs) - 1)
    np.testing.assert_allclose(evaluate(graph, [x, *seeds])[0], want, rtol=1e-9, atol=1e-11)


@settings(max_examples=100)
@given(graphs(smooth=True, size=8))
def test_simplifying_first_gives_the_same_gradient(case: Case) -> None:
    seeds = [np.ones_like(y) for y in evaluate(case.graph, case.arrays)]
    plain = vjp(case.graph, (0,))
    stable = simplify(vjp(simplify(case.graph), (0,)))
    want = evaluate(plain, [*case.arrays, *seeds])
    assert equal(evaluate(stable, [*case.arrays, *seeds]), want, 1e-9)


@pytest.mark.parametrize("shape", ["softmax", "logsumexp", "log_softmax"])
def test_the_shift_does_not_change_the_gradient(shape: str) -> None:
    graph = exponentials(shape)
    x = np.random.default_rng(0).normal(size=(4, 6))
    (y,) = evaluate(graph, [x])
    seed = np.random.default_rng(1).normal(size=y.shape)
    want = evaluate(vjp(graph, (0,)), [x, seed])
    got = evaluate(simplify(vjp(simplify(graph), (0,))), [x, seed])
    assert equal(got, want, 1e-12)
