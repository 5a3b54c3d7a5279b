"""The kernel IR: what the scheduler produces and every backend renders.

A kernel runs over named axes. A value has a dtype and a *set of axes*; broadcasting is by axis set, never by shape:
an `Op` of a value over {r} and one over {r, c} is a value over {r, c}. Memory is flat: a buffer is addressed by one
quasi-affine `Index` over axes and sizes, in elements.

An axis is one of three kinds:

| kind | Triton | numpy |
|---|---|---|
| `grid` | each program takes a tile of `block` | a loop over blocks |
| `lane` | the whole extent lies in one tile | a full array dimension |
| `loop` | a sequential loop inside the program, `block` at a time | likewise |

A `loop` axis with a `split` is also divided among programs, `split` elements each; `Program(axis)` is the number of
a program along it. `Loop` folds: what a loop computes besides its stores is the list of its `folds`, each a `Reduce`
whose value lies in the body and which is defined after the loop. A backend may keep such a fold lane by lane and
reduce it at the end, or reduce each block: the order is fixed per backend, so results are deterministic.

Lanes beyond an axis' extent do not exist: loads do not touch them, reduces leave them out, stores do not write them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from tgc.errors import Line
from tgc.ir.dtypes import DType
from tgc.ir.sizes import Dim, cdiv
from tgc.ir.sizes import Guard as Guard

INT32_ELEMENTS = 2**31 - 2**20
"""Offsets into a buffer of at most so many elements are computed in 32 bits, where a `Guard` of the plan says so.

The room left is for the lanes of a tile that overrun the end.
"""


@dataclass(frozen=True)
class Axis:
    """An iteration axis of `extent` elements.

    `block`: elements per tile, which may depend on the sizes of the lanes beside it (for Triton it is a power of two);
    for a lane axis, whose tile is the extent, rounded up where the backend wants that, it is None, or the extent as a
    number where the regime pins it. `split`: for a loop axis divided among programs, elements per program.
    """

    name: str
    extent: Dim
    kind: str
    block: Dim | None = None
    split: Dim | None = None

    @property
    def programs(self) -> Dim:
        """How many programs lie along this axis."""
        if self.kind == "grid":
            return cdiv(self.extent, self.block or 1)
        return 1 if self.split is None else cdiv(self.extent, self.split)


@dataclass(frozen=True)
class Buffer:
    """Memory: `role` is "in", "out", "partial" (staged between kernels), "scratch" or "scalar" (a by-value number).

    `strides` are in elements. `name` is the user's where there is one. `alias`: the input in whose memory an output
    lies. The kernel that stores it reads of the input, if anything, the element it overwrites; its stores come last.
    """

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    role: str
    alias: str | None = None


@dataclass(frozen=True)
class Program:
    """The program number along an axis."""

    axis: str


@dataclass(frozen=True)
class Quotient:
    """`index // divisor` as an index term."""

    index: Index
    divisor: Dim


@dataclass(frozen=True)
class Remainder:
    """`index % divisor` as an index term."""

    index: Index
    divisor: Dim


@dataclass(frozen=True)
class Gathered:
    """An integer value of the kernel as an index term: a position along an axis of `extent` elements, or an error."""

    value: str
    extent: Dim
    line: Line | None = field(default=None, compare=False, repr=False)


# A plain str is the axis of that name.
Term: TypeAlias = str | Program | Quotient | Remainder | Gathered


@dataclass(frozen=True)
class Index:
    """`offset + sum(coefficient * term)`, in elements; terms are in a canonical order, coefficients are non-zero."""

    terms: tuple[tuple[Term, Dim], ...] = ()
    offset: Dim = 0


@dataclass(frozen=True)
class Const:
    """A constant operand; `value` may be a `Size`."""

    value: bool | int | float | Dim
    dtype: DType


Operand: TypeAlias = str | Const


@dataclass(frozen=True)
class Load:
    """`name = buffer[index]`; where `mask` (a bool value) is false, `fill` without touching memory."""

    name: str
    buffer: str
    index: Index
    dtype: DType
    axes: tuple[str, ...]
    mask: str | None = None
    fill: float = 0.0


@dataclass(frozen=True)
class Iota:
    """`name` = the integer value of an index."""

    name: str
    index: Index
    dtype: DType
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Op:
    """`name = op(args)` by the operation table; its axes are the union of its operands'."""

    name: str
    op: str
    args: tuple[Operand, ...]
    dtype: DType
    axes: tuple[str, ...]
    line: Line | None = None


@dataclass(frozen=True)
class Reduce:
    """`name` = fold of `value` by a basic monoid over the axes `over`; `axes` are those that remain."""

    name: str
    monoid: str
    value: Operand
    over: tuple[str, ...]
    dtype: DType
    axes: tuple[str, ...]
    line: Line | None = None


@dataclass(frozen=True)
class Store:
    """`buffer[index] = value`; every element is written once."""

    buffer: str
    index: Index
    value: Operand
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Loop:
    """Run `body` for each tile of a loop axis, in order; then `folds` are defined."""

    axis: str
    body: tuple[Statement, ...]
    folds: tuple[Reduce, ...] = ()


Statement: TypeAlias = Load | Iota | Op | Reduce | Store | Loop


@dataclass(frozen=True)
class Kernel:
    """One launch. `sizes` are the size and stride symbols its code mentions; `formula` says what it computes."""

    name: str
    axes: tuple[Axis, ...]
    buffers: tuple[Buffer, ...]
    sizes: tuple[str, ...]
    body: tuple[Statement, ...]
    formula: tuple[str, ...] = ()

    def axis(self, name: str) -> Axis:
        return next(a for a in self.axes if a.name == name)

    def buffer(self, name: str) -> Buffer:
        return next(b for b in self.buffers if b.name == name)


# --- plans ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """Run a kernel; its buffers are the plan's buffers of the same names."""

    kernel: Kernel


@dataclass(frozen=True)
class Matmul:
    """`out = einsum(subscripts, a, b)` by the library (BLAS, torch.matmul), in `dtype`; buffers by name."""

    subscripts: str
    a: str
    b: str
    out: str
    dtype: DType


Step: TypeAlias = Launch | Matmul


@dataclass(frozen=True)
class Binding:
    """The size symbol `name` is dimension `dim` (or, if `stride`, the stride in elements of it) of an input."""

    name: str
    buffer: str
    dim: int
    stride: bool = False


@dataclass(frozen=True)
class Plan:
    """A host function: takes `inputs`, allocates every other buffer, runs `steps`, returns `outputs`.

    `outputs` name buffers, in order, and may repeat. A buffer is out (returned), partial or scratch (freed). `writes`
    are donated inputs, each with the output it holds at the end: it is returned in the output's place. An output whose
    `alias` it is was stored there; any other is copied into it when all steps have run.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    buffers: tuple[Buffer, ...]
    bindings: tuple[Binding, ...]
    steps: tuple[Step, ...]
    guards: tuple[Guard, ...] = ()
    writes: tuple[tuple[str, str], ...] = ()

    def buffer(self, name: str) -> Buffer:
        return next(b for b in self.buffers if b.name == name)

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        return tuple(s.kernel for s in self.steps if isinstance(s, Launch))
