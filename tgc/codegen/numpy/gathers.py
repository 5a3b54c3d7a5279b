"""A sum of one selected element is that element, gathered: numpy would make the whole selection first.

`sum(where(position == chosen, x, 0))` is how a gather along a folded axis reaches a kernel. (A chosen -0.0 stays one.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tgc.codegen.numpy.liveness import statements
from tgc.ir import dtypes
from tgc.kernel.ir import (
    Const,
    Gathered,
    Index,
    Iota,
    Kernel,
    Load,
    Loop,
    Op,
    Reduce,
    Statement,
)

Made = Mapping[str, Statement]


def gather_selections(kernel: Kernel) -> Kernel:
    """The same kernel, with a masked load of one element for each sum that selects it."""
    made = {s.name: s for s in statements(kernel.body) if isinstance(s, Load | Iota | Op | Reduce)}
    return replace(kernel, body=_body(kernel.body, kernel, made))


def _body(body: tuple[Statement, ...], kernel: Kernel, made: Made) -> tuple[Statement, ...]:
    found: list[Statement] = []
    for s in body:
        if isinstance(s, Loop):
            found.append(replace(s, body=_body(s.body, kernel, made)))
        elif isinstance(s, Reduce):
            found += _gathered(s, kernel, made) or [s]
        else:
            found.append(s)
    return tuple(found)


def _gathered(s: Reduce, kernel: Kernel, made: Made) -> list[Statement] | None:
    if s.monoid != "sum" or len(s.over) != 1 or kernel.axis(s.over[0]).kind != "lane":
        return None
    (axis,) = s.over
    selection = made.get(str(s.value))
    if not isinstance(selection, Op) or selection.op != "where":
        return None
    condition, element, nothing = selection.args
    load = made.get(str(element))
    if not isinstance(nothing, Const) or nothing.value != 0 or not isinstance(load, Load):
        return None
    chosen = _chosen(made.get(str(condition)), axis, made)
    affine = all(isinstance(t, str) for t, _ in load.index.terms)
    if chosen is None or load.mask is not None or not affine or axis not in load.axes:
        return None
    where, dtype = made[chosen], dtypes.int64
    assert not isinstance(where, Loop)
    low, high, inside = (f"{s.name}.{part}" for part in ("low", "high", "inside"))
    terms = tuple((Gathered(chosen) if t == axis else t, c) for t, c in load.index.terms)
    bounds = (Const(0, dtype), Const(kernel.axis(axis).extent, dtype))
    return [
        Op(low, "ge", (chosen, bounds[0]), dtypes.bool_, where.axes),
        Op(high, "lt", (chosen, bounds[1]), dtypes.bool_, where.axes),
        Op(inside, "and", (low, high), dtypes.bool_, where.axes),
        Load(s.name, load.buffer, Index(terms, load.index.offset), s.dtype, s.axes, inside),
    ]


def _chosen(condition: Statement | None, axis: str, made: Made) -> str | None:
    """What positions along the axis are compared with, if that is the same all along it."""
    if not isinstance(condition, Op) or condition.op != "eq":
        return None
    for position, other in (condition.args, condition.args[::-1]):
        iota, value = made.get(str(position)), made.get(str(other))
        if not isinstance(iota, Iota) or iota.index != Index(((axis, 1),)):
            continue
        if isinstance(value, Op | Load | Iota) and value.dtype is dtypes.int64:
            return value.name if axis not in value.axes else None
    return None
