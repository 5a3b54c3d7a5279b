"""Matrix products of our own: right for any size, order of memory and register width, the same on any threads."""

from __future__ import annotations

import numpy as np
import pytest

import tgc

pytest.importorskip("llvmlite")

from tgc.codegen.native.products import Shape
from tgc.codegen.native.rows import followed
from tgc.ir import dtypes
from tgc.runtime import products
from tgc.runtime.objects import features
from tgc.runtime.products import matmul

TILES = {"avx512": (64, 12), "avx2": (32, 6), "sse": (16, 4)}
SIZES = [(1, 1, 1), (12, 32, 16), (13, 5, 33), (37, 300, 65), (250, 513, 100), (240, 17, 300)]

if not features().get("avx2"):
    pytest.skip("products are numpy's on this processor", allow_module_level=True)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of any size are ours, and numpy's are an error."""
    monkeypatch.setattr(products, "LEAST", 0)
    monkeypatch.setattr(products, "SIDE", 0)
    monkeypatch.setattr(products.np, "matmul", None)


def factors(m: int, k: int, n: int, order: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(m + k + n)
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    a, b = (np.asarray(x, dtype, order=o) for x, o in zip((a, b), order))
    return a, b


def product(a: np.ndarray, b: np.ndarray, threads: int = 2) -> np.ndarray:
    """The product; what lies around the result is untouched."""
    m, n = len(a), b.shape[1]
    room = np.full(m * n + 200, 7, a.dtype)
    out = room[100:-100].reshape(m, n)
    out[:] = np.nan
    with tgc.settings(threads=threads):
        matmul(a, b, out=out)
    assert (room[:100] == 7).all() and (room[-100:] == 7).all()
    return out


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ["CC", "CF", "FC", "FF"])
def test_products_are_right(
    tile: str, dtype: str, order: str, always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every register width this processor can stand in for."""
    if tile == "avx512" and not features().get("avx512f"):
        pytest.skip("no such registers")
    shape = Shape(getattr(dtypes, dtype), *TILES[tile])
    monkeypatch.setattr(products, "_shape", lambda name: shape)
    for m, k, n in SIZES:
        a, b = factors(m, k, n, order, dtype)
        right = a.astype(np.longdouble) @ b.astype(np.longdouble)
        scale = np.abs(a).astype(np.longdouble) @ np.abs(b).astype(np.longdouble)
        error = np.abs(product(a, b) - right) / scale
        assert error.max() < 8 * np.finfo(dtype).eps, (m, k, n)


def test_rows_may_lie_apart(always: None) -> None:
    """Factors are parts of larger arrays, also backwards."""
    a, b = factors(100, 90, 80, "CC", "float32")
    whole = product(a[::-2, 10:50], b[5:85:2, 3:70])
    np.testing.assert_allclose(whole, a[::-2, 10:50].copy() @ b[5:85:2, 3:70].copy(), rtol=2e-4)


def test_each_element_sees_its_row_and_column_alone(always: None) -> None:
    """What fills up tiles adds nothing: not even to an infinity."""
    a, b = factors(30, 40, 50, "CC", "float32")
    clean = product(a, b)
    a[7, 3], b[11, 45] = np.inf, np.nan
    marked = product(a, b)
    touched = np.zeros(clean.shape, bool)
    touched[7] = touched[:, 45] = True
    assert not np.isfinite(marked[touched]).any()
    assert (marked[~touched] == clean[~touched]).all()


def test_threads_leave_no_trace(always: None) -> None:
    a, b = factors(700, 600, 500, "CF", "float32")
    alone = product(a, b, threads=1)
    assert all((product(a, b, threads) == alone).all() for threads in (2, 3, 5))


def test_numpy_takes_what_is_small_or_strange() -> None:
    """Stacks, other types, and factors in no order of memory."""
    a, b = factors(256, 256, 256, "CC", "float32")
    for left, right in (
        (a[:4], b),
        (np.stack([a, a]), b),
        (a.astype(np.int32), b.astype(np.int32)),
        (a.astype(np.complex64), b.astype(np.complex64)),
        (np.repeat(a, 2, 1)[:, ::2], b),
    ):
        out = np.empty(np.matmul(left, right).shape, left.dtype)
        matmul(left, right, out=out)
        assert (out == np.matmul(left, right)).all()


def test_compiled_functions_multiply_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward: three products, each with another factor on its side."""
    seen = set()
    module = products._module

    def watched(shape, left_by_rows, right_by_rows):  # type: ignore[no-untyped-def]
        seen.add((left_by_rows, right_by_rows))
        return module(shape, left_by_rows, right_by_rows)

    monkeypatch.setattr(products, "_module", watched)

    def loss(x, w):  # type: ignore[no-untyped-def]
        return tgc.sum(tgc.tanh(x @ w))

    x, w = factors(256, 256, 256, "CC", "float32")
    dx, dw = tgc.jit(tgc.grad(loss, argnums=(0, 1)), backend="native")(x, w)
    slope = 1 - np.tanh(x.astype(np.float64) @ w) ** 2
    np.testing.assert_allclose(dx, slope @ w.T, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(dw, x.T @ slope, rtol=1e-3, atol=1e-3)
    assert seen == {(False, True), (True, False), (True, True)}


# --- kernels that follow a product row by row -----------------------------------------------------------------------


def linear(x, w, b):  # type: ignore[no-untyped-def]
    return tgc.tanh(x @ w + b)


def flat(x, w, b):  # type: ignore[no-untyped-def]
    return tgc.maximum(x @ w, 0.0)


def scores(x, w, b):  # type: ignore[no-untyped-def]
    z = x @ w + b
    e = tgc.exp(z - tgc.max(z, axis=-1, keepdims=True))
    return e / tgc.sum(e, axis=-1, keepdims=True)


def picked(x, w, b):  # type: ignore[no-untyped-def]
    """The kernel has a result of its own: whether a position was outside."""
    place = tgc.astype(tgc.abs(b) * 10, "int64")
    return tgc.tanh(x @ w + tgc.take_along_axis(b, place, axis=0))


def columns(x, w, b):  # type: ignore[no-untyped-def]
    z = tgc.tanh(x @ w)
    return z, tgc.sum(z, axis=0)


def chosen(x, w, b):  # type: ignore[no-untyped-def]
    """A row is read where a position in it says."""
    return tgc.take_along_axis(x @ w, tgc.argmax(b + x[:, :1], axis=-1)[:, None], axis=-1)[:, 0]


def turned(x, w, b):  # type: ignore[no-untyped-def]
    """The kernel reads columns."""
    return tgc.tanh(x @ w).T + 0.0


FOLLOWERS = {f.__name__: f for f in (linear, flat, scores, picked, columns)}


@pytest.mark.parametrize("function", FOLLOWERS)
@pytest.mark.parametrize("width", [192, 256, 1000])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_kernels_follow_products(
    function: str, width: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are those of the product as a whole, to the bit, which is not made where rows fit a program."""
    if (function, width) == ("flat", 1000):
        pytest.skip("4096 elements are no rows of 1000")
    monkeypatch.setattr(products, "PROGRAMS", 4)
    compiled = tgc.jit(FOLLOWERS[function], backend="native")
    x, w = factors(700, 300, width, "CC", "float32")
    b = np.linspace(-1, 1, width, dtype=np.float32)
    with tgc.settings(threads=threads):
        with monkeypatch.context() as patched:
            patched.setattr(products, "_multiply", None)
            results = compiled(x, w, b)
        monkeypatch.setattr(products, "TALL", 0)
        whole = compiled(x, w, b)
    for one, other in zip(as_tuple(results), as_tuple(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    z = np.tanh(x.astype(np.float64) @ w + b)
    if function == "linear":
        np.testing.assert_allclose(results, z, atol=1e-4)


def as_tuple(results: object) -> tuple[object, ...]:
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize("function", [chosen, turned])
def test_others_read_the_product_as_a_whole(function: object) -> None:
    x, w = factors(700, 300, 192, "CC", "float32")
    b = np.zeros(192, np.float32)
    plan = tgc.jit(function, backend="native").lower(x, w, b).plans[0]
    assert not list(followed(plan))


@pytest.mark.parametrize("donated", ["x", "w"])
def test_a_factor_is_not_overwritten_while_rows_of_it_are_wanted(donated: str) -> None:
    x, w = factors(512, 512, 512, "CC", "float32")
    right = np.tanh(x.astype(np.float64) @ w)
    result = tgc.jit(lambda x, w: tgc.tanh(x @ w), backend="native", donate_argnames=(donated,))(
        x, w
    )
    assert result is {"x": x, "w": w}[donated]
    np.testing.assert_allclose(result, right, atol=1e-3)
