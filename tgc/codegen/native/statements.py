"""Statements of a kernel as LLVM instructions: loads, stores and operations, on vectors along one axis or on scalars.

Where a statement stands is its `Scope`. The loops around it are written in kernel.py.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from tgc.codegen.native.address import Addresses
from tgc.codegen.native.bounds import Bounds
from tgc.codegen.native.functions import IN_TWO, NARROW, InTwo, call_name, function_type
from tgc.codegen.native.instructions import (
    cast,
    constant,
    instruction,
    quotient,
    spread,
)
from tgc.codegen.native.llvm import Function, Value, register_type, vector
from tgc.codegen.native.nest import Recall
from tgc.codegen.native.scratch import Scratch
from tgc.codegen.native.signs import has_less_to_do, named
from tgc.errors import Line
from tgc.ir import dtypes
from tgc.ir.dtypes import DType
from tgc.ir.sizes import Dim, Size
from tgc.kernel.ir import (
    Const,
    Index,
    Iota,
    Kernel,
    Load,
    Op,
    Operand,
    Program,
    Store,
)
from tgc.kernel.walk import gathered, gathers, index_axes

Needed = tuple[str, DType, int]
"""An elementary function: its operation, and the type and the number of its lanes."""


@dataclass
class Scope:
    """What is known at a place: values by name, and the mask of the lanes that exist (None: all)."""

    values: dict[str, Value]
    axis: str | None = None  # the one along which vectors lie
    lanes: int = 1
    mask: Value | None = None
    shared: dict[tuple[Hashable, ...], list[str]] = field(default_factory=dict)
    products: dict[tuple[Operand, float], str] = field(default_factory=dict)
    rows: Rows | None = None

    def inside(self) -> Scope:
        """A scope in this one; what operations share in vectors of another length is not for it."""
        return Scope(dict(self.values), self.axis, self.lanes, self.mask)


@dataclass(frozen=True)
class Rows:
    """Several elements of the axis around a loop, which each of its turns serves: where they are, what they have."""

    axis: str
    places: tuple[tuple[str, dict[str, Value]], ...]


class Statements:
    """Writes statements into a function, and notes what that takes.

    Attributes:
        needed: elementary functions that are called.
        aligned: sizes in bytes that have to be multiples of 64 for stores to pass by the caches.
        streamed: the buffers such stores go to.
    """

    def __init__(
        self,
        kernel: Kernel,
        addresses: Addresses,
        scratch: Scratch,
        gathers: Bounds,
        pointers: dict[str, str],
    ) -> None:
        self.kernel, self.addresses, self.scratch = kernel, addresses, scratch
        self.gathers, self.pointers = gathers, pointers
        self.f: Function = addresses.f
        self.made = named(kernel)
        self.needed: set[Needed] = set()
        self.aligned: set[Dim] = set()
        self.streamed: set[str] = set()
        self._line: Line | None = None

    def value(self, s: Load | Iota | Op | Recall, scope: Scope) -> Value:
        """The value of a statement that makes one."""
        if isinstance(s, Load):
            return self._load(s, scope)
        if isinstance(s, Recall):
            return self.addresses.load(s.name, self.scratch.at(s.name), scope.mask)
        if isinstance(s, Iota):
            index = self.addresses.value(s.index, scope.values.__getitem__)
            return cast(self.f, s.name, index, s.dtype)
        return self._op(s, scope)

    def _load(self, s: Load, scope: Scope) -> Value:
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

    def store(self, s: Store, scope: Scope) -> None:
        """A store, past the caches where that may pay."""
        buffer = self.kernel.buffer(s.buffer)
        at = self.addresses.at(
            self.pointers[s.buffer], buffer.dtype, s.index, scope.values.__getitem__
        )
        value = self.operand(s.value, scope)
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

    def _op(self, s: Op, scope: Scope) -> Value:
        if s.line is not None and s.line != self._line:
            self._line = s.line
            self.f.comment(f"{s.line}: {s.line.text}" if s.line.text else str(s.line))
        args = [self.operand(a, scope) for a in s.args]
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

    def _opposite(self, s: Op, scope: Scope) -> Value | None:
        """The product by the opposite constant, where it is known: what depends on sizes alone is then shared."""
        if s.op != "mul" or not s.dtype.is_float:
            return None
        for factor, other in (s.args, s.args[::-1]):
            if isinstance(factor, Const) and isinstance(factor.value, float) and factor.value:
                known = scope.products.get((other, -factor.value))
                scope.products[other, factor.value] = s.name
                return None if known is None else scope.values[known]
        return None

    def _in_two(self, s: Op, parts: InTwo, args: list[Value], scope: Scope) -> Value:
        """The part that other operations share, unless it is there already, and the other."""
        f, lanes = self.f, args[0].lanes
        args = [cast(f, "operand", a, dtypes.int64) for a in args]
        source = self._around(s.args[0], parts.bits)
        key = (parts.dear, source, *s.args[1:])
        piece = vector(register_type(s.dtype), lanes)
        if key not in scope.shared:
            all_of = [cast(f, "operand", self.operand(source, scope), dtypes.int64), *args[1:]]
            same = all(self.operand(a, scope).lanes == 1 for a in s.args[1:])
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

    def _counts_up(self, operand: Operand, scope: Scope) -> bool:
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

    def operand(self, operand: Operand, scope: Scope) -> Value:
        """A name, a constant or a size as a value."""
        if isinstance(operand, str):
            return scope.values[operand]
        if isinstance(operand.value, Size):
            size = Value(self.addresses.size(operand.value), dtypes.int64)
            return cast(self.f, "size", size, operand.dtype)
        return constant(operand.value, operand.dtype)
