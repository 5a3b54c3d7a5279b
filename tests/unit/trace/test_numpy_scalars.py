"""numpy scalars beside torch tensors: numbers to torch, as those of Python are."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tgc
from tgc.errors import DTypeError

FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "right": lambda t, s: t * s,
    "left": lambda t, s: s - t,
    "compared": lambda t, s: t > s,
    "selected": lambda t, s: torch.where(t > s, t, s),
    "computed": lambda t, s: t * np.sqrt(s),
    "power": lambda t, s: t**s,
    "quotient": lambda t, s: t / s,
    "floor": lambda t, s: t // s,
    "sum": lambda t, s: t * (s + 1),
    "bound": lambda t, s: t.clamp(min=s),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_as_torch_has_them(name: str) -> None:
    function = FUNCTIONS[name]
    compiled, compared = tgc.jit(function), 0
    kinds = (torch.float32, torch.float64, torch.int32, torch.bfloat16)
    for dtype, kind in itertools.product(kinds, (np.float32, np.float64, np.int32, np.int64)):
        t, s = torch.tensor([1, 2, 3], dtype=dtype), kind(2)
        try:
            want = function(t, s)
        except (TypeError, RuntimeError):
            continue  # torch does not take every type of scalar everywhere
        torch.testing.assert_close(compiled(t, s), want)
        compared += 1
    assert compared >= 4


def test_gradients_pass_by_them() -> None:
    t = torch.ones(3, requires_grad=True)
    tgc.jit(lambda t, s: (t**2 * s).sum())(t, np.float32(3)).backward()
    torch.testing.assert_close(t.grad, torch.full((3,), 6.0))


def test_a_new_value_is_no_new_trace() -> None:
    scaled = tgc.jit(lambda t, s: t * s)
    t = torch.ones(3)
    for value in (2, 3, 4):
        torch.testing.assert_close(scaled(t, np.float64(value)), torch.full((3,), float(value)))
    assert scaled.stats().traces == 1


def test_beside_arrays_they_keep_their_type() -> None:
    product = tgc.jit(lambda a, s: a * s)
    assert product(np.ones(3, np.float32), np.float64(2)).dtype == np.float64
    assert product(np.float32(2), np.float32(3)).dtype == np.float32


def test_arrays_beside_tensors_are_refused() -> None:
    for array in (np.ones(3), np.array(2.0)):
        with pytest.raises(DTypeError, match="torch tensors and numpy arrays"):
            tgc.jit(lambda t, a: t * a)(torch.ones(3), array)


SIZES: dict[str, Callable[[Any], Any]] = {
    "root": lambda x: x / np.sqrt(x.shape[-1]),
    "greater": lambda x: x * np.maximum(x.shape[0], 2),
    "scalar": lambda x: x * (np.int64(2) * x.shape[0]),
    "float": lambda x: x * (np.float32(2) * x.shape[0]),
    "array": lambda x: x * (np.arange(3.0) / x.shape[0]),
    "range": lambda x: x + np.arange(x.shape[0])[:, None],
    "shape": lambda x: x * np.prod(x.shape),
    "converted": lambda x: x + np.asarray(x.shape[0]),
    "exponent": lambda x: x ** np.int64(2),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_numbers_to_numpy(name: str) -> None:
    function = SIZES[name]
    compiled = tgc.jit(function)
    for rows in (2, 5):
        x = np.linspace(-1, 1, 3 * rows, dtype=np.float32).reshape(rows, 3)
        got, want = compiled(x), function(x)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-6)
