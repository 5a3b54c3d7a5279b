"""Native code where it could break an interpreter: errors in thousands, many threads, ends, forks."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tgc
from tgc.runtime import arrays, memory, native
from tgc.runtime.blocks import STATE

pytest.importorskip("llvmlite")

pytestmark = pytest.mark.usefixtures("small_heap")

SMALL, LARGE = 100, memory.LEAST
IDLE = STATE.index("idle")


KERNEL = """
define void @f(ptr noalias %a, double %b, i64 %first, i64 %last) nounwind {
  store double %b, ptr %a
  ret void
}
"""


@tgc.jit(backend="native")
def f(x: Any, y: Any) -> Any:
    return x * y + 1, (x - y).sum()


# --- nothing is left behind -----------------------------------------------------------------------------------------


class Odd(np.ndarray):
    """A subclass, which guards refuse and kernels take."""


def raises(error: type[Exception], call: Callable[[], Any]) -> None:
    try:
        call()
    except error:
        return
    raise AssertionError(f"{error} was not raised")


def calls() -> dict[str, Callable[[], Any]]:
    native.Module(KERNEL)  # with the first one comes the rest
    x, y = (np.ones((4, 6), np.float32) for _ in range(2))
    large = np.ones(LARGE, np.float32)
    check = arrays.alike([x, y], [(lambda: x, x)])
    asked = arrays.alike([], [(lambda: 1 // 0, 1)])
    assert check is not None and asked is not None
    empty, export = arrays.empty(), arrays.empty_for_torch()
    assert export is not None
    kernel = native.Module(KERNEL)["f"]
    return {
        "a call": lambda: f(x, y),
        "a large call": lambda: f(large, large),
        "another layout": lambda: f(x[::-1], y),
        "not contiguous": lambda: f(x[:, ::2], y[:, ::2]),
        "a subclass": lambda: f(x.view(Odd), y),
        "a wrong shape": lambda: raises(tgc.errors.ShapeError, lambda: f(x, y[:3])),
        "a wrong dtype": lambda: raises(tgc.errors.DTypeError, lambda: f(x.astype(complex), y)),
        "no array": lambda: raises(Exception, lambda: f(x, object())),
        "no argument": lambda: raises(TypeError, lambda: f(x)),
        "alike": lambda: (check(x, y), check(x, x[::-1]), check(x, None), check(x), check()),
        "alike with an error": lambda: raises(ZeroDivisionError, asked),
        "empty": lambda: (empty(3, np.float32), empty((2, 3), np.bool_), empty((), np.int8)),
        "large and empty": lambda: (empty(LARGE, np.int64), empty((3, LARGE), np.float16)),
        "empty with an error": lambda: raises(ValueError, lambda: empty((2, -1), np.float32)),
        "a type it does not know": lambda: raises(TypeError, lambda: empty(3, "no type")),
        "extents that are no numbers": lambda: raises(TypeError, lambda: empty((2, "3"), bool)),
        "too large": lambda: raises(ValueError, lambda: empty((1 << 61) - 1, np.float64)),
        "no memory": lambda: raises(MemoryError, lambda: empty(1 << 55, np.float64)),
        "exported": lambda: (export(3, np.float32), export((2, LARGE), np.float64)),
        "exported with an error": lambda: raises(ValueError, lambda: export(-1, np.float64)),
        "a kernel's number of arguments": lambda: raises(TypeError, lambda: kernel(x)),
        "a kernel's pointer": lambda: raises(TypeError, lambda: kernel("x", 1.0, 1, 1, 0)),
        "a kernel": lambda: kernel(x, 1.0, 1, 1, 0),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", calls())
def test_a_thousand_calls_leave_nothing(name: str) -> None:
    call = calls()[name]
    lasting = [
        None,
        True,
        False,
        np.dtype(np.float32),
        np.float32,
        np.ndarray,
        int,
        tuple,
        TypeError,
    ]
    for _ in range(100):
        call()
    tracemalloc.start()
    try:
        call()
        found = []
        for count in (1000, 0):
            gc.collect()
            counts = [sys.getrefcount(x) for x in lasting]
            found.append((tracemalloc.get_traced_memory()[0], *counts))
            for _ in range(count):
                call()
    finally:
        tracemalloc.stop()
    (nbytes, *before), (more, *after) = found
    assert more - nbytes < 30_000  # 30 a call
    assert max(abs(a - b) for a, b in zip(after, before)) < 200
    assert 0 <= arrays.pool()[IDLE] <= memory.KEEP and arrays.pool()[0] == 0


# --- threads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_one_function_in_many_threads(threads: int) -> None:
    """Results that are kept stay as they were while others are made, above and below where blocks begin."""
    torch = pytest.importorskip("torch")
    wrong: list[str] = []
    start = threading.Barrier(6)

    def run(tag: int) -> None:
        rng = np.random.default_rng(tag)
        kept: list[tuple[Any, Any]] = []
        start.wait()
        for turn in range(60):
            n = int(rng.choice([0, 1, SMALL, LARGE // 4 - 1, LARGE // 4, LARGE, 3 * LARGE]))
            value = float(tag * 1000 + turn)
            x, y = np.full(n, value, np.float32), np.full(n, 2, np.float32)
            with tgc.settings(threads=threads):
                out, total = f(torch.from_numpy(x), torch.from_numpy(y)) if turn % 2 else f(x, y)
            kept.append((out, value * 2 + 1))
            if abs(float(total) - n * (value - 2)) > 1e-3 * abs(n * value):
                wrong.append(f"{tag}: sum {total} for {n} of {value - 2}")
            if len(kept) > 6:
                kept.pop(int(rng.integers(len(kept))))
            for other, expected in kept:
                if not (other == expected).all():
                    wrong.append(f"{tag}: not all are {expected}")

    workers = [threading.Thread(target=run, args=(k,)) for k in range(1, 7)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
    assert not any(worker.is_alive() for worker in workers) and not wrong


# --- ends and forks -------------------------------------------------------------------------------------------------

SCRIPT = """
import atexit, faulthandler, gc, os, sys, threading, time
import numpy as np
import tgc
faulthandler.enable()

@tgc.jit(backend="native")
def f(x, y):
    return tgc.sin(x) * y + 1, (x - y).sum()

def work(n=1 << 20):
    x = np.full(n, 2.0, np.float32)
    out, total = f(x, x)
    assert (out == out[0]).all() and total == 0
    return out

def tensors(n=1 << 20):
    import torch
    x = torch.full((n,), 2.0, requires_grad=True)
    out, total = f(x, x)
    out.sum().backward()
    return out, x.grad, total

def forever(what):
    def run():
        while True:
            what()
    threading.Thread(target=run, daemon=True).start()

def child(what):
    main = threading.current_thread() is threading.main_thread()
    pid = os.fork()
    if pid == 0:
        what()
        if main:
            sys.exit(0)
        os._exit(0)  # a thread has no way to end the process that waits for others
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status

threads = tgc.settings(threads=2)
threads.__enter__()
work()
"""
ENDS = {
    "arrays live": "kept = [work(), work(100), work()[3:]]",
    "arrays live in a cycle": "kept = [work()]; kept.append(kept); gc.disable()",
    "arrays live in the interpreter": "sys.kept = work(); sys.tensors = memoryview(work())",
    "arrays are made at the end": "atexit.register(lambda: setattr(sys, 'kept', work()))",
    "tensors live": "kept = [tensors(), tensors(100)]; sys.kept = tensors()",
    "tensors are made at the end": "tensors(); atexit.register(tensors)",
    "a finalizer calls": "class A:\n def __del__(self): f(self.x, self.x)\na = A(); a.x = work()",
    "a thread works": "forever(work); time.sleep(0.05)",
    "small work in a thread": "forever(lambda: work(100)); time.sleep(0.05)",
    "a fork": "kept = work(); child(work); work()",
    "a fork with tensors": "kept = tensors(); child(work); tensors()",
    "a fork from a thread": "t = threading.Thread(target=lambda: child(work)); t.start(); t.join()",
    "a fork while threads work": "forever(work); [child(lambda: work(100)) for _ in range(5)]",
    "a fork that ends others' arrays": "kept = [work()]; child(lambda: (kept.clear(), work())); work()",
    "a hard end": "kept = work(); forever(work); time.sleep(0.02); os._exit(0)",
    "an error at the end": "kept = work(); atexit.register(work); sys.exit(0)",
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_is_clean(name: str) -> None:
    if "fork" in name and not hasattr(os, "fork"):
        pytest.skip("there is no fork")
    if "tensors" in ENDS[name]:
        pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT + ENDS[name]],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "rror" not in done.stderr and "atal" not in done.stderr, done.stderr
