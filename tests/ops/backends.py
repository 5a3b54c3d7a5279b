"""What runs an operation of the table in these tests: one entry per way tgc computes it.

Backends are added here; every test of the table then covers them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support import chain
from tgc.calculus.terms import OPERANDS, run, run_op
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.expressions import parse
from tgc.ir.ops import OPS
from tgc.ir.sizes import Size
from tgc.kernel.ir import Plan
from tgc.pipeline import Pipeline
from tgc.schedule.target import NATIVE, NUMPY, Target, triton

Array = NDArray[Any]


@dataclass(frozen=True)
class Backend:
    """`run(op, operands)` for the operations that `covers(op)` accepts."""

    covers: Callable[[str], bool]
    run: Callable[[str, tuple[Array, ...]], Array]


def by_table(op: str, operands: tuple[Array, ...]) -> Array:
    """The numpy function the table names, or the expansion."""
    return run_op(op, operands, operands[-1].dtype)


def by_expansion(op: str, operands: tuple[Array, ...]) -> Array:
    """The expansion, also where numpy has the operation itself: other backends have not."""
    text = OPS[op].expansion_for(operands[-1].dtype.name)
    assert text is not None
    return np.asarray(run(parse(text), dict(zip(OPERANDS, operands))))


def _expanded_elsewhere(op: str) -> bool:
    return OPS[op].expansion is not None and OPS[op].numpy is not None


@cache
def emitted(op: str, kinds: tuple[str, ...], target: Target) -> tuple[Plan, chain.Engine]:
    """One kernel that computes `op` over vectors, through simplification and expansion as a user's would be."""
    g, size = Builder(), Size.symbol("n")
    inputs = tuple(
        g.input(name, dtypes.BY_NAME[kind], (size,)) for name, kind in zip(OPERANDS, kinds)
    )
    plan = Pipeline().plan(g.graph("operation", inputs, (g.map(op, *inputs),)), target, {"n": 5000})
    if target.backend == "numpy":
        return plan, chain.Numpy(plan, target=target)
    if target.backend == "native":
        return plan, chain.Native(plan, target=target)
    return plan, chain.Triton(plan, target=target, folder=Path(mkdtemp()))


def by_kernel(target: Target) -> Callable[[str, tuple[Array, ...]], Array]:
    """The emitted kernel, all points in one call."""

    def call(op: str, operands: tuple[Array, ...]) -> Array:
        flat = [np.ascontiguousarray(x).ravel() for x in np.broadcast_arrays(*operands)]
        plan, engine = emitted(op, tuple(x.dtype.name for x in flat), target)
        return engine(plan, flat)[0].reshape(np.shape(operands[-1]))

    return call


BACKENDS: dict[str, Backend] = {
    "table": Backend(lambda op: op not in ("cast", "where"), by_table),
    "expansion": Backend(_expanded_elsewhere, by_expansion),
    "numpy": Backend(lambda op: op not in ("cast", "where"), by_kernel(NUMPY)),
}
if find_spec("llvmlite") is not None:
    BACKENDS["native"] = Backend(lambda op: op not in ("cast", "where"), by_kernel(NATIVE))
if find_spec("triton") is not None:
    interpreted = Backend(lambda op: op not in ("cast", "where"), by_kernel(triton("sm_90")))
    BACKENDS["triton"] = interpreted
