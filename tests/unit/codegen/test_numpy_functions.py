"""The functions that emitted numpy modules define for themselves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tgc
from tgc.codegen.numpy.draws import normal, normal_each, philox, philox_each
from tgc.codegen.numpy.functions import (
    chosen,
    fold_columns,
    fold_rows,
    select,
    select_or_zero,
    sign,
    sum_line,
)
from tgc.ir.references import scalar_reference


@pytest.mark.parametrize("cols", [0, 1, 7, 64, 65, 1500])
@pytest.mark.parametrize("rows", [0, 1, 63, 64, 200])
def test_folds_of_short_rows(rows: int, cols: int, rng: np.random.Generator) -> None:
    wide = rng.standard_normal((rows, cols + 3)).astype(np.float32)
    if wide.size > 4:
        wide.flat[3] = np.nan
    for x in (wide[:, :cols].copy(), wide[:, 3:]):
        np.testing.assert_allclose(fold_rows(np.add, x), x.sum(0), rtol=2e-5, atol=2e-5)
        if rows:
            np.testing.assert_array_equal(fold_rows(np.maximum, x), x.max(0))
        if cols:
            np.testing.assert_array_equal(fold_columns(np.maximum, x), x.max(1, keepdims=True))


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 5000])
def test_sums_of_lines(size: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal(2 * size).astype(np.float32)
    for line in (x[:size], x[::2]):
        np.testing.assert_allclose(sum_line(line), line.sum(dtype=np.float64), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [0, 7, 2047, 2048, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_selections_in_place_and_not(size: int, dtype: Any, rng: np.random.Generator) -> None:
    """Of few elements by branches, of many by bits; the result may lie where the first operand does."""
    yes, no = rng.standard_normal((2, size)).astype(dtype)
    yes[::5], no[::7] = np.nan, -0.0
    condition = rng.random(size) < 0.5
    bits = chosen(condition, np.empty(size, f"i{yes.itemsize}"))
    wanted, mine = np.where(condition, yes, no), yes.copy()
    for target in (np.empty(size, dtype), mine):
        select(bits, mine, no, target)
        np.testing.assert_array_equal(target, wanted)
    mine = yes.copy()
    for target in (np.empty(size, dtype), mine):
        select_or_zero(bits, mine, target)
        np.testing.assert_array_equal(target, np.where(condition, yes, 0))
    mine = yes.copy()
    select(bits, mine[:], no, mine)  # the same memory as another array
    np.testing.assert_array_equal(mine, wanted)


@pytest.mark.parametrize("count", [1, 3, 1000, 4 * 16384 - 1, 4 * 16384 + 9])
def test_draws_of_a_range_are_those_of_its_numbers(count: int) -> None:
    """In place and not, from an odd place on, across what is drawn at a time; twice, in memory used before."""
    stream, seed = np.array(2**33 + 5), np.array(-9)
    for start in (0, 6, 2**34 - 8):
        numbers = np.arange(start, start + count)
        sparse = np.concatenate([numbers[-1:], numbers[::-97]])
        for draws in (philox, normal):
            wanted = draws(sparse, stream, seed)
            out = np.empty(count, wanted.dtype)
            assert draws(range(start, start + count), stream, seed, out) is out
            for found in (out, draws(range(start, start + count), stream, seed)):
                np.testing.assert_array_equal(found[sparse - start], wanted)


@pytest.mark.parametrize("count", [0, 1, 1000, 16384, 4 * 16384 + 9])
@pytest.mark.parametrize("seed", [7, [7, 8]])
def test_draws_of_several_streams_are_those_of_each(count: int, seed: Any) -> None:
    """Of a range under one seed all at once, else in turn; three and two, in memory used before."""
    streams = [np.array(s) for s in (1, 2, 2**40 + 3)]
    for start in (0, 2, 2**34 - 8):
        at = range(start, start + count)
        if np.ndim(seed):
            seed = np.resize(seed, count)
        for one, each in ((philox, philox_each), (normal, normal_each)):
            wanted = [one(at, s, np.array(seed)) for s in streams]
            for few in (3, 2):
                outs = [np.empty_like(wanted[0]) for _ in range(few)]
                each(at, tuple(streams[:few]), np.array(seed), tuple(outs))
                np.testing.assert_array_equal(outs, wanted[:few])


def philox_word(at: int, stream: int, seed: int) -> int:
    """One word of Philox 4x32-10, from its definition."""
    low = 0xFFFFFFFF
    block = at >> 2
    c = [block & low, block >> 32 & low, stream & low, stream >> 32 & low]
    key = [seed & low, seed >> 32 & low]
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [second >> 32 ^ c[1] ^ key[0], second & low, first >> 32 ^ c[3] ^ key[1], first & low]
        key = [key[0] + 0x9E3779B9 & low, key[1] + 0xBB67AE85 & low]
    return c[at & 3]


PLACES = [
    np.arange(10),
    np.arange(3, 9),
    np.arange(2**33 - 2, 2**33 + 7),
    np.array([0, 2, 1, 3, 3]),
    np.arange(5) * 1000003,
    np.arange(40).reshape(5, 8)[:, 1:4],
    np.array(6),
]


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("stream", [1, 2**40 + 7])
@pytest.mark.parametrize("seed", [7, -5, 2**62 + 12345, None])
def test_draws_are_those_of_their_places(at: np.ndarray, stream: int, seed: int | None) -> None:
    seeds = np.arange(at.size).reshape(at.shape) - 2 if seed is None else np.array(seed)
    wanted = [
        philox_word(int(a), stream, int(s))
        for a, s in np.broadcast(at, np.broadcast_to(seeds, at.shape))
    ]
    found, streams = philox(at, np.array(stream), seeds), np.array(stream)
    assert found.shape == at.shape
    assert found.view(np.uint32).ravel().tolist() == wanted
    into = np.empty(at.shape, np.float32)
    normal(at, streams, seeds, out=into)
    alone = [
        normal(np.array([a]), streams, np.array([s]))[0]
        for a, s in np.broadcast(at, np.broadcast_to(seeds, at.shape))
    ]
    np.testing.assert_allclose(into.ravel(), alone, rtol=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "calls"), [(-1.0, 2.0, 1), (2.0, -1.0, 2)], ids=["apart", "crossed"]
)
def test_two_bounds_are_one_call(low: float, high: float, calls: int) -> None:
    """But where the order of the two decides."""
    bounded = tgc.jit(lambda x: tgc.minimum(tgc.maximum(x, low), high) * x, backend="numpy")
    x = np.array([-np.inf, -1.5, -1.0, -0.0, 0.5, 2.0, 3.0, np.inf, np.nan], np.float32)
    source = bounded.lower(x).source
    assert source.count(" clip(") == calls and "np.maximum(" not in source
    np.testing.assert_array_equal(bounded(x), np.minimum(np.maximum(x, low), high) * x)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_signs(dtype: type) -> None:
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, tiny, -tiny, 1e-30, -2.0, 3e38, -np.inf, np.inf, np.nan], dtype)
    wanted = np.sign(x)
    np.testing.assert_array_equal(sign(x, out=np.empty_like(x)), wanted)
    np.testing.assert_array_equal(sign(x, out=x), wanted)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_error_function_of_all_numbers(sign: int) -> None:
    """Its polynomial has no bound: it has to grow where the hyperbolic tangent has reached 1."""
    x = np.concatenate([np.logspace(-44, 38.5, 20_000), np.linspace(2, 12, 20_000), [0, np.inf]])
    x = sign * x.astype(np.float32)
    found = tgc.jit(tgc.erf, backend="numpy")(x)
    wanted = np.array([math.erf(float(a)) for a in x])
    np.testing.assert_allclose(found, wanted, rtol=4 * 2.0**-23, atol=3e-45)
    assert (np.abs(found) <= 1).all()
    assert np.isnan(tgc.jit(tgc.erf, backend="numpy")(np.float32([np.nan]))).all()


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.int8, np.uint8])
def test_integers_to_integer_powers(kind: type) -> None:
    x = np.array([-2, -1, -1, 1, 0, 2, 3, 5, -3]).astype(kind)
    y = np.array([-2, -1, -2, -3, -1, -1, 4, 0, 3]).astype(kind)
    found = tgc.jit(lambda x, y: x**y, backend="numpy")(x, y)
    assert found.dtype == kind
    np.testing.assert_array_equal(found, scalar_reference("pow")(x, y))


def test_a_bfloat16_on_the_way_from_one_operation_to_another(rng: np.random.Generator) -> None:
    """No argument and no result is one."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x = rng.standard_normal(5)
    found = tgc.jit(lambda x: x.astype(bfloat16).astype(np.float64) - x, backend="numpy")(x)
    np.testing.assert_array_equal(found, x.astype(bfloat16).astype(np.float64) - x)
