"""Index arithmetic: quasi-affine indices in canonical form, and movements pushed backward through them.

A `View` moves no data: the index at which its result is wanted is turned into the index at which its operand is
needed. Sizes are symbolic, so exact division and bounds are proved with polynomials in the sizes; every size symbol
is at least 2 (0 and 1 are fixed when tracing).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tgc.errors import Line
from tgc.ir.nodes import Broadcast, Flip, Movement, Pad, Permute, Reshape, Shape, Slice
from tgc.ir.sizes import (
    Dim,
    exact_quotient,
    floordiv,
    nonnegative,
    row_major,
)
from tgc.kernel.ir import Gathered, Index, Program, Quotient, Remainder, Term

Extents = Mapping[str, Dim]
ZERO = Index()
LEAST = 2
"""What every size symbol is at least."""


def axis(name: str) -> Index:
    """The index that runs along one axis."""
    return Index(((name, 1),))


def gathered(value: str, extent: Dim, line: Line | None) -> Index:
    """The index held by an integer value, along an axis of `extent` elements."""
    return Index(((Gathered(value, extent, line), 1),))


def program(name: str) -> Index:
    """The program number along a split axis."""
    return Index(((Program(name), 1),))


def _key(term: Term) -> tuple[int, str]:
    return (0 if isinstance(term, str) else 1, str(term))


def _make(terms: list[tuple[Term, Dim]], offset: Dim) -> Index:
    found: dict[Term, Dim] = {}
    for term, coefficient in terms:
        found[term] = found.get(term, 0) + coefficient
    _join_divisions(found)
    kept = sorted(((t, c) for t, c in found.items() if c != 0), key=lambda item: _key(item[0]))
    return Index(tuple(kept), offset)


def _join_divisions(found: dict[Term, Dim]) -> None:
    """c*d*(e // d) + c*(e % d) is c*e."""
    for term in [t for t in found if isinstance(t, Remainder)]:
        assert isinstance(term, Remainder)
        scale = found[term]
        partner = Quotient(term.index, term.divisor)
        if scale != 0 and found.get(partner) == scale * term.divisor and term.index.offset == 0:
            del found[term], found[partner]
            for inner, coefficient in term.index.terms:
                found[inner] = found.get(inner, 0) + coefficient * scale
            _join_divisions(found)
            return


def add(a: Index, b: Index) -> Index:
    """The sum of two indices."""
    return _make([*a.terms, *b.terms], a.offset + b.offset)


def shift(a: Index, by: Dim) -> Index:
    """An index moved by a constant."""
    return Index(a.terms, a.offset + by)


def scale(a: Index, by: Dim) -> Index:
    """An index times a size."""
    if by == 0:
        return ZERO
    return Index(tuple((t, c * by) for t, c in a.terms), a.offset * by)


def upper(index: Index, extents: Extents) -> Dim | None:
    """The largest value an index takes (None if unknown), given that it is never negative termwise."""
    total: Dim = index.offset
    for term, coefficient in index.terms:
        if not nonnegative(coefficient, LEAST):
            return None
        top = _term_upper(term, extents)
        if top is None:
            return None
        total = total + coefficient * top
    return total


def _term_upper(term: Term, extents: Extents) -> Dim | None:
    if isinstance(term, str):
        return extents[term] - 1
    if isinstance(term, Remainder):
        return term.divisor - 1
    if isinstance(term, Quotient):
        top = upper(term.index, extents)
        if top is None:
            return None
        exact = exact_quotient(top + 1, term.divisor)
        return exact - 1 if exact is not None else floordiv(top, term.divisor)
    return None


def within(index: Index, extent: Dim, extents: Extents) -> bool:
    """Whether 0 <= index < extent holds for every value of the axes."""
    if not nonnegative(index.offset, LEAST):
        return False
    top = upper(index, extents)
    return top is not None and nonnegative(extent - 1 - top, LEAST)


def _split(index: Index, divisor: Dim) -> tuple[Index, Index]:
    """The part every term of which the divisor divides (already divided), and the rest."""
    whole: list[tuple[Term, Dim]] = []
    rest: list[tuple[Term, Dim]] = []
    for term, coefficient in index.terms:
        exact = exact_quotient(coefficient, divisor)
        if exact is None:
            rest.append((term, coefficient))
        else:
            whole.append((term, exact))
    exact = exact_quotient(index.offset, divisor)
    if exact is None:
        return Index(tuple(whole)), Index(tuple(rest), index.offset)
    return Index(tuple(whole), exact), Index(tuple(rest))


def quotient(index: Index, divisor: Dim, extents: Extents) -> Index:
    """`index // divisor`."""
    if divisor == 1:
        return index
    whole, rest = _split(index, divisor)
    if rest == ZERO or within(rest, divisor, extents):
        return whole
    if not rest.terms and isinstance(rest.offset, int) and isinstance(divisor, int):
        return shift(whole, rest.offset // divisor)
    if (
        len(rest.terms) == 1
        and rest.offset == 0
        and isinstance(rest.terms[0][0], Quotient)
        and rest.terms[0][1] == 1
    ):
        inner = rest.terms[0][0]
        return add(whole, quotient(inner.index, inner.divisor * divisor, extents))
    return add(whole, Index(((Quotient(rest, divisor), 1),)))


def remainder(index: Index, divisor: Dim, extents: Extents) -> Index:
    """`index % divisor`."""
    if divisor == 1:
        return ZERO
    _, rest = _split(index, divisor)
    if rest == ZERO or within(rest, divisor, extents):
        return rest
    if not rest.terms and isinstance(rest.offset, int) and isinstance(divisor, int):
        return Index((), rest.offset % divisor)
    return Index(((Remainder(rest, divisor), 1),))


@dataclass(frozen=True)
class Condition:
    """`low <= index < high`, and `index % step == 0` where step > 1: what a pad asks of an index."""

    index: Index
    low: Dim
    high: Dim
    step: int = 1


def pull(
    movement: Movement, index: tuple[Index, ...], shape: Shape, extents: Extents
) -> tuple[tuple[Index, ...], tuple[Condition, ...]]:
    """Where the operand (of `shape`) is read for the result at `index`, and when it is read at all."""
    if isinstance(movement, Broadcast):
        return tuple(
            ZERO if d == 1 else index[k] for d, k in zip(shape, movement.dims, strict=True)
        ), ()
    if isinstance(movement, Permute):
        place = {source: k for k, source in enumerate(movement.order)}
        return tuple(index[place[i]] for i in range(len(shape))), ()
    if isinstance(movement, Slice):
        return tuple(
            shift(scale(i, step), start)
            for i, start, step in zip(index, movement.start, movement.step, strict=True)
        ), ()
    if isinstance(movement, Flip):
        return tuple(
            shift(scale(i, -1), d - 1) if k in movement.axes else i
            for k, (i, d) in enumerate(zip(index, shape, strict=True))
        ), ()
    if isinstance(movement, Pad):
        return _pull_pad(movement, index, shape, extents)
    return _pull_reshape(movement, index, shape, extents), ()


def _pull_pad(
    movement: Pad, index: tuple[Index, ...], shape: Shape, extents: Extents
) -> tuple[tuple[Index, ...], tuple[Condition, ...]]:
    out: list[Index] = []
    conditions: list[Condition] = []
    for i, extent, before, interior in zip(
        index, shape, movement.before, movement.interior, strict=True
    ):
        moved, step = shift(i, -1 * before), interior + 1
        span = extent + (extent - 1) * interior if interior else extent
        if step > 1 or not within(moved, span, extents):
            conditions.append(Condition(i, before, before + span, step))
        out.append(quotient(moved, step, extents))
    return tuple(out), tuple(conditions)


def _pull_reshape(
    movement: Reshape, index: tuple[Index, ...], shape: Shape, extents: Extents
) -> tuple[Index, ...]:
    linear = ZERO
    for i, stride in zip(index, row_major(movement.shape), strict=True):
        linear = add(linear, scale(i, stride))
    out: list[Index] = []
    leading = True
    for extent, stride in zip(shape, row_major(shape), strict=True):
        if extent in (0, 1):
            out.append(ZERO)
            continue
        here = quotient(linear, stride, extents)
        out.append(here if leading else remainder(here, extent, extents))
        leading = False
    return tuple(out)
