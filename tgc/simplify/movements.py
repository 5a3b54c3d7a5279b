"""Algebra of movements: compositions join into one, and work moves to where there is less of it.

All of it is exact to the bit. A reshape that only adds axes of extent 1 is written as a broadcast, so that `keepdim`
and `unsqueeze` meet the broadcasts that follow them.
"""

from __future__ import annotations

from tgc.ir.nodes import (
    Broadcast,
    Const,
    Flip,
    Leaf,
    Map,
    Node,
    Pad,
    Permute,
    Reshape,
    Shape,
    Slice,
    View,
)
from tgc.ir.ops import OPS
from tgc.simplify.patterns import constant
from tgc.simplify.rewriter import Procedure, Rewriter


def inserted_units(source: Shape, target: Shape) -> tuple[int, ...] | None:
    """Where each axis of `source` lies in `target` if they differ only by extents of 1 in `target`, else None."""
    dims: list[int] = []
    place = 0
    for extent in source:
        while place < len(target) and target[place] != extent:
            if target[place] != 1:
                return None
            place += 1
        if place == len(target):
            return None
        dims.append(place)
        place += 1
    return tuple(dims) if all(extent == 1 for extent in target[place:]) else None


def _squeezed(shape: Shape) -> Shape:
    return tuple(extent for extent in shape if extent != 1)


def join_views(rewriter: Rewriter, node: Node) -> Node | None:
    """Two movements that are one."""
    assert isinstance(node, View)
    inner, outer = node.args[0], node.movement
    if not isinstance(inner, View):
        return None
    source, first = inner.args[0], inner.movement
    if isinstance(outer, Broadcast) and isinstance(first, Broadcast):
        return rewriter.view(
            source, Broadcast(outer.shape, tuple(outer.dims[d] for d in first.dims))
        )
    if isinstance(outer, Permute) and isinstance(first, Permute):
        return rewriter.view(source, Permute(tuple(first.order[i] for i in outer.order)))
    if isinstance(outer, Reshape) and (isinstance(first, Reshape) or _only_reshapes(inner)):
        return rewriter.view(source, outer)
    if isinstance(outer, Slice) and isinstance(first, Slice):
        return _join_slices(rewriter, source, first, outer)
    if isinstance(outer, Slice) and isinstance(first, Pad):
        return _undo_pad(source, first, outer)
    if isinstance(outer, Pad) and isinstance(first, Pad):
        return _join_pads(rewriter, source, first, outer)
    if isinstance(outer, Flip) and isinstance(first, Flip):
        axes = tuple(sorted(set(outer.axes) ^ set(first.axes)))
        return rewriter.view(source, Flip(axes)) if axes else source
    if isinstance(outer, Permute) and isinstance(first, Broadcast):
        return _permute_broadcast(rewriter, source, first, outer)
    return None


def _only_reshapes(view: Node) -> bool:
    """A broadcast that only inserts axes of extent 1: it is a reshape in disguise."""
    assert isinstance(view, View)
    return isinstance(view.movement, Broadcast) and _squeezed(view.shape) == _squeezed(
        view.args[0].shape
    )


def _join_slices(rewriter: Rewriter, source: Node, first: Slice, outer: Slice) -> Node | None:
    if any(step != 1 for step in first.step):
        return None
    start = tuple(a + b for a, b in zip(first.start, outer.start, strict=True))
    stop = tuple(a + b for a, b in zip(first.start, outer.stop, strict=True))
    return rewriter.view(source, Slice(start, stop, outer.step))


def _undo_pad(source: Node, pad: Pad, cut: Slice) -> Node | None:
    """The slice takes back exactly what was padded."""
    if cut.start != pad.before or cut.step != tuple(i + 1 for i in pad.interior):
        return None
    inner = zip(source.shape, pad.before, pad.interior, cut.stop, strict=True)
    exact = all(
        stop == before + extent + (extent - 1) * i if i else stop == before + extent
        for extent, before, i, stop in inner
    )
    return source if exact else None


def _join_pads(rewriter: Rewriter, source: Node, first: Pad, outer: Pad) -> Node | None:
    if any(outer.interior):
        return None
    before = tuple(a + b for a, b in zip(first.before, outer.before, strict=True))
    after = tuple(a + b for a, b in zip(first.after, outer.after, strict=True))
    return rewriter.view(source, Pad(before, after, first.interior))


def _permute_broadcast(
    rewriter: Rewriter, source: Node, first: Broadcast, outer: Permute
) -> Node | None:
    """A permutation that keeps the order of the source's axes only chooses other axes to broadcast to."""
    place = {axis: i for i, axis in enumerate(outer.order)}
    dims = tuple(place[d] for d in first.dims)
    if dims != tuple(sorted(dims)):
        return None
    return rewriter.view(source, Broadcast(tuple(first.shape[i] for i in outer.order), dims))


def units_as_broadcast(rewriter: Rewriter, node: Node) -> Node | None:
    """A reshape or permutation that only inserts or moves axes of extent 1."""
    assert isinstance(node, View)
    source = node.args[0]
    if isinstance(node.movement, Permute):
        kept = [i for i in node.movement.order if source.shape[i] != 1]
        return rewriter.view(source, Reshape(node.shape)) if kept == sorted(kept) else None
    if not isinstance(node.movement, Reshape):
        return None
    dims = inserted_units(source.shape, node.shape)
    return None if dims is None else rewriter.view(source, Broadcast(node.shape, dims))


def pad_of_zero(rewriter: Rewriter, node: Node) -> Node | None:
    """Zeros around zeros."""
    assert isinstance(node, View)
    value = constant(node.args[0])
    if not isinstance(node.movement, Pad) or value is None or value or str(value) == "-0.0":
        return None
    return rewriter.like(node, 0)


def repeats(node: Node) -> frozenset[int]:
    """The axes along which a broadcast value only repeats; none for any other value."""
    if not isinstance(node, View) or not isinstance(node.movement, Broadcast):
        return frozenset()
    movement, source = node.movement, node.args[0]
    varying = {d for d, extent in zip(movement.dims, source.shape) if extent == movement.shape[d]}
    return frozenset(range(node.ndim)) - varying


def narrowed(rewriter: Rewriter, node: Node, axes: frozenset[int]) -> Node:
    """A broadcast value or constant without some of the axes along which it repeats."""
    shape = tuple(extent for i, extent in enumerate(node.shape) if i not in axes)
    if isinstance(node, Leaf):
        assert isinstance(node.source, Const)
        return rewriter.graph.builder.const(node.source.value, node.dtype, shape)
    assert isinstance(node, View) and isinstance(node.movement, Broadcast)
    source, dims = node.args[0], node.movement.dims
    kept = [k for k, d in enumerate(dims) if d not in axes]
    rest = [i for i in range(node.ndim) if i not in axes]
    small = rewriter.view(source, Reshape(tuple(source.shape[k] for k in kept)))
    return rewriter.view(small, Broadcast(shape, tuple(rest.index(dims[k]) for k in kept)))


def map_before_broadcast(rewriter: Rewriter, node: Node) -> Node | None:
    """An operation on values that repeat along the same axes is done once, before they are repeated."""
    assert isinstance(node, Map)
    moving = [a for a in node.args if not (isinstance(a, Leaf) and isinstance(a.source, Const))]
    if not moving:
        return None
    common = frozenset.intersection(*(repeats(a) for a in moving))
    if not common:
        return None
    args = [narrowed(rewriter, a, common) for a in node.args]
    small = rewriter.map(node.op, *args, dtype=node.dtype if node.op == "cast" else None)
    rest = tuple(i for i in range(node.ndim) if i not in common)
    return rewriter.view(small, Broadcast(node.shape, rest))


PROCEDURES: tuple[Procedure, ...] = (
    Procedure("view of view", ("View",), "bits", join_views),
    Procedure("unit axes", ("View",), "bits", units_as_broadcast),
    Procedure("pad of zero", ("View",), "bits", pad_of_zero),
    Procedure("map before broadcast", tuple(OPS), "bits", map_before_broadcast),
)
