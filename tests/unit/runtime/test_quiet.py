"""numpy's warnings are off inside of a quiet function, and as they were outside of it."""

from __future__ import annotations

import contextvars
import threading

import numpy as np
import pytest

from tgc.runtime import quiet as module
from tgc.runtime.quiet import quiet


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


def test_numpy_keeps_its_state_in_one_variable():
    assert module._IGNORING is not None
    assert contextvars.copy_context().get(module._IGNORING[0]) is not module._IGNORING[1]


def test_without_the_variable(monkeypatch):
    monkeypatch.setattr(module, "_IGNORING", None)
    with np.errstate(all="raise"):
        assert quiet(lambda: np.float32(1) / np.float32(0))() == np.inf
