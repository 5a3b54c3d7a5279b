"""Integers of Python beside arrays of narrower types: numpy compares them as they are, torch takes them modulo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tgc
from tgc.errors import DTypeError

ENGINES = ["numpy", "native"]
FUNCTIONS: dict[str, Callable[[Any, int], Any]] = {
    "lt": lambda x, n: x < n,
    "le": lambda x, n: n <= x,
    "eq": lambda x, n: x == n,
    "ne": lambda x, n: n != x,
    "gt": lambda x, n: x > n,
    "ge": lambda x, n: n >= x,
    "where": lambda x, n: np.where(x < n, x, 0),
    "low": lambda x, n: np.clip(x, n, None),
    "high": lambda x, n: np.clip(x, None, n),
    "both": lambda x, n: x.clip(-n, n),
    "sum": lambda x, n: x + n,
    "maximum": lambda x, n: np.maximum(x, n),
    "mask": lambda x, n: x & n,
}
NUMBERS = [
    0,
    -1,
    100,
    127,
    128,
    -128,
    -129,
    200,
    255,
    256,
    300,
    2**31,
    -(2**31) - 1,
    2**63,
    -(2**70),
]


def engine(name: str) -> str:
    if name == "native":
        pytest.importorskip("llvmlite")
    return name


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.float32])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_constants_are_as_in_numpy(name: str, dtype: Any, backend: str) -> None:
    """Those that numpy takes in one function, those that it refuses one by one."""
    info = (np.iinfo if np.dtype(dtype).kind != "f" else np.finfo)(dtype)
    x = np.array([info.min, 0, 1, 5, 100, info.max], dtype)
    function, wanted = FUNCTIONS[name], {}
    for number in NUMBERS:
        try:
            wanted[number] = function(x, number)
        except (OverflowError, TypeError):
            with pytest.raises((DTypeError, tgc.errors.UnsupportedOpError)):
                tgc.jit(lambda x, n=number: function(x, n), backend=engine(backend))(x)
    compiled = tgc.jit(lambda x: [function(x, n) for n in wanted], backend=engine(backend))
    for number, got in zip(wanted, compiled(x) if wanted else (), strict=True):
        assert got.dtype == wanted[number].dtype, number
        np.testing.assert_array_equal(got, wanted[number], err_msg=str(number))


@pytest.mark.parametrize("backend", ENGINES)
def test_arguments_and_sizes_are_compared_as_they_are(backend: str) -> None:
    x = np.array([-128, -1, 0, 127], np.int8)
    compared = tgc.jit(lambda x, n: (x < n, n == x), backend=engine(backend))
    for number in (0, 127, 128, -129, 2**40):
        less, equal = compared(x, number)
        np.testing.assert_array_equal(less, x < number)
        np.testing.assert_array_equal(equal, x == number)
    long = np.zeros(300, np.int8)
    assert tgc.jit(lambda x: x < x.shape[0], backend=backend)(long).all()


@pytest.mark.parametrize("backend", ENGINES)
def test_torch_takes_operands_modulo_and_refuses_limits(backend: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor([1, 5, 200], dtype=torch.uint8)
    for function in (lambda x: x + 300, lambda x: x == 300, lambda x: x > -1, lambda x: x * -1):
        torch.testing.assert_close(tgc.jit(function, backend=engine(backend))(x), function(x))
    for refused in (lambda x: x.clamp(0, 300), lambda x: torch.full_like(x, 300)):
        for run in (refused, tgc.jit(refused, backend=backend)):
            with pytest.raises(RuntimeError if run is refused else DTypeError):
                run(x)


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int8])
def test_extrema_of_many_blocks(dtype: Any, backend: str) -> None:
    """Positions and integers, whose folds begin with the last number of their type."""
    x = (np.random.default_rng(0).standard_normal((300, 513)) * 50).astype(dtype)
    compiled = tgc.jit(
        lambda x: (x.max(), x.min(), x.argmax(), x.argmin(), x.max(0)), backend=engine(backend)
    )
    for got, want in zip(compiled(x), (x.max(), x.min(), x.argmax(), x.argmin(), x.max(0))):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_remainders_and_quotients_at_the_ends_of_a_type(dtype: Any, backend: str) -> None:
    """The least integer has no absolute value of its type; truncated quotients are torch's alone."""
    torch = pytest.importorskip("torch")
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    some = np.array([low, low + 1, -(-low // 3), 0, 1, 3, 7, high - 1, high], dtype)
    x, y = (a.ravel() for a in np.meshgrid(some, some[some != 0]))
    with np.errstate(all="ignore"):
        want = x // y, x % y, np.fmod(x, y)
    got = tgc.jit(lambda x, y: (x // y, x % y, np.fmod(x, y)), backend=engine(backend))(x, y)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == dtype
        np.testing.assert_array_equal(mine, theirs)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    torch.testing.assert_close(
        tgc.jit(lambda a, b: torch.div(a, b, rounding_mode="trunc"), backend=backend)(a, b),
        torch.from_numpy((x - want[2]) // y),
    )
