"""Graphs that once failed somewhere in the chain, as small as they could be made.

Each is checked as test_graphs.py checks what it draws: outputs and first gradients, by emitted numpy and interpreted
Triton, against the evaluator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.fuzz.test_graphs import check, reference, targets
from tests.support import chain
from tgc.ir.text import parse_graph

FOUND = {
    # numpy: a term of an index fell from a dimension of one element to its neighbour, and left the array.
    "interior padding of one row": (
        """
def random(g):
    y = g.input("y", "f64", (7,))
    v0 = g.reshape(y, shape=(1, 7))
    v1 = g.map("sub", v0, v0)
    v2 = g.map("relu", v0)
    v3 = g.pad(v1, before=(1, 0), after=(2, 0), interior=(0, 1))
    return v1, v2, v3
""",
        [(7,)],
    ),
    # Scheduler: strides of an empty array were zero, so its index lacked an axis.
    "a permuted empty array": (
        """
def random(g):
    n, = g.sizes("n")
    z = g.input("z", "f64", (0, 1, n))
    v0 = g.permute(z, order=(1, 2, 0))
    v1 = g.map("abs", v0)
    return v1
""",
        [(0, 1, 5)],
    ),
    "an empty gather's gradient": (
        """
def random(g):
    y = g.input("y", "f64", (0, 0))
    v0 = g.pad(y, before=(0, 0), after=(1, 2))
    c0 = g.const(0, "i64", (1, 2))
    v1 = g.iota(0, (1, 2), "i64")
    v2 = g.map("sub", c0, v1)
    v3 = g.take(v0, v2, axis=0)
    return v3
""",
        [(0, 0)],
    ),
    # Scheduler: a reshape of nothing divided by an extent of zero.
    "a reshaped empty array": (
        """
def random(g):
    x = g.input("x", "f64", (0, 0, 0))
    v0 = g.broadcast(x, shape=(0, 0, 0, 2), dims=(0, 1, 2))
    c0 = g.const(-1.702, "f64", (0, 0, 0))
    v1 = g.map("add", x, c0)
    v2 = g.reshape(v1, shape=(0, 0, 1, 0))
    return v0, v1, v2
""",
        [(0, 0, 0)],
    ),
    # Scheduler: a fold of an empty axis beside its use; a stage without a split.
    "a maximum over rows of nothing": (
        """
def random(g):
    x = g.input("x", "f64", (3, 5, 0))
    c0 = g.const(-0.5, "f64", (3, 5, 0))
    v0 = g.map("sub", x, c0)
    v1 = g.flip(v0, axes=(1, 2))
    v2 = g.fold("max", v1, axes=(0, 1))
    v3 = g.map("sub", v0, v1)
    return v2, v3
""",
        [(3, 5, 0)],
    ),
    # Scheduler: partial results of a fold that another kernel was to finish belonged to no plan.
    "two gradients that fold over the same rows": (
        """
def random(g):
    y = g.input("y", "f64", (5,))
    z = g.input("z", "f64", (5,))
    v0 = g.broadcast(z, shape=(2, 5), dims=(1,))
    v1 = g.map("neg", y)
    v2 = g.broadcast(v0, shape=(2, 5, 1), dims=(0, 1))
    v3 = g.map("maximum", v1, z)
    return v2, v3
""",
        [(5,), (5,)],
    ),
    # numpy: an array without elements, whose strides are not zero, was taken for one with gaps.
    "an empty array permuted and mapped": (
        """
def random(g):
    m, = g.sizes("m")
    x = g.input("x", "f64", (0, 3, m))
    v0 = g.permute(x, order=(2, 1, 0))
    v2 = g.map("square", x)
    v3 = g.map("log1p", v2)
    return v0, v3
""",
        [(0, 3, 3)],
    ),
    # numpy: beside a gathered term, the others of an index were believed to stay inside their dimension.
    "a gather along a dimension of one element": (
        """
def random(g):
    x = g.input("x", "f64", (2, 7, 1))
    c0 = g.const(0, "i64", (2, 7, 1))
    v0 = g.iota(2, (2, 7, 1), "i64")
    v1 = g.map("sub", c0, v0)
    v2 = g.take(x, v1, axis=2)
    v3 = g.flip(x, axes=(0, 1, 2))
    v4 = g.map("sub", v3, x)
    v5 = g.map("maximum", v2, x)
    return v4, v5
""",
        [(2, 7, 1)],
    ),
    # numpy: a padding load of less than a block lost its mask and had no place to be copied to.
    "a padded statistic of rows": (
        """
def random(g):
    m, = g.sizes("m")
    x = g.input("x", "f64", (m, 3, m))
    v0 = g.fold("min", x, axes=(0, 1))
    c0 = g.const(-0.5, "f64", (m,))
    v1 = g.map("sub", c0, v0)
    v2 = g.fold("min", v1, axes=(0,))
    v3 = g.slice(v0, start=(1,), stop=(m,), step=(1,))
    v4 = g.map("abs", v1)
    return v2, v3, v4
""",
        [(3, 3, 3)],
    ),
    # Scheduler: three axes that do not merge and do not fit a program, all folded.
    "the sum of a padded cube": (
        """
def random(g):
    x = g.input("x", "f64", (5, 3, 5))
    v0 = g.pad(x, before=(2, 1, 0), after=(0, 1, 1), interior=(1, 0, 0))
    v1 = g.fold("sum", v0, axes=(0, 1, 2))
    return v1
""",
        [(5, 3, 5)],
    ),
    # numpy: a load from an empty buffer lacked the axes its mask does not have.
    "two maxima over padding of nothing": (
        """
def random(g):
    m, n = g.sizes("m n")
    x = g.input("x", "f64", (m, 5, n))
    y = g.input("y", "f64", (n, 0, n))
    v0 = g.pad(y, before=(0, 0, 1), after=(0, 2, 0))
    v1 = g.fold("max", v0, axes=(0, 1, 2))
    v2 = g.reshape(v1, shape=(1,))
    v3 = g.map("sin", v0)
    v4 = g.reshape(v3, shape=(n, 1, 2, n + 1))
    v5 = g.map("erf", v2)
    v6 = g.fold("max", v4, axes=(0, 2))
    return v5, v6
""",
        [(3, 5, 5), (5, 0, 5)],
    ),
    # Scheduler: a looped axis dropped the store of a value that does not vary along it.
    "a repeated value beside its negative": (
        """
def random(g):
    n, = g.sizes("n")
    x = g.input("x", "f64", (1, 1))
    z = g.input("z", "f64", (1, n))
    v0 = g.map("neg", x)
    v1 = g.broadcast(x, shape=(n, 2, 1, 1), dims=(2, 3))
    return v1, v0
""",
        [(1, 1), (1, 5)],
    ),
    # Scheduler: an index lost the axis without elements, and what was read once for all of it was read of nothing.
    "the sum of no rows of one element": (
        """
def random(g):
    x = g.input("x", "f64", (0, 1))
    y = g.input("y", "f64", (1,))
    v0 = g.broadcast(y, shape=(0, 1), dims=(1,))
    v1 = g.map("mul", x, v0)
    v2 = g.map("sin", v1)
    v3 = g.fold("sum", v2, axes=(0, 1))
    return v3
""",
        [(0, 1), (1,)],
    ),
}


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize(
    "engine", [chain.Numpy, chain.Native, chain.Triton], ids=lambda e: e.__name__
)
def test_found(
    name: str, engine: type[chain.Engine], rng: np.random.Generator, tmp_path: Path
) -> None:
    options = {}
    if engine is chain.Triton:
        pytest.importorskip("triton")
        options = {"folder": tmp_path}
    through(*FOUND[name], engine, rng, **options)


def through(
    text: str,
    shapes: list[tuple[int, ...]],
    engine: type[chain.Engine],
    rng: np.random.Generator,
    **options: Any,
) -> None:
    graph = parse_graph(text.lstrip())
    arrays = [rng.normal(size=shape) for shape in shapes]
    seeds = chain.seeds_for(graph, arrays, rng)
    got = chain.pair(graph, targets(graph), arrays, seeds, engine, **options)
    check(got, reference(graph, arrays, seeds))
