"""The team that runs the programs of native kernels: every program once, whoever comes, leaves, forks or is late."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tgc

pytest.importorskip("llvmlite")

from tgc.runtime import team as teams
from tgc.runtime.native import Kernel, Module
from tgc.runtime.team import MOST, team

MARK = """
define void @mark(ptr %out, i64 %first, i64 %last) {
entry:
  br label %each
each:
  %index = phi i64 [ %first, %entry ], [ %next, %each ]
  %at = getelementptr i64, ptr %out, i64 %index
  %old = load i64, ptr %at
  %new = add i64 %old, 1
  store i64 %new, ptr %at
  %next = add i64 %index, 1
  %more = icmp slt i64 %next, %last
  br i1 %more, label %each, label %done
done:
  ret void
}
"""
"""Program number k adds one to out[k]."""


@pytest.fixture(scope="module")
def mark() -> Kernel:
    return Module(MARK)["mark"]


def count(mark: Kernel, programs: int, piece: int, threads: int) -> np.ndarray:
    out = np.zeros(programs, np.int64)
    with tgc.settings(threads=threads):
        mark(out, programs, piece, team())
    return out


@pytest.mark.parametrize("programs", [1, 2, 3, 7, 64, 1000, 100_000])
@pytest.mark.parametrize("piece", [1, 2, 5, 1000])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_program_runs_once(mark: Kernel, programs: int, piece: int, threads: int) -> None:
    for pause in (0.0, 0.0, 0.002):  # awake, and asleep
        time.sleep(pause)
        assert (count(mark, programs, piece, threads) == 1).all()


def test_one_thread_is_nobody() -> None:
    with tgc.settings(threads=1):
        assert team() == 0


def test_more_threads_than_there_can_be() -> None:
    with tgc.settings(threads=3 * MOST):
        address = team()
    assert address and len(teams._members) < MOST


def test_many_callers_have_one_team(mark: Kernel) -> None:
    """Who finds the team taken works alone."""
    wrong = []

    def caller() -> None:
        wrong.extend(
            threads
            for threads in (2, 3, 5) * 100
            if not (count(mark, 10_000, 100, threads) == 1).all()
        )

    callers = [threading.Thread(target=caller) for _ in range(6)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert not any(thread.is_alive() for thread in callers) and not wrong


SCRIPT = f"""
import os, sys, time
import numpy as np
import tgc
from tgc.runtime.native import Module
from tgc.runtime.team import team
mark = Module({MARK!r})["mark"]
settings = tgc.settings(threads=3)
settings.__enter__()

def work():
    for _ in range(100):
        out = np.zeros(1000, np.int64)
        mark(out, 1000, 1, team())
        assert (out == 1).all()

"""
FORK = """
work()
for pause in (0, 0.01):  # its threads look for work, or sleep
    time.sleep(pause)
    child = os.fork()
    if child == 0:
        work()
        sys.exit(7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
    work()
print("good")
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT + script],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_team_of_its_own() -> None:
    done = run(FORK)
    assert done.stdout == "good\n", done.stderr


@pytest.mark.parametrize("pause", [0, 0.01])
def test_a_process_ends_while_its_team_waits(pause: float) -> None:
    done = run(f"work(); time.sleep({pause}); print('good')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "good\n", "")


def test_the_interpreter_lock_is_free_meanwhile(mark: Kernel) -> None:
    """Another Python thread sees a call begun and not ended: not in each call, where processors are few."""
    calls = [np.zeros(1 << 22, np.int64)]
    seen = threading.Event()

    def look() -> None:
        while now := calls[:]:
            if now[0][0] == 1 and now[0][-1] == 0:
                seen.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    deadline = time.monotonic() + 30
    with tgc.settings(threads=2):
        while not seen.is_set() and time.monotonic() < deadline:
            calls[:] = [np.zeros(1 << 22, np.int64)]
            mark(calls[0], calls[0].size, 1 << 16, team())
    calls.clear()
    watcher.join(20)
    assert seen.is_set()
