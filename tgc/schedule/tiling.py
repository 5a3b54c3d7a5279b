"""From whole axes to tiles: which axis is a program, a lane or a loop, and what is staged.

Axes that a fold inside the kernel reduces are *inner*: one program sees all of them, as lanes if the row fits, else
by loops, one per dependent fold. The axis along which partial results are taken is *split*: divided among programs,
looped over inside each. All others are *outer*: a grid of tiles.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from tgc.ir.sizes import Dim, Size, cdiv, floordiv, power_of_two, product, symbols
from tgc.kernel.ir import (
    Axis,
    Const,
    Gathered,
    Index,
    Iota,
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
from tgc.kernel.walk import reads
from tgc.schedule.facts import Facts
from tgc.schedule.lower import Conflict, Flat
from tgc.schedule.target import Target

SHARE = 16
"""Beside a split axis a sixteenth of the tile is enough: the rest is for the rows that are folded."""


@dataclass(frozen=True)
class Tiled:
    """A kernel's axes and body, and the split of its partial results (None if it has none)."""

    axes: tuple[Axis, ...]
    body: tuple[Statement, ...]


def split_size(extent: Dim, block: Dim, target: Target) -> Dim:
    """Elements per program along a split axis, for at most `target.programs` programs."""
    if extent == 0:
        return 1
    if target.call == 1 and not isinstance(block, int):
        return cdiv(extent, target.programs) + (target.split - 1)
    # Whole blocks. Those of a fixed size hold enough elements by themselves.
    slack = 0 if isinstance(block, int) and block >= target.split else target.split - 1
    return block * cdiv(extent + target.programs * slack, target.programs * block)


@dataclass
class Budget:
    """How many elements a program may still take on, given the lanes it already has.

    What is left is tile // lanes, rounded up; as `1 + (tile - 1) // lanes` it is seen to be a power of two.
    """

    target: Target
    tile: int
    lanes: Dim = 1

    def take(self, extent: Dim) -> None:
        """A whole axis becomes lanes."""
        self.lanes = self.lanes * (power_of_two(extent) if self.target.power_of_two else extent)

    def left(self, tile: int | None = None) -> Dim:
        tile = self.tile if tile is None else tile
        if isinstance(self.lanes, int):
            return max(1, tile // max(1, self.lanes))
        if not self.target.power_of_two:
            return cdiv(tile, self.lanes)
        return 1 + floordiv(tile - 1, self.lanes)


def split_axis(flat: Flat, inner: frozenset[str]) -> str | None:
    """The axis whose programs yield partial results: the outermost reduced one that is not inner."""
    reduced = {a for fold, _ in flat.partials for a in fold.over} - inner
    return next((a for a in flat.axes if a in reduced), None)


def inner_axes(flat: Flat) -> frozenset[str]:
    """The axes one program sees whole: those that folds inside the kernel reduce, and those a result does not have.

    A row statistic stored beside its matrix must be written by one program, not by every tile of the row.
    """
    reduced = frozenset(a for s in flat.body if isinstance(s, Reduce) for a in s.over)
    everything = frozenset(flat.axes)
    stored = [frozenset(t for t, _ in s.index.terms if isinstance(t, str)) for s in flat.stores]
    folded = [frozenset((*fold.over, *fold.axes)) for fold, _ in flat.partials]
    return reduced.union(*(everything - axes for axes in (*stored, *folded)))


def order_axes(flat: Flat, facts: Facts) -> Flat:
    """Axes in order of memory: the one with the smallest steps last."""
    step: dict[str, int] = {}
    for s in (*flat.body, *flat.stores):
        if isinstance(s, Load | Store):
            for term, c in s.index.terms:
                if isinstance(term, str):
                    step[term] = max(step.get(term, 0), abs(facts.value(c)))
    names = sorted(flat.axes, key=lambda a: -step.get(a, 0))
    order = {a: k for k, a in enumerate(names)}

    def sort(axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(axes, key=order.__getitem__))

    def statement(s: Statement) -> Statement:
        if isinstance(s, Reduce):
            return replace(s, axes=sort(s.axes), over=sort(s.over))
        return replace(s, axes=sort(s.axes))  # type: ignore[union-attr, arg-type]

    return Flat(
        {a: flat.axes[a] for a in names},
        [statement(s) for s in flat.body],
        flat.stores,
        [
            (replace(r, axes=sort(r.axes), over=sort(r.over)), replace(s, axes=sort(s.axes)))
            for r, s in flat.partials
        ],
    )


def tile(flat: Flat, facts: Facts, target: Target) -> Tiled:
    """Choose a kind and a block for each axis and arrange the body in loops where needed.

    Raises:
        Conflict: partial results of a row that does not fit a program, along different axes, or along one that a
            program must see whole.
    """
    inner = inner_axes(flat)
    split = split_axis(flat, inner)
    if split is None and flat.partials:
        raise Conflict  # what would be divided among programs, one of them must see whole
    if split is not None:
        if any(split not in fold.over for fold, _ in flat.partials):
            raise Conflict
        inner |= {a for fold, _ in flat.partials for a in fold.over} - {split}
    chosen, looped = _place_axes(flat, inner, split, facts, target)
    folds = [fold for fold, _ in flat.partials]
    body = _flatten_partials(list(flat.body), folds, split)
    stores = _with_axes(flat, body)
    if looped is not None:
        if split is not None and any(looped in f.axes for f in folds):
            raise Conflict
        body = _stage_loops([*body, *stores], looped)
    else:
        body = _stores_early(body, stores)
    if split is not None:
        body = _wrap_split(body, folds, split)
    return Tiled(tuple(chosen[a] for a in flat.axes), tuple(body))


# --- placing axes ---------------------------------------------------------------------------------------------------


def _place_axes(
    flat: Flat, inner: frozenset[str], split: str | None, facts: Facts, target: Target
) -> tuple[dict[str, Axis], str | None]:
    """A kind and a block for each axis, and the inner axis that is looped over because its rows do not fit."""
    chosen: dict[str, Axis] = {}
    budget = Budget(target, target.tile)
    rows = [a for a in flat.axes if a in inner]
    outer = [a for a in flat.axes if a not in inner and a != split]
    looped = None
    if rows and not facts.at_most(product([flat.axes[a] for a in rows]), target.row):
        looped, *others = rows
        long = [a for a in others if not facts.at_most(flat.axes[a], target.row)]
        if long:
            looped, *others = (*long, looped)
            if any(not facts.at_most(flat.axes[a], target.row) for a in others):
                raise Conflict
        rows.remove(looped)
    for name in rows:
        extent, exact = flat.axes[name], None
        if _is_short(name, flat, facts, target):
            exact = facts.pin(extent)
        chosen[name] = Axis(name, extent, "lane", exact)
        if exact is None or target.call == 1:
            budget.take(extent)  # written out as calls, each position has arrays of its own
    if looped is not None:
        chosen[looped] = Axis(looped, flat.axes[looped], "loop", budget.left())
        budget.lanes = target.tile
    elif len(outer) == 1 and not rows and split is None:
        chosen[outer[0]] = Axis(outer[0], flat.axes[outer[0]], "grid", target.flat)
        return chosen, None
    order = list(flat.axes)
    for name in reversed(outer):
        share = 1
        if split is not None:
            inside = order.index(name) < order.index(split)
            share = max(SHARE, target.call) if inside else SHARE
        chosen[name] = _outer_axis(name, flat.axes[name], budget, share, facts)
    if split is not None:
        # Calls without operations need no scratch, and may read more than fits a cache.
        reads = target.call > 1 and not any(isinstance(s, Op) for s in flat.body)
        extent, block = flat.axes[split], budget.left(4 * budget.tile if reads else None)
        size = split_size(extent, block, target)
        chosen[split] = Axis(split, extent, "loop", block, size)
    return chosen, looped


def _is_short(name: str, flat: Flat, facts: Facts, target: Target) -> bool:
    """Whether an axis is written out: a few elements, and others so many that a call for each does not matter."""
    extent = flat.axes[name]
    if not target.unroll or len(flat.axes) == 1:
        return False
    derived = isinstance(extent, Size) and extent not in map(Size.symbol, symbols(extent))
    if derived:
        return False  # such as a number of programs, which changes with the sizes
    if not facts.at_most(extent, target.unroll) or facts.value(extent) == 0:
        return False
    others = product([flat.axes[a] for a in flat.axes if a != name])
    return target.call == 1 or not facts.at_most(others, target.call)


def _outer_axis(name: str, extent: Dim, budget: Budget, share: int, facts: Facts) -> Axis:
    """The innermost outer axes are lanes while they are short; the next is cut into tiles, the rest one by one.

    They take one part in `share` of the tile.
    """
    tile = max(1, budget.tile // share)
    left = budget.left(tile)
    if isinstance(left, int) and left >= 64 and facts.at_most(extent, left):
        budget.take(extent)
        return Axis(name, extent, "lane")
    budget.lanes = budget.lanes * left if isinstance(left, int) else budget.tile
    return Axis(name, extent, "grid", left)


# --- arranging the body ---------------------------------------------------------------------------------------------


def _with_axes(flat: Flat, body: list[Statement]) -> list[Store]:
    """The stores, each over the axes of its index."""
    axes_of = {s.name: s.axes for s in body if isinstance(s, Load | Iota | Op | Reduce)}
    out = []
    for store in flat.stores:
        used = {t for t, _ in store.index.terms if isinstance(t, str)}
        used |= {a for v in reads(store) for a in axes_of.get(v, ())}
        out.append(replace(store, axes=tuple(a for a in flat.axes if a in used)))
    return out


def _flatten_partials(
    body: list[Statement], folds: list[Reduce], split: str | None
) -> list[Statement]:
    """A partial fold over several axes reduces the inner ones in each tile first; `folds` keep the split axis."""
    for k, fold in enumerate(folds):
        rest = tuple(a for a in fold.over if a != split)
        if rest:
            name = f"{fold.name}_tile"
            axes = tuple(
                a for a in (*fold.axes, split) if a is not None and _has(body, fold.value, a)
            )
            body.append(Reduce(name, fold.monoid, fold.value, rest, fold.dtype, axes, fold.line))
            folds[k] = replace(fold, value=name, over=(split,) if split else ())
    return body


def _has(body: list[Statement], value: Operand, axis: str) -> bool:
    if isinstance(value, Const):
        return False
    return any(
        axis in s.axes for s in body if isinstance(s, Load | Iota | Op | Reduce) and s.name == value
    )


def _stores_early(body: list[Statement], stores: list[Store]) -> list[Statement]:
    """Each store right after the value it stores; values that `body` does not make stand before it."""
    pending = {s.name for s in body}  # type: ignore[union-attr]
    out: list[Statement] = []
    waiting = list(stores)
    for statement in (None, *body):
        if statement is not None:
            out.append(statement)
            pending.discard(statement.name)  # type: ignore[union-attr]
        ready = [s for s in waiting if pending.isdisjoint(reads(s))]
        out += ready
        waiting = [s for s in waiting if s not in ready]
    return out


def _stage_loops(statements: list[Statement], axis: str) -> list[Statement]:
    """Loops over `axis`, one per stage of dependent folds; what a later stage needs of an earlier one is made again.

    A statement over the axis belongs to the stage after the last fold it depends on; all else stands between loops.
    """
    by_name: dict[str, Statement] = {}
    stage: dict[int, int] = {}
    level: dict[str, int] = {}
    for k, s in enumerate(statements):
        here = max((level[v] for v in reads(s)), default=0)
        stage[k] = here
        if not isinstance(s, Store):
            assert not isinstance(s, Loop)
            by_name[s.name] = s
            level[s.name] = here + 1 if isinstance(s, Reduce) and axis in s.over else here
    last = max(stage.values(), default=0)
    emitted: set[str] = set()
    out: list[Statement] = []
    for number in range(last + 1):
        mine = [s for k, s in enumerate(statements) if stage[k] == number]
        out += [s for s in mine if not _in_loop(s, axis)]
        inside = [s for s in mine if _in_loop(s, axis)]
        folds = [s for s in inside if isinstance(s, Reduce) and axis in s.over]
        stores = [s for s in inside if isinstance(s, Store)]
        if not folds and not stores:
            continue
        body = _closure(statements, [*folds, *stores], by_name, axis)
        again = {s.name: _free(s.name, by_name, emitted) for s in body if s.name in emitted}  # type: ignore[union-attr]
        emitted |= {again.get(s.name, s.name) for s in body}  # type: ignore[union-attr]
        inside = [renamed(s, again) for s in _stores_early(body, stores)]
        out.append(Loop(axis, tuple(inside), tuple(renamed(f, again) for f in folds)))  # type: ignore[misc]
    return out


def _free(name: str, taken: Collection[str], emitted: Collection[str]) -> str:
    return next(
        c for k in itertools.count(2) if (c := f"{name}_{k}") not in taken and c not in emitted
    )


def renamed(statement: Statement, names: Mapping[str, str]) -> Statement:
    """A statement with values renamed, both the one it makes and those it reads."""

    def value(v: str) -> str:
        return names.get(v, v)

    def operand(o: Operand) -> Operand:
        return value(o) if isinstance(o, str) else o

    def term(t: Term) -> Term:
        if isinstance(t, Gathered):
            return replace(t, value=value(t.value))
        return replace(t, index=index(t.index)) if isinstance(t, Quotient | Remainder) else t

    def index(i: Index) -> Index:
        return Index(tuple((term(t), c) for t, c in i.terms), i.offset)

    if isinstance(statement, Load):
        mask = statement.mask and value(statement.mask)
        return replace(
            statement, name=value(statement.name), index=index(statement.index), mask=mask
        )
    if isinstance(statement, Iota):
        return replace(statement, name=value(statement.name), index=index(statement.index))
    if isinstance(statement, Op):
        return replace(
            statement, name=value(statement.name), args=tuple(operand(a) for a in statement.args)
        )
    if isinstance(statement, Reduce):
        return replace(statement, name=value(statement.name), value=operand(statement.value))
    if isinstance(statement, Store):
        return replace(statement, index=index(statement.index), value=operand(statement.value))
    body = tuple(renamed(s, names) for s in statement.body)
    return replace(statement, body=body, folds=tuple(renamed(f, names) for f in statement.folds))  # type: ignore[misc]


def _in_loop(statement: Statement, axis: str) -> bool:
    if isinstance(statement, Reduce):
        return axis in statement.axes or axis in statement.over
    return axis in statement.axes  # type: ignore[union-attr]


def _closure(
    statements: list[Statement], roots: list[Statement], by_name: dict[str, Statement], axis: str
) -> list[Statement]:
    """The statements over `axis` that `roots` need, in order."""
    needed: set[str] = set()
    stack = [v for r in roots for v in reads(r)]
    while stack:
        name = stack.pop()
        statement = by_name[name]
        if (
            name in needed
            or not _in_loop(statement, axis)
            or (isinstance(statement, Reduce) and axis in statement.over)
        ):
            continue
        needed.add(name)
        stack += reads(statement)
    return [s for s in statements if not isinstance(s, Store) and s.name in needed]  # type: ignore[union-attr]


def _wrap_split(body: list[Statement], folds: list[Reduce], split: str) -> list[Statement]:
    """Everything that runs along the split axis in one loop that ends in the partial folds."""
    varying: set[str] = set()
    before: list[Statement] = []
    inside: list[Statement] = []
    for s in body:
        moves = any(v in varying for v in reads(s)) or _along(s, split)
        if moves:
            inside.append(s)
            varying |= (
                {r.name for r in s.folds}
                if isinstance(s, Loop)
                else set()
                if isinstance(s, Store)
                else {s.name}
            )
        else:
            before.append(s)
    return [*before, Loop(split, tuple(inside), tuple(folds))]


def _along(statement: Statement, axis: str) -> bool:
    if isinstance(statement, Loop):
        return any(_along(s, axis) for s in (*statement.body, *statement.folds))
    return _in_loop(statement, axis)
