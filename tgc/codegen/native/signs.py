"""What is known of the sign and the size of a value: for some operands a function has less to do.

NaN counts as either sign. What the rules say holds after rounding too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from tgc.codegen.native.functions import NARROW
from tgc.codegen.native.trigonometry import FAR
from tgc.kernel.ir import Const, Iota, Kernel, Load, Op, Operand, Reduce
from tgc.kernel.walk import statements

Named: TypeAlias = Load | Iota | Op | Reduce

_NEVER_NEGATIVE = frozenset(
    {"abs", "square", "sqrt", "exp", "exp2", "cosh", "sigmoid", "softplus", "sech2", "erfc"}
)
_OF_ALL = frozenset({"add", "mul", "fma", "div", "minimum", "hypot"})
_DEPTH = 8  # of operations looked at

Interval: TypeAlias = tuple[float, float]


def named(kernel: Kernel) -> dict[str, Named]:
    """What makes each value of a kernel."""
    return {s.name: s for s in statements(kernel.body) if isinstance(s, Named)}


def has_less_to_do(op: str, operand: Operand, made: Mapping[str, Named]) -> bool:
    """Whether the function of `functions.NARROW` may stand for the operation on this operand."""
    if op not in NARROW:
        return False
    if op == "exp":
        return never_positive(operand, made)
    found = interval(operand, made)
    if found is None:
        return False
    # Halved and doubled: the ends of an interval are not rounded.
    if op == "log":
        return 2.0**-125 <= found[0] and found[1] <= 2.0**127
    return 2 * max(map(abs, found)) <= min(FAR.values())


def interval(operand: Operand, made: Mapping[str, Named], depth: int = _DEPTH) -> Interval | None:
    """The least and the greatest value, but for roundings, of what is never NaN nor infinite; None: not known."""
    if isinstance(operand, Const):
        value = operand.value
        known = isinstance(value, int | float) and math.isfinite(value)
        return (float(value), float(value)) if known else None  # type: ignore[arg-type]
    s = made.get(operand)
    if not isinstance(s, Op) or depth == 0:
        return None
    if s.op == "and" and s.dtype.kind == "int":
        masks = [a.value for a in s.args if isinstance(a, Const) and isinstance(a.value, int)]
        return (0.0, float(masks[0])) if masks and masks[0] >= 0 else None
    parts = [interval(a, made, depth - 1) for a in s.args]
    ends = _ENDS.get(s.op)
    if ends is None or any(p is None for p in parts):
        return None
    found = ends(*(p for p in parts if p is not None))
    limit = 2.0**100 if s.dtype.is_float else 2.0 ** (8 * s.dtype.itemsize - 1) - 1
    fits = s.dtype.kind in ("float", "int") and max(map(abs, found)) <= limit
    return found if fits else None


def _of_product(a: Interval, b: Interval) -> Interval:
    products = [x * y for x in a for y in b]
    return min(products), max(products)


_ENDS: dict[str, Callable[..., Interval]] = {
    "cast": lambda a: a,
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _of_product,
    "fma": lambda a, b, c: _ENDS["add"](_of_product(a, b), c),
}


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
    if s.op in ("mul", "fma") and s.args[0] == s.args[1]:
        return all(never_negative(a, made, depth - 1) for a in s.args[2:])
    if s.op in _OF_ALL:
        return all(never_negative(a, made, depth - 1) for a in s.args)
    return s.op in _NEVER_NEGATIVE
