"""What the native engine knows of signs: never a sign that a value does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tgc
from tgc.codegen.native.signs import named, never_negative, never_positive
from tgc.kernel.ir import Kernel, Op


def kernel_of(function: Callable[..., Any]) -> Kernel:
    spec = tgc.spec("f32[rows, cols]")
    (view,) = tgc.jit(function).lower(spec, target="native").kernels
    return view.kernel


NEVER_POSITIVE: tuple[Callable[..., Any], ...] = (
    lambda x: -tgc.square(x),
    lambda x: -x * x,
    lambda x: -0.5 * tgc.abs(x),
    lambda x: -tgc.sum(x * x, axis=1),
    lambda x: x - tgc.amax(x, axis=1, keepdims=True),
    lambda x: -tgc.exp(x) / tgc.sqrt(tgc.abs(x) + 1.0),
)
EITHER: tuple[Callable[..., Any], ...] = (
    lambda x: -x,
    lambda x: 0.5 * tgc.abs(x),
    lambda x: -0.5 * tgc.sin(x),
    lambda x: -tgc.sum(x, axis=1),
    lambda x: x - tgc.amin(x, axis=1, keepdims=True),
    lambda x: x - tgc.amax(2.0 * x, axis=1, keepdims=True),
    lambda x: tgc.abs(x) - tgc.amax(x, axis=1, keepdims=True),
    lambda x: -tgc.square(x) - x,
)


def operands_of_exp(kernel: Kernel) -> list[bool]:
    made = named(kernel)
    last = [s for s in made.values() if isinstance(s, Op) and s.op == "exp"][-1]
    return [never_positive(a, made) for a in last.args]


@pytest.mark.parametrize("function", NEVER_POSITIVE)
def test_what_is_never_positive(function: Callable[..., Any]) -> None:
    assert operands_of_exp(kernel_of(lambda x: tgc.exp(function(x)))) == [True]


@pytest.mark.parametrize("function", EITHER)
def test_what_may_be_positive(function: Callable[..., Any]) -> None:
    assert operands_of_exp(kernel_of(lambda x: tgc.exp(function(x)))) == [False]


@pytest.mark.parametrize("function", NEVER_POSITIVE)
def test_values_bear_it_out(function: Callable[..., Any], rng: np.random.Generator) -> None:
    """Every value of which a sign is said to be known has that sign, for operands of all sizes."""
    x = rng.normal(size=(50, 9)).astype("f4") * 10.0 ** rng.integers(-40, 38, (50, 1)).astype("f4")
    values = tgc.jit(function, backend="numpy")(x)
    assert not np.any(values > 0)
    assert np.any(values < 0)


def test_constants() -> None:
    kernel = kernel_of(lambda x: tgc.maximum(x, 1.0) + tgc.minimum(tgc.abs(x), 2.0))
    made = named(kernel)
    known = {s.op: never_negative(s.name, made) for s in made.values() if isinstance(s, Op)}
    assert known["minimum"]
    assert not known["add"]
