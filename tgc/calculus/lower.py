"""From sympy to terms: the one place where a sympy expression becomes table operations again.

sympy is a calculator here, never a printer: what it returns is rebuilt operation by operation, with the choices
floating point cares about (one division per fraction, coefficients folded, differences kept as differences).
"""

from __future__ import annotations

from typing import Any

from tgc.calculus.terms import apply
from tgc.ir.expressions import Apply, Expression, Number, Variable
from tgc.ir.ops import OPS

FUNCTIONS = {
    "Abs": "abs",
    "ceiling": "ceil",
    "Max": "maximum",
    "Min": "minimum",
}


QUOTIENTS = ("plain", "nested", "inverse")
"""u/(v*w), or u/v/w, which does not overflow where v*w would, or (1/(v*w))*u, whose reciprocal may be had already."""


class NotLowered(Exception):
    """The expression has a part the table has no operation for."""


class Lowering:
    """Lowers expressions of one operation.

    Args:
        at_tie, unordered: the weight a Heaviside step has at 0 and at NaN.
        quotient: how fractions are written, one of QUOTIENTS.
    """

    def __init__(
        self, *, at_tie: float | None = None, unordered: float = 1.0, quotient: str = "plain"
    ) -> None:
        self.at_tie, self.unordered, self.quotient = at_tie, unordered, quotient

    def __call__(self, e: Any) -> Expression:
        import sympy

        if e.is_Symbol:
            return Variable(e.name)
        if e.is_number:
            return number(e)
        if e.is_Add:
            return self._add(e)
        if e.is_Mul:
            return self._mul(e)
        if isinstance(e, sympy.exp):
            return apply("exp", self(e.args[0]))
        if e.is_Pow:
            return self._pow(e)
        if isinstance(e, sympy.Heaviside):
            return self._step(e.args[0])
        return self._function(e)

    def _add(self, e: Any) -> Expression:
        positive, negative = split_signs(e)
        total: Expression | None = None
        for part in positive:
            total = self(part) if total is None else apply("add", total, self(part))
        for part in negative:
            total = apply("neg", self(part)) if total is None else apply("sub", total, self(part))
        assert total is not None
        return total

    def _mul(self, e: Any) -> Expression:
        import sympy

        coefficient, factors = 1.0, []
        for factor in sorted(e.args, key=sympy.default_sort_key):
            if factor.is_number:
                coefficient *= number(factor).value
            else:
                factors.append(factor)
        coefficient, factors = _flip_difference(coefficient, factors)
        above = [f for f in factors if not _is_inverse(f)]
        below = [1 / f for f in factors if _is_inverse(f)]
        negative, size = coefficient < 0, abs(coefficient)
        result = self._product(above, size) if above or not below else Number(size)
        if below:
            result = self._divide(result, below)
        return apply("neg", result) if negative else result

    def _product(self, factors: list[Any], coefficient: float) -> Expression:
        result: Expression | None = None
        for factor in factors:
            result = self(factor) if result is None else apply("mul", result, self(factor))
        if result is None:
            return Number(coefficient)
        return result if coefficient == 1 else apply("mul", result, Number(coefficient))

    def _divide(self, above: Expression, below: list[Any]) -> Expression:
        import sympy

        if self.quotient == "inverse":
            reciprocal = apply("div", Number(1.0), self._product(below, 1.0))
            return reciprocal if above == Number(1.0) else apply("mul", reciprocal, above)
        if self.quotient == "plain":
            return apply("div", above, self._product(below, 1.0))
        for factor in below:
            base, power = factor.as_base_exp()
            if isinstance(factor, sympy.exp) or not (power.is_Integer and power > 1):
                base, power = factor, 1
            for _ in range(int(power)):
                above = apply("div", above, self(base))
        return above

    def _pow(self, e: Any) -> Expression:
        import sympy

        base, power = e.args
        if power.is_number and power.is_negative:
            if power == -sympy.S.Half:
                return apply("rsqrt", self(base))
            return self._divide(Number(1.0), [1 / e])
        if power == sympy.S.Half:
            return apply("sqrt", self(base))
        if power.is_Integer and power <= 8:
            return integer_power(self(base), int(power))
        if (2 * power).is_Integer and power <= 8:
            half = self(base)
            return apply("mul", integer_power(half, int(power - sympy.S.Half)), apply("sqrt", half))
        if base == 2:
            return apply("exp2", self(power))
        return apply("pow", self(base), self(power))

    def _step(self, u: Any) -> Expression:
        if self.at_tie is None:
            raise NotLowered("a step outside Max and Min")
        positive, negative = split_signs(u)
        if len(positive) > 1 or len(negative) > 1:
            raise NotLowered("a step of a sum")
        above = self(positive[0]) if positive else Number(0.0)
        below = self(negative[0]) if negative else Number(0.0)
        return step(above, below, self.at_tie, self.unordered)

    def _function(self, e: Any) -> Expression:
        name = e.func.__name__
        if name == "op_negabs":
            # -|a| with a one-sided derivative at 0 (clamp gives it all to one operand), so that even functions
            # written in it keep every derivative there; abs, whose derivative at 0 is 0, would lose the second.
            inner = self(e.args[0])
            return Apply("clamp_max", (inner, apply("neg", inner)))
        if name == "Abs" and e.args[0].is_nonnegative:
            return self(e.args[0])
        op = name[3:] if name.startswith("op_") else FUNCTIONS.get(name, name)
        if op == "sign" and e.args[0].is_Symbol:
            return apply("sign", self(e.args[0]))
        if op == "floor":
            above, below = e.args[0].as_numer_denom()
            if below != 1:
                return apply("floordiv", self(above), self(below))
        if op not in OPS:
            raise NotLowered(name)
        args = [self(x) for x in e.args]
        while len(args) > OPS[op].arity:  # Max and Min of several
            args[:2] = [apply(op, *args[:2])]
        return apply(op, *args)


def number(e: Any) -> Number:
    """A sympy number as a literal."""
    if not e.is_real or not e.is_finite:
        raise NotLowered(str(e))
    return Number(float(e))


def split_signs(e: Any) -> tuple[list[Any], list[Any]]:
    """The terms of a sum: those added, and those subtracted (without their sign). Numbers come last but one."""
    import sympy

    parts = sorted(sympy.Add.make_args(e), key=lambda p: (p.is_number, sympy.default_sort_key(p)))
    positive = [p for p in parts if not p.could_extract_minus_sign()]
    negative = [-p for p in parts if p.could_extract_minus_sign()]
    return positive, negative


def _flip_difference(coefficient: float, factors: list[Any]) -> tuple[float, list[Any]]:
    """-(a - 1)*(a + 1) is (1 - a)*(a + 1), and -1/(a - 1) is 1/(1 - a): a sign goes into a difference."""
    if coefficient >= 0:
        return coefficient, factors
    for k, factor in enumerate(factors):
        base, power = factor.as_base_exp() if not factor.is_Add else (factor, 1)
        positive, negative = split_signs(base) if base.is_Add and power in (1, -1) else ([], [])
        if positive and negative:
            return -coefficient, [*factors[:k], (-base) ** power, *factors[k + 1 :]]
    return coefficient, factors


def _is_inverse(factor: Any) -> bool:
    import sympy

    if isinstance(factor, sympy.exp) or not factor.is_Pow:
        return False
    power = factor.args[1]
    return bool(power.is_number and power.is_negative)


def integer_power(base: Expression, power: int) -> Expression:
    """A small power by squaring."""
    result: Expression | None = None
    while power:
        if power & 1:
            result = base if result is None else apply("mul", result, base)
        power >>= 1
        if power:
            base = apply("square", base)
    return Number(1.0) if result is None else result


def step(above: Expression, below: Expression, at_tie: float, unordered: float) -> Expression:
    """1 where above > below, 0 where less, `at_tie` where equal and `unordered` at NaN, in few comparisons."""
    one, zero = Number(1.0), Number(0.0)
    if at_tie == unordered == 1.0:
        return Apply("where", (Apply("lt", (above, below)), zero, one))
    if at_tie == unordered == 0.0:
        return Apply("where", (Apply("gt", (above, below)), one, zero))
    if at_tie == 1.0 and unordered == 0.0:
        return Apply("where", (Apply("ge", (above, below)), one, zero))
    if at_tie == 0.0 and unordered == 1.0:
        return Apply("where", (Apply("le", (above, below)), zero, one))
    tie = Apply("eq", (above, below))
    if unordered == 1.0:
        return Apply(
            "where", (Apply("lt", (above, below)), zero, Apply("where", (tie, Number(at_tie), one)))
        )
    return Apply(
        "where", (Apply("gt", (above, below)), one, Apply("where", (tie, Number(at_tie), zero)))
    )
