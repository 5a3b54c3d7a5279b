"""The functions `tgc.exp`, `tgc.sum`, ... for use in traced functions: array-API names, and torch's where it has more.

Made from the table of names. Outside a trace they act on real arrays through `eager`, which the package sets to the
decorator: a single operation is then compiled and called like any function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tgc.errors import TraceError
from tgc.settings import current, settings
from tgc.trace.names import TGC
from tgc.trace.spelling import Spelling
from tgc.trace.state import active

pi, e, inf, nan = math.pi, math.e, math.inf, math.nan
newaxis = None

_eager: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = []


def set_eager(compile: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Say how a function of this module runs outside a trace."""
    _eager[:] = [compile]


def _function(name: str, spelling: Spelling) -> Callable[..., Any]:
    compiled: dict[str, Callable[..., Any]] = {}

    def function(*args: Any, **kwargs: Any) -> Any:
        if active() is not None:
            return spelling(*args, **kwargs)
        if not _eager:
            raise TraceError(
                f"tgc.{name} outside a compiled function",
                hint="decorate the function with @tgc.jit",
            )
        options = repr(sorted(kwargs.items()))
        if options not in compiled:
            compiled[options] = _eager[0](lambda *arrays: spelling(*arrays, **kwargs))
        if current().disable:  # nothing but a compiled function computes it
            with settings(disable=False):
                return compiled[options](*args)
        return compiled[options](*args)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = spelling.function.__doc__ or f"Elementwise {name}."
    function.__module__ = "tgc"
    return function


for _name, _spelling in TGC.items():
    globals()[_name] = _function(_name, _spelling)
