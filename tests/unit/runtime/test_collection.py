"""The garbage collector rests while a program is compiled, and then does as it did."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import tgc
from tgc.runtime.collection import paused


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_it_rests_while_a_function_is_traced() -> None:
    seen = []

    @tgc.jit
    def f(x: np.ndarray) -> np.ndarray:
        seen.append(gc.isenabled())
        return x + 1

    f(np.ones(3))
    assert seen == [False] and gc.isenabled()


def test_an_error_brings_it_back() -> None:
    with pytest.raises(ZeroDivisionError):
        tgc.jit(lambda x: x / (1 // 0))(np.ones(3))
    assert gc.isenabled()


def test_who_had_it_disabled_finds_it_so() -> None:
    gc.disable()
    tgc.jit(lambda x: x + 2)(np.ones(3))
    assert not gc.isenabled()


def test_the_last_of_several_threads_brings_it_back() -> None:
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with paused():
            inside.set()
            leave.wait(20)

    other = threading.Thread(target=stay)
    other.start()
    inside.wait(20)
    with paused(), paused():
        pass
    assert not gc.isenabled()
    leave.set()
    other.join(20)
    assert gc.isenabled()
