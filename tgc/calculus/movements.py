"""The transpose of each movement: where an element went, its cotangent comes back from."""

from __future__ import annotations

from collections.abc import Callable

from tgc.calculus.cotangents import Cotangent, moved, summed
from tgc.ir.build import Builder
from tgc.ir.nodes import Broadcast, Flip, Node, Pad, Permute, Reshape, Shape, Slice, View


def transposed(g: Builder, view: View, ct: Cotangent) -> Cotangent | None:
    """The cotangent of the operand of a View; None where nothing of it was used."""
    shape, movement = view.args[0].shape, view.movement
    if isinstance(movement, Broadcast):
        return _unbroadcast(g, shape, movement, ct)
    if isinstance(movement, Slice) and 0 in view.shape:
        return None
    return moved(ct, _inverse(g, shape, view))


def _unbroadcast(g: Builder, shape: Shape, movement: Broadcast, ct: Cotangent) -> Cotangent:
    """Sum over the axes that were added or stretched."""
    kept = {d for d, extent in zip(movement.dims, shape) if extent == movement.shape[d]}
    axes = tuple(d for d, extent in enumerate(movement.shape) if d not in kept and extent != 1)
    total = summed(g, ct, axes)
    return moved(total, lambda x: x if x.shape == shape else g.reshape(x, shape=shape))


def _inverse(g: Builder, shape: Shape, view: View) -> Callable[[Node], Node]:
    movement = view.movement
    if isinstance(movement, Permute):
        order = tuple(movement.order.index(k) for k in range(len(shape)))
        return lambda x: g.permute(x, order=order)
    if isinstance(movement, Reshape):
        return lambda x: g.reshape(x, shape=shape)
    if isinstance(movement, Flip):
        return lambda x: g.flip(x, axes=movement.axes)
    if isinstance(movement, Slice):
        return lambda x: _unslice(g, shape, movement, x)
    assert isinstance(movement, Pad)
    return lambda x: _unpad(g, shape, movement, x)


def _unslice(g: Builder, shape: Shape, movement: Slice, x: Node) -> Node:
    """Zeros where elements were dropped, between them for a step."""
    interior = tuple(s - 1 for s in movement.step)
    after = tuple(
        full - start - count - (count - 1) * gap if gap else full - start - count
        for full, start, count, gap in zip(shape, movement.start, x.shape, interior)
    )
    return g.pad(x, before=movement.start, after=after, interior=interior)


def _unpad(g: Builder, shape: Shape, movement: Pad, x: Node) -> Node:
    """The elements that were there before."""
    stop = tuple(
        before + n + (n - 1) * gap if gap else before + n
        for before, n, gap in zip(movement.before, shape, movement.interior)
    )
    return g.slice(
        x, start=movement.before, stop=stop, step=tuple(gap + 1 for gap in movement.interior)
    )
