"""Small results are made by the operation that writes them first, large ones lie in memory that is recycled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tgc
from tgc.codegen.numpy import SMALL
from tgc.runtime import memory

Array = Any
LIMIT = SMALL // 4  # elements of float32


def values(count: int, dtype: Any = np.float32) -> Array:
    return np.linspace(-3, 3, count, dtype=dtype)


def gate(x: Array, y: Array) -> Any:
    """Two results, of which one is scratch of the other first."""
    e = tgc.exp(-x)
    return y / (1 + e), x * y * e


def test_small_is_what_is_not_recycled() -> None:
    assert SMALL == memory.LEAST


@pytest.mark.parametrize("count", [0, 1, 1000, LIMIT - 1, LIMIT, LIMIT + 1, 300_000])
def test_on_both_sides_of_the_limit(count: int) -> None:
    x, y = values(count), values(count)[::-1].copy()
    f = tgc.jit(gate, backend="numpy")
    assert (f"None if n < {LIMIT} else" in f.lower(x, y).script) == (count > 1)  # those are known
    e = np.exp(-x)
    for found, wanted in zip(f(x, y), (y / (1 + e), x * y * e), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        assert found.flags.owndata == (count < LIMIT)
        assert found.dtype == np.float32 and found.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_result_is_an_array_of_its_own(dtype: Any) -> None:
    x = values(100, dtype)
    f = tgc.jit(lambda x: x + 2, backend="numpy")
    first, second = f(x), f(x)
    np.testing.assert_array_equal(first, x + dtype(2))
    assert first.dtype == dtype and not np.shares_memory(first, second)
    assert not np.shares_memory(first, x)


def test_results_of_other_dtypes_than_the_operands() -> None:
    x = values(100)
    f = tgc.jit(lambda x: (x > 0, (x > 0) + x), backend="numpy")
    positive, total = f(x)
    assert positive.dtype == bool and total.dtype == np.float32
    np.testing.assert_array_equal(positive, x > 0)
    np.testing.assert_array_equal(total, (x > 0) + x)


def test_numbers_decide_no_dtype() -> None:
    """A number is as precise as the array beside it."""
    x = values(100)
    f = tgc.jit(lambda x, rate: x * rate, backend="numpy")
    for rate in (0.1, np.float32(0.1), np.float64(0.1), 3):
        assert f(x, rate).dtype == (x * rate).dtype


def test_donated_memory_is_written() -> None:
    p, g = values(100), values(100)
    step = tgc.jit(lambda p, g: p - 0.5 * g, backend="numpy", donate_argnames=("p",))
    wanted = p - np.float32(0.5) * g
    assert step(p, g) is p
    np.testing.assert_allclose(p, wanted)


def test_a_result_that_a_product_reads_too() -> None:
    x, w = values(100), values(100)
    f = tgc.jit(lambda x, w: (x * 2, (x * 2) @ w), backend="numpy")
    double, total = f(x, w)
    np.testing.assert_allclose(double, x * 2)
    np.testing.assert_allclose(total, (x * 2) @ w, rtol=1e-5)
