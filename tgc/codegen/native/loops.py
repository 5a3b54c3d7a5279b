"""How a loop of `nest` is run: whether vectors lie along it, and how many of its elements one turn takes."""

from __future__ import annotations

from collections.abc import Sequence

from tgc.codegen.native.nest import For, Item, Keep, Recall, Step, spans
from tgc.ir.ops import OPS
from tgc.kernel.ir import Iota, Load, Op, Store
from tgc.kernel.walk import index_axes

ROWS = 8
"""Rows a column sum adds at once: it reads and writes its sums that much less, and memory in more streams."""
PIECES = 4
"""Parts of a long fold that are read in turn: as many chains of additions, and streams from memory."""
BODY = 32
"""At most so many statements are written out together, of rows or of pieces."""


def takes_vectors(loop: For) -> bool:
    """Whether vectors lie along this loop rather than along those inside it.

    The innermost is the one memory favours. But where it steps through memory in strides that the loop around it has
    not, and leaves nothing in scratch, the one around is better: what the innermost reads are then scalars.
    """
    inner = [i for i in loop.items if isinstance(i, For)]
    if not inner:
        return True
    items = [i for f in inner for i in f.items]
    if any(isinstance(i, For | Keep | Recall) or (isinstance(i, Step) and i.array) for i in items):
        return False
    if any(step.array for f in inner for step in f.folds):
        return False
    within = sum(_strides(i, f.axis) for f in inner for i in f.items)
    around = sum(_strides(i, loop.axis) for i in items)
    return around < within


def _strides(item: Item, axis: str) -> bool:
    """Whether a load or store leaves gaps along an axis."""
    if not isinstance(item, Load | Store):
        return False
    direct = [c for t, c in item.index.terms if t == axis]
    return direct != [] and direct != [1] or axis in index_axes(item.index) and not direct


def inside(loop: For) -> list[Item]:
    return [x for i in loop.items for x in (inside(i) if isinstance(i, For) else [i])]


def rows_at_once(loop: For) -> int:
    """How many elements of a loop share a turn of the loop inside it, a power of two.

    For sums along the loop, one for each element of the one inside: they need to be read and written once for all.
    """
    *alone, columns = loop.items
    if not isinstance(columns, For) or columns.folds or not takes_vectors(columns):
        return 1
    if any(not isinstance(i, Load | Iota | Op) for i in alone) or takes_vectors(loop):
        return 1
    if any(isinstance(i, For | Keep | Recall) for i in columns.items):
        return 1
    folds = [i.fold for i in columns.items if isinstance(i, Step)]
    if not folds or any(fold.over != (loop.axis,) for fold in folds):
        return 1
    return _as_fit(ROWS, [i for i in columns.items if loop.axis in spans(i)], BODY)


def pieces(loop: For) -> int:
    """How many pieces of a loop of vectors share its turns, a power of two: for folds with little to do between."""
    if not loop.folds or any(step.array for step in loop.folds):
        return 1
    if any(isinstance(i, For) for i in loop.items):
        return 1
    return _as_fit(PIECES, loop.items, BODY // 2)


def _as_fit(count: int, items: Sequence[Item], most: int) -> int:
    """`count`, or the power of two below that leaves `most` statements at most."""
    while count > 1 and count * sum(map(_size, items)) > most:
        count //= 2
    return count


def _size(item: Item) -> int:
    return max(1, OPS[item.op].cost) if isinstance(item, Op) else 1
