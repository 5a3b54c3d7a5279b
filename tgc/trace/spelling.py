"""How a library spells an operation: the names of its arguments, and which of them may be given as several numbers.

An operation is a Python function whose parameters have one set of names (`axis`, `keepdims`, ...). A `Spelling` maps
another library's call onto it and refuses, by name, arguments that the operation does not have.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from tgc.errors import UnsupportedOpError
from tgc.trace.core import call, unsupported
from tgc.trace.state import current
from tgc.trace.symbolic import is_size

RENAMED = {
    "dim": "axis",
    "dims": "axis",
    "keepdim": "keepdims",
    "ddof": "correction",
    "dim0": "axis0",
    "dim1": "axis1",
    "start_dim": "start",
    "end_dim": "end",
    "ret": "out",
    "training": "train",
}
# First and second operands go by these names.
FIRST = (
    "input",
    "self",
    "a",
    "x",
    "x1",
    "arr",
    "ary",
    "m",
    "y",
    "tensor",
    "tensors",
    "arrays",
    "condition",
    "array",
)
SECOND = (
    "other",
    "exponent",
    "x2",
    "mat2",
    "vec2",
    "b",
    "target",
    "indices",
    "index",
    "vec",
    "batch2",
)
# Arguments that say how, not what: they change nothing here.
HARMLESS = {
    "memory_format",
    "_stacklevel",
    "layout",
    "pin_memory",
    "non_blocking",
    "copy",
    "order",
    "casting",
    "subok",
    "inplace",
    "stable",
    "names",
}


class Spelling:
    """One name of an operation in one library.

    Attributes:
        name: as the user writes it, for messages.
        function: the operation.
        order: positional parameters in this library's order, in the operation's names; () where it is the operation's.
        several: whether `x.view(2, 3)` stands for `x.view((2, 3))`: the position from which on numbers are gathered.
    """

    # A plain class: the table has over a thousand, made when tgc is first used.
    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        order: tuple[str, ...] = (),
        several: int | None = None,
    ) -> None:
        self.name, self.function, self.order, self.several = name, function, order, several

    @cached_property
    def _parameters(self) -> tuple[tuple[str, ...], bool, bool]:
        """The names of parameters, and whether there are *args and **kwargs."""
        kinds = inspect.signature(self.function).parameters.values()
        names = tuple(p.name for p in kinds if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        return (
            names,
            any(p.kind is p.VAR_POSITIONAL for p in kinds),
            any(p.kind is p.VAR_KEYWORD for p in kinds),
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the operation at the user's line."""
        args, kwargs = self.bound(args, kwargs)
        try:
            return call(self.function, args, kwargs)
        except TypeError as error:
            if isinstance(error, UnsupportedOpError) or not _is_binding_error(error):
                raise
            raise unsupported(f"{self.name}: {str(error).split('() ', 1)[-1]}") from None

    def bound(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The operation's own arguments for a call in this spelling."""
        if self.several is not None and len(args) > self.several and is_size(args[self.several]):
            args = (*args[: self.several], tuple(args[self.several :]))
        names, variadic, open_ended = self._parameters
        named: dict[str, Any] = {}
        if self.order and len(args) <= len(self.order):
            for key, value in zip(self.order[1:], args[1:]):
                self._add(named, key, value, names)
            args = args[:1]
        for key, value in kwargs.items():
            self._add(
                named, key if open_ended else self._own_name(key, names), value, names, open_ended
            )
        if len(args) > len(names) and not variadic:
            raise unsupported(f"{self.name} with {len(args)} arguments")
        return args, named

    def _own_name(self, key: str, names: tuple[str, ...]) -> str:
        if key in names:
            return key
        renamed = RENAMED.get(key, key)
        if renamed in names:
            return renamed
        if key in ("dims", "dim", "axis") and "axes" in names:
            return "axes"
        if key in ("size", "newshape", "sizes") and "shape" in names:
            return "shape"
        if key in FIRST and names:
            return names[0]
        if key in SECOND and len(names) > 1:
            return names[1]
        return renamed

    def _add(
        self,
        named: dict[str, Any],
        key: str,
        value: Any,
        names: tuple[str, ...],
        open_ended: bool = False,
    ) -> None:
        """Keep an argument the operation has; ignore one that says nothing; refuse the rest."""
        if key in names or open_ended:
            if value is not np._NoValue:
                named[key] = value
        elif key not in HARMLESS and not _says_nothing(key, value):
            raise unsupported(f"{self.name} with the argument {key}={value!r}")


def _says_nothing(key: str, value: Any) -> bool:
    return (
        value is None
        or value is False
        or value is np._NoValue
        or (key == "where" and value is True)
    )


def _is_binding_error(error: TypeError) -> bool:
    """Whether a TypeError says that a call does not fit an operation's parameters."""
    text = str(error)
    return "argument" in text and (
        "missing" in text or "multiple values" in text or "positional" in text
    )


def no_such(name: str) -> UnsupportedOpError:
    """The error for a function that tgc does not know."""
    return UnsupportedOpError(
        f"{name} is not compiled by tgc",
        line=current().error_line(),
        hint="compose it of supported functions, or compute it outside and pass the result as an argument",
    )
