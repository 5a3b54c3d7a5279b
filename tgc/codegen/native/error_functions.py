"""erf and erfc of the native engine, to a few units in the last place, the far tail of erfc included.

The coefficients are minimax fits, by Remez exchange in 160-bit arithmetic, of the function named above each. For erfc
the form is the one of M. M. Shepherd and J. G. Laframboise, Chebyshev approximation of (1 + 2x) exp(x**2) erfc x in
0 <= x < inf, Math. Comp. 36 (1981) 249-253.
"""

from __future__ import annotations

from tgc.codegen.native.exponentials import (
    exp_polynomial,
    is_single,
    reduce_exp,
    scale,
)
from tgc.codegen.native.vectors import Value

# erf(x) / x - 1 in x**2 on [0, 1]: 2**-24.6 and 2**-56.9
ERF_SMALL = {
    32: (
        0.12837912142276764,
        -0.37612324953079224,
        0.11280179768800735,
        -0.02671131119132042,
        0.004917552229017019,
        -0.0005631426465697587,
    ),
    64: (
        0.12837916709551256,
        -0.3761263890318352,
        0.11283791670944185,
        -0.026866170643111496,
        0.005223977606118874,
        -0.0008548325929339276,
        0.00012055293577769708,
        -1.4924712320742503e-05,
        1.64471318241929e-06,
        -1.620631584345273e-07,
        1.3710989991717836e-08,
        -7.779487366813776e-10,
    ),
}
# erfc(x)**(1/4) on [1, 4] and erfc(x)**(1/8) on [1, 5.93], for the error of erf: 2**-25.3 and 2**-55.0
ERFC_ROOT = {
    32: (
        1.0039170980453491,
        -0.302310585975647,
        -0.07456237077713013,
        -0.04005913808941841,
        0.06039710342884064,
        -0.020367877557873726,
        0.002911105053499341,
        -0.00015580934996251017,
    ),
    64: (
        0.9999999234843547,
        -0.14104664738163572,
        -0.06963368580928873,
        -0.0020805652079595987,
        0.0065760438637462075,
        0.00019882082878167949,
        -0.0005176499204240321,
        8.463761080949591e-05,
        3.848911183548588e-06,
        -7.191617324830882e-06,
        3.6121434562858226e-06,
        -1.1884900990566615e-06,
        2.6671738727455937e-07,
        -4.2034162906380784e-08,
        4.686629172856292e-09,
        -3.582408210566935e-10,
        1.7013394702668798e-11,
        -3.8002310476002614e-13,
    ),
}
# (1 + 2 x) exp(x**2) erfc(x) in t = (x - k) / (x + k), of x >= 0: 2**-26.2 and 2**-56.4
ERFC_CENTER = {32: 2.0, 64: 3.75}
ERFC = {
    32: (
        1.2769783735275269,
        -0.0927639827132225,
        -0.16603142023086548,
        0.16405534744262695,
        -0.054204296320676804,
        -0.00805987510830164,
        0.008631681092083454,
        0.0013135226909071207,
        -0.0012299277586862445,
        -0.000400577177060768,
    ),
    64: (
        1.2375126308378275,
        -0.1402405985855467,
        0.0035854154854624916,
        0.08227673849011312,
        -0.10880393014164266,
        0.0923043211615198,
        -0.05869339859177569,
        0.028362277400156097,
        -0.00974657953776608,
        0.0017556260245317227,
        0.0002937135705021012,
        -0.00029015503155197723,
        5.164926647012874e-05,
        2.23875764993217e-05,
        -1.1443775366611652e-05,
        -9.810479622738141e-07,
        1.7491037002141217e-06,
        -4.6728165185673496e-08,
        -2.531488021381503e-07,
        1.4739184713357625e-08,
        3.275805504253546e-08,
        -4.1544466545527205e-10,
        -2.2433304135245677e-09,
    ),
}


def small_erf(x: Value) -> Value:
    """erf of |x| <= 1."""
    return x.fma((x * x).polynomial(ERF_SMALL[x.code.format.bits]), x)


def erf(x: Value) -> Value:
    """x (1 + P(x**2)) to 1, and beyond 1 - Q(|x|)**4, or the 8th power: roots of erfc are nearly straight."""
    a, single = x.absolute(), is_single(x.code)
    # The bounds are where the power is less than half a unit of 1.
    tail = a.least(4.175 if single else 6.0).polynomial(ERFC_ROOT[x.code.format.bits])
    for _ in range(1 if single else 2):
        tail = tail * tail
    large = (-tail).fma(tail, 1.0)
    return (a > 1.0).where(large.with_sign_of(x), small_erf(x))


def erfc(x: Value) -> Value:
    bits = x.code.format.bits
    a = x.absolute().least(10.1 if is_single(x.code) else 27.3)
    square = a * a
    n, r = reduce_exp(-square, 2 * x.code.format.bias)
    # What a * a was rounded by, which exp would magnify.
    p = exp_polynomial(r - a.fma(a, -square))
    t = (a - ERFC_CENTER[bits]) / (a + ERFC_CENTER[bits])
    tail = scale(p * (t.polynomial(ERFC[bits]) / a.fma(2.0, 1.0)), n)
    outer = (x < 0.0).where(2.0 - tail, tail)
    return (a < 0.5).where(1.0 - small_erf(x), outer)
