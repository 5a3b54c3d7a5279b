"""The tasks in jax, each one jitted function with its gradient by vjp."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bench.cpu.tasks import (
    ADAM,
    ADAM_MEAN,
    ADAM_SQUARE,
    EPSILON,
    FORWARD,
    TASKS,
    Inputs,
    sgd_rate,
)

Array = Any


def _bce(z: Array, t: Array) -> Array:
    return jnp.mean(jnp.maximum(z, 0) - z * t + jnp.log1p(jnp.exp(-jnp.abs(z))))


def _bce_as_written(z: Array, t: Array) -> Array:
    p = 1 / (1 + jnp.exp(-z))
    return -jnp.mean(t * jnp.log(p) + (1 - t) * jnp.log(1 - p))


def _huber(x: Array, t: Array) -> Array:
    d = x - t
    return jnp.mean(jnp.where(jnp.abs(d) <= 1, 0.5 * d * d, jnp.abs(d) - 0.5))


def _layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    spread = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(spread + EPSILON) * weight + bias


def _rms_norm(x: Array, weight: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPSILON) * weight


def _cross_entropy(x: Array, label: Array) -> Array:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(x), label[:, None], axis=-1)
    return -jnp.mean(chosen)


def _cdf(x: Array) -> Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def black_scholes(spot: Array, strike: Array, years: Array, rate: Array, vol: Array) -> Array:
    spread = vol * jnp.sqrt(years)
    d1 = (jnp.log(spot / strike) + (rate + 0.5 * vol * vol) * years) / spread
    return spot * _cdf(d1) - strike * jnp.exp(-rate * years) * _cdf(d1 - spread)


def _gaussian(x: Array, y: Array, b: Array) -> Array:
    distance = jnp.sum((x[:, None, :] - y[None, :, :]) ** 2, axis=-1)
    return jnp.exp(-0.5 * distance) @ b


SIMPLE: dict[str, Callable[..., Array]] = {
    "add": lambda a, b: a + b,
    "sigmoid sum": lambda x: jnp.sum(jax.nn.sigmoid(x)),
    "gelu erf": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "swiglu": lambda gate, value: jax.nn.silu(gate) * value,
    "BCE with logits": _bce,
    "BCE as written": _bce_as_written,
    "huber": _huber,
    "softmax": lambda x: jax.nn.softmax(x),
    "log_softmax": lambda x: jax.nn.log_softmax(x),
    "layer norm": _layer_norm,
    "rms norm": _rms_norm,
    "cross-entropy": _cross_entropy,
    "linear and gelu": lambda x, w, b: jax.nn.gelu(x @ w + b, approximate=False),
    "variance": jnp.var,
    "column sums": lambda x: jnp.sum(x, axis=0),
    "Black-Scholes and Greeks": black_scholes,
    "gaussian kernel sum": _gaussian,
}


def third_derivative(x: Array) -> Array:
    one = jax.grad(jax.grad(jax.grad(lambda x: jnp.tanh(jnp.sin(x) * jnp.exp(-x * x)))))
    return jax.vmap(one)(x)


def greeks(*args: Array) -> Any:
    price, pull = jax.vjp(black_scholes, *args)
    delta, _, years, rate, vol = pull(jnp.ones_like(price))
    first = lambda spot: jax.grad(lambda s: jnp.sum(black_scholes(s, *args[1:])))(spot)
    gamma = jax.vjp(first, args[0])[1](jnp.ones_like(price))[0]
    return price, delta, years, rate, vol, gamma


def regression_loss(w: Array, b: Array, x: Array, goal: Array) -> Array:
    return jnp.sum((jnp.dot(w, x) + b - goal) ** 2)


def adamw(p: Array, g: Array, m: Array, v: Array) -> Any:
    p = p * (1 - ADAM["rate"] * ADAM["decay"])
    m = ADAM["beta1"] * m + (1 - ADAM["beta1"]) * g
    v = ADAM["beta2"] * v + (1 - ADAM["beta2"]) * g * g
    root = jnp.sqrt(v) / math.sqrt(ADAM_SQUARE) + ADAM["epsilon"]
    return p - ADAM["rate"] / ADAM_MEAN * m / root, m, v


def _with_gradient(task: str) -> Callable[..., Any]:
    function, wrt, cotangent = SIMPLE[task], TASKS[task].wrt, TASKS[task].cotangent

    def both(*args: Any) -> Any:
        primals = list(args[:-1] if cotangent else args)

        def of(*chosen: Any) -> Any:
            for place, value in zip(wrt, chosen):
                primals[place] = value
            return function(*primals)

        value, pull = jax.vjp(of, *(args[i] for i in wrt))
        return value, *pull(args[-1] if cotangent else jnp.ones_like(value))

    return both


def build(task: str, mode: str, inputs: Inputs) -> Callable[[], Any]:
    """A call of the jitted task, which waits for its results."""
    args = tuple(jnp.asarray(a) for a in inputs)
    ready = jax.block_until_ready
    if task == "randn + randn":
        shape = inputs[0].shape
        draw = jax.jit(lambda key: [jax.random.normal(k, shape) for k in jax.random.split(key)])
        add = jax.jit(lambda key: sum(draw(key)))
        keys = [jax.random.key(0)]

        def fresh() -> Any:
            keys[0], key = jax.random.split(keys[0])
            return (ready(add(key)),)

        return fresh
    if task in ("dot regression, SGD step", "AdamW step"):
        return _stepping(task, args)
    if task == "third derivative":
        function = third_derivative
    elif task == "Black-Scholes and Greeks" and mode != FORWARD:
        function = greeks
    else:
        function = SIMPLE[task] if mode == FORWARD else _with_gradient(task)
    compiled = jax.jit(function)
    return lambda: ready(compiled(*args))


def _stepping(task: str, args: tuple[Array, ...]) -> Callable[[], Any]:
    """Steps that donate their state."""
    if task == "AdamW step":
        update = jax.jit(adamw, donate_argnums=(0, 2, 3))
        p, g, m, v = args
        moments = [p, m, v]

        def run() -> Any:
            moments[:] = jax.block_until_ready(update(moments[0], g, moments[1], moments[2]))
            return tuple(moments)

        return run
    w, b, x, goal = args
    rate = sgd_rate(w.size)

    def step(w: Array, b: Array) -> Any:
        dw, db = jax.grad(regression_loss, argnums=(0, 1))(w, b, x, goal)
        return w - rate * dw, b - rate * db

    compiled = jax.jit(step, donate_argnums=(0, 1))
    state = [w, b]

    def run_step() -> Any:
        state[:] = jax.block_until_ready(compiled(*state))
        return tuple(state)

    return run_step
