"""Elements read by index: one selected out of each row, and those of rolled arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tgc


def loss(x: Any, label: Any) -> Any:
    chosen = tgc.take_along_axis(x, label[:, None], axis=-1)[:, 0]
    return tgc.sum(tgc.logsumexp(x, axis=-1) * chosen)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (700, 400)])
def test_the_logit_of_a_label(
    rows: int, columns: int, dtype: Any, rng: np.random.Generator
) -> None:
    x, label = rng.standard_normal((rows, columns)).astype(dtype), rng.integers(-3, 3, rows)
    function = tgc.jit(loss, backend="numpy")
    assert "np.equal(" not in function.lower(x, label).source
    wide = x.astype(np.float64)
    lse, chosen = np.log(np.exp(wide).sum(1)), wide[np.arange(rows), label]
    np.testing.assert_allclose(function(x, label), (lse * chosen).sum(), rtol=1e-5, atol=1e-3)
    slope = tgc.jit(tgc.grad(loss), backend="numpy")(x, label)
    wanted = chosen[:, None] * np.exp(wide - lse[:, None])
    wanted[np.arange(rows), label] += lse
    np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=1e-5)


def test_what_lies_outside_selects_nothing() -> None:
    """As a sum of selections says; in views of memory too."""

    def selected(x: Any, at: Any) -> Any:
        positions = tgc.arange(x.shape[1])
        return tgc.sum(tgc.where(positions == at[:, None], x, 0.0), axis=1)

    x = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    at = np.array([-1, 4, 2])
    function = tgc.jit(selected, backend="numpy")
    np.testing.assert_array_equal(function(x, at), [0, 0, 11])
    np.testing.assert_array_equal(function(x[:, ::-1], at), [0, 0, 10])
    np.testing.assert_array_equal(function(x.T[:3, :3], at[::-1]), [9, 0, 0])


@pytest.mark.parametrize("backend", ["numpy", "native"])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 4097])
def test_rolled_arrays_read_nothing_outside(n: int, backend: str) -> None:
    """A shift backwards divides a negative number by a size: no index that has it is known to be inside."""
    if backend == "native":
        pytest.importorskip("llvmlite")
    memory = np.full(3 * n, np.nan)
    x = memory[n : 2 * n]
    x[:] = np.arange(n)
    for shift in (-1, 1, -2, 2, -n, -3 * n - 1):
        rolled = tgc.jit(lambda x, s=shift: np.roll(x, s) - np.roll(x * x, -s), backend=backend)
        np.testing.assert_array_equal(rolled(x), np.roll(x, shift) - np.roll(x * x, -shift))
