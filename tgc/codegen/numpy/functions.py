"""What numpy lacks or does slowly: functions that an emitted module defines.

Operations are called as ufuncs are, with `out=`. The text below is what is emitted, of which FUNCTIONS holds each
function.
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import numpy as np


def philox_words(at: Any, stream: Any, seed: Any) -> Any:
    """The words of Philox 4x32-10 that `at` numbers lie among, and where in them each lies."""
    at, stream, seed = (np.asarray(x, np.int64) for x in (at, stream, seed))
    shared = stream.size == seed.size == 1
    first, last = int(at.min()) >> 2, int(at.max()) >> 2
    if shared and last - first < at.size:
        block, places = np.arange(first, last + 1), at - 4 * first
    else:
        if not shared:
            at, stream, seed = np.broadcast_arrays(at, stream, seed)
        block, places = (at >> 2).ravel(), np.arange(0, 4 * at.size, 4).reshape(at.shape) + (at & 3)
    low, half = np.array(0xFFFFFFFF, np.uint64), np.array(32, np.uint64)
    factors = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
    steps = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
    key = np.array([seed.ravel(), seed.ravel() >> 32]).astype(np.uint64) & low
    # Rows are the two halves of the counter: its words 0 and 2 in `x`, 1 and 3 in `y`.
    x, y, product = np.empty((3, 2, block.size), np.uint64)
    x[0], x[1] = block & 0xFFFFFFFF, stream.ravel() & 0xFFFFFFFF
    y[0], y[1] = block >> 32 & 0xFFFFFFFF, stream.ravel() >> 32 & 0xFFFFFFFF
    for _ in range(10):
        np.multiply(x, factors, out=product)
        np.bitwise_xor(y, key, out=y)
        np.right_shift(product[::-1], half, out=x)
        np.bitwise_xor(x, y, out=x)
        np.bitwise_and(product[::-1], low, out=y)
        key = key + steps & low
    words = np.empty((block.size, 4), np.int32)
    words.view(np.uint32).T[...] = x[0], y[0], x[1], y[1]
    return words.reshape(-1), places


def philox(at: Any, stream: Any, seed: Any, out: Any = None) -> Any:
    """Word at & 3 of the counter at >> 2 of a stream."""
    if not at.size:
        return np.empty(at.shape, np.int32)
    words, places = philox_words(at, stream, seed)
    return words.take(places, out=out, mode="clip")


def normal(at: Any, stream: Any, seed: Any, out: Any = None) -> Any:
    """Normal draws: of each two elements one has the cosine and one the sine, a cosine a quarter turn back."""
    if not at.size:
        return np.empty(at.shape, np.float32)
    words, places = philox_words(at, stream, seed)
    first, second = words[0::2] & np.int32(0x7FFFFFFF), words[1::2] & np.int32(0xFFFFFF)
    radius = first.astype(np.float32)
    radius *= np.float32(2.0**-31)
    radius += np.float32(2.0**-32)
    np.log(radius, out=radius)
    radius *= np.float32(-2.0)
    np.sqrt(radius, out=radius)
    angle = np.empty((second.size, 2), np.float32)
    angle[:, 0] = second
    angle[:, 1] = second - np.int32(2**22)
    angle *= np.float32(3.7450702829239286e-07)  # a turn / 2**24
    np.cos(angle, out=angle)
    angle *= radius[:, None]
    return angle.reshape(-1).take(places, out=out, mode="clip")


def fill_bits(condition: Any, out: Any) -> Any:
    """All bits of `out` set where the condition holds, none elsewhere."""
    np.copyto(out, condition)
    np.negative(out, out=out)


def select(bits: Any, yes: Any, no: Any, out: Any) -> Any:
    """`yes` where bits are set, else `no`: by branches it would take ten times as long."""
    mine, no = out.view(bits.dtype), no.view(bits.dtype)
    np.bitwise_xor(yes.view(bits.dtype), no, out=mine)
    np.bitwise_and(mine, bits, out=mine)
    np.bitwise_xor(mine, no, out=mine)


def select_or_zero(bits: Any, yes: Any, out: Any) -> Any:
    """`yes` where bits are set, else 0."""
    np.bitwise_and(yes.view(bits.dtype), bits, out=out.view(bits.dtype))


def fold_rows(ufunc: Any, x: Any) -> Any:
    """Fold the first axis, several short rows at once: numpy's inner loop runs along one."""
    rows, cols = x.shape
    some = 1024 // max(cols, 1)
    even = rows - rows % max(some, 1)
    if some < 2 or even < 2 * some or not x.flags.c_contiguous:
        return ufunc.reduce(x, axis=0)
    total = ufunc.reduce(x[:even].reshape(-1, some * cols), axis=0)
    total = ufunc.reduce(total.reshape(some, cols), axis=0)
    return ufunc(total, ufunc.reduce(x[even:], axis=0)) if even < rows else total


def fold_columns(ufunc: Any, x: Any) -> Any:
    """Fold the last axis and keep it; short rows transposed, for which numpy's loop is faster."""
    if 1 < x.shape[1] <= 64 and x.shape[0] > 64:
        return ufunc.reduce(x.T.copy(), axis=0)[:, None]
    return ufunc.reduce(x, axis=1, keepdims=True)


@functools.cache
def _source(function: Any) -> str:
    """The function's text without its types."""
    text = inspect.getsource(function)
    return re.sub(r": Any( = )?| -> Any(?=:)", lambda m: "=" if m[1] else "", text)


_ALL = (
    philox_words,
    philox,
    normal,
    fill_bits,
    select,
    select_or_zero,
    fold_rows,
    fold_columns,
)
FUNCTIONS = {f.__name__: f for f in _ALL}


def calls(name: str, source: str) -> bool:
    """Whether a piece of source calls a function, and not a method of that name."""
    pattern = rf"(?<![\w.]){name}\("
    return f"{name}(" in source and re.search(pattern, source) is not None


def functions_in(source: str) -> list[str]:
    """The texts of the functions a piece of source calls, those they call before them."""
    wanted = source
    found: list[str] = []
    for function in reversed(_ALL):
        if calls(function.__name__, wanted):
            found.append(_source(function))
            wanted += found[-1]
    return found[::-1]
