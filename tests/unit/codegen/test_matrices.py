"""Contractions as products of matrices: which are, by which views, and sums behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tgc
from tests.support.kernel_builder import buffer
from tgc.codegen.numpy.matrices import Matrices, as_matrices
from tgc.ir.dtypes import float32
from tgc.ir.sizes import Size
from tgc.kernel.ir import Matmul, Plan

SIZES = {letter: Size.symbol(letter) for letter in "bijkl"}


def matrices(subscripts: str) -> Matrices | None:
    left, right, out = subscripts.replace("->", ",").split(",")
    a, b, y = (
        buffer(name, float32, tuple(SIZES[c] for c in part), role)
        for name, part, role in (("a", left, "in"), ("b", right, "in"), ("y", out, "out"))
    )
    step = Matmul(subscripts, "a", "b", "y", float32)
    return as_matrices(Plan("product", ("a", "b"), ("y",), (a, b, y), (), (step,)), step)


@pytest.mark.parametrize(
    ("subscripts", "first", "second", "out"),
    [
        ("ij,jk->ik", "a", "b", "y"),
        ("ij,kj->ik", "a", "b.T", "y"),
        ("jk,ij->ik", "b", "a", "y"),
        ("bij,jk->bik", "a.reshape(b * i, j)", "b", "y.reshape(b * i, k)"),
        ("jbi,jk->bik", "a.reshape(j, b * i).T", "b", "y.reshape(b * i, k)"),
        ("bij,bik->jk", "a.reshape(b * i, j).T", "b.reshape(b * i, k)", "y"),
        ("bij,bkj->bik", "a", "b.transpose(0, 2, 1)", "y"),
        ("bij,bjk->bki", "b.transpose(0, 2, 1)", "a.transpose(0, 2, 1)", "y"),
        ("blij,bljk->blik", "a", "b", "y"),
        ("bij,j->bi", "a.reshape(b * i, j)", "b", "y.reshape(b * i)"),
    ],
)
def test_views(subscripts: str, first: str, second: str, out: str) -> None:
    found = matrices(subscripts)
    assert found is not None
    sizes = {letter: letter for letter in SIZES}
    a, b = ("b", "a") if found.turned else ("a", "b")
    texts = found.first.text(a, sizes), found.second.text(b, sizes), found.out.text("y", sizes)
    assert texts == (first, second, out)
    assert found.is_stack == (len(found.out.places) > 2)


@pytest.mark.parametrize(
    "subscripts", ["i,j->ij", "bji,jk->bik", "ibj,jk->bik", "bi,bi->b", "bij,ibk->jk"]
)
def test_what_no_view_makes_a_product(subscripts: str) -> None:
    """No axis summed over, or axes that do not lie side by side."""
    assert matrices(subscripts) is None


def test_totals_of_blocks_have_no_axis_of_length_1_in_front(rng: np.random.Generator) -> None:
    """A sum over two axes whose inner one is folded in each block before the outer one is."""

    def loss(a: Any, b: Any, c: Any) -> Any:
        y = a @ b
        return tgc.sum(y) + tgc.sum(tgc.sin(tgc.sum(y, axis=-2) + c))

    a, b, c = (rng.standard_normal(s) for s in ((3, 64, 1), (1, 1, 17), (17,)))
    da, db, dc = tgc.jit(tgc.grad(loss, argnums=(0, 1, 2)), backend="numpy")(a, b, c)
    slope = np.cos((a @ b).sum(-2) + c)
    np.testing.assert_allclose(db[0, 0], (a * (1 + slope[:, None])).sum((0, 1)))
    np.testing.assert_allclose(da[:, :, 0], (b * (1 + slope[:, None])).sum(-1).repeat(64, 1))
    np.testing.assert_allclose(dc, slope.sum(0))
