"""The reference evaluator against numpy and torch, kind by kind."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tgc.errors import ShapeError, UnsupportedOpError
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.evaluate import LAZY_ELEMENTS, evaluate, round_float, written
from tgc.ir.expressions import operations, parse, variables
from tgc.ir.nodes import Graph, Monoid
from tgc.ir.ops import OPS
from tgc.ir.references import scalar_reference

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 7))


def over_x(make) -> Graph:  # type: ignore[no-untyped-def]
    g = Builder()
    n, d = g.sizes("n d")
    x = g.input("x", "f64", (n, d))
    made = make(g, x, n, d)
    return g.graph("f", (x,), made if isinstance(made, tuple) else (made,))


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda g, x, n, d: g.map("exp", x), np.exp(X)),
        (lambda g, x, n, d: g.cast(x, "i32"), X.astype(np.int32)),
        (lambda g, x, n, d: g.cast(x, "bool"), X != 0),
        (
            lambda g, x, n, d: g.map("where", g.map("lt", x, g.like(x, 0)), g.like(x, 9), x),
            np.where(X < 0, 9, X),
        ),
        (lambda g, x, n, d: g.broadcast(x, shape=(3, n, d)), np.broadcast_to(X, (3, 5, 7))),
        (lambda g, x, n, d: g.permute(x, order=(1, 0)), X.T),
        (lambda g, x, n, d: g.reshape(x, shape=(n * d,)), X.ravel()),
        (lambda g, x, n, d: g.slice(x, start=(1, 0), stop=(n, d - 1), step=(2, 3)), X[1::2, :-1:3]),
        (lambda g, x, n, d: g.pad(x, before=(1, 0), after=(2, 3)), np.pad(X, ((1, 2), (0, 3)))),
        (lambda g, x, n, d: g.flip(x, axes=(1,)), X[:, ::-1]),
        (lambda g, x, n, d: g.fold("sum", x, axes=(0, 1)), X.sum()),
        (lambda g, x, n, d: g.fold("prod", x, axes=(0,)), X.prod(0)),
        (lambda g, x, n, d: g.fold("max", x, axes=(1,)), X.max(1)),
        (lambda g, x, n, d: g.fold("min", x, axes=(0,)), X.min(0)),
        (lambda g, x, n, d: g.fold("any", g.map("gt", x, g.like(x, 2)), axes=(1,)), (X > 2).any(1)),
        (lambda g, x, n, d: g.fold("all", g.map("lt", x, g.like(x, 1)), axes=(1,)), (X < 1).all(1)),
        (lambda g, x, n, d: g.fold("sum", x, axes=(1,), mode="scan"), X.cumsum(1)),
        (
            lambda g, x, n, d: g.fold("sum", x, axes=(0,), mode="scan", reverse=True),
            X[::-1].cumsum(0)[::-1],
        ),
        (
            lambda g, x, n, d: g.fold("max", x, axes=(0, 1), mode="scan"),
            np.maximum.accumulate(X.ravel()).reshape(5, 7),
        ),
        (lambda g, x, n, d: g.iota(1, (n, d)), np.broadcast_to(np.arange(7), (5, 7))),
        (lambda g, x, n, d: g.const(n * d + 1, "f64", (2,)), np.full(2, 36.0)),
    ],
)
def test_against_numpy(make, want: np.ndarray) -> None:  # type: ignore[no-untyped-def,type-arg]
    (got,) = evaluate(over_x(make), [X])
    assert got.shape == want.shape and got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-15)


def test_interior_padding() -> None:
    graph = over_x(lambda g, x, n, d: g.pad(x, before=(0, 1), after=(1, 0), interior=(1, 2)))
    (got,) = evaluate(graph, [X])
    want = np.zeros((10, 20))
    want[0:9:2, 1:20:3] = X
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "op", [name for name, spec in OPS.items() if spec.torch and "float" in spec.accepts]
)
def test_scalar_references_are_torchs(op: str) -> None:
    torch = pytest.importorskip("torch")
    spec = OPS[op]
    function = torch
    for part in (spec.torch or "").split("."):
        function = getattr(function, part)
    operands = [RNG.uniform(max(low, -2.5), min(high, 2.5), 200) for low, high in spec.domain]
    if op == "where":
        operands[0] = operands[0] > 0.5
    want = function(*(torch.tensor(x) for x in operands)).numpy()
    np.testing.assert_allclose(scalar_reference(op)(*operands), want, rtol=1e-13, atol=1e-300)


def test_integer_powers_are_torchs() -> None:
    torch = pytest.importorskip("torch")
    a, b = np.meshgrid(np.arange(-3, 4), np.arange(-3, 4))
    kept = (a != 0) | (b >= 0)
    got = scalar_reference("pow")(a[kept], b[kept])
    np.testing.assert_array_equal(
        got, torch.pow(torch.tensor(a[kept]), torch.tensor(b[kept])).numpy()
    )


def test_an_operation_without_ufunc_uses_its_expansion(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setitem(
        OPS, "twice_plus", replace(OPS["fma"], name="twice_plus", expansion="add(mul(2, a), b)")
    )
    np.testing.assert_array_equal(
        scalar_reference("twice_plus")(np.array(3.0), np.array(4.0)), 10.0
    )
    with pytest.raises(UnsupportedOpError, match="no_such_op"):
        scalar_reference("no_such_op")


def test_each_node_in_its_own_dtype() -> None:
    g = Builder()
    x = g.input("x", "f32", (3,))
    tenth = g.map("mul", x, g.like(x, 0.1))
    graph = g.graph("f", (x,), (tenth, g.cast(tenth, "f16"), g.map("exp", g.like(x, 89.0))))
    values = np.array([1, 3, 7], np.float32)
    one, half, over = evaluate(graph, [values], None)
    np.testing.assert_array_equal(one, values * np.float32(0.1))
    assert one.dtype == np.float32 and half.dtype == np.float16
    np.testing.assert_array_equal(half, one.astype(np.float16))
    assert np.isinf(over).all()
    assert np.isfinite(evaluate(graph, [values])[2]).all()


def test_bfloat16_rounds_to_nearest_even() -> None:
    import ml_dtypes

    bits = RNG.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32)
    ties = (np.arange(65536, dtype=np.uint32) << 16) | 0x8000
    x = np.concatenate([bits, ties]).view(np.float32)
    with np.errstate(all="ignore"):
        want = x.astype(ml_dtypes.bfloat16).astype(np.float64)
        got = round_float(x.astype(np.float64), dtypes.bfloat16)
    np.testing.assert_array_equal(got, want)
    assert (np.signbit(got) == np.signbit(want))[~np.isnan(want)].all()


def test_bfloat16_results_have_that_type() -> None:
    import ml_dtypes

    g = Builder()
    x = g.input("x", "bf16", (2,))
    (got,) = evaluate(g.graph("f", (x,), (g.map("add", x, x),)), [np.array([1.0, 1.01])], None)
    assert got.dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("n", [3, 200])
def test_contractions_do_not_form_the_product(n: int) -> None:
    g = Builder()
    a, b, c = g.input("a", "f32", (n, n)), g.input("b", "f32", (n, n)), g.input("c", "f32", (n,))
    big = (4, n, n, n)
    product = g.map(
        "mul", g.broadcast(a, shape=big, dims=(1, 2)), g.broadcast(b, shape=big, dims=(2, 3))
    )
    product = g.map("mul", product, g.broadcast(c, shape=big, dims=(2,)))
    graph = g.graph("f", (a, b, c), (g.fold("sum", product, axes=(0, 2)),))
    x, y, z = RNG.normal(size=(n, n)), RNG.normal(size=(n, n)), RNG.normal(size=n)
    assert (4 * n**3 > LAZY_ELEMENTS) == (n == 200)
    np.testing.assert_allclose(evaluate(graph, [x, y, z])[0], 4 * (x * z) @ y, rtol=1e-9, atol=1e-9)


def test_a_product_that_is_also_a_result_is_formed() -> None:
    g = Builder()
    x = g.input("x", "f64", (200, 200))
    product = g.map("mul", x, x)
    got, total = evaluate(
        g.graph("f", (x,), (product, g.fold("sum", product, axes=(0, 1)))),
        [np.full((200, 200), 2.0)],
    )
    assert got.shape == (200, 200) and total == 160_000


def test_take_and_put_are_transposes() -> None:
    g = Builder()
    x, index = g.input("x", "f64", (4, 3)), g.input("index", "i64", (4, 5))
    y = g.input("y", "f64", (4, 5))
    graph = g.graph(
        "f", (x, index, y), (g.take(x, index, axis=1), g.put(y, index, axis=1, extent=3))
    )
    where = RNG.integers(-1, 4, (4, 5))  # some out of range: read as zero, and dropped
    a, b = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 5))
    taken, put = evaluate(graph, [a, where, b])
    hot = (where[:, :, None] == np.arange(3)).astype(float)
    np.testing.assert_allclose(taken, np.einsum("ijk,ik->ij", hot, a))
    np.testing.assert_allclose(put, np.einsum("ijk,ij->ik", hot, b))


def welford() -> Monoid:
    """Count, mean and sum of squared deviations (Chan et al.)."""
    inner = Builder()
    na, ma, sa, nb, mb, sb = (
        inner.input(name, "f64", ()) for name in ("na", "ma", "sa", "nb", "mb", "sb")
    )
    n = inner.map("add", na, nb)
    share = inner.map("div", nb, inner.map("maximum", n, inner.const(1.0, "f64")))
    delta = inner.map("sub", mb, ma)
    mean = inner.map("add", ma, inner.map("mul", delta, share))
    across = inner.map("mul", inner.map("mul", inner.map("square", delta), na), share)
    total = inner.map("add", inner.map("add", sa, sb), across)
    return Monoid(
        "welford", (0.0, 0.0, 0.0), inner.graph("m", (na, ma, sa, nb, mb, sb), (n, mean, total))
    )


def test_tuple_folds() -> None:
    def make(g, x, n, d):  # type: ignore[no-untyped-def]
        monoid = welford()
        xs = (g.like(x, 1), x, g.like(x, 0))
        return tuple(g.fold(monoid, *xs, axes=(1,), output=i) for i in range(3)) + (
            g.fold(monoid, *xs, axes=(1,), mode="scan", output=1),
        )

    count, mean, squares, running = evaluate(over_x(make), [X])
    np.testing.assert_array_equal(count, np.full(5, 7.0))
    np.testing.assert_allclose(mean, X.mean(1))
    np.testing.assert_allclose(squares, X.var(1) * 7)
    np.testing.assert_allclose(running, X.cumsum(1) / np.arange(1, 8))


@pytest.mark.parametrize("reverse", [False, True])
def test_sequential_folds_carry(reverse: bool) -> None:
    inner = Builder()
    h, x, w = (inner.input(name, "f64", ()) for name in "hxw")
    step = inner.map("tanh", inner.map("add", inner.map("mul", h, w), x))
    monoid = Monoid("rnn", (0.5,), inner.graph("step", (h, x, w), (step,)), associative=False)
    g = Builder()
    x, w = g.input("x", "f64", (4, 6)), g.input("w", "f64", (4, 6))
    graph = g.graph(
        "f", (x, w), (g.fold(monoid, x, w, axes=(0,), mode="sequential", reverse=reverse),)
    )
    a, b = RNG.normal(size=(4, 6)), RNG.normal(size=(4, 6))
    (got,) = evaluate(graph, [a, b])
    h = np.full(6, 0.5)
    for i in reversed(range(4)) if reverse else range(4):
        h = np.tanh(h * b[i] + a[i])
        np.testing.assert_allclose(got[i], h)


@pytest.mark.parametrize(
    ("monoid", "dtype", "want"),
    [
        ("sum", "f64", 0),
        ("prod", "f64", 1),
        ("max", "f64", -np.inf),
        ("min", "f64", np.inf),
        ("max", "i8", -128),
        ("any", "bool", False),
        ("all", "bool", True),
    ],
)
def test_folds_over_nothing(monoid: str, dtype: str, want: float) -> None:
    g = Builder()
    x = g.input("x", dtype, (0, 2))
    (got,) = evaluate(g.graph("f", (x,), (g.fold(monoid, x, axes=(0,)),)), [np.zeros((0, 2))])
    np.testing.assert_array_equal(got, [want, want])


def test_max_passes_nan_on() -> None:
    g = Builder()
    x = g.input("x", "f64", (3,))
    graph = g.graph("f", (x,), (g.fold("max", x, axes=(0,)), g.map("maximum", x, g.like(x, 5))))
    top, each = evaluate(graph, [np.array([1, np.nan, 2])])
    assert math.isnan(top) and math.isnan(each[1])


def test_writes_are_evaluated() -> None:
    g = Builder()
    x = g.input("x", "f32", (2,))
    graph = g.graph("f", (x,), (), writes=((x, g.map("neg", x)),))
    np.testing.assert_array_equal(written(graph, [np.array([1.0, 2.0])])[0], [-1, -2])
    assert evaluate(graph, [np.array([1.0, 2.0])]) == []


def test_sort_is_stable_and_puts_nan_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    x = RNG.integers(0, 3, (4, 9)).astype(float)
    x[1, 4] = np.nan
    for descending in (False, True):
        g = Builder()
        leaf = g.input("x", "f64", (4, 9))
        params = {"axis": 1, "descending": descending}
        both = [
            g.call("sort", leaf, dtype=t, shape=(4, 9), params=params, output=i)
            for i, t in enumerate(("f64", "i64"))
        ]
        values, order = evaluate(g.graph("f", (leaf,), tuple(both)), [x])
        want = torch.sort(torch.tensor(x), dim=1, descending=descending, stable=True)
        np.testing.assert_array_equal(values, want.values.numpy())
        np.testing.assert_array_equal(order, want.indices.numpy())
    g = Builder()
    with pytest.raises(UnsupportedOpError, match="quicksort"):
        evaluate(g.graph("f", (), (g.call("quicksort", dtype="f32", shape=()),)), [])


def test_shapes_bind_sizes_and_must_agree() -> None:
    g = Builder()
    n, m = g.sizes("n m")
    x, y = g.input("x", "f64", (n, 2 * m)), g.input("y", "f64", (n, m))
    graph = g.graph("f", (x, y), (g.const(n * 10 + m, "i64"),))
    assert evaluate(graph, [np.zeros((3, 4)), np.zeros((3, 2))])[0] == 32
    for shapes in (((3, 4), (4, 2)), ((3, 5), (3, 2)), ((3, 4), (3,))):
        with pytest.raises(ShapeError):
            evaluate(graph, [np.zeros(s) for s in shapes])
    with pytest.raises(ShapeError, match="takes 2 arrays"):
        evaluate(graph, [np.zeros((3, 4))])


def test_expression_text() -> None:
    tree = parse("where(and(eq(a, 0), not(lt(b, -1.5))), inf, mul(a, log(b)))")
    assert list(operations(tree)) == ["where", "and", "eq", "not", "lt", "mul", "log"]
    assert list(variables(tree)) == ["a", "b", "a", "b"]
    for text in ("a + b", "f(x)(y)", "f(a, key=1)", "[a]", "'text'", "f(-a)"):
        with pytest.raises(ValueError, match="not an"):
            parse(text)
