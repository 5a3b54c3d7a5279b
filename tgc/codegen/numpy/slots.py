"""Scratch arrays of one block, reused as soon as the value in them is dead.

The block of an output serves as scratch too, until its own value is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tgc.codegen.naming import Names
from tgc.codegen.numpy.views import Layout
from tgc.ir import dtypes
from tgc.ir.dtypes import DType


@dataclass(frozen=True)
class Place:
    """An array that values of one dtype and layout may live in, one at a time."""

    name: str
    dtype: DType
    layout: Layout


@dataclass
class Lender:
    """A place that is free only while `opens <= number`, for values dead at `closes`; `strict`: dead before it."""

    place: Place
    opens: int
    closes: int
    loops: tuple[int, ...]
    strict: bool


@dataclass
class Slots:
    """Gives out places and takes them back. `made` lists the scratch arrays to allocate."""

    names: Names
    made: list[Place] = field(default_factory=list)
    lenders: list[Lender] = field(default_factory=list)
    _free: list[Place] = field(default_factory=list)
    _held: dict[str, tuple[Place, int]] = field(default_factory=dict)

    def own(self, name: str, dtype: DType, layout: Layout) -> Place:
        """A place of its own, never shared."""
        place = Place(self.names.new(name), dtype, layout)
        self.made.append(place)
        return place

    def release(self, number: int, inclusive: tuple[str, ...] = ()) -> None:
        """Free the places of values whose last use is before `number`, and at it for those `inclusive`."""
        for name, (place, last) in list(self._held.items()):
            if last < number or (last == number and name in inclusive):
                self._free.append(place)
                del self._held[name]

    def hold(
        self,
        value: str,
        dtype: DType,
        layout: Layout,
        number: int,
        last: int,
        loops: tuple[int, ...],
    ) -> Place:
        """A place for a value made at `number` and dead after `last`."""
        place = self._lend(dtype, layout, number, last, loops) or self._reuse(dtype, layout)
        if place is None:
            prefix = "flag" if dtype is dtypes.bool_ else "t" if dtype.is_float else "k"
            count = sum(p.name.rstrip("0123456789") == prefix for p in self.made)
            place = self.own(f"{prefix}{count}", dtype, layout)
        self._held[value] = (place, last)
        return place

    def _reuse(self, dtype: DType, layout: Layout) -> Place | None:
        lent = {id(lender.place) for lender in self.lenders}
        for place in reversed(self._free):
            if place.dtype is dtype and place.layout == layout and id(place) not in lent:
                self._free.remove(place)
                return place
        return None

    def _lend(
        self, dtype: DType, layout: Layout, number: int, last: int, loops: tuple[int, ...]
    ) -> Place | None:
        busy = {place.name for place, _ in self._held.values()}
        for lender in self.lenders:
            place = lender.place
            if place.dtype is not dtype or place.layout != layout or place.name in busy:
                continue
            in_time = last < lender.closes if lender.strict else last <= lender.closes
            if lender.opens <= number < lender.closes and in_time and lender.loops == loops:
                return place
        return None
