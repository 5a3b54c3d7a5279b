"""The timed cells of the seed programs: matrix products, a large sum with and without its draw, in place, training.

The seeds draw their inputs inside the timed loop, so those rows measure the generator most of all; the same rows
without the draw stand beside them. A loop of n equal iterations is timed as one iteration. Everything is float32, as
torch's defaults have it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tgc
from bench.measure import Candidate, Workload
from bench.report import installed

FLOAT = 4  # bytes


def workloads(device: str, *, quick: bool) -> list[Workload]:
    """The suite, at the seeds' sizes or small ones."""
    side = 300 if quick else 10_000
    rows, columns = (640, 500) if quick else (6400, 5000)
    length = 10_000 if quick else 10_000_000
    plane = side * side * FLOAT
    return [
        Workload(
            f"rand(1,{rows}) @ rand({rows},{columns})",
            lambda: products(device, (1, rows), (rows, columns), uniform=True),
            ideal_bytes=(rows + rows * columns + columns) * FLOAT,
            rtol=1e-4,
            note="seed 000",
        ),
        Workload(
            "randn(100,100) @ randn(100,100), with the draws",
            lambda: products(device, (100, 100), (100, 100), draw=True),
            rtol=1e-3,
            note="seed 001, one of 100",
        ),
        Workload(
            f"randn({side},{side}) + randn, with the draws",
            lambda: sums(device, side, draw=True, in_place=False),
            note="seed 001, one of 10",
        ),
        Workload(
            f"a + b, {side}x{side}",
            lambda: sums(device, side, draw=False, in_place=False),
            ideal_bytes=3 * plane,
        ),
        Workload(
            f"b.add_(a), {side}x{side}, with the draws",
            lambda: sums(device, side, draw=True, in_place=True),
            note="seed 002, one of 10",
        ),
        Workload(
            f"b.add_(a), {side}x{side}",
            lambda: sums(device, side, draw=False, in_place=True),
            ideal_bytes=3 * plane,
        ),
        Workload(
            f"a training step of dot(w, x) + b, n={length}",
            lambda: training(device, length),
            # read w and x for the residual; read x, read and write w for the step
            ideal_bytes=5 * length * FLOAT,
            rtol=1e-4,
            note="seed 001, one of 200",
        ),
    ]


def libraries(device: str) -> list[str]:
    """What to compare: numpy (on a CPU) and torch, if it is there."""
    return [*(["numpy"] if device == "cpu" else []), *(["torch"] if installed("torch") else [])]


def draw_function(library: str, device: str, *, uniform: bool) -> Callable[..., Any]:
    """A float32 generator of the library: shape in, array out."""
    if library == "numpy":
        rng = np.random.default_rng(0)
        if uniform:
            return lambda *shape: rng.random(shape, dtype=np.float32)
        return lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    torch = importlib.import_module("torch")
    make = torch.rand if uniform else torch.randn
    return lambda *shape: make(*shape, device=device)


def given(library: str, device: str, array: np.ndarray) -> Any:
    """A fresh copy of an array, as the library has it."""
    if library == "numpy":
        return array.copy()
    return importlib.import_module("torch").from_numpy(array.copy()).to(device)


def products(
    device: str,
    left: tuple[int, int],
    right: tuple[int, int],
    *,
    uniform: bool = False,
    draw: bool = False,
) -> Sequence[Candidate]:
    """A matrix product; with `draw`, of fresh operands each time."""
    rng = np.random.default_rng(1)
    x, y = rng.random(left, dtype=np.float32), rng.random(right, dtype=np.float32)
    return binary(device, lambda x, y: x @ y, x, y, draw=draw, uniform=uniform)


def sums(device: str, side: int, *, draw: bool, in_place: bool) -> Sequence[Candidate]:
    """a + b, into a new array or into b."""
    rng = np.random.default_rng(1)
    a = rng.standard_normal((side, side), dtype=np.float32)
    b = rng.standard_normal((side, side), dtype=np.float32)
    if not in_place:
        return binary(device, lambda a, b: a + b, a, b, draw=draw)

    def add_into(a: Any, b: Any) -> Any:
        b += a
        return b

    # Without the draw b grows with each call, by sums that stay exact enough: only its time is used.
    return binary(device, add_into, a, b, draw=draw)


def binary(
    device: str,
    function: Callable[[Any, Any], Any],
    first: np.ndarray,
    second: np.ndarray,
    *,
    draw: bool,
    uniform: bool = False,
) -> Sequence[Candidate]:
    """A function of two arrays, plain and compiled, in each library; answers are on the arrays given."""
    candidates = []
    for library in libraries(device):
        fresh = draw_function(library, device, uniform=uniform)
        x, y = given(library, device, first), given(library, device, second)
        for name, f in ((library, function), (f"tgc, {library}", tgc.jit(function))):

            def answer(f: Callable[..., Any] = f, library: str = library) -> Any:
                return f(given(library, device, first), given(library, device, second))

            def run_drawn(f: Callable[..., Any] = f, fresh: Callable[..., Any] = fresh) -> Any:
                return f(fresh(*first.shape), fresh(*second.shape))

            def run_given(f: Callable[..., Any] = f, x: Any = x, y: Any = y) -> Any:
                return f(x, y)

            candidates.append(Candidate(name, run_drawn if draw else run_given, answer))
    return candidates


def squared_residual(w: Any, b: Any, x: Any, y: Any) -> Any:
    """The seed's loss: the squared error of one dot product, w: [n], b: [1], x: [n], y a number."""
    residual = tgc.sum(w * x) + b - y
    return tgc.sum(residual * residual)


def training(device: str, length: int) -> Sequence[Candidate]:
    """One step: loss, gradients for w and b, and the update. The rate is too small to leave float32's range."""
    rng = np.random.default_rng(1)
    start = rng.random(length, dtype=np.float32)
    x = rng.random(length, dtype=np.float32)
    y = np.float32(3 * x.sum(dtype=np.float64) - 2)
    rate = np.float32(0.1 / length)
    candidates = []
    if "numpy" in libraries(device):
        value_and_grad = tgc.value_and_grad(squared_residual, argnums=(0, 1))

        def by_hand(w: Any, b: Any) -> Any:
            residual = np.dot(w, x) + b - y
            w -= rate * (2 * residual * x)
            b -= rate * (2 * residual)
            return w, b

        def compiled(w: Any, b: Any) -> Any:
            _, (dw, db) = value_and_grad(w, b, x, y)
            w -= rate * dw
            b -= rate * db
            return w, b

        for name, step in (("numpy", by_hand), ("tgc, numpy", compiled)):
            candidates.append(stepping(name, step, lambda: (start.copy(), np.ones(1, np.float32))))
    if "torch" in libraries(device):
        torch = importlib.import_module("torch")
        data, goal = torch.from_numpy(x).to(device), torch.tensor(y, device=device)

        def eager(w: Any, b: Any) -> Any:
            return torch.sum((torch.dot(w, data) + b - goal) ** 2)

        def by_autograd(loss_of: Callable[..., Any]) -> Callable[[Any, Any], Any]:
            def step(w: Any, b: Any) -> Any:
                loss_of(w, b).backward()
                with torch.no_grad():
                    w -= float(rate) * w.grad
                    b -= float(rate) * b.grad
                    w.grad = b.grad = None
                return w, b

            return step

        loss_of = tgc.jit(squared_residual)

        def state() -> tuple[Any, Any]:
            w = torch.from_numpy(start.copy()).to(device).requires_grad_()
            return w, torch.ones(1, device=device, requires_grad=True)

        for name, loss in (
            ("torch", eager),
            ("tgc, torch", lambda w, b: loss_of(w, b, data, goal)),
        ):
            candidates.append(stepping(name, by_autograd(loss), state))
    return candidates


def stepping(
    name: str, step: Callable[[Any, Any], Any], state: Callable[[], tuple[Any, Any]]
) -> Candidate:
    """A candidate that trains one state on and on; its answer is the state after two steps from the start."""
    own = state()

    def answer() -> Any:
        fresh = state()
        step(*fresh)
        return step(*fresh)

    return Candidate(name, lambda: step(*own), answer)
