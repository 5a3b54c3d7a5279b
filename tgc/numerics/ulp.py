"""Errors in units in the last place (ULP): the measure every accuracy claim of tgc is stated in.

The error of a result is its distance from the true value, divided by the spacing of floats at the true value
rounded to that format (Muller et al., Handbook of Floating-Point Arithmetic, 2.6). A true value beyond the largest
float counts as infinity; a NaN must meet a NaN. Results below the smallest normal number may be flushed by hardware,
so a caller can ask that errors smaller than it count as less than one ULP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Truth = NDArray[np.float64] | Sequence[Any]


def spacing(value: Floats, dtype: np.dtype[Any], *, flush: bool = False) -> NDArray[np.float64]:
    """The distance to the next float of `dtype` above |value|; at least the smallest normal if `flush`."""
    info = np.finfo(dtype)
    # Three quarters of the largest float lie in its binade, and have a next float.
    magnitude = np.minimum(np.abs(value), 0.75 * info.max).astype(dtype)
    gap: NDArray[np.float64] = np.spacing(magnitude).astype(np.float64)
    return np.maximum(gap, float(info.tiny)) if flush else gap


def ulp_error(
    got: Floats, want: Truth, *, flush: bool = False, signed_zero: bool = False
) -> NDArray[np.float64]:
    """The error of each element of `got` in ULP of its own format.

    Args:
        got: float32 or float64 results.
        want: the true values: float64 for float32 results, or a sequence of mpmath numbers.
        flush: a result below the smallest normal number may be zero.
        signed_zero: a zero of the wrong sign is infinitely wrong (float64 references only).
    """
    got = np.asarray(got)
    if isinstance(want, np.ndarray):
        return _against_floats(got, want.astype(np.float64), flush, signed_zero)
    errors = [_against_mpf(g, w, got.dtype, flush) for g, w in zip(got.ravel(), want, strict=True)]
    return np.array(errors).reshape(got.shape)


def _against_floats(
    got: Floats, want: NDArray[np.float64], flush: bool, signed_zero: bool
) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        unit = spacing(rounded, got.dtype, flush=flush)
        biggest = np.asarray(np.finfo(got.dtype).max)
        limit = float(biggest) + float(spacing(biggest, got.dtype))
        value = np.clip(got.astype(np.float64), -limit, limit)
        error = np.abs(value - want) / unit
        error = np.where(np.isinf(got) & (got == rounded), 0.0, error)
        error = np.where(np.isinf(rounded) & (got != rounded), np.inf, error)
        nan = np.isnan(got) | np.isnan(want)
        error = np.where(nan, np.where(np.isnan(got) & np.isnan(want), 0.0, np.inf), error)
        if signed_zero:
            wrong = (got == 0) & (want == 0) & (np.signbit(got) != np.signbit(want))
            error = np.where(wrong, np.inf, error)
    return np.asarray(error, dtype=np.float64)


def _against_mpf(got: Any, want: Any, dtype: np.dtype[Any], flush: bool) -> float:
    import mpmath

    if mpmath.isnan(want) or np.isnan(got):
        return 0.0 if mpmath.isnan(want) and np.isnan(got) else float("inf")
    rounded = round_to(want, dtype)
    if np.isinf(rounded) or np.isinf(got):
        if rounded == got:
            return 0.0
        if np.isinf(rounded) or np.sign(rounded) != np.sign(got):
            return float("inf")
    unit = float(spacing(np.asarray(rounded), dtype, flush=flush))
    biggest = float(np.finfo(dtype).max)
    held = got if np.isfinite(got) else np.copysign(biggest, got)
    error = abs(mpmath.mpf(float(held)) - want) / unit
    return float(error) + (0.0 if np.isfinite(got) else 1.0)


def round_to(value: Any, dtype: np.dtype[Any]) -> Any:
    """An mpmath number rounded to `dtype` (twice, by way of float64, for float32)."""
    try:
        wide = float(value)
    except OverflowError:
        wide = float("inf") if value > 0 else float("-inf")
    with np.errstate(over="ignore", under="ignore"):
        return np.dtype(dtype).type(wide)
