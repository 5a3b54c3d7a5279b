"""No garbage collection while a program is traced and compiled.

Both make many small objects and almost no garbage. The collector, which is set off by their number, would go through
all objects of the process to find that out: where torch is loaded, that takes as long as compiling.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_changing = threading.Lock()
_depth = 0
_resume = False


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Until the last of all threads that are in here has left; as it was before, whoever had it disabled."""
    global _depth, _resume
    with _changing:
        _depth += 1
        if _depth == 1:
            _resume = gc.isenabled()
            gc.disable()
    try:
        yield
    finally:
        with _changing:
            _depth -= 1
            if _depth == 0 and _resume:
                gc.enable()
