"""Running without numpy's warnings of overflow and the like, for less than a small operation costs.

`np.errstate` makes its record of what to ignore at every call. That record lies in a context variable; here it is made
once and the variable set to it.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")


def _ignoring() -> tuple[contextvars.ContextVar[Any], Any] | None:
    """The variable that `np.errstate` sets, and what to; None if that is not one variable."""
    before = dict(contextvars.copy_context())
    with np.errstate(all="ignore"):
        after = contextvars.copy_context()
    changed = [(v, value) for v, value in after.items() if before.get(v) is not value]
    return changed[0] if len(changed) == 1 else None


_IGNORING = contextvars.Context().run(_ignoring)


def quiet(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function as `np.errstate(all="ignore")` would decorate it; its arguments are positional."""
    if _IGNORING is None:
        return np.errstate(all="ignore")(function)
    variable, ignoring = _IGNORING
    enter, leave = variable.set, variable.reset

    @functools.wraps(function)
    def silent(*args: Any) -> Result:
        token = enter(ignoring)
        try:
            return function(*args)
        finally:
            leave(token)

    return silent
