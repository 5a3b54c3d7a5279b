"""ULP errors at the places where definitions differ: zeros, denormals, overflow, NaN."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from tgc.numerics.ulp import round_to, spacing, ulp_error

F4 = np.float32
INF, NAN = float("inf"), float("nan")
HUGE = float(np.finfo(F4).max)
TINY = float(np.finfo(F4).tiny)
STEP = 2.0**-149


@pytest.mark.parametrize(
    ("got", "want", "error"),
    [
        (1.0, 1.0, 0.0),
        (1.0 + 2.0**-23, 1.0, 1.0),
        (1.0 - 2.0**-24, 1.0, 0.5),
        (1.0, 1.0 + 2.0**-24, 0.5),  # a perfectly rounded result is within half a unit
        (0.0, STEP, 1.0),
        (0.0, 3 * STEP, 3.0),
        (NAN, NAN, 0.0),
        (NAN, 1.0, INF),
        (1.0, NAN, INF),
        (INF, INF, 0.0),
        (-INF, INF, INF),
        (HUGE, INF, INF),
        (INF, HUGE, 1.0),
        (INF, 1e39, 0.0),  # rounds to infinity
        (0.0, -0.0, 0.0),
    ],
)
def test_errors_are_the_same_against_floats_and_mpmath(
    got: float, want: float, error: float
) -> None:
    value = np.array([got], F4)
    assert ulp_error(value, np.array([want]))[0] == error
    assert ulp_error(value, [mpmath.mpf(want)])[0] == error


def test_flushed_results_and_signed_zeros_by_choice() -> None:
    value, want = np.array([0.0], F4), np.array([0.9 * TINY])
    assert ulp_error(value, want)[0] > 1e6
    assert ulp_error(value, want, flush=True)[0] < 1
    zeros = np.array([0.0, -0.0], F4)
    errors = ulp_error(zeros, np.array([-0.0, -0.0]), signed_zero=True)
    assert errors.tolist() == [INF, 0.0]


def test_spacing_has_no_overflow_at_the_top() -> None:
    top = np.array([HUGE, INF], F4)
    assert spacing(top, np.dtype(F4)).tolist() == [2.0**104] * 2
    assert spacing(np.array([0.0], F4), np.dtype(F4))[0] == STEP


def test_double_precision_against_mpmath() -> None:
    with mpmath.workprec(200):
        want = [mpmath.sqrt(2)]
    assert ulp_error(np.array([2.0**0.5]), want)[0] < 0.5
    assert ulp_error(np.array([2.0**0.5 * (1 + 4.5e-16)]), want)[0] > 1


def test_rounding_overflows_quietly() -> None:
    assert round_to(mpmath.mpf(2) ** 5000, np.dtype(F4)) == INF
    assert round_to(-(mpmath.mpf(2) ** 200), np.dtype(F4)) == -INF
