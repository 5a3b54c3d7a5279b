"""Constants around a library's products: no kernel comes after a product for them alone, and values stay."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tgc
from tgc.kernel.ir import Launch

Function = Callable[..., Any]


def one(x, w):  # type: ignore[no-untyped-def]
    return 0.3 * (tgc.tanh(x) @ w)


def several(x, w):  # type: ignore[no-untyped-def]
    """Two products and a sum of one value, all with the same factor."""
    t = tgc.tanh(x)
    return 0.3 * (t @ w), 0.3 * (t.T @ x), 0.3 * tgc.sum(t, axis=0)


def negative(x, w):  # type: ignore[no-untyped-def]
    return -(tgc.tanh(x) @ w)


def different(x, w):  # type: ignore[no-untyped-def]
    t = tgc.tanh(x)
    return 0.3 * (t @ w), 0.7 * (t.T @ x)


def wanted(x, w):  # type: ignore[no-untyped-def]
    """The value itself is a result."""
    t = tgc.tanh(x)
    return t, 0.3 * (t @ w)


def added(x, w):  # type: ignore[no-untyped-def]
    """The value is used otherwise too."""
    t = tgc.tanh(x)
    return 0.3 * (t @ w), tgc.sum(tgc.exp(t), axis=0)


def twice(x, w):  # type: ignore[no-untyped-def]
    """A product of the value with itself."""
    t = tgc.tanh(x)
    return 0.3 * (t.T @ t)


def both(x, w):  # type: ignore[no-untyped-def]
    """Either factor could take the constant, and the other product has another."""
    t, u = tgc.tanh(x), tgc.sin(w)
    return 0.3 * (t @ u), 0.5 * (x @ u)


def given(x, w):  # type: ignore[no-untyped-def]
    """Nothing is computed before the product."""
    return 0.3 * (x @ w)


def plain(x, w):  # type: ignore[no-untyped-def]
    """The product itself is used as well."""
    y = tgc.tanh(x) @ w
    return y, 0.3 * y


KERNELS: dict[Function, int] = {
    **dict.fromkeys((one, negative), 1),
    several: 2,  # with the second stage of the sum
    different: 3,
    wanted: 2,
    twice: 2,
    both: 3,
    given: 1,
    plain: 2,
}


@pytest.mark.parametrize("backend", ["numpy", "native"])
@pytest.mark.parametrize("function", [*KERNELS, added], ids=lambda f: f.__name__)
def test_values_stay(function: Function, backend: str) -> None:
    if backend == "native":
        pytest.importorskip("llvmlite")
    rng = np.random.default_rng()
    x, w = rng.standard_normal((130, 70)), rng.standard_normal((70, 90))
    found = tgc.jit(function, backend=backend)(x, w)
    right = reference(function, x, w)
    for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (found, right)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def reference(function: Function, x: np.ndarray, w: np.ndarray) -> Any:
    """The same text in numpy."""
    space = {"tgc": np, "np": np}
    exec(inspect.getsource(function), space)
    return space[function.__name__](x, w)  # type: ignore[operator]


@pytest.mark.parametrize("function", KERNELS, ids=lambda f: f.__name__)
def test_kernels(function: Function) -> None:
    x, w = np.ones((130, 70)), np.ones((70, 90))
    plan = tgc.jit(function, backend="numpy").lower(x, w).plans[0]
    assert sum(isinstance(step, Launch) for step in plan.steps) == KERNELS[function]


def test_gradient_of_a_layer() -> None:
    """gelu's 1/2 multiplies in the kernel of the forward pass: two products come after it, and nothing after them."""

    def layer(x, w, b):  # type: ignore[no-untyped-def]
        z = x @ w + b
        return 0.5 * z * (1.0 + tgc.erf(z / 2.0**0.5))

    x, w, b, g = (np.ones(shape) for shape in ((64, 16), (16, 32), (32,), (64, 32)))

    def gradient(x, w, b, g):  # type: ignore[no-untyped-def]
        return tgc.vjp(layer, x, w, b)[1](g)

    plan = tgc.jit(gradient, backend="numpy").lower(x, w, b, g).plans[0]
    assert [type(s).__name__ for s in plan.steps].count("Launch") <= 2
    assert (
        not isinstance(plan.steps[-1], Launch) or plan.steps[-1].kernel.buffers[0].shape != w.shape
    )
