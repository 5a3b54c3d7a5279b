"""Plans compute what their graphs say, for every shape of kernel, at sizes around the tiles' edges."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tgc
from tests.support import cases
from tgc.codegen import numpy as numpy_backend
from tgc.ir.evaluate import evaluate
from tgc.ir.nodes import Graph
from tgc.kernel.ir import Plan
from tgc.schedule.run import schedule
from tgc.schedule.target import NUMPY, Target, triton

# Tiles so small that every loop, split and second stage happens at a handful of elements.
TINY = Target("tiny", "numpy", flat=8, tile=16, row=8, whole=4, programs=3)
SIZES = [(2, 3, 5), (7, 5, 3), (13, 17, 2), (40, 11, 7), (5, 97, 4)]


def run(plan: Plan, inputs: list[np.ndarray]) -> list[np.ndarray]:
    space: dict[str, object] = {}
    exec(compile(numpy_backend.emit([plan]), plan.name, "exec"), space)
    return list(space[plan.name](*inputs))  # type: ignore[operator]


@pytest.mark.parametrize("target", [TINY, NUMPY, triton("sm_90")], ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("case", "sizes"),
    list(itertools.product(cases.CASES, SIZES)),
    ids=lambda v: getattr(v, "__name__", None),
)
def test_plan_equals_graph(
    case, sizes: tuple[int, int, int], target: Target, rng: np.random.Generator
) -> None:
    graph: Graph = case()
    hints = dict(zip(("n", "m", "k"), sizes, strict=True))
    inputs = cases.arrays(graph, hints, rng)
    plan = schedule(graph, target, hints)
    for got, want in zip(run(plan, inputs), evaluate(graph, inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_two_stages_of_one_kind_that_are_tiled_apart(rng: np.random.Generator) -> None:
    """Their partial results differ in number, so that no kernel finishes both."""
    x = rng.standard_normal(200_001)
    f = tgc.jit(lambda x: np.argmax(x) * 1.0 + np.sum(x), backend="numpy")
    programs = [b.shape[0] for b in f.lower(x).plans[0].buffers if b.role == "partial"]
    assert len(set(programs)) == 2
    np.testing.assert_allclose(f(x), np.argmax(x) + np.sum(x), rtol=1e-12)
