"""Shifts of arrays and of sizes, by numbers of bits that C leaves open too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tgc
from tgc.errors import DTypeError

NUMBERS = (0, 1, -1, 5, -7, 100, -128, 127)
COUNTS = (0, 1, 2, 3, 7, 8, 31, 32, 63, 64, 100, -1, -5)
TYPES = ("int8", "int16", "int32", "int64", "uint8")


def shifts(a: Any, b: Any) -> Any:
    return a << b, a >> b, a << 3, a >> 1, 2 << b, 100 >> b


def operands(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.array(v).astype(dtype) for v in (NUMBERS, COUNTS))
    return a[:, None], b[None]


@pytest.mark.parametrize("backend", ["numpy", "native"])
@pytest.mark.parametrize("dtype", TYPES)
def test_any_number_of_bits_as_in_numpy(dtype: str, backend: str) -> None:
    if backend == "native":
        pytest.importorskip("llvmlite")
    a, b = operands(dtype)
    for ours, theirs in zip(tgc.jit(shifts, backend=backend)(a, b), shifts(a, b), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


@pytest.mark.parametrize("dtype", TYPES)
def test_any_number_of_bits_as_in_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    a, b = map(torch.from_numpy, operands(dtype))
    for ours, theirs in zip(tgc.jit(shifts)(a, b), shifts(a, b), strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_names_and_updates_in_place() -> None:
    torch = pytest.importorskip("torch")

    def f(x: Any) -> Any:
        y = torch.bitwise_left_shift(x, 2) + x.bitwise_right_shift(1)
        y <<= 2
        y >>= 1
        return y

    x = torch.tensor([3, -4, 17])
    assert torch.equal(tgc.jit(f)(x), f(x))


def test_bools_of_numpy_are_shifted_as_integers() -> None:
    m = np.array([True, False])
    for f in (lambda m: m << m, lambda m: m << 1, lambda m: m >> m):
        np.testing.assert_array_equal(tgc.jit(f)(m), f(m), strict=True)


def test_floats_have_no_bits_to_shift() -> None:
    with pytest.raises(DTypeError, match="lshift is not defined for float32"):
        tgc.jit(lambda x: x << 1)(np.ones(3, np.float32))


def test_sizes_are_shifted() -> None:
    def f(x: Any) -> Any:
        n = x.shape[0]
        half = x[: n >> 1]
        return half, x[: (n << 1) - n], half * (1 << n), x * (n & 6 | 1 ^ n), x * ~n

    jitted = tgc.jit(f)
    for n in (4, 7):
        x = np.arange(n)
        for ours, theirs in zip(jitted(x), f(x), strict=True):
            np.testing.assert_array_equal(ours, theirs, strict=True)


def test_a_shifted_size_stays_a_size() -> None:
    text = tgc.jit(lambda x: x[: x.shape[0] >> 1]).lower(tgc.spec("f32[n]")).source
    assert "n" in text and "//" in text
