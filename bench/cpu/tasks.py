"""What the CPU suite times: each task's sizes, inputs and tolerance, for all engines alike.

A task is a name that every engine's module knows how to do, in one or two modes: "forward", and "gradient", the same
results followed by the gradients. Inputs are float32 and made from a fixed seed, so that each process makes its own.
Where a result is not a scalar, the last input is the cotangent of the gradient mode, as the layers above a function
would hand it down, and the forward mode does not get it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

Shape = tuple[int, ...]
Inputs = tuple[np.ndarray, ...]

FORWARD, GRADIENT = "forward", "gradient"
LENGTHS: Mapping[str, Shape] = {"1e3": (10**3,), "1e5": (10**5,), "1e6": (10**6,), "1e7": (10**7,)}
ROWS: Mapping[str, Shape] = {
    "4096x1024": (4096, 1024),
    "64x131072": (64, 131072),
    "131072x64": (131072, 64),
}
QUICK: Mapping[int, tuple[str, Shape]] = {1: ("300", (300,)), 2: ("12x40", (12, 40))}
LARGE = 4_000_000  # elements from which a size counts as 1e7 does: it is far larger than any cache


class Unsupported(Exception):
    """An engine does not do a task; the message says why."""


@dataclass(frozen=True)
class Task:
    """One workload.

    Attributes:
        make: inputs of a shape.
        shapes: by label.
        wrt: the inputs to differentiate by; none if there is only a forward mode.
        cotangent: whether the last input is one.
        rtol: the largest accepted difference from float64, relative to the largest element of a result.
        random: results are draws: only their moments are compared.
        alters: inputs that a call may overwrite.
        multiplies: there are products of large matrices.
    """

    name: str
    make: Callable[[np.random.Generator, Shape], Inputs]
    shapes: Mapping[str, Shape] = field(default_factory=lambda: LENGTHS)
    wrt: tuple[int, ...] = ()
    cotangent: bool = False
    rtol: float = 2e-5
    random: bool = False
    alters: tuple[int, ...] = ()
    multiplies: bool = False

    @property
    def modes(self) -> tuple[str, ...]:
        return (FORWARD, GRADIENT) if self.wrt else (FORWARD,)

    def inputs(self, shape: Shape, mode: str) -> Inputs:
        """Fresh inputs, the same at each call; those of a gradient begin with those of the forward mode."""
        made = self.make(np.random.default_rng(20), shape)
        return made[:-1] if self.cotangent and mode == FORWARD else made


def normal(rng: np.random.Generator, shape: Shape, scale: float = 1.0) -> np.ndarray:
    """Normal float32 numbers."""
    drawn = rng.standard_normal(shape, dtype=np.float32)
    return drawn if scale == 1.0 else drawn * np.float32(scale)


def uniform(rng: np.random.Generator, shape: Shape, low: float, high: float) -> np.ndarray:
    """Uniform float32 numbers."""
    return rng.random(shape, dtype=np.float32) * np.float32(high - low) + np.float32(low)


def _normals(count: int) -> Callable[[np.random.Generator, Shape], Inputs]:
    return lambda rng, shape: tuple(normal(rng, shape) for _ in range(count))


def _binary_targets(rng: np.random.Generator, shape: Shape) -> Inputs:
    logits = normal(rng, shape, 2.0)
    return logits, (rng.random(shape, dtype=np.float32) < 0.5).astype(np.float32)


def _regression(rng: np.random.Generator, shape: Shape) -> Inputs:
    """The seed's: weights, bias, data, and the value that weights of 3 and a bias of -2 would give."""
    w, x = rng.random(shape, dtype=np.float32), rng.random(shape, dtype=np.float32)
    goal = np.asarray(3 * x.sum(dtype=np.float64) - 2, np.float32)
    return w, np.ones(1, np.float32), x, goal


def _moments(rng: np.random.Generator, shape: Shape) -> Inputs:
    parameter, gradient, mean = (normal(rng, shape) for _ in range(3))
    return parameter, gradient, mean, uniform(rng, shape, 0.1, 1.0)


def _layer(rng: np.random.Generator, shape: Shape) -> Inputs:
    columns = shape[-1:]
    weight, bias = 1 + normal(rng, columns, 0.1), normal(rng, columns)
    return normal(rng, shape), weight, bias, normal(rng, shape)


def _scaled_layer(rng: np.random.Generator, shape: Shape) -> Inputs:
    x, weight, _, g = _layer(rng, shape)
    return x, weight, g


def _classes(rng: np.random.Generator, shape: Shape) -> Inputs:
    return normal(rng, shape), rng.integers(0, shape[1], shape[0])


def _linear(rng: np.random.Generator, shape: Shape) -> Inputs:
    rows, columns = shape
    inside = max(4, columns // 4)
    x, w = normal(rng, (rows, inside)), normal(rng, (inside, columns), inside**-0.5)
    return x, w, normal(rng, (columns,)), normal(rng, shape)


def _options(rng: np.random.Generator, shape: Shape) -> Inputs:
    """Spot, strike, years to expiry, rate and volatility of European calls near the money."""
    return (
        uniform(rng, shape, 80, 120),
        uniform(rng, shape, 80, 120),
        uniform(rng, shape, 0.5, 2),
        uniform(rng, shape, 0.01, 0.05),
        uniform(rng, shape, 0.1, 0.5),
    )


def _points(rng: np.random.Generator, shape: Shape) -> Inputs:
    sources, targets = shape
    x, y = normal(rng, (targets, 3)), normal(rng, (sources, 3))
    return x, y, normal(rng, (sources,)), normal(rng, (targets,))


_NORM = {"shapes": ROWS, "cotangent": True, "rtol": 1e-4}

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("add", _normals(2), shapes={**LENGTHS, "1e8": (10**8,)}),
        Task("randn + randn", lambda rng, shape: (np.zeros(shape, np.float32),), random=True),
        Task("sigmoid sum", _normals(1), wrt=(0,)),
        Task("gelu erf", _normals(2), wrt=(0,), cotangent=True),
        Task("gelu tanh", _normals(2), wrt=(0,), cotangent=True),
        Task("swiglu", _normals(3), wrt=(0, 1), cotangent=True),
        Task("BCE with logits", _binary_targets, wrt=(0,)),
        # Taken literally, 1 - p loses the digits of small p, and so does its derivative.
        Task("BCE as written", _binary_targets, wrt=(0,), rtol=1e-3),
        Task("huber", lambda rng, shape: (normal(rng, shape, 2.0), normal(rng, shape)), wrt=(0,)),
        Task("third derivative", _normals(1), rtol=1e-4),
        Task("dot regression, SGD step", _regression, rtol=1e-4, alters=(0, 1)),
        Task("AdamW step", _moments, alters=(0, 2, 3)),
        Task("softmax", _normals(2), shapes=ROWS, wrt=(0,), cotangent=True),
        Task("log_softmax", _normals(2), shapes=ROWS, wrt=(0,), cotangent=True, rtol=1e-4),
        Task("layer norm", _layer, wrt=(0, 1, 2), **_NORM),  # type: ignore[arg-type]
        Task("rms norm", _scaled_layer, wrt=(0, 1), **_NORM),  # type: ignore[arg-type]
        Task("cross-entropy", _classes, shapes={"4096x1024": (4096, 1024)}, wrt=(0,)),
        Task(
            "linear and gelu",
            _linear,
            shapes={"4096x1024": (4096, 1024)},
            wrt=(0, 1, 2),
            cotangent=True,
            rtol=1e-4,
            multiplies=True,
        ),
        Task("variance", _normals(1), wrt=(0,), rtol=1e-4),
        Task("column sums", _normals(1), shapes=ROWS, rtol=1e-4),
        Task("Black-Scholes and Greeks", _options, wrt=(0, 1, 2, 3, 4), rtol=1e-4),
        Task(
            "gaussian kernel sum",
            _points,
            shapes={"4000x4000": (4000, 4000)},
            wrt=(0,),
            cotangent=True,
            rtol=1e-4,
        ),
    )
}


# --- constants that every engine shares -----------------------------------------------------------

EPSILON = 1e-5  # of the norms
ADAM = {"rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "decay": 1e-2, "step": 10}
ADAM_MEAN = 1 - ADAM["beta1"] ** ADAM["step"]  # the bias corrections of that step
ADAM_SQUARE = 1 - ADAM["beta2"] ** ADAM["step"]


def sgd_rate(length: int) -> float:
    """A rate at which the regression converges in some fifty steps."""
    return 0.1 / length


# --- agreement ------------------------------------------------------------------------------------

SAMPLE = 1 << 16


def digest(result: np.ndarray) -> tuple[Shape, np.ndarray, np.ndarray]:
    """A result small enough to send: its shape, elements (all, or a fixed sample), and two sums over all of it."""
    flat = np.asarray(result).reshape(-1)
    if flat.size > SAMPLE:
        chosen = flat[np.random.default_rng(7).integers(0, flat.size, SAMPLE)]
    else:
        chosen = flat.copy()
    sums = np.array([flat.sum(dtype=np.float64), np.abs(flat).sum(dtype=np.float64)])
    return np.shape(result), chosen.astype(np.float64), sums


def disagreement(ours: tuple, reference: tuple, rtol: float) -> str | None:
    """What is wrong with a digest, or None."""
    (shape, elements, sums), (wanted, right, totals) = ours, reference
    if tuple(shape) != tuple(wanted) and not (np.prod(shape) == np.prod(wanted) == 1):
        return f"shape {shape} instead of {wanted}"
    if not np.all(np.isfinite(elements)):
        return "not finite"
    scale = float(np.max(np.abs(right), initial=0.0))
    error = float(np.max(np.abs(elements - right), initial=0.0)) / (scale or 1.0)
    if error > rtol:
        return f"error {error:.2g} of the largest element, allowed {rtol:.2g}"
    error = float(np.max(np.abs(sums - totals))) / (float(totals[1]) or 1.0)
    return f"error {error:.2g} of the sum, allowed {rtol:.2g}" if error > rtol else None


def wrong_draw(ours: tuple, count: int) -> str | None:
    """What is wrong with the moments of a sum of two normal draws, or None."""
    _, elements, sums = ours
    mean, variance = sums[0] / count, float(np.mean(elements**2))
    if abs(mean) > 8 * (2 / count) ** 0.5:
        return f"mean {mean:.2g}"
    return f"variance {variance:.3g}" if abs(variance - 2) > 20 / elements.size**0.5 else None
