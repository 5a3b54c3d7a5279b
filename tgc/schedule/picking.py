"""One element a row, of a row the program already holds: picked from it instead of read again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tgc.ir import dtypes
from tgc.kernel.ir import Const, Gathered, Index, Iota, Load, Loop, Op, Reduce, Statement, Store
from tgc.schedule import indexing as ix


def pick_gathered(body: Sequence[Statement], fresh: Callable[[str], str]) -> list[Statement]:
    """Replace each load of `x[r, label[r]]` beside a folded row `x[r, :]` by `sum(where(c == label[r], x[r, c], 0))`.

    All other terms of the sum are zeros, whatever the row holds: infinities and NaN arrive as they are.
    """
    folded = {s.over for s in body if isinstance(s, Reduce)}
    rows = [s for s in body if isinstance(s, Load) and (_last(s),) in folded]
    types = {s.name: s.dtype for s in body if isinstance(s, Load | Iota | Op | Reduce)}
    out: dict[str, Statement] = {}
    for s in body:
        assert not isinstance(s, Store | Loop), "the body of a kernel that is not tiled yet"
        row = next((r for r in rows if isinstance(s, Load) and _is_element_of(s, r)), None)
        if row is None:
            out.setdefault(s.name, s)
            continue
        assert isinstance(s, Load)
        ((label, _),) = _gathered(s.index)
        axis, integer = row.axes[-1], types[label.value]
        out.setdefault(row.name, row)
        at, here, picked = fresh("at"), fresh("here"), fresh("picked")
        new: list[Iota | Op | Reduce] = [
            Iota(at, ix.axis(axis), integer, (axis,)),
            Op(here, "eq", (at, label.value), dtypes.bool_, row.axes),
            Op(picked, "where", (here, row.name, Const(0, s.dtype)), s.dtype, row.axes),
        ]
        if s.dtype.is_half:  # folds of half types are kept in float32
            wide, total, wider = fresh("wide"), fresh("total"), s.dtype.compute
            new += [
                Op(wide, "cast", (picked,), wider, row.axes),
                Reduce(total, "sum", wide, (axis,), wider, s.axes),
                Op(s.name, "cast", (total,), s.dtype, s.axes),
            ]
        else:
            new.append(Reduce(s.name, "sum", picked, (axis,), s.dtype, s.axes))
        out |= {statement.name: statement for statement in new}
    return list(out.values())


def _last(load: Load) -> str | None:
    return load.axes[-1] if load.axes else None


def _gathered(index: Index) -> list[tuple[Gathered, object]]:
    return [(t, c) for t, c in index.terms if isinstance(t, Gathered)]


def _is_element_of(element: Load, row: Load) -> bool:
    """Whether `element` is `row` at a gathered position along the row's last axis."""
    gathered = _gathered(element.index)
    if len(gathered) != 1 or element.mask is not None or row.mask is not None:
        return False
    axis = row.axes[-1]
    rest = replace(element.index, terms=tuple(x for x in element.index.terms if x not in gathered))
    whole = ix.add(rest, ix.scale(ix.axis(axis), gathered[0][1]))  # type: ignore[arg-type]
    return (
        element.buffer == row.buffer
        and element.axes == row.axes[:-1]
        and element.dtype.kind != "bool"
        and whole == row.index
    )
