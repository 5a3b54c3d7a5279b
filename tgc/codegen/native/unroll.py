"""Short axes written out: three coordinates are three values, not a loop.

A statement along such an axis becomes one for each position; a fold over it becomes a chain of operations. What is
left has longer axes, along which vectors lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tgc.ir.dtypes import DType
from tgc.kernel.ir import (
    Index,
    Iota,
    Kernel,
    Load,
    Op,
    Operand,
    Quotient,
    Reduce,
    Remainder,
    Store,
    Term,
)
from tgc.schedule.tiling import renamed

_CHAIN = {
    "sum": "add",
    "prod": "mul",
    "max": "maximum",
    "min": "minimum",
    "any": "or",
    "all": "and",
}
_BOOL_CHAIN = {"add": "or", "mul": "and", "maximum": "or", "minimum": "and"}

Flat = Load | Iota | Op | Reduce | Store


def unroll(body: Sequence[Flat], kernel: Kernel) -> list[Flat]:
    """Statements without loops, with the short axes of `kernel` written out, unless there are no others."""
    short = [a for a in kernel.axes if a.kind == "lane" and a.block is not None]
    if len(short) == len(kernel.axes):
        return list(body)
    for axis in short:
        assert isinstance(axis.block, int), "an extent that the regime pins"
        body = _unrolled(body, axis.name, axis.block)
    return list(body)


def _unrolled(body: Sequence[Flat], axis: str, extent: int) -> list[Flat]:
    out: list[Flat] = []
    many: set[str] = set()  # the values that differ along the axis

    def at(operand: Operand, k: int) -> Operand:
        return f"{operand}.{axis}{k}" if isinstance(operand, str) and operand in many else operand

    for s in body:
        if isinstance(s, Reduce) and s.over == (axis,):
            out += _chain(s, [at(s.value, k) for k in range(extent)])
        elif axis in s.axes:
            if not isinstance(s, Store):
                many.add(s.name)
            for k in range(extent):
                here = renamed(s, {name: f"{name}.{axis}{k}" for name in many})
                assert isinstance(here, Load | Iota | Op | Reduce | Store)
                out.append(_placed(here, axis, k))
        else:
            out.append(s)
    return out


def _chain(fold: Reduce, values: list[Operand]) -> list[Flat]:
    op = _CHAIN[fold.monoid]
    if fold.dtype.kind == "bool":
        op = _BOOL_CHAIN.get(op, op)
    if len(values) == 1:
        return [_same(fold, values[0], fold.dtype)]
    out: list[Flat] = []
    total = values[0]
    for k, value in enumerate(values[1:], 1):
        name = fold.name if k == len(values) - 1 else f"{fold.name}.{k}"
        out.append(Op(name, op, (total, value), fold.dtype, fold.axes, fold.line))
        total = name
    return out


def _same(fold: Reduce, value: Operand, dtype: DType) -> Op:
    return Op(fold.name, "cast", (value,), dtype, fold.axes, fold.line)


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
