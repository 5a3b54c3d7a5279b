"""Losses, by torch's definitions and with its reductions."""

from __future__ import annotations

import math
from typing import Any

from tgc.errors import DTypeError
from tgc.ir import dtypes
from tgc.trace.activations import logsigmoid, softplus
from tgc.trace.core import (
    Operands,
    Value,
    array,
    builder,
    cast,
    full_like,
    show_shape,
    stop_gradient,
    stretch,
    unsupported,
    wrap,
)
from tgc.trace.elementwise import (
    absolute,
    add,
    clamp_min,
    div,
    eq,
    exp,
    gt,
    log,
    log1p,
    lt,
    maximum,
    minimum,
    mul,
    ne,
    neg,
    sqrt,
    square,
    sub,
    where,
    xlogy,
)
from tgc.trace.movement import squeeze, unsqueeze
from tgc.trace.reductions import fold, log_softmax, mean, sum_, vector_norm
from tgc.trace.state import current, shape_error
from tgc.trace.symbolic import symbolic
from tgc.trace.tracer import Tracer


def reduced(x: Tracer, reduction: str) -> Tracer:
    """All elements as they are, their sum or their mean."""
    if reduction == "none":
        return x
    if reduction == "sum":
        return sum_(x)
    if reduction == "mean":
        return mean(x)
    raise unsupported(f'reduction="{reduction}"', hint='"none", "sum" or "mean"')


# --- regression -----------------------------------------------------------------------------------------------------


def mse_loss(x: Value, target: Value, reduction: str = "mean", weight: Value = None) -> Tracer:
    loss = square(sub(x, target))
    if weight is None:
        return reduced(loss, reduction)
    loss = mul(loss, weight)
    if reduction == "mean":
        return div(sum_(loss), sum_(_spread(weight, loss)))
    return reduced(loss, reduction)


def _spread(weight: Value, like: Tracer) -> Tracer:
    weight = array(weight)
    return wrap(stretch(weight.node, like.node.shape), weight)


def l1_loss(x: Value, target: Value, reduction: str = "mean") -> Tracer:
    return reduced(absolute(sub(x, target)), reduction)


def smooth_l1_loss(x: Value, target: Value, reduction: str = "mean", beta: float = 1.0) -> Tracer:
    if beta == 0:
        return l1_loss(x, target, reduction)
    distance = absolute(sub(x, target))
    near = div(mul(0.5, square(distance)), beta)
    return reduced(where(lt(distance, beta), near, sub(distance, 0.5 * beta)), reduction)


def huber_loss(x: Value, target: Value, reduction: str = "mean", delta: float = 1.0) -> Tracer:
    distance = absolute(sub(x, target))
    far = mul(delta, sub(distance, 0.5 * delta))
    return reduced(where(lt(distance, delta), mul(0.5, square(distance)), far), reduction)


def gaussian_nll_loss(
    x: Value,
    target: Value,
    var: Value,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tracer:
    """½ (log var + (x - target)² / var), the variance not below eps (its gradient as if it were free)."""
    var = array(var) if isinstance(var, Tracer) else full_like(array(x), var)
    x = array(x)
    if var.ndim + 1 == x.ndim:
        var = unsqueeze(var, -1)
    floor = where(lt(var, eps), eps, var)
    free = add(var, stop_gradient(sub(floor, var)))
    loss = mul(0.5, add(log(free), div(square(sub(x, target)), free)))
    if full:
        loss = add(loss, 0.5 * math.log(2 * math.pi))
    return reduced(loss, reduction)


def poisson_nll_loss(
    x: Value,
    target: Value,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tracer:
    if log_input:
        loss = sub(exp(x), mul(target, x))
    else:
        loss = sub(x, mul(target, log(add(x, eps))))
    if full:
        target = array(target)
        safe = where(gt(target, 1), target, 1.0)
        stirling = add(sub(mul(target, log(safe)), target), mul(0.5, log(mul(2 * math.pi, safe))))
        loss = add(loss, where(gt(target, 1), stirling, 0.0))
    return reduced(loss, reduction)


# --- binary classification ------------------------------------------------------------------------------------------


def binary_cross_entropy(
    x: Value, target: Value, weight: Value = None, reduction: str = "mean"
) -> Tracer:
    """-(t log x + (1 - t) log(1 - x)), logarithms not below -100."""
    yes = clamp_min(log(x), -100.0)
    no = clamp_min(log1p(neg(array(x))), -100.0)
    loss = sub(mul(sub(target, 1), no), mul(target, yes))
    return reduced(loss if weight is None else mul(loss, weight), reduction)


def binary_cross_entropy_with_logits(
    x: Value, target: Value, weight: Value = None, reduction: str = "mean", pos_weight: Value = None
) -> Tracer:
    """(1 - t) x + w softplus(-x), where w is 1 + (pos_weight - 1) t."""
    x = array(x)
    low = softplus(neg(x))
    if pos_weight is not None:
        low = mul(add(mul(sub(pos_weight, 1), target), 1), low)
    loss = add(mul(sub(1, target), x), low)
    return reduced(loss if weight is None else mul(loss, weight), reduction)


def soft_margin_loss(x: Value, target: Value, reduction: str = "mean") -> Tracer:
    return reduced(softplus(neg(mul(target, x))), reduction)


def multilabel_soft_margin_loss(
    x: Value, target: Value, weight: Value = None, reduction: str = "mean"
) -> Tracer:
    x = array(x)
    loss = neg(add(mul(target, logsigmoid(x)), mul(sub(1, target), logsigmoid(neg(x)))))
    loss = loss if weight is None else mul(loss, weight)
    return reduced(mean(loss, -1), reduction)


def hinge_embedding_loss(
    x: Value, target: Value, margin: float = 1.0, reduction: str = "mean"
) -> Tracer:
    x = array(x)
    far = where(ne(target, 1), clamp_min(sub(margin, x), 0), 0.0)
    return reduced(add(far, where(ne(target, -1), x, 0.0)), reduction)


# --- distributions --------------------------------------------------------------------------------------------------


def kl_div(x: Value, target: Value, reduction: str = "mean", log_target: bool = False) -> Tracer:
    """target (log target - x)."""
    if log_target:
        loss = mul(exp(target), sub(target, x))
    else:
        loss = sub(xlogy(target, target), mul(target, x))
    if reduction == "batchmean":
        total = sum_(loss)
        return div(total, full_like(total, loss.node.shape[0] if loss.ndim else 1))
    return reduced(loss, reduction)


def _class_axis(x: Tracer) -> int:
    if x.ndim == 0:
        raise shape_error("expected 1D or more dimensions")
    return 0 if x.ndim == 1 else 1


def _check_target(x: Tracer, target: Tracer, axis: int) -> None:
    wanted = x.node.shape[:axis] + x.node.shape[axis + 1 :]
    same = current().sizes.same
    if target.ndim != len(wanted) or not all(map(same, target.node.shape, wanted)):
        raise shape_error(
            f"Expected target size {show_shape(wanted)}, got {show_shape(target.node.shape)}"
        )
    if target.kind.kind not in ("int", "uint"):
        raise DTypeError(
            f"expected class indices of an integer type, not {target.kind.name}",
            line=current().error_line(),
            hint="target.long()",
        )


def _picked(x: Tracer, index: Tracer, axis: int) -> Tracer:
    """x at one class per position: a gather with one index per row."""
    row = unsqueeze(index, axis)
    return squeeze(wrap(builder().take(x.node, row.node, axis=axis), x), axis)


def _class_weights(weight: Value, x: Tracer, axis: int) -> Tracer:
    """The weights of classes, broadcast over x."""
    weight = array(weight)
    dims = (axis,)
    return wrap(builder().broadcast(weight.node, shape=x.node.shape, dims=dims), weight)


def _averaged(loss: Tracer, counted: Tracer, reduction: str) -> Tracer:
    """The loss reduced; its mean is over the weights that counted."""
    return div(sum_(loss), sum_(counted)) if reduction == "mean" else reduced(loss, reduction)


def nll_loss(
    x: Value, target: Value, weight: Value = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tracer:
    """-x[target] of log-probabilities."""
    x, target = array(x), array(target)
    axis = _class_axis(x)
    _check_target(x, target, axis)
    loss, counted = _negative_likelihood(x, target, weight, ignore_index, axis)
    return _averaged(loss, counted, reduction)


def _negative_likelihood(
    logp: Tracer, target: Tracer, weight: Value, ignore_index: int, axis: int
) -> tuple[Tracer, Tracer]:
    """Per position the weighted -logp[target], and its weight; both 0 where the target is to be ignored."""
    ignored = eq(target, ignore_index)
    safe = where(ignored, 0, target)
    weights = full_like(_picked(logp, safe, axis), 1)
    if weight is not None:
        weights = _picked(_class_weights(weight, logp, axis), safe, axis)
    counted = where(ignored, 0.0, weights)
    loss = where(ignored, 0.0, neg(_picked(logp, safe, axis)))
    return (loss if weight is None else mul(loss, counted)), counted


def cross_entropy(
    x: Value,
    target: Value,
    weight: Value = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tracer:
    """-log softmax(x)[target], with class indices or probabilities as target."""
    x, target = array(x), array(target)
    axis = _class_axis(x)
    if target.kind.is_float and target.ndim == x.ndim:
        return _soft_cross_entropy(x, target, weight, reduction, label_smoothing, axis)
    _check_target(x, target, axis)
    logp = log_softmax(x, axis)
    loss, counted = _negative_likelihood(logp, target, weight, ignore_index, axis)
    result = _averaged(loss, counted, reduction)
    if label_smoothing == 0:
        return result
    weighted = logp if weight is None else mul(logp, _class_weights(weight, logp, axis))
    smooth = where(eq(target, ignore_index), 0.0, neg(fold("sum", weighted, (axis,))))
    share = div(label_smoothing, symbolic(x.node.shape[axis]))
    return add(
        mul(1.0 - label_smoothing, result), mul(share, _averaged(smooth, counted, reduction))
    )


def _soft_cross_entropy(
    x: Tracer, target: Tracer, weight: Value, reduction: str, label_smoothing: float, axis: int
) -> Tracer:
    if not all(map(current().sizes.same, x.node.shape, target.node.shape)):
        raise shape_error(
            "Expected floating point target with class probabilities to have x's shape"
        )
    classes = full_like(x, x.node.shape[axis])
    if label_smoothing:
        target = add(mul(target, 1.0 - label_smoothing), div(label_smoothing, classes))
    terms = mul(log_softmax(x, axis), target)
    if weight is not None:
        terms = mul(terms, _class_weights(weight, x, axis))
    loss = neg(fold("sum", terms, (axis,)))
    if reduction != "mean":
        return reduced(loss, reduction)
    return mean(loss)


# --- pairs and triples ----------------------------------------------------------------------------------------------


def margin_ranking_loss(
    x1: Value, x2: Value, target: Value, margin: float = 0.0, reduction: str = "mean"
) -> Tracer:
    return reduced(clamp_min(add(mul(neg(array(target)), sub(x1, x2)), margin), 0), reduction)


def cosine_similarity(x1: Value, x2: Value, axis: Any = 1, eps: float = 1e-8) -> Tracer:
    """x1 · x2 over the product of their norms, each not below eps."""
    group = Operands(x1, x2).floating()
    a, b = (wrap(n, *[v for v in (x1, x2) if isinstance(v, Tracer)]) for n in group.nodes())
    a = div(a, maximum(vector_norm(a, 2, axis, keepdims=True), eps))
    b = div(b, maximum(vector_norm(b, 2, axis, keepdims=True), eps))
    return sum_(mul(a, b), axis)


def cosine_embedding_loss(
    x1: Value, x2: Value, target: Value, margin: float = 0.0, reduction: str = "mean"
) -> Tracer:
    x1, x2 = array(x1), array(x2)
    tiny = 1e-12
    product = sum_(mul(x1, x2), -1)
    squares = mul(add(sum_(square(x1), -1), tiny), add(sum_(square(x2), -1), tiny))
    cosine = div(product, sqrt(squares))
    alike = where(eq(target, 1), sub(1, cosine), 0.0)
    apart = where(eq(target, -1), clamp_min(sub(cosine, margin), 0), 0.0)
    return reduced(add(alike, apart), reduction)


def pairwise_distance(
    x1: Value, x2: Value, p: Any = 2.0, eps: float = 1e-6, keepdims: bool = False
) -> Tracer:
    return vector_norm(add(sub(x1, x2), eps), p, -1, keepdims)


def triplet_margin_loss(
    anchor: Value,
    positive: Value,
    negative: Value,
    margin: float = 1.0,
    p: Any = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tracer:
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = minimum(far, pairwise_distance(positive, negative, p, eps))
    return reduced(clamp_min(add(sub(near, far), margin), 0), reduction)


def multi_margin_loss(
    x: Value,
    target: Value,
    p: int = 1,
    margin: float = 1.0,
    weight: Value = None,
    reduction: str = "mean",
) -> Tracer:
    x, target = array(x), array(target)
    axis = x.ndim - 1
    _check_target(x, target, axis)
    own = unsqueeze(_picked(x, target, axis), axis)
    gap = clamp_min(add(sub(margin, own), x), 0)
    gap = gap if p == 1 else square(gap)
    if weight is not None:
        gap = mul(gap, unsqueeze(_picked(_class_weights(weight, x, axis), target, axis), axis))
    place = wrap(builder().iota(axis, x.node.shape), x)
    others = where(eq(place, cast(unsqueeze(target, axis), dtypes.int64)), 0.0, gap)
    return reduced(mean(others, axis), reduction)
