"""The plans of test_schedule.py, emitted as Triton and interpreted: values, bounds and single reads and writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("triton")

from tests.support import cases
from tests.support.chain import TINY_TRITON
from tests.support.emitted import call, load
from tgc.ir.evaluate import evaluate
from tgc.kernel.ir import Matmul
from tgc.schedule.run import schedule

TARGET = TINY_TRITON


@pytest.mark.parametrize("sizes", [(7, 5, 3), (5, 19, 4)], ids=str)
@pytest.mark.parametrize("case", cases.CASES, ids=lambda c: c.__name__)
def test_interpreted_plan_equals_graph(
    case, sizes: tuple[int, int, int], rng: np.random.Generator, tmp_path: Path
) -> None:
    graph = case()
    hints = dict(zip(("n", "m", "k"), sizes, strict=True))
    inputs = cases.arrays(graph, hints, rng)
    plan = schedule(graph, TARGET, hints)
    library = {step.out for step in plan.steps if isinstance(step, Matmul)}
    outputs, trace = call(load([plan], tmp_path), plan, inputs)
    for name, got, want in zip(plan.outputs, outputs, evaluate(graph, inputs), strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=2e-5, atol=2e-5)
        assert name in library or trace.of(got).written_once
