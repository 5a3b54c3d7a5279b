"""Matrix products whose rows are read by a kernel as they are computed; see `codegen/native/products.py`."""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tgc.codegen.native.products import FOLLOWED, emit
from tgc.ir import dtypes
from tgc.runtime.native import Module
from tgc.runtime.team import team

LEAST = 1 << 22
"""Multiplications from which a library uses threads: below, nothing of it is left running."""
DEEPEST = 2048
"""Bytes of a row of the left factor. Beyond, the product is so much work that it is better done as a whole: a library's
threads share their copy of the right factor, which here each of ours makes."""
LOWEST, TALLEST, ROOM = 128, 512, 1 << 20
"""Rows, and bytes, that are computed before others read them: few enough to stay in a processor's cache, and enough for
the library's copy of the right factor to pay."""
PROGRAMS = 16
"""How many programs there should be."""

Array = np.ndarray[Any, Any]


def panels(a: Array, b: Array, *, place: tuple[int, int], each: int, beside: int) -> _Panels | None:
    """A team for a kernel that reads a @ b: programs run after the rows they read. None where that does not pay.

    Args:
        place: how many arguments the kernel has, and which of them is the product.
        each: elements of the product that a program reads.
        beside: programs that read the same ones.
    """
    library = _library()
    if library is None or a.ndim != 2 or b.ndim != 2 or a.dtype.name not in library.gemm:
        return None
    (m, k), n, item = a.shape, b.shape[1], a.itemsize
    left, right = _order(a), _order(b)
    if left is None or right is None or m * n * k < LEAST or k * item > DEEPEST:
        return None
    unit = each // math.gcd(each, n)
    height = min(TALLEST, ROOM // (n * item), m // PROGRAMS) // unit * unit
    if height < LOWEST:
        return None
    values = {
        "run": _module(a.dtype.name).address("run"),
        "team": team(),
        "a": a.ctypes.data,
        "b": b.ctypes.data,
        "gemm": library.gemm[a.dtype.name],
        "threads": library.threads,
        "set_threads": library.set_threads,
        "users": ctypes.addressof(_users),
        "m": m,
        "n": n,
        "k": k,
        "a_step": a.strides[0],
        "a_turned": left.turned,
        "lda": left.far,
        "b_turned": right.turned,
        "ldb": right.far,
        "height": height,
        "programs": -(-m // height),
        "count": place[0],
        "slot": place[1],
        "each": each,
        "beside": beside,
    }
    words = (ctypes.c_int64 * len(FOLLOWED))(*(values.get(name, 0) for name in FOLLOWED))
    return _Panels(words, a, b)


class _Panels:
    """What a kernel takes for its team."""

    def __init__(self, words: Any, *alive: Any) -> None:
        self._words, self._alive = words, alive

    def __index__(self) -> int:
        return ctypes.addressof(self._words)


class _Order(NamedTuple):
    """How a matrix lies: CBLAS_TRANSPOSE, and elements from one row (column, where turned) to the next."""

    turned: int
    far: int


def _order(matrix: Array) -> _Order | None:
    """None if neither rows nor columns are contiguous, or they lie backwards."""
    item = matrix.itemsize
    for turned, (far, near), count in (
        (111, matrix.strides, matrix.shape[1]),
        (112, matrix.strides[::-1], matrix.shape[0]),
    ):
        if near == item and far % item == 0 and far // item >= max(1, count):
            return _Order(turned, far // item)
    return None


# --- the library ----------------------------------------------------------------------------------------------------


class _Library(NamedTuple):
    """Addresses of functions of OpenBLAS with integers of 64 bits; `gemm` by type."""

    gemm: dict[str, int]
    threads: int
    set_threads: int


@lru_cache(maxsize=1)
def _library() -> _Library | None:
    """The library that numpy multiplies with, if it is one whose threads can be told to rest."""
    numpy = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]

    def address(name: str) -> int:
        found = ctypes.cast(getattr(numpy, f"scipy_{name}64_"), ctypes.c_void_p).value
        assert found is not None
        return found

    try:
        gemm = {"float32": address("cblas_sgemm"), "float64": address("cblas_dgemm")}
        threads = address("openblas_get_num_threads"), address("openblas_set_num_threads")
    except AttributeError:
        return None
    return _Library(gemm, *threads)


_users = (ctypes.c_int64 * 3)()
"""A lock, how many products are under way, and the threads that the library had before them."""


@lru_cache(maxsize=2)
def _module(name: str) -> Module:
    return Module(emit(getattr(dtypes, name)))
