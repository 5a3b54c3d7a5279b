"""Scratch of a kernel as one tuple, the room, which stays from call to call while it is small.

To make an array takes as long as half an operation on a thousand elements. So a kernel keeps a few rooms by their
sizes. Whoever computes takes one away and puts it back at the end: another thread, or a handler of signals in the midst
of a kernel, finds none and makes its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tgc.codegen.naming import Names
from tgc.codegen.numpy.constants import dtype_text
from tgc.codegen.numpy.lines import define
from tgc.codegen.numpy.slots import Place

ROOM = 1 << 18
"""Bytes up to which a room stays: larger arrays are cheap to make beside the work on them."""
ROOMS = 4
"""Rooms of one kernel that stay."""


@dataclass(frozen=True)
class Room:
    """The arrays of a room, and the names of the function that makes it, of itself, and of those that were kept."""

    places: tuple[Place, ...]
    maker: str
    name: str
    kept: str

    @property
    def axes(self) -> list[str]:
        """What a room is as large as; the function takes their extents."""
        return list(dict.fromkeys(d for p in self.places for d in p.layout if d is not None))

    def function(self, names: Names, *, keeps: bool) -> str:
        """The source of the function."""
        extents = {d: names.new(d) for d in self.axes}
        kept = names.new(self.kept)
        lines = ['"""Scratch of one block."""']
        if keeps:
            lines += [f"if len({kept}) >= {ROOMS}:", f"    {kept}.clear()"]
        made = [f"empty({_shape(p, extents)}, {dtype_text(p.dtype)})" for p in self.places]
        text = tuple_text(made)
        if len(made) > 2 and len(set(made)) == 1:
            text = f"tuple([{made[0]} for _ in range({len(made)})])"
        params = [*extents.values(), *([f"{kept}=()"] if keeps else [])]
        return define(self.maker, params, [*lines, f"return {text}"])

    def unpacked(self) -> str:
        """The line that names the arrays of a room."""
        items = [p.name for p in self.places]
        return f"{', '.join(items) if len(items) > 1 else f'({items[0]},)'} = {self.name}"

    def made(self, extents: list[str], *more: str) -> str:
        """A new room."""
        return f"{self.maker}({', '.join([*extents, *more])})"

    def keeps(self, extents: list[str]) -> bool:
        """Whether rooms of these extents may stay: unless they are known to be large."""
        return not _known(extents) or self._bytes(extents) <= ROOM

    def taken(self, extents: list[str]) -> tuple[list[str], list[str]]:
        """The lines that take a room of these extents, and those that put it back."""
        if not self.keeps(extents):
            return [f"{self.name} = {self.made(extents)}"], []
        key = extents[0] if len(extents) == 1 else f"({', '.join(extents)})"
        took = f"{self.name} = {self.kept}.pop({key}, None) or {self.made(extents, self.kept)}"
        back = f"{self.kept}[{key}] = {self.name}"
        limit = [] if _known(extents) else [f"if {self._limit(extents)}:"]
        return [took], [*limit, f"    {back}" if limit else back]

    def _bytes(self, extents: list[str]) -> int:
        known = dict(zip(self.axes, map(int, extents)))
        return sum(
            math.prod(known[d] for d in p.layout if d is not None) * p.dtype.itemsize
            for p in self.places
        )

    def _limit(self, extents: list[str]) -> str:
        """The test that a room is small."""
        texts = {d: e if e.isalnum() else f"({e})" for d, e in zip(self.axes, extents)}
        sizes: dict[str, int] = {}
        for p in self.places:
            text = " * ".join(texts[d] for d in p.layout if d is not None)
            sizes[text] = sizes.get(text, 0) + p.dtype.itemsize
        if len(sizes) == 1:
            ((text, item),) = sizes.items()
            return f"{text} <= {ROOM // item}"
        parts = [f"{item} * {text}" if text else str(item) for text, item in sizes.items()]
        return f"{' + '.join(parts)} <= {ROOM}"


def tuple_text(items: list[str]) -> str:
    """A tuple display."""
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def _known(extents: list[str]) -> bool:
    return all(e.isdigit() for e in extents)


def _shape(place: Place, extents: dict[str, str]) -> str:
    texts = ["1" if d is None else extents[d] for d in place.layout]
    return texts[0] if len(texts) == 1 else f"({', '.join(texts)})"
