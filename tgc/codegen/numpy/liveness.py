"""Which values live where: last uses, values that go straight to their store, and sums of products.

Statements are numbered in order, a loop having a number for its head and one for its end. A value from before a loop
that the loop uses lives to the loop's end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tgc.ir.dtypes import DType
from tgc.kernel.ir import (
    Kernel,
    Load,
    Loop,
    Op,
    Statement,
    Store,
)
from tgc.kernel.walk import reads


@dataclass
class Value:
    """What is known of a named value: where it is made, by what, and its last use."""

    dtype: DType
    axes: tuple[str, ...]
    made: int
    loops: tuple[int, ...]  # numbers of the loops around it
    by: Statement
    last: int = -1
    uses: int = 0


@dataclass
class Liveness:
    """The values of a kernel, the ends of its loops by number, and the stores that are written early."""

    values: dict[str, Value] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)  # id(statement) -> number
    folds: dict[str, int] = field(
        default_factory=dict
    )  # name of a loop's fold -> number of the loop
    direct: dict[str, Store] = field(default_factory=dict)


def analyse(kernel: Kernel, may_write_early: Callable[[Store, Value], bool]) -> Liveness:
    """Number the statements of a kernel and follow its values.

    Args:
        may_write_early: whether a store's target can hold its value from the moment it is made.
    """
    live = Liveness()
    placed: list[tuple[Statement, int, tuple[int, ...]]] = []
    _number(kernel.body, live, placed, (), 0)
    for s, number, loops in placed:
        if not isinstance(s, Store | Loop):
            live.values[s.name] = Value(s.dtype, s.axes, number, loops, s)
    for s, number, loops in placed:
        for name in reads(s):
            _use(live, live.values[name], number, loops)
    loaded = {s.buffer for s, _, _ in placed if isinstance(s, Load)}
    for s, _, loops in placed:
        if isinstance(s, Store) and isinstance(s.value, str) and s.buffer not in loaded:
            value = live.values[s.value]
            if s.value in live.direct or value.loops != loops:
                continue
            if _is_free(live, kernel, s.buffer, value) and may_write_early(s, value):
                live.direct[s.value] = s
    return live


def last_read(live: Liveness, buffer: str | None) -> int:
    """The number of the last use of what is loaded from a buffer, -1 if nothing is."""
    loads = (v for v in live.values.values() if isinstance(v.by, Load) and v.by.buffer == buffer)
    return max((v.last for v in loads), default=-1)


def _reads_in_place(value: Value) -> bool:
    """Whether what makes a value may read an operand from the array it writes: ufuncs do, copies in turn do not."""
    return isinstance(value.by, Op) and value.by.op not in ("where", "cast")


def _is_free(live: Liveness, kernel: Kernel, buffer: str, value: Value) -> bool:
    """Whether nothing that lies where an output is stored is still wanted when its value is made."""
    last = last_read(live, kernel.buffer(buffer).alias)
    return last < value.made or (last == value.made and _reads_in_place(value))


def _number(
    body: tuple[Statement, ...],
    live: Liveness,
    placed: list[tuple[Statement, int, tuple[int, ...]]],
    loops: tuple[int, ...],
    number: int,
) -> int:
    for s in body:
        live.numbers[id(s)] = number
        if isinstance(s, Loop):
            end = _number(s.body, live, placed, (*loops, number), number + 1)
            live.ends[number] = end
            placed += [(fold, end, loops) for fold in s.folds]
            live.folds.update({fold.name: number for fold in s.folds})
            number = end
        else:
            placed.append((s, number, loops))
        number += 1
    return number


def _use(live: Liveness, value: Value, number: int, loops: tuple[int, ...]) -> None:
    """A use inside a loop that the value is older than lasts to the end of that loop."""
    inner = loops[len(value.loops) :]
    value.uses += 1
    value.last = max(value.last, live.ends[inner[0]] if inner else number)
