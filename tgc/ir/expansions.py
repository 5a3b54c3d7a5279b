"""Expansions too long for a line of the operation table: erf and erfc, which numpy does not have.

Everything is branch-free: pieces are computed everywhere and selected by `where`. Coefficients are facts, from

- W. J. Cody, Rational Chebyshev approximations for the error function, Math. Comp. 23 (1969) 631-637, in the digits of
  his CALERF (netlib specfun): erfc on [0.46875, 4] and beyond;
- the rational approximation of erf(x)/x - 1 on [0, 0.84375] of Sun's fdlibm (s_erf.c);
- a polynomial fitted here to atanh(erf(x))/x in x**2, for float32: 3.8 ULP.
"""

from __future__ import annotations

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


def _gaussian(x: str, splitter: float) -> str:
    """exp(-x**2), with x split as Veltkamp does so that the square loses nothing: exp(-h*h)*exp(-(x - h)*(x + h))."""
    scaled = f"mul({x}, {splitter!r})"
    high = f"sub({scaled}, sub({scaled}, {x}))"
    rest = f"neg(mul(sub({x}, {high}), add({x}, {high})))"
    return f"mul(exp(neg(square({high}))), exp({rest}))"


def _erf64() -> str:
    x = "minimum(abs(a), 6.0)"
    middle = f"sub(1, mul(exp(neg(square({x}))), {_ratio(MIDDLE_TOP, MIDDLE_BOTTOM, x)}))"
    return f"where(lt(abs(a), 0.84375), {_small('a')}, copysign({middle}, a))"


def _erfc(splitter: float, reach: float) -> str:
    x = f"minimum(abs(a), {reach!r})"
    inverse = f"div(1, square({x}))"
    far_ratio = _ratio(FAR_TOP, FAR_BOTTOM, inverse)
    far = f"div(sub({INVERSE_ROOT_PI!r}, mul({inverse}, {far_ratio})), {x})"
    middle = _ratio(MIDDLE_TOP, MIDDLE_BOTTOM, x)
    tail = f"mul({_gaussian(x, splitter)}, where(lt({x}, 4), {middle}, {far}))"
    return f"where(lt(abs(a), 0.5), sub(1, {_small('a')}), where(lt(a, 0), sub(2, {tail}), {tail}))"


ERF32 = f"tanh(mul(a, {horner(TANH_POLYNOMIAL, 'square(minimum(abs(a), 4.0))')}))"
ERF64 = _erf64()
ERFC32 = _erfc(4097.0, 11.0)
ERFC64 = _erfc(134217729.0, 28.0)
