"""Algebra of folds: what a reduction of a constant or of a repeated value is (for products see factors.py).

The order of a sum is the backend's choice, so these are exact up to rounding.
"""

from __future__ import annotations

import math

from tgc.ir.nodes import Broadcast, Const, Fold, Iota, Leaf, Map, Node, Reshape, View
from tgc.ir.sizes import Dim, product
from tgc.simplify.movements import narrowed, repeats
from tgc.simplify.patterns import constant
from tgc.simplify.rewriter import Procedure, Rewriter

IDEMPOTENT = ("max", "min", "any", "all")


def is_positive(extent: Dim) -> bool:
    """Known to be at least 1: a positive number, or a product of size symbols (which are positive)."""
    if isinstance(extent, int):
        return extent >= 1
    if len(extent.terms) != 1:
        return False
    monomial, coefficient = extent.terms[0]
    return coefficient > 0 and all(isinstance(atom, str) for atom in monomial)


def _basic_reduce(node: Node) -> Fold | None:
    if not isinstance(node, Fold) or node.mode != "reduce" or not isinstance(node.monoid, str):
        return None
    return None if node.monoid in ("any", "all") and node.dtype.kind != "bool" else node


def _without(shape: tuple[Dim, ...], axes: set[int]) -> tuple[Dim, ...]:
    return tuple(extent for i, extent in enumerate(shape) if i not in axes)


def fold_of_units(rewriter: Rewriter, node: Node) -> Node | None:
    """Axes of extent 1 need no folding."""
    fold = _basic_reduce(node)
    if fold is None:
        return None
    x = fold.args[0]
    units = {a for a in fold.axes if x.shape[a] == 1}
    if not units:
        return None
    kept = [i for i in range(x.ndim) if i not in units]
    small = rewriter.view(x, Reshape(_without(x.shape, units)))
    axes = tuple(kept.index(a) for a in fold.axes if a not in units)
    return rewriter.fold(fold, small, axes) if axes else small


def fold_of_constant(rewriter: Rewriter, node: Node) -> Node | None:
    """The sum of n equal constants is n times one; their maximum is one of them."""
    fold = _basic_reduce(node)
    value = None if fold is None else constant(fold.args[0])
    if fold is None or value is None:
        return None
    extent = product([fold.args[0].shape[a] for a in fold.axes])
    if fold.monoid in IDEMPOTENT and is_positive(extent):
        return rewriter.like(node, value)
    if fold.monoid == "prod" and value == 1:
        return rewriter.like(node, 1)
    if fold.monoid != "sum" or node.dtype.kind == "bool":
        return None
    if value == 0 or extent == 0:
        return rewriter.like(node, 0)
    if not math.isfinite(value) and not is_positive(extent):
        return None
    return _times(rewriter, rewriter.like(node, value), extent)


def _times(rewriter: Rewriter, x: Node, extent: Dim) -> Node:
    return rewriter.map("mul", rewriter.like(x, extent), x)  # type: ignore[arg-type]


def fold_of_broadcast(rewriter: Rewriter, node: Node) -> Node | None:
    """Along axes where a value only repeats, a sum is a multiple and a maximum is the value."""
    fold = _basic_reduce(node)
    if fold is None or fold.monoid == "prod":
        return None
    view = fold.args[0]
    repeated = repeats(view) & frozenset(fold.axes)
    extent = product([view.shape[a] for a in repeated])
    if not repeated or not is_positive(extent):
        return None
    rest = [i for i in range(view.ndim) if i not in repeated]
    small = narrowed(rewriter, view, repeated)
    axes = tuple(rest.index(a) for a in fold.axes if a not in repeated)
    if axes:
        small = rewriter.fold(fold, small, axes)
    return small if fold.monoid in IDEMPOTENT else _times(rewriter, small, extent)


def fold_before_broadcast(rewriter: Rewriter, node: Node) -> Node | None:
    """A fold of values that repeat along an axis it keeps is done once, before they are repeated."""
    fold = _basic_reduce(node)
    if fold is None:
        return None
    view = fold.args[0]
    repeated = repeats(view) - frozenset(fold.axes)
    if not repeated:
        return None
    rest = [i for i in range(view.ndim) if i not in repeated]
    small = rewriter.fold(
        fold, narrowed(rewriter, view, repeated), tuple(rest.index(a) for a in fold.axes)
    )
    kept = [i for i in range(view.ndim) if i not in fold.axes]
    return rewriter.view(
        small, Broadcast(node.shape, tuple(kept.index(i) for i in kept if i not in repeated))
    )


def along_others(rewriter: Rewriter, node: Node, axes: tuple[int, ...]) -> Node | None:
    """A constant, or a value that only repeats along `axes`, without them; None for other values.

    None too where it repeats no time at all: the sum it is to leave is 0, and it may be NaN.
    """
    if any(node.shape[a] == 0 for a in axes):
        return None
    shape = _without(node.shape, set(axes))
    if isinstance(node, Leaf) and isinstance(node.source, Const):
        return rewriter.graph.builder.const(node.source.value, node.dtype, shape)
    if not isinstance(node, View) or not isinstance(node.movement, Broadcast):
        return None
    source, dims = node.args[0], node.movement.dims
    if any(d in axes and source.shape[k] == node.shape[d] for k, d in enumerate(dims)):
        return None
    kept = [(k, d) for k, d in enumerate(dims) if d not in axes]
    small = rewriter.view(source, Reshape(tuple(source.shape[k] for k, _ in kept)))
    places = tuple(d - sum(a < d for a in axes) for _, d in kept)
    return rewriter.view(small, Broadcast(shape, places))


def fold_of_one_hot(rewriter: Rewriter, node: Node) -> Node | None:
    """Where one index a row is compared with all, some agree if it is in range, and a sum has one term."""
    fold = _basic_reduce(node)
    if fold is None or len(fold.axes) != 1 or not isinstance(fold.args[0], Map):
        return None
    x = fold.args[0]
    if fold.monoid == "any":
        return _in_range(rewriter, x, fold.axes[0])
    if fold.monoid != "sum" or x.op != "where" or constant(x.args[2]) != 0:
        return None
    value = along_others(rewriter, x.args[1], fold.axes)
    mask = None if value is None else _in_range(rewriter, x.args[0], fold.axes[0])
    if value is None or mask is None:
        return None
    return rewriter.map("where", mask, value, rewriter.like(value, 0))


def _in_range(rewriter: Rewriter, mask: Node, axis: int) -> Node | None:
    """0 <= index < extent where `mask` is iota == index, with one index for all of `axis`."""
    if not isinstance(mask, Map) or mask.op != "eq":
        return None
    for iota, index in (mask.args, mask.args[::-1]):
        if not isinstance(iota, Leaf) or iota.source != Iota(axis):
            continue
        row = along_others(rewriter, index, (axis,))
        if row is None:
            return None
        extent = rewriter.like(row, mask.shape[axis])  # type: ignore[arg-type]
        low = rewriter.map("ge", row, rewriter.like(row, 0))
        return rewriter.map("and", low, rewriter.map("lt", row, extent))
    return None


def fold_of_centred(rewriter: Rewriter, node: Node) -> Node | None:
    """Values less their mean add up to nothing: `sum(a - b * (x - mean(x)))` is `sum(a)` for any `b` along the sum.

    Derivatives of variances and norms are full of these, and each would be another pass over the data. NaN and
    infinities of `x` stay, as 0 * mean(x).
    """
    fold = _basic_reduce(node)
    if fold is None or fold.monoid != "sum" or not node.dtype.is_float:
        return None
    x = fold.args[0]
    nothing = _nothing(rewriter, x, fold.axes)
    if nothing is not None or not isinstance(x, Map) or x.op not in ("add", "sub"):
        return nothing
    for k, part in enumerate(x.args):
        nothing = _nothing(rewriter, part, fold.axes)
        if nothing is not None:
            rest = rewriter.fold(fold, x.args[1 - k])
            return rewriter.map(x.op, *((nothing, rest) if k == 0 else (rest, nothing)))
    return None


def _nothing(rewriter: Rewriter, x: Node, axes: tuple[int, ...]) -> Node | None:
    """0, or NaN, if `x` is a difference from a mean over `axes`, scaled by what repeats along them; else None."""
    if not isinstance(x, Map):
        return None
    if x.op in ("mul", "div"):
        for k in (1, 0) if x.op == "mul" else (1,):
            scale = along_others(rewriter, x.args[k], axes)
            inner = None if scale is None else _nothing(rewriter, x.args[1 - k], axes)
            if scale is not None and inner is not None:
                return rewriter.map(x.op, inner, scale)
    mean = along_others(rewriter, x.args[1], axes) if x.op == "sub" else None
    if mean is None or not isinstance(mean, Map) or mean.op != "div":
        return None
    total, count = mean.args
    extent = product([x.shape[a] for a in axes])
    if (
        isinstance(total, Fold)
        and (total.monoid, total.axes, total.args[0]) == ("sum", axes, x.args[0])
        and isinstance(count, Leaf)
        and isinstance(count.source, Const)
        and count.source.value == extent
    ):
        return rewriter.map("mul", rewriter.like(mean, 0), mean)
    return None


PROCEDURES: tuple[Procedure, ...] = (
    Procedure("fold of unit axes", ("Fold",), "rounding", fold_of_units),
    Procedure("fold of constant", ("Fold",), "rounding", fold_of_constant),
    Procedure("fold of repeated values", ("Fold",), "rounding", fold_of_broadcast),
    Procedure("fold before broadcast", ("Fold",), "bits", fold_before_broadcast),
    Procedure("sum of centred values", ("Fold",), "regroup", fold_of_centred),
    Procedure("fold of one index", ("Fold",), "regroup", fold_of_one_hot),
)
