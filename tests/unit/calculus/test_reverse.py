"""Reverse mode against torch.autograd in float64: values, traps, ties, zeros, and orders."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tests.support.random_graphs import Case, graphs
from tests.support.torch_walker import run
from tgc.calculus import reverse
from tgc.calculus.reverse import joint, vjp
from tgc.errors import DerivativeError
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.evaluate import evaluate
from tgc.ir.nodes import Fold, Graph, Leaf, Map, Monoid, Node, Put
from tgc.ir.sizes import Size
from tgc.ir.verify import verify

INF = float("inf")
F8 = dtypes.float64


def scalar(build: Callable[..., Node], *values: float) -> tuple[Graph, list[np.ndarray]]:
    """The graph of a function of vectors of length 1, and their values."""
    g = Builder()
    inputs = [g.input(n, F8, (1,)) for n in "abc"[: len(values)]]
    graph = g.graph("f", tuple(inputs), (build(g, *inputs),))
    return graph, [np.array([v]) for v in values]


def gradient(build: Callable[..., Node], *values: float) -> list[float]:
    """The derivative by each argument, at a cotangent of 1."""
    graph, arrays = scalar(build, *values)
    found = evaluate(vjp(graph, tuple(range(len(values)))), [*arrays, np.ones(1)])
    return [float(v[0]) for v in found]


def orders(build: Callable[..., Node], value: float, count: int) -> list[float]:
    """Derivatives 1 to `count` of a function of one number, each by vjp of the one before."""
    graph, arrays = scalar(build, value)
    found = []
    for _ in range(count):
        graph = vjp(graph, (0,))
        arrays.append(np.ones(1))
        found.append(float(evaluate(graph, arrays)[0][0]))
    return found


def autograd(
    graph: Graph, arrays: list[np.ndarray], seeds: list[np.ndarray]
) -> list[np.ndarray | None]:
    leaves = [torch.tensor(np.asarray(a), requires_grad=True) for a in arrays]
    outputs = run(graph, leaves)
    pairs = [(o, torch.tensor(s)) for o, s in zip(outputs, seeds) if o.requires_grad]
    if not pairs:
        return [None] * len(leaves)
    found = torch.autograd.grad(
        [o for o, _ in pairs], leaves, [s for _, s in pairs], allow_unused=True
    )
    return [None if t is None else t.numpy() for t in found]


def seeds_for(graph: Graph, arrays: list[np.ndarray], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=o.shape) for o in evaluate(graph, arrays, None)]


def agrees(got: np.ndarray, want: np.ndarray | None) -> bool:
    """Equal wherever torch has a finite number; where it has none, a number will do."""
    if want is None:
        return not got.any()
    here = np.isfinite(want)
    return np.allclose(got[here], want[here], rtol=1e-9, atol=1e-9)


def float_outputs(case: Case) -> Graph:
    graph = case.graph
    kept = tuple(o for o in graph.outputs if o.dtype is F8)
    return graph.builder.graph("f", graph.inputs, kept)


@settings(max_examples=150)
@given(graphs(empty=True), st.integers(0, 99))
def test_random_graphs_agree_with_autograd(case: Case, seed: int) -> None:
    graph, arrays = float_outputs(case), list(case.arrays)
    seeds = seeds_for(graph, arrays, seed)
    derived = vjp(graph, tuple(range(len(arrays))))
    verify(derived, "vjp")
    got = evaluate(derived, [*arrays, *seeds], None)  # casts to float32 round, as in torch
    for a, b in zip(got, autograd(graph, arrays, seeds), strict=True):
        assert agrees(a, b)


@settings(max_examples=60)
@given(graphs(size=8, smooth=True), st.integers(0, 99))
def test_second_derivatives_of_random_graphs(case: Case, seed: int) -> None:
    graph, arrays = float_outputs(case), list(case.arrays)
    first = vjp(graph, tuple(range(len(arrays))))
    seeds = seeds_for(graph, arrays, seed)
    second = vjp(first, tuple(range(len(first.inputs))))
    weights = seeds_for(first, [*arrays, *seeds], seed + 1)
    got = evaluate(second, [*arrays, *seeds, *weights])

    leaves = [torch.tensor(np.asarray(a), requires_grad=True) for a in [*arrays, *seeds]]
    outputs = [o + 0 * sum(x.sum() for x in leaves) for o in run(graph, leaves[: len(arrays)])]
    inner = torch.autograd.grad(
        outputs, leaves[: len(arrays)], leaves[len(arrays) :], create_graph=True
    )
    want = torch.autograd.grad(inner, leaves, [torch.tensor(w) for w in weights], allow_unused=True)
    for a, b in zip(got, want, strict=True):
        assert agrees(a, None if b is None else b.numpy())


def test_joint_shares_the_primal() -> None:
    graph, arrays = scalar(lambda g, x: g.map("exp", g.map("sin", x)), 0.3)
    both = joint(graph, (0,))
    assert both.inputs == vjp(graph, (0,)).inputs
    assert both.outputs == (*graph.outputs, *vjp(graph, (0,)).outputs)
    value, slope = evaluate(both, [*arrays, np.ones(1)])
    assert value[0] == pytest.approx(np.exp(np.sin(0.3)))
    assert slope[0] == pytest.approx(np.exp(np.sin(0.3)) * np.cos(0.3))


# --- masks ----------------------------------------------------------------------------------------------------------


def guarded(condition: str, branch: Callable[[Builder, Node], Node]) -> Callable[..., Node]:
    """where(x <condition> 0, branch(x), 0)."""

    def build(g: Builder, x: Node) -> Node:
        zero = g.like(x, 0)
        return g.map("where", g.map(condition, x, zero), branch(g, x), zero)

    return build


TRAPS: list[tuple[str, Callable[..., Node], tuple[float, ...], list[float]]] = [
    ("sqrt at 0", guarded("gt", lambda g, x: g.map("sqrt", x)), (0.0,), [0.0]),
    ("sqrt at -1", guarded("gt", lambda g, x: g.map("sqrt", x)), (-1.0,), [0.0]),
    ("log at 0", guarded("gt", lambda g, x: g.map("log", x)), (0.0,), [0.0]),
    ("1/x at 0", guarded("gt", lambda g, x: g.map("reciprocal", x)), (0.0,), [0.0]),
    ("x/x at 0", guarded("gt", lambda g, x: g.map("div", x, x)), (0.0,), [0.0]),
    ("log of log at 0", guarded("gt", lambda g, x: g.map("log", g.map("log", x))), (0.0,), [0.0]),
    ("sin(x)/x at 0", guarded("ne", lambda g, x: g.map("div", g.map("sin", x), x)), (0.0,), [0.0]),
    ("exp at 1000", guarded("lt", lambda g, x: g.map("exp", x)), (1000.0,), [0.0]),
    (
        "sqrt(x*x + y*y) at 0",
        lambda g, x, y: g.map("sqrt", g.map("add", g.map("mul", x, x), g.map("mul", y, y))),
        (0.0, 0.0),
        [0.0, 0.0],
    ),
    ("hypot at 0", lambda g, x, y: g.map("hypot", x, y), (0.0, 0.0), [0.0, 0.0]),
    ("abs at 0", lambda g, x: g.map("abs", x), (0.0,), [0.0]),
    ("max(x, 0) at 0", lambda g, x: g.map("maximum", x, g.like(x, 0)), (0.0,), [0.5]),
    ("clamp_min(x, 0) at 0", lambda g, x: g.map("clamp_min", x, g.like(x, 0)), (0.0,), [1.0]),
    ("relu at 0", lambda g, x: g.map("relu", x), (0.0,), [0.0]),
    ("x**0.5 at 0", lambda g, x: g.map("pow", x, g.like(x, 0.5)), (0.0,), [INF]),
    ("x**2 at 0", lambda g, x: g.map("pow", x, g.like(x, 2)), (0.0,), [0.0]),
    ("x**0 at 0", lambda g, x: g.map("pow", x, g.like(x, 0)), (0.0,), [0.0]),
    ("x**p at 0, 2", lambda g, x, p: g.map("pow", x, p), (0.0, 2.0), [0.0, 0.0]),
    ("x**p at 0, 0", lambda g, x, p: g.map("pow", x, p), (0.0, 0.0), [0.0, 0.0]),
    ("x**3 at -2", lambda g, x: g.map("pow", x, g.like(x, 3)), (-2.0,), [12.0]),
    ("softplus at 100", lambda g, x: g.map("softplus", x), (100.0,), [1.0]),
    ("sigmoid at -800", lambda g, x: g.map("sigmoid", x), (-800.0,), [0.0]),
    ("sqrt at 0", lambda g, x: g.map("sqrt", x), (0.0,), [INF]),
]


@pytest.mark.parametrize(
    ("build", "values", "want"), [t[1:] for t in TRAPS], ids=[t[0] for t in TRAPS]
)
def test_traps(build: Callable[..., Node], values: tuple[float, ...], want: list[float]) -> None:
    assert gradient(build, *values) == pytest.approx(want)


@pytest.mark.parametrize("name", ["sqrt", "log", "reciprocal", "rsqrt"])
def test_masks_survive_every_order(name: str) -> None:
    assert orders(guarded("gt", lambda g, x: g.map(name, x)), 0.0, 4) == [0.0] * 4


def test_mask_is_outermost() -> None:
    """The last node is the selection: nothing multiplies it that could be infinite."""
    graph, _ = scalar(guarded("gt", lambda g, x: g.map("sqrt", g.map("exp", x))), 0.0)
    (slope,) = vjp(graph, (0,)).outputs
    assert isinstance(slope, Map) and slope.op == "where"


def test_both_branches_become_one_selection() -> None:
    def build(g: Builder, x: Node) -> Node:
        mask = g.map("gt", x, g.like(x, 0))
        return g.map("where", mask, g.map("sin", x), g.map("exp", x))

    graph, arrays = scalar(build, -0.7)
    derived = vjp(graph, (0,))
    assert [n.op for n in derived.nodes() if isinstance(n, Map)].count("where") == 1
    assert evaluate(derived, [*arrays, np.ones(1)])[0][0] == pytest.approx(np.exp(-0.7))


def test_a_mask_known_before_a_sum_guards_an_infinite_derivative_below_it() -> None:
    """sum(where(c, broadcast(sqrt(x)), 0)) with c false everywhere and x = 0."""
    g = Builder()
    x, c = g.input("x", F8, ()), g.input("c", dtypes.bool_, (3,))
    root = g.broadcast(g.map("sqrt", x), shape=(3,))
    total = g.fold("sum", g.map("where", c, root, g.like(root, 0)), axes=(0,))
    derived = vjp(g.graph("f", (x, c), (total,)), (0,))
    off, on = np.zeros(3, bool), np.array([True, False, True])
    assert evaluate(derived, [np.float64(0), off, np.float64(1)])[0] == 0.0
    assert evaluate(derived, [np.float64(4), on, np.float64(1)])[0] == 0.5


def test_masks_of_kinks_are_not_carried_through_sums() -> None:
    """relu(x / |x|): no fold besides sums, though the derivative of the root below may be infinite."""
    g = Builder()
    x = g.input("x", F8, (3, 4))
    norm = g.map("sqrt", g.fold("sum", g.map("square", x), axes=(1,)))
    unit = g.map("div", x, g.broadcast(norm, shape=(3, 4), dims=(0,)))
    for op, folds in (("relu", {"sum"}), ("where", {"sum", "any"})):
        if op == "relu":
            out = g.map("relu", unit)
        else:
            out = g.map("where", g.map("gt", x, g.like(x, 0)), unit, g.like(x, 0))
        derived = vjp(g.graph("f", (x,), (out,)), (0,))
        assert {n.monoid for n in derived if isinstance(n, Fold)} == folds


# --- norms, ties, products ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["none", "mean", "square"])
def test_norm_has_a_zero_subgradient_at_zero(scale: str) -> None:
    g = Builder()
    x = g.input("x", F8, (2, 3))
    squares = g.map("square", x) if scale == "square" else g.map("mul", x, x)
    total = g.fold("sum", squares, axes=(1,))
    if scale == "mean":
        total = g.map("div", total, g.like(total, 3))
    graph = g.graph("norm", (x,), (g.map("sqrt", total),))
    arrays = [np.array([[0.0, 0, 0], [3, 0, 4]]), np.ones(2)]
    first = evaluate(vjp(graph, (0,)), arrays)[0]
    root = np.sqrt(3) if scale == "mean" else 1.0
    assert first.tolist() == pytest.approx(np.array([[0.0, 0, 0], [0.6, 0, 0.8]]) / root)
    second = evaluate(vjp(vjp(graph, (0,)), (0, 1)), [*arrays, np.ones((2, 3))])
    assert all(np.isfinite(v).all() for v in second)


def test_a_positive_sum_under_a_root_is_not_masked() -> None:
    """sqrt(mean(x*x) + eps) cannot be at 0: rms_norm pays nothing."""
    g = Builder()
    x = g.input("x", F8, (4,))
    total = g.fold("sum", g.map("mul", x, x), axes=(0,))
    graph = g.graph("f", (x,), (g.map("sqrt", g.map("add", total, g.like(total, 1e-6))),))
    assert not any(isinstance(n, Map) and n.op == "where" for n in vjp(graph, (0,)))


@pytest.mark.parametrize("monoid", ["max", "min"])
def test_ties_share_evenly_and_nan_goes_to_nan(monoid: str) -> None:
    g = Builder()
    x = g.input("x", F8, (3, 4))
    graph = g.graph("f", (x,), (g.fold(monoid, x, axes=(1,)),))
    values = np.array([[2.0, 1, 2, 1], [5.0, 5, 5, 5], [1.0, np.nan, 3, np.nan]])
    got = evaluate(vjp(graph, (0,)), [values, np.array([1.0, 1, 1])])[0]
    first = [0.5, 0, 0.5, 0] if monoid == "max" else [0, 0.5, 0, 0.5]
    assert got.tolist() == [first, [0.25] * 4, [0, 0.5, 0, 0.5]]


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_products_with_zeros_three_times(zeros: int, axes: tuple[int, ...]) -> None:
    g = Builder()
    x = g.input("x", F8, (4, 4))
    graph = g.graph("f", (x,), (g.fold("prod", x, axes=axes),))
    values = np.random.default_rng(zeros).uniform(0.5, 1.5, (4, 4))
    values[range(zeros), range(zeros)] = values[0, :zeros] = 0
    arrays = [values]
    leaf = torch.tensor(values, requires_grad=True)
    inner = _products(leaf, axes)
    for order in range(3):
        seed = np.random.default_rng(order).normal(size=inner.shape)
        graph = vjp(graph, (0,))
        arrays.append(seed)
        (inner,) = torch.autograd.grad(inner, leaf, torch.tensor(seed), create_graph=True)
        assert np.allclose(evaluate(graph, arrays)[0], inner.detach(), rtol=1e-12, atol=1e-12)


def _products(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """A product of selections: torch.prod itself is wrong at second order with zeros."""
    for axis in reversed(axes):
        parts = x.unbind(axis)
        x = parts[0]
        for part in parts[1:]:
            x = x * part
    return x


# --- gathers, types, refusals ---------------------------------------------------------------------------------------


def test_one_index_per_row_is_a_comparison_and_several_are_a_scatter() -> None:
    n = Size.symbol("n")
    for count in (1, 2):
        g = Builder()
        x, index = g.input("x", F8, (3, n)), g.input("i", dtypes.int64, (3, count))
        graph = g.graph("f", (x, index), (g.take(x, index, axis=1),))
        derived = vjp(graph, (0,))
        assert any(isinstance(v, Put) for v in derived) == (count > 1)
        places = np.array([[0, 0], [4, 1], [2, 2]])[:, :count]
        seed = np.arange(1.0, 1 + 3 * count).reshape(3, count)
        want = np.zeros((3, 5))
        np.add.at(want, (np.arange(3)[:, None], places), seed)
        got = evaluate(derived, [np.zeros((3, 5)), places, seed])[0]
        assert got.tolist() == want.tolist()
        again = evaluate(vjp(derived, (2,)), [np.zeros((3, 5)), places, seed, want])[0]
        assert again.tolist() == np.take_along_axis(want, places, 1).tolist()


def test_casts_come_back_and_stop_gradient_stops() -> None:
    g = Builder()
    x = g.input("x", dtypes.float32, (2,))
    wide = g.map("square", g.cast(x, F8))
    held = g.map("mul", wide, g.map("stop_gradient", wide))
    derived = vjp(g.graph("f", (x,), (held,)), (0,))
    (slope,) = derived.outputs
    assert slope.dtype is dtypes.float32
    got = evaluate(derived, [np.array([2.0, 3.0]), np.ones(2)])[0]
    assert got.tolist() == [16.0, 54.0]  # x**2 held: 2x * x**2


def test_cotangents_are_named_and_zero_ones_are_zero() -> None:
    g = Builder()
    x, y, i = g.input("x", F8, (2,)), g.input("g_0", F8, (2,)), g.input("i", dtypes.int64, (2,))
    graph = g.graph("f", (x, y, i), (g.map("sin", x), g.map("floor", y), g.map("neg", i)))
    derived = vjp(graph, (0, 1))
    names = [leaf.source.name for leaf in derived.inputs]  # type: ignore[union-attr]
    assert names == ["x", "g_0", "i", "gg_0", "gg_1"]
    assert isinstance(derived.outputs[1], Leaf)
    arrays = [np.zeros(2), np.ones(2), np.ones(2, int), np.ones(2), np.ones(2)]
    assert [v.tolist() for v in evaluate(derived, arrays)] == [[1, 1], [0, 0]]


def test_refusals_name_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    g = Builder()
    x, i = g.input("x", F8, (4,)), g.input("i", dtypes.int64, (4,))
    with pytest.raises(DerivativeError, match="only floats"):
        vjp(g.graph("f", (x, i), (x,)), (1,))
    ordered = g.call("sort", x, dtype=F8, shape=(4,), params={"axis": 0})
    with pytest.raises(DerivativeError, match=r"no derivative of sort[\s\S]*hint"):
        vjp(g.graph("f", (x,), (ordered,)), (0,))
    step = Builder()
    carry, item = step.input("c", F8, ()), step.input("v", F8, ())
    body = step.graph("step", (carry, item), (step.map("add", carry, item),))
    loop = g.fold(Monoid("loop", (0.0,), body, associative=False), x, axes=(0,), mode="sequential")
    assert isinstance(loop, Fold)
    with pytest.raises(DerivativeError, match="sequential by loop"):
        vjp(g.graph("f", (x,), (loop,)), (0,))
    written = g.graph("f", (x,), (x,), writes=((x, g.map("sin", x)),))
    with pytest.raises(DerivativeError, match="written in place"):
        vjp(written, (0,))
    monkeypatch.setattr(reverse, "MAX_NODES", 3)
    with pytest.raises(DerivativeError, match="more than 3 nodes"):
        vjp(g.graph("f", (x,), (g.map("tanh", g.map("sin", x)),)), (0,))


def test_gradients_keep_the_lines_of_their_nodes() -> None:
    from tgc.errors import Line

    g = Builder()
    x = g.input("x", F8, (2,))
    line = Line("model.py", 7)
    with g.at(line):
        y = g.map("erf", x)
    (slope,) = vjp(g.graph("f", (x,), (y,)), (0,)).outputs
    assert slope.line == line


# --- orders ---------------------------------------------------------------------------------------------------------


def test_three_orders_of_the_issue_function() -> None:
    def build(g: Builder, x: Node) -> Node:
        bell = g.map("exp", g.map("neg", g.map("square", x)))
        return g.map("tanh", g.map("mul", g.map("sin", x), bell))

    for value in (-1.3, 0.0, 0.4, 2.0):
        t = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        inner = torch.tanh(torch.sin(t) * torch.exp(-t * t))
        want = []
        for _ in range(3):
            (inner,) = torch.autograd.grad(inner, t, create_graph=True)
            want.append(float(inner.detach()))
        assert orders(build, value, 3) == pytest.approx(want, abs=1e-12)


def test_the_tenth_derivative_of_tanh_stays_small() -> None:
    graph, _ = scalar(lambda g, x: g.map("tanh", x), 0.3)
    for _ in range(6):
        graph = vjp(graph, (0,))
    assert len(graph.nodes()) < 400
