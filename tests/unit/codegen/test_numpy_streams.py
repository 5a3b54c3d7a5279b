"""Draws of several streams by one call: which go together, and that they stay what each is alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tgc

Array = Any


def calls(function: Callable[..., Array], *args: Array) -> list[str]:
    """The draws in the source of the kernels."""
    source = tgc.jit(function, backend="numpy").lower(*args).source
    kernels = source[source.index("_kernel") :]
    return re.findall(r"(?<!def )\b((?:normal|philox)(?:_each)?\(range\(.*)", kernels)


def added(count: int) -> Callable[[Array], Array]:
    return lambda x: sum((tgc.randn(x.shape) for _ in range(count)), x)


def test_two_normal_draws_are_one_call(rng: np.random.Generator) -> None:
    (call,) = calls(added(2), rng.standard_normal(300).astype(np.float32))
    assert call.startswith("normal_each(") and "(c_1_i64, c_2_i64)" in call


def test_many_are_drawn_few_at_a_time(rng: np.random.Generator) -> None:
    found = calls(added(6), rng.standard_normal(300).astype(np.float32))
    assert [call.count("c_") for call in found] == [4, 2]


def test_draws_of_different_kinds_stay_apart(rng: np.random.Generator) -> None:
    """Normal numbers and words, and draws of another shape."""
    x = rng.standard_normal((20, 30)).astype(np.float32)

    def mixed(x: Array) -> Array:
        return x * tgc.randn(x.shape) + tgc.rand(x.shape) + tgc.randn(x.shape[1:])

    found = calls(mixed, x)
    assert not any("_each" in call for call in found)


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("shape", [(5,), (300,), (7, 40), (140_000,)])
def test_bits_are_those_of_the_other_engine(count: int, shape: tuple[int, ...]) -> None:
    """At sizes of one block and of several, in one dimension and in two."""
    x = np.zeros(shape, np.float32)

    def words(x: Array) -> Array:
        """Draws of 24 bits, which each engine has to the bit, and which add up without rounding."""
        return sum((2.0**k * tgc.rand(x.shape, dtype=np.float32) for k in range(count)), x)

    found = []
    for backend in ("numpy", "native"):
        pytest.importorskip("llvmlite")
        tgc.manual_seed(5)
        found.append(tgc.jit(words, backend=backend)(x))
    np.testing.assert_array_equal(*found)


def test_a_draw_that_is_used_before_the_next(rng: np.random.Generator) -> None:
    """What lies between two draws finds the first as it was drawn."""
    x = rng.standard_normal(50).astype(np.float32)

    def one_by_one(x: Array) -> Array:
        y = tgc.exp(x * tgc.randn(x.shape))
        z = tgc.tanh(y + tgc.randn(x.shape))
        return y, z

    def apart(x: Array, first: Array, second: Array) -> Array:
        y = tgc.exp(x * first)
        return y, tgc.tanh(y + second)

    def drawn(x: Array) -> Array:
        return tgc.randn(x.shape), tgc.randn(x.shape)

    tgc.manual_seed(6)
    noise = tgc.jit(drawn, backend="numpy")(x)
    tgc.manual_seed(6)
    for a, b in zip(tgc.jit(one_by_one, backend="numpy")(x), apart(x, *noise)):
        np.testing.assert_allclose(a, b, rtol=1e-6)
