"""The derivative of a candidate form, by the graph's own rules: what the next order would be made of.

A form can be exact and still break the order above it: y/(exp(a) + 1) is sigmoid' to the last digits, yet its
derivative is 0*inf = NaN where exp(a) overflows. So each candidate is differentiated once more, by the chain rule
over the partials already derived, before it is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tgc.calculus.terms import OPERANDS, apply, bind
from tgc.ir.expressions import Apply, Expression, Number, Variable

Terms = Sequence[Expression | None]
ZERO, ONE = Number(0.0), Number(1.0)


def derivative(
    term: Expression, operand: str, own: Expression, partials_of: Callable[[str], Terms | None]
) -> Expression:
    """d term / d operand.

    Args:
        own: the derivative of the output y by the operand.
        partials_of: the partials of an operation; None if it has none.
    """
    if isinstance(term, Variable):
        return own if term.name == "y" else ONE if term.name == operand else ZERO
    if isinstance(term, Number):
        return ZERO
    slopes = [derivative(arg, operand, own, partials_of) for arg in term.args]
    if term.op == "where":
        yes, no = slopes[1:]
        return ZERO if yes == no == ZERO else Apply("where", (term.args[0], yes, no))
    if all(slope == ZERO for slope in slopes):
        return ZERO
    partials = partials_of(term.op)
    if partials is None:
        return ZERO
    values = {**dict(zip(OPERANDS, term.args)), "y": term}
    total: Expression = ZERO
    for slope, partial in zip(slopes, partials):
        if partial is not None and slope != ZERO:
            product = _times(slope, bind(partial, values))
            total = product if total == ZERO else apply("add", total, product)
    return total


def _times(x: Expression, y: Expression) -> Expression:
    for one, other in ((x, y), (y, x)):
        if one == ONE:
            return other
        if one == Number(-1.0):
            return apply("neg", other)
        if one == ZERO:
            return ZERO
    return apply("mul", x, y)
