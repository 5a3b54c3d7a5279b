"""The whole chain on a graph, without the runtime: derive, lower, schedule, emit, run. What is never written is NaN.

Tiles are so small that every loop, split and second stage happens at a handful of elements.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from tgc.ir.evaluate import bind_sizes, evaluate
from tgc.ir.nodes import Graph
from tgc.kernel.ir import Plan
from tgc.pipeline import Pipeline, Planned, emit
from tgc.schedule.target import Target

Array: TypeAlias = npt.NDArray[Any]

TINY = Target("tiny", "numpy", flat=8, tile=16, row=8, whole=4, programs=3)
TINY_TRITON = replace(TINY, backend="triton", power_of_two=True, offset_bits=32, picks=True)
TINY_NATIVE = replace(TINY, backend="native")


def poison(shape: Any, dtype: Any = np.float64) -> Array:
    """Memory as `np.empty` may give it: NaN, or a large integer."""
    kind = np.dtype(dtype)
    return np.full(
        shape, np.iinfo(kind).max if kind.kind in "iu" else kind.kind == "b" or np.nan, kind
    )


class Numpy:
    """Runs plans as emitted numpy."""

    target = TINY

    def __init__(self, *plans: Plan, target: Target = TINY) -> None:
        self.source = emit(plans, target)
        self.module = types.ModuleType("emitted")
        exec(compile(self.source, "emitted", "exec"), self.module.__dict__)
        names = {name: getattr(np, name) for name in dir(np) if not name.startswith("__")}
        self.module.np = types.SimpleNamespace(**names | {"empty": poison})  # type: ignore[attr-defined]

    def __call__(self, plan: Plan, inputs: Sequence[Array]) -> list[Array]:
        kept = [x.copy() for x in inputs]
        outputs = list(getattr(self.module, plan.name)(*inputs))
        for before, after in zip(kept, inputs):
            np.testing.assert_array_equal(before, after, "an input was modified")
        return outputs


class Native:
    """Runs plans as LLVM code."""

    target = TINY_NATIVE

    def __init__(self, *plans: Plan, target: Target = TINY_NATIVE) -> None:
        pytest.importorskip("llvmlite")
        self.source = emit(plans, target)
        self.module = types.ModuleType("emitted")
        exec(compile(self.source, "emitted", "exec"), self.module.__dict__)
        self.module.empty = poison  # type: ignore[attr-defined]

    def __call__(self, plan: Plan, inputs: Sequence[Array]) -> list[Array]:
        inputs = [np.ascontiguousarray(x) for x in inputs]
        kept = [x.copy() for x in inputs]
        outputs = list(getattr(self.module, plan.name)(*inputs))
        for before, after in zip(kept, inputs):
            np.testing.assert_array_equal(before, after, "an input was modified")
        return outputs


class Triton:
    """Runs plans as emitted Triton, interpreted; a lane out of bounds raises."""

    target = TINY_TRITON

    def __init__(self, *plans: Plan, folder: Path, target: Target = TINY_TRITON) -> None:
        from tests.support.emitted import load_text

        self.source = emit(plans, target)
        self.module = load_text(self.source, folder)

    def __call__(self, plan: Plan, inputs: Sequence[Array]) -> list[Array]:
        from tests.support.emitted import call

        outputs, trace = call(self.module, plan, list(inputs))
        for launch in trace.launches:
            for name, tensor in launch.tensors.items():
                found = launch.of(tensor)
                assert found.races == found.write_conflicts == 0, (launch.kernel, name)
        return [o.numpy() for o in outputs]


Engine: TypeAlias = Numpy | Native | Triton


@dataclass(frozen=True)
class Results:
    """What a graph gave, and the cotangents of those inputs that have one."""

    outputs: list[Array]
    cotangents: dict[int, Array]


def hints_of(graph: Graph, arrays: Sequence[Array]) -> dict[str, int]:
    """The sizes at hand."""
    return bind_sizes(graph.inputs, [a.shape for a in arrays])


def value(
    graph: Graph, arrays: Sequence[Array], engine: type[Engine], **options: Any
) -> list[Array]:
    """The outputs of a graph, by an engine."""
    plan = Pipeline().plan(graph, engine.target, hints_of(graph, arrays))
    return engine(plan, **options)(plan, arrays)


def pair(
    graph: Graph,
    wrt: Sequence[int],
    arrays: Sequence[Array],
    seeds: Sequence[Array],
    engine: type[Engine],
    **options: Any,
) -> Results:
    """Outputs and cotangents by a training pair; `seeds` are the cotangents of the float outputs."""
    planned = Pipeline().plan_pair(graph, tuple(wrt), engine.target, hints_of(graph, arrays))
    run = engine(planned.forward, planned.backward, **options)
    made = run(planned.forward, arrays)
    outputs, saved = made[: len(graph.outputs)], made[len(graph.outputs) :]
    sources = {"input": arrays, "output": outputs, "saved": saved, "cotangent": seeds}
    found = run(planned.backward, [sources[kind][i] for kind, i in planned.keeps])
    return Results(outputs, _cotangents(planned, found))


def _cotangents(planned: Planned, found: Sequence[Array]) -> dict[int, Array]:
    return {i: found[at] for i, at in enumerate(planned.results) if at is not None}


def seeds_for(graph: Graph, arrays: Sequence[Array], rng: np.random.Generator) -> list[Array]:
    """Random cotangents of the float outputs."""
    return [
        rng.normal(size=value.shape).astype(node.dtype.name)
        for node, value in zip(graph.outputs, evaluate(graph, arrays))
        if node.dtype.is_float
    ]


def sizes_like(
    graph: Graph, arrays: Sequence[Array], sizes: Mapping[str, int], rng: np.random.Generator
) -> list[Array]:
    """Random arrays for the same graph at other sizes."""
    from tgc.ir.sizes import evaluate as extent

    shapes = [tuple(extent(d, sizes) for d in leaf.shape) for leaf in graph.inputs]
    return [np.round(rng.normal(size=s) * 2, 3).astype(a.dtype) for s, a in zip(shapes, arrays)]
