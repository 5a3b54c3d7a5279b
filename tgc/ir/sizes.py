"""Symbolic sizes: integer polynomials over size symbols, in a canonical form of our own.

One trace serves all sizes, so shapes hold `Size` values where a dimension is not fixed. The class is small on
purpose: sums, products and floor divisions of symbols, compared by canonical form. sympy is too slow here and its
floor identities are not integer-safe.

A `Size` that turns out constant collapses to a Python `int`; functions below take and return `int | Size`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias, Union

Dim: TypeAlias = Union[int, "Size"]
Atom: TypeAlias = Union[str, "FloorDiv", "PowerOfTwo"]
Monomial: TypeAlias = tuple[Atom, ...]


class FloorDiv:
    """The opaque atom `numerator // denominator`, where exact division was not possible."""

    __slots__ = ("_key", "denominator", "numerator")

    def __init__(self, numerator: Dim, denominator: Dim) -> None:
        self.numerator, self.denominator = numerator, denominator
        self._key = f"({numerator}) // ({denominator})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FloorDiv) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        return f"({self._key})"


class PowerOfTwo:
    """The opaque atom "the least power of two that is at least `value`": the lanes of a tile."""

    __slots__ = ("value",)

    def __init__(self, value: Dim) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PowerOfTwo) and other.value == self.value

    def __hash__(self) -> int:
        return hash(("pow2", self.value))

    def __str__(self) -> str:
        return f"pow2({self.value})"


def power_of_two(value: Dim) -> Dim:
    """The least power of two that is at least `value`, and at least 1."""
    if isinstance(value, int):
        return 1 << max(value - 1, 0).bit_length()
    return Size((((PowerOfTwo(value),), 1),))


@dataclass(frozen=True)
class Guard:
    """`low <= size <= high`: what must hold of the sizes at hand for a plan to serve them; None is unbounded."""

    size: Dim
    low: int | None = None
    high: int | None = None


def _order(atom: Atom) -> str:
    return str(atom)


class Size:
    """A non-constant integer polynomial. Immutable, hashable, equal when canonically equal."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)

    @staticmethod
    def symbol(name: str) -> Size:
        """The size symbol `name` (a positive integer known at call time)."""
        return Size((((name,), 1),))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and other.terms == self.terms

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, other: Dim) -> Dim:
        return _collect([*_terms(self), *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: Dim) -> Dim:
        return self * -1 + other

    def __mul__(self, other: Dim) -> Dim:
        return _collect(
            [(_monomial(m + n), a * b) for m, a in _terms(self) for n, b in _terms(other)]
        )

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return self - floordiv(self, other) * other

    def __rmod__(self, other: Dim) -> Dim:
        return other - floordiv(other, self) * self

    def __str__(self) -> str:
        return " + ".join(_show(m, c) for m, c in self.terms).replace("+ -", "- ")

    def __repr__(self) -> str:
        return str(self)


def _monomial(atoms: Monomial) -> Monomial:
    return tuple(sorted(atoms, key=_order))


def _show(monomial: Monomial, coefficient: int) -> str:
    if not monomial:
        return str(coefficient)
    body = "*".join(str(a) for a in monomial)
    if coefficient == 1:
        return body
    return f"-{body}" if coefficient == -1 else f"{coefficient}*{body}"


def _terms(value: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(value, Size):
        return value.terms
    return (((), int(value)),) if value else ()


def _collect(terms: list[tuple[Monomial, int]]) -> Dim:
    found: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        found[monomial] = found.get(monomial, 0) + coefficient
    kept = {m: c for m, c in found.items() if c}
    if not kept:
        return 0
    if tuple(kept) == ((),):
        return kept[()]
    key = lambda item: (-len(item[0]), tuple(map(_order, item[0])))
    return Size(tuple(sorted(kept.items(), key=key)))


def floordiv(a: Dim, b: Dim) -> Dim:
    """`a // b`, exact where the polynomial division by a monomial leaves no remainder, else an opaque atom."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if b == 1:
        return a
    if a == b:
        return 1
    quotient = exact_quotient(a, b)
    return Size((((FloorDiv(a, b),), 1),)) if quotient is None else quotient


def exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """`a / b` if b is a single monomial that divides every term of a, else None."""
    divisor = _terms(b)
    if len(divisor) != 1:
        return 1 if a == b else None
    (atoms, scale) = divisor[0]
    result: list[tuple[Monomial, int]] = []
    for monomial, coefficient in _terms(a):
        rest = list(monomial)
        for atom in atoms:
            if atom not in rest:
                return None
            rest.remove(atom)
        if coefficient % scale:
            return None
        result.append((tuple(rest), coefficient // scale))
    return _collect(result)


def cdiv(a: Dim, b: Dim) -> Dim:
    """Division rounded up."""
    return floordiv(a + b - 1, b)


def product(dims: tuple[Dim, ...] | list[Dim]) -> Dim:
    """The product of sizes; 1 when there are none."""
    return reduce(lambda x, y: x * y, dims, 1)


def row_major(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The strides of a contiguous array, in elements; as of one element where there are none, so that none is zero."""
    extents = [d if d != 0 else 1 for d in shape]
    return tuple(product(extents[k + 1 :]) for k in range(len(shape)))


def nonnegative(value: Dim, least: int) -> bool:
    """Whether a size is provably >= 0, all symbols being at least `least`: nothing in s = least + t has a minus."""
    if isinstance(value, int):
        return value >= 0
    if not all(_atom_nonnegative(a, least) for monomial, _ in value.terms for a in monomial):
        return False
    shifted = substitute(value, {s: Size.symbol(s) + least for s in symbols(value)})
    return all(c >= 0 for _, c in _terms(shifted))


def _atom_nonnegative(atom: Atom, least: int) -> bool:
    if isinstance(atom, FloorDiv):
        return nonnegative(atom.numerator, least) and nonnegative(atom.denominator, least)
    return True


def symbols(value: Dim) -> set[str]:
    """The names of the symbols a size depends on."""
    if isinstance(value, int):
        return set()
    found: set[str] = set()
    for monomial, _ in value.terms:
        for atom in monomial:
            if isinstance(atom, str):
                found.add(atom)
            elif isinstance(atom, PowerOfTwo):
                found |= symbols(atom.value)
            else:
                found |= symbols(atom.numerator) | symbols(atom.denominator)
    return found


def substitute(value: Dim, binding: Mapping[str, Dim]) -> Dim:
    """Replace symbols by sizes or integers."""
    if isinstance(value, int):
        return value
    total: Dim = 0
    for monomial, coefficient in value.terms:
        term: Dim = coefficient
        for atom in monomial:
            if isinstance(atom, str):
                term = term * binding.get(atom, Size.symbol(atom))
            elif isinstance(atom, PowerOfTwo):
                term = term * power_of_two(substitute(atom.value, binding))
            else:
                term = term * floordiv(
                    substitute(atom.numerator, binding), substitute(atom.denominator, binding)
                )
        total = total + term
    return total


def evaluate(value: Dim, binding: Mapping[str, int]) -> int:
    """The integer value of a size.

    Raises:
        KeyError: for a symbol the binding does not hold.
    """
    if isinstance(value, int):
        return value
    total = 0
    for monomial, coefficient in value.terms:
        term = coefficient
        for atom in monomial:
            if isinstance(atom, str):
                term *= binding[atom]
            elif isinstance(atom, PowerOfTwo):
                term *= 1 << max(evaluate(atom.value, binding) - 1, 0).bit_length()
            else:
                term *= evaluate(atom.numerator, binding) // evaluate(atom.denominator, binding)
        total += term
    return total
