"""LLVM text: types, constants, and the lines of one function."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tgc.ir.dtypes import DType

_FLOATS = {"float64": "double", "float32": "float", "float16": "half"}


def register_type(dtype: DType) -> str:
    """The scalar type values of `dtype` have in registers; bfloat16 lives there as its bits."""
    if dtype.kind == "bool":
        return "i1"
    return _FLOATS.get(dtype.name) or f"i{8 * dtype.itemsize}"


def memory_type(dtype: DType) -> str:
    """The scalar type of an element in memory: a bool is a byte."""
    return "i8" if dtype.kind == "bool" else register_type(dtype)


def vector(scalar: str, lanes: int) -> str:
    """`<lanes x scalar>`; one lane is the scalar itself."""
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


def suffix(scalar: str, lanes: int) -> str:
    """A type in the name of an intrinsic: "v32f32", "i64"."""
    short = {"double": "f64", "float": "f32", "half": "f16"}.get(scalar, scalar)
    return short if lanes == 1 else f"v{lanes}{short}"


def literal(value: bool | float, dtype: DType) -> str:
    """A scalar constant, exact after rounding to its type."""
    if dtype.kind == "bool":
        return "true" if value else "false"
    if not dtype.is_float:
        return str(int(value))
    if dtype.name == "float16":
        return f"0xH{struct.unpack('<H', struct.pack('<e', value))[0]:04X}"
    if dtype.name == "bfloat16":
        return str(_bfloat16_bits(float(value)))
    rounded = float(value) if dtype.itemsize == 8 else _to_single(float(value))
    return f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"


def _to_single(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _bfloat16_bits(value: float) -> int:
    bits = int(struct.unpack("<I", struct.pack("<f", _to_single(value)))[0])
    if value != value:
        return 0x7FC0
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def splat(text: str, scalar: str, lanes: int) -> str:
    """A scalar constant in every lane."""
    return text if lanes == 1 else f"splat ({scalar} {text})"


@dataclass(frozen=True)
class Value:
    """A register or constant: `lanes` elements, one where it is the same for all elements of a loop."""

    text: str
    dtype: DType
    lanes: int = 1

    @property
    def scalar(self) -> str:
        return register_type(self.dtype)

    @property
    def type(self) -> str:
        return vector(self.scalar, self.lanes)

    def __str__(self) -> str:
        """The operand with its type."""
        return f"{self.type} {self.text}"


@dataclass
class Function:
    """The lines of one LLVM function. What goes to `entry` is computed once, before everything else.

    Variables that change are memory of the entry block, which LLVM's first pass turns into registers.
    """

    entry: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    declared: set[str] = field(default_factory=set)
    _memory: list[str] = field(default_factory=list)
    # Registers and labels share one space of names.
    _used: Counter[str] = field(default_factory=lambda: Counter(("begin", "first", "last")))

    def fresh(self, stem: str) -> str:
        """A register or label name, without its sigil."""
        stem = re.sub(r"[^\w.]", "_", stem, flags=re.ASCII)
        stem = f"v{stem}" if stem[:1].isdigit() or not stem else stem
        self._used[stem] += 1
        count = self._used[stem]
        return stem if count == 1 else self.fresh(f"{stem}.{count}")

    def put(self, stem: str, instruction: str, *, once: bool = False) -> str:
        """`%stem = instruction`; with `once`, in the entry block."""
        name = f"%{self.fresh(stem)}"
        (self.entry if once else self.lines).append(f"  {name} = {instruction}")
        return name

    def do(self, instruction: str, *, once: bool = False) -> None:
        (self.entry if once else self.lines).append(f"  {instruction}")

    def memory(self, stem: str, size: str) -> str:
        """A pointer to `size` bytes for as long as the function runs. Not of the stack: threads have small ones."""
        self.declared |= {"declare noalias ptr @malloc(i64)", "declare void @free(ptr)"}
        self._memory.append(self.put(f"{stem}.all", f"call ptr @malloc(i64 {size})", once=True))
        return self._memory[-1]

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")

    def comment(self, text: str) -> None:
        """A line of the user's, which may hold the quotes around the module's text."""
        quotes = '"' * 3
        self.lines.append("  ; " + text.replace(quotes, '""'))

    def call(self, stem: str, result: str, name: str, *operands: str) -> str:
        """A call of an intrinsic, which is declared with it; operands carry their types."""
        types = ", ".join(operand.rpartition(" ")[0] for operand in map(_typed, operands))
        self.declared.add(f"declare {result} @{name}({types})")
        text = f"call {result} @{name}({', '.join(operands)})"
        if result == "void":
            self.do(text)
            return ""
        return self.put(stem, text)

    @contextmanager
    def loop(self, stem: str, low: str, high: str, step: int = 1) -> Iterator[str]:
        """Run what is written inside for the counter in range(low, high, step), signed."""
        counter = self.put(f"{stem}.at", "alloca i64", once=True)
        head, body, done = (self.fresh(f"{stem}.{part}") for part in ("head", "body", "done"))
        self.do(f"store i64 {low}, ptr {counter}")
        self.do(f"br label %{head}")
        self.label(head)
        index = self.put(stem, f"load i64, ptr {counter}")
        again = self.put(f"{stem}.more", f"icmp slt i64 {index}, {high}")
        self.do(f"br i1 {again}, label %{body}, label %{done}")
        self.label(body)
        yield index
        following = self.put(f"{stem}.next", f"add nsw i64 {index}, {step}")
        self.do(f"store i64 {following}, ptr {counter}")
        self.do(f"br label %{head}")
        self.label(done)

    @contextmanager
    def when(self, condition: str, stem: str) -> Iterator[None]:
        """Run what is written inside where an i1 holds."""
        then, after = self.fresh(f"{stem}.then"), self.fresh(f"{stem}.after")
        self.do(f"br i1 {condition}, label %{then}, label %{after}")
        self.label(then)
        yield
        self.do(f"br label %{after}")
        self.label(after)

    def text(self, head: str, comments: list[str], result: str = "void") -> str:
        """`head { ... }` with a return of a value at the end."""
        notes = [f"; {line}" for line in comments]
        return "\n".join(
            [
                *notes,
                f"{head} {{",
                *self.entry,
                "  br label %begin",
                "begin:",
                *self.lines,
                *(f"  call void @free(ptr {pointer})" for pointer in self._memory),
                f"  ret {result}",
                "}",
            ]
        )


def _typed(operand: str) -> str:
    """An operand whose value is one word: constants such as `splat (float 1.0)` are many."""
    at = operand.find(" splat (")
    return operand if at < 0 else f"{operand[:at]} value"
