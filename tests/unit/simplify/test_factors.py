"""Algebra of products: each rule keeps values, lowers the work, and together they make lean derivatives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tgc
from kernels.definitions import DEFINITIONS, Definition
from tests.unit.simplify.test_algebra import cases
from tgc.calculus.reverse import joint, vjp
from tgc.ir.build import Builder
from tgc.ir.evaluate import evaluate
from tgc.ir.nodes import Fold, Graph, Map, Node
from tgc.ir.text import print_graph
from tgc.numerics.ulp import ulp_error
from tgc.pipeline import Pipeline, target_named, wanted
from tgc.schedule.save import split
from tgc.simplify import multiples
from tgc.simplify.factors import RULES
from tgc.simplify.patterns import Rule
from tgc.simplify.reciprocals import share_reciprocals
from tgc.simplify.run import drop_stop_gradient, simplify
from tgc.trace.run import trace

Make = Callable[..., Node]


@pytest.mark.parametrize("rule", (*RULES, *multiples.RULES), ids=lambda r: r.name)
def test_rules_keep_ordinary_values(rule: Rule) -> None:
    rng = np.random.default_rng(0)
    checked = cases(rule)
    assert checked
    for pattern, replacement in checked:
        arrays = [
            rng.random(20_000) < 0.5
            if leaf.dtype.kind == "bool"
            else (2 ** rng.uniform(-3, 3, 20_000) * rng.choice([-1, 1], 20_000)).astype(np.float16)
            for leaf in pattern.inputs
        ]
        truth = evaluate(pattern, arrays)[0]
        before = ulp_error(evaluate(pattern, arrays, None)[0], truth)
        after = ulp_error(evaluate(replacement, arrays, None)[0], truth)
        assert np.all(after <= before + 2.5), rule.name


# --- rules of folds, sums and quotients ---------------------------------------------------------


def rows(make: Make, *, two: bool = False) -> Graph:
    """A function of x and y [n, d] and, per row, s and t [n]; `make` sees s and t repeated along d as well."""
    g = Builder()
    n, d = g.sizes("n d")
    x, y = g.input("x", "f64", (n, d)), g.input("y", "f64", (n, d))
    s, t = g.input("s", "f64", (n,)), g.input("t", "f64", (n,))

    def wide(v: Node) -> Node:
        return g.broadcast(v, shape=(n, d), dims=(0,))

    made: Any = make(g, x, y, s, t, wide)
    return g.graph("f", (x, y, s, t), made if two else (made,))


def work(graph: Graph) -> Counter[str]:
    """Operations on whole arrays, by name; `sum` for folds."""
    names = Counter[str]()
    for node in graph.nodes():
        if isinstance(node, Map) and node.ndim == 2:
            names[node.op] += 1
        if isinstance(node, Fold):
            names["sum"] += 1
    return names


def arrays() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in ((4, 5), (4, 5), (4,), (4,))]


SUM = {"axes": (1,)}


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda g, x, y, s, t, w: g.fold("sum", g.map("mul", x, w(s)), **SUM), {"sum": 1}),
        (lambda g, x, y, s, t, w: g.fold("sum", g.map("div", x, w(s)), **SUM), {"sum": 1}),
        (
            lambda g, x, y, s, t, w: g.fold(
                "sum", g.map("mul", y, g.map("neg", g.map("div", x, w(s)))), **SUM
            ),
            {"mul": 1, "sum": 1},
        ),
        (
            lambda g, x, y, s, t, w: g.fold("sum", g.map("div", w(s), x), **SUM),
            {"div": 1, "sum": 1},
        ),
        (
            lambda g, x, y, s, t, w: g.map("sub", g.map("div", x, w(s)), g.map("div", y, w(s))),
            {"sub": 1, "div": 1},
        ),
        (
            lambda g, x, y, s, t, w: g.map("add", g.map("div", x, w(s)), w(g.map("div", t, s))),
            {"add": 1, "div": 1},
        ),
        (
            lambda g, x, y, s, t, w: g.map("add", g.map("mul", x, y), g.map("mul", y, w(s))),
            {"add": 1, "mul": 1},
        ),
        # a divisor that is a product is one divisor
        (
            lambda g, x, y, s, t, w: g.map(
                "add",
                g.map("div", x, g.map("mul", w(s), y)),
                g.map("div", w(t), g.map("mul", w(s), y)),
            ),
            {"add": 1, "mul": 1, "div": 1},
        ),
        # a factor inside two broadcasts stays inside
        (
            lambda g, x, y, s, t, w: g.map(
                "add",
                g.map("mul", x, w(g.map("div", s, g.like(s, 3)))),
                g.map("mul", y, w(g.map("div", t, g.like(t, 3)))),
            ),
            {"add": 1, "mul": 2},
        ),
        (lambda g, x, y, s, t, w: g.map("add", x, w(g.map("neg", s))), {"sub": 1}),
        (
            lambda g, x, y, s, t, w: g.map("add", x, g.map("mul", w(g.map("neg", s)), y)),
            {"sub": 1, "mul": 1},
        ),
        (
            lambda g, x, y, s, t, w: g.map("mul", w(s), g.map("mul", g.like(x, 3), x)),
            {"mul": 1},
        ),
        (
            lambda g, x, y, s, t, w: g.map("mul", x, w(g.map("rsqrt", g.map("square", s)))),
            {"div": 1},
        ),
    ],
)
def test_work_is_lowered(make: Make, want: dict[str, int]) -> None:
    graph = rows(make)
    result = simplify(graph)
    assert work(result) == want, print_graph(result)
    np.testing.assert_allclose(
        evaluate(result, arrays())[0], evaluate(graph, arrays())[0], rtol=1e-12
    )
    assert print_graph(simplify(result)) == print_graph(result)


def test_a_quotient_that_exists_is_used_again() -> None:
    def make(g: Builder, x: Node, y: Node, s: Node, t: Node, w: Make) -> tuple[Node, ...]:
        quotient = g.map("div", x, w(s))
        return quotient, g.map("mul", g.map("div", y, w(s)), x), g.map("exp", quotient)

    result = simplify(rows(make, two=True))
    assert work(result) == {"div": 1, "mul": 1, "exp": 1}


def test_factors_of_a_sum_over_no_row_stay() -> None:
    graph = rows(lambda g, x, y, s, t, w: g.fold("sum", g.map("mul", x, w(s)), axes=(0,)))
    assert work(simplify(graph)) == {"mul": 1, "sum": 1}


@pytest.mark.parametrize("op", ["mul", "div"])
@pytest.mark.parametrize("special", [0.0, np.inf, -np.inf, np.nan])
def test_what_is_not_finite_stays_so(special: float, op: str) -> None:
    """A zero divisor or an infinite factor may trade NaN for infinity, never for a number."""
    graph = rows(lambda g, x, y, s, t, w: g.fold("sum", g.map(op, x, w(s)), **SUM))
    values = arrays()
    values[2][1] = special
    with np.errstate(all="ignore"):
        want, got = evaluate(graph, values)[0], evaluate(simplify(graph), values)[0]
    np.testing.assert_array_equal(np.isfinite(want), np.isfinite(got))


@pytest.mark.parametrize("kind", ["any", "sum"])
def test_one_index_a_row_needs_no_fold(kind: str) -> None:
    g = Builder()
    n, d = g.sizes("n d")
    index, v = g.input("index", "i64", (n,)), g.input("v", "f64", (n,))

    def wide(x: Node) -> Node:
        return g.broadcast(x, shape=(n, d), dims=(0,))

    mask = g.map("eq", g.iota(1, (n, d)), wide(index))
    taken = g.map("where", mask, wide(v), g.const(0, "f64", (n, d)))
    # a value per column keeps the fold honest about its shape
    columns = g.input("w", "f64", (n, d))
    shape = g.map("where", mask, columns, g.const(0, "f64", (n, d)))
    fold = g.fold(kind, mask if kind == "any" else taken, axes=(1,))
    graph = g.graph("f", (index, v, columns), (fold, g.fold("sum", shape, axes=(1,))))
    result = simplify(graph)
    assert work(result)["sum"] == 1
    values = [np.array([0, 2, 3, -1, 7]), np.arange(1.0, 6.0), np.ones((5, 3))]
    for got, want in zip(evaluate(result, values), evaluate(graph, values)):
        np.testing.assert_array_equal(got, want)


# --- shifts -------------------------------------------------------------------------------------


def shifted(kind: str) -> Graph:
    """`softmax`, `logsumexp` or `log_softmax` of rows, shifted by their maximum as a textbook writes it."""
    g = Builder()
    n, d = g.sizes("n d")
    x = g.input("x", "f64", (n, d))
    m = g.fold("max", x, axes=(1,))
    wide = g.map("sub", x, g.broadcast(m, shape=(n, d), dims=(0,)))
    e = g.map("exp", wide)
    total = g.fold("sum", e, axes=(1,))
    if kind == "logsumexp":
        return g.graph(kind, (x,), (g.map("add", m, g.map("log", total)),))
    if kind == "softmax":
        out = g.map("div", e, g.broadcast(total, shape=(n, d), dims=(0,)))
    else:
        out = g.map("sub", wide, g.broadcast(g.map("log", total), shape=(n, d), dims=(0,)))
    return g.graph(kind, (x,), (out,))


@pytest.mark.parametrize("kind", ["softmax", "logsumexp", "log_softmax"])
def test_a_shift_that_cancels_has_no_derivative(kind: str) -> None:
    graph = shifted(kind)
    stable = simplify(graph)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4))
    (y,) = evaluate(graph, [x])
    np.testing.assert_array_equal(evaluate(stable, [x])[0], y)
    seed = rng.normal(size=y.shape)
    slope = vjp(stable, (0,))
    assert "eq" in work(vjp(graph, (0,))) and "eq" not in work(slope), "the maximum is passed"
    want, got = evaluate(vjp(graph, (0,)), [x, seed]), evaluate(slope, [x, seed])
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12, atol=1e-14)


def test_a_shift_that_does_not_cancel_keeps_its_derivative() -> None:
    def make(g: Builder, x: Node, y: Node, s: Node, t: Node, w: Make) -> Node:
        e = g.map("exp", g.map("sub", x, w(s)))
        return g.map("div", e, w(g.fold("sum", g.map("mul", e, e), axes=(1,))))

    assert not any(n.op == "stop_gradient" for n in simplify(rows(make)) if isinstance(n, Map))


# --- reciprocals --------------------------------------------------------------------------------


def test_rows_divide_once() -> None:
    graph = simplify(drop_stop_gradient(simplify(shifted("softmax"))), last=True)
    assert "div" not in work(share_reciprocals(graph))

    def make(g: Builder, x: Node, y: Node, s: Node, t: Node, w: Make) -> Node:
        square = g.fold("sum", g.map("square", x), axes=(1,))
        return g.map("div", x, w(g.map("sqrt", square)))

    graph = rows(make)
    result = share_reciprocals(graph)
    assert work(result) == {"mul": 1, "sum": 1, "square": 1}
    x = np.array([[3.0, 4.0], [0.0, 0.0], [np.inf, 1.0], [1e-200, 1e-200]])
    with np.errstate(all="ignore"):
        want, got = (evaluate(f, [x, x, x[:, 0], x[:, 0]])[0] for f in (graph, result))
    np.testing.assert_allclose(got, want, rtol=1e-15)


def test_other_divisions_stay() -> None:
    graph = rows(lambda g, x, y, s, t, w: g.map("div", x, w(g.map("sqrt", s))))
    assert work(share_reciprocals(graph)) == {"div": 1}


def test_a_gated_unit_has_a_gradient_far_out() -> None:
    g = Builder()
    x = g.input("x", "f32", (4,))
    gate = g.map("div", x, g.map("add", g.like(x, 1), g.map("exp", g.map("neg", x))))
    graph = simplify(vjp(simplify(g.graph("silu", (x,), (gate,))), (0,)))
    far = np.array([-200.0, -100.0, 100.0, 200.0], np.float32)
    got = evaluate(graph, [far, np.ones(4, np.float32)], None)[0]
    np.testing.assert_allclose(got, [0, 0, 1, 1], atol=1e-30)


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
def test_gallery_graphs_are_at_the_fixpoint(definition: Definition) -> None:
    traced = trace(definition.function, tuple(tgc.spec(s) for s in definition.specs)).graph
    both = joint(simplify(traced), wanted(traced, tuple(range(len(traced.inputs)))))
    once = simplify(drop_stop_gradient(both), last=True)
    assert print_graph(simplify(once, last=True)) == print_graph(once)


# --- the gallery --------------------------------------------------------------------------------

LEAN = {
    # name: operations on whole arrays and divisions among them in the backward, and what the backward reads of the
    # forward's values
    "gelu": ({"div": 1}, ("x",)),
    "swiglu": ({"div": 2}, ("gate", "value")),
    "softmax": ({"mul": 2, "sub": 1}, ("output",)),
    "layer_norm": ({"mul": 6, "sub": 3}, ("x", "weight", "value", "value")),
    "rms_norm": ({"mul": 6, "sub": 1}, ("x", "weight", "value")),
    "cross_entropy": ({"div": 0}, ("logits", "label", "value", "value")),
    "bce_with_logits": ({"div": 1, "sub": 1}, ("logit", "target")),
}


def lowered(definition: Definition) -> tuple[Graph, Graph]:
    """The traced graph, and the joint graph as it goes to the scheduler."""
    traced = trace(definition.function, tuple(tgc.spec(s) for s in definition.specs))
    pipeline = Pipeline()
    chosen = wanted(traced.graph, tuple(range(len(traced.graph.inputs))))
    joined = pipeline.joint(traced.graph, chosen)
    both = pipeline.lowered(joined, target_named("sm_90"), in_two=True)
    return traced.graph, both


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_gallery_gradients_are_accurate(definition: Definition, offset: float) -> None:
    graph, both = lowered(definition)
    extents = {"rows": 5, "cols": 17, "n": 85}
    rng = np.random.default_rng(0)
    values: list[Any] = []
    for leaf in graph.inputs:
        shape = tuple(extents[str(d)] for d in leaf.shape)
        shift = offset if len(shape) > 1 else 0
        is_float = leaf.dtype.is_float
        values.append(
            (rng.normal(size=shape) + shift).astype(np.float32)
            if is_float
            else rng.integers(0, 17, shape)
        )
    outputs = evaluate(graph, values)
    seeds = [rng.normal(size=np.shape(o)).astype(np.float32) for o in outputs]
    chosen = wanted(graph, tuple(range(len(graph.inputs))))
    exact = evaluate(joint(graph, chosen), [*values, *seeds])
    got = evaluate(both, [*values, *seeds], None)
    for a, b in zip(got, exact, strict=True):
        # the mean of a shifted row is itself only known to the rounding of the shift
        tolerance = 3e-7 * (1 + offset / 10)
        assert np.max(np.abs(a - b)) <= tolerance * np.max(np.abs(b)) + 1e-30


@pytest.mark.parametrize("name", LEAN)
def test_gallery_backwards_are_lean(name: str) -> None:
    definition = next(d for d in DEFINITIONS if d.name == name)
    graph, both = lowered(definition)
    hints = {"rows": 4096, "cols": 2048, "n": 1 << 23}
    pair = split(both, len(graph.outputs), len(graph.inputs), hints)
    rank = max(leaf.ndim for leaf in graph.inputs)
    done = Counter(
        node.op for node in pair.backward.nodes() if isinstance(node, Map) and node.ndim == rank
    )
    want, saved = LEAN[name]
    assert all(done[op] <= count for op, count in {"div": 0, **want}.items()), done
    assert tuple(s.name if s.kind == "input" else s.kind for s in pair.saved) == saved


def test_a_backward_apart_reads_the_result_and_one_beside_its_forward_what_is_there() -> None:
    graph = simplify(shifted("log_softmax"))
    both = drop_stop_gradient(joint(graph, (0,)))
    apart, together = (simplify(both, last=True, in_two=in_two) for in_two in (True, False))
    assert (work(apart)["exp"], work(together)["exp"]) == (2, 1)
    pair = split(apart, 1, 1, {"n": 4096, "d": 2048})
    assert [s.kind for s in pair.saved] == ["output"], "x is not read again"
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    for a, b in zip(evaluate(apart, values), evaluate(together, values), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)
