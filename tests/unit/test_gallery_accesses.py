"""What interpreted kernels of the gallery load and store, lane by lane, is what the kernel IR predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")

import tgc
from kernels.definitions import DEFINITIONS, Definition
from tests.support import chain, emitted
from tests.support.triton_interpreter import Trace
from tgc.ir.sizes import evaluate
from tgc.kernel.ir import Plan
from tgc.kernel.traffic import traffic
from tgc.pipeline import Pipeline, wanted
from tgc.schedule.target import Target, triton

# One shape for each way to schedule: one element, rows that a program holds, longer ones, many of them (partial sums).
SHAPES = {
    chain.TINY_TRITON: [(1, 1), (3, 5), (5, 17), (33, 9)],
    triton("sm_90"): [(1, 1), (3, 5), (7, 33), (41, 19)],
}


def arguments(
    definition: Definition, shape: tuple[int, int], rng: np.random.Generator
) -> list[Any]:
    """Random arrays of a definition's specs; labels are below the number of columns."""
    sizes = {"rows": shape[0], "cols": shape[1], "n": shape[0] * shape[1]}
    made: list[Any] = []
    for text in definition.specs:
        kind, dims = text.rstrip("]").split("[")
        extents = [sizes[d.strip()] for d in dims.split(",")]
        floats = rng.standard_normal(extents).astype(np.float32)
        made.append(floats if kind == "f32" else rng.integers(0, shape[1], extents))
    return made


def check(plan: Plan, trace: Trace, sizes: dict[str, int]) -> int:
    """Compare each launch with the prediction; how many buffers were compared."""
    launched = {launch.kernel: launch for launch in trace.launches}
    compared = 0
    for kernel in plan.kernels:
        predicted, launch = traffic(kernel), launched[kernel.name]
        for buffer in kernel.buffers:
            tensor = launch.tensors.get(f"{buffer.name}_ptr")
            if tensor is None:
                continue
            found = launch.of(tensor)
            want_read = evaluate(predicted.reads.get(buffer.name, 0), sizes)
            want_written = evaluate(predicted.writes.get(buffer.name, 0), sizes)
            assert found.bytes_loaded == want_read, (kernel.name, buffer.name)
            assert found.bytes_stored == want_written, (kernel.name, buffer.name)
            assert found.races == found.write_conflicts == found.stray_lanes == 0
            compared += 1
    return compared


@pytest.mark.parametrize(
    ("target", "shape"),
    [pytest.param(t, s, id=f"{t.name}-{s}") for t in SHAPES for s in SHAPES[t]],
)
@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
def test_accesses_are_as_predicted(
    definition: Definition,
    target: Target,
    shape: tuple[int, int],
    rng: np.random.Generator,
    tmp_path: Path,
) -> None:
    arrays = arguments(definition, shape, rng)
    graph = tgc.jit(definition.function).lower(*arrays, backend="numpy").graph
    hints = chain.hints_of(graph, arrays)
    chosen = wanted(graph, tuple(range(len(arrays))))
    pair = Pipeline().plan_pair(graph, chosen, target, hints)
    module = emitted.load([pair.forward, pair.backward], tmp_path)
    made, trace = emitted.call(module, pair.forward, arrays)
    assert check(pair.forward, trace, hints) >= 2
    seeds = [np.ones(tuple(made[0].shape), np.float32)]
    saved = [t.numpy() for t in made[len(graph.outputs) :]]
    sources = {"input": arrays, "output": [made[0].numpy()], "saved": saved, "cotangent": seeds}
    inputs = [sources[kind][i] for kind, i in pair.keeps]
    _, trace = emitted.call(module, pair.backward, inputs)
    assert check(pair.backward, trace, hints) >= 2
