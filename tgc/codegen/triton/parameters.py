"""What a kernel takes and how wide its index arithmetic is: decided once, for the kernel, the host code and `launches`.

Offsets. An axis is counted in 64 bits unless the plan's guards prove that everything reached through it lies within
`INT32_ELEMENTS`. A scheduler that asks whether a tensor is small thereby gets kernels without a single cast.

Sizes. A kernel takes the size symbols it uses. A composite size becomes one argument, computed by the host in Python
integers, where it bounds an axis (a mask vectorises only if its bound is known to be divisible by 16, which Triton
learns of arguments) or where computing it in 32 bits is not proved safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from tgc.codegen.naming import Names
from tgc.errors import VerifyError
from tgc.ir.sizes import Dim, FloorDiv, Monomial, Size, cdiv, exact_quotient, symbols
from tgc.kernel.ir import (
    INT32_ELEMENTS,
    Axis,
    Buffer,
    Const,
    Guard,
    Index,
    Iota,
    Kernel,
    Load,
    Loop,
    Op,
    Program,
    Quotient,
    Reduce,
    Remainder,
    Statement,
    Store,
    Term,
)


def walk(body: Sequence[Statement]) -> Iterator[Statement]:
    """Every statement, those in loops included (a loop comes before its body)."""
    for statement in body:
        yield statement
        if isinstance(statement, Loop):
            yield from walk(statement.body)


def index_terms(index: Index) -> Iterator[tuple[Term, Dim]]:
    """The terms of an index, those inside quotients and remainders included."""
    for term, coefficient in index.terms:
        yield term, coefficient
        if isinstance(term, (Quotient, Remainder)):
            yield from index_terms(term.index)


def upper_bound(size: Dim, guards: Sequence[Guard]) -> float:
    """The largest value the guards leave to a size; infinity where they say nothing. Size symbols are positive."""
    if isinstance(size, int):
        return size
    for guard in guards:
        if guard.size == size and guard.high is not None:
            return guard.high
    return sum(_monomial_bound(m, c, guards) for m, c in size.terms if c > 0)


def _monomial_bound(monomial: Monomial, coefficient: int, guards: Sequence[Guard]) -> float:
    for i, atom in enumerate(monomial):
        if isinstance(atom, FloorDiv):
            rest = Size(((monomial[:i] + monomial[i + 1 :], coefficient),))
            divisor = atom.denominator if isinstance(atom.denominator, int) else 1
            return upper_bound(atom.numerator * rest, guards) / divisor
    if not monomial:
        return coefficient
    bounds = [
        coefficient * Fraction(guard.high, other)
        for guard in guards
        if guard.high is not None and isinstance(guard.size, Size)
        if all(c > 0 for _, c in guard.size.terms)
        for atoms, other in guard.size.terms
        if _divides(monomial, atoms)
    ]
    return float(min(bounds)) if bounds else float("inf")


def _divides(small: Monomial, large: Monomial) -> bool:
    rest = list(large)
    for atom in small:
        if atom not in rest:
            return False
        rest.remove(atom)
    return True


@dataclass(frozen=True)
class Geometry:
    """How one axis lies in a tile: `block` lanes (None: as many as its extent, rounded up), bounded or not."""

    axis: Axis
    block: int | None
    tiled: bool
    masked: bool

    @property
    def block_name(self) -> str:
        return f"BLOCK_{self.axis.name}"


def geometry(axis: Axis) -> Geometry:
    """The lanes of an axis; an extent of 1 needs none, a small fixed one needs no more than it has."""
    extent = axis.extent
    block = axis.block or (1 if axis.kind != "lane" else None)
    if isinstance(extent, int):
        fitting = power_of_two(extent)
        block = fitting if block is None else min(block, fitting)
    if block is not None and block != power_of_two(block):
        raise VerifyError(f"axis {axis.name}: a Triton tile needs a power of two, not {block}")
    exact = block is not None and exact_quotient(extent, block) is not None
    return Geometry(axis, block, block != 1, block != 1 and not (exact and extent != 0))


def power_of_two(n: int) -> int:
    """The least power of two that is at least n, and at least 1."""
    return 1 << max(n - 1, 0).bit_length()


class Parameters:
    """The parameters of one kernel in order: pointers and scalars, sizes, blocks; and what index arithmetic needs.

    Attributes:
        buffers: those the kernel touches; `pointers` are their parameter names.
        sizes: argument name and the size it holds.
        size_names: the identifier of every size that has one.
    """

    def __init__(self, kernel: Kernel, guards: Sequence[Guard] = ()) -> None:
        self.kernel, self.guards = kernel, tuple(guards)
        statements = tuple(walk(kernel.body))
        touched = {s.buffer for s in statements if isinstance(s, (Load, Store))}
        self.buffers: tuple[Buffer, ...] = tuple(b for b in kernel.buffers if b.name in touched)
        self.axes: dict[str, Geometry] = {a.name: geometry(a) for a in kernel.axes}
        self._indices = [s.index for s in statements if isinstance(s, (Load, Store, Iota))]
        self._operands = [
            operand.value
            for s in statements
            for operand in _operands(s)
            if isinstance(operand, Const) and isinstance(operand.value, Size)
        ]
        self.size_names: dict[Dim, str] = {}
        self._name_sizes()
        self.names = Names(self.size_names.values())
        self.pointers: dict[str, str] = {
            b.name: self.names.new(b.name if b.role == "scalar" else f"{b.name}_ptr")
            for b in self.buffers
        }

    @property
    def sizes(self) -> tuple[tuple[str, Dim], ...]:
        return tuple((name, size) for size, name in self.size_names.items())

    @property
    def tiled(self) -> tuple[str, ...]:
        """The axes that are tile dimensions, in order."""
        return tuple(name for name, g in self.axes.items() if g.tiled)

    @property
    def programs(self) -> tuple[Axis, ...]:
        """The axes divided among programs, outermost first; the grid is one-dimensional, the last runs fastest."""
        return tuple(a for a in self.kernel.axes if a.kind == "grid" or a.split is not None)

    def used_terms(self) -> set[Term]:
        """Every axis, program number and value that an index mentions."""
        return {term for index in self._indices for term, _ in index_terms(index)}

    # --- the width of index arithmetic ---

    def fits(self, size: Dim) -> bool:
        """Whether a size is proved to be small enough for 32-bit arithmetic."""
        return upper_bound(size, self.guards) <= INT32_ELEMENTS

    @cached_property
    def wide(self) -> frozenset[Term]:
        """The axes (and `Program` terms) to count in 64 bits."""
        found: set[Term] = set()
        for index in self._indices:
            for term, coefficient in index_terms(index):
                if isinstance(term, (str, Program)) and not self._reach_fits(term, coefficient):
                    found.add(term)
        for axis in self.kernel.axes:
            started = axis.kind == "grid" or axis.split is not None
            if started and axis.name in found | self.used_terms() and not self.fits(axis.extent):
                found.add(axis.name)
        return frozenset(found)

    def _reach_fits(self, term: str | Program, coefficient: Dim) -> bool:
        axis = self.kernel.axis(term if isinstance(term, str) else term.axis)
        extent = axis.extent if isinstance(term, str) else axis.programs
        if isinstance(coefficient, int):
            if axis.kind == "lane" or isinstance(term, Program):
                return True  # a tile has at most 2**20 lanes, a grid at most 2**31 programs
            if axis.kind == "loop" and axis.split is None and abs(coefficient) == 1:
                return True  # its counter has the type of its bound, which the launcher chooses by value
        positive = coefficient if _mostly_positive(coefficient) else coefficient * -1
        return self.fits(extent * positive)

    # --- sizes ---

    def _name_sizes(self) -> None:
        """Plain symbols keep their names; composite extents come next, then what is not safe to compute inside."""
        names = Names({b.name for b in self.kernel.buffers} | {a.name for a in self.kernel.axes})
        names.taken |= set(self.kernel.sizes)
        extents = [
            (f"n_{axis.name}", size)
            for axis in self.kernel.axes
            for size in self._bounds(axis)
            if isinstance(size, Size)
        ]
        composite: dict[Dim, str] = {}
        for wish, size in extents:
            if not _is_symbol(size) and size not in composite:
                composite[size] = names.new(wish)
        plain = {str(size) for _, size in extents if _is_symbol(size)}
        for size in self._dims():
            if size in composite:
                continue
            if self._inline(size):
                plain |= symbols(size)
            else:
                composite[size] = names.new("size")
        ordered = [s for s in self.kernel.sizes if s in plain]
        ordered += sorted(plain.difference(ordered))
        self.size_names = {Size.symbol(s): s for s in ordered} | composite

    def _bounds(self, axis: Axis) -> Iterator[Dim]:
        """The sizes of an axis that kernel text may mention."""
        counted = axis in self.programs[1:]
        if counted or axis.kind == "loop" or self.axes[axis.name].masked:
            yield axis.extent
        if axis.split is not None:
            yield axis.split

    def _dims(self) -> Iterator[Dim]:
        for index in self._indices:
            yield from (d for d in _index_dims(index) if isinstance(d, Size))
        yield from self._operands

    def _inline(self, size: Dim) -> bool:
        """Whether kernel text may compute this size from symbols."""
        if _is_symbol(size):
            return True
        negated = size * -1
        has_division = any(isinstance(a, FloorDiv) for m, _ in size.terms for a in m)  # type: ignore[union-attr]
        return not has_division and self.fits(size) and self.fits(negated)


def _is_symbol(size: Dim) -> bool:
    return isinstance(size, Size) and str(size).isidentifier()


def _mostly_positive(coefficient: Dim) -> bool:
    return coefficient > 0 if isinstance(coefficient, int) else coefficient.terms[0][1] > 0


def _index_dims(index: Index) -> Iterator[Dim]:
    yield index.offset
    for term, coefficient in index_terms(index):
        yield coefficient if _mostly_positive(coefficient) else coefficient * -1
        if isinstance(term, (Quotient, Remainder)):
            yield term.divisor
            yield term.index.offset


def _operands(statement: Statement) -> tuple[object, ...]:
    if isinstance(statement, Op):
        return statement.args
    if isinstance(statement, (Reduce, Store)):
        return (statement.value,)
    if isinstance(statement, Loop):
        return tuple(fold.value for fold in statement.folds)
    return ()


def grid_size(parameters: Parameters) -> Dim:
    """How many programs a kernel is launched with."""
    total: Dim = 1
    for axis in parameters.programs:
        total = total * program_count(axis)
    return total


def program_count(axis: Axis) -> Dim:
    """Programs along an axis; a tile that an extent of 0 or 1 shrank still takes one program per element."""
    return axis.programs if axis.kind == "loop" else cdiv(axis.extent, axis.block or 1)
