"""Small functions written for one exact type of call: no loop, no tuple and no test that the types decide already.

Generic code that converts arguments, calls a host function and converts its results costs more than the kernels of a
small call. So the text of what a call does is written out once and compiled; texts that are equal share their code,
and what differs (dtypes, shapes, host functions) is bound to names.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tgc.trees import TreeDef


@dataclass(frozen=True)
class Convert:
    """How one value crosses to or from a host function.

    Attributes:
        text: an expression of the value, `{}`.
        names: what the expression refers to, by name; a name means the same in every conversion, unless it holds the
            value's own, `{}`.
        first: an expression of the value, kept in a variable, that `text` is applied to instead.
    """

    text: str = "{}"
    names: tuple[tuple[str, Any], ...] = ()
    first: str = ""


AS_IT_IS = Convert()


def function(name: str, head: str, lines: Sequence[str], names: Mapping[str, Any]) -> Any:
    """The function `def name(head)` with this body, in which `names` are bound.

    The outer function takes the names as parameters, so that they are local and the code is compiled once per text.
    """
    body = "".join(f"        {line}\n" for line in lines)
    text = f"def make({', '.join(names)}):\n    def {name}({head}):\n{body}    return {name}\n"
    return _maker(text)(*names.values())


@lru_cache(maxsize=4096)
def _maker(text: str) -> Callable[..., Any]:
    place = f"<tgc step {abs(hash(text)):x}>"
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
    space: dict[str, Any] = {}
    exec(compile(text, place, "exec", dont_inherit=True), space)
    made: Callable[..., Any] = space["make"]
    return made


def leaf_names(count: int) -> list[str]:
    """The variables of the leaves of a call."""
    return [f"x{i}" for i in range(count)]


def tuple_text(items: Sequence[str]) -> str:
    """A tuple display, or the target of an assignment from a tuple."""
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


class Lines:
    """The body of a function in the making."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {}

    def bind(self, prefix: str, value: Any) -> str:
        """A new name for a value."""
        name = f"{prefix}_{len(self.names)}"
        self.names[name] = value
        return name

    def say(self, line: str) -> None:
        """Add a line."""
        self.lines.append(line)

    def convert(self, how: Convert, variable: str) -> str:
        """The expression of a converted variable, which itself stays as it is."""
        if how.first:
            self.say(f"kept_{variable} = {how.first.format(variable)}")
            variable = f"kept_{variable}"
        self.names.update({name.format(variable): value for name, value in how.names})
        return how.text.format(variable)

    def call(
        self,
        host: Callable[..., Any],
        arguments: Sequence[str],
        results: Sequence[str],
        constants: Sequence[Any] = (),
        *,
        small: bool = False,
    ) -> None:
        """Assign the results of a function of these arguments and constants.

        `small`: it takes microseconds. Then the arguments, expressions, may be evaluated twice.
        """
        last = [self.bind("constant", value) for value in constants]
        quiet = getattr(host, "quiet", None) if small else None
        plain, apart = quiet or (host, None)  # see `quiet.py`
        given = ", ".join([*arguments, *last])
        made, name = tuple_text(results), self.bind("host", plain)
        if apart is None:
            self.say(f"{made} = {name}({given})")
            return
        run, another = self.bind("run", apart()), self.bind("another", apart)
        self.say(f"nonlocal {run}")
        self.say("try:")
        self.say(f"    {made} = {run}({name}, {given})")
        self.say("except RuntimeError as error:")
        self.say("    if error.__traceback__.tb_next is not None:  # it is the function's own")
        self.say("        raise")
        self.say(f"    fresh = {another}()  # another thread is in the midst of this")
        self.say(f"    {made} = fresh({name}, {given})")
        self.say(f"    {run} = fresh")

    def tree(self, definition: TreeDef, leaves: Sequence[str]) -> str:
        """The expression that makes a tree of leaves."""
        return self._tree(definition, iter(leaves))

    def _tree(self, definition: TreeDef, leaves: Any) -> str:
        if definition.kind == "leaf":
            return str(next(leaves))
        if definition.kind == "none":
            return "None"
        if definition.kind == "const":
            return self.bind("constant", definition.value)
        items = [self._tree(child, leaves) for child in definition.children]
        if definition.kind == "list":
            return f"[{', '.join(items)}]"
        if definition.kind == "tuple":
            return tuple_text(items) if items else "()"
        made = self.bind("container", definition.container)
        if definition.kind == "namedtuple":
            return f"{made}._make([{', '.join(items)}])"
        if definition.kind == "dict":
            keys = self.bind("keys", definition.keys)
            return f"{made}(zip({keys}, [{', '.join(items)}]))"
        return f"{made}({', '.join(f'{k}={v}' for k, v in zip(definition.keys, items))})"
