"""The pool: every program once, by several threads, errors and contexts of the caller."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tgc
from tgc.runtime.workers import PIECES, parallel, threads


def covered(programs: int, grain: int) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    parallel(lambda low, high: seen.append((low, high)), programs, grain)
    return sorted(seen)


@pytest.mark.parametrize("count", [1, 3])
def test_arguments_that_all_ranges_share(count: int) -> None:
    found = np.zeros(50, np.int64)

    def fill(out: np.ndarray, step: int, low: int, high: int) -> None:
        out[low:high] += step * np.arange(low, high)

    with tgc.settings(threads=count):
        parallel(fill, 50, 1, found, 3)
    np.testing.assert_array_equal(found, 3 * np.arange(50))


@pytest.mark.parametrize("programs", [1, 2, 3, 7, 8, 9, 64, 1000])
@pytest.mark.parametrize("grain", [1, 2, 5, 1000])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_ranges_cover_all_programs_once(programs: int, grain: int, count: int) -> None:
    with tgc.settings(threads=count):
        ranges = covered(programs, grain)
    assert [i for low, high in ranges for i in range(low, high)] == list(range(programs))
    assert len(ranges) <= PIECES * count
    if programs <= grain or count == 1:
        assert ranges == [(0, programs)]
    else:
        assert len(ranges) > 1


def test_no_programs_is_one_empty_range() -> None:
    assert covered(0, 1) == [(0, 0)]


def test_the_default_is_the_cores_at_hand() -> None:
    if hasattr(os, "sched_getaffinity"):
        assert threads() == len(os.sched_getaffinity(0))
    with tgc.settings(threads=5):
        assert threads() == 5


def test_two_threads_work_at_the_same_time() -> None:
    meeting = threading.Barrier(2)  # breaks if one thread does all pieces

    def meet(low: int, _high: int) -> None:
        if low in (0, 1):
            meeting.wait(timeout=20)

    with tgc.settings(threads=2):
        parallel(meet, 2)


def test_nested_calls_run_in_place() -> None:
    seen: list[tuple[int, int, int]] = []

    def outer(low: int, high: int) -> None:
        mine = threading.get_ident()

        def inner(first: int, last: int) -> None:
            assert threading.get_ident() == mine
            seen.append((low, first, last))

        parallel(inner, 10)

    with tgc.settings(threads=2):
        parallel(outer, 2)
        assert sorted(seen) == [(0, 0, 10), (1, 0, 10)]
        assert len(covered(8, 1)) > 1, "the caller is outside again"


def test_an_error_reaches_the_caller_after_all_that_began_has_ended() -> None:
    running: list[int] = []

    def fail(low: int, _high: int) -> None:
        running.append(low)
        try:
            time.sleep(0.01)
            if low == 3:
                raise ZeroDivisionError("here")
        finally:
            running.remove(low)

    with tgc.settings(threads=2):
        for _ in range(5):
            with pytest.raises(ZeroDivisionError, match="here"):
                parallel(fail, 8)
            assert running == []
        assert len(covered(8, 1)) == 8, "the pool still works"


def test_helpers_see_the_callers_context() -> None:
    seen: list[tuple[str, int]] = []
    meeting = threading.Barrier(2)

    def look(_low: int, _high: int) -> None:
        meeting.wait(timeout=20)
        seen.append((np.geterr()["divide"], threads()))

    with tgc.settings(threads=2), np.errstate(divide="raise"):
        parallel(look, 2)
    assert seen == [("raise", 2), ("raise", 2)]


def test_many_callers_share_the_pool() -> None:
    results: list[bool] = []

    def caller(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with tgc.settings(threads=3):
            for _ in range(100):
                programs = int(rng.integers(1, 50))
                out = np.zeros(programs, int)

                def fill(low: int, high: int, out: np.ndarray = out) -> None:
                    for i in range(low, high):
                        out[i] += i + 1

                parallel(fill, programs)
                results.append(bool((out == np.arange(1, programs + 1)).all()))

    callers = [threading.Thread(target=caller, args=(k,)) for k in range(8)]
    for t in callers:
        t.start()
    for t in callers:
        t.join(60)
    assert results == [True] * 800


def test_a_waiting_thread_holds_nothing() -> None:
    import weakref

    class Thing:
        pass

    thing = Thing()
    known = weakref.ref(thing)
    with tgc.settings(threads=2):
        parallel(lambda low, high, thing=thing: None, 8)  # type: ignore[misc]
    del thing
    deadline = time.monotonic() + 20
    while known() is not None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert known() is None


FORK = """
import os, threading
import tgc
from tgc.runtime.workers import parallel
tgc_settings = tgc.settings(threads=2)
tgc_settings.__enter__()

def work(tag):
    meeting = threading.Barrier(2)
    parallel(lambda low, high: meeting.wait(timeout=20), 2)

work("parent")
child = os.fork()
if child == 0:
    work("child")
    os._exit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
work("parent again")
print("good")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "good\n", done.stderr
