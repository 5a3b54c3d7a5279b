"""Random draws as numpy functions, which emitted modules hold: Philox 4x32-10 and normal numbers made of it.

Most draws are of a range of numbers under one key. Their counters are worked on sixteen thousand at a time, in memory
that stays in the caches and in views that are made once; as numbers count, the first rounds are of one word in two.
"""

from __future__ import annotations

from typing import Any

import numpy as np

empty = np.empty  # in an emitted module memory is recycled


def line_of(at: Any, stream: Any, seed: Any) -> Any:
    """`at` as a range, if it is one under one key with counters of one upper half."""
    if np.size(stream) != 1 or np.size(seed) != 1:
        return None
    if not isinstance(at, range):
        start, size = int(at.flat[0]), at.size
        if not (at.reshape(-1) == np.arange(start, start + size)).all():
            return None
        at = range(start, start + size)
    return at if at.start >> 34 == (at.stop - 1) >> 34 else None


def philox_counters(at: Any, stream: Any, seed: Any) -> Any:
    """Counters, streams and seeds of the numbers `at`, and where in their words each lies."""
    stream, seed = np.asarray(stream, np.int64), np.asarray(seed, np.int64)
    if stream.size == seed.size == 1:
        stream, seed = stream.reshape(()), seed.reshape(())
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
        # Lower halves of `y` are words 1 and 3; upper ones wrap, what is below is shifted out.
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


def line_room(count: Any, rooms: Any = {}) -> Any:  # noqa: B006
    """Memory for `philox_line`: numbers, counters, both products, views of all halves."""
    if count in rooms:
        return rooms.pop(count)
    if len(rooms) > 3:
        rooms.clear()
    counters, products = np.zeros((2, count), np.uint64), np.zeros((2, 2, count), np.uint64)
    low = 0 if np.little_endian else 1
    halves = [a.view(np.uint32)[..., k::2] for a in (counters, products) for k in (low, 1 - low)]
    steps = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64) * np.arange(10, dtype=np.uint64)
    factors = np.array(0xD2511F53, np.uint64), np.array(0xCD9E8D57, np.uint64)
    words = halves[0].view(np.int32), halves[2][1, ::-1].view(np.int32)
    rows = [(*p, *high, *low) for p, high, low in zip(products, halves[3], halves[2])]
    return (
        rooms,
        np.arange(count, dtype=np.uint64),
        *counters,
        *halves[0],
        rows,
        steps,
        factors,
        words,
    )


def philox_line(first: Any, count: Any, stream: Any, seed: Any) -> Any:
    """Words 0 and 2 of counters from `first` on, words 1 and 3, and the room they lie in."""
    room = line_room(count)
    _, numbers, x0, x1, x0_low, x1_low, rows, steps, factors, words = room
    full, stream, seed = 0xFFFFFFFF, np.asarray(stream).item(), np.asarray(seed).item()
    keys = steps + np.array([[seed & full], [seed >> 32 & full]], np.uint64)
    np.bitwise_and(keys, full, keys)
    (k0, l0, m0, *_), (k1, l1, m1, *_) = keys[:, :3].tolist()
    np.add(numbers, first & full, x0)
    # Word 2 is one number at first, and after it the words made of it.
    p0, p1, p0_high, p1_high, p0_low, p1_low = rows[0]
    product = (stream & full) * 0xCD9E8D57
    np.multiply(x0, factors[0], p0)
    np.bitwise_xor(p0_high, stream >> 32 & full ^ k1, x1_low)
    word, other = product >> 32 ^ first >> 32 & full ^ k0, product & full
    q0, q1, q0_high, q1_high, q0_low, q1_low = rows[1]
    product = word * 0xD2511F53
    np.multiply(x1, factors[1], q1)
    np.bitwise_xor(q1_high, other ^ l0, x0_low)
    np.bitwise_xor(p0_low, product >> 32 ^ l1, x1_low)
    np.multiply(x0, factors[0], p0)
    np.multiply(x1, factors[1], p1)
    np.bitwise_xor(p1_high, q1_low, x0_low)
    np.bitwise_xor(x0, keys[0, 2, ...], x0)
    np.bitwise_xor(p0_high, product & full ^ m1, x1_low)
    for k in range(3, 10):
        p0, p1, p0_high, p1_high, _, _ = rows[k & 1]
        _, _, _, _, q0_low, q1_low = rows[1 - (k & 1)]
        np.multiply(x0, factors[0], p0)
        np.multiply(x1, factors[1], p1)
        np.bitwise_xor(p1_high, q1_low, x0_low)
        np.bitwise_xor(x0, keys[0, k, ...], x0)
        np.bitwise_xor(p0_high, q0_low, x1_low)
        np.bitwise_xor(x1, keys[1, k, ...], x1)
    return *words, room


def put_draws(first: Any, second: Any, out: Any) -> Any:
    """Words themselves as integers, else normal numbers: of two one by cosine, one by sine."""
    if out.dtype == np.int32:
        out[0], out[1] = first, second
        return
    words, radius = empty(first.shape, np.int32), empty(first.shape, np.float32)
    angles = empty((2, *first.shape), np.float32)
    np.bitwise_and(first, np.int32(0x7FFFFFFF), words)
    radius[...] = words
    np.multiply(radius, np.float32(2.0**-31), radius)
    np.add(radius, np.float32(2.0**-32), radius)
    np.log(radius, radius)
    np.multiply(radius, np.float32(-2.0), radius)
    np.sqrt(radius, radius)
    np.bitwise_and(second, np.int32(0xFFFFFF), words)
    angles[0] = words
    # A cosine a quarter turn back is a sine.
    np.subtract(angles[0], np.float32(2**22), angles[1])
    np.multiply(angles, np.float32(3.7450702829239286e-07), angles)  # a turn / 2**24
    np.cos(angles, angles)
    np.multiply(angles, radius, out)


def draw(at: Any, stream: Any, seed: Any, out: Any, dtype: Any) -> Any:
    """The draws of each number of an array or a range, in the type wanted."""
    at = at if isinstance(at, range) else np.asarray(at, np.int64)
    if not (len(at) if isinstance(at, range) else at.size):
        return np.empty(np.shape(at), dtype)
    line = line_of(at, stream, seed)
    if line is None:
        at = np.arange(at.start, at.stop) if isinstance(at, range) else at
        block, stream, seed, places = philox_counters(at, stream, seed)
        found = empty((block.size, 2, 2), dtype)
        first, second = philox_words(block, stream, seed)
        put_draws(first, second, found.T)
        return found.reshape(-1).take(places, out=out, mode="clip")
    first, last = line.start >> 2, (line.stop + 3) >> 2
    skipped, size = line.start - 4 * first, len(line)
    whole = out is not None and out.flags.c_contiguous and size == 4 * (last - first)
    found = out.reshape(-1, 2, 2) if whole else empty((last - first, 2, 2), dtype)
    for low in range(first, last, 16384):
        high = min(low + 16384, last)
        even, odd, room = philox_line(low, high - low, stream, seed)
        put_draws(even, odd, found[low - first : high - first].T)
        room[0][high - low] = room
    if whole:
        return out
    found = found.reshape(-1)[skipped : skipped + size]
    if out is None:
        return found if isinstance(at, range) else found.reshape(at.shape)
    np.copyto(out, found.reshape(out.shape))
    return out


def philox(at: Any, stream: Any, seed: Any, out: Any = None) -> Any:
    """Word at & 3 of the counter at >> 2 of a stream."""
    return draw(at, stream, seed, out, np.int32)


def normal(at: Any, stream: Any, seed: Any, out: Any = None) -> Any:
    """Normal draws."""
    return draw(at, stream, seed, out, np.float32)


ALL = (
    line_of,
    philox_counters,
    philox_words,
    line_room,
    philox_line,
    put_draws,
    draw,
    philox,
    normal,
)
