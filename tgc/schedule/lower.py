"""One kernel's values, pulled from its roots.

Lowering asks for a node's value at an index, one quasi-affine `Index` per dimension over the kernel's axes. A `Map`
asks its arguments at the same index, a `View` at the moved index, a `Fold` introduces axes for the dimensions it
reduces, and whatever already lies in memory becomes a `Load`. Every kind of fusion is this one walk: what it reaches
before memory is fused.

A fold met on the way is computed in place if the program that needs it holds its whole operand: its kept and reduced
axes must be all the axes of the kernel. Otherwise the walk stops with `Cut`: the partitioner then places that fold
in memory and tries again.

The result is flat: statements over whole axes, not yet tiled (see tiling.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tgc.errors import UnsupportedOpError
from tgc.ir import dtypes
from tgc.ir import nodes as n
from tgc.ir.dtypes import DType
from tgc.ir.nodes import Fold, Leaf, Map, Node, Put, Take, View
from tgc.ir.sizes import Dim, product
from tgc.kernel.ir import (
    Buffer,
    Const,
    Gathered,
    Index,
    Iota,
    Load,
    Op,
    Operand,
    Program,
    Quotient,
    Reduce,
    Remainder,
    Statement,
    Store,
)
from tgc.kernel.walk import gathers
from tgc.schedule import indexing as ix
from tgc.schedule.contraction import contraction
from tgc.schedule.facts import Facts
from tgc.schedule.picking import pick_gathered
from tgc.schedule.target import Target

SHORT = 16  # a column this short is folded by one program
AXIS_NAMES = {1: ("i",), 2: ("r", "c")}
MORE_NAMES = tuple("ijklmopqstuv")


class Cut(Exception):
    """The fold `node` cannot be computed inside the kernel that wants it."""

    def __init__(self, node: Node) -> None:
        super().__init__(repr(node))
        self.node = node


class Conflict(Exception):
    """Two roots do not fit in one kernel."""


@dataclass(frozen=True)
class Placed:
    """Where a node's value lies in memory. `partials`: how many partial results must still be folded, if any."""

    buffer: Buffer
    partials: Dim | None = None


@dataclass(frozen=True)
class Root:
    """What a kernel stores: the value of `node`, or the partial folds of it over the split axis."""

    node: Node
    partial: bool = False


@dataclass(frozen=True)
class InlineFold:
    """A fold computed in the kernel: the axes that index its result and those it reduces."""

    node: Node
    kept: frozenset[str]
    reduced: frozenset[str]


@dataclass
class Flat:
    """An untiled kernel: statements over whole axes.

    `partials`: folds over the split axis, each with its store, whose index lacks the program's number.
    `inline`: the folds computed in place.
    """

    axes: dict[str, Dim]
    body: list[Statement]
    stores: list[Store]
    partials: list[tuple[Reduce, Store]] = field(default_factory=list)
    inline: list[Node] = field(default_factory=list)


@dataclass
class Lowering:
    """The state of one walk.

    `placed` says which values lie in memory, `staged` which folds do as partial results, `facts` answers questions
    about sizes, `names` are the user's.
    """

    placed: Mapping[Node, Placed]
    staged: Mapping[Node, Placed]
    facts: Facts
    target: Target
    names: Mapping[Node, str]
    axes: dict[str, Dim] = field(default_factory=dict)
    body: list[Statement] = field(default_factory=list)
    folds: list[InlineFold] = field(default_factory=list)
    axes_of: dict[str, frozenset[str]] = field(default_factory=dict)
    _memo: dict[object, Operand] = field(default_factory=dict)
    _own: dict[Node, tuple[Index, ...]] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    # --- roots ---

    def flat(self, roots: tuple[Root, ...], space: tuple[Dim, ...]) -> Flat:
        """Lower `roots` over the kernel axes of `space`.

        Raises:
            Cut: a fold must be placed in memory first.
            Conflict: the roots do not belong in one kernel.
        """
        self.axes = dict(zip(self._axis_names(len(space)), space, strict=True))
        for root in roots:
            if not root.partial:
                self._own[root.node] = self.place(root.node.shape, tuple(space))
        flat = Flat(self.axes, self.body, [])
        for root in roots:
            if root.partial:
                flat.partials.append(self._partial(root.node, space))
            else:
                index = self._own[root.node]
                value = self.value(root.node, index, None, own=True)
                buffer = self.placed[root.node].buffer
                flat.stores.append(Store(buffer.name, _flat_index(buffer, index), value, ()))
        flat.body = pick_gathered(self.body, self._fresh) if self.target.picks else self.body
        self._check()
        flat.inline = [f.node for f in self.folds]
        return flat

    def _axis_names(self, rank: int) -> tuple[str, ...]:
        return AXIS_NAMES.get(rank) or MORE_NAMES[:rank]

    def place(self, shape: tuple[Dim, ...], space: tuple[Dim, ...]) -> tuple[Index, ...]:
        """Match the dimensions of `shape` to kernel axes, in order: equal extents, skipping axes it lacks."""
        names = list(self.axes)[: len(space)]
        wanted = [d for d in shape if d != 1]
        if len(wanted) < len(space) and wanted == list(space[: len(wanted)]):
            chosen = names[: len(wanted)]  # a statistic of rows
        else:
            chosen, position = [], 0
            for extent in wanted:
                while position < len(space) and space[position] != extent:
                    position += 1
                if position == len(space):
                    raise Conflict
                chosen.append(names[position])
                position += 1
        axes = iter(chosen)
        return tuple(ix.ZERO if d == 1 else ix.axis(next(axes)) for d in shape)

    def _partial(self, node: Node, space: tuple[Dim, ...]) -> tuple[Reduce, Store]:
        assert isinstance(node, Fold) and isinstance(node.monoid, str)
        operand = node.args[0]
        index = self.place(operand.shape, space)
        value = self.value(operand, index, None)
        over = tuple(t for a in node.axes for t, _ in index[a].terms if isinstance(t, str))
        axes = tuple(a for a in self.axes if a not in over and a in self._operand_axes(value))
        fold = Reduce(
            self._name(node, "partial"), node.monoid, value, over, node.dtype, axes, node.line
        )
        buffer, where = self.staged[node].buffer, ix.ZERO
        kept = (i for k, i in enumerate(index) if k not in node.axes)
        for i, stride in zip(kept, buffer.strides[1:], strict=True):
            where = ix.add(where, ix.scale(i, stride))
        everywhere = {t for t, _ in where.terms if isinstance(t, str)}.union(axes)
        stored = tuple(a for a in self.axes if a in everywhere)
        return fold, Store(buffer.name, where, fold.name, stored)

    def _check(self) -> None:
        """Every fold in place must see all of the kernel's axes, and all must reduce the same ones."""
        everything = frozenset(self.axes)
        for fold in self.folds:
            if not everything <= fold.kept | fold.reduced:
                raise Cut(fold.node)
        inner = [f for f in self.folds if f.reduced]
        for fold in inner[1:]:
            if fold.reduced != inner[0].reduced:
                raise Cut(fold.node)  # the outer of two nested folds, since arguments come first

    # --- values ---

    def value(
        self, node: Node, index: tuple[Index, ...], mask: str | None, *, own: bool = False
    ) -> Operand:
        """The value of `node` at `index`, where `mask` holds."""
        key = (node, index, mask)
        if key not in self._memo:
            self._memo[key] = self._compute(node, index, mask, own)
        return self._memo[key]

    def _compute(
        self, node: Node, index: tuple[Index, ...], mask: str | None, own: bool
    ) -> Operand:
        if node in self._own and not own and not (index == self._own[node] and mask is None):
            raise Conflict
        if 0 in node.shape and mask is None and not any(map(gathers, index)):
            # Nothing asks for it, but a load would read: its index may have lost the axis without elements.
            return Const(False if node.dtype is dtypes.bool_ else 0, node.dtype)
        if node in self.placed and node not in self._own:
            return self._load(node, index, mask)
        if node in self.staged:
            return self._finish(node, self.staged[node], index)
        if isinstance(node, Leaf):
            return self._leaf(node, index)
        if isinstance(node, Map):
            args = tuple(self.value(a, index, mask) for a in node.args)
            return self._op(node.op, args, node.dtype, node)
        if isinstance(node, View):
            return self._view(node, index, mask)
        if isinstance(node, Fold):
            return self._fold(node, index, mask)
        if isinstance(node, Take):
            at = self._position(node, self.value(node.args[1], index, mask), mask)
            inner = (*index[: node.axis], at, *index[node.axis + 1 :])
            return self.value(node.args[0], inner, mask)
        raise UnsupportedOpError(
            "a scatter (the gradient of a gather with several indices per row) is not compiled yet"
            if isinstance(node, Put)
            else f"{type(node).__name__.lower()} is not compiled yet",
            line=node.line,
            hint="gather with one index per row, or move this step out of the compiled function",
        )

    def _position(self, node: Take, where: Operand, mask: str | None) -> Index:
        """Where a gather reads along its axis; what the mask leaves out is not asked whether it is inside."""
        if isinstance(where, Const):
            return Index((), where.value)  # type: ignore[arg-type]
        if mask is not None:
            dtype = node.args[1].dtype
            where = self._op("where", (mask, where, Const(0, dtype)), dtype)
        return ix.gathered(where, node.args[0].shape[node.axis], node.line)

    def _leaf(self, node: Leaf, index: tuple[Index, ...]) -> Operand:
        if isinstance(node.source, n.Const):
            return Const(node.source.value, node.dtype)
        assert isinstance(node.source, n.Iota)
        return self._iota(index[node.source.axis], node.dtype)

    def _iota(self, index: Index, dtype: DType) -> Operand:
        if not index.terms:
            return Const(index.offset, dtype)
        key = ("iota", index, dtype)
        if key not in self._memo:
            name = self._fresh("at")
            self._emit(Iota(name, index, dtype, self._ordered(self._index_axes(index))), name)
            self._memo[key] = name
        return self._memo[key]

    def _load(self, node: Node, index: tuple[Index, ...], mask: str | None) -> Operand:
        placed = self.placed[node]
        flat = _flat_index(placed.buffer, index)
        key = ("load", placed.buffer.name, flat, mask)
        if key not in self._memo:
            name = self._name(node, f"{placed.buffer.name}_value")
            axes = self._index_axes(flat) | (self.axes_of[mask] if mask else frozenset())
            self._emit(
                Load(name, placed.buffer.name, flat, node.dtype, self._ordered(axes), mask), name
            )
            self._memo[key] = name
        return self._memo[key]

    def _finish(self, node: Node, placed: Placed, index: tuple[Index, ...]) -> Operand:
        """The fold of a fold's partial results, which lie along a leading dimension of the buffer."""
        assert (
            isinstance(node, Fold) and isinstance(node.monoid, str) and placed.partials is not None
        )
        kept = self._plain_axes(node, index)
        name = self._new_axis("p", placed.partials, kept)
        flat = _flat_index(placed.buffer, (ix.axis(name), *index))
        load = self._fresh(f"{placed.buffer.name}_value")
        axes = self._ordered(self._index_axes(flat))
        self._emit(Load(load, placed.buffer.name, flat, node.dtype, axes), load)
        return self._reduce(node, load, kept, frozenset({name}))

    def _op(
        self, op: str, args: tuple[Operand, ...], dtype: DType, node: Node | None = None
    ) -> str:
        key = ("op", op, args, dtype)
        found = self._memo.get(key)
        if isinstance(found, str):
            return found
        name = self._name(node, op) if node is not None else self._fresh(op)
        axes = frozenset().union(*(self._operand_axes(a) for a in args))
        self._emit(
            Op(name, op, args, dtype, self._ordered(axes), node.line if node is not None else None),
            name,
        )
        self._memo[key] = name
        return name

    def _view(self, node: View, index: tuple[Index, ...], mask: str | None) -> Operand:
        operand = node.args[0]
        inner, conditions = ix.pull(node.movement, index, operand.shape, self.axes)
        if not conditions:
            return self.value(operand, inner, mask)
        here = self._condition(conditions)
        both = here if mask is None else self._op("and", (here, mask), dtypes.bool_)
        value = self.value(operand, inner, both)
        return self._op("where", (here, value, Const(0, node.dtype)), node.dtype, node)

    def _condition(self, conditions: tuple[ix.Condition, ...]) -> str:
        """A bool value: whether an index lies inside a padded operand."""
        result: str | None = None
        for c in conditions:
            at = self._iota(c.index, dtypes.int64)
            tests = [("ge", at, c.low), ("lt", at, c.high)]
            if c.step > 1:
                off = self._iota(
                    ix.remainder(ix.shift(c.index, -1 * c.low), c.step, self.axes), dtypes.int64
                )
                tests.append(("eq", off, 0))
            for op, left, bound in tests:
                if op == "ge" and bound == 0:
                    continue
                test = self._op(op, (left, Const(bound, dtypes.int64)), dtypes.bool_)
                result = test if result is None else self._op("and", (result, test), dtypes.bool_)
        assert result is not None
        return result

    # --- folds ---

    def _fold(self, node: Fold, index: tuple[Index, ...], mask: str | None) -> Operand:
        if node.mode != "reduce" or not isinstance(node.monoid, str):
            raise UnsupportedOpError(
                f"a {node.mode} along an axis is not compiled yet",
                line=node.line,
                hint="compute it outside the compiled function and pass the result as an argument",
            )
        if mask is not None or contraction(node) is not None:
            raise Cut(node)
        kept = self._plain_axes(node, index)
        operand, remaining = node.args[0], iter(index)
        reduced: list[str] = []
        inner: list[Index] = []
        for k, extent in enumerate(operand.shape):
            if k not in node.axes:
                inner.append(next(remaining))
            elif extent == 1:
                inner.append(ix.ZERO)
            else:
                name = self._reuse_axis(extent, kept | frozenset(reduced))
                reduced.append(name)
                inner.append(ix.axis(name))
        if not self._holds(node, kept, reduced):
            raise Cut(node)
        value = self.value(operand, tuple(inner), None)
        return self._reduce(node, value, kept, frozenset(reduced))

    def _holds(self, node: Fold, kept: frozenset[str], reduced: list[str]) -> bool:
        """Whether one program may hold, or loop over, everything this fold reads."""
        extent = product([self.axes[a] for a in reduced])
        if not any(self.axes[a] != 1 for a in kept):
            if row_folds_below(node.args[0], self.placed, self.staged):
                return False
            return self.facts.at_most(extent, self.target.whole)
        last = max((k for k, d in enumerate(node.args[0].shape) if d != 1), default=-1)
        return last in node.axes or self.facts.at_most(extent, SHORT)

    def _reduce(
        self, node: Fold, value: Operand, kept: frozenset[str], reduced: frozenset[str]
    ) -> Operand:
        assert isinstance(node.monoid, str)
        self.folds.append(InlineFold(node, kept, reduced))
        name = self._name(node, node.monoid)
        axes = self._ordered(self._operand_axes(value) - reduced)
        self._emit(
            Reduce(name, node.monoid, value, self._ordered(reduced), node.dtype, axes, node.line),
            name,
        )
        return name

    def _plain_axes(self, node: Node, index: tuple[Index, ...]) -> frozenset[str]:
        """The axes of an index that is one axis, or zero, per dimension."""
        found: list[str] = []
        for i in index:
            if i == ix.ZERO:
                continue
            if (
                len(i.terms) != 1
                or i.offset != 0
                or i.terms[0][1] != 1
                or not isinstance(i.terms[0][0], str)
            ):
                raise Cut(node)
            found.append(i.terms[0][0])
        return frozenset(found)

    def _reuse_axis(self, extent: Dim, used: frozenset[str]) -> str:
        for name, size in reversed(self.axes.items()):
            if size == extent and name not in used:
                return name
        return self._new_axis("k", extent, used)

    def _new_axis(self, stem: str, extent: Dim, used: frozenset[str]) -> str:
        for name, size in self.axes.items():
            if name.startswith(stem) and size == extent and name not in used:
                return name
        taken = set(self.axes)
        name = next(c for c in (stem, *(f"{stem}{k}" for k in range(99))) if c not in taken)
        self.axes[name] = extent
        return name

    # --- names and axes ---

    def _emit(self, statement: Statement, name: str) -> None:
        self.body.append(statement)
        self.axes_of[name] = frozenset(statement.axes)  # type: ignore[union-attr]

    def _operand_axes(self, operand: Operand) -> frozenset[str]:
        return frozenset() if isinstance(operand, Const) else self.axes_of[operand]

    def _ordered(self, axes: frozenset[str]) -> tuple[str, ...]:
        return tuple(a for a in self.axes if a in axes)

    def _index_axes(self, index: Index) -> frozenset[str]:
        return frozenset().union(*(self._term_axes(t) for t, _ in index.terms))

    def _term_axes(self, term: object) -> frozenset[str]:
        if isinstance(term, str):
            return frozenset({term})
        if isinstance(term, Gathered):
            return self.axes_of[term.value]
        if isinstance(term, Quotient | Remainder):
            return self._index_axes(term.index)
        assert isinstance(term, Program)
        return frozenset()

    def _name(self, node: Node | None, fallback: str) -> str:
        return self._fresh(self.names.get(node, fallback) if node is not None else fallback)

    def _fresh(self, stem: str) -> str:
        buffers = {p.buffer.name for where in (self.placed, self.staged) for p in where.values()}
        for k in range(10**6):
            name = stem if k == 0 else f"{stem}_{k}"
            if name not in self._taken and name not in buffers and name not in self.axes:
                self._taken.add(name)
                return name
        raise AssertionError


def _flat_index(buffer: Buffer, index: tuple[Index, ...]) -> Index:
    total = ix.ZERO
    for i, stride in zip(index, buffer.strides, strict=True):
        total = ix.add(total, ix.scale(i, stride))
    return total


def row_folds_below(
    node: Node, placed: Mapping[Node, Placed], staged: Mapping[Node, Placed]
) -> bool:
    """Whether a fold to more than one value lies on the way to `node`, as the kernel before it or inside its own.

    Its kernel holds the rows: what follows them is folded there, and only the partial results are read again.
    """
    stack, seen = [node], set[Node]()
    while stack:
        node = stack.pop()
        is_fold = isinstance(node, Fold) and contraction(node) is None
        if node in seen or node in staged or (node in placed and not is_fold):
            continue
        if is_fold and any(d != 1 for d in node.shape):
            return True
        seen.add(node)
        stack += node.args
    return False
