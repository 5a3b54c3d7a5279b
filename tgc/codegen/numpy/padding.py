"""Padding as slices: a load whose mask is a box of index ranges copies that box and fills the rest.

A mask that is a conjunction of comparisons of axis indices with sizes bounds each axis from below and above. Where
the load's index provably stays inside the buffer within these bounds, no index arrays are needed, nor the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

from tgc.codegen.numpy.access import ExtentOf, Part, is_negative, split_index
from tgc.codegen.numpy.liveness import Liveness
from tgc.ir.sizes import Dim, Size, nonnegative
from tgc.kernel.ir import Const, Iota, Kernel, Load, Loop, Op, Store
from tgc.kernel.walk import reads, statements

FLIPPED = {"ge": "le", "gt": "lt", "le": "ge", "lt": "gt"}


@dataclass
class Box:
    """Bounds per axis: positions p with low <= p < high for every low and high listed."""

    lows: dict[str, list[Dim]]
    highs: dict[str, list[Dim]]

    def lowest(self, axis: str) -> list[Dim]:
        return [0, *self.lows.get(axis, [])]

    def highest(self, axis: str, extent: Dim) -> list[Dim]:
        return [extent, *self.highs.get(axis, [])]


@dataclass(frozen=True)
class Padded:
    """A padding load: its box, and the buffer's index taken apart."""

    box: Box
    parts: tuple[Part, ...]
    flat: bool


def padding(s: Load, kernel: Kernel, live: Liveness, extent_of: ExtentOf) -> Padded | None:
    """How a masked load is done by slices, or None where it takes index arrays."""
    box = Box({}, {})
    if s.mask is None or not _bounded(s.mask, live, box):
        return None
    buffer = kernel.buffer(s.buffer)
    if not buffer.shape:
        return None
    split = split_index(buffer, s.index, extent_of, inside=False)
    if split is None or (split.shape is not None and len(split.shape) != 1):
        return None
    if not all(_fits(part, box, extent_of) for part in split.parts):
        return None
    order = [t for part in split.parts for t, _ in part.terms]
    if order != [a for a in s.axes if a in order]:
        return None
    return Padded(box, split.parts, flat=split.shape is not None)


def _bounded(name: str, live: Liveness, box: Box) -> bool:
    """Collect the bounds a condition stands for; False if it is no conjunction of bounds."""
    op = live.values[name].by
    if not isinstance(op, Op):
        return False
    if op.op == "and":
        return all(isinstance(a, str) and _bounded(a, live, box) for a in op.args)
    if op.op not in FLIPPED:
        return False
    (left, right), kind = op.args, op.op
    if isinstance(left, Const) and isinstance(right, str):
        left, right, kind = right, left, FLIPPED[kind]
    if not (isinstance(left, str) and isinstance(right, Const)):
        return False
    iota = live.values[left].by
    if not isinstance(iota, Iota) or len(iota.index.terms) != 1 or isinstance(right.value, float):
        return False
    axis, coefficient = iota.index.terms[0]
    if not isinstance(axis, str) or coefficient != 1:
        return False
    bound = right.value - iota.index.offset
    if kind in ("ge", "gt"):
        box.lows.setdefault(axis, []).append(bound + (kind == "gt"))
    else:
        box.highs.setdefault(axis, []).append(bound + (kind == "le"))
    return True


def _fits(part: Part, box: Box, extent_of: ExtentOf) -> bool:
    """Whether the index of one dimension stays inside it for all positions of the box."""
    if not part.terms:
        return nonnegative(part.offset, 1) and nonnegative(part.extent - 1 - part.offset, 1)
    (axis, step), *more = part.terms
    if more or not isinstance(axis, str) or is_negative(step) or step != 1:
        return False
    starts = any(nonnegative(part.offset + low, 1) for low in box.lowest(axis))
    stops = any(
        nonnegative(part.extent - part.offset - high, 1)
        for high in box.highest(axis, extent_of(axis))
    )
    return starts and stops


def restates(s: Op, live: Liveness) -> str | None:
    """The masked load that `where(mask, load, fill)` merely repeats."""
    if s.op != "where" or not isinstance(s.args[1], str) or not isinstance(s.args[2], Const):
        return None
    load = live.values[s.args[1]].by
    if isinstance(load, Load) and load.mask == s.args[0] and load.axes == s.axes:
        fill = s.args[2].value
        if not isinstance(fill, Size) and repr(float(load.fill)) == repr(float(fill)):
            return load.name
    return None


def needed(kernel: Kernel, padded: dict[str, Padded], aliases: dict[str, str]) -> set[str]:
    """The values that are still computed when padding loads do without their masks."""
    found: set[str] = set()
    for s in reversed(statements(kernel.body)):
        if isinstance(s, Loop):
            for fold in s.folds:
                found.update(reads(fold))
    for s in reversed(statements(kernel.body)):
        if isinstance(s, Loop) or not (isinstance(s, Store) or s.name in found):
            continue
        if not isinstance(s, Store) and s.name in aliases:
            found.add(aliases[s.name])
        elif not (isinstance(s, Load) and s.name in padded):
            found.update(reads(s))
    return found
