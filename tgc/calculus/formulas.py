"""The table's formulas as sympy expressions, and their plain derivatives.

Everything here imports sympy when called, never before. Where a formula is not smooth, the derivative is taken piece
by piece: floor, ceiling and sign count as constants (their derivative is zero wherever it exists, and torch gives
zero elsewhere), and Max and Min turn into Heaviside steps whose value at a tie is the table's `ties`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from tgc.calculus.terms import runner
from tgc.ir.expressions import parse
from tgc.ir.ops import OpSpec
from tgc.numerics.ulp import round_to

PRECISION = 400
"""Bits of the reference: 1 - tanh(x)**2 still has digits at x = 60."""


@cache
def symbols() -> tuple[Any, Any, Any, Any]:
    """The real symbols a, b, c and the output y."""
    import sympy

    a, b, c, y = sympy.symbols("a b c y", real=True)
    return a, b, c, y


@cache
def opaque(name: str) -> Any:
    """A table operation as a sympy function that sympy leaves alone."""
    import sympy

    signs = {"sigmoid": "positive", "exp": "positive", "hypot": "nonnegative"}
    return sympy.Function(f"op_{name}", **{signs.get(name, "real"): True})


def formula(spec: OpSpec) -> Any:
    """The formula as a sympy expression, or None where the operation is not real-valued."""
    if spec.formula is None:
        return None
    import sympy

    names = dict(zip("abc", symbols()))
    return sympy.sympify(spec.formula, locals=names)


def differentiate(expression: Any, symbol: Any) -> Any:
    """d expression / d symbol, with steps counted as constants."""
    import sympy

    kinds = (sympy.floor, sympy.ceiling, sympy.sign, sympy.Heaviside)
    steps = sorted(expression.atoms(*kinds), key=sympy.default_sort_key)
    frozen = {step: sympy.Dummy(f"step{k}", real=True) for k, step in enumerate(steps)}
    result = sympy.diff(expression.xreplace(frozen), symbol)
    return result.xreplace({dummy: step for step, dummy in frozen.items()})


def tie_weight(spec: OpSpec, operand: int) -> float:
    """What operand 0 or 1 gets where they are equal."""
    if spec.ties is None:
        return 0.5
    return spec.ties if operand == 0 else 1.0 - spec.ties


class Reference:
    """A sympy expression evaluated in mpmath, operand by operand, with `precision` bits."""

    def __init__(
        self, expression: Any, arity: int, *, at_tie: float = 0.5, precision: int = PRECISION
    ) -> None:
        import mpmath
        import sympy

        self._precision = precision

        def step(u: Any, *_: Any) -> Any:
            return mpmath.mpf(at_tie if u == 0 else u > 0)

        self._run: Callable[..., Any] = sympy.lambdify(
            symbols()[:arity], expression, modules=[{"Heaviside": step}, "mpmath"]
        )

    def __call__(self, *operands: Any) -> Any:
        """The value at floats, or None where the expression has none (a pole, a branch that leaves the reals)."""
        import mpmath

        return self.exact(*(mpmath.mpf(float(v)) for v in operands))

    def exact(self, *operands: Any) -> Any:
        """The value at mpmath numbers, or None."""
        import mpmath

        with mpmath.workprec(self._precision):
            try:
                value = self._run(*operands)
            except (ZeroDivisionError, ValueError, OverflowError):
                return None
            if isinstance(value, mpmath.mpc) or not isinstance(value, (mpmath.mpf, int, float)):
                return None
            return None if mpmath.isnan(value) else mpmath.mpf(value)

    def limit(self, sign: int) -> Any:
        """The value at +inf or -inf of a unary expression where float32 has settled far out; None if it has not."""
        near, far = (self(sign * 2.0**power) for power in (220, 240))
        if near is None or far is None:
            return None
        kind = np.dtype(np.float32)
        return far if round_to(near, kind) == round_to(far, kind) else None


def edge_mask(spec: OpSpec, condition: str, operands: Sequence[Any]) -> Any:
    """Where an edge policy's condition, over the operands and the output y, holds: a bool array."""
    with np.errstate(all="ignore"):
        return runner(spec.name, parse(condition))(*operands)
