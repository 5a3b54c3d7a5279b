"""Writing in place while tracing.

A write gives the written tracer a new node; views of one memory are rewritten together, so that each sees what was
written through another. A write into an argument or a captured array is refused: only donated arguments are
overwritten, by results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tgc.errors import MutationError
from tgc.ir import dtypes
from tgc.ir.nodes import Broadcast, Flip, Input, Leaf, Movement, Node, Permute, Reshape, Slice
from tgc.trace.core import (
    Value,
    array,
    broadcast_shape,
    builder,
    cast,
    fitted,
    is_made_here,
    normal_axis,
    scalar_of,
    show_shape,
    stretch,
    unsupported,
    wrap,
)
from tgc.trace.create import clone, full_like, needs_gradient
from tgc.trace.elementwise import where
from tgc.trace.indexing import FULL, getitem
from tgc.trace.movement import unsqueeze
from tgc.trace.state import current, shape_error
from tgc.trace.tracer import Tracer


def update(function: Callable[..., Any]) -> Callable[..., Any]:
    """The in-place form of an operation: its result replaces the value of its first operand."""

    def inplace(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Tracer) or x.container == "scalar":
            return function(x, *args, **kwargs)
        if x.container == "numpy" and x.ndim == 0 and not isinstance(x.node, Leaf):
            return function(x, *args, **kwargs)  # a numpy scalar: += makes another
        return assign(x, function(x, *args, **kwargs))

    return inplace


def assign(x: Tracer, value: Tracer) -> Tracer:
    """x[...] = value, in x's type; the result must have x's shape."""
    if value is x:
        return x
    check_argument(x)
    if value.kind.is_float and not x.kind.is_float:
        raise MutationError(
            f"result type {value.kind.name} can't be cast to the desired output type {x.kind.name}",
            line=current().error_line(),
            hint="write x = x + y instead of x += y",
        )
    if broadcast_shape([value.node.shape, x.node.shape]) != x.node.shape:
        raise shape_error(
            f"output with shape {show_shape(x.node.shape)} doesn't match the broadcast shape "
            f"{show_shape(value.node.shape)}"
        )
    write(x, stretch(cast(value, x.kind).node, x.node.shape))
    return x


def setitem(x: Tracer, index: Any, value: Any) -> None:
    """x[index] = value, for a basic index or a mask."""
    check_argument(x)
    if isinstance(index, Tracer) and index.kind is dtypes.bool_:
        write(x, _masked(x, index, value).node)
        return
    region = getitem(x, index)
    write(region, _fitted(x, region, value))


def _masked(x: Tracer, mask: Tracer, value: Value) -> Tracer:
    if isinstance(value, Tracer) and value.ndim:
        raise unsupported(
            "x[mask] = values: their number depends on data", hint="write tgc.where(mask, a, b)"
        )
    for _ in range(x.ndim - mask.ndim):
        mask = unsqueeze(mask, -1)
    return where(mask, _converted(value, x), x)


def _fitted(x: Tracer, region: Tracer, value: Value) -> Node:
    """A value converted and broadcast to the region it is written into."""
    value = _converted(value, x)
    shape = region.node.shape
    if value.ndim > region.ndim:
        cut = value.node.shape[value.ndim - region.ndim :]
        value = wrap(builder().reshape(value.node, shape=cut), x)
    if broadcast_shape([value.node.shape, shape]) != shape:
        raise shape_error(
            f"cannot write shape {show_shape(value.node.shape)} into {show_shape(shape)}"
        )
    return stretch(value.node, shape)


def _converted(value: Value, x: Tracer) -> Tracer:
    if isinstance(value, Tracer):
        return cast(value, x.kind)
    return wrap(builder().const(fitted(scalar_of(value), x.kind), x.kind), x)


# --- memory ---------------------------------------------------------------------------------------


def check_argument(x: Tracer) -> None:
    """Raise MutationError where the memory of `x` belongs to the caller."""
    root = x if x.base is None else x.base
    if not is_made_here(root):
        assert isinstance(root.node, Leaf) and isinstance(root.node.source, Input)
        name = root.node.source.name
        raise MutationError(
            f"the function writes into its argument or captured array `{name}`",
            line=current().error_line(),
            hint=f"work on a copy ({name}.clone() or {name} * 1) and return it",
        )


def write(x: Tracer, value: Node) -> None:
    """Give the memory of `x` a new value: it, its base and all living views of that see it."""
    root = x if x.base is None else x.base
    views = [v for ref in root.views if (v := ref()) is not None]
    for view in (x, *views):
        if view.path is None or any(isinstance(m, Broadcast) for m in view.path):
            raise MutationError(
                "a write into memory that a detached or broadcast array shares",
                line=current().error_line(),
                hint="copy with x.clone() first",
            )
    assert x.path is not None
    after = written(root.node, x.path, value)
    root.node, root.fresh = _as_wanted(root.node, after) if x.container == "torch" else after, True
    for view in views:
        node = root.node
        for movement in view.path or ():
            node = builder().view(node, movement)
        view.node = node


def _as_wanted(before: Node, after: Node) -> Node:
    """`after`, of which torch wants a gradient if it wanted one of what was there before."""
    if not before.dtype.is_float or not needs_gradient((before,))[0] or needs_gradient((after,))[0]:
        return after
    b = builder()
    return b.map("where", b.const(True, dtypes.bool_, after.shape), after, before)


def written(base: Node, path: tuple[Movement, ...], value: Node) -> Node:
    """`base` with `value` at the end of a path of movements: each undone, the last one first."""
    b = builder()
    inner = [base]
    for movement in path[:-1]:
        inner.append(b.view(inner[-1], movement))
    for movement, before in zip(reversed(path), reversed(inner)):
        if isinstance(movement, Reshape):
            value = b.reshape(value, shape=before.shape)
        elif isinstance(movement, Permute):
            value = b.permute(value, order=tuple(map(movement.order.index, range(before.ndim))))
        elif isinstance(movement, Flip):
            value = b.flip(value, axes=movement.axes)
        else:
            assert isinstance(movement, Slice), movement
            value = _replaced(before, movement, value)
    return value


def _replaced(before: Node, movement: Slice, value: Node) -> Node:
    """`before` with `value` in a slice: a selection between it and a pad of the value."""
    if 0 in value.shape:
        return before
    b = builder()
    last = tuple(s + (c - 1) * k + 1 for s, c, k in zip(movement.start, value.shape, movement.step))
    after = tuple(d - e for d, e in zip(before.shape, last))
    interior = tuple(k - 1 for k in movement.step)
    padded = b.pad(value, before=movement.start, after=after, interior=interior)
    true = b.const(True, dtypes.bool_, value.shape)
    mask = b.pad(true, before=movement.start, after=after, interior=interior)
    return b.map("where", mask, padded, before)


# --- named writes ---------------------------------------------------------------------------------


def copy(x: Tracer, source: Any) -> Tracer:
    """torch's copy_: the source converted to x's type and broadcast."""
    return assign(x, cast(array(source), x.kind))


def fill(x: Tracer, value: Any) -> Tracer:
    """torch's fill_."""
    return assign(x, full_like(x, value))


def zero(x: Tracer) -> Tracer:
    """torch's zero_."""
    return fill(x, 0)


def select_scatter(x: Value, src: Value, axis: Any, index: Any) -> Tracer:
    """`x` with `src` at one position of an axis."""
    return _with_region(x, (FULL,) * normal_axis(axis, array(x).ndim) + (index,), src)


def slice_scatter(
    x: Value, src: Value, axis: Any = 0, start: Any = None, end: Any = None, step: Any = 1
) -> Tracer:
    """`x` with `src` in a slice of an axis."""
    place = (FULL,) * normal_axis(axis, array(x).ndim) + (slice(start, end, step),)
    return _with_region(x, place, src)


def _with_region(x: Value, index: Any, value: Value) -> Tracer:
    out = clone(x)
    setitem(out, index, value)
    return out
