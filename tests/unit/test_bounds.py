"""Positions outside an axis are an error on the CPU, as in numpy and torch, and nothing is read there."""

from __future__ import annotations

import numpy as np
import pytest

import tgc
from tgc.runtime.native import unavailable

NATIVE = pytest.param(
    "native", marks=pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
)
BACKENDS = pytest.mark.parametrize("backend", ["numpy", NATIVE])


def rows(x, index):
    return tgc.take_along_axis(x * 2, index, axis=-1)


def loss(x, label):
    return tgc.mean(
        tgc.logsumexp(x, axis=-1) - tgc.take_along_axis(x, label[:, None], axis=-1)[:, 0]
    )


@BACKENDS
@pytest.mark.parametrize("bad", [7, -8, 1 << 40, -(1 << 40)])
@pytest.mark.parametrize("function", [rows, loss])
def test_one_position_outside(function, bad: int, backend: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((50, 7)).astype("f4")
    index = rng.integers(-7, 7, 50)
    given = index if function is loss else index[:, None]
    compiled = tgc.jit(function, backend=backend)
    compiled(x, given)
    index[rng.integers(50)] = bad
    with pytest.raises(
        IndexError, match=r"out of bounds for an axis of size 7 \(test_bounds\.py:\d+: "
    ):
        compiled(x, given)


@BACKENDS
def test_positions_by_many_threads(backend: str, rng: np.random.Generator) -> None:
    x, index = rng.standard_normal((4, 5)).astype("f4"), rng.integers(0, 5, (4, 1_000_000))
    compiled = tgc.jit(rows, backend=backend)
    np.testing.assert_array_equal(compiled(x, index), 2 * np.take_along_axis(x, index, -1))
    index[3, 999_999] = 5
    with pytest.raises(IndexError, match="size 5"):
        compiled(x, index)


@BACKENDS
def test_second_of_two_gathers_says_its_own_size_and_line(backend: str) -> None:
    def both(x, y, i):
        first = tgc.take_along_axis(x, i, axis=0)
        return first % 2 + tgc.take_along_axis(y, i, axis=0)  # 100 % {of} "it"

    x, y = np.ones(5, "f4"), np.ones(3, "f4")
    compiled = tgc.jit(both, backend=backend)
    assert compiled(x, y, np.array([2, 1])).tolist() == [2, 2]
    with pytest.raises(
        IndexError, match=r'size 3 \(test_bounds\.py:\d+: return.*# 100 % {of} "it"\)'
    ):
        compiled(x, y, np.array([3, 1]))


@BACKENDS
def test_what_is_not_read_may_be_anything(backend: str, rng: np.random.Generator) -> None:
    """The second part of a concatenation is not there for positions of the first, nor the first for the second."""
    x, y = rng.standard_normal((2, 6)).astype("f4")
    index = np.array([0, 11, 5, 6, -1, -12])
    compiled = tgc.jit(
        lambda x, y, i: tgc.take_along_axis(np.concatenate([x, y]), i), backend=backend
    )
    np.testing.assert_array_equal(compiled(x, y, index), np.concatenate([x, y])[index])
    with pytest.raises(IndexError, match="size 12"):
        compiled(x, y, index + 1)


@BACKENDS
def test_an_empty_axis(backend: str) -> None:
    compiled = tgc.jit(rows, backend=backend)
    assert compiled(np.ones((3, 0), "f4"), np.zeros((3, 0), int)).shape == (3, 0)
    with pytest.raises(IndexError, match="size 0"):
        compiled(np.ones((3, 0), "f4"), np.zeros((3, 2), int))


@BACKENDS
def test_torch_counts_from_the_start_alone(backend: str) -> None:
    torch = pytest.importorskip("torch")
    x, index = torch.randn(3, 4), torch.tensor([[0], [-1], [2]])
    with pytest.raises((IndexError, RuntimeError)):
        torch.gather(x, 1, index)
    with pytest.raises(IndexError, match="size 4"):
        tgc.jit(lambda x, i: torch.gather(x, 1, i), backend=backend)(x, index)


@BACKENDS
def test_a_donated_array_is_overwritten_whole_or_not_at_all(backend: str) -> None:
    compiled = tgc.jit(
        lambda p, g, i: p - tgc.take_along_axis(g, i, axis=0),
        backend=backend,
        donate_argnames=("p",),
    )
    p, g, index = np.ones(300_000, "f4"), np.ones(5, "f4"), np.zeros(300_000, int)
    assert compiled(p, g, index) is p
    np.testing.assert_array_equal(p, 0)
    index[-1] = 9
    with pytest.raises(IndexError, match="size 5"):
        compiled(p, g, index)
    np.testing.assert_array_equal(p, 0)


@BACKENDS
def test_rows_behind_the_last_one_are_not_read(backend: str, rng: np.random.Generator) -> None:
    """Three rows are written out one by one; the row after the last is behind a mask."""

    def f(x):
        y = np.copy(x)
        y[:-1] += y[1:]
        return np.logical_and(np.logical_and(y, y), np.sum(x, axis=0) % 3)

    x = rng.standard_normal((3, 50_001)).astype("f4")
    np.testing.assert_array_equal(tgc.jit(f, backend=backend)(x), f(x))
