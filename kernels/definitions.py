"""The functions of the gallery, as a user would write them.

Each is plain Python over `tgc.*` names, so it compiles from numpy arrays, torch tensors or shapes alone. None is
written for speed or for stability: the kernels in `kernels/generated` show what the compiler makes of the textbook
formula. Rows are the last axis; a loss is the mean over all elements or rows, as torch's default reduction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tgc

EPSILON = 1e-5


def gelu(x: Any) -> Any:
    """x Φ(x), with the normal distribution function Φ by erf (Hendrycks and Gimpel, arXiv:1606.08415)."""
    return 0.5 * x * (1.0 + tgc.erf(x / math.sqrt(2.0)))


def gelu_tanh(x: Any) -> Any:
    """The tanh approximation of gelu, from the same paper."""
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + tgc.tanh(inner))


def swiglu(gate: Any, value: Any) -> Any:
    """silu(gate) · value, the gated unit of arXiv:2002.05202, equation 6, after its two projections."""
    return gate / (1.0 + tgc.exp(-gate)) * value


def softmax(x: Any) -> Any:
    """exp(x) over its sum, along rows; shifted by the row's maximum so that nothing overflows."""
    shifted = tgc.exp(x - tgc.max(x, axis=-1, keepdims=True))
    return shifted / tgc.sum(shifted, axis=-1, keepdims=True)


def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    """(x - mean) / sqrt(variance + ε) · weight + bias along rows (arXiv:1607.06450)."""
    mean = tgc.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = tgc.mean(centred * centred, axis=-1, keepdims=True)
    return centred / tgc.sqrt(variance + EPSILON) * weight + bias


def rms_norm(x: Any, weight: Any) -> Any:
    """x / sqrt(mean(x²) + ε) · weight along rows (arXiv:1910.07467)."""
    return x / tgc.sqrt(tgc.mean(x * x, axis=-1, keepdims=True) + EPSILON) * weight


def cross_entropy(logits: Any, label: Any) -> Any:
    """The mean over rows of logsumexp(logits) - logits[label]."""
    chosen = tgc.take_along_axis(logits, label[:, None], axis=-1)[:, 0]
    return tgc.mean(tgc.logsumexp(logits, axis=-1) - chosen)


def bce_with_logits(logit: Any, target: Any) -> Any:
    """The mean of log(1 + exp(logit)) - target · logit: binary cross-entropy of sigmoid(logit), overflow included.

    The target is data: no gradient is made for it.
    """
    return tgc.mean(tgc.log(1.0 + tgc.exp(logit)) - tgc.stop_gradient(target) * logit)


@dataclass(frozen=True)
class Definition:
    """A function of the gallery and the dtype and shape of each of its arguments, as `tgc.spec` reads them."""

    function: Callable[..., Any]
    specs: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.function.__name__


DEFINITIONS = (
    Definition(gelu, ("f32[rows, cols]",)),
    Definition(gelu_tanh, ("f32[rows, cols]",)),
    Definition(swiglu, ("f32[rows, cols]", "f32[rows, cols]")),
    Definition(softmax, ("f32[rows, cols]",)),
    Definition(layer_norm, ("f32[rows, cols]", "f32[cols]", "f32[cols]")),
    Definition(rms_norm, ("f32[rows, cols]", "f32[cols]")),
    Definition(cross_entropy, ("f32[rows, cols]", "i64[rows]")),
    Definition(bce_with_logits, ("f32[n]", "f32[n]")),
)
