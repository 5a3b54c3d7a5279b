"""What a kernel takes and how wide its index arithmetic is: decided once, for the kernel, the host code and `launches`.

Offsets. An axis is counted in 64 bits unless the plan's guards prove that everything reached through it lies within
`INT32_ELEMENTS`. A scheduler that asks whether a tensor is small thereby gets kernels without a single cast.

Sizes. A kernel takes the size symbols it uses. A composite size becomes one argument, computed by the host in Python
integers, where it bounds an axis (a mask vectorises only if its bound is known to be divisible by 16, which Triton
learns of arguments) or where computing it in 32 bits is not proved safe.

The grid has one dimension: the others end at 65,535 programs, and neighbouring programs should read neighbouring
memory, so the last axis runs fastest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tgc.codegen.naming import Names
from tgc.codegen.triton.indices import (
    coefficients,
    has_division,
    index_sizes,
    indices,
    is_symbol,
    magnitude,
    upper_bound,
)
from tgc.errors import VerifyError
from tgc.ir.dtypes import DType
from tgc.ir.sizes import Dim, Size, cdiv, exact_quotient, product, symbols
from tgc.kernel.ir import (
    INT32_ELEMENTS,
    Axis,
    Buffer,
    Const,
    Guard,
    Index,
    Kernel,
    Load,
    Program,
    Store,
    Term,
)
from tgc.kernel.walk import everything, operands, statements


@dataclass(frozen=True)
class Geometry:
    """How one axis lies in a tile.

    Attributes:
        block: lanes, a power of two; None: as many as the extent, rounded up when it is known.
        tiled: whether it is a dimension of the tile at all; one element at a time is a scalar.
        masked: whether lanes may lie beyond its end.
    """

    axis: Axis
    block: Dim | None
    tiled: bool
    masked: bool

    @property
    def block_name(self) -> str:
        return f"BLOCK_{self.axis.name}"


def geometry(axis: Axis) -> Geometry:
    """The lanes of an axis; a fixed extent needs no more of them than it has."""
    extent = axis.extent
    block = None if axis.kind == "lane" else axis.block or 1
    if isinstance(extent, int) and not isinstance(block, Size):
        fitting = power_of_two(extent)
        block = fitting if block is None else min(block, fitting)
    if isinstance(block, int) and block != power_of_two(block):
        raise VerifyError(f"axis {axis.name}: a Triton tile needs a power of two, not {block}")
    exact = block is not None and extent != 0 and exact_quotient(extent, block) is not None
    tiled = block != 1 or extent == 0
    return Geometry(axis, block, tiled, tiled and not exact)


def power_of_two(n: int) -> int:
    """The least power of two that is at least n, and at least 1."""
    return 1 << max(n - 1, 0).bit_length()


def program_count(axis: Axis) -> Dim:
    """Programs along an axis."""
    return axis.programs if axis.kind == "loop" else cdiv(axis.extent, axis.block or 1)


def passed_type(buffer: Buffer) -> DType:
    """The type in which a by-value number is passed: half types travel as float32."""
    return buffer.dtype.compute


class Parameters:
    """The parameters of one kernel in order: pointers and scalars, sizes, blocks; and what index arithmetic needs.

    Attributes:
        buffers: those the kernel touches; `pointers` are their parameter names.
        axes: how each axis lies in a tile.
        size_names: the parameter name of every size that has one.
        names: what those names leave free.
    """

    def __init__(self, kernel: Kernel, guards: Sequence[Guard] = ()) -> None:
        self.kernel, self.guards = kernel, tuple(guards)
        touched = {s.buffer for s in statements(kernel.body) if isinstance(s, (Load, Store))}
        self.buffers: tuple[Buffer, ...] = tuple(b for b in kernel.buffers if b.name in touched)
        self.axes: dict[str, Geometry] = {a.name: geometry(a) for a in kernel.axes}
        self._indices: list[Index] = indices(kernel.body)
        self.terms = frozenset(t for index in self._indices for t, _ in coefficients(index))
        self.size_names = self._name_sizes()
        self.names = Names(self.size_names.values())
        self.pointers: dict[str, str] = {
            b.name: self.names.new(b.name if b.role == "scalar" else f"{b.name}_ptr")
            for b in self.buffers
        }

    @property
    def sizes(self) -> tuple[tuple[str, Dim], ...]:
        """Parameter name and size."""
        return tuple((name, size) for size, name in self.size_names.items())

    @property
    def tiled(self) -> tuple[str, ...]:
        """The axes that are tile dimensions, in order."""
        return tuple(name for name, g in self.axes.items() if g.tiled)

    @property
    def blocks(self) -> tuple[Geometry, ...]:
        """The axes with a block parameter."""
        return tuple(g for g in self.axes.values() if g.tiled)

    @property
    def programs(self) -> tuple[Axis, ...]:
        """The axes divided among programs, outermost first."""
        return tuple(a for a in self.kernel.axes if a.kind == "grid" or a.split is not None)

    @property
    def grid(self) -> Dim:
        """How many programs the kernel is launched with."""
        return product([program_count(axis) for axis in self.programs])

    def fits(self, size: Dim) -> bool:
        """Whether a size is proved to be small enough for 32-bit arithmetic."""
        return upper_bound(size, self.guards) <= INT32_ELEMENTS

    @cached_property
    def wide(self) -> frozenset[Term]:
        """The axes (and `Program` terms) to count in 64 bits."""
        found: set[Term] = set()
        for index in self._indices:
            for term, coefficient in coefficients(index):
                if isinstance(term, (str, Program)) and not self._reach_fits(term, coefficient):
                    found.add(term)
        for axis in self.programs:
            used = axis.name in self.terms or self.axes[axis.name].masked
            if used and not self.fits(axis.extent):
                found.add(axis.name)
        for axis in self.kernel.axes:
            if axis.split is not None and axis.name in found:
                found.add(Program(axis.name))
        return frozenset(found)

    def _reach_fits(self, term: str | Program, coefficient: Dim) -> bool:
        axis = self.kernel.axis(term if isinstance(term, str) else term.axis)
        extent = axis.extent if isinstance(term, str) else axis.programs
        if isinstance(coefficient, int):
            if axis.kind == "lane" or isinstance(term, Program):
                return True  # a tile has at most 2**20 lanes, a grid at most 2**31 programs
            if axis.kind == "loop" and axis.split is None and abs(coefficient) == 1:
                return True  # its counter has the type of its bound, which the launcher chooses by value
        return self.fits(extent * magnitude(coefficient))

    # --- sizes ---

    def _name_sizes(self) -> dict[Dim, str]:
        """Plain symbols keep their names; composite extents come next, then what is not safe to compute inside."""
        names = Names({b.name for b in self.kernel.buffers} | {a.name for a in self.kernel.axes})
        names.taken |= set(self.kernel.sizes)
        composite: dict[Dim, str] = {}
        plain: set[str] = set()
        for wish, size in self._bounds():
            if is_symbol(size):
                plain.add(str(size))
            elif isinstance(size, Size) and size not in composite:
                composite[size] = names.new(wish)
        for wish, size in self._written_sizes():
            if isinstance(size, int) or size in composite:
                continue
            if self._inline(size):
                plain |= symbols(size)
            else:
                composite[size] = names.new(wish)
        along = [str(a.extent) for a in self.kernel.axes] + list(self.kernel.sizes)
        ordered = [s for s in dict.fromkeys(along) if s in plain]
        ordered += sorted(plain.difference(ordered))
        return {Size.symbol(s): s for s in ordered} | composite

    def _bounds(self) -> Iterator[tuple[str, Dim]]:
        """The extents that kernel text mentions, with the names they would have."""
        for axis in self.kernel.axes:
            counted = axis in self.programs[1:]
            if counted or axis.kind == "loop" or self.axes[axis.name].masked:
                yield f"n_{axis.name}", axis.extent
            if axis.split is not None:
                yield f"{axis.name}_split", axis.split

    def _written_sizes(self) -> Iterator[tuple[str, Dim]]:
        """The sizes in indices and operands, with the names they would have."""
        for statement in everything(self.kernel.body):
            if isinstance(statement, (Load, Store)):
                for term, size in index_sizes(statement.index):
                    kind = "offset" if term is None else "stride"
                    yield f"{statement.buffer}_{kind}", size
            for operand in operands(statement):
                if isinstance(operand, Const) and isinstance(operand.value, Size):
                    yield "size", operand.value
        for index in self._indices:
            yield from (("size", size) for _, size in index_sizes(index))

    def _inline(self, size: Dim) -> bool:
        """Whether kernel text may compute this size from symbols."""
        if is_symbol(size):
            return True
        return not has_division(size) and self.fits(size) and self.fits(size * -1)
