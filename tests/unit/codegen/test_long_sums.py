"""Sums of very many equal numbers: each addition rounds the same way, so that a plain chain of them drifts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tgc

MOST = {"native": 2e-6, "numpy": 5e-5}
"""Relative errors; one chain of additions has 1e-4 already for a hundred thousand of them."""


def exponentials(x: Any) -> Any:
    return tgc.sum(tgc.exp(x), axis=-1)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: tgc.sum(x, axis=0), (1_000_000, 3)),
        (lambda x: tgc.mean(x, axis=0), (1_000_000, 9)),
        (lambda x: tgc.sum(x, axis=0), (100_000, 1)),
        (lambda x: tgc.sum(x, axis=0), (30_000, 300)),
        (lambda x: tgc.sum(tgc.exp(x), axis=0), (200_000, 17)),
        (lambda x: tgc.sum(x * tgc.sum(x, axis=1, keepdims=True), axis=0), (100_000, 40)),
        (lambda x: tgc.sum(x, axis=1), (3, 1_000_000)),
        (lambda x: tgc.sum(x, axis=1), (20, 131_072)),
        (exponentials, (20, 131_072)),
        (exponentials, (5_000_000,)),
        (lambda x: tgc.sum(x), (3_000, 3_000)),
        (lambda x: tgc.mean(x), (20_000_000,)),
    ],
)
@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_long_sums_do_not_drift(
    function: Callable[..., Any], shape: tuple[int, ...], backend: str
) -> None:
    if backend == "native":
        pytest.importorskip("llvmlite")
    x = np.full(shape, 0.1, np.float32)
    ours = tgc.jit(function, backend=backend)(x)
    want = function(x.astype(np.float64))
    np.testing.assert_allclose(ours, want, rtol=MOST[backend])
