"""One kernel as an LLVM function: its programs in a loop, and inside it the loops of `nest`.

The innermost loops take whole vectors: `lanes` elements at once, and what is left at the end under a mask. A value
that does not vary along such a loop is a scalar register. Vectors are wider than those of the processor, so that
several independent chains of instructions are in flight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tgc.codegen.native.accumulators import CHAIN, Accumulators, Registers
from tgc.codegen.native.address import Addresses, Position, numbers
from tgc.codegen.native.bounds import Bounds
from tgc.codegen.native.instructions import (
    spread,
)
from tgc.codegen.native.llvm import Function, Value
from tgc.codegen.native.loops import inside, pieces, rows_at_once, takes_vectors
from tgc.codegen.native.nest import For, Item, Keep, Recall, Step, nest, spans
from tgc.codegen.native.scratch import VECTOR_BYTES, Scratch
from tgc.codegen.native.statements import Needed, Rows, Scope, Statements
from tgc.ir import dtypes
from tgc.ir.sizes import Dim, Size
from tgc.kernel.ir import (
    Buffer,
    Gathered,
    Iota,
    Kernel,
    Load,
    Op,
    Store,
)
from tgc.kernel.walk import gathered, statements


@dataclass(frozen=True)
class Emitted:
    """A kernel's function, the intrinsics and elementary functions it calls, and when its stores may stream.

    They may where each of `aligned`, in bytes, is a multiple of 64; `streams` are the buffers they go to.
    """

    kernel: Kernel
    name: str
    text: str
    declared: frozenset[str]
    needed: frozenset[Needed]
    aligned: tuple[Dim, ...]
    streams: tuple[Buffer, ...]
    gathers: tuple[Gathered, ...]


def emit_kernel(kernel: Kernel, name: str) -> Emitted:
    """The function `name(buffers..., sizes..., first, last)`, which runs programs first to last.

    One that gathers returns the number of something that was out of bounds: 1 for `gathers[0]`, 0 for nothing.

    Raises:
        BackendError: the kernel has something this engine cannot do.
    """
    writer = _Writer(kernel, name)
    text = writer.write()
    return Emitted(
        kernel,
        name,
        text,
        frozenset(writer.f.declared),
        frozenset(writer.body.needed),
        tuple(sorted(writer.body.aligned, key=str)),
        tuple(b for b in kernel.buffers if b.name in writer.body.streamed),
        tuple(writer.gathers.terms),
    )


@dataclass
class _Writer:
    kernel: Kernel
    name: str
    f: Function = field(default_factory=Function)
    bounds: dict[str, tuple[str, str]] = field(default_factory=dict)

    def write(self) -> str:
        f, kernel = self.f, self.kernel
        self.addresses = Addresses(f)
        parameters: list[str] = []
        pointers: dict[str, str] = {}
        shared = {b.name for b in kernel.buffers if b.alias} | {b.alias for b in kernel.buffers}
        for b in kernel.buffers:
            own = "ptr" if b.name in shared else "ptr noalias"
            kind = own if b.role != "scalar" else "double" if b.dtype.is_float else "i64"
            parameters.append(f"{kind} %{f.fresh(b.name)}")
        for name in kernel.sizes:
            parameters.append(f"i64 %{f.fresh(name)}")
            self.addresses.sizes[Size.symbol(name)] = parameters[-1].split()[-1]
        for b, parameter in zip(kernel.buffers, parameters, strict=False):
            pointers[b.name] = parameter.split()[-1]
        self.scratch = Scratch(kernel, self.addresses, self.bounds)
        self.folds = Accumulators(self.scratch)
        loads = (s for s in statements(kernel.body) if isinstance(s, Load))
        fails = any(gathered(s.index) for s in loads)
        self.gathers = Bounds(self.addresses, "")
        if fails:
            self.gathers.pointer = f.put("outside.at", "alloca i64", once=True)
            f.do(f"store i64 0, ptr {self.gathers.pointer}", once=True)
        self.body = Statements(kernel, self.addresses, self.scratch, self.gathers, pointers)
        items = nest(kernel)
        with f.loop("program", "%first", "%last") as program:
            self._place(program)
            self._items(items, Scope({}))
        result = "void"
        if fails:
            result = f"i64 {f.put('outside', f'load i64, ptr {self.gathers.pointer}')}"
        given = ", ".join([*parameters, "i64 %first", "i64 %last"])
        head = f"define {result.split()[0]} @{self.name}({given}) nounwind"
        return f.text(head, list(kernel.formula), result)

    def size(self, dim: Dim) -> str:
        return self.addresses.size(dim)

    def _place(self, program: str) -> None:
        """Where this program's part of each axis starts and ends."""
        f, axes = self.f, self.kernel.axes
        outer = [a for a in axes if a.kind == "grid" or a.split is not None]
        rest = program
        for a in reversed(outer):
            number = rest
            if a is not outer[0]:
                count = self.size(a.programs)
                number = f.put(f"{a.name}.program", f"urem i64 {rest}, {count}")
                rest = f.put("rest", f"udiv i64 {rest}, {count}")
            self.addresses.programs[a.name] = number
            step, extent = self.size(a.split or a.block or 1), self.size(a.extent)
            low = f.put(f"{a.name}.low", f"mul nsw i64 {number}, {step}")
            high = f.put(f"{a.name}.end", f"add nsw i64 {low}, {step}")
            smaller = f.call(
                f"{a.name}.high", "i64", "llvm.smin.i64", f"i64 {high}", f"i64 {extent}"
            )
            self.bounds[a.name] = (low, smaller)
        for a in axes:
            if a not in outer:
                self.bounds[a.name] = ("0", self.size(a.extent))

    # --- loops ------------------------------------------------------------------------------------------------------

    def _items(self, items: Sequence[Item], scope: Scope) -> None:
        for item in items:
            if isinstance(item, For):
                self._for(item, scope)
            else:
                self._statement(item, scope)

    def _for(self, loop: For, scope: Scope) -> None:
        lanes = self._lanes(loop) if scope.axis is None and takes_vectors(loop) else 1
        for step in loop.folds:
            self.folds.start(step, max(lanes, scope.lanes))
        low, high = self.bounds[loop.axis]
        if lanes == 1:
            count = rows_at_once(loop) if scope.axis is None else 1
            if count > 1:
                low = self._rows(loop, scope, low, high, count)
            with self._loop(loop, low, high, 1, few=count > 1) as index:
                self._turn(loop, scope, index, 1, None)
        else:
            if (count := pieces(loop)) > 1:
                low = self._pieces(loop, scope, low, high, lanes, count)
            self._vectors(loop, scope, low, high, lanes, few=count > 1)
        for step in loop.folds:
            if not step.array:
                scope.values[step.fold.name] = self.folds.value(step.fold, across=lanes > 1)

    def _vectors(
        self, loop: For, scope: Scope, low: str, high: str, lanes: int, *, few: bool
    ) -> None:
        """Whole vectors, then the rest under a mask; `few`: the others were read in pieces."""
        f, extent = self.f, self.kernel.axis(loop.axis)
        fixed = extent.extent if low == "0" and isinstance(extent.extent, int) else None
        end = self._whole(low, high, lanes) if fixed is None else str(fixed // lanes * lanes)
        if fixed is None or fixed >= lanes:
            with self._loop(loop, low, end, lanes, chunk=CHAIN * lanes, few=few) as index:
                self._turn(loop, scope, index, lanes, None)
        if fixed is not None and fixed % lanes == 0:
            return
        some = f.put("some", f"icmp slt i64 {end}, {high}")
        with f.when(some, f"{loop.axis}.rest"):
            left = f.put("left", f"sub nsw i64 {high}, {end}")
            short = f.put("short", f"trunc i64 {left} to i32")
            count = spread(f, Value(short, dtypes.int32), lanes)
            mask = f.put("mask", f"icmp slt {count.type} {numbers(lanes, 'i32')}, {count.text}")
            self._turn(loop, scope, end, lanes, Value(mask, dtypes.bool_, lanes))

    @contextmanager
    def _loop(
        self,
        loop: For,
        low: str,
        high: str,
        step: int,
        *,
        chunk: int = CHAIN,
        parts: Sequence[Registers] = (),
        few: bool = False,
    ) -> Iterator[str]:
        """Run what is written inside for each `step` elements; after each chunk, sums go to their totals.

        `few`: there is less than a chunk. `parts`: the registers used inside, if there are several of each fold.
        """
        axis, parts = loop.axis, parts or [self.folds.registers]
        folds = [] if few else loop.folds
        with self.folds.chunks(folds, axis, low, high, chunk, parts) as (first, last):
            with self.f.loop(axis, first, last, step) as index:
                yield index

    def _turn(self, loop: For, scope: Scope, index: str, lanes: int, mask: Value | None) -> None:
        inner = scope.inside()
        if lanes > 1:
            inner.axis, inner.lanes, inner.mask = loop.axis, lanes, mask
        self.addresses.position[loop.axis] = Position(index, lanes)
        if scope.rows is None:
            self._items(loop.items, inner)
        else:
            self._side_by_side(loop.items, inner, scope.rows)

    def _pieces(self, loop: For, scope: Scope, low: str, high: str, lanes: int, count: int) -> str:
        """A vector of each of `count` equal pieces in a turn, with accumulators of their own; where the rest begins."""
        f, axis = self.f, loop.axis
        length = f.put("length", f"sub nsw i64 {high}, {low}")
        part = f.put("piece", f"sdiv i64 {length}, {count * lanes}")
        part = f.put("piece", f"mul nsw i64 {part}, {lanes}")
        many = f.put("many", f"icmp sgt i64 {part}, 0")
        with f.when(many, f"{axis}.pieces"):
            own = self.folds.registers
            sums = [own]
            for _ in range(1, count):
                self.folds.registers = dict(own)
                for step in loop.folds:
                    self.folds.start(step, lanes)
                sums.append(self.folds.registers)
            end = f.put("end", f"add nsw i64 {low}, {part}")
            with self._loop(loop, low, end, lanes, chunk=CHAIN * lanes, parts=sums) as index:
                for k, registers in enumerate(sums):
                    self.folds.registers = registers
                    self._turn(loop, scope, index, lanes, None)
                    index = f.put(axis, f"add nsw i64 {index}, {part}") if k + 1 < count else index
            while len(sums) > 1:
                for into, other in zip(sums, sums[len(sums) // 2 :], strict=False):
                    self.folds.merge([step.fold for step in loop.folds], into, other)
                sums = sums[: len(sums) // 2]
            self.folds.registers = own
        done = f.put("done", f"mul nsw i64 {part}, {count}")
        return f.put("rest", f"add nsw i64 {low}, {done}")

    def _whole(self, low: str, high: str, count: int) -> str:
        """Where the last of the turns of `count` elements ends that fit between two places."""
        length = self.f.put("length", f"sub nsw i64 {high}, {low}")
        part = self.f.put("part", f"and i64 {length}, {-count}")
        return self.f.put("whole", f"add nsw i64 {low}, {part}")

    def _rows(self, loop: For, scope: Scope, low: str, high: str, count: int) -> str:
        """The turns of a loop, `count` at once for as long as there are so many; where the rest begins."""
        f, axis = self.f, loop.axis
        end = self._whole(low, high, count)
        *alone, columns = loop.items
        with self._loop(loop, low, end, count) as index:
            places = []
            for k in range(count):
                here = index if k == 0 else f.put(axis, f"add nsw i64 {index}, {k}")
                self.addresses.position[axis] = Position(here)
                row = scope.inside()
                self._items(alone, row)
                places.append((here, row.values))
            around = scope.inside()
            around.rows = Rows(axis, tuple(places))
            self._items([columns], around)
        return end

    def _side_by_side(self, items: Sequence[Item], scope: Scope, rows: Rows) -> None:
        """One turn for several rows: what they share is made once, sums are read and written once."""
        self._items([i for i in items if rows.axis not in spans(i)], scope)
        sums = [i for i in items if isinstance(i, Step)]
        places = {s.fold.name: self.scratch.at(s.fold.name) for s in sums}
        for name, place in places.items():
            self.folds.rows[name] = self.addresses.load("sum", place, scope.mask)
        for here, values in rows.places:
            self.addresses.position[rows.axis] = Position(here)
            row = scope.inside()
            row.values |= values
            self._items([i for i in items if rows.axis in spans(i)], row)
        for name, place in places.items():
            self.addresses.store(place, self.folds.rows.pop(name), scope.mask)

    def _lanes(self, loop: For) -> int:
        """Elements per vector: several registers full of the widest float, no more than a short axis has."""
        widest = max((self._width(i) for i in inside(loop)), default=4)
        lanes = VECTOR_BYTES // widest
        extent = self.kernel.axis(loop.axis).extent
        if isinstance(extent, int):
            lanes = min(lanes, 1 << max(extent - 1, 0).bit_length())
        return lanes

    def _width(self, item: Item) -> int:
        dtype = item.dtype if isinstance(item, Load | Op) else None
        return max(4, dtype.itemsize) if dtype is not None and dtype.is_float else 4

    # --- statements -------------------------------------------------------------------------------------------------

    def _statement(self, s: Item, scope: Scope) -> None:
        if isinstance(s, Step):
            self.folds.take(s, self.body.operand(s.fold.value, scope), scope.mask)
        elif isinstance(s, Store):
            self.body.store(s, scope)
        elif isinstance(s, Keep):
            value = scope.values[s.name]
            self.scratch.make(s.name, value.dtype, s.axes)
            self.addresses.store(self.scratch.at(s.name), value, scope.mask)
        else:
            assert isinstance(s, Load | Iota | Op | Recall)
            scope.values[s.name] = self.body.value(s, scope)
