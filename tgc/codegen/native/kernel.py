"""One kernel as an LLVM function: its programs in a loop, and inside it the loops of `nest`.

The innermost loops take whole vectors: `lanes` elements at once, and what is left at the end under a mask. A value
that does not vary along such a loop is a scalar register. Vectors are wider than those of the processor, so that
several independent chains of instructions are in flight.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from tgc.codegen.native.address import Addresses, Position, numbers
from tgc.codegen.native.bounds import Bounds
from tgc.codegen.native.folds import merge, reduction, start
from tgc.codegen.native.functions import IN_TWO, NARROW, InTwo, call_name, function_type
from tgc.codegen.native.instructions import (
    cast,
    constant,
    instruction,
    quotient,
    spread,
)
from tgc.codegen.native.llvm import Function, Value, register_type, suffix, vector
from tgc.codegen.native.loops import inside, pieces, rows_at_once, takes_vectors
from tgc.codegen.native.nest import For, Item, Keep, Recall, Step, nest, spans
from tgc.codegen.native.scratch import VECTOR_BYTES, Scratch
from tgc.codegen.native.signs import Named, has_less_to_do, named
from tgc.errors import Line
from tgc.ir import dtypes
from tgc.ir.dtypes import DType
from tgc.ir.sizes import Dim, Size
from tgc.kernel.ir import (
    Buffer,
    Const,
    Gathered,
    Index,
    Iota,
    Kernel,
    Load,
    Op,
    Operand,
    Program,
    Reduce,
    Store,
)
from tgc.kernel.walk import gathered, gathers, index_axes, statements

_Accumulators = dict[str, tuple[str, int]]
Needed = tuple[str, DType, int]


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
        frozenset(writer.needed),
        tuple(sorted(writer.aligned, key=str)),
        tuple(b for b in kernel.buffers if b.name in writer.streamed),
        tuple(writer.gathers.terms),
    )


@dataclass
class _Scope:
    """What is known at a place: values by name, and the mask of the lanes that exist (None: all)."""

    values: dict[str, Value]
    axis: str | None = None  # the one along which vectors lie
    lanes: int = 1
    mask: Value | None = None
    shared: dict[tuple[Hashable, ...], list[str]] = field(default_factory=dict)
    products: dict[tuple[Operand, float], str] = field(default_factory=dict)
    rows: _Rows | None = None

    def inside(self) -> _Scope:
        """A scope in this one; what operations share in vectors of another length is not for it."""
        return _Scope(dict(self.values), self.axis, self.lanes, self.mask)


@dataclass(frozen=True)
class _Rows:
    """Several elements of the axis around a loop, which each of its turns serves: where they are, what they have."""

    axis: str
    places: tuple[tuple[str, dict[str, Value]], ...]


@dataclass
class _Writer:
    kernel: Kernel
    name: str
    f: Function = field(default_factory=Function)
    needed: set[Needed] = field(default_factory=set)
    pointers: dict[str, str] = field(default_factory=dict)
    bounds: dict[str, tuple[str, str]] = field(default_factory=dict)
    accumulators: _Accumulators = field(default_factory=dict)
    sums: dict[str, Value] = field(default_factory=dict)
    aligned: set[Dim] = field(default_factory=set)
    streamed: set[str] = field(default_factory=set)
    made: dict[str, Named] = field(default_factory=dict)
    _line: Line | None = None

    def write(self) -> str:
        f, kernel = self.f, self.kernel
        self.addresses = Addresses(f)
        parameters = []
        shared = {b.name for b in kernel.buffers if b.alias} | {b.alias for b in kernel.buffers}
        for b in kernel.buffers:
            own = "ptr" if b.name in shared else "ptr noalias"
            kind = own if b.role != "scalar" else "double" if b.dtype.is_float else "i64"
            parameters.append(f"{kind} %{f.fresh(b.name)}")
        for name in kernel.sizes:
            parameters.append(f"i64 %{f.fresh(name)}")
            self.addresses.sizes[Size.symbol(name)] = parameters[-1].split()[-1]
        for b, parameter in zip(kernel.buffers, parameters, strict=False):
            self.pointers[b.name] = parameter.split()[-1]
        self.scratch = Scratch(kernel, self.addresses, self.bounds)
        loads = (s for s in statements(kernel.body) if isinstance(s, Load))
        fails = any(gathered(s.index) for s in loads)
        self.gathers = Bounds(self.addresses, "")
        if fails:
            self.gathers.pointer = f.put("outside.at", "alloca i64", once=True)
            f.do(f"store i64 0, ptr {self.gathers.pointer}", once=True)
        items = nest(kernel)
        self.made = named(kernel)
        with f.loop("program", "%first", "%last") as program:
            self._place(program)
            self._items(items, _Scope({}))
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

    def _items(self, items: Sequence[Item], scope: _Scope) -> None:
        for item in items:
            if isinstance(item, For):
                self._for(item, scope)
            else:
                self._statement(item, scope)

    def _for(self, loop: For, scope: _Scope) -> None:
        lanes = self._lanes(loop) if scope.axis is None and takes_vectors(loop) else 1
        for step in loop.folds:
            self._start(step, max(lanes, scope.lanes))
        low, high = self.bounds[loop.axis]
        if lanes == 1:
            if scope.axis is None and (count := rows_at_once(loop)) > 1:
                low = self._rows(loop, scope, low, high, count)
            with self.f.loop(loop.axis, low, high) as index:
                self._turn(loop, scope, index, 1, None)
        else:
            if (count := pieces(loop)) > 1:
                low = self._pieces(loop, scope, low, high, lanes, count)
            self._vectors(loop, scope, low, high, lanes)
        for step in loop.folds:
            if not step.array:
                scope.values[step.fold.name] = self._finish(step.fold, across=lanes > 1)

    def _vectors(self, loop: For, scope: _Scope, low: str, high: str, lanes: int) -> None:
        """Whole vectors, then the rest under a mask."""
        f, extent = self.f, self.kernel.axis(loop.axis)
        fixed = extent.extent if low == "0" and isinstance(extent.extent, int) else None
        end = self._whole(low, high, lanes) if fixed is None else str(fixed // lanes * lanes)
        if fixed is None or fixed >= lanes:
            with f.loop(loop.axis, low, end, lanes) as index:
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

    def _turn(self, loop: For, scope: _Scope, index: str, lanes: int, mask: Value | None) -> None:
        inner = scope.inside()
        if lanes > 1:
            inner.axis, inner.lanes, inner.mask = loop.axis, lanes, mask
        self.addresses.position[loop.axis] = Position(index, lanes)
        if scope.rows is None:
            self._items(loop.items, inner)
        else:
            self._side_by_side(loop.items, inner, scope.rows)

    def _pieces(self, loop: For, scope: _Scope, low: str, high: str, lanes: int, count: int) -> str:
        """A vector of each of `count` equal pieces in a turn, with accumulators of their own; where the rest begins."""
        f, axis = self.f, loop.axis
        length = f.put("length", f"sub nsw i64 {high}, {low}")
        part = f.put("piece", f"sdiv i64 {length}, {count * lanes}")
        part = f.put("piece", f"mul nsw i64 {part}, {lanes}")
        many = f.put("many", f"icmp sgt i64 {part}, 0")
        own = {step.fold.name: self.accumulators[step.fold.name] for step in loop.folds}
        with f.when(many, f"{axis}.pieces"):
            sums = [own]
            for _ in range(1, count):
                for step in loop.folds:
                    self._start(step, lanes)
                sums.append({name: self.accumulators[name] for name in own})
            end = f.put("end", f"add nsw i64 {low}, {part}")
            with f.loop(axis, low, end, lanes) as index:
                for k, accumulators in enumerate(sums):
                    self.accumulators |= accumulators
                    self._turn(loop, scope, index, lanes, None)
                    index = f.put(axis, f"add nsw i64 {index}, {part}") if k + 1 < count else index
            while len(sums) > 1:
                for into, other in zip(sums, sums[len(sums) // 2 :], strict=False):
                    self._add_up(loop, into, other)
                sums = sums[: len(sums) // 2]
            self.accumulators |= own
        done = f.put("done", f"mul nsw i64 {part}, {count}")
        return f.put("rest", f"add nsw i64 {low}, {done}")

    def _add_up(self, loop: For, into: _Accumulators, other: _Accumulators) -> None:
        """Fold the accumulators of one piece into those of another."""
        for fold in (step.fold for step in loop.folds):
            pointer, lanes = into[fold.name]
            kind = vector(register_type(fold.dtype), lanes)
            old, new = (
                Value(self.f.put("sum", f"load {kind}, ptr {at[fold.name][0]}"), fold.dtype, lanes)
                for at in (into, other)
            )
            self.f.do(f"store {merge(self.f, fold, old, new)}, ptr {pointer}")

    def _whole(self, low: str, high: str, count: int) -> str:
        """Where the last of the turns of `count` elements ends that fit between two places."""
        length = self.f.put("length", f"sub nsw i64 {high}, {low}")
        part = self.f.put("part", f"and i64 {length}, {-count}")
        return self.f.put("whole", f"add nsw i64 {low}, {part}")

    def _rows(self, loop: For, scope: _Scope, low: str, high: str, count: int) -> str:
        """The turns of a loop, `count` at once for as long as there are so many; where the rest begins."""
        f, axis = self.f, loop.axis
        end = self._whole(low, high, count)
        *alone, columns = loop.items
        with f.loop(axis, low, end, count) as index:
            places = []
            for k in range(count):
                here = index if k == 0 else f.put(axis, f"add nsw i64 {index}, {k}")
                self.addresses.position[axis] = Position(here)
                row = scope.inside()
                self._items(alone, row)
                places.append((here, row.values))
            around = scope.inside()
            around.rows = _Rows(axis, tuple(places))
            self._items([columns], around)
        return end

    def _side_by_side(self, items: Sequence[Item], scope: _Scope, rows: _Rows) -> None:
        """One turn for several rows: what they share is made once, sums are read and written once."""
        self._items([i for i in items if rows.axis not in spans(i)], scope)
        sums = [i for i in items if isinstance(i, Step)]
        places = {s.fold.name: self.scratch.at(s.fold.name) for s in sums}
        for name, place in places.items():
            self.sums[name] = self.addresses.load("sum", place, scope.mask)
        for here, values in rows.places:
            self.addresses.position[rows.axis] = Position(here)
            row = scope.inside()
            row.values |= values
            self._items([i for i in items if rows.axis in spans(i)], row)
        for name, place in places.items():
            self.addresses.store(place, self.sums.pop(name), scope.mask)

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

    # --- folds ------------------------------------------------------------------------------------------------------

    def _start(self, step: Step, lanes: int) -> None:
        fold, f = step.fold, self.f
        first = start(fold)
        if step.array:
            self.scratch.make(fold.name, fold.dtype, step.array)
            self.scratch.fill(fold.name, first)
            return
        kind = vector(register_type(fold.dtype), lanes)
        pointer = f.put(f"{fold.name}.sum", f"alloca {kind}", once=True)
        f.do(f"store {spread(f, first, lanes)}, ptr {pointer}")
        self.accumulators[fold.name] = (pointer, lanes)

    def _finish(self, fold: Reduce, *, across: bool) -> Value:
        """The value of a fold after its loop; `across`: its lanes are partial folds."""
        pointer, lanes = self.accumulators[fold.name]
        scalar = register_type(fold.dtype)
        kind, f = vector(scalar, lanes), self.f
        total = f.put(f"{fold.name}.lanes", f"load {kind}, ptr {pointer}")
        if not across:
            return Value(total, fold.dtype, lanes)
        name = f"llvm.vector.reduce.{reduction(fold)}.{suffix(scalar, lanes)}"
        if fold.monoid in ("sum", "prod") and fold.dtype.is_float:
            f.declared.add(f"declare {scalar} @{name}({scalar}, {kind})")
            first = "-0.0" if fold.monoid == "sum" else "1.0"  # each leaves any number as it is
            call = f"call reassoc {scalar} @{name}({scalar} {first}, {kind} {total})"
            return Value(f.put(fold.name, call), fold.dtype)
        if fold.dtype.is_float:  # nsz: see `order`
            f.declared.add(f"declare {scalar} @{name}({kind})")
            call = f"call nsz {scalar} @{name}({kind} {total})"
            return Value(f.put(fold.name, call), fold.dtype)
        return Value(f.call(fold.name, scalar, name, f"{kind} {total}"), fold.dtype)

    def _step(self, step: Step, scope: _Scope) -> None:
        fold, f = step.fold, self.f
        value = self._operand(fold.value, scope)
        if fold.name in self.sums:
            old = self.sums[fold.name]
            self.sums[fold.name] = merge(f, fold, old, spread(f, value, old.lanes))
            return
        if step.array:
            where = self.scratch.at(fold.name)
            old = self.addresses.load("sum", where, scope.mask)
            new = merge(f, fold, old, spread(f, value, where.lanes))
            self.addresses.store(where, new, scope.mask)
            return
        pointer, lanes = self.accumulators[fold.name]
        value = spread(f, value, lanes)
        if scope.mask is not None:
            value = self._select(scope.mask, value, spread(f, start(fold), lanes))
        old = Value(f.put("sum", f"load {value.type}, ptr {pointer}"), fold.dtype, lanes)
        f.do(f"store {merge(f, fold, old, value)}, ptr {pointer}")

    def _select(self, mask: Value, yes: Value, no: Value) -> Value:
        return instruction(self.f, "present", "where", [mask, yes, no], yes.dtype)

    # --- statements -------------------------------------------------------------------------------------------------

    def _statement(self, s: Item, scope: _Scope) -> None:
        if isinstance(s, Step):
            self._step(s, scope)
        elif isinstance(s, Store):
            self._store(s, scope)
        elif isinstance(s, Keep):
            value = scope.values[s.name]
            self.scratch.make(s.name, value.dtype, s.axes)
            self.addresses.store(self.scratch.at(s.name), value, scope.mask)
        else:
            assert isinstance(s, Load | Iota | Op | Recall)
            scope.values[s.name] = self._value(s, scope)

    def _value(self, s: Load | Iota | Op | Recall, scope: _Scope) -> Value:
        if isinstance(s, Load):
            return self._load(s, scope)
        if isinstance(s, Recall):
            return self.addresses.load(s.name, self.scratch.at(s.name), scope.mask)
        if isinstance(s, Iota):
            index = self.addresses.value(s.index, scope.values.__getitem__)
            return cast(self.f, s.name, index, s.dtype)
        return self._op(s, scope)

    def _load(self, s: Load, scope: _Scope) -> Value:
        pointer = self.pointers[s.buffer]
        if self.kernel.buffer(s.buffer).role == "scalar":
            wide = dtypes.float64 if s.dtype.is_float else dtypes.int64
            return cast(self.f, s.name, Value(pointer, wide), s.dtype)
        at = self.addresses.at(pointer, s.dtype, s.index, scope.values.__getitem__)
        mask = scope.mask if at.lanes > 1 else None
        if s.mask is not None:
            there = scope.values[s.mask]
            mask = self._both(there, scope.mask if there.lanes > 1 or at.lanes > 1 else None)
        for term in gathers(s.index):
            inside = self.gathers.check(term, scope.mask, scope.values.__getitem__)
            mask = self._both(inside, mask)
        return self.addresses.load(s.name, at, mask, s.fill)

    def _both(self, a: Value, b: Value | None) -> Value:
        if b is None:
            return a
        lanes = max(a.lanes, b.lanes)
        both = [spread(self.f, v, lanes) for v in (a, b)]
        return instruction(self.f, "mask", "and", both, dtypes.bool_)

    def _store(self, s: Store, scope: _Scope) -> None:
        buffer = self.kernel.buffer(s.buffer)
        at = self.addresses.at(
            self.pointers[s.buffer], buffer.dtype, s.index, scope.values.__getitem__
        )
        value = self._operand(s.value, scope)
        mask = scope.mask if at.lanes > 1 else None
        # The memory of a donated input is not ours, and its lines have just been read.
        streams = (
            buffer.role == "out"
            and buffer.alias is None
            and at.lanes > 1
            and at.places is None
            and self._streams(s.index, buffer.dtype, scope.axis)
        )
        if streams:
            self.streamed.add(buffer.name)
        self.addresses.store(at, value, mask, streams=streams)

    def _streams(self, index: Index, dtype: DType, along: str | None) -> bool:
        """Whether stores at an index may pass by the caches: vectors must start at multiples of 64 bytes.

        What the sizes decide goes to `aligned`.
        """
        steps = [index.offset]
        for term, coefficient in index.terms:
            if term == along and along is not None:
                axis = self.kernel.axis(along)
                if axis.kind == "grid" or axis.split is not None:
                    steps.append(coefficient * (axis.split or axis.block or 1))
            elif isinstance(term, str | Program):
                steps.append(coefficient)
            else:
                return False
        steps = [step * dtype.itemsize for step in steps]
        if any(isinstance(step, int) and step % 64 for step in steps):
            return False
        self.aligned |= {step for step in steps if not isinstance(step, int)}
        return True

    def _op(self, s: Op, scope: _Scope) -> Value:
        if s.line is not None and s.line != self._line:
            self._line = s.line
            self.f.comment(f"{s.line}: {s.line.text}" if s.line.text else str(s.line))
        args = [self._operand(a, scope) for a in s.args]
        lanes = max(a.lanes for a in args)
        args = [spread(self.f, a, lanes) for a in args]
        if s.op in IN_TWO:
            return self._in_two(s, IN_TWO[s.op], args, scope)
        dtype = function_type(s.op, args[0].dtype)
        if dtype is not None:
            op = NARROW[s.op] if has_less_to_do(s.op, s.args[0], self.made) else s.op
            self.needed.add((op, dtype, lanes))
            args = [cast(self.f, "operand", a, dtype) for a in args]
            passed = ", ".join(map(str, args))
            call = f"call {args[0].type} {call_name(op, dtype, lanes)}({passed})"
            return cast(self.f, s.name, Value(self.f.put(s.name, call), dtype, lanes), s.dtype)
        if (opposite := self._opposite(s, scope)) is not None:
            return instruction(self.f, s.name, "neg", [opposite], s.dtype)
        by = s.args[1].value if s.op == "div" and isinstance(s.args[1], Const) else None
        if isinstance(by, float):
            return quotient(self.f, s.name, args[0], by)
        return instruction(self.f, s.name, s.op, args, s.dtype)

    def _opposite(self, s: Op, scope: _Scope) -> Value | None:
        """The product by the opposite constant, where it is known: what depends on sizes alone is then shared."""
        if s.op != "mul" or not s.dtype.is_float:
            return None
        for factor, other in (s.args, s.args[::-1]):
            if isinstance(factor, Const) and isinstance(factor.value, float) and factor.value:
                known = scope.products.get((other, -factor.value))
                scope.products[other, factor.value] = s.name
                return None if known is None else scope.values[known]
        return None

    def _in_two(self, s: Op, parts: InTwo, args: list[Value], scope: _Scope) -> Value:
        """The part that other operations share, unless it is there already, and the other."""
        f, lanes = self.f, args[0].lanes
        args = [cast(f, "operand", a, dtypes.int64) for a in args]
        source = self._around(s.args[0], parts.bits)
        key = (parts.dear, source, *s.args[1:])
        piece = vector(register_type(s.dtype), lanes)
        if key not in scope.shared:
            all_of = [cast(f, "operand", self._operand(source, scope), dtypes.int64), *args[1:]]
            same = all(self._operand(a, scope).lanes == 1 for a in s.args[1:])
            dear = parts.run if same and self._counts_up(source, scope) else parts.dear
            self.needed.add((dear, dtypes.int64, lanes))
            kind = f"{{ {', '.join([piece] * parts.count)} }}"
            name = call_name(dear, dtypes.int64, lanes)
            passed = ", ".join(str(spread(f, a, lanes)) for a in all_of)
            all_ = f.put(parts.dear, f"call {kind} {name}({passed})")
            scope.shared[key] = [
                f.put(f"{parts.dear}.{k}", f"extractvalue {kind} {all_}, {k}")
                for k in range(parts.count)
            ]
        self.needed.add((parts.pick, dtypes.int64, lanes))
        passed = ", ".join([str(args[0]), *(f"{piece} {text}" for text in scope.shared[key])])
        name = call_name(parts.pick, dtypes.int64, lanes)
        return Value(f.put(s.name, f"call {piece} {name}({passed})"), s.dtype, lanes)

    def _counts_up(self, operand: Operand, scope: _Scope) -> bool:
        """Whether neighbouring lanes hold neighbouring integers."""
        made = self.made.get(operand) if isinstance(operand, str) else None
        if not isinstance(made, Iota) or made.dtype is not dtypes.int64 or gathered(made.index):
            return False
        steps = [c for t, c in made.index.terms if t == scope.axis]
        rest = tuple(item for item in made.index.terms if item[0] != scope.axis)
        return steps == [1] and scope.axis not in index_axes(Index(rest))

    def _around(self, operand: Operand, bits: int) -> Operand:
        """What an operand was before its last bits were set or cleared."""
        made = self.made.get(operand) if isinstance(operand, str) else None
        if not isinstance(made, Op) or made.op not in ("and", "or"):
            return operand
        inner, other = made.args
        untouched = -1 if made.op == "and" else 0
        number = other.value if isinstance(other, Const) else None
        return inner if isinstance(number, int) and number >> bits == untouched else operand

    def _operand(self, operand: Operand, scope: _Scope) -> Value:
        if isinstance(operand, str):
            return scope.values[operand]
        if isinstance(operand.value, Size):
            size = Value(self.size(operand.value), dtypes.int64)
            return cast(self.f, "size", size, operand.dtype)
        return constant(operand.value, operand.dtype)
