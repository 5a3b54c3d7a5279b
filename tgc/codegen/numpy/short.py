"""Axes of a few elements are written out: numpy would begin a loop along one for each element beside it.

Their extents, which the regime pins, are numbers in what is left, so that indices are seen to stay inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tgc.codegen.unroll import short_axes, unroll
from tgc.ir.sizes import Dim, Size, substitute, symbols
from tgc.kernel.ir import (
    Axis,
    Buffer,
    Const,
    Index,
    Kernel,
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

Sizes = Mapping[str, Dim]


def write_out(kernel: Kernel) -> Kernel:
    """The same kernel without short axes."""
    short = short_axes(kernel)
    if not short or len(short) == len(kernel.axes):
        return kernel
    known = {s: _number(a) for a in short for s in symbols(a.extent)}
    body = tuple(_statement(s, known) for s in unroll(kernel.body, kernel))
    axes = tuple(_axis(a, known) for a in kernel.axes if a not in short)
    buffers = tuple(_buffer(b, known) for b in kernel.buffers)
    return replace(kernel, axes=axes, buffers=buffers, body=body)


def _number(axis: Axis) -> int:
    assert isinstance(axis.block, int), "an extent that the regime pins"
    return axis.block


def _axis(a: Axis, known: Sizes) -> Axis:
    block, split = (None if d is None else substitute(d, known) for d in (a.block, a.split))
    return Axis(a.name, substitute(a.extent, known), a.kind, block, split)


def _buffer(b: Buffer, known: Sizes) -> Buffer:
    shape, strides = (tuple(substitute(d, known) for d in dims) for dims in (b.shape, b.strides))
    return replace(b, shape=shape, strides=strides)


def _statement(s: Statement, known: Sizes) -> Statement:
    if isinstance(s, Loop):
        body = tuple(_statement(inner, known) for inner in s.body)
        folds = tuple(replace(f, value=_operand(f.value, known)) for f in s.folds)
        return Loop(s.axis, body, folds)
    if isinstance(s, Op):
        return replace(s, args=tuple(_operand(a, known) for a in s.args))
    if isinstance(s, Reduce):
        return replace(s, value=_operand(s.value, known))
    index = _index(s.index, known)
    if isinstance(s, Store):
        return replace(s, index=index, value=_operand(s.value, known))
    return replace(s, index=index)


def _operand(operand: Operand, known: Sizes) -> Operand:
    if isinstance(operand, Const) and isinstance(operand.value, Size):
        return replace(operand, value=substitute(operand.value, known))
    return operand


def _index(index: Index, known: Sizes) -> Index:
    terms = tuple((_term(t, known), substitute(c, known)) for t, c in index.terms)
    return Index(terms, substitute(index.offset, known))


def _term(term: Term, known: Sizes) -> Term:
    if isinstance(term, Quotient | Remainder):
        divisor = substitute(term.divisor, known)
        return replace(term, index=_index(term.index, known), divisor=divisor)
    return term
