"""A cotangent on its way down, and the masks it has met.

The adjoint of `where(c, x, 0)` must be zero wherever c is false, whatever the derivative of x is there: an infinite
derivative of an untaken branch times zero is NaN. So a mask met on the way is not multiplied in at once. It stays
`pending` while derivatives are multiplied below it, and is applied outermost, at the last moment: before a sum, at
an accumulation, or at the input. Below a sum, where no branch above was taken, a derivative that may be infinite
brings the mask back: the masks of `where` are remembered for that (not those of ties and clamps, so that
relu(layer_norm(x)) pays nothing).

Masks are `where` nodes of the gradient's own graph, so the gradient of a gradient treats them likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.nodes import Const, Leaf, Map, Node
from tgc.ir.sizes import Size


class LazyMask:
    """A bool node that is built only if something needs it."""

    def __init__(self, make: Callable[[], Node]) -> None:
        self._make = make

    @cached_property
    def node(self) -> Node:
        return self._make()


@dataclass(frozen=True)
class Cotangent:
    """A value and the masks around it.

    Attributes:
        value: to be taken where `pending` holds; anything elsewhere.
        branch: the part of `pending` that says which branch of a `where` was taken.
        known: a branch mask applied before a sum: the value is zero outside it.
    """

    value: Node
    pending: Node | None = None
    branch: LazyMask | None = None
    known: LazyMask | None = None


def masked(g: Builder, ct: Cotangent, mask: Node) -> Cotangent:
    """The cotangent where `mask` holds, zero elsewhere: a tie, a clamp, an index that was hit."""
    pending = mask if ct.pending is None else both(g, ct.pending, mask)
    return Cotangent(ct.value, pending, ct.branch, ct.known)


def taken(g: Builder, ct: Cotangent, mask: Node) -> Cotangent:
    """The cotangent of a branch of `where` that is taken where `mask` holds."""
    ct = masked(g, ct, mask)
    return Cotangent(ct.value, ct.pending, meet(g, ct.branch, LazyMask(lambda: mask)), ct.known)


def settle(g: Builder, ct: Cotangent) -> Node:
    """The value with its pending mask applied."""
    if ct.pending is None:
        return ct.value
    return select(g, ct.pending, ct.value, g.like(ct.value, 0))


def settled(g: Builder, ct: Cotangent) -> Cotangent:
    """The same cotangent with nothing pending."""
    if ct.pending is None:
        return ct
    return Cotangent(settle(g, ct), known=meet(g, ct.known, ct.branch))


def moved(ct: Cotangent, move: Callable[[Node], Node]) -> Cotangent:
    """The cotangent and its masks through a movement."""

    def later(mask: LazyMask | None) -> LazyMask | None:
        return None if mask is None else LazyMask(lambda: move(mask.node))

    pending = None if ct.pending is None else move(ct.pending)
    return Cotangent(move(ct.value), pending, later(ct.branch), later(ct.known))


def summed(g: Builder, ct: Cotangent, axes: tuple[int, ...]) -> Cotangent:
    """The sum over axes. Where no summand was taken, neither is the sum."""
    if not axes:
        return ct
    flat = settled(g, ct)
    known = flat.known
    mask = None if known is None else LazyMask(lambda: g.fold("any", known.node, axes=axes))
    return Cotangent(g.fold("sum", flat.value, axes=axes), known=mask)


def accumulate(g: Builder, a: Cotangent, b: Cotangent) -> Cotangent:
    """The sum of two cotangents of one value; the two branches of one `where` are a selection instead."""
    if a.pending is not None and b.pending is not None and a.known is None and b.known is None:
        if negation(g, a.pending) is b.pending:
            return Cotangent(select(g, a.pending, a.value, b.value))
    x, y = settled(g, a), settled(g, b)
    known = None
    if x.known is not None and y.known is not None:
        p, q = x.known, y.known
        known = LazyMask(lambda: g.map("or", p.node, q.node))
    return Cotangent(g.map("add", x.value, y.value), known=known)


def meet(g: Builder, a: LazyMask | None, b: LazyMask | None) -> LazyMask | None:
    """Where both masks hold; None holds everywhere."""
    if a is None or b is None:
        return a or b
    return LazyMask(lambda: both(g, a.node, b.node))


# --- multiplying by a partial ---------------------------------------------------------------------------------------


def scaled(g: Builder, ct: Cotangent, partial: Node, *, finite: bool) -> Cotangent | None:
    """The cotangent times a partial; the masks of the partial join those of the cotangent.

    Args:
        finite: the partial is finite wherever the operands are, so that a zero cotangent stays zero.
    """
    if is_const(partial, 0):
        return None
    if not finite and ct.known is not None:
        ct = _reapplied(g, ct, ct.known)
    if isinstance(partial, Map) and partial.op == "where":
        mask, yes, no = partial.args
        if is_const(no, 0):
            return scaled(g, masked(g, ct, mask), yes, finite=True)
        if is_const(yes, 0):
            return scaled(g, masked(g, ct, negation(g, mask)), no, finite=True)
        if is_const(yes) or is_const(no):
            value = select(g, mask, times(g, ct.value, yes), times(g, ct.value, no))
            return replace(ct, value=value)
    return replace(ct, value=times(g, ct.value, partial))


def composed(g: Builder, ct: Cotangent, factor: Cotangent, *, finite: bool) -> Cotangent:
    """The cotangent times a derivative that has masks of its own; `finite` as in `scaled`."""
    if not finite and ct.known is not None:
        ct = _reapplied(g, ct, ct.known)
    value = times(g, ct.value, factor.value)
    pending = ct.pending
    if factor.pending is not None:
        pending = factor.pending if pending is None else both(g, pending, factor.pending)
    branch, known = meet(g, ct.branch, factor.branch), meet(g, ct.known, factor.known)
    return Cotangent(value, pending, branch, known)


def _reapplied(g: Builder, ct: Cotangent, known: LazyMask) -> Cotangent:
    """The mask from above a sum, pending once more."""
    pending = known.node if ct.pending is None else both(g, ct.pending, known.node)
    return Cotangent(ct.value, pending, meet(g, ct.branch, known))


def times(g: Builder, t: Node, partial: Node) -> Node:
    """t * partial, without products by 1 and with one division for a quotient of 1."""
    if is_const(partial, 1) or is_const(t, 0):
        return t
    if is_const(t, 1):
        return partial
    if is_const(partial, -1):
        return g.map("neg", t)
    if isinstance(partial, Map):
        first = partial.args[0]
        if partial.op == "neg":
            return g.map("neg", times(g, t, first))
        if partial.op == "div" and is_const(first):
            return g.map("div", times(g, t, first), partial.args[1])
    return g.map("mul", t, partial)


# --- small nodes ----------------------------------------------------------------------------------------------------


def is_const(node: Node, value: float | None = None) -> bool:
    """Whether a node is a constant number (and equals `value`)."""
    if not isinstance(node, Leaf) or not isinstance(node.source, Const):
        return False
    if value is None:
        return True
    return not isinstance(node.source.value, Size) and node.source.value == value


def both(g: Builder, a: Node, b: Node) -> Node:
    """a and b."""
    return a if a is b else g.map("and", a, b)


def negation(g: Builder, mask: Node) -> Node:
    """not mask, without a double negation."""
    if isinstance(mask, Map) and mask.op == "not":
        return mask.args[0]
    return g.map("not", mask)


def select(g: Builder, mask: Node, yes: Node, no: Node) -> Node:
    """where(mask, yes, no); a negated mask swaps the branches."""
    assert mask.dtype is dtypes.bool_
    if isinstance(mask, Map) and mask.op == "not":
        return g.map("where", mask.args[0], no, yes)
    return g.map("where", mask, yes, no)
