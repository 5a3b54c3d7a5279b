"""Writes into views and into what is a copy: who sees them, and whether torch still wants a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tgc


def write(x: Any, view: Callable[[Any], Any]) -> tuple[Any, Any]:
    y = x * 1
    z = view(y)
    z[:2] = 9
    return y, z


VIEWS: dict[str, Callable[[Any], Any]] = {
    "all": lambda y: y.reshape(-1),
    "transposed": lambda y: y.T.reshape(-1),
    "transposed, split": lambda y: y.T.reshape(4, 3, 1),
    "transposed twice": lambda y: y.T.T.reshape(2, -1),
    "rows": lambda y: y[:2].reshape(-1),
    "columns": lambda y: y[:, :2].reshape(-1),
    "columns, split": lambda y: y[:, :2].reshape(3, 2, 1),
    "every second row": lambda y: y[::2].reshape(2, 2, 2),
    "every second row, merged": lambda y: y[::2].reshape(-1),
    "one column": lambda y: y[:, 1].reshape(3, 1),
    "new axis": lambda y: y[:, None].reshape(12),
    "reshaped, cut, merged": lambda y: y.reshape(2, 2, 3)[:, 0].reshape(-1),
    "ravel": lambda y: y.ravel(),
    "ravel of the transposed": lambda y: y.T.ravel(),
    "flatten": lambda y: y.flatten(),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_writes_through_a_reshape(kind: str, name: str) -> None:
    """A reshape is a view where it can be one, and a copy elsewhere."""
    torch = pytest.importorskip("torch")
    x: Any = np.arange(12.0).reshape(3, 4)
    x = torch.from_numpy(x) if kind == "torch" else x
    want = write(x, VIEWS[name])
    jitted = tgc.jit(write, static_argnames=("view",))
    for ours, theirs in zip(jitted(x, VIEWS[name]), want, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_contiguous_copies_what_is_not() -> None:
    torch = pytest.importorskip("torch")
    x = torch.arange(12.0).reshape(3, 4)
    for view in (
        lambda y: y.T.contiguous(),
        lambda y: y.contiguous(),
        lambda y: y[0, ::2].contiguous(),
    ):
        for ours, theirs in zip(tgc.jit(write, static_argnames=("view",))(x, view), write(x, view)):
            assert torch.equal(ours, theirs)


def overwrites() -> dict[str, Callable[[Any], Any]]:
    torch = pytest.importorskip("torch")
    return {
        "zero_": lambda y: y.zero_(),
        "fill_": lambda y: y.fill_(3.0),
        "copy_": lambda y: y.copy_(torch.ones(3)),
        "all": lambda y: y.__setitem__(slice(None), 1.0),
        "part": lambda y: y.__setitem__(0, 1.0),
    }


@pytest.mark.parametrize("name", overwrites())
def test_what_is_overwritten_by_a_constant_still_has_a_gradient(name: str) -> None:
    torch = pytest.importorskip("torch")
    gradients = []
    overwrite = overwrites()[name]

    def f(x: Any) -> Any:
        y = x * 2
        overwrite(y)
        return y

    for function in (f, tgc.jit(f)):
        x = torch.ones(3, requires_grad=True)
        out = function(x)
        assert out.requires_grad
        out.sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_signs_of_what_has_none(backend: str) -> None:
    """Of NaN numpy gives NaN and torch 0; a zero has no sign."""
    torch = pytest.importorskip("torch")
    if backend == "native":
        pytest.importorskip("llvmlite")
    x = np.array([np.nan, -2, -0.0, 0, 3, np.inf, -np.inf], np.float32)
    h = np.array([0.5, np.nan, 0.25, 0.5, 0.5, 0.5, 1], np.float32)

    def of_numpy(x: Any, h: Any) -> Any:
        return np.sign(x), np.heaviside(x, h), 1 / np.sign(x[2:4])

    def of_torch(x: Any, h: Any) -> Any:
        return torch.sign(x), torch.sgn(x), x.sign(), torch.heaviside(x, h), 1 / torch.sign(x[2:4])

    with np.errstate(all="ignore"):
        want = of_numpy(x, h)
    for ours, theirs in zip(tgc.jit(of_numpy, backend=backend)(x, h), want, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    given = torch.from_numpy(x), torch.from_numpy(h)
    found = tgc.jit(of_torch, backend=backend)(*given)
    for ours, theirs in zip(found, of_torch(*given), strict=True):
        assert torch.equal(ours, theirs)
