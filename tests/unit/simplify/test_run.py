"""Simplification as a whole: it keeps meaning, ends, stays fast, and says what it did."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings

from tests.support.random_graphs import Case, equal, graphs
from tgc.errors import Line, UnsupportedOpError
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.evaluate import evaluate
from tgc.ir.nodes import Fold, Graph, Leaf, Map, Monoid, Node, View
from tgc.ir.ops import OPS
from tgc.ir.text import print_graph
from tgc.ir.verify import verify
from tgc.simplify.algebra import PROCEDURES as ALGEBRA
from tgc.simplify.algebra import RULES
from tgc.simplify.expand import expand
from tgc.simplify.movements import PROCEDURES as MOVEMENTS
from tgc.simplify.precision import legalize
from tgc.simplify.rewriter import Rewriter, RuleSet
from tgc.simplify.run import drop_stop_gradient, simplify

NUMPY = frozenset(name for name, spec in OPS.items() if spec.numpy is not None)
FEW = frozenset(
    {"add", "sub", "mul", "div", "neg", "abs", "exp", "log", "sqrt", "floor", "maximum", "minimum"}
) | {
    *(
        "lt",
        "le",
        "gt",
        "ge",
        "eq",
        "ne",
        "not",
        "and",
        "or",
        "sin",
        "cos",
        "log1p",
        "expm1",
        "tanh",
        "copysign",
        "trunc",
    ),
}


@settings(max_examples=300)
@given(graphs())
def test_simplify_keeps_values(case: Case) -> None:
    result = simplify(case.graph)
    verify(result, "simplify")
    assert equal(evaluate(result, case.arrays), evaluate(case.graph, case.arrays), 1e-11)


@settings(max_examples=200)
@given(graphs())
def test_simplify_reaches_a_fixpoint(case: Case) -> None:
    once = simplify(case.graph)
    assert print_graph(simplify(once)) == print_graph(once)


@settings(max_examples=200)
@given(graphs(special=True, dtype=dtypes.float32))
def test_bits_rules_keep_every_bit(case: Case) -> None:
    bits = [r for r in RULES if r.exact == "bits"]
    rules = RuleSet(bits, [*ALGEBRA, *MOVEMENTS], fast_math=False)
    result = Rewriter(case.graph, rules, 10_000).run()
    for got, want in zip(
        evaluate(result, case.arrays, None), evaluate(case.graph, case.arrays, None)
    ):
        assert got.dtype == want.dtype
        same = (got == want) & (np.signbit(got) == np.signbit(want)) | (
            np.isnan(got) & np.isnan(want)
        )
        assert same.all()


@settings(max_examples=100)
@given(graphs())
def test_expand_keeps_values_and_leaves_primitives_only(case: Case) -> None:
    result = expand(case.graph, NUMPY)
    assert {n.op for n in result.nodes() if isinstance(n, Map)} <= NUMPY | {"cast", "where"}
    assert equal(evaluate(result, case.arrays), evaluate(case.graph, case.arrays), 1e-9)


@settings(max_examples=100)
@given(graphs(dtype=dtypes.bfloat16, empty=False))
def test_legalize_computes_half_types_in_float32(case: Case) -> None:
    for mode in ("fused", "eager"):
        result = legalize(case.graph, mode)
        verify(result, "legalize")
        for node in result.nodes():
            assert (
                not node.dtype.is_half
                or isinstance(node, Leaf)
                or (isinstance(node, Map) and node.op == "cast")
            )
        assert [o.dtype for o in result.outputs] == [o.dtype for o in case.graph.outputs]


def there_and_back(mode: str) -> Graph:
    g = Builder()
    x = g.input("x", "f16", (99,))
    part = g.map("mul", x, g.like(x, 1 / 7))
    return legalize(g.graph("f", (x,), (g.map("mul", part, g.like(x, 7)),)), mode)


def test_fused_rounds_once_and_eager_after_each_operation() -> None:
    x = np.arange(1, 100).astype(np.float16)
    fused = evaluate(there_and_back("fused"), [x], None)[0]
    np.testing.assert_array_equal(fused, x)
    eager = evaluate(there_and_back("eager"), [x], None)[0]
    want = (x.astype(np.float32) * np.float32(1 / 7)).astype(np.float16).astype(np.float32) * 7
    np.testing.assert_array_equal(eager, want.astype(np.float16))
    assert (eager != fused).any()


def test_a_conversion_shows_a_rounded_value() -> None:
    g = Builder()
    x = g.input("x", "f16", (1,))
    small = g.map("mul", x, g.like(x, 2.0**-30))
    graph = legalize(
        g.graph("f", (x,), (g.cast(small, "f32"), g.map("mul", small, g.like(x, 2.0**30))))
    )
    shown, used = evaluate(graph, [np.array([1.0], np.float16)], None)
    assert shown[0] == 0 and used[0] == 1


def test_folds_of_half_types_accumulate_in_float32() -> None:
    g = Builder()
    x = g.input("x", "f16", (4096,))
    graph = legalize(g.graph("f", (x,), (g.fold("sum", x, axes=(0,)),)))
    (fold,) = [n for n in graph.nodes() if isinstance(n, Fold)]
    assert fold.dtype is dtypes.float32
    assert evaluate(graph, [np.ones(4096, np.float16)], None)[0] == 4096


def test_monoids_over_half_types_become_float32() -> None:
    g = Builder()
    inner = Builder()
    a, b = inner.input("a", "f16", ()), inner.input("b", "f16", ())
    monoid = Monoid(
        "biggest", (float("-inf"),), inner.graph("m", (a, b), (inner.map("maximum", a, b),))
    )
    x = g.input("x", "f16", (5, 3))
    graph = legalize(g.graph("f", (x,), (g.fold(monoid, x, axes=(1,)),)))
    values = np.arange(15, dtype=np.float16).reshape(5, 3)
    np.testing.assert_array_equal(evaluate(graph, [values], None)[0], values.max(1))


def test_legalize_knows_its_modes() -> None:
    with pytest.raises(ValueError, match="fused, eager"):
        legalize(there_and_back("fused"), "fast")


def test_expand_names_what_it_cannot_expand() -> None:
    g = Builder()
    g.line = Line("train.py", 7)
    x = g.input("x", "f32", (3,))
    with pytest.raises(UnsupportedOpError, match=r"for sin\n.*train.py:7"):
        expand(g.graph("f", (x,), (g.map("sin", x),)), frozenset({"add"}))


@pytest.mark.parametrize("name", [n for n, s in OPS.items() if s.expansion])
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64], ids=str)
def test_every_expansion_reaches_primitives(name: str, dtype: dtypes.DType) -> None:
    g = Builder()
    kind = dtype if "float" in OPS[name].accepts else dtypes.int64
    xs = [g.input(c, kind, (3,)) for c in "abc"[: OPS[name].arity]]
    result = expand(g.graph(name, tuple(xs), (g.map(name, *xs),)), NUMPY - {name})
    assert {n.op for n in result.nodes() if isinstance(n, Map)} <= NUMPY - {name} | {
        "cast",
        "where",
    }
    values = [0.25, 0.5, 0.75] if kind is dtype else [3, 70, 900]
    arrays = [np.array(values)] * len(xs)
    tolerance = 1e-12 if dtype is dtypes.float64 else 1e-6
    assert equal(
        evaluate(result, arrays),
        evaluate(g.graph(name, tuple(xs), (g.map(name, *xs),)), arrays),
        tolerance,
    )


def test_drop_stop_gradient() -> None:
    g = Builder()
    x = g.input("x", "f32", (3,))
    graph = g.graph(
        "f",
        (x,),
        (g.map("exp", g.map("stop_gradient", x)),),
        writes=((x, g.map("stop_gradient", x)),),
    )
    result = drop_stop_gradient(graph)
    assert [type(n) for n in result.nodes()] == [Leaf, Map] and result.writes == ((x, x),)


def test_writes_are_simplified_too() -> None:
    g = Builder()
    x = g.input("x", "f32", (3,))
    graph = g.graph("f", (x,), (), writes=((x, g.map("mul", x, g.like(x, 1))),))
    assert simplify(graph).writes == ((x, x),)


def test_the_log_names_rule_and_line() -> None:
    g = Builder()
    x = g.input("x", "f32", (3,))
    g.line = Line("dir/train.py", 12)
    graph = g.graph("f", (x,), (g.map("log", g.map("add", g.map("exp", x), g.like(x, 1))),))
    log: list[object] = []
    simplify(graph, log=log)  # type: ignore[arg-type]
    assert [str(entry) for entry in log] == ["softplus at train.py:12"]


def test_names_follow_the_value() -> None:
    g = Builder()
    x = g.input("x", "f32", (3,))
    y = g.map("log", g.map("add", g.map("exp", x), g.like(x, 1)))
    g.names[y] = "smooth"
    assert 'smooth = g.map("softplus", x)' in print_graph(simplify(g.graph("f", (x,), (y,))))


def rows(make) -> Graph:  # type: ignore[no-untyped-def]
    g = Builder()
    n, d = g.sizes("n d")
    x = g.input("x", "f64", (n, d))
    return g.graph("f", (x,), (make(g, x, n, d),))


def kinds(graph: Graph) -> list[str]:
    def name(node: Node) -> str:
        return (
            node.op
            if isinstance(node, Map)
            else node.movement.name
            if isinstance(node, View)
            else type(node).__name__
        )

    return sorted(name(n) for n in graph.nodes() if not isinstance(n, Leaf))


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda g, x, n, d: g.permute(g.permute(x, order=(1, 0)), order=(1, 0)), []),
        (lambda g, x, n, d: g.reshape(g.reshape(x, shape=(n * d,)), shape=(d, n)), ["reshape"]),
        (lambda g, x, n, d: g.reshape(g.reshape(x, shape=(n * d,)), shape=(n, d)), []),
        (
            lambda g, x, n, d: g.broadcast(g.reshape(x, shape=(n, 1, d)), shape=(n, 4, d)),
            ["broadcast"],
        ),
        (lambda g, x, n, d: g.flip(g.flip(x, axes=(0, 1)), axes=(1,)), ["flip"]),
        (lambda g, x, n, d: g.flip(g.flip(x, axes=(1,)), axes=(1,)), []),
        (
            lambda g, x, n, d: g.slice(
                g.slice(x, start=(1, 0), stop=(n, d), step=(1, 1)),
                start=(2, 0),
                stop=(n - 1, d),
                step=(1, 1),
            ),
            ["slice"],
        ),
        (
            lambda g, x, n, d: g.slice(
                g.pad(x, before=(1, 0), after=(2, 0)), start=(1, 0), stop=(n + 1, d), step=(1, 1)
            ),
            [],
        ),
        (
            lambda g, x, n, d: g.pad(
                g.pad(x, before=(1, 0), after=(0, 0)), before=(0, 2), after=(3, 0)
            ),
            ["pad"],
        ),
        (
            lambda g, x, n, d: g.permute(
                g.broadcast(x, shape=(n, d, 3), dims=(0, 1)), order=(2, 0, 1)
            ),
            ["broadcast"],
        ),
        (lambda g, x, n, d: g.fold("sum", g.broadcast(x, shape=(4, n, d)), axes=(0,)), ["mul"]),
        (lambda g, x, n, d: g.fold("max", g.broadcast(x, shape=(4, n, d)), axes=(0, 2)), ["Fold"]),
        (lambda g, x, n, d: g.fold("sum", g.like(x, 2), axes=(0, 1)), ["mul"]),
        (lambda g, x, n, d: g.fold("sum", g.map("neg", x), axes=(0,)), ["Fold", "neg"]),
        (
            lambda g, x, n, d: g.fold("sum", g.map("mul", x, g.like(x, 3)), axes=(0,)),
            ["Fold", "mul"],
        ),
        (lambda g, x, n, d: g.fold("sum", g.reshape(x, shape=(n, 1, d)), axes=(1,)), []),
        (lambda g, x, n, d: g.map("exp", g.broadcast(x, shape=(4, n, d))), ["broadcast", "exp"]),
        (lambda g, x, n, d: g.fold("sum", g.map("mul", x, x), axes=(1,)), ["Fold", "square"]),
    ],
)
def test_structure(make, want: list[str]) -> None:  # type: ignore[no-untyped-def]
    graph = rows(make)
    result = simplify(graph)
    assert kinds(result) == want
    x = np.random.default_rng(0).normal(size=(5, 7))
    assert equal(evaluate(result, [x]), evaluate(graph, [x]), 1e-12)


def test_a_contraction_keeps_its_shape() -> None:
    g = Builder()
    n, m, k = g.sizes("n m k")
    a, b = g.input("a", "f32", (n, k)), g.input("b", "f32", (k, m))
    product = g.map(
        "mul",
        g.broadcast(a, shape=(n, k, m), dims=(0, 1)),
        g.broadcast(b, shape=(n, k, m), dims=(1, 2)),
    )
    graph = g.graph("matmul", (a, b), (g.fold("sum", product, axes=(1,)),))
    assert print_graph(simplify(graph)) == print_graph(graph)


def gelu_with_gradient() -> Graph:
    g = Builder()
    n, d = g.sizes("n d")
    x, ct = g.input("x", "f32", (n, d)), g.input("ct", "f32", (n, d))

    def mul(*xs: Node) -> Node:
        return xs[0] if len(xs) == 1 else g.map("mul", xs[0], mul(*xs[1:]))

    def c(value: float) -> Node:
        return g.like(x, value)

    t = g.map("tanh", mul(c(0.7978845608), g.map("add", x, mul(c(0.044715), x, x, x))))
    one = g.map("add", c(1), t)
    inner = g.map("add", c(1), mul(c(3), c(0.044715), x, x))
    slope = mul(g.map("sub", c(1), mul(t, t)), c(0.7978845608), inner)
    grad = mul(ct, g.map("add", mul(c(0.5), one), mul(c(0.5), x, slope)))
    return g.graph("gelu", (x, ct), (mul(c(0.5), x, one), grad))


def test_simplify_is_fast() -> None:
    simplify(gelu_with_gradient())
    times = []
    for _ in range(7):
        graph = gelu_with_gradient()
        start = time.perf_counter()
        simplify(graph)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.010, times


def test_what_repeats_is_computed_once() -> None:
    """Maps and folds of values that repeat along a kept axis happen before the repetition."""
    g = Builder()
    x, w = g.input("x", dtypes.float64, (3, 4)), g.input("w", dtypes.float64, (3,))
    cube = (3, 4, 5)
    times = g.map(
        "mul", g.broadcast(x, shape=cube, dims=(0, 1)), g.broadcast(w, shape=cube, dims=(0,))
    )
    graph = g.graph("f", (x, w), (g.fold("sum", times, axes=(0,)),))
    small = simplify(graph)
    assert all(d != 5 for n in small.nodes() if not isinstance(n, View) for d in n.shape)
    values = [np.arange(12.0).reshape(3, 4), np.array([1.0, -2.0, 0.5])]
    np.testing.assert_allclose(evaluate(small, values)[0], evaluate(graph, values)[0])
