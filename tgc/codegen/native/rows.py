"""Kernels that follow a matrix product row by row: what they read of it need never be in memory as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tgc.ir.sizes import Dim, product
from tgc.kernel.ir import Buffer, Kernel, Launch, Load, Matmul, Plan, Step
from tgc.kernel.walk import outer_axes, statements


@dataclass(frozen=True)
class Follower:
    """The launch at a position of a plan, and the product it reads, which nobody else does.

    Its programs, `beside` of them at a time, read `each` elements of the product after the other.
    """

    launch: int
    product: int
    buffer: Buffer
    each: Dim
    beside: Dim


def followed(plan: Plan) -> Iterator[Follower]:
    """The launches that may run row after row of a product, one product each."""
    users = Counter(name for step in plan.steps for name in _touched(step))
    taken = set[int]()
    for position, step in enumerate(plan.steps):
        if not isinstance(step, Matmul):
            continue
        out, factors = plan.buffer(step.out), {step.a, step.b}
        if out.role != "scratch" or users[step.out] != 2 or len(out.shape) != 2:
            continue
        if any(plan.buffer(name).dtype is not step.dtype for name in (*factors, step.out)):
            continue
        for later in range(position + 1, len(plan.steps)):
            launch = plan.steps[later]
            if not isinstance(launch, Launch) or later in taken:
                continue
            if any(b.alias in factors for b in launch.kernel.buffers):
                break  # a factor is overwritten, of which rows may still be wanted
            if any(b.name == step.out for b in launch.kernel.buffers):
                found = _in_order(launch.kernel, out)
                if found is not None:
                    taken.add(later)
                    yield Follower(later, position, out, *found)
                break


def _touched(step: Step) -> list[str]:
    if isinstance(step, Matmul):
        return [step.a, step.b, step.out]
    return [b.name for b in step.kernel.buffers]


def _in_order(kernel: Kernel, buffer: Buffer) -> tuple[Dim, Dim] | None:
    """`each` and `beside` of a kernel that reads a buffer so."""
    outer = [kernel.axis(name) for name in outer_axes(kernel)]
    if not outer:
        return None
    rows = outer[0]
    step = rows.split or rows.block or 1
    for s in statements(kernel.body):
        if not isinstance(s, Load) or s.buffer != buffer.name:
            continue
        terms = dict(s.index.terms)
        own = terms.pop(rows.name, None)
        if own is None or s.index.offset != 0:
            return None
        if own == 1:
            if terms or rows.extent != product(buffer.shape):
                return None
            each: Dim = step
        else:
            ((axis, near),) = terms.items() if len(terms) == 1 else ((None, 0),)
            whole = isinstance(axis, str) and kernel.axis(axis).extent == buffer.shape[1]
            if near != 1 or not whole or (rows.extent, own) != (buffer.shape[0], buffer.shape[1]):
                return None
            each = own * step
    return each, product(tuple(a.programs for a in outer[1:]))
