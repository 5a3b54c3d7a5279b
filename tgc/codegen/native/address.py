"""Sizes, indices, and the loads and stores at them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tgc.codegen.native.instructions import cast, instruction, spread
from tgc.codegen.native.llvm import Function, Value, literal, memory_type, splat, suffix, vector
from tgc.ir import dtypes
from tgc.ir.dtypes import DType
from tgc.ir.sizes import Atom, Dim, FloorDiv, Size
from tgc.kernel.ir import Gathered, Index, Program, Quotient, Remainder, Term

STREAMS = " ; streams align "
"""Behind each store that may pass by the cache, and how it is then aligned; runtime/native.py makes it so."""


@dataclass(frozen=True)
class Position:
    """Where a loop is along its axis: its element, or the first of `lanes`."""

    text: str
    lanes: int = 1


@dataclass(frozen=True)
class Address:
    """Elements of `dtype` behind `pointer`: at `base`, at `lanes` places from there on, or at each of `places`."""

    pointer: str
    dtype: DType
    base: str
    lanes: int = 1
    places: Value | None = None


Lookup = Callable[[str], Value]


@dataclass
class Addresses:
    """Writes indices into a function. `position` and `programs` say where the loops around are."""

    f: Function
    sizes: dict[Dim, str] = field(default_factory=dict)
    position: dict[str, Position] = field(default_factory=dict)
    programs: dict[str, str] = field(default_factory=dict)

    # --- sizes: computed once ---

    def size(self, dim: Dim) -> str:
        """A size as an i64."""
        if isinstance(dim, int):
            return str(dim)
        if dim not in self.sizes:
            total = "0"
            for atoms, coefficient in dim.terms:
                product = str(coefficient)
                for atom in atoms:
                    product = self._once("mul", product, self._atom(atom))
                total = self._once("add", total, product)
            self.sizes[dim] = total
        return self.sizes[dim]

    def _atom(self, atom: Atom) -> str:
        if isinstance(atom, str):
            return self.sizes[Size.symbol(atom)]
        assert isinstance(atom, FloorDiv), "no tile of this engine is rounded up"
        top, bottom = self.size(atom.numerator), self.size(atom.denominator)
        quotient = self.f.put("quotient", f"sdiv i64 {top}, {bottom}", once=True)
        rest = self.f.put("rest", f"srem i64 {top}, {bottom}", once=True)
        below = self.f.put("below", f"icmp slt i64 {rest}, 0", once=True)
        lower = self.f.put("lower", f"sext i1 {below} to i64", once=True)
        return self._once("add", quotient, lower)

    def product(self, a: str, b: str) -> str:
        """The product of two sizes."""
        return self._once("mul", a, b)

    def plus(self, a: str, b: str) -> str:
        """The sum of two sizes."""
        return self._once("add", a, b)

    def smaller(self, a: str, b: str) -> str:
        """The smaller of two sizes."""
        self.f.declared.add("declare i64 @llvm.smin.i64(i64, i64)")
        return self.f.put("smaller", f"call i64 @llvm.smin.i64(i64 {a}, i64 {b})", once=True)

    def _once(self, op: str, a: str, b: str) -> str:
        return self._simple(op, a, b) or self.f.put("size", f"{op} nsw i64 {a}, {b}", once=True)

    def _simple(self, op: str, a: str, b: str) -> str | None:
        if op == "mul" and "1" in (a, b):
            return b if a == "1" else a
        if op == "add" and "0" in (a, b):
            return b if a == "0" else a
        return "0" if op == "mul" and "0" in (a, b) else None

    # --- indices ---

    def at(self, pointer: str, dtype: DType, index: Index, look: Lookup) -> Address:
        """The address of `buffer[index]`, for the element or the vector at hand."""
        base, row, vectors = self._parts(index, look)
        if vectors:
            return Address(pointer, dtype, "0", vectors[0].lanes, self._total(base, row, vectors))
        return Address(pointer, dtype, base, row)

    def value(self, index: Index, look: Lookup) -> Value:
        """The index itself, as an int64."""
        return self._total(*self._parts(index, look))

    def _parts(self, index: Index, look: Lookup) -> tuple[str, int, list[Value]]:
        """An index as a scalar, plus 0, 1, 2, ... in so many lanes, plus vectors."""
        base, row, vectors = self.size(index.offset), 1, list[Value]()
        for term, coefficient in index.terms:
            times = self.size(coefficient)
            here = self.position.get(term) if isinstance(term, str) else None
            if here is None:
                value = self._term(term, look)
            elif here.lanes > 1:
                base = self.add(base, self.times(here.text, times))
                if times == "1" and row == 1:
                    row = here.lanes
                    continue
                value = Value(numbers(here.lanes), dtypes.int64, here.lanes)
            else:
                value = Value(here.text, dtypes.int64)
            if value.lanes > 1:
                vectors.append(self._scaled(value, times))
            else:
                base = self.add(base, self.times(value.text, times))
        return base, row, vectors

    def _total(self, base: str, row: int, vectors: list[Value]) -> Value:
        total = Value(base, dtypes.int64)
        if row > 1:
            vectors = [*vectors, Value(numbers(row), dtypes.int64, row)]
        for v in vectors:
            wide = spread(self.f, total, v.lanes)
            total = instruction(self.f, "index", "add", [wide, v], dtypes.int64)
        return total

    def _scaled(self, value: Value, times: str) -> Value:
        if times == "1":
            return value
        factor = spread(self.f, Value(times, dtypes.int64), value.lanes)
        return instruction(self.f, "scaled", "mul", [value, factor], dtypes.int64)

    def add(self, a: str, b: str) -> str:
        """The sum of two i64."""
        return self._simple("add", a, b) or self.f.put("index", f"add nsw i64 {a}, {b}")

    def times(self, a: str, b: str) -> str:
        """The product of two i64."""
        return self._simple("mul", a, b) or self.f.put("index", f"mul nsw i64 {a}, {b}")

    def _term(self, term: Term, look: Lookup) -> Value:
        if isinstance(term, Program):
            return Value(self.programs[term.axis], dtypes.int64)
        if isinstance(term, Gathered):
            return cast(self.f, "position", look(term.value), dtypes.int64)
        assert isinstance(term, Quotient | Remainder)
        top = self.value(term.index, look)
        bottom = spread(self.f, Value(self.size(term.divisor), dtypes.int64), top.lanes)
        op = "floordiv" if isinstance(term, Quotient) else "mod"
        return instruction(self.f, op, op, [top, bottom], dtypes.int64)

    # --- memory ---

    def load(self, stem: str, at: Address, mask: Value | None, fill: float = 0.0) -> Value:
        """The elements at an address; where `mask` is false, `fill` without touching memory."""
        f, element = self.f, memory_type(at.dtype)
        if mask is None and at.places is None:
            kind = vector(element, at.lanes)
            text = f.put(stem, f"load {kind}, ptr {self._pointer(at)}, align {at.dtype.itemsize}")
            return self._from_memory(stem, text, at.dtype, at.lanes)
        if mask is not None and mask.lanes > at.lanes:
            at = self._everywhere(at, mask.lanes)
        lanes = at.lanes
        kind = f"<{lanes} x {element}>"
        there = self._mask(mask, lanes)
        other = f"splat ({element} {literal(fill, _stored(at.dtype))})"
        tail = f"i32 {at.dtype.itemsize}, {there}, {kind} {other}"
        if at.places is None:
            name = f"llvm.masked.load.v{lanes}{_short(element)}.p0"
            f.declared.add(f"declare {kind} @{name}(ptr, i32, <{lanes} x i1>, {kind})")
            text = f.put(stem, f"call {kind} @{name}(ptr {self._pointer(at)}, {tail})")
        else:
            name = f"llvm.masked.gather.v{lanes}{_short(element)}.v{lanes}p0"
            f.declared.add(f"declare {kind} @{name}(<{lanes} x ptr>, i32, <{lanes} x i1>, {kind})")
            text = f.put(stem, f"call {kind} @{name}(<{lanes} x ptr> {self._pointer(at)}, {tail})")
        if lanes == 1:
            text = f.put(stem, f"extractelement {kind} {text}, i64 0")
        return self._from_memory(stem, text, at.dtype, lanes)

    def store(
        self, at: Address, value: Value, mask: Value | None, *, streams: bool = False
    ) -> None:
        """Write the lanes of `value` for which `mask` holds."""
        f, element = self.f, memory_type(at.dtype)
        value = spread(f, value, at.lanes)
        if at.dtype.kind == "bool":
            text = f.put("byte", f"zext {value} to {vector('i8', at.lanes)}")
            value = Value(text, dtypes.uint8, at.lanes)
        if mask is None and at.places is None:
            line = f"store {value}, ptr {self._pointer(at)}, align {at.dtype.itemsize}"
            size = at.lanes * at.dtype.itemsize
            f.do(line + (f"{STREAMS}{min(64, size)}" if streams and size >= 16 else ""))
            return
        kind, there = f"<{at.lanes} x {element}>", self._mask(mask, at.lanes)
        short = f"v{at.lanes}{_short(element)}"
        tail = f"i32 {at.dtype.itemsize}, {there}"
        if at.places is None:
            f.declared.add(
                f"declare void @llvm.masked.store.{short}.p0({kind}, ptr, i32, <{at.lanes} x i1>)"
            )
            f.do(
                f"call void @llvm.masked.store.{short}.p0({value}, ptr {self._pointer(at)}, {tail})"
            )
        else:
            name = f"llvm.masked.scatter.{short}.v{at.lanes}p0"
            pointers = f"<{at.lanes} x ptr>"
            f.declared.add(f"declare void @{name}({kind}, {pointers}, i32, <{at.lanes} x i1>)")
            f.do(f"call void @{name}({value}, {pointers} {self._pointer(at)}, {tail})")

    def _pointer(self, at: Address) -> str:
        element = memory_type(at.dtype)
        where = f"i64 {at.base}" if at.places is None else str(at.places)
        return self.f.put("at", f"getelementptr inbounds {element}, ptr {at.pointer}, {where}")

    def _everywhere(self, at: Address, lanes: int) -> Address:
        place = spread(self.f, Value(at.base, dtypes.int64), lanes)
        return Address(at.pointer, at.dtype, "0", lanes, place)

    def _mask(self, mask: Value | None, lanes: int) -> str:
        if mask is None:
            return f"<{lanes} x i1> splat (i1 true)"
        if lanes > 1:
            return str(spread(self.f, mask, lanes))
        return f"<1 x i1> {self.f.put('mask', f'insertelement <1 x i1> poison, {mask}, i64 0')}"

    def _from_memory(self, stem: str, text: str, dtype: DType, lanes: int) -> Value:
        if dtype.kind == "bool":
            zero = splat("0", "i8", lanes)
            text = self.f.put(stem, f"icmp ne {vector('i8', lanes)} {text}, {zero}")
        return Value(text, dtype, lanes)


def numbers(lanes: int, kind: str = "i64") -> str:
    """0, 1, 2, ... in the lanes."""
    return f"<{', '.join(f'{kind} {k}' for k in range(lanes))}>"


def _stored(dtype: DType) -> DType:
    return dtypes.uint8 if dtype.kind == "bool" else dtype


def _short(element: str) -> str:
    return suffix(element, 1)
