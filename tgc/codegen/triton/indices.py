"""Facts about kernel indices and sizes that hold for all sizes: signs, bounds under guards, terms inside terms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from tgc.ir.sizes import Dim, FloorDiv, Monomial, Size
from tgc.kernel.ir import (
    Gathered,
    Guard,
    Index,
    Iota,
    Load,
    Quotient,
    Remainder,
    Statement,
    Store,
    Term,
)
from tgc.kernel.walk import statements


def indices(body: tuple[Statement, ...]) -> list[Index]:
    """The index of every access and iota."""
    return [s.index for s in statements(body) if isinstance(s, (Load, Store, Iota))]


def coefficients(index: Index) -> Iterator[tuple[Term, Dim]]:
    """The terms of an index with their coefficients, those inside quotients and remainders included."""
    for term, coefficient in index.terms:
        yield term, coefficient
        if isinstance(term, (Quotient, Remainder)):
            yield from coefficients(term.index)


def sign(size: Dim) -> int:
    """The sign a size is written with: that of its leading term."""
    leading = size if isinstance(size, int) else size.terms[0][1]
    return 1 if leading > 0 else -1


def magnitude(size: Dim) -> Dim:
    """The size without the sign it is written with."""
    return size * sign(size)


def index_sizes(index: Index) -> Iterator[tuple[Term | None, Dim]]:
    """Each coefficient, divisor and offset as it is written, with the term it goes with."""
    yield None, magnitude(index.offset)
    for term, coefficient in index.terms:
        yield term, magnitude(coefficient)
        if isinstance(term, (Quotient, Remainder)):
            yield term, term.divisor
            yield from index_sizes(term.index)


def non_negative(index: Index) -> bool:
    """Whether an index cannot fall below zero, so that `//` and `%` as in C are those of Python."""
    if any(isinstance(term, Gathered) for term, _ in index.terms):
        return False
    inner = [t.index for t, _ in index.terms if isinstance(t, (Quotient, Remainder))]
    sizes = [index.offset, *(coefficient for _, coefficient in index.terms)]
    return all(map(non_negative, inner)) and all(map(_never_negative, sizes))


def _never_negative(size: Dim) -> bool:
    return size >= 0 if isinstance(size, int) else all(c > 0 for _, c in size.terms)


# --- sizes ----------------------------------------------------------------------------------------------------------


def is_symbol(size: Dim) -> bool:
    return isinstance(size, Size) and str(size).isidentifier()


def has_division(size: Dim) -> bool:
    return isinstance(size, Size) and any(
        isinstance(atom, FloorDiv) for monomial, _ in size.terms for atom in monomial
    )


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
