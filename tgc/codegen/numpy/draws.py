"""Random draws as numpy functions, which emitted modules hold: Philox 4x32-10 and normal numbers made of it.

Most draws are of a range of numbers under one key. Their counters, of several streams at once, are worked on sixteen
thousand at a time, in memory that stays in the caches and in views that are made once. All of them have one dimension,
over which numpy runs without an iterator: for a thousand numbers that halves the time of a call.
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


def line_room(streams: Any, upper: Any, count: Any, rooms: Any = {}) -> Any:  # noqa: B006
    """Memory and views for `philox_line` and `put_draws`; streams and the upper half of counters are in it."""
    key = streams, upper, count
    if key in rooms:
        return rooms.pop(key)
    if len(rooms) > 3:
        rooms.clear()
    full, size = 0xFFFFFFFF, len(streams) * count
    factors = np.array(0xCD9E8D57, np.uint64), np.array(0xD2511F53, np.uint64)
    # Counters; the products of odd rounds, of even ones, and of the first, of which one half is known; words 1 and 3.
    lines = np.zeros((5, 2, size), np.uint64)
    lines[3, 0] = np.repeat(np.array([s & full for s in streams], np.uint64), count) * factors[0]
    lines[4, 0], lines[4, 1] = upper & full, np.repeat([s >> 32 & full for s in streams], count)
    low = 0 if np.little_endian else 1
    words = lines.reshape(5, -1).view(np.uint32)
    lower, higher = words[:, low::2], words[:, 1 - low :: 2]
    keys, rounds = np.zeros((10, 2), np.uint64), []
    for k, own, last in zip(range(10), (3, 1, 2) + 4 * (1, 2), (4, 3, 1) + 4 * (2, 1)):
        rounds.append((*lines[own], higher[own], lower[last], keys[k, 0, ...], keys[k, 1, ...]))
    numbers = np.tile(np.arange(count, dtype=np.uint64), len(streams))
    steps = np.array([0x9E3779B9, 0xBB67AE85], np.uint64) * np.arange(10, dtype=np.uint64)[:, None]
    found = lower[0].view(np.int32), lower[1].view(np.int32)
    start = numbers, *lines[0], lower[0], steps, keys, factors
    return rooms, key, start, rounds[0], rounds[1:], found, polar_room(len(streams), count)


def polar_room(streams: Any, count: Any) -> Any:
    """Memory for two normal numbers of each of two pairs of words, by streams, and the constants on the way."""
    size = 2 * streams * count
    words, radius, angles = (
        empty(n, t) for n, t in ((size, np.int32), (size, "f"), (2 * size, "f"))
    )
    scales = 2.0**-31, 2.0**-32, -2.0, 2.0**22, 3.7450702829239286e-07  # the last: a turn / 2**24
    numbers = [np.array(x, np.float32) for x in scales]
    masks = np.array(0x7FFFFFFF, np.int32), np.array(0xFFFFFF, np.int32)
    parts = angles.reshape(2, 2, streams, count), radius.reshape(2, streams, count)
    each = [(parts[0][:, :, k], parts[1][:, k]) for k in range(streams)]
    return words, radius, angles, angles[:size], angles[size:], each, *masks, *numbers


def philox_line(first: Any, count: Any, streams: Any, seed: Any) -> Any:
    """Words 0 and 2 of counters from `first` on, words 1 and 3, each by streams, and the room they lie in."""
    room = line_room(streams, first >> 32, count)
    _, _, start, (_, q, high, low, key, other_key), rounds, found, _ = room
    numbers, x0, x1, x_low, steps, keys, (first_factor, second_factor) = start
    full, multiply, bitwise_xor = 0xFFFFFFFF, np.multiply, np.bitwise_xor
    np.add(steps, np.array([seed & full, seed >> 32 & full], np.uint64), keys)
    np.bitwise_and(keys, full, keys)
    multiply(np.add(numbers, first & full, x0) if first else numbers, second_factor, q)
    bitwise_xor(high, low, x_low)
    bitwise_xor(x0, key, x0)
    bitwise_xor(x1, other_key, x1)
    for p, q, high, low, key, other_key in rounds:
        multiply(x1, first_factor, p)
        multiply(x0, second_factor, q)
        bitwise_xor(high, low, x_low)
        bitwise_xor(x0, key, x0)
        bitwise_xor(x1, other_key, x1)
    return *found, room


def put_draws(first: Any, second: Any, outs: Any, room: Any) -> Any:
    """Words themselves as integers, else normal numbers: of two one by cosine, one by sine."""
    if outs[0].dtype == np.int32:
        first, second = (words.reshape(2, len(outs), -1) for words in (first, second))
        for k, out in enumerate(outs):
            out[0], out[1] = first[:, k], second[:, k]
        return
    words, radius, angles, cosine, sine, each, mask, short, unit, half, factor, quarter, turn = room
    np.bitwise_and(first, mask, words)
    radius[...] = words
    np.multiply(radius, unit, radius)
    np.add(radius, half, radius)
    np.log(radius, radius)
    np.multiply(radius, factor, radius)
    np.sqrt(radius, radius)
    np.bitwise_and(second, short, words)
    cosine[...] = words
    np.subtract(cosine, quarter, sine)  # a cosine a quarter turn back is a sine
    np.multiply(angles, turn, angles)
    np.cos(angles, angles)
    for (angle, length), out in zip(each, outs):
        np.multiply(angle, length, out)


def draw_line(line: Any, streams: Any, seed: Any, outs: Any, dtype: Any) -> Any:
    """The draws of a range, of each stream in an array or, where that is None, in a new one."""
    first, last = line.start >> 2, (line.stop + 3) >> 2
    skipped, size, seed = line.start - 4 * first, len(line), np.asarray(seed).item()
    streams = tuple([np.asarray(s).item() for s in streams])
    whole, found = size == 4 * (last - first), []
    for out in outs:
        mine = whole and out is not None and out.flags.c_contiguous
        found.append((out if mine else empty(4 * (last - first), dtype)).reshape(-1, 2, 2))
    step = 16384 // len(streams)
    for low in range(first, last, step):
        high = min(low + step, last)
        even, odd, room = philox_line(low, high - low, streams, seed)
        put_draws(even, odd, [f[low - first : high - first].T for f in found], room[-1])
        room[0][room[1]] = room
    found = [f.reshape(-1)[skipped : skipped + size] for f in found]
    for out, f in zip(outs, found):
        if out is not None and not (whole and out.flags.c_contiguous):
            np.copyto(out, f.reshape(out.shape))
    return found


def draw(at: Any, stream: Any, seed: Any, out: Any, dtype: Any) -> Any:
    """The draws of each number of an array or a range, in the type wanted."""
    at = at if isinstance(at, range) else np.asarray(at, np.int64)
    if not (len(at) if isinstance(at, range) else at.size):
        return np.empty(np.shape(at), dtype)
    line = line_of(at, stream, seed)
    if line is not None:
        (found,) = draw_line(line, (stream,), seed, (out,), dtype)
        if out is not None:
            return out
        return found if isinstance(at, range) else found.reshape(at.shape)
    at = np.arange(at.start, at.stop) if isinstance(at, range) else at
    block, stream, seed, places = philox_counters(at, stream, seed)
    found = empty((block.size, 2, 2), dtype)
    first, second = (w.reshape(-1) for w in philox_words(block, stream, seed))
    put_draws(first, second, (found.T,), polar_room(1, block.size))
    return found.reshape(-1).take(places, out=out, mode="clip")


def draw_each(at: Any, streams: Any, seed: Any, outs: Any, dtype: Any) -> Any:
    """The draws of the same numbers of several streams under one seed."""
    line = line_of(at, streams[0], seed) if len(at) else None
    if line is not None:
        draw_line(line, streams, seed, outs, dtype)
        return
    for stream, out in zip(streams, outs):
        draw(at, stream, seed, out, dtype)


def philox(at: Any, stream: Any, seed: Any, out: Any = None) -> Any:
    """Word at & 3 of the counter at >> 2 of a stream."""
    return draw(at, stream, seed, out, np.int32)


def philox_each(at: Any, streams: Any, seed: Any, outs: Any) -> Any:
    """The same of several streams."""
    return draw_each(at, streams, seed, outs, np.int32)


def normal(at: Any, stream: Any, seed: Any, out: Any = None) -> Any:
    """Normal draws."""
    return draw(at, stream, seed, out, np.float32)


def normal_each(at: Any, streams: Any, seed: Any, outs: Any) -> Any:
    """Normal draws of several streams."""
    return draw_each(at, streams, seed, outs, np.float32)


ALL = (
    line_of,
    philox_counters,
    philox_words,
    polar_room,
    line_room,
    philox_line,
    put_draws,
    draw_line,
    draw,
    draw_each,
    philox,
    philox_each,
    normal,
    normal_each,
)
