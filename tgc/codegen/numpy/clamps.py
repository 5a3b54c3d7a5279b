"""Bounds by constants: numpy's ufunc `clip` takes less than `maximum` with a number, and sets both at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tgc.codegen.numpy.liveness import Liveness
from tgc.ir.sizes import Size
from tgc.kernel.ir import Const, Kernel, Op
from tgc.kernel.walk import statements

_LOWER = ("maximum", "clamp_min")
_UPPER = ("minimum", "clamp_max")


@dataclass(frozen=True)
class Clamp:
    """`value` between two bounds; `inner` is the operation that sets the other of them."""

    value: str
    low: Const
    high: Const
    inner: Op | None = None


def clamps(kernel: Kernel, live: Liveness) -> dict[str, Clamp]:
    """The operations that bound a value, by name; what an inner one reads now lives to the outer one."""
    found: dict[str, Clamp] = {}
    for s in statements(kernel.body):
        clamp = _bound(s) if isinstance(s, Op) else None
        if clamp is None or not isinstance(s, Op):
            continue
        other = found.get(clamp.value)
        value, made = live.values[clamp.value], live.values[s.name]
        if other is not None and other.inner is None and value.uses == 1:
            both = _both(clamp, other, value.by)
            if both is not None and value.loops == made.loops and clamp.value not in live.direct:
                del found[clamp.value]
                clamp = both
                read = live.values[clamp.value]
                read.last = max(read.last, made.made)
        found[s.name] = clamp
    return found


def _bound(s: Op) -> Clamp | None:
    if s.op not in (*_LOWER, *_UPPER) or s.dtype.name not in ("float32", "float64"):
        return None
    named = [a for a in s.args if isinstance(a, str)]
    bounds = [a for a in s.args if isinstance(a, Const) and not isinstance(a.value, Size)]
    if len(named) != 1 or len(bounds) != 1 or math.isnan(_number(bounds[0])):
        return None
    if s.op in _LOWER:
        return Clamp(named[0], bounds[0], Const(math.inf, s.dtype))
    return Clamp(named[0], Const(-math.inf, s.dtype), bounds[0])


def _both(outer: Clamp, inner: Clamp, by: object) -> Clamp | None:
    """One bound from each, unless the order of the two matters."""
    low = max(outer.low, inner.low, key=_number)
    high = min(outer.high, inner.high, key=_number)
    if _number(low) > _number(high) or not isinstance(by, Op):
        return None
    return Clamp(inner.value, low, high, by)


def _number(bound: Const) -> float:
    assert not isinstance(bound.value, Size)
    return float(bound.value)
