"""Walking kernels: their statements, what each reads, and what an index is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tgc.ir.sizes import Dim, cdiv, product
from tgc.kernel.ir import (
    Gathered,
    Index,
    Iota,
    Kernel,
    Load,
    Loop,
    Op,
    Operand,
    Program,
    Quotient,
    Reduce,
    Remainder,
    Statement,
    Store,
    Term,
)


def statements(body: Iterable[Statement]) -> list[Statement]:
    """Each statement, a loop before those inside it; its folds are its own."""
    return [s for s, _ in in_loops(body)]


def in_loops(
    body: Iterable[Statement], loops: tuple[str, ...] = ()
) -> Iterator[tuple[Statement, tuple[str, ...]]]:
    """Each statement with the axes of the loops around it; a loop comes before those inside it."""
    for s in body:
        yield s, loops
        if isinstance(s, Loop):
            yield from in_loops(s.body, (*loops, s.axis))


def everything(body: Iterable[Statement]) -> Iterator[Statement]:
    """Each statement, the folds of a loop behind those inside it: in the order of the text."""
    for s in body:
        yield s
        if isinstance(s, Loop):
            yield from everything(s.body)
            yield from s.folds


def operands(s: Statement) -> tuple[Operand, ...]:
    """What a statement computes with or stores."""
    if isinstance(s, Op):
        return s.args
    return (s.value,) if isinstance(s, Reduce | Store) else ()


def reads(s: Statement) -> tuple[str, ...]:
    """The values a statement reads; of a loop what all that is in it reads."""
    if isinstance(s, Loop):
        return tuple(v for inner in (*s.body, *s.folds) for v in reads(inner))
    found = gathered(s.index) if isinstance(s, Load | Iota | Store) else []
    if isinstance(s, Load) and s.mask is not None:
        found.append(s.mask)
    return (*found, *(v for v in operands(s) if isinstance(v, str)))


def loaded(body: Iterable[Statement]) -> set[str]:
    """The buffers that statements read."""
    return {s.buffer for s in statements(body) if isinstance(s, Load)}


def stored(body: Iterable[Statement]) -> set[str]:
    """The buffers that statements write."""
    return {s.buffer for s in statements(body) if isinstance(s, Store)}


def terms(index: Index) -> Iterator[Term]:
    """The terms of an index, those inside quotients and remainders included."""
    for term, _ in index.terms:
        yield term
        if isinstance(term, Quotient | Remainder):
            yield from terms(term.index)


def index_axes(index: Index) -> set[str]:
    """The axes an index mentions by themselves."""
    return {t for t in terms(index) if isinstance(t, str)}


def index_programs(index: Index) -> set[str]:
    """The axes whose program number an index mentions."""
    return {t.axis for t in terms(index) if isinstance(t, Program)}


def gathers(index: Index) -> list[Gathered]:
    """The values an index mentions, with what they count along."""
    return [t for t in terms(index) if isinstance(t, Gathered)]


def gathered(index: Index) -> list[str]:
    """The values an index mentions."""
    return [t.value for t in gathers(index)]


def outer_axes(kernel: Kernel) -> tuple[str, ...]:
    """The axes programs lie along."""
    return tuple(a.name for a in kernel.axes if a.kind == "grid" or a.split is not None)


def executions(kernel: Kernel, axes: tuple[str, ...], loops: tuple[str, ...]) -> Dim:
    """How many elements a statement over `axes` handles in all, in the loops `loops`.

    Along an axis it lacks, it is repeated: by each program, and by each turn of a loop around it.
    """
    total = product([kernel.axis(a).extent for a in axes])
    for axis in kernel.axes:
        if axis.name in axes:
            continue
        if axis.kind == "grid" or axis.split is not None:
            total = total * axis.programs
        if axis.name in loops:
            total = total * cdiv(axis.extent if axis.split is None else axis.split, axis.block or 1)
    return total


def accesses(kernel: Kernel) -> Iterator[tuple[Load | Store, tuple[str, ...]]]:
    """Every load and store with the loops around it."""
    for s, loops in in_loops(kernel.body):
        if isinstance(s, Load | Store):
            yield s, loops


def may_overwrite(kernel: Kernel, given: str, output: str) -> bool:
    """Whether a kernel may store `output` where `given` lies: a map that reads only the elements it then overwrites."""
    if not all(isinstance(s, Load | Iota | Op | Store) for s in kernel.body):
        return False
    stores = [s for s in kernel.body if isinstance(s, Store)]
    loads = [s for s in kernel.body if isinstance(s, Load) and s.buffer == given]
    own = [s for s in stores if s.buffer == output]
    names = {s.name for s in loads}
    if len(own) != 1 or any(s.value in names for s in stores):
        return False  # or another output is the input itself
    everywhere = {a.name for a in kernel.axes if a.extent != 1} <= set(own[0].axes)
    return everywhere and all(s.index == own[0].index and s.mask is None for s in loads)
