"""The gradient kernel of every operation: emitted numpy and interpreted Triton against the evaluator, edges included;
and compiled for an H100 that is not there, forward and backward, without spills or approximate arithmetic.

That the partials themselves are right is tested against mpmath in tests/unit/calculus.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import chain
from tgc.calculus.reverse import vjp
from tgc.calculus.terms import OPERANDS
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.dtypes import DType
from tgc.ir.evaluate import evaluate
from tgc.ir.nodes import Graph
from tgc.ir.ops import OPS
from tgc.ir.sizes import Size
from tgc.numerics.samples import points
from tgc.pipeline import Pipeline, wanted
from tgc.schedule.target import NATIVE, NUMPY, Target, triton

SM_90 = triton("sm_90")
SMOOTH = sorted(
    n for n, s in OPS.items() if s.formula and s.result == "same" and "float" in s.accepts
)
# Range reduction keeps 2/pi on the stack.
HAS_STACK_FRAME = {"sin", "cos", "tan"}


def operation(name: str, dtype: DType) -> Graph:
    """y = op(a, ...) over vectors."""
    g, size = Builder(), Size.symbol("n")
    inputs = tuple(g.input(x, dtype, (size,)) for x in OPERANDS[: OPS[name].arity])
    return g.graph("operation", inputs, (g.map(name, *inputs),))


def engine(target: Target, *plans: Any, folder: Path) -> chain.Engine:
    if target is NUMPY:
        return chain.Numpy(*plans, target=target)
    if target is NATIVE:
        return chain.Native(*plans, target=target)
    pytest.importorskip("triton")
    return chain.Triton(*plans, target=target, folder=folder)


@pytest.mark.parametrize("target", [NUMPY, NATIVE, SM_90], ids=lambda t: t.backend)
@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_kernels_compute_what_the_graph_says(
    name: str, target: Target, tmp_path: Path
) -> None:
    graph = operation(name, dtypes.float64)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    operands = points(OPS[name].domain, 200, rng, np.float64, special=True)
    if len(operands) == 3:
        operands = [x[:: len(x) // 4000 + 1] for x in operands]
    seed = rng.normal(size=operands[0].shape)
    gradient = vjp(graph, tuple(range(len(operands))))
    plan = Pipeline().plan(gradient, target, chain.hints_of(graph, operands))
    with np.errstate(all="ignore"):
        found = engine(target, plan, folder=tmp_path)(plan, [*operands, seed])
        want = evaluate(gradient, [*operands, seed])
    for got, expected in zip(found, want, strict=True):
        with np.errstate(all="ignore"):
            close = np.isclose(got, expected, rtol=1e-9, atol=1e-300, equal_nan=True)
            # a product of several factors may overflow in one order and just not in another
            close |= (np.abs(got) > 1e308) & (np.abs(expected) > 1e308) & (got * expected > 0)
        at = np.flatnonzero(~close)[:3]
        assert close.all(), [([float(x[i]) for x in operands], got[i], expected[i]) for i in at]


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64], ids=lambda d: d.name)
@pytest.mark.parametrize("name", SMOOTH)
def test_pairs_are_precise_on_an_h100(name: str, dtype: DType, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    from tests.support.emitted import compile_plan
    from tests.support.static_model import has_approximate_math

    graph = operation(name, dtype)
    sizes = {"n": 4096}
    pair = Pipeline().plan_pair(graph, wanted(graph, tuple(range(len(graph.inputs)))), SM_90, sizes)
    for plan in (pair.forward, pair.backward):
        for binary in compile_plan(plan, tmp_path, sizes):
            assert not has_approximate_math(binary.asm("ptx"), binary.asm("ttir"))
            # The slow path of a division in float64 is a call, around which one register is kept.
            allowed = 8 if dtype is dtypes.float64 else 0
            if name not in HAS_STACK_FRAME:
                assert binary.resources().spill_bytes <= allowed
