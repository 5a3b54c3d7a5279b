"""Recycled memory: taken again when nothing refers to it, and never before."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tgc
from tgc.runtime import arrays, blocks, memory
from tgc.runtime.memory import LEAST

pytestmark = pytest.mark.usefixtures("small_heap")

N = LEAST  # elements of float32: four times the least


class Python:
    """The pool in Python."""

    empty = staticmethod(memory.empty)
    release = staticmethod(memory.release)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "_idle", [])
        self.patch = monkeypatch

    def idle(self) -> list[int]:
        """Bytes of the blocks that nothing refers to, the newest first."""
        return [size for _, size, _ in memory._idle[::-1]]

    def keep(self, nbytes: int) -> None:
        """Bound what may lie idle."""
        self.patch.setattr(memory, "KEEP", nbytes)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        memory._idle[:] = [(then - seconds, *rest) for then, *rest in memory._idle]


class Native:
    """The pool in native code."""

    release = staticmethod(arrays.release)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("llvmlite")
        tgc.jit(lambda x: x + 1, backend="native")(np.zeros(3))
        self.empty = arrays.empty()
        self.keep(memory.KEEP)
        arrays.release()
        assert self.idle() == []

    def _blocks(self) -> list[int]:
        state = dict(zip(blocks.STATE, arrays.pool()))
        found, before, total, block = [], 0, 0, state["newest"]
        while block:
            found.append(block)
            assert word(block + blocks.Block.before.offset).value == before
            total += word(block + blocks.Block.size.offset).value
            before, block = block, word(block + blocks.Block.next.offset).value
        assert (state["lock"], state["oldest"], state["idle"]) == (0, before, total)
        return found

    def idle(self) -> list[int]:
        return [word(block + blocks.Block.size.offset).value for block in self._blocks()]

    def keep(self, nbytes: int) -> None:
        arrays.pool()[blocks.STATE.index("keep")] = nbytes

    def wait(self, seconds: float) -> None:
        for block in self._blocks():
            word(block + blocks.Block.when.offset).value -= round(seconds)


def word(address: int) -> Any:
    return ctypes.c_int64.from_address(address)


POOL: Any = None


@pytest.fixture(autouse=True, params=[Python, Native])
def alone(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    global POOL
    gc.collect()
    POOL = request.param(monkeypatch)
    yield
    POOL.keep(memory.KEEP)


def empty(shape: Any, dtype: Any) -> Any:
    return POOL.empty(shape, dtype)


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def is_taken_again(where: int) -> bool:
    """Whether the next arrays of this size may be given the memory at `where`."""
    return where in [address(a) for a in [empty(N, np.float32) for _ in range(3)]]


def test_a_dead_array_is_used_again_and_a_living_one_is_not() -> None:
    first = empty(N, np.float32)
    where = address(first)
    assert not is_taken_again(where)
    del first
    assert is_taken_again(where)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, N), np.float32), (2 * N, np.float64), ((3, N, 2), np.int8), ((N, 0), float), (7, bool)],
)
def test_it_looks_like_np_empty(shape: Any, dtype: Any) -> None:
    for _ in range(3):
        ours, theirs = empty(shape, dtype), np.empty(shape, dtype)
        assert (ours.shape, ours.dtype, ours.strides) == (
            theirs.shape,
            theirs.dtype,
            theirs.strides,
        )
        assert type(ours) is np.ndarray and ours.flags.writeable and ours.flags.aligned
        ours.fill(1)
        assert (pickle.loads(pickle.dumps(ours)) == ours).all()


def test_objects_are_numpys() -> None:
    assert (empty(N, object) == None).all()  # noqa: E711


def torch_of(array: np.ndarray) -> Any:
    return pytest.importorskip("torch").from_numpy(array)


def by_dlpack(array: np.ndarray) -> Any:
    return pytest.importorskip("torch").from_dlpack(array)


HOLDERS: dict[str, Callable[[np.ndarray], Any]] = {
    "view": lambda a: a.view(np.uint8),
    "slice": lambda a: a[5:9],
    "element": lambda a: a[-1:].reshape(()),
    "chain": lambda a: a[1:].reshape(-1, 1).T[:, ::2][None],
    "strided": lambda a: np.lib.stride_tricks.as_strided(a, (2, 2), (4, 4)),
    "subclass": lambda a: a.view(np.recarray)[3:],
    "memoryview": memoryview,
    "memoryview of a slice": lambda a: memoryview(a[3:])[2:5],
    "frombuffer": lambda a: np.frombuffer(memoryview(a)[8:], np.uint8),
    "base": lambda a: a.base,
    "view of the base": lambda a: a.base[10:20] if isinstance(a.base, np.ndarray) else a.base,
    "iterator": lambda a: a.flat,
    "ctypes": lambda a: a.ctypes,
    "torch": torch_of,
    "view of torch": lambda a: torch_of(a)[3:].view(-1, 1).detach(),
    "numpy of torch": lambda a: torch_of(a)[7:].numpy(),
    "dlpack": by_dlpack,
    "container": lambda a: {"x": [a]},
    "bound method": lambda a: a.sum,
}


@pytest.mark.parametrize("name", HOLDERS)
def test_memory_that_something_refers_to_stays(name: str) -> None:
    array = empty(N, np.float32)
    array.fill(3)
    where = address(array)
    holder = HOLDERS[name](array)
    del array
    gc.collect()
    assert not is_taken_again(where)
    del holder
    gc.collect()
    assert is_taken_again(where)


def test_a_weak_reference_holds_nothing() -> None:
    array = empty(N, np.float32)
    where, known = address(array), weakref.ref(array)
    del array
    assert known() is None
    assert is_taken_again(where)


def test_memory_is_not_kept_while_its_owner_is_weakly_known() -> None:
    array = memory.empty(N, np.float32)
    where, owner = address(array), weakref.ref(array.base)
    memory.release()
    del array
    assert owner() is None
    assert memory._idle == [] and where


def test_a_cycle_is_recycled_when_collected() -> None:
    array = empty(N, np.float32)
    where = address(array)
    cycle: list[Any] = [array]
    cycle.append(cycle)
    del array, cycle
    gc.collect()
    assert is_taken_again(where)


def test_an_error_midway_loses_nothing() -> None:
    def fail() -> None:
        kept = empty(N, np.float32)
        kept.fill(1)
        raise ValueError

    for _ in range(5):
        with pytest.raises(ValueError):
            fail()
    assert len(POOL.idle()) == 1
    with pytest.raises(ValueError):
        empty((-1, N), np.float32)
    with pytest.raises((MemoryError, OSError, OverflowError, ValueError)):
        empty(1 << 60, np.float32)
    assert len(POOL.idle()) == 1


def test_threads_never_share_memory() -> None:
    wrong: list[str] = []
    start = threading.Barrier(6)

    def run(tag: int) -> None:
        rng = np.random.default_rng(tag)
        held: list[np.ndarray] = []
        start.wait()
        for turn in range(400):
            array = empty(N + int(rng.integers(3)), np.float32)
            array[:8] = array[-8:] = tag * 1000 + turn
            held.append(array[:: int(rng.integers(1, 4))])
            if len(held) > 3:
                gone = held.pop(int(rng.integers(len(held))))
                if gone[0] // 1000 != tag or (gone[0] != held[0][0]) != (gone is not held[0]):
                    wrong.append(f"{tag}: {gone[0]}")
        values = [h[0] for h in held]
        if len(set(values)) != len(values) or any(v // 1000 != tag for v in values):
            wrong.append(f"{tag}: {values}")

    threads = [threading.Thread(target=run, args=(k,)) for k in range(1, 7)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not wrong
    assert POOL.idle()


def test_what_is_kept_is_bounded() -> None:
    bound = 5 * N * 4
    POOL.keep(bound)
    arrays = [empty(N, np.float32) for _ in range(12)]
    last = address(arrays[-1])
    while arrays:
        arrays.pop(0)
        assert sum(POOL.idle()) <= bound
    assert len(POOL.idle()) == 5
    assert is_taken_again(last), "the oldest go first"
    POOL.release()
    assert POOL.idle() == []


def test_stale_memory_goes() -> None:
    array = empty(N, np.float32)
    del array
    POOL.wait(memory.STALE - 2)
    other = empty(8 * N, np.float32)
    assert len(POOL.idle()) == 1
    del other
    POOL.wait(4)
    other = empty(16 * N, np.float32)
    assert POOL.idle() == [8 * N * 4]
    del other


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_has_memory_of_its_own() -> None:
    array = empty(N, np.float32)
    array.fill(1)
    idle = empty(N, np.float32)
    del idle
    if isinstance(POOL, Native):
        arrays.pool()[blocks.STATE.index("lock")] = 1  # as if another thread were at the list
    child = os.fork()
    if not child:
        ours = empty(N, np.float32)
        ours.fill(2)
        os._exit(0 if array[0] == 1 and address(ours) != address(array) else 1)
    if isinstance(POOL, Native):
        arrays.pool()[blocks.STATE.index("lock")] = 0
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(POOL.idle()) == 1 and array[0] == 1


def test_without_the_rule_of_bases_it_is_np_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory._OWNS
    monkeypatch.setattr(memory, "_OWNS", False)
    memory.release()
    array = memory.empty(N, np.float32)
    assert array.flags.owndata
    del array
    assert memory._idle == []


KEEP_PAGES = """
import resource, warnings
import numpy as np
warnings.simplefilter("error")
import tgc

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.empty(1 << 19, np.uint8).fill(1)  # with no huge page in it
        np.empty(3 << 20, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
with tgc.settings(keep_pages=True):
    faults()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
def test_the_allocator_keeps_pages_when_told() -> None:
    if not hasattr(__import__("ctypes").CDLL(None), "gnu_get_libc_version"):
        with pytest.warns(UserWarning, match="glibc"), tgc.settings(keep_pages=True):
            return
    done = subprocess.run(
        [sys.executable, "-c", KEEP_PAGES], capture_output=True, text=True, timeout=60
    )
    assert int(done.stdout) < 100, done.stderr
