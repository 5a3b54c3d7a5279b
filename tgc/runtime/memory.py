"""Memory for results, taken again once nothing refers to it.

A fresh page costs more to touch for the first time than to compute: the system clears it, at 3 to 10 GB/s, and takes
it back when the array dies. So the memory of large arrays is kept. What makes that safe is ownership, not counting:
every such array stands on a `_Lease`, as do all views of it, tensors over it and buffers exported from it, and the
memory returns to the pool in the finalizer of the lease, which runs when the last of them is gone.

Once native code is loaded it does the same in less time: see `blocks.py`.

Kept memory is bounded by `KEEP` bytes and by `STALE` seconds; it is the least recently returned that goes. Threads
share it without a lock (a finalizer may run anywhere, also inside of the pool): lists are changed by single
operations, and whoever takes a block off the list has it.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import time
import weakref
from functools import lru_cache
from typing import Any

import numpy as np

LEAST = 1 << 17
"""Bytes from which arrays are recycled: below, allocators keep pages themselves."""
STALE = 10.0
"""Seconds after which memory that nobody asked for is given back, at the next call that finds out."""
_FEW = LEAST // 16  # elements that no dtype makes large
HUGE = 1 << 22
"""Bytes from which huge pages are asked for, as numpy does."""


def _kept() -> int:
    """An eighth of the machine's memory, 1 GiB at most: a step's outputs at 10^7 elements, not a data set."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        physical = 1 << 30
    return min(1 << 30, physical // 8)


KEEP = _kept()
"""Bytes that may lie unused in the pool."""

_idle: list[tuple[float, int, mmap.mmap]] = []  # when returned, how large, what; the newest last


class _Lease(np.ndarray[Any, Any]):
    """The owner of one block for the life of one array and everything made from it."""

    block: mmap.mmap | None = None  # views of a lease have none

    def __del__(self) -> None:
        # A weak reference could be followed between here and the end of the object: then the memory is not ours.
        if self.block is not None and not weakref.getweakrefcount(self):
            _idle.append((time.monotonic(), len(self.block), self.block))
            if len(_idle) > 1:
                release(KEEP)


def empty(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """`np.empty(shape, dtype)`; large arrays stand on recycled memory, and so cannot be resized in place."""
    count = shape if shape.__class__ is int else math.prod(shape)  # type: ignore[arg-type]
    if count < _FEW:
        return np.empty(shape, dtype)
    kind, size = _class(count, dtype)
    if size == 0 or not _OWNS:
        return np.empty(shape, kind)
    try:
        lease = _lease(size)
    except (OSError, OverflowError):  # numpy says it better
        return np.empty(shape, kind)
    array: np.ndarray[Any, Any] = np.ndarray(shape, kind, lease)
    return array


def release(keep: int = 0) -> None:
    """Give memory back to the system: the oldest beyond `keep` bytes, and all that is stale."""
    total, oldest = 0, time.monotonic() - STALE
    for item in _idle[::-1]:
        total += item[1]
        if total > keep or item[0] < oldest:
            _take(item)


@lru_cache(maxsize=256)
def _class(count: int, dtype: Any) -> tuple[np.dtype[Any], int]:
    """The bytes of a block for so many elements: at most an eighth more, never touched; 0 for what is not recycled."""
    kind = np.dtype(dtype)
    size = count * kind.itemsize
    if size < LEAST or kind.hasobject:
        return kind, 0
    step = max(1 << 16, 1 << size.bit_length() - 4)
    return kind, -(-size // step) * step


def _take(item: tuple[float, int, mmap.mmap]) -> bool:
    """Take a block off the list, unless another thread has."""
    try:
        _idle.remove(item)
    except ValueError:
        return False
    return True


def _lease(size: int) -> _Lease:
    for item in _idle[::-1]:
        if item[1] == size and _take(item):
            block = item[2]
            break
    else:
        release(KEEP)
        block = _map(size)
    lease: _Lease = _Lease(size, np.uint8, block)
    lease.block = block
    return lease


def _map(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    block = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _views_hold_the_lease() -> bool:
    """The one thing this rests on: that numpy, which shortens chains of bases, does not shorten a lease away."""
    block = mmap.mmap(-1, mmap.PAGESIZE)
    lease = _Lease(64, np.uint8, block)
    array: Any = np.ndarray(64, np.uint8, lease)
    view = array[1:].view(np.int8).reshape(7, 9).T
    alive = weakref.ref(lease)
    del lease, array
    held = alive() is not None
    del view
    return held and alive() is None


_OWNS = _views_hold_the_lease()
