"""Operations that have no ufunc and are faster than their expansions: functions that an emitted module defines.

Each is called as a ufunc is, with `out=`. The text below is what is emitted, of which FUNCTIONS holds each function.
"""

from __future__ import annotations

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


def _source(function: Any) -> str:
    """The function's text without its types."""
    text = inspect.getsource(function)
    return re.sub(r": Any( = )?| -> Any(?=:)", lambda m: "=" if m[1] else "", text)


_ALL = (philox_words, philox, normal)
FUNCTIONS = {f.__name__: f for f in _ALL}


def functions_in(source: str) -> list[str]:
    """The texts of the functions a piece of source calls, those they call before them."""
    wanted = source
    found: list[str] = []
    for function in reversed(_ALL):
        if re.search(rf"(?<![\w.]){function.__name__}\(", wanted):
            found.append(_source(function))
            wanted += found[-1]
    return found[::-1]
