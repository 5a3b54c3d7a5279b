"""Matrix products by the team that runs kernels; `codegen/native/products.py` says why not by numpy's library."""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from typing import Any

import numpy as np

from tgc.codegen.native.products import FOLLOWED, STRIP, Shape, emit
from tgc.ir import dtypes
from tgc.runtime.memory import empty
from tgc.runtime.native import Module
from tgc.runtime.objects import features
from tgc.runtime.team import team

LEAST = 1 << 22
"""Multiplications from which a library uses threads: below, nothing of it is left running."""
SIDE = 32
"""Rows and columns that are worth a copy of the factors."""
PIECE = 1 << 15
"""Elements whose copy is worth a thread's while."""
HEIGHT, WIDTH, PROGRAMS = 240, 8, 16
"""Rows of a program, its panels at most, and how many programs there should be before they are so large."""

TALL, ROOM = 240, 480 << 10
"""Rows of a product, and bytes, that a program computes at most before others read them: they stay in its cache."""

Array = np.ndarray[Any, Any]


def matmul(a: Array, b: Array, *, out: Array) -> None:
    """`np.matmul(a, b, out=out)` for contiguous results; the same bits on any number of threads."""
    taken = _taken(a, b)
    if taken is None:
        np.matmul(a, b, out=out)
    else:
        _multiply(*taken, a, b, out)


def panels(a: Array, b: Array, *, place: tuple[int, int], each: int, beside: int) -> _Panels | None:
    """A team for a kernel that reads the product: programs run after the rows they read. None where that does not pay.

    Args:
        place: how many arguments the kernel has, and which of them is the product.
        each: elements of the product that a program reads.
        beside: programs that read the same ones.
    """
    taken = _taken(a, b)
    if taken is None:
        return None
    (m, k), n = a.shape, b.shape[1]
    unit = each // math.gcd(each, n)
    most = min(TALL, ROOM // (n * a.itemsize), m // PROGRAMS)
    height = most // unit * unit
    if height < SIDE:
        return None
    shape, left, right = taken
    module = _module(shape, left[0], right[0])
    packed = _packed(shape, module, b, right)
    values = dict(zip(("m", "n", "k", "stride"), (m, n, k, left[1])))
    values |= {"a": a.ctypes.data, "packed": packed.ctypes.data}
    values |= {"run": module.address("run"), "team": team()}
    values |= {"height": height, "programs": _cdiv(m, height)}
    values |= {"count": place[0], "slot": place[1], "each": each, "beside": beside}
    words = (ctypes.c_int64 * len(FOLLOWED))(*(values.get(name, 0) for name in FOLLOWED))
    return _Panels(words, a, b, packed)


class _Panels:
    """What a kernel takes for its team."""

    def __init__(self, words: Any, *alive: Any) -> None:
        self._words, self._alive = words, alive

    def __index__(self) -> int:
        return ctypes.addressof(self._words)


_Order = tuple[bool, int]
"""Whether rows are contiguous, else columns, and elements from one to the next."""


def _taken(a: Array, b: Array) -> tuple[Shape, _Order, _Order] | None:
    """How the factors lie, if their product is for us."""
    if a.ndim != 2 or b.ndim != 2:
        return None
    (m, k), n = a.shape, b.shape[1]
    if m * n * k < LEAST or m < SIDE or n < SIDE:
        return None
    shape, left, right = _shape(a.dtype.name), _order(a), _order(b)
    if shape is None or left is None or right is None:
        return None
    return shape, left, right


def _multiply(shape: Shape, left: _Order, right: _Order, a: Array, b: Array, out: Array) -> None:
    (m, k), n = a.shape, b.shape[1]
    module, across = _module(shape, left[0], right[0]), _cdiv(n, shape.columns)
    packed = _packed(shape, module, b, right)
    height = _cdiv(_cdiv(m, _cdiv(m, HEIGHT)), shape.rows) * shape.rows
    blocks = _cdiv(m, height)
    width = min(WIDTH, max(1, across * blocks // PROGRAMS))
    width = _cdiv(across, _cdiv(across, width))
    programs = blocks * _cdiv(across, width)
    module["product"](a, packed, out, m, n, k, left[1], height, width, programs, 1, team())


def _packed(shape: Shape, module: Module, b: Array, right: _Order) -> Array:
    """The right factor in panels."""
    k, n = b.shape
    across, strips = _cdiv(n, shape.columns), _cdiv(k, STRIP)
    packed = empty(across * shape.columns * strips * STRIP, b.dtype)
    parts, each = (strips, STRIP * n) if right[0] else (across, shape.columns * k)
    module["panels"](b, packed, n, k, right[1], parts, max(1, PIECE // each), team())
    return packed


def _order(array: Array) -> _Order | None:
    """How a matrix lies; None if neither its rows nor its columns are contiguous."""
    item = array.itemsize
    for by_rows, (near, far) in ((True, array.strides[::-1]), (False, array.strides)):
        if near == item and far % item == 0:
            return by_rows, far // item
    return None


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


@lru_cache(maxsize=8)
def _shape(name: str) -> Shape | None:
    """What products of a type are made of here: a tile takes three quarters of the registers."""
    if name not in ("float32", "float64"):
        return None
    dtype, has = getattr(dtypes, name), features()
    if has.get("avx512f"):
        return Shape(dtype, 64, 12)
    return Shape(dtype, 32, 6) if has.get("avx2") else None


@lru_cache(maxsize=32)
def _module(shape: Shape, left_by_rows: bool, right_by_rows: bool) -> Module:
    return Module(emit(shape, left_by_rows, right_by_rows))
