"""Activation functions, by their formulas over other operations."""

from __future__ import annotations

import math

from tgc.trace.core import Operands, Value, array, map_op, refuse_bool, unsupported
from tgc.trace.elementwise import (
    absolute,
    add,
    div,
    erf,
    expm1,
    ge,
    gt,
    le,
    logical_and,
    lt,
    mul,
    neg,
    sigmoid,
    sub,
    tanh,
    where,
)
from tgc.trace.movement import halves, reshape
from tgc.trace.tracer import Tracer

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def relu(x: Value) -> Tracer:
    x = array(x)
    refuse_bool(x, "relu")
    return x if x.kind.kind == "uint" else map_op("relu", x)


def relu6(x: Value) -> Tracer:
    return hardtanh(x, 0.0, 6.0)


def leaky_relu(x: Value, negative_slope: float = 0.01) -> Tracer:
    return where(gt(x, 0), x, mul(x, negative_slope))


def prelu(x: Value, weight: Value) -> Tracer:
    """Leaky with a learnt slope, one for all or one per channel (axis 1)."""
    x, weight = array(x), array(weight)
    if weight.ndim == 1 and x.ndim > 1 and weight.node.shape != (1,):
        weight = reshape(weight, (-1,) + (1,) * (x.ndim - 2))
    elif weight.ndim == 1 and x.ndim != 1:
        weight = reshape(weight, ())
    return where(gt(x, 0), x, mul(weight, x))


def elu(x: Value, alpha: float = 1.0) -> Tracer:
    return where(gt(x, 0), x, mul(alpha, expm1(x)))


def celu(x: Value, alpha: float = 1.0) -> Tracer:
    return where(gt(x, 0), x, mul(alpha, expm1(div(x, alpha))))


def selu(x: Value) -> Tracer:
    return mul(SELU_SCALE, elu(x, SELU_ALPHA))


def gelu(x: Value, approximate: str = "none") -> Tracer:
    """x Φ(x), by erf or by its tanh approximation."""
    x = array(x)
    if approximate == "tanh":
        inner = mul(math.sqrt(2.0 / math.pi), add(x, mul(0.044715, mul(mul(x, x), x))))
        return mul(mul(0.5, x), add(1.0, tanh(inner)))
    if approximate != "none":
        raise unsupported(f'gelu(approximate="{approximate}")', hint='"none" or "tanh"')
    return mul(mul(0.5, x), add(1.0, erf(mul(x, math.sqrt(0.5)))))


def silu(x: Value) -> Tracer:
    return mul(x, sigmoid(x))


def softplus(x: Value, beta: float = 1.0, threshold: float = 20.0) -> Tracer:
    """log(1 + exp(beta x)) / beta.

    torch's threshold of 20, beyond which it returns x, only avoids an overflow that does not occur here; another
    threshold is obeyed.
    """
    x = array(x)
    scaled = x if beta == 1 else mul(x, beta)
    soft = map_op("softplus", scaled, floats=True)
    soft = soft if beta == 1 else div(soft, beta)
    return soft if threshold == 20 else where(gt(scaled, threshold), x, soft)


def logsigmoid(x: Value) -> Tracer:
    return neg(softplus(neg(x)))


def mish(x: Value) -> Tracer:
    return mul(x, tanh(softplus(x)))


def softsign(x: Value) -> Tracer:
    return div(x, add(1, absolute(x)))


def tanhshrink(x: Value) -> Tracer:
    return sub(x, tanh(x))


def hardtanh(x: Value, min_val: float = -1.0, max_val: float = 1.0) -> Tracer:
    """`x` limited to [min_val, max_val]; at the limits the gradient is zero, unlike clamp's."""
    group = Operands(x)
    x = group.tracer(x)
    return where(le(x, min_val), min_val, where(ge(x, max_val), max_val, x))


def hardsigmoid(x: Value) -> Tracer:
    return div(relu6(add(x, 3)), 6)


def hardswish(x: Value) -> Tracer:
    return div(mul(x, relu6(add(x, 3))), 6)


def hardshrink(x: Value, lambd: float = 0.5) -> Tracer:
    inside = logical_and(ge(x, -lambd), le(x, lambd))
    return where(inside, 0.0, x)


def softshrink(x: Value, lambd: float = 0.5) -> Tracer:
    return where(gt(x, lambd), sub(x, lambd), where(lt(x, -lambd), add(x, lambd), mul(x, 0)))


def threshold(x: Value, threshold: float, value: float) -> Tracer:
    return where(le(x, threshold), value, x)


def glu(x: Value, axis: int = -1) -> Tracer:
    first, second = halves(x, axis)
    return mul(first, sigmoid(second))
