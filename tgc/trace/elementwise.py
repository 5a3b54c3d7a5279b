"""Elementwise operations: arithmetic, powers, comparisons, logic, rounding, selection.

What is not an operation of the table is a composition of those that are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tgc.errors import DTypeError
from tgc.ir import dtypes
from tgc.trace.core import (
    Operands,
    Value,
    array,
    builder,
    cast,
    check_accepts,
    common_dtype,
    fits,
    fitted,
    full_like,
    is_number,
    map_op,
    refuse_bool,
    unsupported,
)
from tgc.trace.promote import default_float, floating
from tgc.trace.state import current
from tgc.trace.symbolic import SymbolicInt
from tgc.trace.tracer import Tracer


def float_function(op: str) -> Callable[[Value], Tracer]:
    """The function that applies `op` to floats; other types are converted first."""

    def function(x: Value) -> Tracer:
        return map_op(op, x, floats=True)

    function.__name__ = op
    return function


exp, exp2, expm1 = float_function("exp"), float_function("exp2"), float_function("expm1")
log, log2, log10 = float_function("log"), float_function("log2"), float_function("log10")
log1p, sqrt, rsqrt, cbrt = map(float_function, ("log1p", "sqrt", "rsqrt", "cbrt"))
sin, cos, tan = map(float_function, ("sin", "cos", "tan"))
asin, acos, atan = map(float_function, ("asin", "acos", "atan"))
sinh, cosh, tanh = map(float_function, ("sinh", "cosh", "tanh"))
asinh, acosh, atanh = map(float_function, ("asinh", "acosh", "atanh"))
sigmoid, erf, erfc = map(float_function, ("sigmoid", "erf", "erfc"))


# --- one operand ----------------------------------------------------------------------------------------------------


def _not_bool(x: Tracer, what: str) -> None:
    if x.kind is dtypes.bool_:
        raise DTypeError(f"{what} is not defined for bool", line=current().error_line())


def neg(x: Value) -> Tracer:
    x = array(x)
    _not_bool(x, "negation")
    return map_op("neg", x)


def positive(x: Value) -> Tracer:
    x = array(x)
    _not_bool(x, "positive")
    return x


def absolute(x: Value) -> Tracer:
    x = array(x)
    refuse_bool(x, "abs")
    if x.kind.kind in ("uint", "bool"):
        return x
    return map_op("abs", x)


def sign(x: Value) -> Tracer:
    """-1, 0 or 1; of NaN 0 in torch, NaN in numpy."""
    x = array(x)
    if x.kind is dtypes.bool_:
        return x
    found = map_op("sign", x)
    return where(isnan(x), 0, found) if x.container == "torch" and x.kind.is_float else found


def square(x: Value) -> Tracer:
    x = array(x)
    if x.kind is dtypes.bool_:
        return cast(x, dtypes.int8) if x.container == "numpy" else x
    return map_op("square", x)


def reciprocal(x: Value) -> Tracer:
    if isinstance(x, Tracer) and x.container == "numpy" and not x.kind.is_float:
        raise unsupported(
            "numpy's reciprocal of integers, an integer", hint="write 1 / x or 1 // x"
        )
    return map_op("reciprocal", x, floats=True)


def _rounding(op: str) -> Callable[[Value], Tracer]:
    def function(x: Value) -> Tracer:
        x = array(x)
        refuse_bool(x, op)
        return map_op(op, x) if x.kind.is_float else x

    function.__name__ = op
    return function


floor, ceil, trunc, rint = map(_rounding, ("floor", "ceil", "trunc", "round"))


def round_(x: Value, decimals: int = 0) -> Tracer:
    """To nearest, ties to even; `decimals` places."""
    x = array(x)
    if decimals == 0:
        return rint(x)
    if not x.kind.is_float:
        raise unsupported("round of integers to decimals")
    scale = 10.0 ** abs(decimals)
    if decimals > 0:
        return div(rint(mul(x, scale)), scale)
    return mul(rint(div(x, scale)), scale)


def as_float(x: Value) -> Tracer:
    """`x`, converted to a float type if it has none."""
    x = array(x)
    return cast(x, floating(x.kind, x.container)) if not x.kind.is_float else x


def isnan(x: Value) -> Tracer:
    return _predicate("isnan", x, False)


def isinf(x: Value) -> Tracer:
    return _predicate("isinf", x, False)


def isfinite(x: Value) -> Tracer:
    return _predicate("isfinite", x, True)


def _predicate(op: str, x: Value, otherwise: bool) -> Tracer:
    x = array(x)
    if x.kind.is_float:
        return map_op(op, x)
    node = builder().const(otherwise, dtypes.bool_, x.node.shape)
    return Tracer(node, x.container, x.device)


# --- arithmetic -----------------------------------------------------------------------------------------------------


def add(a: Value, b: Value, alpha: Value = 1) -> Tracer:
    """a + alpha b; `or` for bools."""
    return _arithmetic("add", a, scaled(b, alpha), on_bool="or")


def sub(a: Value, b: Value, alpha: Value = 1) -> Tracer:
    """a - alpha b."""
    for operand in (a, b):
        refuse_bool(operand, "subtraction")
    check_accepts("sub", Operands(a, b).dtype)
    return map_op("sub", a, scaled(b, alpha))


def rsub(a: Value, b: Value, alpha: Value = 1) -> Tracer:
    return sub(b, a, alpha)


def mul(a: Value, b: Value) -> Tracer:
    """a b; `and` for bools."""
    return _arithmetic("mul", a, b, on_bool="and")


def scaled(b: Value, alpha: Value) -> Value:
    """alpha b, or b itself."""
    return b if is_number(alpha) and alpha == 1 else mul(b, alpha)


def _arithmetic(op: str, a: Value, b: Value, on_bool: str) -> Tracer:
    group = Operands(a, b)
    return group.wrap(builder().map(on_bool if group.dtype is dtypes.bool_ else op, *group.nodes()))


def div(a: Value, b: Value, rounding_mode: str | None = None) -> Tracer:
    """True division; `rounding_mode` "floor" or "trunc" keeps integers integers."""
    if rounding_mode == "floor":
        return floor_divide(a, b)
    if rounding_mode == "trunc":
        if Operands(a, b).dtype.is_float:
            return trunc(div(a, b))
        return floor_divide(sub(a, fmod(a, b)), b)
    group = Operands(a, b)
    if (
        not group.dtype.is_float
    ):  # numpy divides small integers in float64, unlike its other functions
        group.dtype = default_float(group.container)
    return group.wrap(builder().map("div", *group.nodes()))


def floor_divide(a: Value, b: Value) -> Tracer:
    return map_op("floordiv", a, b)


def remainder(a: Value, b: Value) -> Tracer:
    """With the sign of the divisor, as Python's %."""
    return map_op("mod", a, b)


def fmod(a: Value, b: Value) -> Tracer:
    """With the sign of the dividend, as C's fmod."""
    group = Operands(a, b)
    a, b = group.tracer(a), group.tracer(b)
    if group.dtype.is_float:
        sign = copysign(full_like(a, 1), a)  # not abs(a), which has another slope at 0
        return mul(sign, map_op("mod", mul(sign, a), absolute(b)))
    rest = map_op("mod", a, b)  # the least integer has no absolute value
    other_sign = logical_and(ne(rest, 0), ne(lt(rest, 0), lt(a, 0)))
    return where(other_sign, sub(rest, b), rest)


def power(a: Value, b: Value) -> Tracer:
    """a ** b. Constant exponents become products and roots, as torch and numpy compute them."""
    if is_number(b) and isinstance(a, Tracer):
        exponent = b.item() if hasattr(b, "item") else b
        group = Operands(a, b)
        if isinstance(exponent, int | float) and not isinstance(exponent, bool):
            if exponent == 2 and group.container == "numpy" and not hasattr(b, "dtype"):
                return square(a)
            found = _constant_power(group.tracer(a), exponent)
            if found is not None:
                return found
    return map_op("pow", a, b)


def _constant_power(x: Tracer, exponent: float) -> Tracer | None:
    if exponent == 1:
        return x
    if exponent == 0:
        return full_like(x, 1)
    if exponent == 2:
        return map_op("square", x)
    if exponent == 3:
        return mul(mul(x, x), x)
    if not x.kind.is_float:
        if exponent < 0 and x.container != "scalar":
            raise DTypeError(
                "integers to negative integer powers",
                line=current().error_line(),
                hint="convert to float",
            )
        return None
    roots = {0.5: sqrt, -0.5: rsqrt, -1: reciprocal}
    if exponent in roots:
        return roots[exponent](x)
    return reciprocal(map_op("square", x)) if exponent == -2 else None


def binary_function(op: str, *, floats: bool = False) -> Callable[[Value, Value], Tracer]:
    """The function that applies `op` to two operands, `floats`: converted to floats first."""

    def function(a: Value, b: Value) -> Tracer:
        return map_op(op, a, b, floats=floats)

    function.__name__ = op
    return function


atan2, hypot, copysign, logaddexp, xlogy = (
    binary_function(op, floats=True) for op in ("atan2", "hypot", "copysign", "logaddexp", "xlogy")
)


# --- order ----------------------------------------------------------------------------------------------------------


def maximum(a: Value, b: Value) -> Tracer:
    """The larger; NaN if either is; the gradient of a tie is shared."""
    return map_op("maximum", a, b)


def minimum(a: Value, b: Value) -> Tracer:
    return map_op("minimum", a, b)


def clamp(x: Value, min: Value = None, max: Value = None) -> Tracer:
    """`x` limited to [min, max]; at the limits the gradient is x's. With min > max the result is max."""
    if min is None and max is None:
        raise unsupported("clamp without limits", hint="give min, max or both")
    min, max = _limit(x, min, -1), _limit(x, max, 1)
    if min is None and max is None:
        return array(x)
    limits = [v for v in (min, max) if v is not None]
    out = Operands(x, *limits).tracer(x)
    if min is not None:
        out = map_op("clamp_min", out, min)
    return out if max is None else map_op("clamp_max", out, max)


def _limit(x: Value, limit: Value, direction: int) -> Value:
    """A limit below (-1) or above (1); none for one of numpy's beyond all numbers of x's type."""
    if not isinstance(x, Tracer) or fits(limit, x.kind):
        return limit
    assert isinstance(limit, int)
    if x.container == "torch" or limit * direction < 0:
        fitted(limit, x.kind)
    return None


def clamp_min(x: Value, min: Value) -> Tracer:
    return clamp(x, min=min)


def clamp_max(x: Value, max: Value) -> Tracer:
    return clamp(x, max=max)


# --- comparisons and logic ------------------------------------------------------------------------------------------


def comparison(op: str) -> Callable[[Value, Value], Tracer]:
    def function(a: Value, b: Value) -> Tracer:
        group = Operands(a, b)
        if group.container == "torch" or group.dtype.kind not in ("int", "uint"):
            return map_op(op, a, b)
        # A Python integer is compared as such: it need not fit the type of an array.
        exact = [_beyond(v) for v in (a, b)]
        if any(v is not w for v, w in zip(exact, (a, b))):
            dtype = dtypes.float64
        elif all(fits(v, group.dtype) and not _is_number_given(v) for v in (a, b)):
            dtype = group.dtype
        else:
            dtype = dtypes.int64
        return group.wrap(builder().map(op, *(group.node(v, dtype) for v in exact)))

    function.__name__ = op
    return function


def _beyond(value: Value) -> Value:
    """Infinity for an integer that no type holds."""
    if fits(value, dtypes.int64):
        return value
    assert isinstance(value, int)
    return math.inf if value > 0 else -math.inf


def _is_number_given(value: Value) -> bool:
    """Whether a value is a Python integer among the arguments, or a size, which may be any."""
    if isinstance(value, Tracer):
        return value.container == "scalar" and value.kind is dtypes.int64
    return isinstance(value, SymbolicInt)


eq, ne, lt, le, gt, ge = map(comparison, ("eq", "ne", "lt", "le", "gt", "ge"))
bitwise_and, bitwise_or, bitwise_xor = map(binary_function, ("and", "or", "xor"))


def _shift(op: str) -> Callable[[Value, Value], Tracer]:
    def function(a: Value, b: Value) -> Tracer:
        group = Operands(a, b)
        if group.dtype is dtypes.bool_ and group.container == "numpy":
            group.dtype = dtypes.int8
        check_accepts(op, group.dtype)
        return group.wrap(builder().map(op, *group.nodes()))

    function.__name__ = op
    return function


bitwise_left_shift, bitwise_right_shift = map(_shift, ("lshift", "rshift"))


def bitwise_not(x: Value) -> Tracer:
    return map_op("not", x)


def truth(x: Value) -> Tracer:
    """Whether each element is not zero."""
    x = array(x)
    return x if x.kind is dtypes.bool_ else ne(x, 0)


def logical_and(a: Value, b: Value) -> Tracer:
    return map_op("and", truth(a), truth(b))


def logical_or(a: Value, b: Value) -> Tracer:
    return map_op("or", truth(a), truth(b))


def logical_xor(a: Value, b: Value) -> Tracer:
    return map_op("xor", truth(a), truth(b))


def logical_not(x: Value) -> Tracer:
    return map_op("not", truth(x))


# --- selection ------------------------------------------------------------------------------------------------------


def where(condition: Value, a: Value = None, b: Value = None) -> Tracer:
    """`a` where the condition holds, else `b`; no derivative flows from the branch not taken."""
    if a is None or b is None:
        raise unsupported(
            "where(condition) without values: its shape depends on data", hint="give both values"
        )
    condition = truth(condition)
    shaped = Operands(condition, a, b)
    mask = shaped.node(condition, dtypes.bool_)
    dtype = common_dtype((a, b), shaped.container)
    values = [shaped.node(v, dtype) for v in (a, b)]
    return shaped.wrap(builder().map("where", mask, *values))
