"""Questions about sizes, and the regime their answers make.

The scheduler decides by the sizes at hand but emits source for all sizes with the same answers: each question asked
here becomes a guard on an interval.
"""

from __future__ import annotations

from collections.abc import Mapping

from tgc.ir.sizes import Dim, evaluate, exact_quotient
from tgc.kernel.ir import Guard


class Facts:
    """Answers questions from the hints (size symbol to extent) and remembers what was asked."""

    def __init__(self, hints: Mapping[str, int]) -> None:
        self.hints = dict(hints)
        self._low: dict[Dim, int] = {}
        self._high: dict[Dim, int] = {}
        self._bounds: dict[Dim, int] = {}

    def bound(self, size: Dim, limit: int) -> None:
        """Declare `size <= limit` by construction: questions above the limit need no guard."""
        self._bounds[size] = limit

    def value(self, size: Dim) -> int:
        """The extent at hand, without a guard: for choices that do not change the source's validity."""
        return evaluate(size, self.hints)

    def at_most(self, size: Dim, limit: int) -> bool:
        """Whether `size <= limit`; the answer becomes part of the regime."""
        if isinstance(size, int):
            return size <= limit
        if self._bounds.get(size, limit + 1) <= limit:
            return True
        for bounded, bound in self._bounds.items():
            rest = exact_quotient(size, bounded)
            if rest is not None and self.value(rest) <= limit // bound:
                return self.at_most(rest, limit // bound)
        if self.value(size) <= limit:
            self._high[size] = min(limit, self._high.get(size, limit))
            return True
        self._low[size] = max(limit + 1, self._low.get(size, limit + 1))
        return False

    def pin(self, size: Dim) -> int:
        """The extent at hand as a number: the regime holds no other."""
        value = self.value(size)
        if not isinstance(size, int):
            self._low[size] = self._high[size] = value
        return value

    def trial(self) -> Facts:
        """The same knowledge with no question asked yet: for choices that may be dropped again."""
        other = Facts(self.hints)
        other._bounds = self._bounds
        return other

    def absorb(self, trial: Facts) -> None:
        """What a trial asked has decided something after all."""
        for size, low in trial._low.items():
            self._low[size] = max(low, self._low.get(size, low))
        for size, high in trial._high.items():
            self._high[size] = min(high, self._high.get(size, high))

    def guards(self) -> tuple[Guard, ...]:
        """The regime: what must hold of other sizes for the same source to serve them."""
        sizes = sorted({*self._low, *self._high}, key=str)
        return tuple(Guard(s, self._low.get(s), self._high.get(s)) for s in sizes)
