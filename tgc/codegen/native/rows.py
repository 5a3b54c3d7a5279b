"""Kernels that follow a matrix product row by row: what they read of it need never be in memory as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tgc.codegen.numpy.matrices import as_matrices
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
        if out.role != "scratch" or users[step.out] != 2:
            continue
        if as_matrices(plan, step) is None:
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
        inner = {name: stride for name, stride in terms.items() if isinstance(name, str)}
        if own is None or s.index.offset != 0 or len(inner) < len(terms):
            return None
        if _elements(kernel, inner) != own or own * rows.extent != product(buffer.shape):
            return None
        each = own * step
    return each, product(tuple(a.programs for a in outer[1:]))


def _elements(kernel: Kernel, strides: Mapping[str, Dim]) -> Dim | None:
    """How many elements an index runs over that has such axes. None if it does not come to each once."""
    count: Dim = 1
    left = dict(strides)
    while left:
        name = next((name for name, stride in left.items() if stride == count), None)
        if name is None:
            return None
        count = count * kernel.axis(name).extent
        del left[name]
    return count
