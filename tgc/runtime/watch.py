"""What a function saw besides its arguments, watched cheaply.

`captures.Guards` walks through globals, cells and objects and makes a key of what it meets, which costs microseconds
for each object. While it walks it can note where it looked. As long as each of these places holds the very same
object, and each array a place of an array of the same kind, another walk would make the same key. To see that takes a
few loops over flat lists. Any difference is handed to the walk, which decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from operator import getitem
from typing import Any

from tgc.runtime.steps import Lines, function

_FEW = 8


class Watch:
    """The places that one walk looked at, and what they held."""

    def __init__(self) -> None:
        self._items: list[tuple[Any, Any, Any]] = []
        self._attributes: list[tuple[Any, str, Any]] = []
        self._tables: list[Any] = []
        self._lists: list[Any] = []
        self._arrays: list[tuple[Any, Any, Any]] = []
        self._array_attributes: list[tuple[Any, str, Any]] = []

    # --- what the walk notes ---

    def container(self, holder: Any) -> None:
        """The names or the length of a container belong to what was seen."""
        if isinstance(holder, list):
            self._lists.append(holder)
        elif not isinstance(holder, tuple):
            self._tables.append(holder)

    def item(self, holder: Any, key: Any, value: Any, *, array: bool) -> None:
        """A place in a dict, list, tuple or namespace."""
        if array:
            self._arrays.append((holder, key, value))
        elif not isinstance(holder, tuple):  # which cannot change
            self._items.append((holder, key, value))

    def attribute(self, holder: Any, name: str, value: Any, *, array: bool) -> None:
        """A place that only `getattr` reads: a cell's contents, a slot."""
        (self._array_attributes if array else self._attributes).append((holder, name, value))

    # --- watching ---

    def reader(self, value: object) -> Callable[[], Any] | None:
        """How to read a watched array again where it is; None if it is not in a container."""
        for holder, key, held in self._arrays:
            if held is value:
                return partial(getitem, holder, key)
        return None

    def check(self) -> Callable[[], bool] | None:
        """A function that says whether all is as it was, None where there is nothing to watch. It keeps no arrays
        alive but those that are in two places at once."""
        body = Lines()
        arrays = [*self._arrays, *self._array_attributes]
        count = Counter(id(value) for _, _, value in arrays)
        # Of an array only the type belongs to the key, and which places hold one and the same. The latter stay as
        # they are; the others may change as long as they do not become the same.
        tied = [place for place in self._arrays if count[id(place[2])] > 1]
        tied_attributes = [place for place in self._array_attributes if count[id(place[2])] > 1]
        tests = [
            *_every(body, "list({})", [(table, list(table)) for table in self._tables], "=="),
            *_every(body, "len({})", [(held, len(held)) for held in self._lists], "=="),
            *_every(body, "{}[{}]", [*self._items, *tied], "is"),
            *_every(body, "getattr({}, {})", [*self._attributes, *tied_attributes], "is"),
            *_every(body, "type({}[{}])", _typed(self._arrays), "is"),
            *_every(body, "type(getattr({}, {}))", _typed(self._array_attributes), "is"),
        ]
        if len(arrays) > 1:
            items = body.bind("items", [place[:2] for place in self._arrays])
            attributes = body.bind("attributes", [place[:2] for place in self._array_attributes])
            found = f"[id(h[k]) for h, k in {items}] + [id(getattr(h, k)) for h, k in {attributes}]"
            tests.append(f"len(set({found})) == {len(count)}")
        if not tests:
            return None
        body.say("try:")
        body.say(f"    return {' and '.join(tests)}")
        # A place is gone, or a cell is empty.
        body.say("except (KeyError, IndexError, AttributeError, ValueError):")
        body.say("    return False")
        made: Callable[[], bool] = function("same", "", body.lines, body.names)
        return made


def _typed(places: Sequence[Any]) -> list[Any]:
    return [(holder, key, type(value)) for holder, key, value in places]


def _every(body: Lines, read: str, places: Sequence[Any], relation: str) -> list[str]:
    """The tests that what is read at each place stands in a relation to the place's last item: a few are written out,
    many are one loop, so that their text is short."""
    if len(places) <= _FEW:
        tests = []
        for *place, expected in places:
            names = [body.bind("at", item) for item in place]
            tests.append(f"{read.format(*names)} {relation} {body.bind('was', expected)}")
        return tests
    count = len(places[0])
    names = [f"p{k}" for k in range(count)]
    test = f"{read.format(*names[:-1])} {relation} {names[-1]}"
    return [f"all([{test} for {', '.join(names)} in {body.bind('places', tuple(places))}])"]
