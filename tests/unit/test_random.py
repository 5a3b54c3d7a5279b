"""Random draws: the published words, the same bits on every backend and tiling, their distributions, their seeds."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tgc
from tests.support import chain
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.evaluate import evaluate
from tgc.ir.nodes import Graph
from tgc.ir.references import philox
from tgc.ir.sizes import Size
from tgc.pipeline import Pipeline
from tgc.trace.run import trace

SEED = 0x7A4093822299F31D

# kat_vectors of Random123 1.14: counter, key, words.
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def joined(low: int, high: int) -> np.ndarray:
    return np.array([high << 32 | low], np.uint64).view(np.int64)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_words(counter: Any, key: Any, words: Any) -> None:
    found = philox(joined(*counter[:2]), joined(*counter[2:]), joined(*key))
    assert [int(w[0]) for w in found] == words


def words_graph(count: int, op: str = "philox") -> Graph:
    """Elements of a stream under a seed, at any places."""
    g, n = Builder(), Size.symbol("n")
    at, seed = g.input("at", "i64", (n,)), g.input("seed", "i64", ())
    stream = g.const(count, "i64", (n,))
    drawn = g.map(op, at, stream, g.broadcast(seed, shape=(n,), dims=()))
    return g.graph("words", (at, seed), (drawn,))


TARGETS = {"numpy": chain.TINY, "native": chain.TINY_NATIVE, "triton": chain.TINY_TRITON}
PLACES = {
    "in order": np.arange(77),
    "from the middle of a block": np.arange(3, 60),
    "backwards": np.arange(40)[::-1].copy(),
    "below zero": np.arange(-70, 9),
    "far": np.arange(2**40 - 40, 2**40 + 40),
    "by two": np.arange(0, 140, 2),
    "by four": np.arange(1, 200, 4),
    "scattered": np.array([7, 2**40 + 5, 0, 2**33, 7, 2**34 - 1]),
    "one": np.array([2**36 + 6]),
}


@pytest.mark.parametrize("op", ["philox", "normal"])
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("backend", ["numpy", "native", "triton"])
def test_every_backend_draws_what_the_evaluator_draws(
    backend: str, places: str, op: str, tmp_path: Path
) -> None:
    graph, at = words_graph(5, op), PLACES[places]
    plan = Pipeline().plan(graph, TARGETS[backend], {"n": at.size})
    if backend == "triton":
        pytest.importorskip("triton")
        engine: chain.Engine = chain.Triton(plan, folder=tmp_path)
    else:
        engine = (chain.Numpy if backend == "numpy" else chain.Native)(plan)
    inputs = [at, np.array(SEED)]
    (got,), (want,) = engine(plan, inputs), evaluate(graph, inputs)
    if op == "philox":
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)


def test_an_empty_draw() -> None:
    graph = words_graph(1)
    plan = Pipeline().plan(graph, chain.TINY, {"n": 4})
    (got,) = chain.Numpy(plan)(plan, [np.arange(0), np.array(SEED)])
    assert got.shape == (0,) and got.dtype == np.int32


# --- distributions --------------------------------------------------------------------------------------------------

COUNT = 10**6


def kolmogorov(x: np.ndarray, distribution: np.ndarray) -> float:
    """sqrt(n) D of sorted draws and their distribution function; above 1.95 once in a thousand times."""
    steps = np.arange(x.size + 1) / x.size
    apart = max((distribution - steps[:-1]).max(), (steps[1:] - distribution).max())
    return float(np.sqrt(x.size) * apart)


@tgc.jit
def drawn(x: Any) -> Any:
    return (
        tgc.rand_like(x),
        tgc.randn_like(x),
        torch.rand(x.shape, dtype=torch.float64),
        torch.randn(x.shape, dtype=torch.float64),
        torch.rand(x.shape, dtype=torch.bfloat16),
        torch.randint(-3, 4, x.shape),
    )


@pytest.fixture(scope="module")
def million() -> list[np.ndarray]:
    torch.manual_seed(0)
    return [y.double().numpy() for y in drawn(torch.empty(COUNT // 1000, 1000))]


@pytest.mark.parametrize("which", [0, 2])
def test_uniform_draws(million: list[np.ndarray], which: int) -> None:
    x = million[which].ravel()
    assert 0 <= x.min() and x.max() < 1
    assert kolmogorov(np.sort(x), np.sort(x)) < 1.95
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 4e-3


@pytest.mark.parametrize("which", [1, 3])
def test_normal_draws(million: list[np.ndarray], which: int) -> None:
    x = million[which].ravel()
    ordered = torch.tensor(np.sort(x))
    assert kolmogorov(ordered.numpy(), torch.special.ndtr(ordered).numpy()) < 1.95
    for power, moment, square in ((1, 0, 1), (2, 1, 3), (3, 0, 15), (4, 3, 105)):
        spread = np.sqrt(square - moment**2)
        assert abs((x**power).mean() - moment) < 4 * spread / np.sqrt(COUNT)
    for lag in (1, 2, 3):  # neighbours are made of one pair of words
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 4e-3
        assert abs(np.corrcoef(x[:-lag] ** 2, x[lag:] ** 2)[0, 1]) < 4e-3
    assert np.abs(x).max() > 4.4


def test_other_types(million: list[np.ndarray]) -> None:
    half = million[4].ravel()
    assert set(np.unique(half)) == {k / 256 for k in range(256)}
    values, counts = np.unique(million[5], return_counts=True)
    assert list(values) == [-3, -2, -1, 0, 1, 2, 3]
    assert (np.abs(counts - COUNT / 7) < 4 * np.sqrt(COUNT * 6 / 49)).all()


def test_draws_of_one_call_are_independent(million: list[np.ndarray]) -> None:
    table = np.corrcoef([m.ravel() for m in million])
    assert np.abs(table - np.eye(len(million))).max() < 4e-3


# --- seeds ----------------------------------------------------------------------------------------------------------


def test_each_call_draws_anew_and_a_seed_repeats_them() -> None:
    @tgc.jit
    def noisy(x: Any) -> Any:
        return x + tgc.rand_like(x)

    for zeros, seed in (
        (np.zeros((3, 5), np.float32), tgc.manual_seed),
        (torch.zeros(3, 5), torch.manual_seed),
    ):
        seed(1)
        first, second = np.asarray(noisy(zeros)), np.asarray(noisy(zeros))
        seed(1)
        again = np.asarray(noisy(zeros)), np.asarray(noisy(zeros))
        seed(2)
        other = np.asarray(noisy(zeros))
        np.testing.assert_array_equal([first, second], again)
        assert not (first == second).any() and not (first == other).any()
    assert noisy.stats().traces == 2


def test_the_first_call_takes_one_seed_as_the_others_do() -> None:
    def noise(x: Any) -> Any:
        return torch.rand_like(x)

    x, seen = torch.zeros(4), []
    for function in (tgc.jit(noise), tgc.jit(noise)):
        torch.manual_seed(5)
        seen.append([function(x), function(x), torch.rand(())])
    torch.manual_seed(5)
    seen.append([function(x), function(x), torch.rand(())])
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other))


@pytest.mark.parametrize("engine", [chain.Numpy, chain.Native])
def test_bits_do_not_depend_on_tiles(engine: type[chain.Numpy | chain.Native]) -> None:
    """The words of rows that a kernel holds whole, of tiles, and of another shape of as many elements."""
    traced = trace(
        lambda x: (tgc.randn_like(x), (tgc.rand_like(x) + x).sum(-1)), (np.ones((6, 10)),)
    )
    found = []
    for tile in (4, 16, 64):
        target = replace(engine.target, flat=tile, tile=tile, row=tile)
        plan = Pipeline().plan(traced.graph, target, traced.hints)
        found.append(engine(plan, target=target)(plan, [np.ones((6, 10)), np.array(SEED)]))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0][0], other[0])
        np.testing.assert_allclose(found[0][1], other[1], rtol=1e-12)


@pytest.mark.parametrize("shape", [(1,), (31,), (100,), (7, 45), (5, 3, 9)])
def test_native_draws_are_those_of_numpy(shape: tuple[int, ...]) -> None:
    """Of rows that start anywhere in a counter, and what is left of them after whole vectors."""
    kinds = (torch.float32, torch.float64, torch.float16)
    zeros = np.zeros(shape)

    def draws(x: Any) -> Any:
        uniform = [torch.rand(x.shape, dtype=kind) for kind in kinds]
        return *uniform, torch.rand(x.shape).sum(-1), torch.randint(-3, 4, x.shape)

    traced = trace(draws, (zeros,))
    got, want = (
        engine(plan := Pipeline().plan(traced.graph, engine.target, traced.hints))(
            plan, [zeros, np.array(SEED)]
        )
        for engine in (chain.Native, chain.Numpy)
    )
    for ours, theirs in zip(got, want, strict=True):
        assert ours.dtype == theirs.dtype
        if ours.shape == shape:
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_words_of_a_normal_draw_are_computed_once() -> None:
    """Radius and angle are words of one counter."""
    graph = words_graph(5, "normal")
    source = chain.Native(Pipeline().plan(graph, chain.TINY_NATIVE, {"n": 1000})).source
    kernel = source[source.index("define void @") : source.index("\n}")]
    whole, rest = kernel.split("i.rest.then:")
    for part in (whole, rest):
        assert part.count("@philox_words") == 1 and part.count("@philox_word.") == 2


# --- dropout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_dropout_replays_its_mask_in_the_backward(p: float) -> None:
    @tgc.jit
    def dropped(x: Any) -> Any:
        return F.dropout(torch.sin(x), p, training=True)

    x = torch.randn(400, 50, requires_grad=True)
    out = dropped(x)
    kept = out != 0
    assert abs(kept.float().mean().item() - (1 - p)) < 0.01
    torch.testing.assert_close(out[kept], torch.sin(x)[kept] / (1 - p) if p < 1 else out[kept])
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    scale = 1 / (1 - p) if p < 1 else 0.0
    torch.testing.assert_close(slope, torch.cos(x) * kept * scale)
    (curve,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(curve, -torch.sin(x) * kept * scale)


def test_the_mask_is_not_saved() -> None:
    @tgc.jit
    def dropped(x: Any) -> Any:
        return F.dropout(x, 0.5)

    low = dropped.lower(torch.zeros(64, 64, requires_grad=True), grad=True)
    assert low.cost().saved_bytes <= 8  # the seed


def test_modules_drop_only_in_training() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5))
    run = tgc.jit(layer)
    x = torch.randn(2, 8)
    assert (run(x) == 0).any()
    layer.eval()
    torch.testing.assert_close(run(x), layer(x))


def test_whole_channels_are_dropped() -> None:
    for function, shape, channels in (
        (F.dropout1d, (20, 30, 5), 2),
        (F.dropout1d, (200, 5), 1),
        (F.dropout2d, (20, 30, 3, 3), 2),
        (F.dropout3d, (200, 2, 2, 2), 1),
    ):
        out = tgc.jit(lambda x, f=function: f(x, 0.5))(torch.ones(shape)).flatten(channels)
        whole = (out == 0).all(-1) | (out == 2).all(-1)
        assert whole.all() and (out == 0).any() and (out == 2).any()


def test_bernoulli() -> None:
    chances = torch.linspace(0, 1, 5).expand(20000, 5)
    out = tgc.jit(torch.bernoulli)(chances)
    assert set(out.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(out.mean(0), chances[0], atol=0.02, rtol=0)


def test_gradients_pass_a_reparametrised_draw() -> None:
    @tgc.jit
    def loss(mean: Any, spread: Any) -> Any:
        noise = torch.randn_like(mean)
        return ((mean + spread * noise) ** 2).sum()

    mean, spread = (torch.randn(100, requires_grad=True) for _ in range(2))
    torch.manual_seed(3)
    loss(mean, spread).backward()
    torch.manual_seed(3)
    noise = tgc.jit(torch.randn_like)(mean.detach())
    want = 2 * (mean + spread * noise)
    torch.testing.assert_close(mean.grad, want)
    torch.testing.assert_close(spread.grad, want * noise)


def test_draws_of_numpy_functions_and_derivatives_of_them() -> None:
    def loss(w: Any) -> Any:
        return tgc.sum(tgc.dropout(w, 0.5) ** 2)

    tgc.manual_seed(4)
    value, slope = tgc.value_and_grad(loss)(w := np.linspace(1.0, 2.0, 50))
    assert set(np.round(slope / w, 6)) == {0.0, 8.0}
    assert value == pytest.approx(float((slope * w).sum() / 2))


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
def test_types_of_draws(kind: str) -> None:
    x = torch.zeros(8, dtype=getattr(torch, kind))
    for function in (torch.rand_like, torch.randn_like, F.dropout, torch.bernoulli):
        assert tgc.jit(function)(x).dtype is x.dtype
    y = tgc.jit(lambda x: tgc.randn((3, 2), dtype=x.dtype))(x.numpy())
    assert y.shape == (3, 2) and y.dtype == dtypes.BY_NAME[kind].name


def test_in_place_draws() -> None:
    @tgc.jit
    def filled(x: Any) -> Any:
        y = torch.empty_like(x)
        return y.normal_(10.0, 0.1), torch.empty_like(x).uniform_(5, 6)

    normal, uniform = filled(torch.zeros(500))
    assert 9 < normal.min() and normal.max() < 11
    assert 5 <= uniform.min() and uniform.max() < 6


def test_a_generator_is_refused() -> None:
    with pytest.raises(tgc.errors.UnsupportedOpError, match="generator"):
        tgc.jit(lambda x: torch.rand(3, generator=torch.Generator()) + x)(torch.zeros(3))


def test_a_branch_on_a_draw_is_refused() -> None:
    def f(x: Any) -> Any:
        return x if torch.rand(()) > 0.5 else -x

    with pytest.raises(tgc.errors.TraceError, match="branch"):
        tgc.jit(f)(torch.zeros(3))


def test_the_source_does_not_hold_the_seed() -> None:
    def noisy(x: Any) -> Any:
        return x + tgc.rand_like(x)

    x = np.zeros(8)
    first, second = tgc.jit(noisy).lower(x), tgc.jit(noisy).lower(x)
    assert first.source == second.source and "def noisy(x, seed" in first.source


def test_seeds_come_one_after_the_other() -> None:
    """They are made some at a time, which a new start forgets; each thread has its own."""
    drawn = tgc.jit(lambda: tgc.rand(3), backend="numpy")
    tgc.manual_seed(11)
    first = [drawn().tolist() for _ in range(150)]
    assert len({tuple(x) for x in first}) == 150
    tgc.manual_seed(11)
    found: list[list[float]] = []
    threads = [
        threading.Thread(target=lambda: found.extend(drawn().tolist() for _ in range(50)))
        for _ in range(3)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(found) == sorted(first)
