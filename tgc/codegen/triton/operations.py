"""Operations, casts, constants and folds as Triton expressions, and the small jit functions some of them call.

The spelling of an operation is in the operation table. What remains here is what depends on types: constants that
must not pass through float32, casts, identities of folds.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence

from tgc.codegen.triton.expressions import (
    Expr,
    call,
    dotted,
    is_call,
    method,
    number,
    template,
    triton_type,
)
from tgc.errors import BackendError
from tgc.ir.dtypes import DType, float32
from tgc.ir.nodes import combination
from tgc.ir.ops import OPS

HELPERS: dict[str, str] = {
    "nan_max": '''
def nan_max(a, b):
    """The larger of two, NaN if either is: tl.max would drop it."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
''',
    "nan_min": '''
def nan_min(a, b):
    """The smaller of two, NaN if either is: tl.min would drop it."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
''',
    "times": """
def times(a, b):
    return a * b
""",
    "floor_mod_int": '''
def floor_mod_int(a, b):
    """The remainder with the sign of the divisor, as in Python; Triton's has that of the dividend."""
    r = a % b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
''',
    "floor_div_int": '''
def floor_div_int(a, b):
    """The quotient rounded down, as in Python; Triton's is rounded to zero."""
    r = a % b
    q = a // b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1, q)
''',
    "floor_mod": '''
def floor_mod(a, b):
    """The remainder with the sign of the divisor, as in Python."""
    r = libdevice.fmod(a, b)
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
''',
    "floor_div": '''
def floor_div(a, b):
    """The quotient rounded down, as in Python: from the exact remainder, so that no rounding carries it over."""
    r = libdevice.fmod(a, b)
    q = tl.div_rn(a - r, b)
    q = tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1, q)
    whole = libdevice.floor(q)
    whole = tl.where(q - whole > 0.5, whole + 1, whole)
    return tl.where(b == 0, tl.div_rn(a, b), whole)
''',
    "floor_div_f64": '''
def floor_div_f64(a, b):
    """The quotient rounded down, as in Python: from the exact remainder, so that no rounding carries it over."""
    r = libdevice.fmod(a, b)
    q = (a - r) / b
    q = tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1, q)
    whole = libdevice.floor(q)
    whole = tl.where(q - whole > 0.5, whole + 1, whole)
    return tl.where(b == 0, a / b, whole)
''',
    "shift_left": '''
def shift_left(a, b, bits):
    """a << b for any b; C has it for 0 <= b < bits alone."""
    return tl.where((b >= 0) & (b < bits), a << (b & (bits - 1)), a << (bits - 1) << 1)
''',
    "shift_right": '''
def shift_right(a, b, bits):
    """a >> b for any b; C has it for 0 <= b < bits alone."""
    return tl.where((b >= 0) & (b < bits), a >> (b & (bits - 1)), a >> (bits - 1) >> 1)
''',
    "philox": '''
def philox(at, stream, seed):
    """Word at & 3 of the counter at >> 2 of a stream of Philox 4x32-10."""
    at, stream, seed = tl.cast(at, tl.int64), tl.cast(stream, tl.int64), tl.cast(seed, tl.int64)
    a, b, c, d = tl.philox_impl(
        (at >> 2).to(tl.uint32),
        (at >> 34).to(tl.uint32),
        stream.to(tl.uint32),
        (stream >> 32).to(tl.uint32),
        seed.to(tl.uint32),
        (seed >> 32).to(tl.uint32),
    )
    low, high = tl.where(at & 1 == 0, a, b), tl.where(at & 1 == 0, c, d)
    return tl.where(at & 2 == 0, low, high).to(tl.int32, bitcast=True)
''',
    "int_pow": '''
def int_pow(a, b):
    """a to a power b >= 0, by repeated squaring."""
    result = a * 0 + 1
    for _ in range(0, 32):
        result = tl.where(b & 1 != 0, result * a, result)
        a *= a
        b >>= 1
    return result
''',
}
"""Functions an emitted module defines where one of its kernels calls them."""


def primitives() -> frozenset[str]:
    """The operations this backend emits itself; the others must be expanded before scheduling."""
    return frozenset(
        name for name, spec in OPS.items() if spec.triton is not None or name in ("where", "cast")
    )


def spelling(op: str, dtype: DType) -> str:
    """The template of an operation whose operands have type `dtype`."""
    spec = OPS[op]
    found = spec.triton_for.get(dtype.name, spec.triton_for.get(dtype.kind, spec.triton))
    if found is None:
        raise BackendError(f"Triton has no {op} for {dtype.name}: expand it before emitting")
    return found.replace("{bits}", str(8 * dtype.itemsize))


def helpers_in(source: str) -> list[str]:
    """The helpers a piece of source calls, in the order of the table."""
    called = {
        node.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name) and node.id in HELPERS
    }
    return [name for name in HELPERS if name in called]


# --- constants and casts --------------------------------------------------------------------------------------------


def literal(value: float | int | bool, dtype: DType) -> Expr:
    """A constant of a type, where an operand of that type stands beside it."""
    if dtype.kind == "bool":
        return number(bool(value))
    return number(float(value) if dtype.is_float else int(value))


def typed(value: float | int | bool, dtype: DType) -> Expr:
    """A constant that has its type by itself."""
    return call("tl.full", ast.List([], ast.Load()), literal(value, dtype), triton_type(dtype))


def full(value: float | int | bool, shape: Expr, dtype: DType) -> Expr:
    """A tile of one constant."""
    if value == 0 and dtype.kind != "bool" and math.copysign(1.0, value) > 0:
        return call("tl.zeros", shape, triton_type(dtype))
    return call("tl.full", shape, literal(value, dtype), triton_type(dtype))


def argument(value: float | int | bool, dtype: DType) -> Expr:
    """A constant as the argument of a function, which sees a bare literal as float32."""
    bare = dtype.name != "float64" and not (dtype.is_float and _outside_float32(float(value)))
    return literal(value, dtype) if bare else typed(value, dtype)


def _is_float32(value: float | int | bool, dtype: DType) -> bool:
    """Whether Triton gives a bare literal this type, float32, by itself."""
    return dtype.name == "float32" and not _outside_float32(float(value))


def _outside_float32(value: float) -> bool:
    """Whether Triton takes a literal for a float64 because float32 has no normal number like it."""
    size = abs(value)
    return 0 < size < float32.tiny or float32.largest < size < math.inf


def constant_for(op: str, value: float | int | bool, dtype: DType, *, alone: bool) -> Expr:
    """A constant operand of `op`; `alone` if no operand beside it carries the type."""
    if alone and not _is_float32(value, dtype):
        return typed(value, dtype)
    if op != "where" and is_call(spelling(op, dtype)):
        return argument(value, dtype)
    return literal(value, dtype)


def cast(value: Expr, source: DType, target: DType) -> Expr:
    """A value converted as torch converts it: floats to integers towards zero, anything to bool by `!= 0`."""
    if source is target:
        return value
    if target.kind == "bool":
        return template("({0} != 0)", value)
    return method(value, "to", triton_type(target))


def cast_size(value: Expr, target: DType) -> Expr:
    """A size argument (which Triton may have made a constant) or a literal as a value of a type."""
    return call("tl.cast", value, triton_type(target))


# --- folds ----------------------------------------------------------------------------------------------------------


def combine(monoid: str, accumulator: Expr, value: Expr, dtype: DType) -> Expr:
    """`accumulator` with one more value folded in."""
    return template(spelling(combination(monoid, dtype), dtype), accumulator, value)


def reduce_tile(monoid: str, value: Expr, positions: Sequence[int], dtype: DType) -> Expr:
    """A tile folded along some of its dimensions, the last one first."""
    for position in sorted(positions, reverse=True):
        value = _reduce_along(monoid, value, position, dtype)
    return value


def _reduce_along(monoid: str, value: Expr, position: int, dtype: DType) -> Expr:
    axis = number(position)
    if dtype.kind == "bool":
        function = "tl.max" if monoid in ("any", "max") else "tl.min"
        return template("({0} != 0)", call(function, method(value, "to", dotted("tl.int32")), axis))
    if monoid == "sum":
        total = call("tl.sum", value, axis)
        return total if dtype.itemsize >= 4 or dtype.is_float else cast_size(total, dtype)
    if monoid == "prod":
        return call("tl.reduce", value, axis, dotted("times"))
    if dtype.is_float:
        return call("tl.reduce", value, axis, dotted(f"nan_{monoid}"))
    return call(f"tl.{monoid}", value, axis)
