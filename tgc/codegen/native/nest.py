"""From a tiled kernel to loops over single elements.

The kernel IR speaks of tiles; a processor runs loops. A `For` runs its items for each element of an axis. Axes are
opened in the order of memory, outermost first. What folds an axis splits it: all that does not need the fold's
result is one loop, what needs it is another, and what the second needs of the first is made again there (it comes
from cache) or, where it is dear, kept in scratch.

Demand decides what runs where: `_build` is given the roots that must happen in a scope (stores, steps of folds) and
places below them what they need and the scope does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from tgc.codegen.unroll import unroll
from tgc.ir.ops import OPS
from tgc.kernel.ir import Iota, Kernel, Load, Loop, Op, Reduce, Statement, Store
from tgc.kernel.walk import reads

DEAR = 8  # an operation of this cost in the table is worth a round trip to scratch
KEPT_AT_MOST = 2


@dataclass(frozen=True)
class Keep:
    """`scratch[name] = value`, one element per position along `axes`."""

    name: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One step of a fold: its accumulator takes in the value. `array`: the axes along which there are many."""

    fold: Reduce
    array: tuple[str, ...]


@dataclass(frozen=True)
class Recall:
    """`name` = what a `Keep` or the steps of a fold left in scratch, at the position along `axes`."""

    name: str
    axes: tuple[str, ...]


@dataclass
class For:
    """Run `items` for each element of `axis`; `folds` start before and are defined after."""

    axis: str
    items: list[Item]
    folds: list[Step]


Maker: TypeAlias = Load | Iota | Op | Reduce
Flat: TypeAlias = Maker | Store
Plain: TypeAlias = Load | Iota | Op | Store | Step | Keep | Recall
Root: TypeAlias = Store | Step | Keep | Reduce
Item: TypeAlias = Plain | For
Known: TypeAlias = dict[str, tuple[str, ...]]


def nest(kernel: Kernel) -> list[Item]:
    """The loops of one program of a kernel."""
    flat = unroll(list(_flatten(kernel.body)), kernel)
    makers = {s.name: s for s in flat if not isinstance(s, Store)}
    short = frozenset(a.name for a in kernel.axes if a.kind != "loop")
    stores = [s for s in flat if isinstance(s, Store)]
    return _Nester(makers, short).build(stores, [a.name for a in kernel.axes], {})


def _flatten(body: Sequence[Statement]) -> Iterable[Flat]:
    """Statements without loops; a fold over several axes becomes folds over one each, the innermost first."""
    for s in body:
        if isinstance(s, Loop):
            yield from _flatten((*s.body, *s.folds))
        elif isinstance(s, Reduce) and len(s.over) > 1:
            value, axes = s.value, (*s.axes, *s.over)
            for axis in reversed(s.over):
                axes = tuple(a for a in axes if a != axis)
                name = s.name if axis == s.over[0] else f"{s.name}.{axis}"
                yield replace(s, name=name, value=value, over=(axis,), axes=axes)
                value = name
        else:
            yield s


def uses(s: Flat | Plain) -> tuple[str, ...]:
    """The values a statement reads."""
    if isinstance(s, Recall):
        return ()
    if isinstance(s, Keep):
        return (s.name,)
    return reads(s.fold if isinstance(s, Step) else s)


def spans(s: Flat | Item) -> frozenset[str]:
    """The axes a statement runs along."""
    if isinstance(s, For):
        return frozenset((s.axis,)).union(*(spans(i) for i in s.items))
    s = s.fold if isinstance(s, Step) else s
    return frozenset((*s.axes, *(s.over if isinstance(s, Reduce) else ())))


@dataclass
class _Stage:
    """A loop whose items are not built yet: the roots inside it and what is known around it."""

    loop: For
    roots: list[Root]
    known: Known


@dataclass
class _Nester:
    """`makers`: the statement that makes each value. `short`: axes whose extent in a program is bounded."""

    makers: dict[str, Maker]
    short: frozenset[str]

    def build(self, roots: Sequence[Root], order: Sequence[str], known: Known) -> list[Item]:
        """The items that make `roots` happen, with the axes of `order` still to be opened.

        `known`: values that a scope around has, each with the axes of its scratch, none where it is in a register.
        """
        needed = [*self._closure(roots, known), *roots]
        axis = next((a for a in order if any(a in spans(s) for s in needed)), None)
        closed, rest = frozenset(order), [a for a in order if a != axis]
        level = _levels(needed, axis)
        wanted = self._wanted(roots, needed, order, axis)
        known, items = dict(known), list[Item]()
        stages: list[_Stage] = []
        for number in range(max(level, default=0) + 1):
            mine = [s for s, k in zip(needed, level, strict=True) if k == number]
            for s in mine:
                if not isinstance(s, Reduce) and not spans(s) & closed:
                    items.append(s)
                    if not isinstance(s, Store | Step | Keep):
                        known[s.name] = ()
            loops = [s for s in mine if isinstance(s, Store | Step | Keep) and spans(s) & closed]
            beside = {
                s: tuple(a for a in rest if a in s.axes)
                for s in mine
                if isinstance(s, Reduce) and s.name in wanted
            }
            around: list[Root] = [s for s in loops if axis not in spans(s)]
            around += [Keep(s.name, axes) if axes else s for s, axes in beside.items()]
            if around:
                items += self.build(around, rest, known)
                known |= {s.name: axes for s, axes in beside.items()}
            inside: list[Root] = [s for s in loops if axis in spans(s)]
            folds = [_step(s, rest) for s in mine if isinstance(s, Reduce) and axis in s.over]
            if inside or folds:
                stage = _Stage(For(axis or "", [], folds), [*inside, *folds], dict(known))
                self._keep_dear(stage, stages, order, known)
                items.append(stage.loop)
                stages.append(stage)
                known |= {s.fold.name: s.array for s in folds}
        for stage in stages:
            stage.loop.items = self.build(stage.roots, rest, stage.known)
        return items

    def _wanted(
        self,
        roots: Sequence[Root],
        needed: Sequence[Flat | Plain],
        order: Sequence[str],
        axis: str | None,
    ) -> set[str]:
        """The folds outside a loop over `axis` that are used there or here, not just by others of them."""
        beside = {s.name for s in needed if isinstance(s, Reduce) and axis not in spans(s)}
        made = {s.name: s for s in needed if not isinstance(s, Store | Step | Keep)}
        wanted, seen = {s.name for s in roots if isinstance(s, Reduce)} & beside, set[str]()
        stack = list[str]()
        for s in needed:
            here = not isinstance(s, Reduce) and spans(s).isdisjoint(order)
            if here or axis in spans(s) or s in roots:
                stack += uses(s)
        while stack:
            name = stack.pop()
            if name in seen or name not in made:
                continue
            seen.add(name)
            if name in beside:
                wanted.add(name)
            else:
                stack += uses(made[name])
        return wanted

    def _closure(self, roots: Sequence[Root], known: Known) -> list[Maker | Recall]:
        """What `roots` need and no scope around has, in order."""
        found: dict[str, Maker | Recall] = {}

        def visit(name: str) -> None:
            if name in found or known.get(name) == ():
                return
            if name in known:
                found[name] = Recall(name, known[name])
                return
            maker = self.makers[name]
            for other in uses(maker):
                visit(other)
            found[name] = maker

        for root in roots:
            for name in uses(root):
                visit(name)
        return list(found.values())

    def _keep_dear(
        self, stage: _Stage, stages: Sequence[_Stage], order: Sequence[str], known: Known
    ) -> None:
        """What an earlier loop over the same axis computed with effort is kept there, and recalled here."""
        again = {s.name: s for s in self._closure(stage.roots, stage.known) if isinstance(s, Op)}
        for earlier in stages:
            first = {s.name for s in self._closure(earlier.roots, earlier.known)}
            shared = [s for s in again.values() if s.name in first and stage.loop.axis in s.axes]
            dear = set[str]()
            for s in shared:
                if OPS[s.op].cost >= DEAR or dear & set(uses(s)):
                    dear.add(s.name)
            users = [*(s for s in again.values() if s.name not in dear), *stage.roots]
            wanted = {name for s in users for name in uses(s) if name in dear}
            for name in sorted(wanted):
                axes = tuple(a for a in order if a in again[name].axes)
                if len(wanted) <= KEPT_AT_MOST and self.short.issuperset(axes):
                    earlier.roots.append(Keep(name, axes))
                    stage.known[name] = known[name] = axes


def _step(fold: Reduce, rest: Sequence[str]) -> Step:
    return Step(fold, tuple(a for a in rest if a in fold.axes))


def _levels(statements: Sequence[Flat | Plain], axis: str | None) -> list[int]:
    """Per statement, how many folds must be finished before it; one inside the loop over `axis` does not count."""
    after: dict[str, int] = {}
    levels: list[int] = []
    for s in statements:
        here = max((after.get(name, 0) for name in uses(s)), default=0)
        levels.append(here)
        if isinstance(s, Reduce):
            after[s.name] = here + 1 if axis in s.over or axis not in s.axes else here
        elif not isinstance(s, Store | Step | Keep):
            after[s.name] = here
    return levels
