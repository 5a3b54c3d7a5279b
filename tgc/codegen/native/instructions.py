"""Operations of the table as LLVM instructions: those a processor has. The others are in functions.py."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from tgc.codegen.native.llvm import Function, Value, literal, register_type, splat, suffix, vector
from tgc.errors import BackendError
from tgc.ir import dtypes
from tgc.ir.dtypes import DType

_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INTEGER = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor"}
_INTRINSIC = {
    "abs": "fabs",
    "sqrt": "sqrt",
    "floor": "floor",
    "ceil": "ceil",
    "trunc": "trunc",
    "round": "roundeven",
    "copysign": "copysign",
    "fma": "fma",
}
_COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
_ORDER = {"maximum": "max", "minimum": "min", "clamp_min": "max", "clamp_max": "min"}
_CLASSES = ("isnan", "isinf", "isfinite")

INSTRUCTIONS = frozenset(
    {*_FLOAT, *_INTEGER, *_INTRINSIC, *_COMPARE, *_ORDER, *_CLASSES}
    | {"neg", "not", "square", "floordiv", "mod", "lshift", "rshift", "where", "cast"}
)


def constant(value: bool | float, dtype: DType, lanes: int = 1) -> Value:
    """A constant in every lane."""
    return Value(splat(literal(value, dtype), register_type(dtype), lanes), dtype, lanes)


def spread(f: Function, value: Value, lanes: int) -> Value:
    """A scalar in every lane."""
    if value.lanes == lanes:
        return value
    kind = vector(value.scalar, lanes)
    if not value.text.startswith("%"):
        return Value(splat(value.text, value.scalar, lanes), value.dtype, lanes)
    one = f.put("one", f"insertelement {kind} poison, {value}, i64 0")
    text = f.put(
        f"{value.text[1:]}.all",
        f"shufflevector {kind} {one}, {kind} poison, <{lanes} x i32> zeroinitializer",
    )
    return Value(text, value.dtype, lanes)


def instruction(f: Function, stem: str, op: str, args: list[Value], dtype: DType) -> Value:
    """The value of an operation of INSTRUCTIONS over operands of equal lanes.

    Raises:
        BackendError: the operation is not one of these for such operands.
    """
    lanes = args[0].lanes
    if op == "cast":
        return cast(f, stem, args[0], dtype)
    return Value(_instruction(f, stem, op, args), dtype, lanes)


def _instruction(f: Function, stem: str, op: str, args: list[Value]) -> str:
    a, kind, lanes = args[0], args[0].type, args[0].lanes
    texts = ", ".join(v.text for v in args)
    is_float = a.dtype.is_float and a.dtype.name != "bfloat16"
    if op == "where":
        return f.put(stem, f"select {', '.join(map(str, args))}")
    if op in _COMPARE:
        return f.put(stem, f"{_predicate(op, a.dtype)} {kind} {texts}")
    if op in _ORDER:
        return order(f, stem, _ORDER[op], a, args[1])
    if is_float:
        if op in _FLOAT:
            return f.put(stem, f"{_FLOAT[op]} {kind} {texts}")
        if op in _INTRINSIC:
            name = f"llvm.{_INTRINSIC[op]}.{suffix(a.scalar, lanes)}"
            return f.call(stem, kind, name, *map(str, args))
        if op in _CLASSES:
            return _classify(f, stem, op, a)
        if op == "neg":
            return f.put(stem, f"fneg {a}")
        if op == "square":
            return f.put(stem, f"fmul {kind} {a.text}, {a.text}")
    elif not a.dtype.is_float:
        if op in _INTEGER:
            return f.put(stem, f"{_INTEGER[op]} {kind} {texts}")
        if op in ("floordiv", "mod"):
            return _divide(f, stem, op, a, args[1])
        if op in ("lshift", "rshift"):
            return _shift(f, stem, op, a, args[1])
        if op == "neg":
            return f.put(stem, f"sub {kind} {constant(0, a.dtype, lanes).text}, {a.text}")
        if op == "not":
            ones = constant(a.dtype.kind == "bool" or -1, a.dtype, lanes)
            return f.put(stem, f"xor {kind} {a.text}, {ones.text}")
        if op == "square":
            return f.put(stem, f"mul {kind} {a.text}, {a.text}")
        if op == "abs":
            if a.dtype.kind != "int":
                return a.text
            return f.call(stem, kind, f"llvm.abs.{suffix(a.scalar, lanes)}", str(a), "i1 false")
        if op in ("floor", "ceil", "trunc", "round"):
            return a.text
    raise BackendError(f"the native engine has no {op} of {a.dtype.name}")


def _shift(f: Function, stem: str, op: str, a: Value, by: Value) -> str:
    """A shift by any number of bits: beyond its width an instruction has no result, and an operand no bits."""
    kind, bits = a.type, 8 * a.dtype.itemsize
    width, last = (constant(n, a.dtype, a.lanes).text for n in (bits, bits - 1))
    word = "shl" if op == "lshift" else "ashr" if a.dtype.kind == "int" else "lshr"
    inside = f.put("inside", f"icmp ult {by}, {width}")
    within = f.put("by", f"and {by}, {last}")
    shifted = f.put(stem, f"{word} {a}, {within}")
    empty = constant(0, a.dtype, a.lanes).text
    if word == "ashr":
        empty = f.put("sign", f"ashr {a}, {last}")
    condition = f"{vector('i1', a.lanes)} {inside}"
    return f.put(stem, f"select {condition}, {kind} {shifted}, {kind} {empty}")


def quotient(f: Function, stem: str, a: Value, divisor: float) -> Value:
    """a / divisor as a product with the inverse in two parts, which takes a tenth of a division.

    It is rounded as the quotient is, but for results so near the denormal numbers that the second product is one:
    their last bit may be off (N. Brisebarre, J.-M. Muller and S. K. Raina, Accelerating correctly rounded
    floating-point division when the divisor is known in advance, IEEE Trans. Comput. 53 (2004) 1069-1072).
    """
    parts = [constant(part, a.dtype, a.lanes) for part in _inverse(divisor, a.dtype)]
    if len(parts) != 2:
        return instruction(f, stem, "div", [a, constant(divisor, a.dtype, a.lanes)], a.dtype)
    rest = instruction(f, "rest", "mul", [a, parts[1]], a.dtype)
    return instruction(f, stem, "fma", [a, parts[0], rest], a.dtype)


def _inverse(divisor: float, dtype: DType) -> tuple[float, ...]:
    """1 / divisor as a sum of two numbers of one sign, so that products with infinities and zeros keep theirs.

    Nothing where a division is better: by powers of two, which LLVM knows, and near the ends of the range.
    """
    if dtype not in (dtypes.float32, dtypes.float64) or not math.isfinite(divisor):
        return ()
    kind: type[np.float32 | np.float64] = np.float32 if dtype.itemsize == 4 else np.float64
    tiny = float(np.finfo(kind).tiny)
    if not 4 * tiny < abs(divisor) < 1 / (4 * tiny):
        return ()
    value = float(kind(divisor))
    exact = 1 / Fraction(abs(value))
    high = kind(float(exact))
    if Fraction(float(high)) > exact:
        high = np.nextafter(high, kind(0))
    low = kind(float(exact - Fraction(float(high))))
    if low < tiny:
        return ()
    return math.copysign(float(high), value), math.copysign(float(low), value)


def _predicate(op: str, dtype: DType) -> str:
    if dtype.is_float:
        return f"fcmp {'u' if op == 'ne' else 'o'}{op}"
    if op in ("eq", "ne"):
        return f"icmp {op}"
    return f"icmp {'s' if dtype.kind == 'int' else 'u'}{op}"


def order(f: Function, stem: str, which: str, a: Value, b: Value) -> str:
    """The larger ("max") or smaller ("min") of two; of floats NaN if either is."""
    if a.dtype.is_float:
        # nsz: of zeros of either sign any is the larger, as in numpy and torch.
        name = f"llvm.{which}imum.{suffix(a.scalar, a.lanes)}"
        f.declared.add(f"declare {a.type} @{name}({a.type}, {a.type})")
        return f.put(stem, f"call nsz {a.type} @{name}({a}, {b})")
    if a.dtype.kind == "bool":
        return f.put(stem, f"{'or' if which == 'max' else 'and'} {a.type} {a.text}, {b.text}")
    sign = "s" if a.dtype.kind == "int" else "u"
    return f.call(stem, a.type, f"llvm.{sign}{which}.{suffix(a.scalar, a.lanes)}", str(a), str(b))


def _classify(f: Function, stem: str, op: str, a: Value) -> str:
    if op == "isnan":
        return f.put(stem, f"fcmp uno {a.type} {a.text}, {a.text}")
    size = f.call("size", a.type, f"llvm.fabs.{suffix(a.scalar, a.lanes)}", str(a))
    infinity = constant(float("inf"), a.dtype, a.lanes).text
    return f.put(stem, f"fcmp {'oeq' if op == 'isinf' else 'olt'} {a.type} {size}, {infinity}")


def _divide(f: Function, stem: str, op: str, a: Value, b: Value) -> str:
    """Division of integers that rounds down; by zero it gives zero, as numpy does.

    The processor traps where the divisor is zero, and where the smallest integer is divided by -1: both become
    divisions by one, the second of the negated dividend.
    """
    kind, zero, one = a.type, constant(0, a.dtype, a.lanes).text, constant(1, a.dtype, a.lanes).text
    nothing = f.put("nothing", f"icmp eq {kind} {b.text}, {zero}")
    if a.dtype.kind != "int":
        safe = f.put("divisor", f"select {_bools(a)} {nothing}, {kind} {one}, {b}")
        found = f.put("found", f"{'udiv' if op == 'floordiv' else 'urem'} {kind} {a.text}, {safe}")
        return f.put(stem, f"select {_bools(a)} {nothing}, {kind} {zero}, {kind} {found}")
    minus = f.put("minus", f"icmp eq {kind} {b.text}, {constant(-1, a.dtype, a.lanes).text}")
    special = f.put("special", f"or {_bools(a)} {nothing}, {minus}")
    safe = f.put("divisor", f"select {_bools(a)} {special}, {kind} {one}, {b}")
    negated = f.put("negated", f"sub {kind} {zero}, {a.text}")
    top = f.put("dividend", f"select {_bools(a)} {minus}, {kind} {negated}, {a}")
    quotient = f.put("quotient", f"sdiv {kind} {top}, {safe}")
    rest = f.put("rest", f"srem {kind} {top}, {safe}")
    uneven = f.put("uneven", f"icmp ne {kind} {rest}, {zero}")
    signs = f.put("signs", f"xor {kind} {rest}, {safe}")
    apart = f.put("apart", f"icmp slt {kind} {signs}, {zero}")
    below = f.put("below", f"and {_bools(a)} {uneven}, {apart}")
    if op == "floordiv":
        lower = f.put("lower", f"sub {kind} {quotient}, {one}")
        found = f.put("found", f"select {_bools(a)} {below}, {kind} {lower}, {kind} {quotient}")
    else:
        moved = f.put("moved", f"add {kind} {rest}, {safe}")
        found = f.put("found", f"select {_bools(a)} {below}, {kind} {moved}, {kind} {rest}")
    return f.put(stem, f"select {_bools(a)} {nothing}, {kind} {zero}, {kind} {found}")


def _bools(a: Value) -> str:
    return vector("i1", a.lanes)


# --- conversions ----------------------------------------------------------------------------------------------------


def cast(f: Function, stem: str, a: Value, dtype: DType) -> Value:
    """A value as another type, rounded and truncated as numpy does."""
    if a.dtype is dtype:
        return a
    lanes, kind = a.lanes, vector(register_type(dtype), a.lanes)
    if a.dtype is dtypes.bfloat16:
        return cast(f, stem, _widen_bfloat16(f, a), dtype)
    if dtype is dtypes.bfloat16:
        return Value(
            _round_to_bfloat16(f, stem, cast(f, "single", a, dtypes.float32)), dtype, lanes
        )
    if dtype.kind == "bool":
        test = "fcmp une" if a.dtype.is_float else "icmp ne"
        text = f.put(stem, f"{test} {a.type} {a.text}, {constant(0, a.dtype, lanes).text}")
        return Value(text, dtype, lanes)
    if a.dtype.is_float and dtype.is_float:
        word = "fpext" if dtype.itemsize > a.dtype.itemsize else "fptrunc"
    elif a.dtype.is_float:
        # As processors do it: to 64 bits, of which a shorter integer keeps the lowest.
        wide = f.put("wide", f"fptosi {a} to {vector('i64', lanes)}")
        return cast(f, stem, Value(wide, dtypes.int64, lanes), dtype)
    elif dtype.is_float:
        word = "sitofp" if a.dtype.kind == "int" else "uitofp"
    elif a.dtype.kind != "bool" and dtype.itemsize == a.dtype.itemsize:
        return Value(a.text, dtype, lanes)
    elif a.dtype.kind == "bool" or dtype.itemsize > a.dtype.itemsize:
        word = "sext" if a.dtype.kind == "int" else "zext"
    else:
        word = "trunc"
    return Value(f.put(stem, f"{word} {a} to {kind}"), dtype, lanes)


def _widen_bfloat16(f: Function, a: Value) -> Value:
    kind = vector("i32", a.lanes)
    wide = f.put("wide", f"zext {a} to {kind}")
    high = f.put("high", f"shl {kind} {wide}, {constant(16, dtypes.int32, a.lanes).text}")
    single = f.put("single", f"bitcast {kind} {high} to {vector('float', a.lanes)}")
    return Value(single, dtypes.float32, a.lanes)


def _round_to_bfloat16(f: Function, stem: str, a: Value) -> str:
    """To nearest, ties to even, on the bits; NaN stays NaN."""
    kind, lanes = vector("i32", a.lanes), a.lanes

    def number(value: int) -> str:
        return constant(value, dtypes.int32, lanes).text

    bits = f.put("bits", f"bitcast {a} to {kind}")
    high = f.put("high", f"lshr {kind} {bits}, {number(16)}")
    odd = f.put("odd", f"and {kind} {high}, {number(1)}")
    half = f.put("half", f"add {kind} {odd}, {number(0x7FFF)}")
    sum_ = f.put("rounded", f"add {kind} {bits}, {half}")
    kept = f.put("kept", f"lshr {kind} {sum_}, {number(16)}")
    isnan = f.put("isnan", f"fcmp uno {a.type} {a.text}, {a.text}")
    found = f.put(
        "found", f"select {vector('i1', lanes)} {isnan}, {kind} {number(0x7FC0)}, {kind} {kept}"
    )
    return f.put(stem, f"trunc {kind} {found} to {vector('i16', lanes)}")
