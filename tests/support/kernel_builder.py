"""Write kernels by hand, for tests: axes and dtypes of statements follow from their operands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgc.errors import Line
from tgc.ir import dtypes
from tgc.ir.build import result_dtype
from tgc.ir.dtypes import DType
from tgc.ir.ops import OPS
from tgc.ir.sizes import Dim, Size, row_major
from tgc.kernel.ir import (
    Axis,
    Buffer,
    Const,
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

Number = bool | int | float | Size


def buffer(name: str, dtype: DType, shape: Sequence[Dim], role: str = "in") -> Buffer:
    """A contiguous buffer."""
    return Buffer(name, dtype, tuple(shape), row_major(tuple(shape)), role)


def index(*terms: tuple[Term, Dim], offset: Dim = 0) -> Index:
    """`index(("r", m), ("c", 1))` is r*m + c."""
    return Index(tuple(terms), offset)


class KernelBuilder:
    """Collects statements; `loop` opens a Loop, `end` closes it with its folds."""

    def __init__(self, name: str, axes: Sequence[Axis], buffers: Sequence[Buffer]) -> None:
        self.name, self.axes, self.buffers = name, tuple(axes), tuple(buffers)
        self.types: dict[str, tuple[DType, tuple[str, ...]]] = {}
        self.bodies: list[list[Statement]] = [[]]
        self.open: list[str] = []
        self.line: Line | None = None
        self.counter = 0

    def _name(self, name: str | None) -> str:
        self.counter += 1
        return name or f"v{self.counter - 1}"

    def _add(self, statement: Statement) -> None:
        self.bodies[-1].append(statement)

    def _order(self, axes: set[str]) -> tuple[str, ...]:
        return tuple(a.name for a in self.axes if a.name in axes)

    def _index_axes(self, where: Index) -> set[str]:
        found: set[str] = set()
        for term, _ in where.terms:
            if isinstance(term, str):
                found.add(term)
            elif isinstance(term, (Quotient, Remainder)):
                found |= self._index_axes(term.index)
            elif isinstance(term, Gathered):
                found |= set(self.types[term.value][1])
            else:
                assert isinstance(term, Program)
        return found

    def _operand_axes(self, operand: Operand) -> set[str]:
        return set() if isinstance(operand, Const) else set(self.types[operand][1])

    def load(
        self,
        source: str,
        *terms: tuple[Term, Dim],
        offset: Dim = 0,
        mask: str | None = None,
        fill: float = 0.0,
        name: str | None = None,
    ) -> str:
        where = Index(tuple(terms), offset)
        axes = self._index_axes(where) | (self._operand_axes(mask) if mask else set())
        dtype = next(b.dtype for b in self.buffers if b.name == source)
        name = self._name(name)
        self.types[name] = (dtype, self._order(axes))
        self._add(Load(name, source, where, dtype, self._order(axes), mask, fill))
        return name

    def iota(
        self,
        *terms: tuple[Term, Dim],
        offset: Dim = 0,
        dtype: DType = dtypes.int64,
        name: str | None = None,
    ) -> str:
        where, name = Index(tuple(terms), offset), self._name(name)
        axes = self._order(self._index_axes(where))
        self.types[name] = (dtype, axes)
        self._add(Iota(name, where, dtype, axes))
        return name

    def op(
        self, op: str, *args: str | Number, dtype: DType | None = None, name: str | None = None
    ) -> str:
        """Numbers become constants of the other operands' dtype."""
        values = args[1:] if op == "where" else args
        known = next(
            (self.types[a][0] for a in values if isinstance(a, str)), dtype or dtypes.float32
        )
        operands: tuple[Operand, ...] = tuple(
            a if isinstance(a, str) else Const(a, known) for a in args
        )
        axes = self._order(set().union(*(self._operand_axes(a) for a in operands)))
        result = dtype if op == "cast" else result_dtype(OPS[op], known)
        assert result is not None
        name = self._name(name)
        self.types[name] = (result, axes)
        self._add(Op(name, op, operands, result, axes, self.line))
        return name

    def _reduce(self, monoid: str, value: str, over: tuple[str, ...], name: str | None) -> Reduce:
        dtype, axes = self.types[value]
        name, rest = self._name(name), tuple(a for a in axes if a not in over)
        self.types[name] = (dtype, rest)
        return Reduce(name, monoid, value, over, dtype, rest, self.line)

    def reduce(self, monoid: str, value: str, *over: str, name: str | None = None) -> str:
        statement = self._reduce(monoid, value, over, name)
        self._add(statement)
        return statement.name

    def store(
        self, target: str, value: str | Const, *terms: tuple[Term, Dim], offset: Dim = 0
    ) -> None:
        where = Index(tuple(terms), offset)
        axes = self._index_axes(where) | self._operand_axes(value)
        self._add(Store(target, where, value, self._order(axes)))

    def loop(self, axis: str) -> None:
        self.open.append(axis)
        self.bodies.append([])

    def end(self, *folds: tuple[Any, ...]) -> tuple[str, ...]:
        """Each fold is (monoid, value, over..., name)."""
        made = tuple(self._reduce(f[0], f[1], tuple(f[2:-1]), f[-1]) for f in folds)
        body = tuple(self.bodies.pop())
        self._add(Loop(self.open.pop(), body, made))
        return tuple(r.name for r in made)

    def build(self, sizes: Sequence[str], *formula: str) -> Kernel:
        assert len(self.bodies) == 1, "a loop is open"
        return Kernel(
            self.name, self.axes, self.buffers, tuple(sizes), tuple(self.bodies[0]), tuple(formula)
        )
