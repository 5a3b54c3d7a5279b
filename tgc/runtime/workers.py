"""A pool of threads for one thing: cutting a range of programs into pieces and running them side by side.

numpy calls and native code release the interpreter lock, so threads are enough. The caller works too, and claims
whatever pieces no other thread has claimed yet: a busy or slow machine costs speed, never an answer, and a caller
never waits for a thread that has not begun. Threads are daemons, started at the first use.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from queue import SimpleQueue

from tgc.settings import current

PIECES = 4
"""Pieces per thread: enough that a thread held up elsewhere leaves little to wait for."""

_state = threading.local()
_starting = threading.Lock()
_jobs: SimpleQueue[tuple[contextvars.Context, _Job]] = SimpleQueue()
_started = 0


class _Job:
    """One call of `parallel`: pieces are claimed by taking them off a list, which is atomic."""

    def __init__(self, function: Callable[[int, int], object], pieces: list[tuple[int, int]]):
        self.function, self.pieces = function, pieces
        self.unfinished = [True] * len(pieces)
        self.unfinished[0] = False  # whoever takes this one is the last
        self.error: BaseException | None = None
        self.finished = threading.Lock()
        self.finished.acquire()

    def work(self) -> None:
        """Run pieces until all are claimed; after an error the others are only counted."""
        outer, _state.inside = getattr(_state, "inside", False), True
        try:
            while self.pieces:
                try:
                    low, high = self.pieces.pop()
                except IndexError:
                    return
                try:
                    if self.error is None:
                        self.function(low, high)
                except BaseException as error:  # it is the caller's
                    self.error = error
                finally:
                    if not self.unfinished.pop():
                        self.finished.release()
        finally:
            _state.inside = outer


def parallel(
    function: Callable[..., object], programs: int, grain: int = 1, *shared: object
) -> None:
    """Call `function(*shared, low, high)` on ranges that cover `range(programs)` once, on several threads where that
    pays.

    The ranges depend on the number of threads, so what is computed for a program must not depend on its range. Calls
    inside of `function` run in place. Helping threads see the caller's context (settings, numpy's error state).

    Args:
        grain: programs that are not worth dividing.

    Raises:
        BaseException: the first error of a range, after all ranges that had begun have ended.
    """
    function = partial(function, *shared) if shared else function
    if programs <= grain or getattr(_state, "inside", False):
        function(0, programs)
        return
    limit = threads()
    count = min(PIECES * limit, -(-programs // grain))
    if limit == 1 or count == 1:
        function(0, programs)
        return
    bounds = [programs * k // count for k in range(count, -1, -1)]
    job = _Job(function, list(zip(bounds[1:], bounds[:-1])))
    for _ in range(_helpers(min(limit, count) - 1)):
        _jobs.put((contextvars.copy_context(), job))
    interrupted: BaseException | None = None
    while True:
        try:
            job.work()
            job.finished.acquire()
            break
        except BaseException as error:  # an interrupt: helpers still write to the caller's arrays
            interrupted = error
    if job.error is not None or interrupted is not None:
        raise job.error or interrupted  # type: ignore[misc]


def threads() -> int:
    """How many threads a call may use: the setting, else the cores this process may run on."""
    return current().threads or _cores()


@lru_cache(maxsize=1)
def _cores() -> int:
    """Asked once: the system takes longer to answer than a small kernel takes to run."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def _helpers(wanted: int) -> int:
    """Start threads until there are so many; how many of those wanted there are."""
    global _started
    while _started < wanted:
        with _starting:
            if _started < wanted:
                try:
                    threading.Thread(target=_serve, args=(_jobs,), name="tgc", daemon=True).start()
                except RuntimeError:  # no more threads, or the interpreter is shutting down
                    return _started
                _started += 1
    return wanted


def _serve(jobs: SimpleQueue[tuple[contextvars.Context, _Job]]) -> None:
    while True:
        context, job = jobs.get()
        context.run(job.work)
        del context, job  # a waiting thread keeps nobody's arrays alive


def _forget() -> None:
    """After a fork: the threads are the parent's, and so may be whoever held a lock."""
    global _jobs, _started, _starting
    _jobs, _started, _starting = SimpleQueue(), 0, threading.Lock()
    _state.inside = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
