"""Short axes written out: three coordinates are three values, not a loop.

A statement along such an axis becomes one for each position; a fold over it becomes a chain of operations. What is
left has longer axes, along which vectors lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

from tgc.ir.nodes import combination
from tgc.kernel.ir import (
    Axis,
    Index,
    Iota,
    Kernel,
    Load,
    Loop,
    Op,
    Operand,
    Quotient,
    Reduce,
    Remainder,
    Statement,
    Store,
    Term,
)
from tgc.schedule.tiling import renamed

Flat = Load | Iota | Op | Reduce | Store
Body = TypeVar("Body", bound=Statement)


def unroll(body: Sequence[Body], kernel: Kernel) -> list[Body]:
    """Statements with the short axes of `kernel` written out, unless there are no others."""
    short = short_axes(kernel)
    if len(short) == len(kernel.axes):
        return list(body)
    written: Sequence[Statement] = body
    for axis in short:
        assert isinstance(axis.block, int), "an extent that the regime pins"
        written = _Unroller(axis.name, axis.block).body(written)
    return cast(list[Body], list(written))


def short_axes(kernel: Kernel) -> list[Axis]:
    """The axes that are short enough to be written out, their extents known."""
    return [a for a in kernel.axes if a.kind == "lane" and a.block is not None]


@dataclass
class _Unroller:
    """Writes out `axis`; `many` are the values that differ along it, `axes` the other axes of each value."""

    axis: str
    extent: int
    many: set[str] = field(default_factory=set)
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def body(self, statements: Iterable[Statement]) -> list[Statement]:
        out: list[Statement] = []
        for s in statements:
            if isinstance(s, Load | Iota | Op | Reduce):
                self.axes[s.name] = tuple(a for a in s.axes if a != self.axis)
            if isinstance(s, Loop):
                inside = self.body(s.body)
                folds = [f for fold in s.folds for f in self._fold(fold, inside)]
                out.append(Loop(s.axis, tuple(inside), tuple(folds)))
            elif isinstance(s, Reduce):
                out += self._fold(s, out)
            elif self.axis in s.axes:
                out += self._at_each(s)
            else:
                out.append(s)
        return out

    def _fold(self, s: Reduce, before: list[Statement]) -> list[Reduce]:
        """A fold at each position; what it folds along the axis becomes a chain of operations `before` it."""
        if self.axis not in s.over:
            return [cast(Reduce, f) for f in (self._at_each(s) if self.axis in s.axes else [s])]
        rest = tuple(a for a in s.over if a != self.axis)
        values = [self._at(s.value, k) for k in range(self.extent)]
        if not rest:
            before += _chain(s, s.name, s.axes, values)
            return []
        name = f"{s.name}.{self.axis}"
        before += _chain(s, name, self.axes.get(str(s.value), ()), values)
        return [replace(s, value=name, over=rest)]

    def _at_each(self, s: Flat) -> list[Flat]:
        """The statement at each position of the axis."""
        if not isinstance(s, Store):
            self.many.add(s.name)
        out: list[Flat] = []
        for k in range(self.extent):
            here = renamed(s, {name: f"{name}.{self.axis}{k}" for name in self.many})
            assert isinstance(here, Load | Iota | Op | Reduce | Store)
            out.append(_placed(here, self.axis, k))
        return out

    def _at(self, operand: Operand, k: int) -> Operand:
        if isinstance(operand, str) and operand in self.many:
            return f"{operand}.{self.axis}{k}"
        return operand


def _chain(fold: Reduce, name: str, axes: tuple[str, ...], values: list[Operand]) -> list[Op]:
    op = combination(fold.monoid, fold.dtype)
    if len(values) == 1:
        return [Op(name, "cast", (values[0],), fold.dtype, axes, fold.line)]
    out: list[Op] = []
    total = values[0]
    for k, value in enumerate(values[1:], 1):
        here = name if k == len(values) - 1 else f"{name}.{k}"
        out.append(Op(here, op, (total, value), fold.dtype, axes, fold.line))
        total = here
    return out


def _placed(s: Flat, axis: str, k: int) -> Flat:
    """A statement at position `k` of an axis."""
    axes = tuple(a for a in s.axes if a != axis)
    if isinstance(s, Load | Iota | Store):
        return replace(s, axes=axes, index=_index(s.index, axis, k))
    return replace(s, axes=axes)


def _index(index: Index, axis: str, k: int) -> Index:
    terms: list[tuple[Term, object]] = []
    offset = index.offset
    for term, coefficient in index.terms:
        if term == axis:
            offset = offset + coefficient * k
        elif isinstance(term, Quotient | Remainder):
            terms.append((replace(term, index=_index(term.index, axis, k)), coefficient))
        else:
            terms.append((term, coefficient))
    return Index(tuple(terms), offset)  # type: ignore[arg-type]
