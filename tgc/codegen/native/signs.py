"""What is known of the sign of a value: where an operand is never positive, a function may have less to do.

NaN counts as either sign. What the rules say holds after rounding too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from tgc.kernel.ir import Const, Iota, Kernel, Load, Op, Operand, Reduce
from tgc.kernel.walk import statements

Named: TypeAlias = Load | Iota | Op | Reduce

_NEVER_NEGATIVE = frozenset(
    {"abs", "square", "sqrt", "exp", "exp2", "cosh", "sigmoid", "softplus", "sech2", "erfc"}
)
_OF_BOTH = frozenset({"add", "mul", "div", "minimum", "hypot"})
_DEPTH = 8  # of operations looked at


def named(kernel: Kernel) -> dict[str, Named]:
    """What makes each value of a kernel."""
    return {s.name: s for s, _ in statements(kernel.body) if isinstance(s, Named)}


def never_positive(operand: Operand, made: Mapping[str, Named], depth: int = _DEPTH) -> bool:
    """Whether a value is zero, negative or NaN, given what made each value of a kernel."""
    if isinstance(operand, Const):
        return isinstance(operand.value, int | float) and operand.value <= 0
    s = made.get(operand)  # none of what was written out for short axes
    if not isinstance(s, Op) or depth == 0:
        return False
    if s.op == "neg":
        return never_negative(s.args[0], made, depth - 1)
    if s.op in ("mul", "div"):
        return any(
            never_positive(a, made, depth - 1) and never_negative(b, made, depth - 1)
            for a, b in (s.args, s.args[::-1])
        )
    if s.op == "sub":
        largest = made.get(s.args[1]) if isinstance(s.args[1], str) else None
        if isinstance(largest, Reduce) and largest.monoid == "max":
            return _same(s.args[0], largest.value, made)
    return False


def _same(a: Operand, b: Operand, made: Mapping[str, Named]) -> bool:
    """Whether two values are one, or are read from one place."""
    if a == b or isinstance(a, Const) or isinstance(b, Const):
        return a == b
    first, second = made.get(a), made.get(b)
    if not isinstance(first, Load) or not isinstance(second, Load):
        return False
    return replace(first, name="") == replace(second, name="")


def never_negative(operand: Operand, made: Mapping[str, Named], depth: int = _DEPTH) -> bool:
    """Whether a value is zero, positive or NaN."""
    if isinstance(operand, Const):
        return isinstance(operand.value, int | float) and operand.value >= 0
    s = made.get(operand)  # none of what was written out for short axes
    if depth == 0:
        return False
    if isinstance(s, Reduce):
        return s.monoid in ("sum", "max", "min", "prod") and never_negative(
            s.value, made, depth - 1
        )
    if not isinstance(s, Op):
        return False
    if s.op == "mul" and s.args[0] == s.args[1]:
        return True
    if s.op in _OF_BOTH:
        return all(never_negative(a, made, depth - 1) for a in s.args)
    return s.op in _NEVER_NEGATIVE
