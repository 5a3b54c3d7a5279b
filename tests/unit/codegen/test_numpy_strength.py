"""Cheaper calls for the same value, and scalars by operators: what is called, and that values stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tgc

Array = Any
FAR = np.array(
    [-np.inf, -200, -104, -95, -88, -17, -0.0, 0, 1e-40, 3, 88, 89, 95, 104, 200, np.inf]
)


def calls(function: Callable[..., Array], *args: Array) -> list[str]:
    """The names of the ufuncs in the source."""
    source = tgc.jit(function, backend="numpy").lower(*args).source
    return re.findall(r"np\.([a-z0-9]+)\(", source.partition("_kernel")[2])


def both(x: Array) -> Array:
    """A sigmoid and its derivative."""
    return tgc.value_and_grad(lambda x: tgc.sum(1.0 / (1.0 + tgc.exp(-x))))(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_exponential_of_two_opposite(dtype: Any) -> None:
    x = np.concatenate([FAR, np.linspace(-110, 110, 999)]).astype(dtype)
    assert calls(both, x).count("exp") == 1
    _, slope = tgc.jit(both, backend="numpy")(x)
    with np.errstate(over="ignore", under="ignore"):
        e = np.exp(-np.abs(x.astype(np.float64)))
    wanted = e / (1 + e) / (1 + e)
    np.testing.assert_allclose(slope, wanted, rtol=2e-6, atol=2 * np.finfo(dtype).tiny)


def test_no_negation_for_an_exponential_that_has_an_opposite(rng: np.random.Generator) -> None:
    x = rng.standard_normal(50).astype(np.float32)
    assert "negative" not in calls(both, x)


def test_exponentials_of_opposite_multiples_are_one(rng: np.random.Generator) -> None:
    def halves(x: Array) -> Array:
        return 1 / (1 + tgc.exp(1.5 * x)), tgc.sqrt(3 + tgc.exp(-1.5 * x)), tgc.exp(2.0 * x)

    x = np.concatenate([FAR, rng.standard_normal(50)]).astype(np.float32)
    assert calls(halves, x).count("exp") == 2
    wide = x.astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        rise, fall, twice = (np.exp(c * wide).astype(np.float32) for c in (1.5, -1.5, 2))
        wanted = 1 / (1 + rise), np.sqrt(3 + fall), twice
    for ours, theirs in zip(tgc.jit(halves, backend="numpy")(x), wanted):
        np.testing.assert_allclose(ours, theirs, rtol=4e-6, atol=1e-37)


def test_an_exponential_for_itself_keeps_its_small_values() -> None:
    """They may be denormal where the opposite one has overflowed."""
    x = np.linspace(-100, 80, 200).astype(np.float32)

    def opposite(x: Array) -> Array:
        return tgc.exp(-x), tgc.exp(x)

    assert calls(opposite, x).count("exp") == 2
    np.testing.assert_array_equal(tgc.jit(opposite, backend="numpy")(x)[1], np.exp(x))


def test_a_product_with_an_inverse_is_a_quotient(rng: np.random.Generator) -> None:
    x, y = rng.uniform(1, 2, (2, 50)).astype(np.float32)

    def quotient(x: Array, y: Array) -> Array:
        return x / (1.0 + tgc.exp(-y))

    assert calls(quotient, x, y) == ["negative", "exp", "add", "divide"]
    np.testing.assert_allclose(
        tgc.jit(quotient, backend="numpy")(x, y), x / (1 + np.exp(-y)), rtol=3e-7
    )


def test_short_factors_come_first(rng: np.random.Generator) -> None:
    x, row = rng.standard_normal((6, 7)).astype(np.float32), rng.standard_normal(7).astype("f4")
    column = rng.standard_normal((6, 1)).astype(np.float32)

    def scaled(x: Array, rate: float) -> Array:
        return rate * (x * tgc.sum(x))

    source = tgc.jit(scaled, backend="numpy").lower(x, 0.1).source
    assert source.count("np.multiply(") == 1
    np.testing.assert_allclose(tgc.jit(scaled, backend="numpy")(x, 0.1), 0.1 * x * x.sum(), 1e-5)

    def outer(x: Array, row: Array, column: Array) -> Array:
        return row * (x * column)

    source = tgc.jit(outer, backend="numpy").lower(x, row, column).source
    assert "multiply(x, column" in source  # not row * column, which is as large as x
    np.testing.assert_allclose(
        tgc.jit(outer, backend="numpy")(x, row, column), row * x * column, 1e-6
    )


def test_scalars_are_python_to_the_ufuncs() -> None:
    """Also of nothing: a division by a size of zero is numpy's, not Python's."""

    def centred(x: Array, s: Array) -> Array:
        mean = tgc.mean(x)
        slope = tgc.grad(lambda x: tgc.mean(x * x))(x)
        return x - (mean * s - tgc.abs(-s)), mean * mean, slope

    s = np.array(0.25, np.float32)
    assert calls(centred, np.ones(5, np.float32), s).count("divide") == 0
    for x in (np.arange(5, dtype=np.float32), np.zeros(0, np.float32)):
        shifted, square, slope = tgc.jit(centred, backend="numpy")(x, s)
        mean = x.sum() / np.float32(x.size) if x.size else np.float32(np.nan)
        np.testing.assert_allclose(shifted, x - (mean * s - s), rtol=1e-6)
        np.testing.assert_allclose(square, mean * mean, rtol=1e-6)
        assert square.dtype == shifted.dtype == np.float32
        np.testing.assert_allclose(slope, 2 * x / max(x.size, 1), rtol=1e-6)


def test_what_depends_on_sizes_alone_is_computed_once_per_size() -> None:
    def scaled(x: Array) -> Array:
        return tgc.grad(lambda x: tgc.mean(x * x) + tgc.mean(x))(x)

    program = tgc.jit(scaled, backend="numpy")
    source = program.lower(np.ones(5, np.float32)).source
    kernel = re.search(r"\ndef scaled_kernel(?:_block)?\(.*?\n\n\n", source, re.DOTALL)
    assert kernel is not None
    assert "np.float32(" not in kernel[0]
    assert re.search(r"@lru_cache\ndef scaled_kernel_numbers\(n\):.*np\.float32\(n\)", source, re.S)
    for size in (5, 7, 5, 0):
        x = np.arange(size, dtype=np.float32)
        np.testing.assert_allclose(program(x), (2 * x + 1) / max(size, 1), rtol=1e-6)
