"""What numpy lacks or does slowly: functions that an emitted module defines.

Operations are called as ufuncs are, the output last. The text below is what is emitted, of which FUNCTIONS holds each
function.
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import numpy as np

# In an emitted module memory is recycled.
empty, clip = np.empty, np._core.umath.clip  # type: ignore[attr-defined]


def philox_counters(at: Any, stream: Any, seed: Any) -> Any:
    """The counters that `at` numbers lie among, their streams and seeds, and where in their words each lies."""
    stream, seed = np.asarray(stream, np.int64), np.asarray(seed, np.int64)
    if stream.size == seed.size == 1:
        stream, seed = stream.reshape(()), seed.reshape(())
        if not isinstance(at, range):
            start, size = int(at.flat[0]), at.size
            if (at.reshape(-1) == np.arange(start, start + size)).all():
                at = range(start, start + size)
        if isinstance(at, range):
            first, last = at.start >> 2, (at.stop + 3) >> 2
            places = slice(at.start - 4 * first, at.stop - 4 * first)
            return np.arange(first, last), stream, seed, places
        first, last = int(at.min()) >> 2, int(at.max()) >> 2
        if last - first < at.size:
            return np.arange(first, last + 1), stream, seed, at - 4 * first
    else:
        at, stream, seed = np.broadcast_arrays(at, stream, seed)
        stream, seed = stream.ravel(), seed.ravel()
    places = np.arange(0, 4 * at.size, 4).reshape(at.shape) + (at & 3)
    return (at >> 2).ravel(), stream, seed, places


def philox_words(block: Any, stream: Any, seed: Any) -> Any:
    """Words 0 and 2 of the counters of Philox 4x32-10, and words 1 and 3, as rows."""
    half, *factors = (np.array(k, np.uint64) for k in (32, 0xCD9E8D57, 0xD2511F53))
    steps = np.array([0x9E3779B9, 0xBB67AE85])
    keys = np.array([seed, seed >> 32]).T[..., None, :] + steps * np.arange(10)[:, None]
    keys = keys.view(np.uint64).T << half
    x, *products = empty((3, 2, block.size), np.uint64)
    y, (x0, x1) = products[1], x
    np.bitwise_and(block, 0xFFFFFFFF, out=x0, casting="unsafe")
    y[0] = block >> 32
    x1[...], y[1] = stream & 0xFFFFFFFF, stream >> 32
    rows = [(product, *product) for product in products]
    for k in range(10):
        # The lower halves of `y` are words 1 and 3. What an upper half holds wraps, and what is below is shifted out.
        product, first, second = rows[k & 1]
        np.multiply(x1, factors[0], out=first)
        np.multiply(x0, factors[1], out=second)
        np.left_shift(y, half, out=x)
        np.bitwise_xor(x, product, out=x)
        np.bitwise_xor(x0, keys[0, k, ...], out=x0)
        np.bitwise_xor(x1, keys[1, k, ...], out=x1)
        np.right_shift(x, half, out=x)
        y = product
    words = empty((2, 2, block.size), np.uint32)
    words[0], words[1] = x, y
    return words.view(np.int32)


def all_draws(block: Any, places: Any, dtype: Any, out: Any) -> Any:
    """Room for the draws of all counters: where they are wanted, if these are all that are."""
    if out is not None and isinstance(places, slice) and places == slice(0, 4 * block.size):
        if out.flags.c_contiguous:
            return out.reshape(-1, 2, 2)
    return empty((block.size, 2, 2), dtype)


def draws_at(draws: Any, places: Any, at: Any, out: Any) -> Any:
    """The draws that were asked for among those of all counters."""
    draws = draws.reshape(-1)
    if not isinstance(places, slice):
        return draws.take(places, out=out, mode="clip")
    if out is None:
        return draws[places] if isinstance(at, range) else draws[places].reshape(at.shape)
    if not np.may_share_memory(draws, out):
        np.copyto(out, draws[places].reshape(out.shape))
    return out


def philox(at: Any, stream: Any, seed: Any, out: Any = None) -> Any:
    """Word at & 3 of the counter at >> 2 of a stream; `at` is an array or a range."""
    at = at if isinstance(at, range) else np.asarray(at, np.int64)
    if not (len(at) if isinstance(at, range) else at.size):
        return np.empty(np.shape(at), np.int32)
    block, stream, seed, places = philox_counters(at, stream, seed)
    words = all_draws(block, places, np.int32, out)
    words.T[0], words.T[1] = philox_words(block, stream, seed)
    return draws_at(words, places, at, out)


def normal(at: Any, stream: Any, seed: Any, out: Any = None) -> Any:
    """Normal draws: of each two elements one has the cosine and one the sine, a cosine a quarter turn back."""
    at = at if isinstance(at, range) else np.asarray(at, np.int64)
    if not (len(at) if isinstance(at, range) else at.size):
        return np.empty(np.shape(at), np.float32)
    block, stream, seed, places = philox_counters(at, stream, seed)
    first, second = philox_words(block, stream, seed)
    radius, *angle = turns = empty((3, 2, block.size), np.float32)
    radius[...] = np.bitwise_and(first, np.int32(0x7FFFFFFF), out=first)
    radius *= np.float32(2.0**-31)
    radius += np.float32(2.0**-32)
    np.log(radius, out=radius)
    radius *= np.float32(-2.0)
    np.sqrt(radius, out=radius)
    angle[0][...] = np.bitwise_and(second, np.int32(0xFFFFFF), out=second)
    np.subtract(angle[0], np.float32(2**22), out=angle[1])
    turns = turns[1:]
    turns *= np.float32(3.7450702829239286e-07)  # a turn / 2**24
    np.cos(turns, out=turns)
    draws = all_draws(block, places, np.float32, out)
    np.multiply(turns, radius, out=draws.T)
    return draws_at(draws, places, at, out)


def sign(x: Any, out: Any = None) -> Any:
    """As np.sign, which branches: in place that takes ten times as long."""
    if out is None or out.dtype != np.float32:
        return np.sign(x, out=out)
    large, one = np.float32(2.0**100), np.float32(1)
    np.multiply(x, large, out=out)
    np.multiply(out, large, out=out)  # now the smallest denormal is more than 1 too
    return clip(out, -one, one, out=out)


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


def sum_line(x: Any, out: Any = None) -> Any:
    """The sum of one dimension: einsum takes longer to begin, and half as long for each element."""
    return np.add.reduce(x, 0, None, out) if x.size < 4096 else np.einsum("i->", x, out=out)


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
    """Fold the last axis and keep it; short rows by pairs, or transposed, in longer loops."""
    rows = x.shape[0]
    while 1 < x.shape[1] <= 128 and x.shape[1] % 2 == 0 and rows > 64 and x.flags.c_contiguous:
        line = x.reshape(-1)
        x = ufunc(line[::2], line[1::2]).reshape(rows, -1)
    if 1 < x.shape[1] <= 64 and rows > 64:
        return ufunc.reduce(x.T.copy(), axis=0)[:, None]
    return ufunc.reduce(x, axis=1, keepdims=True)


def check_index(index: Any, extent: Any, where: Any) -> None:
    """Without a sign, what is below zero is too large; numpy would count it from the end."""
    if index.size and index.max() >= extent:
        raise IndexError(f"an index is out of bounds for an axis of size {extent} ({where})")


@functools.cache
def _source(function: Any) -> str:
    """The function's text without its types."""
    text = inspect.getsource(function)
    return re.sub(r": Any( = )?| -> (?:Any|None)(?=:)", lambda m: "=" if m[1] else "", text)


_ALL = (
    philox_counters,
    philox_words,
    all_draws,
    draws_at,
    philox,
    normal,
    sign,
    fill_bits,
    select,
    select_or_zero,
    sum_line,
    fold_rows,
    fold_columns,
    check_index,
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
