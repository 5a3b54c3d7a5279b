"""When a trace holds for other arguments: binding of size symbols, and the relations the user's Python relied on."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from tgc.ir.sizes import Dim, Size, evaluate, symbols
from tgc.trace.abstract import Abstract

# (size, relation, integer): holds where `size relation integer`; the relation is one of RELATIONS.
Assumption: TypeAlias = tuple[Dim, str, int]

RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def bind(abstracts: Sequence[Abstract], shapes: Sequence[Sequence[int]]) -> dict[str, int] | None:
    """The extents of the size symbols, or None where the shapes are of another pattern.

    `shapes` has one shape per abstract, of equal rank. One symbol means one extent, of two at least; two symbols may
    have equal extents too, since nothing in a trace relies on their being different but its assumptions.
    """
    binding: dict[str, int] = {}
    derived: list[tuple[Dim, int]] = []
    for abstract, shape in zip(abstracts, shapes):
        for dim, extent in zip(abstract.shape, shape):
            if isinstance(dim, int):
                if dim != extent:
                    return None
            elif (name := plain(dim)) is None:
                derived.append((dim, extent))
            elif extent < 2 or binding.setdefault(name, extent) != extent:
                return None
    if not all(
        symbols(dim) <= binding.keys() and evaluate(dim, binding) == e for dim, e in derived
    ):
        return None
    return binding


def plain(dim: Dim) -> str | None:
    """The name of a size that is one symbol and nothing else."""
    if isinstance(dim, Size) and len(dim.terms) == 1:
        monomial, coefficient = dim.terms[0]
        if coefficient == 1 and len(monomial) == 1 and isinstance(monomial[0], str):
            return monomial[0]
    return None


def hold(assumptions: Iterable[Assumption], binding: Mapping[str, int]) -> bool:
    """Whether every assumption is true for these extents."""
    return all(RELATIONS[rel](evaluate(size, binding), value) for size, rel, value in assumptions)
