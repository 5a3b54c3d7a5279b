"""Where to look for wrong results: points that find them.

Errors of floating-point forms hide at magnitudes a uniform sample never visits, so points are drawn uniformly over
bit patterns (as Herbie does: Panchekha et al., PLDI 2015), and the values where forms break are added by hand: NaN,
infinities, both zeros, denormals, the largest and smallest normal numbers, equal operands and operands that share a
large offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
Floats = NDArray[np.floating[Any]]


def edges(dtype: Any = np.float32) -> Floats:
    """Special values of a format: NaN, infinities, zeros, denormals, extremes, and ordinary landmarks."""
    info = np.finfo(dtype)
    tiny, small, huge = float(info.smallest_subnormal), float(info.tiny), float(info.max)
    positive = [0.0, tiny, small, float(info.eps), 0.5, 1.0, 2.0, 3.0, 100.0, huge**0.5, huge]
    values = [*positive, *(-v for v in positive), np.inf, -np.inf, np.nan]
    return np.array(values, dtype)


def bit_uniform(
    interval: Interval, count: int, rng: np.random.Generator, dtype: Any = np.float32
) -> Floats:
    """`count` floats of `interval`, uniform over bit patterns; infinite ends stand for the largest float."""
    info = np.finfo(dtype)
    low, high = (_ordered(min(max(v, float(info.min)), float(info.max)), dtype) for v in interval)
    return _from_ordered(rng.integers(low, high, count, dtype=np.int64, endpoint=True), dtype)


def uniform(
    interval: Interval, count: int, rng: np.random.Generator, dtype: Any = np.float32
) -> Floats:
    """`count` floats uniform over the part of `interval` within 100 of zero (or over all of it, further out)."""
    low, high = max(interval[0], -100.0), min(interval[1], 100.0)
    if low >= high:
        low, high = interval
    return rng.uniform(low, high, count).astype(dtype)


def inside(values: Floats, interval: Interval) -> Floats:
    """Those of `values` that lie in `interval`."""
    kept: Floats = values[(values >= interval[0]) & (values <= interval[1])]
    return kept


def points(
    domain: Sequence[Interval],
    count: int,
    rng: np.random.Generator,
    dtype: Any = np.float32,
    *,
    special: bool = False,
) -> list[Floats]:
    """Operands that cover a domain: one array per operand, all of one length.

    Half the points are uniform over bits, half over values; then come points close to the ends of
    the interval (or to -1 and 1), its finite landmarks in every combination, equal operands, and
    operands that share a large offset. With `special`, the combinations include NaN, infinities
    and values outside the domain.
    """
    half = count // 2
    bits = [bit_uniform(i, half, rng, dtype) for i in domain]
    plain = [uniform(i, count - half, rng, dtype) for i in domain]
    near = [_near_ends(i, count // 4, rng, dtype) for i in domain]
    blocks = [bits, plain, near, _landmarks(domain, dtype, special)]
    if len(domain) > 1:
        shared: Interval = (max(i[0] for i in domain), min(i[1] for i in domain))
        if shared[0] < shared[1]:
            blocks += _neighbours(shared, len(domain), max(count // 8, 8), rng, dtype)
    return [np.concatenate([block[k] for block in blocks]) for k in range(len(domain))]


def _near_ends(interval: Interval, count: int, rng: np.random.Generator, dtype: Any) -> Floats:
    """Points at distances from 1e-8 to 1 of the ends, where differences cancel."""
    low, high = interval
    ends = np.array([v if abs(v) < 1e6 else np.sign(v) for v in interval])
    end = ends[rng.integers(0, 2, count)]
    offset = 10.0 ** rng.uniform(-8, 0, count) * rng.choice([-1.0, 1.0], count)
    outside = (end + offset < low) | (end + offset > high)
    result: Floats = np.clip(np.where(outside, end - offset, end + offset), low, high).astype(dtype)
    return result


def _landmarks(domain: Sequence[Interval], dtype: Any, special: bool) -> list[Floats]:
    every = edges(dtype)
    kept = [
        every if special else inside(every[np.isfinite(every)], interval) for interval in domain
    ]
    return [grid.ravel() for grid in np.meshgrid(*kept, indexing="ij")]


def _neighbours(
    interval: Interval, arity: int, count: int, rng: np.random.Generator, dtype: Any
) -> list[list[Floats]]:
    """Equal operands, and operands a few units apart."""
    base = bit_uniform(interval, count, rng, dtype)
    ordered = _ordered_all(base)
    near = [
        np.clip(_from_ordered(ordered + rng.integers(-9, 10, count), dtype), *interval)
        for _ in range(arity)
    ]
    return [[base] * arity, [v.astype(dtype) for v in near]]


def _ordered_all(values: Floats) -> NDArray[np.int64]:
    """Integers in the order of the floats, one step per float; both zeros are 0."""
    signed = np.int32 if values.dtype == np.float32 else np.int64
    bits = np.abs(values).view(signed).astype(np.int64)
    return np.where(np.signbit(values), -bits, bits)


def _ordered(value: float, dtype: Any) -> int:
    return int(_ordered_all(np.array([value], dtype))[0])


def _from_ordered(ordered: NDArray[np.int64], dtype: Any) -> Floats:
    signed = np.int32 if np.dtype(dtype) == np.float32 else np.int64
    magnitude = np.abs(ordered).astype(signed).view(dtype)
    result: Floats = np.where(ordered < 0, -magnitude, magnitude).astype(dtype)
    return result
