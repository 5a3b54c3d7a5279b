"""Predicted memory traffic of a kernel, in bytes per buffer, as a function of the sizes.

A load or store moves one element for each element it is executed for. What several programs or several turns of a
loop read, they read each for themselves. A masked load moves what its mask lets through; that is the whole buffer
where it pads (an affine index), and at most its lanes otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from tgc.ir.ops import OPS
from tgc.ir.sizes import Dim, exact_quotient, product
from tgc.kernel.ir import Const, Kernel, Load, Loop, Op, Operand, Reduce, Store
from tgc.kernel.walk import accesses, everything, executions, in_loops, index_axes, terms


@dataclass(frozen=True)
class Traffic:
    """Bytes read and written per buffer, and scalar operations.

    `exact` is False where a mask makes the count depend on more than sizes.
    """

    reads: dict[str, Dim]
    writes: dict[str, Dim]
    flops: Dim
    exact: bool = True


def traffic(kernel: Kernel) -> Traffic:
    """What one launch of `kernel` moves and computes."""
    reads: dict[str, Dim] = {}
    writes: dict[str, Dim] = {}
    exact = True
    for s, loops in accesses(kernel):
        buffer = kernel.buffer(s.buffer)
        if buffer.role == "scalar":
            continue
        masked = isinstance(s, Load) and s.mask is not None
        count = _masked(kernel, s, loops) if masked else executions(kernel, s.axes, loops)
        exact = exact and not masked
        into = reads if isinstance(s, Load) else writes
        into[s.buffer] = into.get(s.buffer, 0) + count * buffer.dtype.itemsize
    return Traffic(reads, writes, flops(kernel), exact)


def _masked(kernel: Kernel, s: Load | Store, loops: tuple[str, ...]) -> Dim:
    """A padding load reads its buffer once, and once more for each repetition along axes it lacks."""
    if any(not isinstance(t, str) for t in terms(s.index)) or index_axes(s.index) != set(s.axes):
        return executions(kernel, s.axes, loops)
    once = product([kernel.axis(a).extent for a in s.axes])
    repeated = exact_quotient(executions(kernel, s.axes, loops), once)
    return (
        executions(kernel, s.axes, loops)
        if repeated is None
        else product(kernel.buffer(s.buffer).shape) * repeated
    )


def flops(kernel: Kernel) -> Dim:
    """Scalar operations, each weighed by its cost in the operation table; a fold is one per element."""
    axes_of = {s.name: s.axes for s in everything(kernel.body) if not isinstance(s, Store | Loop)}
    total: Dim = 0
    for s, loops in in_loops(kernel.body):
        if isinstance(s, Op):
            total = total + executions(kernel, s.axes, loops) * OPS[s.op].cost
        folds = s.folds if isinstance(s, Loop) else (s,) if isinstance(s, Reduce) else ()
        for fold in folds:
            inner = (*loops, s.axis) if isinstance(s, Loop) else loops
            seen = _axes(fold.value, axes_of) | set(fold.over)
            total = total + executions(
                kernel, tuple(a.name for a in kernel.axes if a.name in seen), inner
            )
    return total


def _axes(operand: Operand, axes_of: dict[str, tuple[str, ...]]) -> set[str]:
    return set() if isinstance(operand, Const) else set(axes_of[operand])
