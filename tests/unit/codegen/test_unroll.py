"""Short axes written out: the same kernel without them, in numpy's and in the native engine's order of evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tgc
from tests.support.kernel_builder import KernelBuilder, buffer
from tgc.codegen.numpy.short import write_out
from tgc.codegen.unroll import unroll
from tgc.ir.dtypes import float32
from tgc.ir.sizes import Size
from tgc.kernel.ir import Axis, Kernel, Loop, Reduce

n, k = Size.symbol("n"), Size.symbol("k")


def distances() -> Kernel:
    """Sums over (c, k) and over c of what lies along r, c and k, and a maximum over k alone, in a loop along c."""
    axes = [Axis("r", n, "grid", 4), Axis("c", n, "loop", 8, 16), Axis("k", k, "lane", 3)]
    buffers = (
        buffer("x", float32, (n, k)),
        buffer("total", float32, (n,), "out"),
        buffer("each", float32, (n, k), "out"),
    )
    b = KernelBuilder("distances", axes, buffers)
    x = b.load("x", ("r", k), ("k", 1))
    b.loop("c")
    apart = b.op("sub", x, b.load("x", ("c", k), ("k", 1)))
    far = b.reduce("max", b.op("abs", apart), "k")
    product = b.op("mul", far, apart)
    total, each = b.end(("sum", product, "c", "k", "total"), ("sum", apart, "c", "each"))
    b.store("total", total, ("r", 1))
    b.store("each", each, ("r", k), ("k", 1))
    return b.build(["n", "k"])


def test_nothing_runs_along_a_short_axis() -> None:
    body = unroll(distances().body, distances())
    (loop,) = (s for s in body if isinstance(s, Loop))
    for s in (*body, *loop.body, *loop.folds):
        assert isinstance(s, Loop) or "k" not in s.axes
        assert not isinstance(s, Reduce) or "k" not in s.over
    assert [f.name for f in loop.folds] == ["total", "each.k0", "each.k1", "each.k2"]


def test_the_extent_becomes_a_number() -> None:
    kernel = write_out(distances())
    assert [a.name for a in kernel.axes] == ["r", "c"]
    assert [b.shape for b in kernel.buffers] == [(n, 3), (n,), (n, 3)]


@pytest.mark.parametrize("backend", ["numpy", "native"])
@pytest.mark.parametrize("extent", [1, 3, 4, 5])
def test_points_in_space(backend: str, extent: int, rng: np.random.Generator) -> None:
    """Sums over pairs of points, in derivatives along their coordinates too."""
    if backend == "native":
        pytest.importorskip("llvmlite")

    def energy(x: Any, y: Any) -> Any:
        apart = x[:, None, :] - y[None, :, :]
        return tgc.sum(tgc.exp(-tgc.sum(apart * apart, axis=-1)))

    points = rng.standard_normal((130, extent)), rng.standard_normal((2100, extent))
    x, y = (p.astype(np.float32) for p in points)
    value, (dx, dy) = tgc.jit(tgc.value_and_grad(energy, argnums=(0, 1)), backend=backend)(x, y)
    apart = x[:, None, :].astype(np.float64) - y[None, :, :]
    weights = np.exp(-(apart**2).sum(-1))
    np.testing.assert_allclose(value, weights.sum(), rtol=1e-5)
    pulls = -2 * weights[..., None] * apart
    for got, want in ((dx, pulls.sum(1)), (dy, -pulls.sum(0))):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
