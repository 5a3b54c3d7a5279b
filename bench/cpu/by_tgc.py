"""The tasks as compiled functions over numpy arrays: the textbook formula, and its derivative by a transform.

A gradient is one compiled function that returns value and gradients. Engines of the suite are backends of the compiler.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

import tgc
from bench.cpu.tasks import (
    ADAM,
    ADAM_MEAN,
    ADAM_SQUARE,
    EPSILON,
    FORWARD,
    TASKS,
    Inputs,
    Unsupported,
    sgd_rate,
)

Array = Any
GELU = math.sqrt(2 / math.pi)


def gelu_erf(x: Array) -> Array:
    return 0.5 * x * (1.0 + tgc.erf(x / math.sqrt(2.0)))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + tgc.tanh(GELU * (x + 0.044715 * x * x * x)))


def swiglu(gate: Array, value: Array) -> Array:
    return gate / (1.0 + tgc.exp(-gate)) * value


def bce_with_logits(z: Array, t: Array) -> Array:
    return tgc.mean(tgc.log(1.0 + tgc.exp(z)) - t * z)


def bce_as_written(z: Array, t: Array) -> Array:
    p = 1.0 / (1.0 + tgc.exp(-z))
    return -tgc.mean(t * tgc.log(p) + (1.0 - t) * tgc.log(1.0 - p))


def huber(x: Array, t: Array) -> Array:
    d = x - t
    size = tgc.abs(d)
    return tgc.mean(tgc.where(size <= 1.0, 0.5 * d * d, size - 0.5))


def softmax(x: Array) -> Array:
    e = tgc.exp(x - tgc.max(x, axis=-1, keepdims=True))
    return e / tgc.sum(e, axis=-1, keepdims=True)


def log_softmax(x: Array) -> Array:
    shifted = x - tgc.max(x, axis=-1, keepdims=True)
    return shifted - tgc.log(tgc.sum(tgc.exp(shifted), axis=-1, keepdims=True))


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    centred = x - tgc.mean(x, axis=-1, keepdims=True)
    spread = tgc.mean(centred * centred, axis=-1, keepdims=True)
    return centred / tgc.sqrt(spread + EPSILON) * weight + bias


def rms_norm(x: Array, weight: Array) -> Array:
    return x / tgc.sqrt(tgc.mean(x * x, axis=-1, keepdims=True) + EPSILON) * weight


def cross_entropy(x: Array, label: Array) -> Array:
    chosen = tgc.take_along_axis(x, label[:, None], axis=-1)[:, 0]
    return tgc.mean(tgc.logsumexp(x, axis=-1) - chosen)


def variance(x: Array) -> Array:
    centred = x - tgc.mean(x)
    return tgc.mean(centred * centred)


def _cdf(x: Array) -> Array:
    return 0.5 * (1.0 + tgc.erf(x / math.sqrt(2.0)))


def black_scholes(spot: Array, strike: Array, years: Array, rate: Array, vol: Array) -> Array:
    spread = vol * tgc.sqrt(years)
    d1 = (tgc.log(spot / strike) + (rate + 0.5 * vol * vol) * years) / spread
    return spot * _cdf(d1) - strike * tgc.exp(-rate * years) * _cdf(d1 - spread)


def gaussian(x: Array, y: Array, b: Array) -> Array:
    apart = x[:, None, :] - y[None, :, :]
    return tgc.sum(tgc.exp(-0.5 * tgc.sum(apart * apart, axis=-1)) * b, axis=-1)


SIMPLE: dict[str, Callable[..., Array]] = {
    "add": lambda a, b: a + b,
    "sigmoid sum": lambda x: tgc.sum(1.0 / (1.0 + tgc.exp(-x))),
    "gelu erf": gelu_erf,
    "gelu tanh": gelu_tanh,
    "swiglu": swiglu,
    "BCE with logits": bce_with_logits,
    "BCE as written": bce_as_written,
    "huber": huber,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "layer norm": layer_norm,
    "rms norm": rms_norm,
    "cross-entropy": cross_entropy,
    "linear and gelu": lambda x, w, b: gelu_erf(x @ w + b),
    "variance": variance,
    "column sums": lambda x: tgc.sum(x, axis=0),
    "Black-Scholes and Greeks": black_scholes,
    "gaussian kernel sum": gaussian,
}


def slope(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The derivative of an elementwise function, by pulling ones back."""

    def derivative(x: Array) -> Array:
        y, pull = tgc.vjp(f, x)
        return pull(tgc.ones_like(y))[0]

    return derivative


def third_derivative(x: Array) -> Array:
    return slope(slope(slope(lambda x: tgc.tanh(tgc.sin(x) * tgc.exp(-x * x)))))(x)


def greeks(spot: Array, strike: Array, years: Array, rate: Array, vol: Array) -> Array:
    """Price, delta, derivatives by time, rate and volatility, and gamma."""

    def delta(spot: Array) -> Array:
        return slope(lambda s: black_scholes(s, strike, years, rate, vol))(spot)

    price, pull = tgc.vjp(
        lambda s, t, r, v: black_scholes(s, strike, t, r, v), spot, years, rate, vol
    )
    return price, *pull(tgc.ones_like(price)), slope(delta)(spot)


def with_gradient(task: str) -> Callable[..., Any]:
    """Value and gradients of a simple task as one function."""
    function, wrt, cotangent = SIMPLE[task], TASKS[task].wrt, TASKS[task].cotangent

    def both(*args: Any) -> Any:
        primals = list(args[:-1] if cotangent else args)

        def of(*chosen: Any) -> Any:
            for place, value in zip(wrt, chosen):
                primals[place] = value
            return function(*primals)

        value, pull = tgc.vjp(of, *(args[i] for i in wrt))
        return value, *pull(args[-1] if cotangent else tgc.ones_like(value))

    return both


def regression_loss(w: Array, b: Array, x: Array, goal: Array) -> Array:
    residual = tgc.sum(w * x) + b - goal
    return tgc.sum(residual * residual)


def regression_step(w: Array, b: Array, x: Array, goal: Array, rate: float) -> Any:
    dw, db = tgc.grad(regression_loss, argnums=(0, 1))(w, b, x, goal)
    return w - rate * dw, b - rate * db


def adamw(p: Array, g: Array, m: Array, v: Array) -> Any:
    p = p * (1 - ADAM["rate"] * ADAM["decay"])
    m = ADAM["beta1"] * m + (1 - ADAM["beta1"]) * g
    v = ADAM["beta2"] * v + (1 - ADAM["beta2"]) * g * g
    p = p - ADAM["rate"] / ADAM_MEAN * m / (tgc.sqrt(v) / math.sqrt(ADAM_SQUARE) + ADAM["epsilon"])
    return p, m, v


def donating(function: Callable[..., Any], names: tuple[str, ...], **options: Any) -> Any:
    """A compiled function that may write its results into the named arguments."""
    if "donate_argnames" not in inspect.signature(tgc.Compiled.__init__).parameters:
        raise Unsupported("tgc.jit has no donate_argnames: results cannot reuse their arguments")
    return tgc.jit(function, donate_argnames=names, **options)


def build(task: str, mode: str, inputs: Inputs, *, backend: str) -> Callable[[], Any]:
    """A call of the compiled task on the inputs."""
    options = {"backend": backend}
    if task == "randn + randn":
        if not hasattr(tgc, "randn"):
            raise Unsupported("tgc has no randn: random draws are not compiled")
        shape = inputs[0].shape
        draw = tgc.jit(lambda: tgc.randn(shape) + tgc.randn(shape), **options)
        return lambda: (np.asarray(draw()),)
    if task == "dot regression, SGD step":
        w, b, x, goal = inputs
        step, rate = donating(regression_step, ("w", "b"), **options), sgd_rate(w.size)
        return lambda: step(w, b, x, goal, rate)
    if task == "AdamW step":
        update = donating(adamw, ("p", "m", "v"), **options)
        return lambda: update(*inputs)
    if task == "third derivative":
        function = third_derivative
    elif task == "Black-Scholes and Greeks" and mode != FORWARD:
        function = greeks
    else:
        function = SIMPLE[task] if mode == FORWARD else with_gradient(task)
    compiled = tgc.jit(function, **options)
    return lambda: compiled(*inputs)
