"""Matrix products beside kernels: right for any order of memory, the library left as it was."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

import numpy as np
import pytest

import tgc

pytest.importorskip("llvmlite")

from tgc.codegen.native.rows import followed
from tgc.runtime import blas, products


@pytest.fixture(params=["numpy", "torch"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> blas.Library:
    """Each that a process may have; once it has been found."""
    if request.param == "torch":
        pytest.importorskip("torch")
    else:
        monkeypatch.setattr(blas, "loaded_torch", lambda: None)
    found = blas.library()
    if found is None or (found.name == "MKL") != (request.param == "torch"):
        pytest.skip(f"{request.param} has no library whose threads can be told to rest")
    return found


def factors(
    m: int, k: int, n: int, order: str = "CC", dtype: str = "float32"
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(m + k + n)
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    a, b = (np.asarray(x, dtype, order=o) for x, o in zip((a, b), order))
    return a, b


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How products were made that numpy did not make; few rows are enough for a kernel to follow."""
    made: list[str] = []

    class Watched(products._Product):
        def __init__(self, *given: Any, run: str, **values: int) -> None:
            super().__init__(*given, run=run, **values)
            made.append(run)

    monkeypatch.setattr(products, "PROGRAMS", 4)
    monkeypatch.setattr(products, "LOWEST", 32)
    monkeypatch.setattr(products, "_Product", Watched)
    return made


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
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [192, 256, 1000])
def test_kernels_follow_products(
    function: str, dtype: str, width: int, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are those of the product as a whole, and the same bits on any number of threads."""
    if (function, width) == ("flat", 1000):
        pytest.skip("4096 elements are no rows of 1000")
    x, w = factors(700, 200, width, dtype=dtype)
    b = np.linspace(-1, 1, width, dtype=dtype)
    several = []
    for threads in (1, 2, 3):
        with tgc.settings(threads=threads):
            several.append(as_tuple(tgc.jit(FOLLOWERS[function], backend="native")(x, w, b)))
    assert taken == ["panels"] * 3
    monkeypatch.setattr(products, "LEAST", 1 << 60)
    whole = as_tuple(tgc.jit(FOLLOWERS[function], backend="native")(x, w, b))
    assert len(taken) == 3
    tolerance = 1e-3 if dtype == "float32" else 1e-10
    for one, *others, right in zip(*several, whole, strict=True):
        assert all(np.array_equal(one, other) for other in others)
        np.testing.assert_allclose(one, right, rtol=tolerance, atol=tolerance)


def as_tuple(results: object) -> tuple[object, ...]:
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize("order", ["CC", "CF", "FC", "FF", "parts"])
def test_factors_lie_in_any_order(order: str, taken: list[str]) -> None:
    """Rows or columns are contiguous, also as part of a larger array."""
    if order == "parts":
        a, b = factors(700, 300, 400)
        x, w = a[:, 50:250], b[30:230, 17:209]
    else:
        x, w = factors(700, 200, 192, order)

    def turned_inside(x, w, b):  # type: ignore[no-untyped-def]
        z = (x.T if order[0] == "F" else x) @ (w.T if order[1] == "F" else w)
        return tgc.tanh(z + b)

    b = np.linspace(-1, 1, 192, dtype=np.float32)
    given = (x.T if order[0] == "F" else x, w.T if order[1] == "F" else w)
    y = tgc.jit(turned_inside, backend="native")(*given, b)
    assert taken == ["panels"]
    np.testing.assert_allclose(y, np.tanh(x.astype(np.float64) @ w + b), atol=1e-4)


def threads_of(library: blas.Library) -> int:
    """How many threads a product of the calling thread may use; 0 is as many as there are."""
    if library.threads:
        return ctypes.CFUNCTYPE(ctypes.c_int)(library.threads)()
    change = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(library.set_threads)
    before = change(1)
    change(before)
    return before


def test_few_rows_are_not_multiplied_where_lines_of_the_cache_collide(
    library: blas.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MKL by OpenBLAS there."""
    assert (
        blas.library(64, 4 * 4112) == blas.library(64, 0) == blas.library(256, 4 * 4096) == library
    )
    instead = blas.library(64, 4 * 4096)
    assert instead is not None and instead == (blas._of_numpy() or library)
    used: list[str] = []

    def watched(lines: int = blas.COPIED, apart: int = 0) -> blas.Library | None:
        found = blas.library(lines, apart)
        assert found is not None
        used.append(found.name)
        return found

    monkeypatch.setattr(products, "library", watched)
    for shape in ((64, 700, 2048), (64, 700, 2064), (2064, 700, 64)):
        a, b = factors(*shape)
        out = np.empty((shape[0], shape[2]), np.float32)
        with tgc.settings(threads=2):
            products.matmul(a, b, out=out)
        assert used[-1] == (instead if shape[2] == 2048 else library).name
        np.testing.assert_allclose(out, a.astype(np.float64) @ b, atol=1e-3)


def test_the_library_has_its_threads_back(library: blas.Library) -> None:
    """Also where several calls are under way at once."""
    before = threads_of(library)
    x, w = factors(4096, 128, 256)
    b = np.zeros(256, np.float32)
    compiled = tgc.jit(linear, backend="native")
    right = np.tanh(x.astype(np.float64) @ w)
    wrong: list[float] = []

    def work() -> None:
        for _ in range(20):
            error = abs(compiled(x, w, b) - right).max()
            if not error < 1e-4:
                wrong.append(error)

    several = [threading.Thread(target=work) for _ in range(4)]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    assert not wrong
    assert threads_of(library) == before
    assert list(products._users)[:2] == [0, 0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_has_the_librarys_threads(library: blas.Library) -> None:
    """A fork while a product is under way in another thread."""
    before = threads_of(library)
    a, b = factors(4000, 500, 600)
    out, over = np.empty((4000, 600), np.float32), threading.Event()

    def work() -> None:
        with tgc.settings(threads=2):
            while not over.is_set():
                products.matmul(a, b, out=out)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        while library.threads and products._users[1] == 0:
            pass
        child = os.fork()
        if child == 0:
            os._exit(list(products._users)[:3] != [0, 0, 0] or threads_of(library) != before)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        over.set()
        worker.join()


@pytest.mark.parametrize("function", [chosen, turned])
def test_others_read_the_product_as_a_whole(function: object) -> None:
    x, w = factors(700, 300, 192)
    b = np.zeros(192, np.float32)
    plan = tgc.jit(function, backend="native").lower(x, w, b).plans[0]
    assert not list(followed(plan))


@pytest.mark.parametrize("order", ["CC", "CF", "FC", "FF", "parts"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "m, k, n", [(700, 200, 192), (90, 500, 701), (4001, 1300, 3), (3, 1300, 4001)]
)
def test_shares_are_the_product(
    m: int, k: int, n: int, dtype: str, order: str, taken: list[str]
) -> None:
    """Of rows and of columns, on any number of threads, into an output that is a part of something larger too."""
    a, b = factors(m, k, n, "CC" if order == "parts" else order, dtype)
    if order == "parts":
        a, b = np.pad(a, ((0, 0), (7, 5)))[:, 7:-5], np.pad(b, ((0, 0), (3, 9)))[:, 3:-9]
    right = a.astype(np.float64) @ b.astype(np.float64)
    for threads in (2, 3):
        room = np.full((m, n + 11), np.nan, dtype)
        with tgc.settings(threads=threads):
            products.matmul(a, b, out=room[:, 4 : n + 4])
        np.testing.assert_allclose(room[:, 4 : n + 4], right, atol=1e-3)
        assert np.isnan(room[:, :4]).all() and np.isnan(room[:, n + 4 :]).all()
    assert taken == ["limited"] * 2


def test_what_cannot_be_shared_is_numpys(taken: list[str]) -> None:
    """Small products, factors that lie backwards, other types, and outputs that are factors."""
    a, b = factors(300, 300, 300)
    for left, right in (
        (a[:9], b),
        (np.stack([a[:9]] * 3), b),
        (a[:, ::-1], b),
        (a.astype(np.float16), b.astype(np.float16)),
        (a, b.astype(np.float64)),
    ):
        out = np.empty(np.matmul(left, right).shape, np.result_type(left, right))
        products.matmul(left, right, out=out)
        assert np.array_equal(out, np.matmul(left, right))
    right = a @ b
    products.matmul(a, b, out=a)
    assert np.array_equal(a, right)
    with tgc.settings(threads=1):
        products.matmul(right, b, out=a)
    assert not taken


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "left, right",
    [
        ((12, 64, 90), (12, 90, 80)),
        ((3, 5, 33, 90), (3, 5, 90, 201)),
        ((2, 1, 197, 70), (7, 70, 64)),
        ((70, 150), (3, 5, 150, 101)),
        ((2, 400, 150), (150, 300)),
        ((1, 4, 120, 120), (5, 1, 120, 120)),
    ],
)
def test_shares_of_stacks(
    left: tuple[int, ...], right: tuple[int, ...], dtype: str, taken: list[str]
) -> None:
    """Broadcast, turned, every second matrix, into a part of something larger; each matrix is another."""
    rng = np.random.default_rng(len(left) + right[-1])
    a, b = rng.standard_normal(left).astype(dtype), rng.standard_normal(right).astype(dtype)
    turned = np.ascontiguousarray(b.swapaxes(-1, -2)).swapaxes(-1, -2)
    apart = np.repeat(a, 2, axis=0)[::2] if len(left) > 2 else a
    expected = a.astype(np.float64) @ b.astype(np.float64)
    for x, w in ((a, b), (apart, turned)):
        for threads in (2, 3, 40):
            room = np.full((*expected.shape[:-1], expected.shape[-1] + 11), np.nan, dtype)
            with tgc.settings(threads=threads):
                products.matmul(x, w, out=room[..., 4:-7])
            np.testing.assert_allclose(room[..., 4:-7], expected, atol=1e-3)
            assert np.isnan(room[..., :4]).all() and np.isnan(room[..., -7:]).all()
    assert taken == ["limited"] * 6


def attention(q, k, mask):  # type: ignore[no-untyped-def]
    s = q @ k.swapaxes(-1, -2) + mask
    e = tgc.exp(s - tgc.max(s, axis=-1, keepdims=True))
    return e / tgc.sum(e, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    "queries, keys, mask",
    [
        ((8, 8, 128, 64), (8, 8, 128, 64), (1,)),
        ((8, 8, 128, 64), (8, 8, 128, 64), (128, 128)),
        ((8, 8, 64, 32), (8, 8, 96, 32), (1,)),
        ((5, 4, 197, 64), (5, 4, 197, 64), (1,)),
        ((2, 1000, 80), (80, 80), (80,)),
    ],
)
def test_kernels_follow_stacks(
    queries: tuple[int, ...],
    keys: tuple[int, ...],
    mask: tuple[int, ...],
    taken: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of one matrix after the other; what is read for each is of its own matrix. Or as a whole, the same."""
    rng = np.random.default_rng(sum(queries))
    args = [rng.standard_normal(shape).astype(np.float32) for shape in (queries, keys, mask)]
    function = tgc.jit(attention, backend="native")
    several = []
    for threads in (1, 2, 3):
        with tgc.settings(threads=threads):
            several.append(function(*args))
    assert taken == ["panels"] * 3
    s = args[0].astype(np.float64) @ args[1].swapaxes(-1, -2).astype(np.float64) + args[2]
    e = np.exp(s - s.max(-1, keepdims=True))
    monkeypatch.setattr(products, "LOWEST", 1 << 60)
    for result in (several[0], function(*args)):
        np.testing.assert_allclose(result, e / e.sum(-1, keepdims=True), rtol=1e-3, atol=1e-6)
    assert np.array_equal(several[0], several[1]) and np.array_equal(several[0], several[2])


def test_products_beside_kernels_are_shared(taken: list[str]) -> None:
    """Where there is nothing but a product numpy's library does as well, but not with a stack."""

    def both(x, w, b):  # type: ignore[no-untyped-def]
        return tgc.tanh(x @ w + b), x.T @ x

    x, w = factors(700, 200, 192)
    with tgc.settings(threads=2):
        tgc.jit(both, backend="native")(x, w, np.zeros(192, np.float32))
        assert sorted(taken) == ["limited", "panels"]
        tgc.jit(lambda x, w: (x @ w, x.T @ x), backend="native")(x, w)
        assert len(taken) == 2
        stack = np.stack([x, x + 1])
        y = tgc.jit(lambda x: x @ x.swapaxes(-1, -2), backend="native")(stack)
    assert taken[2:] == ["limited"]
    np.testing.assert_allclose(y, stack @ stack.swapaxes(-1, -2), atol=1e-3)


@pytest.mark.parametrize("donated", ["x", "w"])
def test_a_factor_is_not_overwritten_while_rows_of_it_are_wanted(
    donated: str, taken: list[str]
) -> None:
    x, w = factors(512, 512, 512)
    right = np.tanh(x.astype(np.float64) @ w)
    result = tgc.jit(lambda x, w: tgc.tanh(x @ w), backend="native", donate_argnames=(donated,))(
        x, w
    )
    assert result is {"x": x, "w": w}[donated]
    np.testing.assert_allclose(result, right, atol=1e-3)
