"""The tasks in numpy as one writes them: whole temporaries, gradients by hand. In float64, the reference of all.

Gradients written by hand live here and in kernels.c alone, as competitors; tests compare them with finite differences.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.cpu.tasks import ADAM, ADAM_MEAN, ADAM_SQUARE, EPSILON, FORWARD, Inputs, sgd_rate

Array = Any
ROOT_HALF = math.sqrt(0.5)
DENSITY = 1 / math.sqrt(2 * math.pi)  # of the normal distribution at 0
GELU = math.sqrt(2 / math.pi)


def _table_erf(x: Array) -> Array:
    """erf to 1e-12: cubic interpolation between math's values and slopes, 512 to the unit."""
    steps, last = 512, 6
    nodes = np.arange(last * steps + 2) / steps
    values = np.array([math.erf(a) for a in nodes])
    slopes = 2 / math.sqrt(math.pi) * np.exp(-nodes * nodes) / steps
    place = np.minimum(np.abs(x), last) * steps
    i = place.astype(np.intp)
    t = place - i
    near, far = 1 - t, values[i + 1] - values[i]
    inner = near * (slopes[i] - far) + t * (far - slopes[i + 1])
    return np.copysign(near * values[i] + t * values[i + 1] + t * near * inner, x)


def _tanh_erf(x: Array) -> Array:
    """erf to float32's precision, as a chain of numpy calls."""
    xx = x * x
    p = 1.418530222e-7
    for c in (-5.668489281e-6, 8.763740883e-5, -6.197848683e-4, -1.918305694e-4, 0.1027690557):
        p = p * xx + c
    return np.tanh(x * (p * xx + 1.1283792743))


def erf(x: Array) -> Array:
    """numpy has none: scipy's if it is installed."""
    if scipy_erf is not None:
        return scipy_erf(x)
    return _table_erf(x) if x.dtype == np.float64 else _tanh_erf(x)


scipy_erf: Callable[[Array], Array] | None = None
if importlib.util.find_spec("scipy") is not None:
    scipy_erf = importlib.import_module("scipy.special").erf


def _cdf(x: Array) -> Array:
    return 0.5 * (1 + erf(x * ROOT_HALF))


def _pdf(x: Array) -> Array:
    return np.exp(-0.5 * x * x) * DENSITY


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def add(a: Array, b: Array) -> Any:
    return (a + b,)


_rng = np.random.default_rng(3)


def randn(out: Array) -> Any:
    dtype = out.dtype
    return (
        _rng.standard_normal(out.shape, dtype=dtype) + _rng.standard_normal(out.shape, dtype=dtype),
    )


def sigmoid_sum(x: Array) -> Any:
    return (np.sum(_sigmoid(x)),)


def sigmoid_sum_gradient(x: Array) -> Any:
    y = _sigmoid(x)
    return np.sum(y), y * (1 - y)


def gelu_erf(x: Array) -> Any:
    return (x * _cdf(x),)


def gelu_erf_gradient(x: Array, g: Array) -> Any:
    cdf = _cdf(x)
    return x * cdf, g * (cdf + x * _pdf(x))


def gelu_tanh(x: Array) -> Any:
    return (0.5 * x * (1 + np.tanh(GELU * (x + 0.044715 * x * x * x))),)


def gelu_tanh_gradient(x: Array, g: Array) -> Any:
    t = np.tanh(GELU * (x + 0.044715 * x * x * x))
    slope = GELU * (1 + 3 * 0.044715 * x * x)
    return 0.5 * x * (1 + t), g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)


def swiglu(gate: Array, value: Array) -> Any:
    return (gate * _sigmoid(gate) * value,)


def swiglu_gradient(gate: Array, value: Array, g: Array) -> Any:
    s = _sigmoid(gate)
    silu = gate * s
    return silu * value, g * value * (s + silu * (1 - s)), g * silu


def bce_with_logits(z: Array, t: Array) -> Any:
    return (np.mean(np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))),)


def bce_with_logits_gradient(z: Array, t: Array) -> Any:
    return *bce_with_logits(z, t), (_sigmoid(z) - t) / z.size


def bce_as_written(z: Array, t: Array) -> Any:
    p = _sigmoid(z)
    return (-np.mean(t * np.log(p) + (1 - t) * np.log(1 - p)),)


def bce_as_written_gradient(z: Array, t: Array) -> Any:
    p = _sigmoid(z)
    return -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p)), (p - t) / z.size


def huber(x: Array, t: Array) -> Any:
    d = x - t
    size = np.abs(d)
    return (np.mean(np.where(size <= 1, 0.5 * d * d, size - 0.5)),)


def huber_gradient(x: Array, t: Array) -> Any:
    return *huber(x, t), np.clip(x - t, -1, 1) / x.size


def third_derivative(x: Array) -> Any:
    """Of tanh(u), u = sin(x) exp(-x²), by the chain rule."""
    s, c, e, xx = np.sin(x), np.cos(x), np.exp(-x * x), x * x
    u = e * s
    u1 = e * (c - 2 * x * s)
    u2 = e * ((4 * xx - 3) * s - 4 * x * c)
    u3 = e * ((18 - 8 * xx) * x * s + (12 * xx - 7) * c)
    t = np.tanh(u)
    f1 = 1 - t * t
    f2 = -2 * t * f1
    f3 = f1 * (6 * t * t - 2)
    return (f3 * u1 * u1 * u1 + 3 * f2 * u1 * u2 + f1 * u3,)


def regression_step(w: Array, b: Array, x: Array, goal: Array) -> Any:
    residual = np.dot(w, x) + b - goal
    rate = sgd_rate(w.size)
    w -= rate * (2 * residual * x)
    b -= rate * (2 * residual)
    return w, b


def adamw(p: Array, g: Array, m: Array, v: Array) -> Any:
    """arXiv:1711.05101, algorithm 2, with torch's order of operations."""
    p *= 1 - ADAM["rate"] * ADAM["decay"]
    m *= ADAM["beta1"]
    m += (1 - ADAM["beta1"]) * g
    v *= ADAM["beta2"]
    v += (1 - ADAM["beta2"]) * g * g
    p -= ADAM["rate"] / ADAM_MEAN * m / (np.sqrt(v) / math.sqrt(ADAM_SQUARE) + ADAM["epsilon"])
    return p, m, v


def softmax(x: Array) -> Any:
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return (e / np.sum(e, axis=-1, keepdims=True),)


def softmax_gradient(x: Array, g: Array) -> Any:
    (y,) = softmax(x)
    return y, y * (g - np.sum(g * y, axis=-1, keepdims=True))


def log_softmax(x: Array) -> Any:
    shifted = x - np.max(x, axis=-1, keepdims=True)
    return (shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True)),)


def log_softmax_gradient(x: Array, g: Array) -> Any:
    (y,) = log_softmax(x)
    return y, g - np.exp(y) * np.sum(g, axis=-1, keepdims=True)


def layer_norm(x: Array, weight: Array, bias: Array) -> Any:
    centred = x - np.mean(x, axis=-1, keepdims=True)
    scale = 1 / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + EPSILON)
    return (centred * scale * weight + bias,)


def layer_norm_gradient(x: Array, weight: Array, bias: Array, g: Array) -> Any:
    centred = x - np.mean(x, axis=-1, keepdims=True)
    scale = 1 / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + EPSILON)
    unit, inner = centred * scale, g * weight
    slope = inner - np.mean(inner, axis=-1, keepdims=True)
    slope -= unit * np.mean(inner * unit, axis=-1, keepdims=True)
    return unit * weight + bias, scale * slope, np.sum(g * unit, axis=0), np.sum(g, axis=0)


def rms_norm(x: Array, weight: Array) -> Any:
    return (x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPSILON) * weight,)


def rms_norm_gradient(x: Array, weight: Array, g: Array) -> Any:
    scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPSILON)
    unit, inner = x * scale, g * weight
    slope = inner - unit * np.mean(inner * unit, axis=-1, keepdims=True)
    return unit * weight, scale * slope, np.sum(g * unit, axis=0)


def cross_entropy(x: Array, label: Array) -> Any:
    (y,) = log_softmax(x)
    return (-np.mean(y[np.arange(len(label)), label]),)


def cross_entropy_gradient(x: Array, label: Array) -> Any:
    (y,) = log_softmax(x)
    chosen = np.arange(len(label)), label
    slope = np.exp(y)
    slope[chosen] -= 1
    return -np.mean(y[chosen]), slope / len(label)


def linear_gelu(x: Array, w: Array, b: Array) -> Any:
    return gelu_erf(x @ w + b)


def linear_gelu_gradient(x: Array, w: Array, b: Array, g: Array) -> Any:
    y, inner = gelu_erf_gradient(x @ w + b, g)
    return y, inner @ w.T, x.T @ inner, np.sum(inner, axis=0)


def variance(x: Array) -> Any:
    centred = x - np.mean(x)
    return (np.mean(centred * centred),)


def variance_gradient(x: Array) -> Any:
    centred = x - np.mean(x)
    return np.mean(centred * centred), centred * (2 / x.size)


def column_sums(x: Array) -> Any:
    return (np.sum(x, axis=0),)


def black_scholes(spot: Array, strike: Array, years: Array, rate: Array, vol: Array) -> Any:
    spread = vol * np.sqrt(years)
    d1 = (np.log(spot / strike) + (rate + 0.5 * vol * vol) * years) / spread
    return (spot * _cdf(d1) - strike * np.exp(-rate * years) * _cdf(d1 - spread),)


def black_scholes_greeks(spot: Array, strike: Array, years: Array, rate: Array, vol: Array) -> Any:
    """Price, delta, the derivative by time to expiry (-theta), rho, vega, gamma."""
    root = np.sqrt(years)
    spread = vol * root
    d1 = (np.log(spot / strike) + (rate + 0.5 * vol * vol) * years) / spread
    delta, density = _cdf(d1), _pdf(d1)
    bond = strike * np.exp(-rate * years) * _cdf(d1 - spread)
    return (
        spot * delta - bond,
        delta,
        spot * density * vol / (2 * root) + rate * bond,
        years * bond,
        spot * density * root,
        density / (spot * spread),
    )


def gaussian(x: Array, y: Array, b: Array) -> Any:
    distance = np.sum((x[:, None, :] - y[None, :, :]) ** 2, axis=-1)
    return (np.exp(-0.5 * distance) @ b,)


def gaussian_gradient(x: Array, y: Array, b: Array, g: Array) -> Any:
    apart = x[:, None, :] - y[None, :, :]
    weighted = np.exp(-0.5 * np.sum(apart**2, axis=-1)) * b
    return np.sum(weighted, axis=-1), -g[:, None] * np.einsum("ij,ijk->ik", weighted, apart)


# Forward and gradient of each task.
TABLE: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None]] = {
    "add": (add, None),
    "randn + randn": (randn, None),
    "sigmoid sum": (sigmoid_sum, sigmoid_sum_gradient),
    "gelu erf": (gelu_erf, gelu_erf_gradient),
    "gelu tanh": (gelu_tanh, gelu_tanh_gradient),
    "swiglu": (swiglu, swiglu_gradient),
    "BCE with logits": (bce_with_logits, bce_with_logits_gradient),
    "BCE as written": (bce_as_written, bce_as_written_gradient),
    "huber": (huber, huber_gradient),
    "third derivative": (third_derivative, None),
    "dot regression, SGD step": (regression_step, None),
    "AdamW step": (adamw, None),
    "softmax": (softmax, softmax_gradient),
    "log_softmax": (log_softmax, log_softmax_gradient),
    "layer norm": (layer_norm, layer_norm_gradient),
    "rms norm": (rms_norm, rms_norm_gradient),
    "cross-entropy": (cross_entropy, cross_entropy_gradient),
    "linear and gelu": (linear_gelu, linear_gelu_gradient),
    "variance": (variance, variance_gradient),
    "column sums": (column_sums, None),
    "Black-Scholes and Greeks": (black_scholes, black_scholes_greeks),
    "gaussian kernel sum": (gaussian, gaussian_gradient),
}


def build(task: str, mode: str, inputs: Inputs) -> Callable[[], Any]:
    """A call of the task on the inputs, in their dtype."""
    forward, gradient = TABLE[task]
    function = forward if mode == FORWARD else gradient
    assert function is not None
    return lambda: function(*inputs)


def reference(task: str, mode: str, inputs: Inputs) -> tuple[np.ndarray, ...]:
    """The results in float64, on copies."""
    wide = tuple(a.astype(np.float64) if a.dtype == np.float32 else a for a in inputs)
    return tuple(np.asarray(r) for r in build(task, mode, wide)())
