"""Expansions too long for a line of the operation table: erf and erfc, which numpy does not have, and normal draws.

Everything is branch-free: pieces are computed everywhere and selected by `where`. Coefficients are facts, from

- W. J. Cody, Rational Chebyshev approximations for the error function, Math. Comp. 23 (1969) 631-637, in the digits of
  his CALERF (netlib specfun): erfc on [0.46875, 4] and beyond;
- Sun's fdlibm (s_erf.c): erf(x)/x - 1 on [0, 0.84375], erf on [0.84375, 1.25], and log(x exp(x**2) erfc(x)) + 0.5625
  in 1/x**2 beyond, whose errors the exponential makes small;
- a polynomial fitted here to atanh(erf(x))/x in x**2, for float32: 3.8 ULP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

SMALL_TOP = (
    1.28379167095512558561e-01,
    -3.25042107247001499370e-01,
    -2.84817495755985104766e-02,
    -5.77027029648944159157e-03,
    -2.37630166566501626084e-05,
)
SMALL_BOTTOM = (
    1.0,
    3.97917223959155352819e-01,
    6.50222499887672944485e-02,
    5.08130628187576562776e-03,
    1.32494738004321644526e-04,
    -3.96022827877536812320e-06,
)
MIDDLE_TOP = (
    1.23033935479799725e03,
    2.05107837782607147e03,
    1.71204761263407058e03,
    8.81952221241769090e02,
    2.98635138197400131e02,
    6.61191906371416295e01,
    8.88314979438837594e00,
    5.64188496988670089e-01,
    2.15311535474403846e-08,
)
MIDDLE_BOTTOM = (
    1.23033935480374942e03,
    3.43936767414372164e03,
    4.36261909014324716e03,
    3.29079923573345963e03,
    1.62138957456669019e03,
    5.37181101862009858e02,
    1.17693950891312499e02,
    1.57449261107098347e01,
    1.0,
)
ERX = 8.45062911510467529297e-01
NEAR_ONE_TOP = (
    -2.36211856075265944077e-03,
    4.14856118683748331666e-01,
    -3.72207876035701323847e-01,
    3.18346619901161753674e-01,
    -1.10894694282396677476e-01,
    3.54783043256182359371e-02,
    -2.16637559486879084300e-03,
)
NEAR_ONE_BOTTOM = (
    1.0,
    1.06420880400844228286e-01,
    5.40397917702171048937e-01,
    7.18286544141962662868e-02,
    1.26171219808761642112e-01,
    1.36370839120290507362e-02,
    1.19844998467991074170e-02,
)
TAIL_TOP = (
    -9.86494403484714822705e-03,
    -6.93858572707181764372e-01,
    -1.05586262253232909814e01,
    -6.23753324503260060396e01,
    -1.62396669462573470355e02,
    -1.84605092906711035994e02,
    -8.12874355063065934246e01,
    -9.81432934416914548592e00,
)
TAIL_BOTTOM = (
    1.0,
    1.96512716674392571292e01,
    1.37657754143519042600e02,
    4.34565877475229228821e02,
    6.45387271733267880336e02,
    4.29008140027567833386e02,
    1.08635005541779435134e02,
    6.57024977031928170135e00,
    -6.04244152148580987438e-02,
)
FAR_TAIL_TOP = (
    -9.86494292470009928597e-03,
    -7.99283237680523006574e-01,
    -1.77579549177547519889e01,
    -1.60636384855821916062e02,
    -6.37566443368389627722e02,
    -1.02509513161107724954e03,
    -4.83519191608651397019e02,
)
FAR_TAIL_BOTTOM = (
    1.0,
    3.03380607434824582924e01,
    3.25792512996573918826e02,
    1.53672958608443695994e03,
    3.19985821950859553908e03,
    2.55305040643316442583e03,
    4.74528541206955367215e02,
    -2.24409524465858183362e01,
)
FAR_TOP = (
    6.58749161529837803e-04,
    1.60837851487422766e-02,
    1.25781726111229246e-01,
    3.60344899949804439e-01,
    3.05326634961232344e-01,
    1.63153871373020978e-02,
)
FAR_BOTTOM = (
    2.33520497626869185e-03,
    6.05183413124413191e-02,
    5.27905102951428412e-01,
    1.87295284992346725e00,
    2.56852019228982242e00,
    1.0,
)
TANH_POLYNOMIAL = (
    1.1283792743,
    0.10276905570,
    -1.918305694e-4,
    -6.197848683e-4,
    8.763740883e-5,
    -5.668489281e-6,
    1.418530222e-7,
)
INVERSE_ROOT_PI = 5.6418958354775628695e-1


def horner(coefficients: Sequence[float], x: str) -> str:
    """A polynomial in `x`, ascending coefficients, as nested calls."""
    text = repr(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        text = f"{x}" if (text, c) == ("1.0", 0.0) else f"add(mul({text}, {x}), {c!r})"
    return text.replace(f"mul(1.0, {x})", x)


def _ratio(top: Sequence[float], bottom: Sequence[float], x: str) -> str:
    return f"div({horner(top, x)}, {horner(bottom, x)})"


def _small(x: str) -> str:
    """erf on [-0.84375, 0.84375]: x + x*R(x**2)."""
    return f"add({x}, mul({x}, {_ratio(SMALL_TOP, SMALL_BOTTOM, f'square({x})')}))"


def _high(x: str, splitter: float) -> str:
    """The leading half of the digits of x, whose square is exact (Veltkamp's splitting)."""
    scaled = f"mul({x}, {splitter!r})"
    return f"sub({scaled}, sub({scaled}, {x}))"


def _rest(x: str, high: str) -> str:
    """high**2 - x**2, which loses nothing."""
    return f"mul(sub({high}, {x}), add({x}, {high}))"


def _erf64() -> str:
    x = "minimum(abs(a), 6.0)"
    middle = f"sub(1, mul(exp(neg(square({x}))), {_ratio(MIDDLE_TOP, MIDDLE_BOTTOM, x)}))"
    return f"where(lt(abs(a), 0.84375), {_small('a')}, copysign({middle}, a))"


def _erfc32() -> str:
    """exp(-x**2) times Cody's quotients, the square split in two."""
    x = "minimum(abs(a), 11.0)"
    inverse = f"div(1, square({x}))"
    far_ratio = _ratio(FAR_TOP, FAR_BOTTOM, inverse)
    far = f"div(sub({INVERSE_ROOT_PI!r}, mul({inverse}, {far_ratio})), {x})"
    middle = _ratio(MIDDLE_TOP, MIDDLE_BOTTOM, x)
    high = _high(x, 4097.0)
    gaussian = f"mul(exp(neg(square({high}))), exp({_rest(x, high)}))"
    tail = f"mul({gaussian}, where(lt({x}, 4), {middle}, {far}))"
    return _on_both_sides(f"sub(1, {_small('a')})", "0.5", tail)


def _erfc64() -> str:
    """fdlibm's pieces: small, around 1, and a tail with its quotient in the exponent."""
    x = "minimum(abs(a), 28.0)"
    inverse = f"div(1, square({x}))"
    near, far = (
        _ratio(TAIL_TOP, TAIL_BOTTOM, inverse),
        _ratio(FAR_TAIL_TOP, FAR_TAIL_BOTTOM, inverse),
    )
    quotient = f"where(lt({x}, {1 / 0.35!r}), {near}, {far})"
    high = _high(x, 134217729.0)
    exponent = f"add({_rest(x, high)}, {quotient})"
    tail = f"div(mul(exp(sub(-0.5625, square({high}))), exp({exponent})), {x})"
    near_one = _ratio(NEAR_ONE_TOP, NEAR_ONE_BOTTOM, f"sub({x}, 1)")
    tail = f"where(lt({x}, 1.25), sub({1 - ERX!r}, {near_one}), {tail})"
    ratio = _ratio(SMALL_TOP, SMALL_BOTTOM, "square(a)")
    around_half = f"sub(0.5, add(sub(a, 0.5), mul(a, {ratio})))"
    small = f"where(lt(a, 0.25), sub(1, {_small('a')}), {around_half})"
    return _on_both_sides(small, "0.84375", tail)


def _on_both_sides(small: str, limit: str, tail: str) -> str:
    """The tail is that of |a|; erfc(-x) = 2 - erfc(x)."""
    return f"where(lt(abs(a), {limit}), {small}, where(lt(a, 0), sub(2, {tail}), {tail}))"


def _normal() -> str:
    """Box and Muller (1958): of each two elements one has the cosine and one the sine, a cosine a quarter turn back.

    The radius has 31 bits, to reach far into the tail; the angle has 24, which float32 holds exactly.
    """
    radius = "float32(and(philox(and(a, -2), b, c), 2147483647))"
    radius = f"add(mul({radius}, {2.0**-31!r}), {2.0**-32!r})"
    quarter = f"int32(mul(and(a, 1), {2**22}))"
    angle = f"float32(sub(and(philox(or(a, 1), b, c), {2**24 - 1}), {quarter}))"
    return f"mul(sqrt(mul(-2, log({radius}))), cos(mul({angle}, {math.tau * 2.0**-24!r})))"


# Where tanh is 1 to the last digit the argument only grows, so far numbers need no bound.
ERF32 = f"tanh(mul(a, {horner(TANH_POLYNOMIAL, 'square(a)')}))"
ERF64 = _erf64()
ERFC32 = _erfc32()
ERFC64 = _erfc64()
NORMAL = _normal()
