"""The stress gate: of several equal forms of one expression, keep those that survive float32.

Algebra says that s*(1 - s), s(x)*s(-x) and e/(1 + e)**2 are one function; float32 says that the first loses every
digit at x = 20. Each form is run in float32 on hard points and compared with a high-precision reference. Forms whose
worst error exceeds the bound are rejected; among those within a factor of the best, the cheapest is chosen. No
derived expression reaches a kernel without passing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgc.numerics.ulp import Truth, ulp_error

Floats = NDArray[np.floating[Any]]

BOUND = 64.0
"""ULP of float32 beyond which a form is never used."""

SLACK = 3.0
"""A cheaper form may have this many times the error of the best one."""

EASE = 8.0
"""Errors up to this many ULP are as good as equal: a library's own exp has about 3."""


@dataclass(frozen=True)
class Form:
    """A candidate: `run` takes float32 arrays and returns one; `cost` orders forms of like accuracy."""

    name: str
    run: Callable[..., Floats]
    cost: float


@dataclass(frozen=True)
class Score:
    """What a form did: its worst error in ULP, and the operands where it was met."""

    form: Form
    worst: float
    where: tuple[float, ...]

    def __str__(self) -> str:
        at = ", ".join(f"{v:.9g}" for v in self.where)
        return f"{self.form.name}: {self.worst:.3g} ULP at ({at})"


@dataclass(frozen=True)
class Verdict:
    """The outcome of a gate: `chosen` is None if every form was rejected; scores are in order of error."""

    chosen: Form | None
    scores: tuple[Score, ...]
    bound: float

    @property
    def rejected(self) -> tuple[Score, ...]:
        return tuple(s for s in self.scores if not s.worst <= self.bound)


def measure(form: Form, operands: Sequence[Floats], want: Truth) -> Score:
    """The error of one form against the truth; results below the smallest normal may be flushed."""
    with np.errstate(all="ignore"):
        got = np.asarray(form.run(*operands))
    got = np.broadcast_to(got, np.shape(operands[0])) if got.shape == () else got
    errors = ulp_error(got, want, flush=True)
    at = int(np.argmax(errors)) if errors.size else 0
    place = tuple(float(x[at]) for x in operands) if errors.size else ()
    worst = float(errors[at]) if errors.size else 0.0
    return Score(form, worst, place)


def gate(
    forms: Sequence[Form], operands: Sequence[Floats], want: Truth, *, bound: float = BOUND
) -> Verdict:
    """Choose the cheapest form whose worst error is within SLACK of the best and within `bound`.

    Args:
        forms: equal expressions; the first of equal cost wins.
        operands: float32 arrays, one per operand, of one length.
        want: the true values at those points.
    """
    return judge([measure(f, operands, want) for f in forms], bound=bound)


def judge(scores: Sequence[Score], *, bound: float = BOUND) -> Verdict:
    """The verdict of `gate` on forms that were measured before."""
    ordered = tuple(sorted(scores, key=lambda s: s.worst))
    best = ordered[0].worst if ordered else float("inf")
    limit = min(bound, max(best * SLACK, EASE))
    sound = [s.form for s in scores if s.worst <= limit]
    return Verdict(min(sound, key=lambda f: f.cost) if sound else None, ordered, bound)
