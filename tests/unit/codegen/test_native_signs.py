"""What the native engine knows of signs: never a sign that a value does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tgc
from tgc.codegen.native.signs import (
    has_less_to_do,
    interval,
    named,
    never_negative,
    never_positive,
)
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
    lambda x: -(x * x + tgc.abs(x)),
    lambda x: -(3.0 * tgc.abs(x) + 1.0),
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
    lambda x: -(x * x + x),
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


def test_intervals() -> None:
    def function(x: Any) -> Any:
        low = x & 255
        unit = low.astype(np.float32) * 0.25 - 3.0
        return tgc.sin(unit) + tgc.cos(unit * 1e6) + tgc.log(unit + 6.0) + tgc.log(unit)

    (view,) = tgc.jit(function).lower(tgc.spec("i32[rows, cols]"), target="native").kernels
    made = named(view.kernel)
    found = {
        (s.op, interval(s.args[0], made)): has_less_to_do(s.op, s.args[0], made)
        for s in made.values()
        if isinstance(s, Op) and s.op in ("sin", "cos", "log")
    }
    assert found == {
        ("sin", (-3.0, 60.75)): True,
        ("cos", (-3e6, 60.75e6)): False,
        ("log", (3.0, 66.75)): True,
        ("log", (-3.0, 60.75)): False,
    }


def test_no_interval_of_what_is_read_or_wraps() -> None:
    def function(x: Any, n: Any) -> Any:
        small = n & 3
        return tgc.sin(x * 0.5) + tgc.sin((small * 0x7FFFFFFF + 1).astype(np.float32))

    specs = tgc.spec("f32[rows]"), tgc.spec("i32[rows]")
    (view,) = tgc.jit(function).lower(*specs, target="native").kernels
    made = named(view.kernel)
    sines = [s for s in made.values() if isinstance(s, Op) and s.op == "sin"]
    assert [interval(s.args[0], made) for s in sines] == [None, None]


@pytest.mark.parametrize("shape", [(1000,), (7, 33), (5, 64), (3, 5, 7)])
def test_draws_do_not_depend_on_how_lanes_share_counters(shape: tuple[int, ...]) -> None:
    """Rows that start anywhere, against the definition."""
    tgc.manual_seed(11)
    native = tgc.jit(lambda: tgc.randn(shape) + tgc.rand(shape), backend="native")()
    tgc.manual_seed(11)
    wanted = tgc.jit(lambda: tgc.randn(shape) + tgc.rand(shape), backend="numpy")()
    np.testing.assert_allclose(np.asarray(native), np.asarray(wanted), rtol=2e-5, atol=2e-5)
