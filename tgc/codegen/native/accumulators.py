"""What the folds of a kernel have taken in so far.

A fold has a register, or one in each lane of a vector; or an array in scratch, where there is one fold for each
element of an axis. A sum rounds with each value that it takes in, by half a unit of what it has become. So a long sum
is taken in chunks: when one is full, it goes to a total of float64, and the sum starts again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tgc.codegen.native.folds import merge, reduction, start
from tgc.codegen.native.instructions import cast, constant, instruction, spread
from tgc.codegen.native.llvm import Value, register_type, suffix, vector
from tgc.codegen.native.nest import Step
from tgc.codegen.native.scratch import Scratch
from tgc.ir import dtypes
from tgc.ir.dtypes import DType
from tgc.kernel.ir import Reduce

CHAIN = 128
"""So many values follow each other into a sum before it goes to its total."""

Registers = dict[str, tuple[str, int]]
"""A pointer and a number of lanes by the name of a fold; LLVM's first pass makes a register of it."""


@dataclass
class Accumulators:
    """Writes folds into a function. `rows`: sums that are on their way through several rows."""

    scratch: Scratch
    registers: Registers = field(default_factory=dict)
    rows: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.f, self.addresses = self.scratch.addresses.f, self.scratch.addresses

    def start(self, step: Step, lanes: int) -> None:
        """Nothing is taken in yet."""
        fold, first = step.fold, start(step.fold)
        if step.array:
            self.scratch.make(fold.name, fold.dtype, step.array)
            self.scratch.fill(fold.name, first)
            return
        self.registers[fold.name] = self._register(f"{fold.name}.sum", first, lanes)

    def take(self, step: Step, value: Value, mask: Value | None) -> None:
        """Take in the lanes of a value that `mask` has."""
        fold, f = step.fold, self.f
        if fold.name in self.rows:
            old = self.rows[fold.name]
            self.rows[fold.name] = merge(f, fold, old, spread(f, value, old.lanes))
            return
        if step.array:
            where = self.scratch.at(fold.name)
            old = self.addresses.load("sum", where, mask)
            new = merge(f, fold, old, spread(f, value, where.lanes))
            self.addresses.store(where, new, mask)
            return
        pointer, lanes = self.registers[fold.name]
        value = spread(f, value, lanes)
        if mask is not None:
            none = spread(f, start(fold), lanes)
            value = instruction(f, "present", "where", [mask, value, none], value.dtype)
        old = self._load("sum", (pointer, lanes), fold.dtype)
        f.do(f"store {merge(f, fold, old, value)}, ptr {pointer}")

    def merge(self, folds: Sequence[Reduce], into: Registers, other: Registers) -> None:
        """Take what others have taken in."""
        for fold in folds:
            old, new = (self._load("sum", at[fold.name], fold.dtype) for at in (into, other))
            self.f.do(f"store {merge(self.f, fold, old, new)}, ptr {into[fold.name][0]}")

    def value(self, fold: Reduce, *, across: bool) -> Value:
        """The value of a fold; `across`: its lanes are partial folds."""
        scalar, f = register_type(fold.dtype), self.f
        total = self._load(f"{fold.name}.lanes", self.registers[fold.name], fold.dtype)
        if not across:
            return total
        name = f"llvm.vector.reduce.{reduction(fold)}.{suffix(scalar, total.lanes)}"
        if fold.monoid in ("sum", "prod") and fold.dtype.is_float:
            f.declared.add(f"declare {scalar} @{name}({scalar}, {total.type})")
            first = "-0.0" if fold.monoid == "sum" else "1.0"  # each leaves any number as it is
            call = f"call reassoc {scalar} @{name}({scalar} {first}, {total})"
            return Value(f.put(fold.name, call), fold.dtype)
        if fold.dtype.is_float:  # nsz: see `order`
            f.declared.add(f"declare {scalar} @{name}({total.type})")
            call = f"call nsz {scalar} @{name}({total})"
            return Value(f.put(fold.name, call), fold.dtype)
        return Value(f.call(fold.name, scalar, name, str(total)), fold.dtype)

    # --- totals -----------------------------------------------------------------------------------------------------

    @contextmanager
    def chunks(
        self,
        folds: Sequence[Step],
        axis: str,
        low: str,
        high: str,
        chunk: int,
        parts: Sequence[Registers],
    ) -> Iterator[tuple[str, str]]:
        """Run what is written inside for each chunk of a range, from where to where it is told.

        All is as without chunks where there is only one. `parts`: the registers that are in use inside, the first
        those that take the total.
        """
        f = self.f
        sums = [s for s in folds if s.fold.monoid == "sum" and s.fold.dtype.is_float]
        if not sums or self._is_short(axis, chunk):
            yield low, high
            return
        end = f.put("end", f"add nsw i64 {low}, {chunk}")
        many = f.put("many", f"icmp slt i64 {end}, {high}")
        totals = {s.fold.name: self._start_total(s) for s in sums if not s.array}
        if arrays := [s for s in sums if s.array]:
            with f.when(many, f"{axis}.totals"):
                for s in arrays:
                    self.scratch.make(_total(s), dtypes.float64, s.array)
                    self.scratch.fill(_total(s), constant(0.0, dtypes.float64))
        with f.loop(f"{axis}.chunk", low, high, chunk) as here:
            end = f.put("end", f"add nsw i64 {here}, {chunk}")
            yield here, f.call("end", "i64", "llvm.smin.i64", f"i64 {end}", f"i64 {high}")
            more = f.put("more", f"icmp slt i64 {end}, {high}")
            with f.when(more, f"{axis}.full"):
                for s in sums:
                    self._to_total(s, totals, parts)
        with f.when(many, f"{axis}.all"):
            for s in sums:
                self._from_total(s, totals, parts[0])

    def _is_short(self, axis: str, chunk: int) -> bool:
        """Whether a program has at most one chunk of an axis."""
        found = self.scratch.kernel.axis(axis)
        length = found.split or found.extent
        return isinstance(length, int) and length <= chunk

    def _start_total(self, step: Step) -> tuple[str, int]:
        _, lanes = self.registers[step.fold.name]
        return self._register(_total(step), constant(0.0, dtypes.float64), lanes)

    def _to_total(self, step: Step, totals: Registers, parts: Sequence[Registers]) -> None:
        fold = step.fold
        if step.array:
            self.scratch.move(fold.name, _total(step))
            return
        for other in parts[1:]:
            self.merge([fold], parts[0], other)
        self.f.do(f"store {self._both(fold, totals, parts[0])}, ptr {totals[fold.name][0]}")
        for part in parts:
            pointer, lanes = part[fold.name]
            self.f.do(f"store {spread(self.f, start(fold), lanes)}, ptr {pointer}")

    def _from_total(self, step: Step, totals: Registers, part: Registers) -> None:
        fold = step.fold
        if step.array:
            self.scratch.move(fold.name, _total(step), back=True)
            return
        all_ = cast(self.f, fold.name, self._both(fold, totals, part), fold.dtype)
        self.f.do(f"store {all_}, ptr {part[fold.name][0]}")

    def _both(self, fold: Reduce, totals: Registers, part: Registers) -> Value:
        f = self.f
        own = cast(f, "part", self._load("part", part[fold.name], fold.dtype), dtypes.float64)
        total = self._load("total", totals[fold.name], dtypes.float64)
        return instruction(f, "total", "add", [total, own], dtypes.float64)

    # --- registers --------------------------------------------------------------------------------------------------

    def _register(self, stem: str, first: Value, lanes: int) -> tuple[str, int]:
        kind = vector(first.scalar, lanes)
        pointer = self.f.put(stem, f"alloca {kind}", once=True)
        self.f.do(f"store {spread(self.f, first, lanes)}, ptr {pointer}")
        return pointer, lanes

    def _load(self, stem: str, register: tuple[str, int], dtype: DType) -> Value:
        pointer, lanes = register
        kind = vector(register_type(dtype), lanes)
        return Value(self.f.put(stem, f"load {kind}, ptr {pointer}"), dtype, lanes)


def _total(step: Step) -> str:
    return f"{step.fold.name}.total"
