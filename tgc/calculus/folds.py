"""Adjoints and tangents of folds.

Products use exclusive products, which are right with any number of zeros and for any order of derivative: the
quotient y / x is neither. They cost n**2 for n factors, so a product over a long axis is better written as the exp of
a sum of logs where its factors are positive.
"""

from __future__ import annotations

from tgc.calculus.cotangents import Cotangent, masked, moved, settled
from tgc.errors import DerivativeError
from tgc.ir.build import Builder
from tgc.ir.nodes import DIFFERENTIABLE_FOLDS, Fold, Node

HINT = "write it with sum, max, min, prod or cumsum"


def fold_adjoint(g: Builder, node: Fold, ct: Cotangent) -> Cotangent | None:
    """The cotangent of a fold's operand.

    Raises:
        DerivativeError: the fold has no derivative rule yet.
    """
    kind = _kind(node)
    x = node.args[0]
    if kind == "scan sum":
        flat = settled(g, ct)
        return Cotangent(
            g.fold("sum", flat.value, axes=node.axes, mode="scan", reverse=not node.reverse)
        )
    if kind == "sum":
        return moved(settled(g, ct), lambda t: spread(g, t, node))
    if kind == "prod":
        return Cotangent(_prod_adjoint(g, x, node.axes, settled(g, ct).value))
    hits = _hits(g, node)
    share = settled(g, ct)
    value = g.map("div", share.value, _count(g, node, hits))
    return masked(g, moved(Cotangent(value, known=share.known), lambda t: spread(g, t, node)), hits)


def fold_tangent(g: Builder, node: Fold, tangent: Node) -> Node:
    """The tangent of a fold's result.

    Raises:
        DerivativeError: the fold has no derivative rule yet.
    """
    kind = _kind(node)
    if kind in ("sum", "scan sum"):
        return g.fold("sum", tangent, axes=node.axes, mode=node.mode, reverse=node.reverse)
    if kind == "prod":
        return _prod_tangent(g, node.args[0], node.axes, tangent)
    hits = _hits(g, node)
    taken = g.map("where", hits, tangent, g.like(tangent, 0))
    return g.map("div", g.fold("sum", taken, axes=node.axes), _count(g, node, hits))


def _kind(node: Fold) -> str:
    if (node.mode, node.monoid) in DIFFERENTIABLE_FOLDS:
        return "scan sum" if node.mode == "scan" else str(node.monoid)
    name = node.monoid if isinstance(node.monoid, str) else node.monoid.name
    raise DerivativeError(f"no derivative of a {node.mode} by {name}", line=node.line, hint=HINT)


def spread(g: Builder, t: Node, node: Fold) -> Node:
    """A value per result of a reduce, at every operand that went into it."""
    shape = node.args[0].shape
    dims = tuple(k for k in range(len(shape)) if k not in node.axes)
    return g.broadcast(t, shape=shape, dims=dims)


def _hits(g: Builder, node: Fold) -> Node:
    """The elements equal to the maximum (or minimum); if it is NaN, the NaNs."""
    x = node.args[0]
    return g.map("or", g.map("eq", x, spread(g, node, node)), g.map("ne", x, x))


def _count(g: Builder, node: Fold, hits: Node) -> Node:
    """How many elements share the cotangent, as torch.amax shares it."""
    x = node.args[0]
    ones = g.map("where", hits, g.like(x, 1), g.like(x, 0))
    return g.fold("sum", ones, axes=node.axes)


def exclusive_products(g: Builder, x: Node, axis: int) -> Node:
    """For each element along `axis`, the product of the others: prod_j where(i == j, 1, x_j)."""
    others = tuple(k for k in range(x.ndim) if k != axis)
    shape = (*x.shape, x.shape[axis])
    pairs = g.broadcast(g.permute(x, order=(*others, axis)), shape=shape, dims=(*others, x.ndim))
    itself = g.map("eq", g.iota(axis, shape), g.iota(x.ndim, shape))
    return g.fold("prod", g.map("where", itself, g.like(pairs, 1), pairs), axes=(x.ndim,))


def _prod_adjoint(g: Builder, x: Node, axes: tuple[int, ...], t: Node) -> Node:
    """One axis at a time: the product over the last axis first."""
    inner = g.fold("prod", x, axes=axes[1:])
    # Dropping later axes leaves the first one where it is.
    axis = axes[0]
    t = g.map("mul", _insert(g, t, inner, axis), exclusive_products(g, inner, axis))
    return _prod_adjoint(g, x, axes[1:], t) if len(axes) > 1 else t


def _insert(g: Builder, t: Node, like: Node, axis: int) -> Node:
    dims = tuple(k for k in range(like.ndim) if k != axis)
    return g.broadcast(t, shape=like.shape, dims=dims)


def _prod_tangent(g: Builder, x: Node, axes: tuple[int, ...], tangent: Node) -> Node:
    for axis in reversed(axes):
        terms = g.map("mul", tangent, exclusive_products(g, x, axis))
        tangent = g.fold("sum", terms, axes=(axis,))
        x = g.fold("prod", x, axes=(axis,))
    return tangent
