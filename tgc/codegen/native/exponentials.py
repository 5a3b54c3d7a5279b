"""exp, log and what is made of them, as branch-free polynomials in float32 and float64.

The reductions are the textbook ones (Cody and Waite, Software Manual for the Elementary Functions; Sun's fdlibm for the
float64 logarithm): exp(x) = 2**n exp(r) with n = round(x / ln 2), and log(2**k (1 + f)) = k ln 2 + log(1 + f) with
1 + f in [2/3, 4/3). The coefficients are minimax fits, by Remez exchange in 160-bit arithmetic, of the function named
above each, on its interval, for relative error of the result.
"""

from __future__ import annotations

import math

from tgc.codegen.native.vectors import Code, Value

INF, NAN = math.inf, math.nan
LN2, LOG2_E = 0.6931471805599453, 1.4426950408889634
# ln 2 and log10 2 in two parts, the first short enough that its product with an exponent is exact.
LN2_PARTS = {
    32: (0.693359375, -2.12194440e-4),
    64: (6.93147180369123816490e-01, 1.90821492927058770002e-10),
}
LOG10_2_PARTS = {
    32: (0.301025390625, 4.605038981195214e-06),
    64: (0.3010299955494702, 1.1451100898021838e-10),
}

# (exp(r) - 1 - r) / r**2 on |r| <= ln(2) / 2: 2**-26.1 and 2**-61.7
EXP = {
    32: (
        0.5,
        0.16666541993618011,
        0.04166627675294876,
        0.008366776630282402,
        0.0013946779072284698,
    ),
    64: (
        0.5,
        0.16666666666666677,
        0.0416666666666667,
        0.008333333333321341,
        0.0013888888888866481,
        0.00019841269886944818,
        2.480158736131731e-05,
        2.7557243307828995e-06,
        2.7557242071422804e-07,
        2.510937566989628e-08,
        2.0924665331288123e-09,
    ),
}
# (2**r - 1) / r on |r| <= 1/2: 2**-28.9 and 2**-64.3
EXP2 = {
    32: (
        0.6931471824645996,
        0.24022650718688965,
        0.05550326406955719,
        0.009618001990020275,
        0.0013400805182754993,
        0.00015476862608920783,
    ),
    64: (
        0.6931471805599453,
        0.24022650695910072,
        0.0555041086648217,
        0.009618129107628496,
        0.0013333558146389252,
        0.00015403530393339943,
        1.5252733857455314e-05,
        1.3215486833996452e-06,
        1.0178050669687952e-07,
        7.0548879033519e-09,
        4.456759700270937e-10,
        2.5742286666810365e-11,
    ),
}
# (log(1 + f) - f + f**2 / 2) / f**3 on |f| <= 1/3: 2**-27.6
LOG32 = (
    0.33333224058151245,
    -0.24999688565731049,
    0.20010043680667877,
    -0.16685467958450317,
    0.14010927081108093,
    -0.12115103006362915,
    0.13962411880493164,
    -0.1319175511598587,
)
# (2 atanh(s) - 2 s) / s**3 in s**2 on |s| <= 1/5: 2**-61.5
LOG64 = (
    0.666666666666666,
    0.40000000000060076,
    0.2857142855503131,
    0.22222224384478348,
    0.18181660707621272,
    0.1539127787436334,
    0.13170851009105203,
    0.13861401499295603,
)
# log1p(e) / e on [0, 1]: 2**-27.7
LOG1P32 = (
    1.0,
    -0.4999990165233612,
    0.3332996368408203,
    -0.24954134225845337,
    0.1967593878507614,
    -0.15305592119693756,
    0.10603653639554977,
    -0.05695951730012894,
    0.019851453602313995,
    -0.0032440233044326305,
)


def is_single(code: Code) -> bool:
    return code.format.bits == 32


def keep_tiny(x: Value, result: Value) -> Value:
    """x itself where it is so small that the function is x: keeps the sign of zero and the digits of denormals."""
    return (x.absolute() < (2.0**-25 if is_single(x.code) else 2.0**-54)).where(x, result)


def reduce_exp(x: Value, offset: int) -> tuple[Value, Value]:
    """The bits of a float that ends in n + offset, and r = x - n ln 2. An offset saves an addition later."""
    magic = x.code.format.magic + offset
    shifted = x.fma(LOG2_E, magic)
    n = shifted - magic
    high, low = LN2_PARTS[x.code.format.bits]
    return shifted.as_bits(), n.fma(-low, n.fma(-high, x))


def expm1_polynomial(r: Value) -> Value:
    """exp(r) - 1 of a reduced argument."""
    return r.polynomial(EXP[r.code.format.bits]).fma(r * r, r)


def exp_polynomial(r: Value) -> Value:
    """exp(r) of a reduced argument."""
    return r.polynomial((1.0, 1.0, *EXP[r.code.format.bits]))


def power_of_two(n: Value) -> Value:
    """2**n of bits that end in n + bias, for a normal result."""
    return (n << n.code.format.fraction).as_float()


def scale(p: Value, n: Value) -> Value:
    """p 2**n of bits that end in n + 2 bias, in two steps: what overflows or becomes denormal is rounded once."""
    form = p.code.format
    half = (n << (form.fraction - 1)) & -(1 << form.fraction)
    rest = (n << form.fraction) - half
    return p * half.as_float() * rest.as_float()


def exp(x: Value) -> Value:
    low, high = (-104.0, 89.0) if is_single(x.code) else (-746.0, 710.0)
    n, r = reduce_exp(x.least(high).most(low), 2 * x.code.format.bias)
    return scale(exp_polynomial(r), n)


def exp2(x: Value) -> Value:
    low, high = (-151.0, 129.0) if is_single(x.code) else (-1076.0, 1025.0)
    x = x.least(high).most(low)
    magic = x.code.format.magic + 2 * x.code.format.bias
    shifted = x + magic
    r = x - (shifted - magic)
    return scale(r.polynomial(EXP2[x.code.format.bits]).fma(r, 1.0), shifted.as_bits())


def expm1(x: Value) -> Value:
    low, high = (-18.0, 89.0) if is_single(x.code) else (-40.0, 710.0)
    # Half of it, as 2**n alone would overflow before the result does.
    n, r = reduce_exp(x.least(high).most(low), x.code.format.bias - 1)
    power = power_of_two(n)
    half = expm1_polynomial(r).fma(power, power - 0.5)
    return keep_tiny(x, half + half)


def split_exponent(x: Value) -> tuple[Value, Value]:
    """k + bias as an integer field in the exponent's place (with fraction bits below it), and 1 + f, of x > 0."""
    form = x.code.format
    start = form.pattern(2.0 / 3.0)
    field = x.as_bits() + ((form.bias << form.fraction) - start)
    return field, ((field & form.fraction_mask) + start).as_float()


def exponent(field: Value) -> Value:
    """k + magic as a float, of the field of `split_exponent`: no conversion, which AVX2 lacks for 64 bits."""
    form = field.code.format
    return ((field >> form.fraction) + (form.pattern(form.magic) - form.bias)).as_float()


def log_tail(f: Value) -> Value:
    """log(1 + f) - f on [-1/3, 1/3]."""
    square = f * f
    if is_single(f.code):
        return (square * f).fma(f.polynomial(LOG32), square * -0.5)
    s = f / (f + 2.0)
    z = s * s
    half = square * 0.5
    return s * (half + z * z.polynomial(LOG64)) - half


def log_edges(x: Value, zero: Value | float, result: Value) -> Value:
    """The logarithm's values where x <= `zero`, at infinity and at NaN."""
    result = (x < INF).where(result, x)
    return (x > zero).where(result, x.equals(zero).where(-INF, x.code.constant(NAN, "f")))


def log_parts(x: Value) -> tuple[Value, Value]:
    """k, as a float, and f, with x = 2**k (1 + f); denormals included."""
    form = x.code.format
    shift = form.fraction + 1
    denormal = x < 2.0 ** (1 - form.bias)
    field, m = split_exponent(denormal.where(x * 2.0**shift, x))
    return exponent(field) - denormal.where(form.magic + shift, form.magic), m - 1.0


def _log_of_parts(k: Value, f: Value) -> Value:
    high, low = LN2_PARTS[k.code.format.bits]
    return k.fma(high, k.fma(low, log_tail(f)) + f)


def log(x: Value) -> Value:
    return log_edges(x, 0.0, _log_of_parts(*log_parts(x)))


def log_normal(x: Value) -> Value:
    """log(x) of positive normal numbers."""
    field, m = split_exponent(x)
    return _log_of_parts(exponent(field) - x.code.format.magic, m - 1.0)


def log2(x: Value) -> Value:
    k, f = log_parts(x)
    return log_edges(x, 0.0, (log_tail(f) + f).fma(LOG2_E, k))


def log10(x: Value) -> Value:
    k, f = log_parts(x)
    high, low = LOG10_2_PARTS[x.code.format.bits]
    return log_edges(x, 0.0, k.fma(high, k.fma(low, (log_tail(f) + f) * math.log10(math.e))))


def log1p(x: Value) -> Value:
    form = x.code.format
    field, _ = split_exponent(x + 1.0)
    # 1 + f = 2**-k (1 + x) = 2**-k x + 2**-k: from x itself, so that no digit of it is lost. 2**(2-k) stays normal.
    power = (field & form.exponent_mask) - (form.bias << form.fraction)
    inverse = (((form.bias + 2) << form.fraction) - power).as_float()
    f = (x.as_bits() - power).as_float() + inverse.fma(0.25, -1.0)
    k = exponent(field) - form.magic
    high, low = LN2_PARTS[form.bits]
    result = log_edges(x, -1.0, k.fma(high, k.fma(low, log_tail(f)) + f))
    return keep_tiny(x, result)


def reduce_decay(x: Value) -> tuple[Value, float, Value]:
    """2**(n + up), 2**-up and r of x <= 0: a power moved up stays normal; the factor back rounds a denormal once."""
    single = is_single(x.code)
    up = 64 if single else 512
    n, r = reduce_exp(x.most(-104.0 if single else -746.0), x.code.format.bias + up)
    return power_of_two(n), 2.0**-up, r


def exp_below(x: Value) -> Value:
    """exp(x) of x <= 0, which does not overflow."""
    power, back, r = reduce_decay(x)
    return exp_polynomial(r) * power * back


def sigmoid(x: Value) -> Value:
    """1 / (1 + e) or e / (1 + e), of e = exp(-|x|): that of x and that of -x share e and the reciprocal."""
    e = exp_below(-x.absolute())
    return (x < 0.0).where(e, 1.0) * (1.0 / (e + 1.0))


def softplus(x: Value) -> Value:
    """max(x, 0) + log1p(exp(-|x|))."""
    e = exp_below(-x.absolute())
    tail = e * e.polynomial(LOG1P32) if is_single(x.code) else log1p(e)
    return x.most(0.0) + tail


def tanh(x: Value) -> Value:
    """-m / (m + 2), of m = expm1(-2 |x|). The exponential is shared with sech2, its derivative."""
    power, back, r = reduce_decay(x.absolute() * -2.0)
    power = power * back
    m = expm1_polynomial(r).fma(power, power - 1.0)
    return (m / (m + 2.0)).with_sign_of(x)


def sech2(x: Value) -> Value:
    """4 e / (1 + e)**2, of e = exp(-2 |x|); the square as 1 + e (2 + e), which rounds less."""
    power, back, r = reduce_decay(x.absolute() * -2.0)
    upper = expm1_polynomial(r).fma(power, power)
    e = upper * back
    return (upper * (4.0 * back)) / e.fma(e + 2.0, 1.0)


def quarter_expm1(a: Value) -> Value:
    """expm1(a) / 4 of 0 <= a, finite for as long as sinh and cosh are."""
    bound = 89.7 if is_single(a.code) else 710.7
    n, r = reduce_exp(a.least(bound), a.code.format.bias - 2)
    power = power_of_two(n)
    return expm1_polynomial(r).fma(power, power - 0.25)


def sinh(x: Value) -> Value:
    """(e + e / (e + 1)) / 2, of e = expm1(|x|)."""
    quarter = quarter_expm1(x.absolute())
    half = quarter + quarter / quarter.fma(4.0, 1.0)
    return keep_tiny(x, (half + half).with_sign_of(x))


def cosh(x: Value) -> Value:
    quarter = quarter_expm1(x.absolute()) + 0.25
    return quarter.fma(2.0, 0.125 / quarter)


def asinh(x: Value) -> Value:
    """log1p(a + a**2 / (1 + sqrt(1 + a**2))), of a = |x|."""
    a = x.absolute()
    square = a * a
    large = a > 2.0 ** (x.code.format.fraction // 2 + 3)
    inner = a + square / ((square + 1.0).sqrt() + 1.0)
    # Beyond, log(2 a), and a - 1 is as good as a.
    value = log1p(large.where(a - 1.0, inner)) + large.where(LN2, 0.0)
    return value.with_sign_of(x)


def acosh(x: Value) -> Value:
    """log1p(t + sqrt(2 t + t**2)), of t = x - 1."""
    t = x - 1.0
    large = x > 2.0 ** (x.code.format.fraction // 2 + 3)
    value = log1p(large.where(t, t + t.fma(t, t + t).sqrt())) + large.where(LN2, 0.0)
    return (x < 1.0).where(NAN, value)


def atanh(x: Value) -> Value:
    """log1p(2 a / (1 - a)) / 2, of a = |x|."""
    a = x.absolute()
    return keep_tiny(x, (log1p((a + a) / (1.0 - a)) * 0.5).with_sign_of(x))
