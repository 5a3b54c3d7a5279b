"""Running numpy without warnings of overflow and the like, and without copies of what it broadcasts.

Both are decided by one record in a context variable, which `np.errstate` makes anew at every call, for more than a
small operation costs. Here it is made once and the variable set to it.

The record also says how many elements numpy buffers. It fills a buffer with repetitions of an operand that is
broadcast, unless the inner dimension is at least as long as the buffer: for rows of 1024 that takes twice as long as
the operation itself.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from tgc.settings import adopt, override

Result = TypeVar("Result")

BUFFER = 1024
"""Elements of numpy's buffers: fewer would make conversions slow."""


def _ignoring() -> tuple[contextvars.ContextVar[Any], Any] | None:
    """The variable that holds numpy's record, and ours; None if it is not one variable. In a context of its own."""
    before = dict(contextvars.copy_context())
    np.seterr(all="ignore")
    np.setbufsize(BUFFER)
    after = contextvars.copy_context()
    changed = [(v, value) for v, value in after.items() if before.get(v) is not value]
    return changed[0] if len(changed) == 1 else None


_CONTEXT = contextvars.Context()
_IGNORING = _CONTEXT.run(_ignoring)


def quiet(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function under that record, as `np.errstate(all="ignore")` decorates it; arguments are positional.

    Its attribute `quiet` is the plain function, and what makes functions to call it with, for a quarter of what this
    costs. They hide the caller's context variables, and raise RuntimeError for all calls but one at a time.
    """
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

    silent.quiet = (function, _apart)  # type: ignore[attr-defined]
    return silent


def _apart() -> Callable[..., Any]:
    """A function that calls others under that record and the settings now in force, all that its context holds."""
    context = _CONTEXT.copy()
    context.run(adopt, override())
    return context.run
