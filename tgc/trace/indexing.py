"""Indexing: integers, slices, None and ellipsis; gathers with one index per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgc.errors import DTypeError, TraceError
from tgc.ir import dtypes
from tgc.ir.sizes import Dim
from tgc.trace.core import (
    Value,
    array,
    broadcast_shape,
    builder,
    cast,
    full_like,
    normal_axis,
    show_shape,
    stretch,
    unsupported,
    wrap,
)
from tgc.trace.elementwise import add, eq, lt, where
from tgc.trace.movement import (
    UNROLL_LIMIT,
    chunk,
    flatten,
    flip,
    narrow,
    select,
    slice_axis,
    unbind,
    unsqueeze,
)
from tgc.trace.state import current, shape_error
from tgc.trace.symbolic import dim_of, is_size, symbolic
from tgc.trace.tracer import Tracer

FULL = slice(None)
ARRAY_HINT = "gather with torch.gather, take_along_dim or take_along_axis; select with tgc.where"


# --- basic indexing -------------------------------------------------------------------------------------------------


def getitem(x: Value, index: Any) -> Tracer:
    """x[index] for integers, slices, None and an ellipsis."""
    x = array(x)
    out, axis = x, 0
    for item in _completed(index, x.ndim):
        if item is None:
            out, axis = unsqueeze(out, axis), axis + 1
        elif isinstance(item, slice):
            out, axis = _sliced(out, axis, item), axis + 1
        else:
            out = select(out, axis, item)
    return out


def _completed(index: Any, ndim: int) -> list[Any]:
    """The items of an index, with the ellipsis and the missing axes spelt out."""
    items = list(index) if isinstance(index, tuple) else [index]
    for item in items:
        _check_item(item)
    used = sum(item is not None and item is not Ellipsis for item in items)
    if used > ndim:
        raise shape_error(f"too many indices for tensor of dimension {ndim}")
    ellipses = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(ellipses) > 1:
        raise shape_error("an index can only have a single ellipsis")
    place = ellipses[0] if ellipses else len(items)
    return items[:place] + [FULL] * (ndim - used) + items[place + 1 :]


def _check_item(item: Any) -> None:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return
    if isinstance(item, Tracer):
        if item.kind is dtypes.bool_:
            raise unsupported(
                "an index by a mask: the result's shape depends on data",
                hint="write tgc.where(mask, x, 0)",
            )
        raise unsupported("an index by an array", hint=ARRAY_HINT)
    if isinstance(item, bool) or not (is_size(item) or hasattr(item, "__index__")):
        raise unsupported(f"an index of type {type(item).__name__}", hint=ARRAY_HINT)


def _sliced(x: Tracer, axis: int, item: slice) -> Tracer:
    if item == FULL:
        return x
    step = 1 if item.step is None else int(item.step)
    if step == 0:
        raise shape_error("slice step must not be zero")
    extent = x.node.shape[axis]
    if step > 0:
        start = _bound(item.start, 0, extent)
        stop = _bound(item.stop, extent, extent)
        if current().sizes.decide(stop, "<", start):
            stop = start
        return slice_axis(x, axis, start, stop, step)
    if x.container == "torch":
        raise shape_error(
            "step must be greater than zero", hint="torch.flip(x, [axis]) reverses an axis"
        )
    return _reversed(x, axis, item, -step, extent)


def _reversed(x: Tracer, axis: int, item: slice, step: int, extent: Dim) -> Tracer:
    """A slice with a negative step, as numpy has it: the same elements forwards, then flipped."""
    sizes = current().sizes
    start = _bound(item.start, extent - 1, extent, -1)
    stop = _bound(item.stop, -1, extent, -1)
    if sizes.decide(start, "<=", stop):
        return slice_axis(x, axis, 0, 0)
    count = (start - stop + step - 1) // step
    low = start - (count - 1) * step
    return flip(slice_axis(x, axis, low, start + 1, step), axis)


def _bound(value: Any, missing: Dim, extent: Dim, first: int = 0) -> Dim:
    """A slice bound counted from the front and clamped to the places from `first` on, one more than elements."""
    if value is None:
        return missing
    bound, sizes = dim_of(value), current().sizes
    if sizes.decide(bound, "<", 0):
        bound = bound + extent
        return first if sizes.decide(bound, "<", 0) else bound
    return bound if sizes.decide(bound, "<=", extent + first) else extent + first


def iterate(x: Tracer) -> tuple[Tracer, ...]:
    """The positions of the first axis, if its extent is a number."""
    extent = x.node.shape[0] if x.ndim else 1
    sizes = current().sizes
    if not isinstance(extent, int) and sizes.hint(extent) > UNROLL_LIMIT:
        raise TraceError(
            f"iteration over an axis of symbolic extent {extent}",
            line=current().error_line(),
            hint="operate on the whole axis, or iterate over range(x.shape[0]) to unroll for this size",
        )
    return unbind(x, 0)


# --- gathers --------------------------------------------------------------------------------------------------------


def gather(x: Value, axis: Any, index: Value) -> Tracer:
    """torch's gather: out[i, j] = x[index[i, j], j] for axis 0; the index may be smaller than x elsewhere."""
    x, index = array(x), array(index)
    _check_index(index)
    if x.ndim == 0 and index.ndim == 0:
        return x
    if x.ndim != index.ndim:
        raise shape_error("Index tensor must have the same number of dimensions as input tensor")
    axis = normal_axis(axis, x.ndim)
    for i in range(x.ndim):
        have, want = x.node.shape[i], index.node.shape[i]
        if i != axis and have != want and not _prefix(have, want):
            raise shape_error(
                f"Size does not match at dimension {i} expected index {show_shape(index.node.shape)} to be no larger "
                f"than self {show_shape(x.node.shape)} apart from dimension {axis}"
            )
        if i != axis and have != want:
            x = slice_axis(x, i, 0, want)
    return wrap(builder().take(x.node, index.node, axis=axis), x, index)


def _prefix(have: Dim, want: Dim) -> bool:
    """Whether `want` elements are there; sizes equal at this call restart as equal."""
    sizes = current().sizes
    if sizes.hint(have) == sizes.hint(want):
        return sizes.same(have, want)
    return sizes.decide(want, "<=", have)


def _check_index(index: Tracer) -> None:
    if index.kind.kind not in ("int", "uint"):
        raise DTypeError(
            f"an index must be of integers, not {index.kind.name}",
            line=current().error_line(),
            hint="x.long()",
        )


def take_along(x: Value, index: Value, axis: Any = None) -> Tracer:
    """Gather with broadcasting over the other axes; negative positions count from the end."""
    x, index = array(x), array(index)
    _check_index(index)
    if axis is None:
        x, index, axis = flatten(x), flatten(index), 0
    if x.ndim != index.ndim:
        raise shape_error(f"take_along: {x.ndim} and {index.ndim} dimensions")
    axis = normal_axis(axis, x.ndim)
    shapes = [tuple(1 if i == axis else d for i, d in enumerate(v.node.shape)) for v in (x, index)]
    common = broadcast_shape(shapes)
    full = [_with(common, axis, v.node.shape[axis]) for v in (x, index)]
    extent = x.node.shape[axis]
    index = where(lt(index, 0), add(index, full_like(index, extent)), index)
    b = builder()
    return wrap(b.take(stretch(x.node, full[0]), stretch(index.node, full[1]), axis=axis), x, index)


def _with(shape: Sequence[Dim], axis: int, dim: Dim) -> tuple[Dim, ...]:
    return tuple(dim if i == axis else d for i, d in enumerate(shape))


def one_hot(x: Value, num_classes: int = -1) -> Tracer:
    """A new last axis with 1 at the index."""
    x = array(x)
    _check_index(x)
    if num_classes < 0:
        raise unsupported(
            "one_hot without num_classes: its shape depends on data", hint="give num_classes"
        )
    shape = (*x.node.shape, dim_of(num_classes))
    place = wrap(builder().iota(x.ndim, shape), x)
    return cast(eq(place, cast(unsqueeze(x, -1), dtypes.int64)), dtypes.int64)


def masked_select(x: Value, mask: Value) -> Tracer:
    raise unsupported(
        "masked_select: its shape depends on data", hint="write tgc.where(mask, x, 0)"
    )


# --- cuts at positions ----------------------------------------------------------------------------------------------


def tensor_split(x: Value, sections: Any, axis: Any = 0) -> tuple[Tracer, ...]:
    """Parts as equal as can be, or cut at the given positions (numpy's array_split)."""
    x = array(x)
    axis = normal_axis(axis, x.ndim)
    if isinstance(sections, tuple | list):
        bounds = zip([0, *sections], [*sections, None])
        return tuple(getitem(x, (FULL,) * axis + (slice(a, b),)) for a, b in bounds)
    small, extra = divmod(current().sizes.fix(x.node.shape[axis]), sections)
    parts, start = [], 0
    for i in range(sections):
        length = small + 1 if i < extra else small
        parts.append(narrow(x, axis, start, length))
        start += length
    return tuple(parts)


def numpy_split(x: Value, sections: Any, axis: Any = 0) -> tuple[Tracer, ...]:
    """numpy's split: into equal parts, or cut at positions."""
    x = array(x)
    if not is_size(sections):
        return tensor_split(x, sections, axis)
    if current().sizes.hint(x.node.shape[normal_axis(axis, x.ndim)]) % sections:
        raise shape_error("array split does not result in an equal division")
    return chunk(x, int(sections), axis)


def diagonal(x: Value, offset: int = 0, axis1: Any = 0, axis2: Any = 1) -> Tracer:
    """The diagonal of two axes, as a new last axis: a gather with one index per row."""
    x = array(x)
    axis1, axis2 = normal_axis(axis1, x.ndim), normal_axis(axis2, x.ndim)
    rest = [a for a in range(x.ndim) if a not in (axis1, axis2)]
    node = builder().permute(x.node, order=(*rest, axis1, axis2))
    x = wrap(node, x)
    rows, columns = x.node.shape[-2:]
    if offset >= 0:
        x, columns = narrow(x, -1, offset, symbolic(columns - offset)), columns - offset
    else:
        x, rows = narrow(x, -2, -offset, symbolic(rows + offset)), rows + offset
    length = rows if current().sizes.decide(rows, "<=", columns) else columns
    x = narrow(x, -2, 0, symbolic(length))
    shape = (*x.node.shape[:-1], 1)
    index = builder().iota(x.ndim - 2, shape)
    taken = builder().take(x.node, index, axis=x.ndim - 1)
    return wrap(builder().reshape(taken, shape=shape[:-1]), x)
