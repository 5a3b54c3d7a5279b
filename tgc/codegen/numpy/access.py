"""How an index reads in numpy: slices of the array where it can, a reshaped or strided view, else index arrays.

An `Index` is a flat offset. Here it is taken apart into one index per dimension of the buffer. That is valid only
where each part provably stays inside its dimension, since numpy's slices stop at a dimension's end where flat memory
goes on; what cannot be proven is addressed as flat memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tgc.ir.sizes import (
    Dim,
    Size,
    exact_quotient,
    floordiv,
    nonnegative,
    product,
    row_major,
)
from tgc.kernel.ir import Buffer, Gathered, Index, Program, Quotient, Remainder, Term

ExtentOf = Callable[[str], Dim]


@dataclass(frozen=True)
class Part:
    """The index along one dimension of extent `extent`: `offset + sum(step * term)`."""

    extent: Dim
    offset: Dim
    terms: tuple[tuple[Term, Dim], ...]


@dataclass(frozen=True)
class Split:
    """An index taken apart. `shape` is the shape to reshape the buffer to first, None where it is its own."""

    parts: tuple[Part, ...]
    shape: tuple[Dim, ...] | None = None


def divide(value: Dim, divisor: Dim) -> tuple[Dim, Dim]:
    """Polynomial division by leading terms: quotient and remainder with value = quotient * divisor + remainder."""
    if value == divisor:
        return 1, 0
    if isinstance(divisor, int):
        return _divide_by_integer(value, divisor)
    quotient: Dim = 0
    lead = Size(divisor.terms[:1])
    while isinstance(value, Size):
        step = next(
            (q for term in value.terms if (q := exact_quotient(Size((term,)), lead)) is not None),
            None,
        )
        if step is None:
            break
        quotient, value = quotient + step, value - step * divisor
        if len(getattr(value, "terms", ())) > 32:
            break
    return quotient, value


def _divide_by_integer(value: Dim, divisor: int) -> tuple[Dim, Dim]:
    if divisor in (0, 1):
        return (value, 0) if divisor else (0, value)
    if isinstance(value, int):
        return divmod(value, divisor)
    whole = Size(tuple((mono, c) for mono, c in value.terms if c % divisor == 0) or (((), 0),))
    quotient = exact_quotient(whole, divisor) or 0
    return quotient, value - quotient * divisor


def is_contiguous(buffer: Buffer) -> bool:
    """Whether the buffer is row-major without gaps."""
    shape = buffer.shape
    if any(d == 0 for d in shape):
        return True
    return all(s == product(shape[i + 1 :]) or shape[i] == 1 for i, s in enumerate(buffer.strides))


def split_index(
    buffer: Buffer, index: Index, extent_of: ExtentOf, *, inside: bool = True
) -> Split | None:
    """Take `index` apart along the buffer's dimensions, or along those of a reshaped buffer; None if flat memory.

    Args:
        inside: prove that each part stays inside its dimension; a masked index need not.
    """
    own = _split_as(buffer.shape, buffer.strides, index, extent_of, inside=inside)
    if own is not None:
        return Split(own)
    if is_contiguous(buffer):
        elements = product(buffer.shape)
        for shape in ((elements,), _chain(index, extent_of)):
            parts = (
                _split_as(shape, row_major(shape), index, extent_of, inside=inside)
                if product(shape) == elements
                else None
            )
            if parts is not None:
                return Split(parts, shape if shape != buffer.shape else None)
    return None


def _split_as(
    shape: tuple[Dim, ...],
    strides: tuple[Dim, ...],
    index: Index,
    extent_of: ExtentOf,
    *,
    inside: bool,
) -> tuple[Part, ...] | None:
    parts = _parts(shape, strides, index, extent_of)
    if parts is None or any(len(p.terms) > 1 and _affine(p) for p in parts):
        return None
    if inside and not all(stays_inside(p, extent_of) for p in parts):
        return None
    if any(_may_span(parts, k) for k in range(len(parts))):
        return None
    return tuple(parts)


def _may_span(parts: list[Part], place: int) -> bool:
    """Whether a gathered index may run over the end of its dimension, because it is an index into a reshaped buffer.

    Then the dimension before its own has no term: the gathered value steps through both.
    """
    if not any(isinstance(t, Gathered) for t, _ in parts[place].terms):
        return False
    before = [p for p in parts[:place] if p.extent != 1]
    return bool(before) and not before[-1].terms


def _affine(part: Part) -> bool:
    return all(isinstance(t, str) for t, _ in part.terms)


def _chain(index: Index, extent_of: ExtentOf) -> tuple[Dim, ...]:
    """The shape over the index's own axes that makes it row-major; (0,) where there is none."""
    rest = [(extent_of(t), c) for t, c in index.terms if isinstance(t, str)]
    shape: list[Dim] = []
    while rest:
        found = next((item for item in rest if item[1] == product(shape)), None)
        if found is None or len(rest) != len(index.terms) - len(shape):
            return (0,)
        shape.insert(0, found[0])
        rest.remove(found)
    return tuple(shape)


def _parts(
    dims: tuple[Dim, ...], strides: tuple[Dim, ...], index: Index, extent_of: ExtentOf
) -> list[Part] | None:
    """Give each term to the first dimension whose stride divides its coefficient, then divide up the offset."""
    usable = [d for d, (e, s) in enumerate(zip(dims, strides)) if e != 1 and s != 0]
    terms: list[list[tuple[Term, Dim]]] = [[] for _ in dims]
    starts: list[Dim] = [0] * len(dims)
    offset = index.offset
    for term, coefficient in index.terms:
        d, step = _dimension(coefficient, strides, usable)
        if d is None:
            return None
        terms[d].append((term, step))
        if isinstance(term, str) and is_negative(step):
            # A flipped axis starts at its far end; that part of the offset is its own.
            starts[d] = starts[d] - step * (extent_of(term) - 1)
            offset = offset + coefficient * (extent_of(term) - 1)
    for d in usable:
        start, offset = divide(offset, strides[d])
        starts[d] = starts[d] + start
    if offset != 0:
        return None
    return [Part(e, s, tuple(t)) for e, s, t in zip(dims, starts, terms)]


def _dimension(
    coefficient: Dim, strides: tuple[Dim, ...], usable: list[int]
) -> tuple[int | None, Dim]:
    for d in usable:
        step, rest = divide(coefficient, strides[d])
        if rest == 0:
            return d, step
    return None, 0


def is_negative(step: Dim) -> bool:
    """Whether a step is known to run backwards."""
    return step < 0 if isinstance(step, int) else nonnegative(-step, 1)


def stays_inside(part: Part, extent_of: ExtentOf) -> bool:
    """Whether the index along a dimension provably lies in it, values of the kernel by contract."""
    if len(part.terms) == 1 and part.offset == 0:
        term, step = part.terms[0]
        if step == 1 and isinstance(term, str) and extent_of(term) == part.extent:
            return True
    low = high = part.offset
    for term, step in part.terms:
        last = _last(term, extent_of)
        if last is None:
            return len(part.terms) == 1
        if is_negative(step):
            low = low + step * last
        else:
            high = high + step * last
    return nonnegative(low, 1) and nonnegative(part.extent - 1 - high, 1)


def _last(term: Term, extent_of: ExtentOf) -> Dim | None:
    """The largest value of a term; None for a value of the kernel or a program, which are inside by contract."""
    if isinstance(term, str):
        return extent_of(term) - 1
    if isinstance(term, (Gathered, Program)):
        return None
    if isinstance(term, Remainder):
        return term.divisor - 1
    assert isinstance(term, Quotient)
    high = term.index.offset
    for inner, coefficient in term.index.terms:
        high = high + coefficient * (_last(inner, extent_of) or 0)
    exact = exact_quotient(high + 1, term.divisor)
    return floordiv(high, term.divisor) if exact is None else exact - 1
