"""sin, cos, tan and their inverses for the native engine.

Arguments are reduced by Cody and Waite's scheme with fused products, good for thousands of turns; an argument beyond,
which training never sees, leaves the vector and is reduced by the digits of 2/pi that matter to it (M. Payne and
R. Hanek, Radian reduction for trigonometric functions, SIGNUM 18 (1983) 19-24). The coefficients are minimax fits, by
Remez exchange in 160-bit arithmetic, of the function named above each.
"""

from __future__ import annotations

import math
from functools import partial

from tgc.codegen.native.exponentials import keep_tiny
from tgc.codegen.native.vectors import DOUBLE, Code, Value

HALF_PI = math.pi / 2
# pi in three parts, all positive, so that -0 stays -0; half of each are those of pi / 2.
PI_PARTS = {
    32: (3.141592502593994, 1.5099578831723193e-07, 1.078060505991553e-14),
    64: (3.141592653589793, 1.224646799147353e-16, 2.1657133478438278e-32),
}
# The largest argument that reduction with those parts is right for.
FAR = {32: 2.0**17, 64: 2.0**27}
# 2/pi, 1216 binary digits after the point.
TWO_OVER_PI = int(
    "a2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163abdebbc561b7246e3a424d"
    "d2e006492eea09d1921cfe1deb1cb129a73ee88235f52ebb4484e99c7026b45f7e413991d639"
    "835339f49c845f8bbdf9283b1ff897ffde05980fef2f118b5a0a6d1f6d367ecf27cb09b74f46"
    "3f669e5fea2d7527bac7ebe5f17b3d0739f78a5292ea6bfb5fb11f8d5d0856033046fc7b6bab",
    16,
)
# (sin(r) / r - 1) / r**2 in r**2 on |r| <= pi / 2: 2**-27.2 and 2**-61.7
SIN_WIDE = {
    32: (-0.16666658222675323, 0.008333041332662106, -0.000198074005311355, 2.6002385311585385e-06),
    64: (
        -0.16666666666666666,
        0.008333333333333194,
        -0.00019841269841208475,
        2.755731921091192e-06,
        -2.5052106844100872e-08,
        1.6058937896451022e-10,
        -7.642935733324289e-13,
        2.7205046982085074e-15,
    ),
}
# the same on |r| <= pi / 4: 2**-27.7 and 2**-57.4
SIN = {
    32: (-0.16666652262210846, 0.008332033641636372, -0.0001949773431988433),
    64: (
        -0.16666666666666619,
        0.00833333333331868,
        -0.00019841269826768998,
        2.755731262542067e-06,
        -2.5050589865653622e-08,
        1.5887000506484878e-10,
    ),
}
# (cos(r) - 1 + r**2 / 2) / r**4 in r**2 on |r| <= pi / 4: 2**-32.9 and 2**-63.5
COS = {
    32: (0.04166664183139801, -0.0013887177919968963, 2.4416502128588036e-05),
    64: (
        0.041666666666666574,
        -0.0013888888888869077,
        2.4801587286272533e-05,
        -2.755731341304286e-07,
        2.087559444912664e-09,
        -1.1352939278641812e-11,
    ),
}
# (asin(s) / s - 1) / s**2 in s**2 on |s| <= 1/2: 2**-27.6 and 2**-55.9
ASIN = {
    32: (
        0.16666753590106964,
        0.07495241612195969,
        0.045477088540792465,
        0.024147674441337585,
        0.042218420654535294,
    ),
    64: (
        0.16666666666665383,
        0.07500000000343082,
        0.044642856823457956,
        0.030381959332019117,
        0.022371753510282012,
        0.01735977123510856,
        0.013884597738357204,
        0.012173281451013138,
        0.006510852847750216,
        0.019573888927731476,
        -0.016294023566971304,
        0.03195891871328167,
    ),
}
# (atan(t) / t - 1) / t**2 in t**2 on |t| <= tan(pi / 8): 2**-25.6 and 2**-59.5
ATAN = {
    32: (-0.33332955837249756, 0.19977901875972748, -0.1387956589460373, 0.08059313148260117),
    64: (
        -0.333333333333332,
        0.1999999999995391,
        -0.14285714280230155,
        0.11111110785175561,
        -0.09090897807658607,
        0.07692061107198157,
        -0.06663114176587033,
        0.05847962521756025,
        -0.050396313299180824,
        0.038072757315175336,
        -0.01791606095457929,
    ),
}


def minus_multiple(x: Value, n: Value, factor: float) -> Value:
    """x - n factor pi. The first product is exact with its sum, the others are as small as they are short."""
    for part in PI_PARTS[x.code.format.bits]:
        x = n.fma(-part * factor, x)
    return x


def sin_near(x: Value) -> Value:
    """(-1)**n sin(|x| - n pi), with the sign of x; of |x| <= FAR."""
    magic = x.code.format.magic
    a = x.absolute()
    shifted = a.fma(1 / math.pi, magic)
    near = _alternating(a, shifted, shifted - magic)
    return (near ^ (x.as_bits() & -(1 << (x.code.format.bits - 1)))).as_float()


def cos_near(x: Value) -> Value:
    """(-1)**(n + 1) sin(|x| - (n + 1/2) pi), of |x| <= FAR."""
    magic = x.code.format.magic
    a = x.absolute()
    shifted = a.fma(1 / math.pi, -0.5) + (magic + 1.0)
    return _alternating(a, shifted, shifted - (magic + 1.0) + 0.5).as_float()


def sin(x: Value) -> Value:
    return _or_far(x, sin_near(x), "sin")


def cos(x: Value) -> Value:
    return _or_far(x, cos_near(x), "cos")


def _or_far(x: Value, near: Value, name: str) -> Value:
    is_far = x.absolute() > FAR[x.code.format.bits]
    return x.code.rarely(is_far, near, f"{name}.far", [x], partial(far, name=name))


def _alternating(x: Value, shifted: Value, n: Value) -> Value:
    """The bits of sin(x - n pi), negated where the integer in the low bits of `shifted` is odd."""
    form = x.code.format
    r = minus_multiple(x, n, 1.0)
    z = r * r
    value = (r * z).fma(z.polynomial(SIN_WIDE[form.bits]), r)
    return value.as_bits() ^ (shifted.as_bits() << (form.bits - 1))


def sin_cos(r: Value) -> tuple[Value, Value]:
    """Both, of |r| <= pi / 4."""
    bits = r.code.format.bits
    z = r * r
    sine = (r * z).fma(z.polynomial(SIN[bits]), r)
    return sine, (z * z).fma(z.polynomial(COS[bits]), z.fma(-0.5, 1.0))


def tan(x: Value) -> Value:
    form = x.code.format
    shifted = x.fma(2 / math.pi, form.magic)
    sine, cosine = sin_cos(minus_multiple(x, shifted - form.magic, 0.5))
    near = keep_tiny(x, _tangent(shifted.as_bits(), sine, cosine))
    return _or_far(x, near, "tan")


def _tangent(n: Value, sine: Value, cosine: Value) -> Value:
    even = (n & 1).equals(0)
    return even.where(sine, -cosine) / even.where(cosine, sine)


def far(x: Value, name: str) -> Value:
    """The function of one double of any size: with |x| = m 2**e, the digits of 2/pi around 2**-e times m, modulo 4."""
    code = x.code
    a = x.absolute()
    n, r = reduce_far(code, a.as_bits())
    sine, cosine = sin_cos(r)
    if name == "tan":
        value = _tangent(n, sine, cosine)
    else:
        n = n + (1 if name == "cos" else 0)
        value = (n & 1).equals(0).where(sine, cosine)
        value = (value.as_bits() ^ ((n & 2) << 62)).as_float()
    if name != "cos":
        value = (value.as_bits() ^ (x.as_bits() & -(1 << 63))).as_float()
    return (a < math.inf).where(value, math.nan)


def reduce_far(code: Code, bits: Value) -> tuple[Value, Value]:
    """n modulo 4 and r with x = n pi / 2 + r, of the bits of a double from 2**10 on."""
    # 64 zeros before the point keep every position positive; three words are read from any byte on.
    digits = "".join(f"\\{byte:02X}" for byte in TWO_OVER_PI.to_bytes(160, "little"))
    code.globals.add(f'@two_over_pi = private unnamed_addr constant [160 x i8] c"{digits}"')
    exponent = bits >> 52
    position = 1088 + 1013 - (exponent > 1013).where(exponent, code.constant(1013, "i"))
    byte = (position + 7) >> 3
    # What the byte is off by is made up for by the mantissa, which leaves eleven bits.
    mantissa = ((bits & DOUBLE.fraction_mask) | (1 << 52)) << ((byte << 3) - position)
    address = code.raw(f"getelementptr i8, ptr @two_over_pi, i64 {byte.text}")
    factor = code.raw(f"zext i64 {mantissa.text} to i128")
    product = "0"
    words = []
    for offset in (0, 8, 16):
        place = code.raw(f"getelementptr i8, ptr {address}, i64 {offset}")
        word = code.raw(f"zext i64 {code.raw(f'load i64, ptr {place}, align 1')} to i128")
        carry = code.raw(f"lshr i128 {product}, 64")
        product = code.raw(f"add i128 {code.raw(f'mul i128 {word}, {factor}')}, {carry}")
        words.append(product)
    # Modulo 2**192, and of that the upper 128 bits: two before the binary point, 126 after.
    middle = code.raw(f"and i128 {words[1]}, {(1 << 64) - 1}")
    value = code.raw(f"or i128 {code.raw(f'shl i128 {words[2]}, 64')}, {middle}")
    rounded = code.raw(f"lshr i128 {code.raw(f'add i128 {value}, {1 << 125}')}, 126")
    n = Value(code, code.raw(f"trunc i128 {rounded} to i64"), "i")
    fraction = code.raw(f"shl i128 {value}, 2")
    negative = code.raw(f"icmp slt i128 {fraction}, 0")
    opposite = code.raw(f"sub i128 0, {fraction}")
    size = code.raw(f"select i1 {negative}, i128 {opposite}, i128 {fraction}")
    nonzero = code.raw(f"or i128 {size}, 1")
    code.declared.add("declare i128 @llvm.ctlz.i128(i128, i1)")
    zeros = code.raw(f"call i128 @llvm.ctlz.i128(i128 {nonzero}, i1 true)")
    leading = code.raw(f"lshr i128 {code.raw(f'shl i128 {nonzero}, {zeros}')}, 65")
    whole = code.raw(f"trunc i128 {leading} to i64")
    number = Value(code, code.raw(f"sitofp i64 {whole} to double"), "f")
    kept = code.raw(f"fptosi double {number.text} to i64")
    extra = Value(
        code, code.raw(f"sitofp i64 {code.raw(f'sub i64 {whole}, {kept}')} to double"), "f"
    )
    scale = ((1023 - 63) - Value(code, code.raw(f"trunc i128 {zeros} to i64"), "i")) << 52
    # Times pi / 2 in two parts, rounded once.
    high, low = (part * 0.5 for part in PI_PARTS[64][:2])
    turned = number * high
    rest = number.fma(high, -turned) + number.fma(low, extra * high)
    r = (turned + rest) * scale.as_float()
    return n, Value(code, negative, "b").where(-r, r)


def _arcsine(s: Value, z: Value) -> Value:
    """asin(s) of |s| <= 1/2, given z = s * s."""
    return s.fma(z * z.polynomial(ASIN[s.code.format.bits]), s)


def _halved(a: Value) -> tuple[Value, Value, Value]:
    """Whether |x| > 1/2, and s and s**2: |x| itself, or sqrt((1 - |x|) / 2), for acos(a) = 2 asin(s)."""
    large = a > 0.5
    z = large.where((1.0 - a) * 0.5, a * a)
    return large, large.where(z.sqrt(), a), z


def asin(x: Value) -> Value:
    large, s, z = _halved(x.absolute())
    value = _arcsine(s, z)
    return large.where(value.fma(-2.0, HALF_PI), value).with_sign_of(x)


def acos(x: Value) -> Value:
    """2 asin(s), pi - 2 asin(s), or pi/2 - asin(x); pi/2 in two parts, as the difference may be small."""
    large, s, z = _halved(x.absolute())
    value = _arcsine(s, z)
    high, low = (part * 0.5 for part in PI_PARTS[x.code.format.bits][:2])
    twice = value + value
    outer = (x < 0.0).where(2 * high - (twice - 2 * low), twice)
    return large.where(outer, high - (value.with_sign_of(x) - low))


def angle(lesser: Value, greater: Value) -> Value:
    """atan(lesser / greater) of 0 <= lesser <= greater, one of them not zero and one finite."""
    # Above tan(pi / 8): atan(q) = pi / 4 + atan((q - 1) / (q + 1)).
    upper = lesser > greater * 0.41421356
    t = upper.where(lesser - greater, lesser) / upper.where(lesser + greater, greater)
    z = t * t
    value = t.fma(z * z.polynomial(ATAN[t.code.format.bits]), t)
    return upper.where(value + math.pi / 4, value)


def atan(x: Value) -> Value:
    a = x.absolute()
    value = angle(a.least(1.0), a.most(1.0))
    return (a > 1.0).where(HALF_PI - value, value).with_sign_of(x)


def atan2(y: Value, x: Value) -> Value:
    code = x.code
    a, b = y.absolute(), x.absolute()
    steep = a > b
    lesser, greater = steep.where(b, a), steep.where(a, b)
    # Equal ones, of which the quotient is not defined at 0 and infinity, become 1 / 1 and 0 / 1.
    same = lesser.equals(greater)
    lesser = same.where((greater > 0.0).where(code.constant(1.0, "f"), 0.0), lesser)
    greater = same.where(1.0, greater)
    # Their sum must not overflow; what is lost below is lost of a quotient of zero.
    huge = greater > 2.0**100
    lesser, greater = huge.where(lesser * 0.25, lesser), huge.where(greater * 0.25, greater)
    value = angle(lesser, greater)
    value = steep.where(HALF_PI - value, value)
    value = (x.as_bits() < 0).where(math.pi - value, value)
    return (x.equals(x) & y.equals(y)).where(value.with_sign_of(y), math.nan)
