"""Normalisation layers, by mean and variance."""

from __future__ import annotations

from typing import Any

from tgc.ir.sizes import product
from tgc.trace.core import Value, array, builder, dims_of, show_shape, unsupported, wrap
from tgc.trace.elementwise import add, clamp_min, div, mul, rsqrt, square, sub
from tgc.trace.movement import reshape
from tgc.trace.reductions import mean, var_mean, vector_norm
from tgc.trace.state import current, shape_error
from tgc.trace.tracer import Tracer


def _affine(x: Tracer, weight: Value, bias: Value) -> Tracer:
    out = x if weight is None else mul(x, weight)
    return out if bias is None else add(out, bias)


def _trailing_axes(x: Tracer, normalized_shape: Any) -> tuple[int, ...]:
    """The axes a layer normalises: the last ones, which must have the given extents."""
    shape = dims_of(normalized_shape)
    last = x.node.shape[x.ndim - len(shape) :]
    if len(shape) > x.ndim or not all(map(current().sizes.same, shape, last)):
        raise shape_error(
            f"normalized_shape={show_shape(shape)} does not end input of size {show_shape(x.node.shape)}"
        )
    return tuple(range(x.ndim - len(shape), x.ndim))


def _standard(x: Tracer, axes: tuple[int, ...], eps: float) -> tuple[Tracer, Tracer, Tracer]:
    """x of mean 0 and variance 1, its mean, and the reciprocal of its standard deviation."""
    variance, centre = var_mean(x, axes, keepdims=True, correction=0)
    scale = rsqrt(add(variance, eps))
    return mul(sub(x, centre), scale), centre, scale


def layer_norm(
    x: Value, normalized_shape: Any, weight: Value = None, bias: Value = None, eps: float = 1e-5
) -> Tracer:
    """(x - mean) / sqrt(variance + eps) weight + bias over the last axes (arXiv:1607.06450)."""
    return native_layer_norm(x, normalized_shape, weight, bias, eps)[0]


def native_layer_norm(
    x: Value, normalized_shape: Any, weight: Value, bias: Value, eps: float
) -> tuple[Tracer, Tracer, Tracer]:
    """layer_norm, the mean and the reciprocal of the standard deviation."""
    x = array(x)
    flat, centre, scale = _standard(x, _trailing_axes(x, normalized_shape), eps)
    return _affine(flat, weight, bias), centre, scale


def rms_norm(
    x: Value, normalized_shape: Any, weight: Value = None, eps: float | None = None
) -> Tracer:
    """x / sqrt(mean(x²) + eps) weight over the last axes (arXiv:1910.07467)."""
    x = array(x)
    axes = _trailing_axes(x, normalized_shape)
    eps = x.kind.compute.eps if eps is None else eps
    scaled = mul(x, rsqrt(add(mean(square(x), axes, keepdims=True), eps)))
    return _affine(scaled, weight, None)


def _per_channel(value: Value, x: Tracer) -> Value:
    """A vector over axis 1, shaped to broadcast."""
    return None if value is None else reshape(value, (-1,) + (1,) * (x.ndim - 2))


def group_norm(
    x: Value, num_groups: int, weight: Value = None, bias: Value = None, eps: float = 1e-5
) -> Tracer:
    """Each group of channels of each sample standardised (arXiv:1803.08494)."""
    x = array(x)
    shape = x.node.shape
    if x.ndim < 2:
        raise shape_error("group_norm: expected at least 2 dimensions")
    sizes = current().sizes
    if sizes.hint(shape[1]) % num_groups:
        raise shape_error(
            f"Expected number of channels in input to be divisible by num_groups, but got {show_shape(shape)} "
            f"and num_groups={num_groups}"
        )
    each = shape[1] // num_groups
    sizes.same(each * num_groups, shape[1])
    grouped = wrap(builder().reshape(x.node, shape=(shape[0], num_groups, each, *shape[2:])), x)
    flat, _, _ = _standard(grouped, tuple(range(2, grouped.ndim)), eps)
    out = wrap(builder().reshape(flat.node, shape=shape), x)
    return _affine(out, _per_channel(weight, x), _per_channel(bias, x))


def instance_norm(
    x: Value,
    running_mean: Value = None,
    running_var: Value = None,
    weight: Value = None,
    bias: Value = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tracer:
    """Each channel of each sample standardised."""
    x = array(x)
    if not use_input_stats:
        return _with_statistics(x, running_mean, running_var, weight, bias, eps)
    if running_mean is not None or running_var is not None:
        raise unsupported(
            "instance_norm with running statistics in training: they are written in place"
        )
    flat, _, _ = _standard(x, tuple(range(2, x.ndim)), eps)
    return _affine(flat, _per_channel(weight, x), _per_channel(bias, x))


def batch_norm(
    x: Value,
    running_mean: Value = None,
    running_var: Value = None,
    weight: Value = None,
    bias: Value = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tracer:
    """Each channel standardised over the batch, or by running statistics (arXiv:1502.03167)."""
    x = array(x)
    if not training:
        return _with_statistics(x, running_mean, running_var, weight, bias, eps)
    if running_mean is not None or running_var is not None:
        raise unsupported(
            "batch_norm with running statistics in training: they are written in place",
            hint="use track_running_stats=False, or eval()",
        )
    axes = tuple(i for i in range(x.ndim) if i != 1)
    if current().sizes.hint(product([x.node.shape[a] for a in axes])) < 2:
        raise shape_error("Expected more than 1 value per channel when training")
    flat, _, _ = _standard(x, axes, eps)
    return _affine(flat, _per_channel(weight, x), _per_channel(bias, x))


def _with_statistics(
    x: Tracer, centre: Value, variance: Value, weight: Value, bias: Value, eps: float
) -> Tracer:
    scale = rsqrt(add(_per_channel(variance, x), eps))
    out = mul(sub(x, _per_channel(centre, x)), scale)
    return _affine(out, _per_channel(weight, x), _per_channel(bias, x))


def normalize(x: Value, p: Any = 2.0, axis: Any = 1, eps: float = 1e-12) -> Tracer:
    """x over its p-norm along an axis."""
    return div(x, clamp_min(vector_norm(x, p, axis, keepdims=True), eps))
