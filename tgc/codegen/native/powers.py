"""pow, roots and remainders of the native engine.

pow(x, y) is exp(y log x) with log x and the product in two parts each, as exp magnifies the error of its argument by
the argument. The products of parts are T. J. Dekker's, with fused multiplication (A floating-point technique for
extending the available precision, Numer. Math. 18 (1971) 224-242). The coefficients are minimax fits, by Remez exchange
in 160-bit arithmetic, of the function named above each.
"""

from __future__ import annotations

import math

from tgc.codegen.native.exponentials import (
    LN2_PARTS,
    exp_polynomial,
    is_single,
    log_parts,
    reduce_exp,
    scale,
)
from tgc.codegen.native.vectors import Code, Value

INF, NAN = math.inf, math.nan
# 2/3 in two parts
TWO_THIRDS = {
    32: (0.6666666865348816, -1.9868215517249155e-08),
    64: (0.6666666666666666, 3.700743415417188e-17),
}
# ((2 atanh(s) - 2 s) / s**3 - 2/3) / s**2 in s**2 on |s| <= 1/5, for its part in the whole: 2**-33.5 and 2**-61.1
LOG = {
    32: (0.4000040292739868, 0.28524771332740784, 0.23888130486011505),
    64: (
        0.4000000000002168,
        0.28571428562135703,
        0.22222223736770172,
        0.18181693068427987,
        0.153903745345104,
        0.1318407454079178,
        0.13782311531977842,
    ),
}

Parts = tuple[Value, Value]


def total(large: Value, small: Value) -> Parts:
    """Their sum and what its rounding lost; |large| >= |small|, or large is zero."""
    high = large + small
    return high, small - (high - large)


def product(a: Parts, b: Parts) -> Parts:
    high = a[0] * b[0]
    low = a[0].fma(b[0], -high)
    return high, a[0].fma(b[1], a[1].fma(b[0], low))


def log_in_parts(x: Value) -> Parts:
    """log x, of finite x > 0, to about twice the precision."""
    bits = x.code.format.bits
    k, f = log_parts(x)
    # s = f / (2 + f); 2 + f in two parts too.
    below = f + 2.0
    rest = f - (below - 2.0)
    s = f / below
    ratio = (s, (s.fma(-below, f) - s * rest) / below)
    z = product(ratio, ratio)
    tail = z[0] * z[0].polynomial(LOG[bits])
    high, low = TWO_THIRDS[bits]
    factor, lost = total(x.code.constant(high, "f"), tail)
    cubic = product(product(z, (factor, lost + low)), ratio)
    first, second = total(ratio[0] + ratio[0], cubic[0])
    second = second + (cubic[1] + (ratio[1] + ratio[1]))
    high, low = LN2_PARTS[bits]
    whole, lost = total(k * high, first)
    return whole, lost + k.fma(low, second)


def pow(x: Value, y: Value) -> Value:
    """C's pow, edge values as C99 has them."""
    code = x.code
    a = x.absolute()
    high, low = log_in_parts(a)
    # Zero and infinity by their logarithms, which leave nothing to the second part.
    high = a.equals(0.0).where(-INF, (a < INF).where(high, a))
    exponent = y * high
    rest = y.fma(high, -exponent) + y * low
    bound = 110.0 if is_single(code) else 760.0
    rest = (exponent.absolute() < bound).where(rest, 0.0)
    n, r = reduce_exp(exponent.least(bound).most(-bound), 2 * code.format.bias)
    value = scale(exp_polynomial(r + rest), n)
    value = a.equals(1.0).where(1.0, value)
    whole = code.intrinsic("trunc", y).equals(y)
    half = y * 0.5
    odd = (code.intrinsic("trunc", half).equals(half)).where(code.constant(0, "i"), x.as_bits())
    odd = whole.where(odd, code.constant(0, "i"))
    value = value.with_sign_of(odd.as_float())
    undefined = (x < 0.0) & (x > -INF)
    value = undefined.where(whole.where(value, NAN), value)
    value = (x.equals(x) & y.equals(y)).where(value, NAN)
    one = y.equals(0.0) | x.equals(1.0)
    return one.where(1.0, value)


def integer_pow(x: Value, y: Value) -> Value:
    """By repeated squaring, modulo the type; a negative exponent leaves 1 and -1, and zero of everything else."""

    def step(power: Value, square: Value, rest: Value) -> tuple[Value, list[Value]]:
        left = rest >> 1
        power = (rest & 1).differs(0).where(power * square, power)
        return left.differs(0), [power, square * square, left]

    one, negative = x.code.constant(1, "i"), y < 0
    power, *_ = x.code.repeated([one, x, negative.where(0, y)], step)
    unit = (x.equals(-1) & (y & 1).differs(0)).where(-1, one)
    inverse = (x.equals(1) | x.equals(-1)).where(unit, 0)
    return negative.where(inverse, power)


def cbrt(x: Value) -> Value:
    """Halley's iteration from a third of the exponent; denormals are scaled by a cube."""
    form = x.code.format
    a = x.absolute()
    # Scaled by a cube: no denormal, and nothing that overflows below.
    up = 3 * ((form.fraction + 12) // 3)
    small = a < 2.0 ** (8 - form.bias)
    a = a * small.where(x.code.constant(2.0**up, "f"), 0.125)
    # A third of the upper bits, as a float: division of integers is not an instruction of vectors.
    drop = form.bits // 2 - 6
    magic = form.pattern(form.magic)
    upper = ((a.as_bits() >> drop) + magic).as_float() - form.magic
    third = (upper.fma(1 / 3, form.magic).as_bits() - magic) << drop
    start = int((2 * form.bias / 3 - 0.0331) * 2**form.fraction)
    root = (third + start).as_float()
    for _ in range(2 if is_single(x.code) else 3):
        cube = root * root * root
        # The quotient is a small correction, so that its rounding does not count.
        root = root + root * ((a - cube) / (cube + cube + a))
    root = root * small.where(x.code.constant(2.0 ** (-up // 3), "f"), 2.0)
    ordinary = (a < INF) & (a > 0.0)
    return ordinary.where(root.with_sign_of(x), x)


def hypot(x: Value, y: Value) -> Value:
    """sqrt(x**2 + y**2), scaled by powers of two where the squares leave the range."""
    a, b = x.absolute(), y.absolute()
    # In this order, so that exchanged operands give the same bits.
    top, bottom = (a > b).where(a, b), (a > b).where(b, a)
    half = x.code.format.bias // 2
    large, small = top > 2.0 ** (half - 2), top < 2.0 ** (-half // 2)
    shift = half + x.code.format.fraction // 2
    factor = large.where(2.0**-shift, small.where(x.code.constant(2.0**shift, "f"), 1.0))
    back = large.where(2.0**shift, small.where(x.code.constant(2.0**-shift, "f"), 1.0))
    top, bottom = top * factor, bottom * factor
    value = top.fma(top, bottom * bottom).sqrt() * back
    return (a.equals(INF) | b.equals(INF)).where(INF, value)


def remainder(a: Value, b: Value) -> Value:
    """a - b trunc(a / b), exact: fused where the quotient is an exact integer, else by the C library's fmod."""
    code: Code = a.code
    limit = 2.0 ** (code.format.fraction - 1)
    ratio = a / b
    quotient = code.intrinsic("trunc", ratio)
    size = (-quotient).fma(b, a)
    # A quotient rounded up to an integer is one too many: the remainder has the other sign.
    wrong = ((size.as_bits() ^ a.as_bits()) < 0) & ((size > 0.0) | (size < 0.0))
    step = b.absolute().with_sign_of(a)
    near = wrong.where(size + step, size).with_sign_of(a)
    # A finite dividend of an infinite divisor is its own remainder.
    near = (b.absolute().equals(INF) & (a.absolute() < INF)).where(a, near)
    far = (ratio.absolute() >= limit) & (a.absolute() < INF)
    return code.rarely(
        far,
        near,
        "remainder.far",
        [a, b],
        lambda p, q: p.code.emit(f"frem double {p.text}, {q.text}", "f"),
    )


def mod(a: Value, b: Value) -> Value:
    """The remainder with the sign of the divisor, as in Python."""
    return _to_divisor(remainder(a, b), b)[0]


def _to_divisor(r: Value, b: Value) -> tuple[Value, Value]:
    """The remainder with the sign of b, and whether that changed it."""
    other = ((r > 0.0) & (b < 0.0)) | ((r < 0.0) & (b > 0.0))
    return other.where(r + b, r), other


def floordiv(a: Value, b: Value) -> Value:
    """The quotient rounded down, from the exact remainder, so that no rounding carries it over."""
    r = remainder(a, b)
    _, other = _to_divisor(r, b)
    quotient = (a - r) / b
    quotient = other.where(quotient - 1.0, quotient)
    whole = a.code.intrinsic("floor", quotient)
    whole = (quotient - whole > 0.5).where(whole + 1.0, whole)
    ratio = a / b
    whole = quotient.equals(0.0).where(quotient.with_sign_of(ratio), whole)
    return b.equals(0.0).where(ratio, whole)
