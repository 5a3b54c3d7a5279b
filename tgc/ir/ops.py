"""The operation table: the one place where a scalar operation exists.

A record holds what every stage needs: the formula in sympy's spelling over `a`, `b`, `c` (from which the
partials are derived), the emitters of each backend, the expansion for backends without a primitive, the domain tests
sample, the reference, and the error it is allowed. Adding an operation is adding a record; a table
test reports what is missing.

`ties` says what torch does where the formula is not smooth: for `Max(a, b)` and the like, the weight `a` gets at
a == b.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tgc.ir import expansions

INF = float("inf")


@dataclass(frozen=True)
class OpSpec:
    """One scalar operation.

    Attributes:
        name: as in graph text.
        arity: number of operands.
        formula: sympy text over a, b, c; None where the operation is not real-valued (bits, predicates).
        numpy: name of the numpy ufunc, or of a function of codegen/numpy/functions.py, callable with `out=`; None where
            the expansion serves.
        triton: expression template over {0}, {1}, {2} and {bits}, the width of the operands; None where the expansion
            serves. It is the precise form: no approximate instruction, no flushing, NaN as torch has it.
        triton_for: templates for the operand types, by name or kind, whose precise form is another one.
        expansion: the operation as nested calls of others, over a, b, c and literals, which take the dtype of the
            operands: `div(1, add(1, exp(neg(a))))`. It is right to `ulp` in float32, edge values included.
        expansion64: what float64 takes instead, where the one for float32 would lose digits.
        result: "same" dtype as the operands, "cast", or the name of a dtype.
        accepts: dtype kinds the operation is defined for ("float", "int", "bool").
        domain: per operand, the interval tests sample.
        ties: weight of the first operand at a tie of `Max`/`Min`; see above.
        unordered: the weight of each operand of `Max`/`Min` where one is NaN, as torch has it.
        edges: what torch gives where a partial is not defined: `(operand, condition, value)`, as nested calls.
        commutes: operands may be swapped, to the bit.
        torch: dotted name under torch of the reference.
        cost: rough cost in simple operations, for choices between equal forms.
        ulp: allowed float32 error in units in the last place, on any backend.
    """

    name: str
    arity: int
    formula: str | None
    numpy: str | None = None
    triton: str | None = None
    triton_for: Mapping[str, str] = field(default_factory=dict, hash=False)
    expansion: str | None = None
    expansion64: str | None = None
    result: str = "same"
    accepts: tuple[str, ...] = ("float",)
    domain: tuple[tuple[float, float], ...] = ()
    ties: float | None = None
    unordered: float = 1.0
    edges: tuple[tuple[str, str, float], ...] = ()
    commutes: bool = False
    torch: str | None = None
    cost: int = 1
    ulp: float = 0.5

    def expansion_for(self, dtype: str) -> str | None:
        """The expansion that serves operands of a dtype, given by name."""
        return (self.expansion64 if dtype == "float64" else None) or self.expansion


ANY = ("float", "int", "uint", "bool")
NUM = ("float", "int", "uint")
BITS = ("int", "uint", "bool")
WIDE = (-INF, INF)


def _unary(name: str, formula: str | None, triton: str | None, **kw: object) -> OpSpec:
    fields: dict[str, object] = {"numpy": name, "torch": name, "domain": (WIDE,)} | kw
    return OpSpec(name, 1, formula, triton=triton, **fields)  # type: ignore[arg-type]


def _binary(
    name: str, formula: str | None, numpy: str | None, triton: str | None, **kw: object
) -> OpSpec:
    fields: dict[str, object] = {"torch": name, "domain": (WIDE, WIDE)} | kw
    return OpSpec(name, 2, formula, numpy, triton, **fields)  # type: ignore[arg-type]


def _compare(name: str, symbol: str, numpy: str, **kw: object) -> OpSpec:
    return _binary(name, None, numpy, f"({{0}} {symbol} {{1}})", result="bool", accepts=ANY, **kw)


# Triton: `//` and `%` of integers round to zero, and int1 is signed, so that True would be below False. The functions
# named here without a module are in codegen/triton/operations.py.
_FLOOR_DIV = {
    "float64": "floor_div_f64({0}, {1})",
    "int": "floor_div_int({0}, {1})",
    "uint": "({0} // {1})",
}
_FLOOR_MOD = {"int": "floor_mod_int({0}, {1})", "uint": "({0} % {1})"}
_POW = {"int": "int_pow({0}, {1})", "uint": "int_pow({0}, {1})"}
_MAXIMUM = {"int": "tl.maximum({0}, {1})", "uint": "tl.maximum({0}, {1})", "bool": "({0} | {1})"}
_MINIMUM = {"int": "tl.minimum({0}, {1})", "uint": "tl.minimum({0}, {1})", "bool": "({0} & {1})"}

_TABLE: tuple[OpSpec, ...] = (
    # arithmetic
    _binary("add", "a + b", "add", "({0} + {1})", accepts=NUM, commutes=True),
    _binary("sub", "a - b", "subtract", "({0} - {1})", accepts=NUM),
    _binary("mul", "a * b", "multiply", "({0} * {1})", accepts=NUM, commutes=True),
    _binary(
        "div",
        "a / b",
        "divide",
        "tl.div_rn({0}, {1})",
        triton_for={"float64": "({0} / {1})"},
        cost=4,
    ),
    _binary(
        "floordiv",
        "floor(a / b)",
        "floor_divide",
        "floor_div({0}, {1})",
        triton_for=_FLOOR_DIV,
        accepts=NUM,
        torch="floor_divide",
        cost=6,
    ),
    _binary(
        "mod",
        "a - b * floor(a / b)",
        "remainder",
        "floor_mod({0}, {1})",
        triton_for=_FLOOR_MOD,
        accepts=NUM,
        torch="remainder",
        cost=6,
    ),
    _unary("neg", "-a", "(-{0})", numpy="negative", accepts=NUM),
    _unary("abs", "Abs(a)", "tl.abs({0})", numpy="absolute", accepts=NUM),
    _unary(
        "sign",
        "sign(a)",
        None,
        accepts=NUM,
        numpy="sign",
        expansion="where(gt(a, 0), 1, where(lt(a, 0), -1, abs(a)))",
    ),
    OpSpec(
        "fma",
        3,
        "a * b + c",
        None,
        "tl.fma({0}, {1}, {2})",
        expansion="add(mul(a, b), c)",
        domain=(WIDE,) * 3,
    ),
    _unary("square", "a**2", "({0} * {0})", accepts=NUM),
    _unary("reciprocal", "1 / a", None, expansion="div(1, a)", numpy=None, cost=4),
    # roots and powers
    _unary(
        "sqrt",
        "sqrt(a)",
        "tl.sqrt_rn({0})",
        triton_for={"float64": "tl.sqrt({0})"},
        domain=((0.0, INF),),
        cost=4,
    ),
    _unary(
        "rsqrt",
        "1 / sqrt(a)",
        None,
        numpy=None,
        expansion="div(1, sqrt(a))",
        domain=((0.0, INF),),
        cost=6,
        ulp=1.5,
    ),
    _unary(
        "cbrt",
        "sign(a) * Abs(a)**Rational(1, 3)",
        "libdevice.cbrt({0})",
        torch=None,
        cost=16,
        ulp=2.0,
    ),
    _binary(
        "pow",
        "a**b",
        "power",
        "libdevice.pow({0}, {1})",
        triton_for=_POW,
        accepts=NUM,
        domain=((1e-18, 1e18), (-40.0, 40.0)),
        cost=20,
        ulp=4.0,
        edges=(("a", "eq(b, 0)", 0.0), ("b", "and(eq(a, 0), ge(b, 0))", 0.0)),
    ),
    _binary(
        "hypot",
        "sqrt(a**2 + b**2)",
        "hypot",
        "libdevice.hypot({0}, {1})",
        cost=10,
        ulp=1.5,
        commutes=True,
        edges=(("a", "eq(y, 0)", 0.0), ("b", "eq(y, 0)", 0.0)),
    ),
    # exponentials and logarithms
    _unary("exp", "exp(a)", "libdevice.exp({0})", domain=((-110.0, 90.0),), cost=8, ulp=2.5),
    _unary("exp2", "2**a", "libdevice.exp2({0})", domain=((-150.0, 128.0),), cost=8, ulp=2.5),
    _unary(
        "expm1", "exp(a) - 1", "libdevice.expm1({0})", domain=((-110.0, 90.0),), cost=10, ulp=3.0
    ),
    _unary("log", "log(a)", "libdevice.log({0})", domain=((0.0, INF),), cost=8, ulp=4.0),
    _unary("log2", "log(a) / log(2)", "libdevice.log2({0})", domain=((0.0, INF),), cost=8, ulp=4.0),
    _unary(
        "log10", "log(a) / log(10)", "libdevice.log10({0})", domain=((0.0, INF),), cost=8, ulp=4.0
    ),
    _unary("log1p", "log(1 + a)", "libdevice.log1p({0})", domain=((-1.0, INF),), cost=10, ulp=3.0),
    _binary(
        "logaddexp",
        "log(exp(a) + exp(b))",
        "logaddexp",
        None,
        commutes=True,
        cost=20,
        ulp=4.0,
        expansion="where(eq(a, b), add(a, 0.6931471805599453), add(maximum(a, b), log1p(exp(neg(abs(sub(a, b)))))))",
        domain=((-200.0, 200.0), (-200.0, 200.0)),
    ),
    _binary(
        "xlogy",
        "a * log(b)",
        None,
        None,
        torch="xlogy",
        cost=10,
        ulp=4.5,
        domain=(WIDE, (0.0, INF)),
        edges=(("a", "and(eq(a, 0), le(b, 0))", 0.0),),
        expansion="where(and(eq(a, 0), eq(b, b)), 0, mul(a, log(b)))",
    ),
    # the logistic family
    _unary(
        "sigmoid",
        "1 / (1 + exp(-a))",
        None,
        numpy=None,
        expansion="div(1, add(1, exp(neg(a))))",
        domain=((-80.0, 80.0),),
        cost=12,
        ulp=4.0,
    ),
    _unary(
        "softplus",
        "log(1 + exp(a))",
        None,
        numpy=None,
        torch="nn.functional.softplus",
        cost=20,
        ulp=4.0,
        expansion="add(relu(a), log1p(exp(neg(abs(a)))))",
        domain=((-100.0, 200.0),),
    ),
    # trigonometric and hyperbolic
    _unary("sin", "sin(a)", "libdevice.sin({0})", domain=((-1e4, 1e4),), cost=8, ulp=2.0),
    _unary("cos", "cos(a)", "libdevice.cos({0})", domain=((-1e4, 1e4),), cost=8, ulp=2.0),
    _unary("tan", "tan(a)", "libdevice.tan({0})", domain=((-1e3, 1e3),), cost=14, ulp=4.0),
    _unary(
        "asin",
        "asin(a)",
        "libdevice.asin({0})",
        numpy="arcsin",
        domain=((-1.0, 1.0),),
        cost=12,
        ulp=4.0,
    ),
    _unary(
        "acos",
        "acos(a)",
        "libdevice.acos({0})",
        numpy="arccos",
        domain=((-1.0, 1.0),),
        cost=12,
        ulp=4.0,
    ),
    _unary("atan", "atan(a)", "libdevice.atan({0})", numpy="arctan", cost=12, ulp=4.0),
    _binary(
        "atan2",
        "atan2(a, b)",
        "arctan2",
        "libdevice.atan2({0}, {1})",
        cost=14,
        ulp=4.0,
        edges=(("a", "and(eq(a, 0), eq(b, 0))", 0.0), ("b", "and(eq(a, 0), eq(b, 0))", 0.0)),
    ),
    _unary("sinh", "sinh(a)", "libdevice.sinh({0})", domain=((-89.0, 89.0),), cost=14, ulp=4.0),
    _unary("cosh", "cosh(a)", "libdevice.cosh({0})", domain=((-89.0, 89.0),), cost=14, ulp=4.0),
    _unary("tanh", "tanh(a)", "libdevice.tanh({0})", domain=((-20.0, 20.0),), cost=12, ulp=4.0),
    _unary(
        "sech2",
        "1 - tanh(a)**2",
        None,
        numpy=None,
        torch=None,
        domain=((-20.0, 20.0),),
        cost=14,
        ulp=4.0,
        expansion="div(mul(4, exp(mul(-2, abs(a)))), square(add(1, exp(mul(-2, abs(a))))))",
    ),
    _unary("asinh", "asinh(a)", "libdevice.asinh({0})", numpy="arcsinh", cost=16, ulp=4.0),
    _unary(
        "acosh",
        "acosh(a)",
        "libdevice.acosh({0})",
        numpy="arccosh",
        domain=((1.0, INF),),
        cost=16,
        ulp=4.0,
    ),
    _unary(
        "atanh",
        "atanh(a)",
        "libdevice.atanh({0})",
        numpy="arctanh",
        domain=((-1.0, 1.0),),
        cost=16,
        ulp=4.0,
    ),
    # error functions
    _unary(
        "erf",
        "erf(a)",
        "libdevice.erf({0})",
        numpy=None,
        torch="erf",
        cost=16,
        ulp=4.0,
        domain=((-6.0, 6.0),),
        expansion=expansions.ERF32,
        expansion64=expansions.ERF64,
    ),
    _unary(
        "erfc",
        "erfc(a)",
        "libdevice.erfc({0})",
        numpy=None,
        torch="erfc",
        cost=16,
        ulp=8.0,
        domain=((-6.0, 10.0),),
        expansion=expansions.ERFC32,
        expansion64=expansions.ERFC64,
    ),
    # order
    _binary(
        "maximum",
        "Max(a, b)",
        "maximum",
        "nan_max({0}, {1})",
        triton_for=_MAXIMUM,
        accepts=ANY,
        ties=0.5,
        commutes=True,
    ),
    _binary(
        "minimum",
        "Min(a, b)",
        "minimum",
        "nan_min({0}, {1})",
        triton_for=_MINIMUM,
        accepts=ANY,
        ties=0.5,
        commutes=True,
    ),
    _binary(
        "clamp_min",
        "Max(a, b)",
        "maximum",
        "nan_max({0}, {1})",
        triton_for=_MAXIMUM,
        accepts=NUM,
        ties=1.0,
        unordered=0.0,
    ),
    _binary(
        "clamp_max",
        "Min(a, b)",
        "minimum",
        "nan_min({0}, {1})",
        triton_for=_MINIMUM,
        accepts=NUM,
        ties=1.0,
        unordered=0.0,
    ),
    _unary(
        "relu", "Max(a, 0)", None, numpy=None, expansion="clamp_min(a, 0)", accepts=NUM, ties=0.0
    ),
    # rounding: derivative zero
    _unary("floor", "floor(a)", "libdevice.floor({0})", cost=2),
    _unary("ceil", "ceiling(a)", "libdevice.ceil({0})", cost=2),
    _unary("trunc", "sign(a) * floor(Abs(a))", "libdevice.trunc({0})", cost=2),
    _unary("round", None, "libdevice.nearbyint({0})", numpy="rint", cost=2),
    _binary(
        "copysign",
        "Abs(a) * Piecewise((1, b >= 0), (-1, True))",
        "copysign",
        "libdevice.copysign({0}, {1})",
        cost=2,
        edges=(("a", "eq(a, 0)", 0.0),),
    ),
    # predicates and logic
    _compare("eq", "==", "equal", commutes=True),
    _compare("ne", "!=", "not_equal", commutes=True),
    _compare("lt", "<", "less", triton_for={"bool": "(~{0} & {1})"}),
    _compare("le", "<=", "less_equal", triton_for={"bool": "(~{0} | {1})"}),
    _compare("gt", ">", "greater", triton_for={"bool": "({0} & ~{1})"}),
    _compare("ge", ">=", "greater_equal", triton_for={"bool": "({0} | ~{1})"}),
    _unary("isnan", None, "({0} != {0})", result="bool", cost=1),
    _unary("isinf", None, "(tl.abs({0}) == float('inf'))", result="bool", cost=1),
    _unary("isfinite", None, "(tl.abs({0}) < float('inf'))", result="bool", cost=1),
    _binary(
        "and", None, "bitwise_and", "({0} & {1})", accepts=BITS, commutes=True, torch="bitwise_and"
    ),
    _binary(
        "or", None, "bitwise_or", "({0} | {1})", accepts=BITS, commutes=True, torch="bitwise_or"
    ),
    _binary(
        "xor", None, "bitwise_xor", "({0} ^ {1})", accepts=BITS, commutes=True, torch="bitwise_xor"
    ),
    # by any number of bits: where C leaves the result open, none of the operand's are left
    _binary(
        "lshift",
        None,
        "left_shift",
        "shift_left({0}, {1}, {bits})",
        accepts=("int", "uint"),
        torch="bitwise_left_shift",
    ),
    _binary(
        "rshift",
        None,
        "right_shift",
        "shift_right({0}, {1}, {bits})",
        accepts=("int", "uint"),
        torch="bitwise_right_shift",
    ),
    _unary("not", None, "(~{0})", numpy="invert", accepts=BITS, torch="bitwise_not"),
    # selection and conversion: emitted by every backend itself
    OpSpec(
        "where",
        3,
        None,
        "where",
        "tl.where({0}, {1}, {2})",
        accepts=ANY,
        torch="where",
        domain=((0.0, 1.0), WIDE, WIDE),
    ),
    OpSpec("cast", 1, "a", None, None, result="cast", accepts=ANY, domain=(WIDE,)),
    # random draws: of Philox 4x32-10 (Salmon et al., 2011) with the counter (a >> 2, b) and the key c, low halves
    # first, word a & 3; and normal numbers made of such words. See trace/random.py.
    OpSpec(
        "philox",
        3,
        None,
        "philox",
        "philox({0}, {1}, {2})",
        result="int32",
        accepts=("int",),
        domain=(WIDE,) * 3,
        cost=60,
    ),
    OpSpec(
        "normal",
        3,
        None,
        "normal",
        None,
        expansion=expansions.NORMAL,
        result="float32",
        accepts=("int",),
        domain=(WIDE,) * 3,
        cost=160,
        ulp=4.0,
    ),
    # its operand, to differentiation a constant
    OpSpec("stop_gradient", 1, None, None, None, expansion="a", accepts=ANY, domain=(WIDE,)),
)

OPS: dict[str, OpSpec] = {spec.name: spec for spec in _TABLE}
