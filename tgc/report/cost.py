"""What a plan costs, as the kernel IR predicts it: launches, bytes moved, bytes kept, arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from tgc.ir.sizes import Dim, evaluate, product
from tgc.kernel.ir import Buffer, Launch, Matmul, Plan
from tgc.kernel.traffic import traffic


@dataclass(frozen=True)
class Cost:
    """Predicted cost at given sizes.

    Attributes:
        kernels: launches, library calls included.
        bytes_read, bytes_written: memory traffic, partial results included.
        saved_bytes: kept between forward and backward, beyond the inputs.
        peak_bytes: outputs and temporaries allocated; inputs, and outputs in their memory, are not counted.
        flops: scalar operations, each counted as one.
    """

    kernels: int
    bytes_read: int
    bytes_written: int
    saved_bytes: int
    peak_bytes: int
    flops: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def bytes(self) -> int:
        """Read and written together."""
        return self.bytes_read + self.bytes_written


def nbytes(buffer: Buffer) -> Dim:
    """The size of a buffer."""
    return product(buffer.shape) * buffer.dtype.itemsize


def cost_of(plan: Plan, sizes: Mapping[str, int], saved_bytes: int = 0) -> Cost:
    """The cost of one host function."""
    read = written = flops = 0
    for step in plan.steps:
        if isinstance(step, Launch):
            found = traffic(step.kernel)
            read += sum(evaluate(amount, sizes) for amount in found.reads.values())
            written += sum(evaluate(amount, sizes) for amount in found.writes.values())
            flops += evaluate(found.flops, sizes)
        else:
            reads, writes, operations = matmul_traffic(plan, step)
            read += evaluate(reads, sizes)
            written += evaluate(writes, sizes)
            flops += evaluate(operations, sizes)
    own = [b for b in plan.buffers if b.name not in plan.inputs and b.alias is None]
    peak = sum(evaluate(nbytes(b), sizes) for b in own)
    return Cost(len(plan.steps), read, written, saved_bytes, peak, flops)


def matmul_traffic(plan: Plan, step: Matmul) -> tuple[Dim, Dim, Dim]:
    """Bytes read and written and operations of a contraction: each operand once, two operations per product."""
    a, b, out = (plan.buffer(name) for name in (step.a, step.b, step.out))
    extents = _extents(step.subscripts, a, b)
    return nbytes(a) + nbytes(b), nbytes(out), product(tuple(extents.values())) * 2


def _extents(subscripts: str, a: Buffer, b: Buffer) -> dict[str, Dim]:
    first, second = subscripts.split("->")[0].split(",")
    return dict(zip(first, a.shape)) | dict(zip(second, b.shape))


def ideal_bytes(plans: tuple[Plan, ...], sizes: Mapping[str, int]) -> int:
    """Each input read once and each output written once, for every plan."""
    total = 0
    for plan in plans:
        for name in dict.fromkeys((*plan.inputs, *plan.outputs)):
            total += evaluate(nbytes(plan.buffer(name)), sizes)
    return total
