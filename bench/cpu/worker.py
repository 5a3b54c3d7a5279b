"""One engine's process: `python -m bench.cpu.worker ENGINE`. It answers pickled requests from the suite by pipe.

Engines do not share a process: each allocator, thread pool and set of imports is then as it would be in a program that
uses that engine alone. Only one worker runs at a time while samples are taken.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from bench.cpu.engines import ENGINES, Engine, keep_pages
from bench.cpu.tasks import TASKS, Unsupported, digest

WARM_SECONDS = 4e-3
SAMPLE_SECONDS = 2e-3  # as in bench.measure: the clock and the loop then cost nothing


def as_numpy(value: Any) -> np.ndarray:
    """A result of any engine."""
    return np.asarray(value.detach() if hasattr(value, "detach") else value)


class Station:
    """What the worker has prepared, and how it answers."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.run: Callable[[], Any] | None = None
        self.calls = 1

    def prepare(self, task: str, mode: str, size: str, shape: tuple[int, ...]) -> Any:
        """Build the task and run it once; digests of the results, or why there are none."""
        self.drop()
        inputs = TASKS[task].inputs(shape, mode)
        try:
            run = self.engine.build(task, mode, size, inputs)
            start = time.perf_counter()
            results = run()
            first = time.perf_counter() - start
        except Unsupported as error:
            return "unsupported", str(error)
        except Exception as error:  # a competitor that breaks must not end the race
            return ("unsupported" if _refusal(error) else "failed"), _message(error)
        if not isinstance(results, tuple | list):
            results = (results,)
        digests = [digest(as_numpy(r)) for r in results]
        self.run = run
        return "ready", digests, first

    def calibrate(self) -> float:
        """Seconds of one call, and from that the calls of a sample."""
        assert self.run is not None
        once = self._time(1)
        if once < 10 * SAMPLE_SECONDS:
            once = min(once, self._time(1))
        self.calls = max(1, round(SAMPLE_SECONDS / max(once, 1e-7)))
        return once

    def sample(self) -> float:
        """Seconds a call, the mean over one sample."""
        assert self.run is not None
        start = (
            time.perf_counter()
        )  # others ran since: the caches are theirs, and a processor that slept is slow
        while self.calls > 1 and time.perf_counter() - start < WARM_SECONDS:
            self.run()
        return self._time(self.calls) / self.calls

    def drop(self) -> None:
        """Forget the task and its memory."""
        self.run = None
        gc.collect()

    def _time(self, count: int) -> float:
        run = self.run
        assert run is not None
        start = time.perf_counter()
        for _ in range(count):
            run()
        return time.perf_counter() - start


def _refusal(error: Exception) -> bool:
    """Whether the compiler says itself that it does not do this."""
    errors = sys.modules.get("tgc.errors")
    return errors is not None and isinstance(error, errors.TgcError)


def _message(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or ["no message"]
    kept = lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"
    return f"{type(error).__name__}: {kept}"[:300]


def version(engine: Engine) -> str:
    """The library or program behind an engine."""
    need = engine.needs[0] if engine.needs else "numpy"
    if need == "gcc":
        said = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True)
        return said.stdout.splitlines()[0]
    return f"{need} {getattr(importlib.import_module(need), '__version__', '')}"


def serve(requests: BinaryIO, replies: BinaryIO, engine: Engine) -> None:
    """Answer until the suite hangs up."""
    station = Station(engine)
    while True:
        try:
            name, *arguments = pickle.load(requests)
        except EOFError:
            return
        reply = version(engine) if name == "version" else getattr(station, name)(*arguments)
        pickle.dump(reply, replies)
        replies.flush()


def main(name: str) -> None:
    """Set up the process before anything is allocated, then serve."""
    engine = ENGINES[name]
    # Whatever a library prints goes to standard error: standard output carries replies.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if engine.warm and not keep_pages():
        raise SystemExit("this system's allocator takes no advice")
    engine.load(int(os.environ["OMP_NUM_THREADS"]))
    gc.disable()  # a collection would fall on whoever happens to run
    serve(sys.stdin.buffer, replies, engine)


if __name__ == "__main__":
    main(sys.argv[1])
