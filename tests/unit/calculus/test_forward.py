"""Forward mode against reverse mode and torch.func."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from tests.support.random_graphs import Case, graphs
from tgc.calculus import forward
from tgc.calculus.forward import jvp
from tgc.calculus.reverse import vjp
from tgc.errors import DerivativeError
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.evaluate import evaluate
from tgc.ir.verify import verify

F8 = dtypes.float64


@settings(max_examples=120)
@given(graphs(smooth=True), st.integers(0, 99))
def test_forward_and_reverse_are_transposes(case: Case, seed: int) -> None:
    """<g, J t> == <J' g, t>, on smooth graphs, where both are linear in g and t."""
    graph, arrays = case.graph, list(case.arrays)
    wrt = tuple(range(len(arrays)))
    pushed, pulled = jvp(graph, wrt), vjp(graph, wrt)
    verify(pushed, "jvp")
    rng = np.random.default_rng(seed)
    tangents = [rng.normal(size=a.shape) for a in arrays]
    count = len(graph.outputs)
    results = evaluate(pushed, [*arrays, *tangents])
    for mine, plain in zip(results[:count], evaluate(graph, arrays), strict=True):
        assert np.array_equal(mine, plain, equal_nan=True)
    seeds = [rng.normal(size=r.shape) for r in results[count:]]
    left = sum(float((s * r).sum()) for s, r in zip(seeds, results[count:], strict=True))
    cotangents = evaluate(pulled, [*arrays, *seeds])
    right = sum(float((c * t).sum()) for c, t in zip(cotangents, tangents, strict=True))
    scale = sum(float(np.abs(c * t).sum()) for c, t in zip(cotangents, tangents, strict=True))
    assert left == pytest.approx(right, rel=1e-9, abs=1e-9 * max(scale, 1.0))


@pytest.mark.parametrize("monoid", ["sum", "prod", "max", "min"])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_folds(monoid: str, axes: tuple[int, ...]) -> None:
    g = Builder()
    x = g.input("x", F8, (3, 4))
    graph = g.graph("f", (x,), (g.fold(monoid, x, axes=axes),))
    rng = np.random.default_rng(0)
    value, tangent = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    value[1, 2] = 0
    value[0] = value[2]  # ties along the first axis
    seed = rng.normal(size=evaluate(graph, [value])[0].shape)
    pushed = evaluate(jvp(graph, (0,)), [value, tangent])[1]
    pulled = evaluate(vjp(graph, (0,)), [value, seed])[0]
    assert float((pushed * seed).sum()) == pytest.approx(float((pulled * tangent).sum()))


def test_scans_and_gathers() -> None:
    g = Builder()
    x, i = g.input("x", F8, (3, 4)), g.input("i", dtypes.int64, (3, 2))
    running = g.fold("sum", x, axes=(1,), mode="scan", reverse=True)
    taken = g.take(running, i, axis=1)
    graph = g.graph("f", (x, i), (g.map("sin", g.put(taken, i, axis=1, extent=6)),))
    rng = np.random.default_rng(0)
    value, tangent, seed = rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), rng.normal(size=(3, 6))
    places = np.array([[0, 0], [3, 1], [2, 3]])
    pushed = evaluate(jvp(graph, (0,)), [value, places, tangent])[1]
    pulled = evaluate(vjp(graph, (0,)), [value, places, seed])[0]
    assert float((pushed * seed).sum()) == pytest.approx(float((pulled * tangent).sum()))


def test_an_untaken_branch_gives_no_nan() -> None:
    g = Builder()
    x = g.input("x", F8, (3,))
    mask = g.map("gt", x, g.like(x, 0))
    graph = g.graph("f", (x,), (g.map("where", mask, g.map("sqrt", x), g.like(x, 0)),))
    slope = evaluate(jvp(graph, (0,)), [np.array([-1.0, 0.0, 4.0]), np.ones(3)])[1]
    assert slope.tolist() == [0.0, 0.0, 0.25]


def test_hessian_vector_product_is_forward_over_reverse() -> None:
    g = Builder()
    x = g.input("x", F8, (3,))
    graph = g.graph(
        "f", (x,), (g.fold("sum", g.map("mul", g.map("sin", x), g.map("exp", x)), axes=(0,)),)
    )
    gradient = vjp(graph, (0,))
    product = jvp(gradient, (0,))
    value, direction = np.array([0.1, -0.4, 1.2]), np.array([1.0, 2.0, -1.0])
    got = evaluate(product, [value, np.ones(()), direction])[1]
    assert got == pytest.approx(2 * np.exp(value) * np.cos(value) * direction)


def test_names_zero_tangents_and_types() -> None:
    g = Builder()
    x, t = g.input("x", F8, (2,)), g.input("t_x", F8, (2,))
    count = g.input("n", dtypes.int64, (2,))
    graph = g.graph("f", (x, t, count), (g.map("floor", x), g.map("neg", count), g.map("neg", t)))
    pushed = jvp(graph, (0,))
    assert [leaf.source.name for leaf in pushed.inputs] == ["x", "t_x", "n", "tt_x"]  # type: ignore[union-attr]
    assert len(pushed.outputs) == 5  # the integer output has no tangent
    arrays = [np.ones(2), np.ones(2), np.ones(2, int), np.ones(2)]
    assert [v.tolist() for v in evaluate(pushed, arrays)[3:]] == [[0, 0], [0, 0]]


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    g = Builder()
    x = g.input("x", F8, (4,))
    ordered = g.call("sort", x, dtype=F8, shape=(4,), params={"axis": 0})
    with pytest.raises(DerivativeError, match="no derivative of sort"):
        jvp(g.graph("f", (x,), (ordered,)), (0,))
    monkeypatch.setattr(forward, "MAX_NODES", 3)
    with pytest.raises(DerivativeError, match="more than 3 nodes"):
        jvp(g.graph("f", (x,), (g.map("tanh", g.map("sin", x)),)), (0,))
