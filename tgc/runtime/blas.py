"""The library that multiplies matrices in shares: torch's own where torch is loaded, else the one that numpy brings.

Torch's for x86 is MKL, which multiplies few rows at a time, on one thread, faster than OpenBLAS (docs/design.md).
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tgc.trace.abstract import loaded_torch


class Library(NamedTuple):
    """Addresses of functions of a BLAS, in Fortran's convention and with integers of 64 bits.

    `set_threads` takes how many threads a product may use. That holds for all products of the process, and `threads`
    tells what held before; where `threads` is 0, it holds for those of the calling thread, and what held before is
    returned.
    """

    name: str
    gemm: dict[np.dtype[Any], int]
    set_threads: int
    threads: int


COPIED, ALIKE = 256, 8192
"""From so many rows of the left factor on MKL copies the right one first. With fewer it is slow, up to half as fast as
OpenBLAS, where rows of the right one lie a multiple of so many bytes apart, in the same places of the cache."""


def library(lines: int = COPIED, apart: int = 0) -> Library | None:
    """The library to multiply with; None if none is loaded whose threads can be told to rest.

    Args:
        lines: how many rows of the left factor there are at a time.
        apart: bytes from one row of the right factor to the next, 0 if it lies by columns.
    """
    torch = loaded_torch()
    slow = lines < COPIED and apart and apart % ALIKE == 0
    theirs = _of_torch(torch._C.__file__) if hasattr(torch, "_C") else None
    return (slow and _of_numpy()) or theirs or _of_numpy()


@lru_cache(maxsize=1)
def _of_torch(path: str) -> Library | None:
    return _library("MKL", path, "{}_64_", "MKL_Set_Num_Threads_Local")


@lru_cache(maxsize=1)
def _of_numpy() -> Library | None:
    path = np._core._multiarray_umath.__file__  # type: ignore[attr-defined]
    threads = "scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_"
    return _library("OpenBLAS", path, "scipy_{}_64_", *threads)


def _library(name: str, path: str, gemm: str, *threads: str) -> Library | None:
    """A library of the process that a binary is linked with, by the names of its functions."""
    binary: Any = ctypes.CDLL(path)
    try:
        found = [
            binary[symbol] for symbol in (gemm.format("sgemm"), gemm.format("dgemm"), *threads)
        ]
    except AttributeError:
        return None
    single, double, set_threads, *get = (ctypes.cast(f, ctypes.c_void_p).value or 0 for f in found)
    by_dtype: dict[np.dtype[Any], int] = {
        np.dtype(np.float32): single,
        np.dtype(np.float64): double,
    }
    return Library(name, by_dtype, set_threads, *(get or [0]))
