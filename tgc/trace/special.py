"""Special functions and small formulas, each a composition of the operations in elementwise.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tgc.errors import DTypeError, ShapeError
from tgc.ir import dtypes
from tgc.trace.core import (
    Operands,
    Value,
    array,
    cast,
    full_like,
    is_number,
)
from tgc.trace.elementwise import (
    absolute,
    add,
    as_float,
    copysign,
    div,
    eq,
    erfc,
    exp2,
    floor_divide,
    ge,
    gt,
    isfinite,
    isnan,
    le,
    log,
    log1p,
    logaddexp,
    logical_and,
    logical_or,
    lt,
    mul,
    neg,
    power,
    remainder,
    scaled,
    sin,
    sub,
    trunc,
    where,
)
from tgc.trace.state import current
from tgc.trace.tracer import Tracer

LN2 = math.log(2.0)


# --- one operand ----------------------------------------------------------------------------------------------------


def isposinf(x: Value) -> Tracer:
    return eq(x, math.inf)


def isneginf(x: Value) -> Tracer:
    return eq(x, -math.inf)


def signbit(x: Value) -> Tracer:
    x = array(x)
    return lt(copysign(1.0, x) if x.kind.is_float else x, 0)


def nan_to_num(
    x: Value, nan: float | None = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tracer:
    """NaN and infinities replaced; by default by 0 and the largest finite values."""
    x = array(x)
    if not x.kind.is_float:
        return x
    largest = x.kind.largest
    x = where(isnan(x), 0.0 if nan is None else nan, x)
    x = where(eq(x, math.inf), largest if posinf is None else posinf, x)
    return where(eq(x, -math.inf), -largest if neginf is None else neginf, x)


def frac(x: Value) -> Tracer:
    return sub(x, trunc(x))


def deg2rad(x: Value) -> Tracer:
    return mul(as_float(x), math.pi / 180.0)


def rad2deg(x: Value) -> Tracer:
    return mul(as_float(x), 180.0 / math.pi)


def sinc(x: Value) -> Tracer:
    """sin(πx) / (πx), and 1 at 0."""
    scaled = mul(x, math.pi)
    zero = eq(scaled, 0)
    safe = where(zero, 1.0, scaled)
    return where(zero, 1.0, div(sin(safe), safe))


def logit(x: Value, eps: float | None = None) -> Tracer:
    """log(x / (1 - x)), of x clamped to [eps, 1 - eps]."""
    x = as_float(x)
    if eps is not None:
        x = where(lt(x, eps), eps, where(gt(x, 1.0 - eps), 1.0 - eps, x))
    return log(div(x, sub(1, x)))


def ndtr(x: Value) -> Tracer:
    """The normal distribution function."""
    return mul(0.5, erfc(mul(neg(as_float(x)), math.sqrt(0.5))))


def entr(x: Value) -> Tracer:
    """-x log x; 0 at 0, -inf below."""
    x = as_float(x)
    inside = gt(x, 0)
    value = neg(mul(x, log(where(inside, x, 1.0))))
    outside = where(eq(x, 0), 0.0, where(lt(x, 0), -math.inf, x))
    return where(inside, value, outside)


# --- two operands and more ------------------------------------------------------------------------------------------


def divmod_(a: Value, b: Value) -> tuple[Tracer, Tracer]:
    return floor_divide(a, b), remainder(a, b)


def float_power(a: Value, b: Value) -> Tracer:
    """a ** b in float64."""
    return power(cast(array(a), dtypes.float64), cast(array(b), dtypes.float64))


def logaddexp2(a: Value, b: Value) -> Tracer:
    return div(logaddexp(mul(as_float(a), LN2), mul(as_float(b), LN2)), LN2)


def xlog1py(a: Value, b: Value) -> Tracer:
    """a log(1 + b), and 0 where a is 0 and b is no NaN."""
    none = logical_and(eq(a, 0), eq(b, b))
    return where(none, 0.0, mul(a, log1p(where(none, 0.0, as_float(b)))))


def ldexp(a: Value, b: Value) -> Tracer:
    """a 2^b."""
    a = as_float(a)
    return mul(a, cast(exp2(b), a.kind))


def heaviside(x: Value, values: Value) -> Tracer:
    """0 below zero, 1 above, `values` at zero; of NaN 0 in torch, NaN in numpy."""
    group = Operands(x, values)
    if group.container == "numpy":
        group.floating()
    x, values = group.tracer(x), group.tracer(values)
    step = cast(gt(x, 0), group.dtype)
    return where(eq(x, 0), values, step if group.container == "torch" else where(isnan(x), x, step))


def fmax(a: Value, b: Value) -> Tracer:
    """The larger, ignoring NaN."""
    group = Operands(a, b)
    a, b = group.tracer(a), group.tracer(b)
    return where(logical_or(ge(a, b), isnan(b)), a, b)


def fmin(a: Value, b: Value) -> Tracer:
    group = Operands(a, b)
    a, b = group.tracer(a), group.tracer(b)
    return where(logical_or(le(a, b), isnan(b)), a, b)


def isclose(
    a: Value, b: Value, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tracer:
    group = Operands(a, b)
    a, b = group.tracer(a), group.tracer(b)
    if group.dtype is dtypes.bool_:
        return eq(a, b)
    distance = absolute(sub(a, b))
    close = logical_or(eq(a, b), le(distance, add(atol, absolute(mul(rtol, b)))))
    close = logical_and(close, logical_or(eq(a, b), isfinite(distance)))
    if equal_nan:
        close = logical_or(close, logical_and(isnan(a), isnan(b)))
    return close


def lerp(start: Value, end: Value, weight: Any) -> Tracer:
    """start + weight (end - start), from the nearer end, as torch computes it."""
    distance = sub(end, start)
    if is_number(weight):
        if weight < 0.5:
            return add(start, mul(weight, distance))
        return sub(end, mul(distance, 1 - weight))
    near = lt(absolute(weight), 0.5)
    return where(near, add(start, mul(weight, distance)), sub(end, mul(distance, sub(1, weight))))


def addcmul(x: Value, a: Value, b: Value, value: Value = 1) -> Tracer:
    """x + value a b."""
    return add(x, scaled(mul(a, b), value))


def addcdiv(x: Value, a: Value, b: Value, value: Value = 1) -> Tracer:
    """x + value a / b."""
    return add(x, scaled(div(a, b), value))


# --- selection ------------------------------------------------------------------------------------------------------


def select(condlist: Sequence[Value], choicelist: Sequence[Value], default: Value = 0) -> Tracer:
    """Of the first condition that holds, the choice; else the default. All choices have one type."""
    if not condlist or len(condlist) != len(choicelist):
        raise ShapeError(
            f"select takes as many choices as conditions, not {len(choicelist)} for {len(condlist)}",
            line=current().error_line(),
        )
    choices = Operands(*choicelist, default)
    chosen = choices.tracer(default)
    for condition, choice in zip(reversed(condlist), reversed(choicelist)):
        chosen = where(condition, choices.tracer(choice), chosen)
    return chosen


def masked_fill(x: Value, mask: Value, value: Value) -> Tracer:
    """`x` with `value` where the mask holds; keeps x's type."""
    x, mask = array(x), array(mask)
    if mask.kind is not dtypes.bool_:
        raise DTypeError("masked_fill needs a bool mask", line=current().error_line())
    value = cast(value, x.kind) if isinstance(value, Tracer) else full_like(x, value)
    return where(mask, value, x)
