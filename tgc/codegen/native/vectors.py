"""Arithmetic on LLVM vectors, written as Python expressions.

An elementary function is a page of adds, multiplies and bit tricks; as LLVM text nobody could read it. `Code` collects
the instructions of one function over `<lanes x float>` or `<lanes x double>`, `Value` overloads the operators, and the
formula stands in the source as it stands in a book. Nothing here knows a function's name.

A comparison with NaN is false, and `where` picks by it, so the order of the operands of `least` and `most` says what
becomes of NaN: it stays what it is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tgc.ir.dtypes import DType, float32


@dataclass(frozen=True)
class Format:
    """An IEEE binary format: its width, its fraction bits, its bias, and the LLVM name; integers have no fraction."""

    bits: int
    fraction: int
    bias: int
    name: str

    @property
    def magic(self) -> float:
        """1.5 * 2**fraction: added to a small number it rounds it to an integer in its low bits."""
        return 1.5 * 2.0**self.fraction

    @property
    def exponent_mask(self) -> int:
        return (2 * self.bias + 1) << self.fraction

    @property
    def fraction_mask(self) -> int:
        return (1 << self.fraction) - 1

    def pattern(self, value: float) -> int:
        """The bits of a number, rounded to the format, as an unsigned integer."""
        if self.bits == 32:
            return int(struct.unpack("<I", struct.pack("<f", value))[0])
        return int(struct.unpack("<Q", struct.pack("<d", value))[0])


SINGLE = Format(32, 23, 127, "float")
DOUBLE = Format(64, 52, 1023, "double")
INTEGERS = {bits: Format(bits, 0, 0, f"i{bits}") for bits in (8, 16, 32, 64)}


def format_of(dtype: DType) -> Format:
    if not dtype.is_float:
        return INTEGERS[8 * dtype.itemsize]
    return SINGLE if dtype == float32 else DOUBLE


@dataclass(frozen=True)
class Value:
    """A vector of the function's float type ("f"), of integers of its width ("i") or of i1 ("b")."""

    code: Code
    text: str
    kind: str

    def __add__(self, other: Value | float) -> Value:
        return self.code.arithmetic("add", self, other)

    def __radd__(self, other: float) -> Value:
        return self.code.arithmetic("add", self, other)

    def __sub__(self, other: Value | float) -> Value:
        return self.code.arithmetic("sub", self, other)

    def __rsub__(self, other: float) -> Value:
        return self.code.arithmetic("sub", self.code.like(self, other), self)

    def __mul__(self, other: Value | float) -> Value:
        return self.code.arithmetic("mul", self, other)

    def __rmul__(self, other: float) -> Value:
        return self.code.arithmetic("mul", self, other)

    def __truediv__(self, other: Value | float) -> Value:
        return self.code.arithmetic("div", self, other)

    def __rtruediv__(self, other: float) -> Value:
        return self.code.arithmetic("div", self.code.like(self, other), self)

    def __neg__(self) -> Value:
        return self.code.emit(f"fneg {self.type} {self.text}", "f")

    def __and__(self, other: Value | int) -> Value:
        return self.code.bitwise("and", self, other)

    def __or__(self, other: Value | int) -> Value:
        return self.code.bitwise("or", self, other)

    def __xor__(self, other: Value | int) -> Value:
        return self.code.bitwise("xor", self, other)

    def __lshift__(self, other: Value | int) -> Value:
        return self.code.bitwise("shl", self, other)

    def __rshift__(self, other: Value | int) -> Value:
        """The logical shift: AVX2 has no arithmetic one for 64 bits."""
        return self.code.bitwise("lshr", self, other)

    def __lt__(self, other: Value | float) -> Value:
        return self.code.compare("lt", self, other)

    def __le__(self, other: Value | float) -> Value:
        return self.code.compare("le", self, other)

    def __gt__(self, other: Value | float) -> Value:
        return self.code.compare("gt", self, other)

    def __ge__(self, other: Value | float) -> Value:
        return self.code.compare("ge", self, other)

    def equals(self, other: Value | float) -> Value:
        return self.code.compare("eq", self, other)

    def differs(self, other: Value | int) -> Value:
        """Of integers."""
        return self.code.compare("ne", self, other)

    @property
    def type(self) -> str:
        return self.code.type_of(self.kind)

    def as_bits(self) -> Value:
        return self.code.emit(f"bitcast {self.type} {self.text} to {self.code.type_of('i')}", "i")

    def as_float(self) -> Value:
        return self.code.emit(f"bitcast {self.type} {self.text} to {self.code.type_of('f')}", "f")

    def fma(self, factor: Value | float, addend: Value | float) -> Value:
        """self * factor + addend, rounded once."""
        return self.code.intrinsic("fma", self, factor, addend)

    def absolute(self) -> Value:
        return self.code.intrinsic("fabs", self)

    def sqrt(self) -> Value:
        return self.code.intrinsic("sqrt", self)

    def with_sign_of(self, other: Value) -> Value:
        return self.code.intrinsic("copysign", self, other)

    def least(self, bound: Value | float) -> Value:
        """The lesser of both; NaN where self is NaN."""
        return (self > bound).where(bound, self)

    def most(self, bound: Value | float) -> Value:
        """The greater of both; NaN where self is NaN."""
        return (self < bound).where(bound, self)

    def to_single(self) -> Value:
        """The low halves of 64-bit integers."""
        code = self.code.over(INTEGERS[32], self.code.lanes)
        return code.emit(f"trunc {self.type} {self.text} to {code.type_of('i')}", "i")

    def signed_shift(self, count: int) -> Value:
        return self.code.bitwise("ashr", self, count)

    def lane(self, index: int) -> Value:
        """One of the lanes, alone."""
        alone = self.code.over(self.code.format, 1)
        return alone.emit(f"extractelement {self.type} {self.text}, i32 {index}", self.kind)

    def shuffled(self, places: Sequence[int]) -> Value:
        """The lanes at `places`, of a vector."""
        code = self.code.over(self.code.format, len(places))
        mask = f"<{len(places)} x i32> <{', '.join(f'i32 {place}' for place in places)}>"
        text = f"shufflevector {self.type} {self.text}, {self.type} poison, {mask}"
        return code.emit(text, self.kind)

    def where(self, yes: Value | float, no: Value | float) -> Value:
        """yes where self, an i1, is true; else no."""
        model = yes if isinstance(yes, Value) else no if isinstance(no, Value) else None
        kind = model.kind if model else "f"
        a, b = self.code.constant(yes, kind), self.code.constant(no, kind)
        text = f"select {self.type} {self.text}, {a.type} {a.text}, {b.type} {b.text}"
        return (model or self).code.emit(text, kind)

    def polynomial(self, coefficients: Sequence[float]) -> Value:
        """Horner's scheme, ascending coefficients: the engine has several vectors in flight to hide its latency."""
        result: Value = self.code.constant(coefficients[-1], "f")
        for coefficient in reversed(coefficients[:-1]):
            result = result.fma(self, coefficient)
        return result


@dataclass
class Code:
    """The instructions of one LLVM function over vectors of `lanes` elements; one lane is the scalar type."""

    format: Format
    lanes: int
    lines: list[str] = field(default_factory=list)
    declared: set[str] = field(default_factory=set)
    globals: set[str] = field(default_factory=set)

    def __hash__(self) -> int:
        return id(self)

    def scalar_type(self, kind: str) -> str:
        return {"f": self.format.name, "i": f"i{self.format.bits}", "b": "i1"}[kind]

    def type_of(self, kind: str) -> str:
        scalar = self.scalar_type(kind)
        return scalar if self.lanes == 1 else f"<{self.lanes} x {scalar}>"

    @property
    def suffix(self) -> str:
        """How LLVM and `call_name` spell the type in a name: v16f32, or f32 for one lane."""
        short = f"{'f' if self.format.fraction else 'i'}{self.format.bits}"
        return f"v{self.lanes}{short}" if self.lanes > 1 else short

    def raw(self, instruction: str) -> str:
        """The name of what an instruction gives."""
        name = f"%t{len(self.lines)}"
        self.lines.append(f"{name} = {instruction}")
        return name

    def emit(self, instruction: str, kind: str) -> Value:
        return Value(self, self.raw(instruction), kind)

    def argument(self, name: str) -> Value:
        return Value(self, f"%{name}", "f" if self.format.fraction else "i")

    def over(self, form: Format, lanes: int) -> Code:
        """The same function's code over vectors of another type."""
        return replace(self, format=form, lanes=lanes)

    def numbers(self, values: Sequence[int]) -> Value:
        """A vector of given integers."""
        scalar = self.scalar_type("i")
        return Value(self, f"<{', '.join(f'{scalar} {value}' for value in values)}>", "i")

    def spread(self, value: Value) -> Value:
        """One integer in every lane."""
        kind = self.type_of("i")
        one = self.raw(f"insertelement {kind} poison, {value.type} {value.text}, i32 0")
        zeros = f"<{self.lanes} x i32> zeroinitializer"
        return self.emit(f"shufflevector {kind} {one}, {kind} poison, {zeros}", "i")

    def constant(self, value: Value | float, kind: str) -> Value:
        """A number in every lane, exact: floats as LLVM's hexadecimal of the double of equal value."""
        if isinstance(value, Value):
            return value
        if kind == "f":
            single = self.format.bits == 32
            rounded = struct.unpack("<f", struct.pack("<f", value))[0] if single else value
            text = f"0x{DOUBLE.pattern(rounded):016X}"
        else:
            bits = self.format.bits
            text = str((int(value) + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1))
        if self.lanes > 1:
            # One constant expression that the parser folds: a list of the lanes would be most of the module.
            vector, scalar = self.type_of(kind), self.scalar_type(kind)
            text = (
                f"shufflevector ({vector} insertelement ({vector} poison, {scalar} {text}, i32 0), "
                f"{vector} poison, <{self.lanes} x i32> zeroinitializer)"
            )
        return Value(self, text, kind)

    def like(self, model: Value, value: float) -> Value:
        return self.constant(value, model.kind)

    def arithmetic(self, name: str, a: Value, b: Value | float) -> Value:
        b = self.constant(b, a.kind)
        opcode = f"f{name}" if a.kind == "f" else name
        return self.emit(f"{opcode} {a.type} {a.text}, {b.text}", a.kind)

    def bitwise(self, opcode: str, a: Value, b: Value | int) -> Value:
        b = self.constant(b, a.kind)
        return self.emit(f"{opcode} {a.type} {a.text}, {b.text}", a.kind)

    def compare(self, relation: str, a: Value, b: Value | float) -> Value:
        b = self.constant(b, a.kind)
        if a.kind == "f":
            return self.emit(f"fcmp o{relation} {a.type} {a.text}, {b.text}", "b")
        signed = relation if relation in ("eq", "ne") else f"s{relation}"
        return self.emit(f"icmp {signed} {a.type} {a.text}, {b.text}", "b")

    def intrinsic(self, name: str, *operands: Value | float) -> Value:
        """A call of @llvm.name, which every target has as an instruction."""
        values = [self.constant(operand, "f") for operand in operands]
        kind = self.type_of("f")
        self.declared.add(
            f"declare {kind} @llvm.{name}.{self.suffix}({', '.join([kind] * len(values))})"
        )
        passed = ", ".join(f"{kind} {value.text}" for value in values)
        return self.emit(f"call {kind} @llvm.{name}.{self.suffix}({passed})", "f")

    def rarely(
        self,
        mask: Value,
        near: Value,
        name: str,
        operands: Sequence[Value],
        build: Callable[..., Value],
    ) -> Value:
        """`near`; in the lanes where `mask` holds, `build` of the operands as one double each, in a function apart.

        For arguments that need other arithmetic altogether and hardly occur: where no lane has one, a test and a
        branch never taken are all it costs, as the compiler keeps the spills around a call of a cold function there.
        """
        alone = Code(DOUBLE, 1)
        names = "abc"[: len(operands)]
        result = build(*(alone.argument(letter) for letter in names))
        self.declared |= alone.declared
        self.globals |= alone.globals
        self.globals.add(
            alone.definition(
                name,
                [f"double %{letter}" for letter in names],
                [result],
                "noinline cold",
            )
        )
        over = f"{name}.{self.suffix}"
        self.globals.add(self._lane_by_lane(name, over, names))
        return self._branch(mask, [near], over, [mask, near, *operands])[0]

    def otherwise(
        self,
        mask: Value,
        near: Sequence[Value],
        name: str,
        operands: Sequence[Value],
        build: Callable[..., Sequence[Value]],
    ) -> list[Value]:
        """`near`; where `mask` holds in any lane, `build` of the operands, for all lanes, in a function apart."""
        whole = Code(self.format, self.lanes)
        names = "abc"[: len(operands)]
        results = build(*(whole.argument(letter) for letter in names))
        self.declared |= whole.declared
        over = f"{name}.{self.suffix}"
        parameters = [f"{v.type} %{letter}" for letter, v in zip(names, operands, strict=True)]
        self.globals.add(whole.definition(over, parameters, results, "noinline cold"))
        return self._branch(mask, near, over, operands)

    def _branch(
        self, mask: Value, near: Sequence[Value], name: str, operands: Sequence[Value]
    ) -> list[Value]:
        """`near`, or where `mask` holds in any lane what the function `name` gives."""
        some = self._any(mask)
        passed = ", ".join(f"{value.type} {value.text}" for value in operands)
        self.lines += [f"br i1 {some}, label %rare, label %done", "rare:"]
        found = self.raw(f"call {result_type(near)} @{name}({passed})")
        parts = [found]
        if len(near) > 1:
            kind = result_type(near)
            parts = [self.raw(f"extractvalue {kind} {found}, {k}") for k in range(len(near))]
        self.lines += ["br label %done", "done:"]
        return [
            value.code.emit(
                f"phi {value.type} [ {value.text}, %entry ], [ {part}, %rare ]", value.kind
            )
            for value, part in zip(near, parts, strict=True)
        ]

    def _any(self, mask: Value) -> str:
        if mask.code.lanes == 1:
            return mask.text
        reduce = f"@llvm.vector.reduce.or.v{self.lanes}i1"
        self.declared.add(f"declare i1 {reduce}({mask.type})")
        return self.raw(f"call i1 {reduce}({mask.type} {mask.text})")

    def repeated(
        self, values: Sequence[Value], step: Callable[..., tuple[Value, Sequence[Value]]]
    ) -> Sequence[Value]:
        """What `step` makes of the values, once and then for as long as its mask holds in any lane."""
        self.lines += ["br label %turn", "turn:"]
        first = len(self.lines)
        current = [value.code.emit("", value.kind) for value in values]
        mask, following = step(*current)
        some = self._any(mask)
        for at, (start, now, then) in enumerate(
            zip(values, current, following, strict=True), first
        ):
            phi = f"phi {now.type} [ {start.text}, %entry ], [ {then.text}, %turn ]"
            self.lines[at] = f"{now.text} = {phi}"
        self.lines += [f"br i1 {some}, label %turn, label %after", "after:"]
        return following

    def _lane_by_lane(self, name: str, over: str, names: str) -> str:
        """The function that calls `name` for each lane of a mask."""
        kind, mask, scalar = self.type_of("f"), self.type_of("b"), self.format.name
        one, single = self.lanes == 1, scalar == "float"
        lines = []
        for letter in names:
            pick = (
                f"bitcast {kind} %{letter} to {kind}"
                if one
                else f"extractelement {kind} %{letter}, i32 %i"
            )
            lines += [f"%{letter}1 = {pick}"]
            widen = (
                f"fpext float %{letter}1 to double" if single else f"fadd double %{letter}1, -0.0"
            )
            lines += [f"%{letter}2 = {widen}"]
        passed = ", ".join(f"double %{letter}2" for letter in names)
        lines += [f"%v = call double @{name}({passed})"]
        lines += [f"%w = {'fptrunc double %v to float' if single else 'fadd double %v, -0.0'}"]
        set_lane = (
            f"bitcast {kind} %w to {kind}"
            if one
            else f"insertelement {kind} %so, {scalar} %w, i32 %i"
        )
        is_far = "and i1 %mask, true" if one else f"extractelement {mask} %mask, i32 %i"
        body = "\n".join(f"  {line}" for line in lines)
        parameters = ", ".join(f"{kind} %{letter}" for letter in names)
        return f"""define internal {kind} @{over}({mask} %mask, {kind} %near, {parameters}) noinline cold nounwind {{
entry:
  br label %lane
lane:
  %i = phi i32 [ 0, %entry ], [ %next, %join ]
  %so = phi {kind} [ %near, %entry ], [ %new, %join ]
  %far = {is_far}
  br i1 %far, label %rare, label %join
rare:
{body}
  %set = {set_lane}
  br label %join
join:
  %new = phi {kind} [ %so, %lane ], [ %set, %rare ]
  %next = add i32 %i, 1
  %more = icmp ult i32 %next, {self.lanes}
  br i1 %more, label %lane, label %done
done:
  ret {kind} %new
}}
"""

    def definition(
        self, name: str, parameters: Sequence[str], results: Sequence[Value], attributes: str
    ) -> str:
        """The text of the function whose instructions these are; several results make a structure."""
        kind, result = result_type(results), results[0].text
        if len(results) > 1:
            result = "poison"
            for k, v in enumerate(results):
                result = self.raw(f"insertvalue {kind} {result}, {v.type} {v.text}, {k}")
        body = "\n".join(line if line.endswith(":") else f"  {line}" for line in self.lines)
        return (
            f"define internal {kind} @{name}({', '.join(parameters)}) {attributes} nounwind {{\n"
            f"entry:\n{body}\n  ret {kind} {result}\n}}\n"
        )


def result_type(results: Sequence[Value]) -> str:
    """The type of one result, or of the structure of several."""
    types = [value.type for value in results]
    return types[0] if len(types) == 1 else f"{{ {', '.join(types)} }}"
