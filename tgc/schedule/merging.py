"""Fewer axes: neighbours that memory and every statement treat as one become one.

A contiguous map over [r, c] is a map over r*c elements. Two neighbouring axes merge when each index that uses them
steps through the inner one and then the outer one without a gap, and no value or fold uses only one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tgc.ir.sizes import Dim
from tgc.kernel.ir import (
    Gathered,
    Index,
    Iota,
    Load,
    Op,
    Program,
    Quotient,
    Reduce,
    Remainder,
    Statement,
    Store,
)
from tgc.schedule import indexing as ix
from tgc.schedule.lower import Flat


def merge_axes(flat: Flat) -> Flat:
    """The same kernel over as few axes as its memory allows."""
    names = list(flat.axes)
    position = len(names) - 2
    while position >= 0:
        outer, inner = names[position], names[position + 1]
        if _mergeable(flat, outer, inner):
            flat = _merged(flat, outer, inner)
            names.remove(inner)
        position -= 1
    return flat


def _mergeable(flat: Flat, outer: str, inner: str) -> bool:
    extent = flat.axes[inner]
    for index in _indices(flat):
        if not _gapless(index, outer, inner, extent):
            return False
    for statement in (*flat.body, *(r for r, _ in flat.partials)):
        if isinstance(statement, Load | Iota | Op | Reduce) and (outer in statement.axes) != (
            inner in statement.axes
        ):
            return False
        if isinstance(statement, Reduce) and (outer in statement.over) != (inner in statement.over):
            return False
    return True


def _indices(flat: Flat) -> Iterator[Index]:
    for statement in (*flat.body, *flat.stores, *(s for _, s in flat.partials)):
        if isinstance(statement, Load | Store | Iota):
            yield statement.index


def _gapless(index: Index, outer: str, inner: str, extent: Dim) -> bool:
    coefficient: dict[str, Dim] = {outer: 0, inner: 0}
    for term, c in index.terms:
        if isinstance(term, str):
            if term in coefficient:
                coefficient[term] = c
        elif not isinstance(term, Gathered | Program) and _mentions(term.index, (outer, inner)):
            return False
    return coefficient[outer] == coefficient[inner] * extent


def _mentions(index: Index, axes: tuple[str, ...]) -> bool:
    return any(
        term in axes
        if isinstance(term, str)
        else isinstance(term, Quotient | Remainder) and _mentions(term.index, axes)
        for term, _ in index.terms
    )


def _merged(flat: Flat, outer: str, inner: str) -> Flat:
    def index(i: Index) -> Index:
        step = {t: c for t, c in i.terms if isinstance(t, str)}.get(inner)
        kept = Index(tuple((t, c) for t, c in i.terms if t not in (outer, inner)), i.offset)
        return kept if step is None else ix.add(kept, ix.scale(ix.axis(outer), step))

    def names(axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(a for a in axes if a != inner)

    def statement(s: Statement) -> Statement:
        if isinstance(s, Load | Iota):
            return replace(s, index=index(s.index), axes=names(s.axes))
        if isinstance(s, Op):
            return replace(s, axes=names(s.axes))
        assert isinstance(s, Reduce)
        return replace(s, over=names(s.over), axes=names(s.axes))

    axes = {
        a: (e * flat.axes[inner] if a == outer else e) for a, e in flat.axes.items() if a != inner
    }
    return Flat(
        axes,
        [statement(s) for s in flat.body],
        [replace(s, index=index(s.index)) for s in flat.stores],
        [
            (
                replace(r, over=names(r.over), axes=names(r.axes)),
                replace(s, index=index(s.index), axes=names(s.axes)),
            )
            for r, s in flat.partials
        ],
    )
