"""Samples reach every magnitude, stay in their interval and hold the landmarks."""

from __future__ import annotations

import numpy as np
import pytest

from tgc.numerics.samples import bit_uniform, edges, inside, points

INF = float("inf")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("interval", [(-INF, INF), (0.0, INF), (-1.0, 1.0), (2.0, 3.0)])
def test_bits_are_uniform_over_the_interval(dtype: type, interval: tuple[float, float]) -> None:
    values = bit_uniform(interval, 4000, np.random.default_rng(0), dtype)
    assert values.dtype == dtype and np.isfinite(values).all()
    assert (values >= interval[0]).all() and (values <= interval[1]).all()
    if interval == (-INF, INF):
        exponents = np.log2(np.abs(values.astype(np.float64)))
        wide = np.finfo(dtype).maxexp
        assert 0.4 < (values > 0).mean() < 0.6
        assert 0.4 < (exponents > 0).mean() < 0.6
        assert exponents.max() > 0.9 * wide and exponents.min() < -0.9 * wide


def test_edges_hold_what_breaks_forms() -> None:
    values = edges()
    info = np.finfo(np.float32)
    assert np.isnan(values).sum() == 1 and np.isinf(values).sum() == 2
    assert {float(info.max), float(info.tiny), float(info.smallest_subnormal)} <= set(
        values.tolist()
    )
    assert np.signbit(values[values == 0]).tolist() == [False, True]


def test_points_cover_ties_offsets_and_combinations() -> None:
    a, b = points([(-INF, INF), (0.0, 10.0)], 200, np.random.default_rng(0))
    assert a.shape == b.shape and a.dtype == np.float32
    assert ((a == b) & (a != 0)).sum() > 10
    close = (a != b) & (np.abs(a - b) <= 1e-5 * np.abs(a))
    assert close.sum() > 5
    assert b.min() >= 0 and b.max() <= 10
    assert ((a == 0) & (b == 0)).any() and ((a == np.finfo(np.float32).max) & (b == 1)).any()


def test_special_points_leave_the_domain() -> None:
    (a,) = points([(0.0, 1.0)], 50, np.random.default_rng(0), special=True)
    assert np.isnan(a).any() and (a < 0).any()
    (a,) = points([(0.0, 1.0)], 50, np.random.default_rng(0))
    assert inside(a, (0.0, 1.0)).size == a.size


def test_points_come_close_to_finite_ends() -> None:
    (a,) = points([(-1.0, 1.0)], 400, np.random.default_rng(0))
    gap = 1 - np.abs(a.astype(np.float64))
    assert ((gap > 0) & (gap < 1e-4)).sum() > 20
