"""Remove axes of extent 1 from a kernel, so that the emitter meets none.

Their index is 0, folding over one of them changes nothing, and a loop over one is its body.
"""

from __future__ import annotations

from dataclasses import replace

from tgc.kernel.ir import (
    Gathered,
    Index,
    Kernel,
    Loop,
    Op,
    Program,
    Quotient,
    Reduce,
    Remainder,
    Statement,
    Term,
)


def remove_points(kernel: Kernel) -> Kernel:
    """The same kernel without axes of extent 1."""
    points = frozenset(a.name for a in kernel.axes if a.extent == 1)
    if not points:
        return kernel
    axes = tuple(a for a in kernel.axes if a.name not in points)
    return replace(kernel, axes=axes, body=_body(kernel.body, points))


def _body(body: tuple[Statement, ...], points: frozenset[str]) -> tuple[Statement, ...]:
    found: list[Statement] = []
    for s in body:
        if not isinstance(s, Loop):
            found.append(_statement(s, points))
            continue
        inner, folds = _body(s.body, points), tuple(_statement(f, points) for f in s.folds)
        if s.axis in points:
            found += [*inner, *folds]
        else:
            found.append(Loop(s.axis, inner, tuple(f for f in folds if isinstance(f, Reduce))))
    return tuple(found)


def _statement(s: Statement, points: frozenset[str]) -> Statement:
    if isinstance(s, Loop):
        raise TypeError("a loop is not a simple statement")
    axes = tuple(a for a in s.axes if a not in points)
    if isinstance(s, Op):
        return replace(s, axes=axes)
    if isinstance(s, Reduce):
        over = tuple(a for a in s.over if a not in points)
        if not over:
            return Op(s.name, "cast", (s.value,), s.dtype, axes, s.line)
        return replace(s, over=over, axes=axes)
    return replace(s, axes=axes, index=_index(s.index, points))


def _index(index: Index, points: frozenset[str]) -> Index:
    terms = tuple((_term(t, points), c) for t, c in index.terms if not _is_point(t, points))
    return Index(terms, index.offset)


def _is_point(term: Term, points: frozenset[str]) -> bool:
    return term in points or (isinstance(term, Program) and term.axis in points)


def _term(term: Term, points: frozenset[str]) -> Term:
    if isinstance(term, Quotient | Remainder):
        return replace(term, index=_index(term.index, points))
    assert isinstance(term, str | Program | Gathered)
    return term
