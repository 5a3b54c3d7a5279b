"""numpy's warnings are off inside of a quiet function, and as they were outside of it."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import numpy as np
import pytest

import tgc
from tgc.runtime import quiet as module
from tgc.runtime import steps, workers
from tgc.runtime.quiet import quiet
from tgc.runtime.steps import Lines


@quiet
def overflow() -> np.float32:
    return np.float32(3e38) * np.float32(3e38) / np.float32(0)


@quiet
def fail() -> None:
    raise KeyError


@pytest.mark.parametrize("outside", ["raise", "warn", "ignore"])
def test_nothing_is_reported(outside):
    with np.errstate(all=outside):
        assert overflow() == np.inf
        with pytest.raises(KeyError):
            fail()
        assert set(np.geterr().values()) == {outside}


def test_buffers_are_small_inside_alone():
    before = np.getbufsize()
    assert quiet(np.getbufsize)() == module.BUFFER
    assert np.getbufsize() == before


def test_on_another_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(overflow()))
    thread.start()
    thread.join()
    assert found == [np.inf]


def test_inside_of_itself():
    with np.errstate(all="raise"):
        assert quiet(lambda x: (overflow(), np.float32(x) / np.float32(0))[1])(1) == np.inf
        with pytest.raises(FloatingPointError):
            np.float32(1) / np.float32(0)


def step(function: Any) -> Any:
    """A small call of a quiet function, written out."""
    body = Lines()
    body.call(function, ["x"], ["r"], small=True)
    return steps.function("call", "x", [*body.lines, "return r"], body.names)


def test_small_calls_enter_a_context_that_one_at_a_time_can_have():
    seen = []
    inner = step(quiet(lambda x: (seen.append(np.geterr()["over"]) or x + 1,)))
    outer = step(quiet(lambda x: (inner(x) + 1,)))
    assert outer(1) == 3
    assert seen == ["ignore"]
    assert np.geterr()["over"] == "warn"


def test_small_calls_have_as_many_threads_as_others():
    """Small arguments may mean much work in between."""
    with tgc.settings(threads=3):
        small = step(quiet(lambda x: (workers.threads(),)))
    assert small(0) == 3


@pytest.mark.parametrize("error", [RuntimeError, KeyError])
def test_errors_of_small_calls_are_their_own(error):
    runs = []

    def fail(x):
        runs.append(x)
        raise error("mine")

    with pytest.raises(error, match="mine"):
        step(quiet(fail))(1)
    assert runs == [1]
    assert step(quiet(lambda x: (x,)))(2) == 2


def test_numpy_keeps_its_state_in_one_variable():
    assert module._IGNORING is not None
    assert contextvars.copy_context().get(module._IGNORING[0]) is not module._IGNORING[1]


def test_without_the_variable(monkeypatch):
    monkeypatch.setattr(module, "_IGNORING", None)
    with np.errstate(all="raise"):
        assert quiet(lambda: np.float32(1) / np.float32(0))() == np.inf
