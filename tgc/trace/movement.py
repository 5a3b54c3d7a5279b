"""Movements of data: shapes, axes, slices, padding, joining and splitting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgc.errors import ShapeError
from tgc.ir.nodes import Flip, Permute, Reshape, Slice
from tgc.ir.sizes import Dim, exact_quotient, product
from tgc.trace import layout
from tgc.trace.core import (
    Value,
    array,
    arrays,
    broadcast_shape,
    builder,
    dims_of,
    is_made_here,
    normal_axes,
    normal_axis,
    show_shape,
    stretched_view,
    unsupported,
    view_of,
    wrap,
)
from tgc.trace.state import current, shape_error
from tgc.trace.symbolic import dim_of, is_size
from tgc.trace.tracer import Tracer

# --- shapes ---------------------------------------------------------------------------------------------------------


def reshape(x: Value, shape: Any) -> Tracer:
    """The same elements in another shape; one extent may be -1."""
    x = array(x)
    dims = _infer(x, dims_of(shape))
    if not current().sizes.same(product(x.node.shape), product(dims)):
        raise _bad_reshape(x, dims)
    return view_of(x, Reshape(dims))


def _infer(x: Tracer, dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Fill in an extent of -1."""
    if -1 not in dims:
        return dims
    if dims.count(-1) > 1:
        raise shape_error("only one dimension can be inferred")
    rest = product([d for d in dims if d != -1])
    total = product(x.node.shape)
    if rest == 0:
        raise _bad_reshape(x, dims)
    found = exact_quotient(total, rest)
    if found is None:
        found = _inexact(x, dims, total, rest)
    return tuple(found if d == -1 else d for d in dims)


def _inexact(x: Tracer, dims: tuple[Dim, ...], total: Dim, rest: Dim) -> Dim:
    """The quotient of sizes that do not divide as polynomials: by the extents at this call, or by matching factors."""
    sizes = current().sizes
    if sizes.hint(total) % sizes.hint(rest):
        raise _bad_reshape(x, dims)
    for count in range(1, x.ndim + 1):
        for part in (x.node.shape[:count], x.node.shape[-count:]):
            if sizes.hint(product(part)) == sizes.hint(rest):
                sizes.same(product(part), rest)
    quotient = total // rest
    sizes.same(quotient * rest, total)
    return quotient


def _bad_reshape(x: Tracer, dims: tuple[Dim, ...]) -> ShapeError:
    total = current().sizes.hint(product(x.node.shape))
    return shape_error(f"shape '{show_shape(dims)}' is invalid for input of size {total}")


def view(x: Value, shape: Any) -> Tracer:
    """torch's view: of a shape; a view as another type is not supported."""
    if not isinstance(shape, tuple | list) and not is_size(shape):
        raise unsupported("view as another element type", hint="x.to(dtype) converts values")
    return reshape(x, shape)


def view_as(x: Value, other: Value) -> Tracer:
    return reshape(x, array(other).shape)


def flatten(x: Value, start: Any = 0, end: Any = -1) -> Tracer:
    """Axes start to end merged into one."""
    x = array(x)
    if x.ndim == 0:
        return reshape(x, (1,))
    start, end = normal_axis(start, x.ndim), normal_axis(end, x.ndim)
    if start > end:
        raise shape_error("flatten() has invalid args: start_dim cannot come after end_dim")
    shape = x.node.shape
    merged = product(shape[start : end + 1])
    return view_of(x, Reshape((*shape[:start], merged, *shape[end + 1 :])))


def ravel(x: Value) -> Tracer:
    return flatten(x)


def contiguous(x: Value) -> Tracer:
    """`x`, or a copy where its axes are known not to follow each other in memory."""
    x = array(x)
    if x.base is None or x.path is None or not is_made_here(x.base):
        return x
    plain = layout.contiguous(x.node.shape)
    return x if layout.strides(x.base.node, x.path, builder()) == plain else wrap(x.node, x)


def unflatten(x: Value, axis: Any, sizes: Any) -> Tracer:
    """One axis split into several."""
    x = array(x)
    axis = normal_axis(axis, x.ndim)
    shape = x.node.shape
    parts = dims_of(sizes)
    if -1 in parts:
        known = product([d for d in parts if d != -1])
        quotient = exact_quotient(shape[axis], known)
        quotient = shape[axis] // known if quotient is None else quotient
        parts = tuple(quotient if d == -1 else d for d in parts)
    if not current().sizes.same(product(parts), shape[axis]):
        raise shape_error(
            f"unflatten: {show_shape(parts)} does not multiply to {show_shape(shape[axis : axis + 1])}"
        )
    return view_of(x, Reshape((*shape[:axis], *parts, *shape[axis + 1 :])))


def squeeze(x: Value, axis: Any = None) -> Tracer:
    """Without the axes of extent 1 (of those given, if any are)."""
    x = array(x)
    axes = normal_axes(axis, x.ndim)
    sizes = current().sizes
    shape = tuple(d for i, d in enumerate(x.node.shape) if i not in axes or not sizes.is_one(d))
    return view_of(x, Reshape(shape))


def numpy_squeeze(x: Value, axis: Any = None) -> Tracer:
    """As squeeze, but an axis given must have extent 1."""
    x = array(x)
    if axis is not None:
        for a in normal_axes(axis, x.ndim):
            if not current().sizes.is_one(x.node.shape[a]):
                raise shape_error(
                    "cannot select an axis to squeeze out which has size not equal to one"
                )
    return squeeze(x, axis)


def unsqueeze(x: Value, axis: Any) -> Tracer:
    """With a new axis of extent 1 at `axis`."""
    x = array(x)
    axis = normal_axis(axis, x.ndim + 1)
    shape = x.node.shape
    return view_of(x, Reshape((*shape[:axis], 1, *shape[axis:])))


def expand_dims(x: Value, axis: Any) -> Tracer:
    """numpy's unsqueeze; several axes count in the result."""
    x = array(x)
    given = axis if isinstance(axis, tuple | list) else (axis,)
    for a in sorted(normal_axis(a, x.ndim + len(given)) for a in given):
        x = unsqueeze(x, a)
    return x


def atleast_1d(x: Value) -> Tracer:
    x = array(x)
    return x if x.ndim else reshape(x, (1,))


def atleast_2d(x: Value) -> Tracer:
    x = atleast_1d(x)
    return x if x.ndim > 1 else unsqueeze(x, 0)


# --- axes -----------------------------------------------------------------------------------------------------------


def permute(x: Value, axes: Any) -> Tracer:
    """Result axis i is axis `axes[i]`."""
    x = array(x)
    order = tuple(normal_axis(a, x.ndim) for a in axes)
    if sorted(order) != list(range(x.ndim)):
        raise shape_error(f"permute: {tuple(axes)} is no order of {x.ndim} axes")
    return view_of(x, Permute(order))


def transpose(x: Value, axis0: Any, axis1: Any) -> Tracer:
    """Two axes exchanged."""
    x = array(x)
    if x.ndim == 0:
        return x
    order = list(range(x.ndim))
    a, b = normal_axis(axis0, x.ndim), normal_axis(axis1, x.ndim)
    order[a], order[b] = order[b], order[a]
    return permute(x, order)


def numpy_transpose(x: Value, axes: Any = None) -> Tracer:
    """numpy's transpose: axes in the given order, or reversed."""
    x = array(x)
    return permute(x, tuple(reversed(range(x.ndim))) if axes is None else axes)


def t(x: Value) -> Tracer:
    """The transpose of a matrix; vectors stay."""
    x = array(x)
    if x.ndim > 2:
        raise shape_error(f"t() expects a tensor with <= 2 dimensions, but self is {x.ndim}D")
    return numpy_transpose(x)


def matrix_transpose(x: Value) -> Tracer:
    return transpose(x, -2, -1)


def movedim(x: Value, source: Any, destination: Any) -> Tracer:
    """Axes `source` moved to `destination`, the others in their order."""
    x = array(x)
    given = [s if isinstance(s, tuple | list) else (s,) for s in (source, destination)]
    source, destination = ([normal_axis(a, x.ndim) for a in axes] for axes in given)
    rest = iter([a for a in range(x.ndim) if a not in source])
    placed = dict(zip(destination, source))
    return permute(x, [placed[i] if i in placed else next(rest) for i in range(x.ndim)])


def flip(x: Value, axes: Any = None) -> Tracer:
    x = array(x)
    flipped = Flip(normal_axes(axes, x.ndim))
    if not flipped.axes:
        return x
    return (
        wrap(builder().view(x.node, flipped), x) if x.container == "torch" else view_of(x, flipped)
    )


def fliplr(x: Value) -> Tracer:
    return flip(x, 1)


def flipud(x: Value) -> Tracer:
    return flip(x, 0)


# --- broadcasting ---------------------------------------------------------------------------------------------------


def expand(x: Value, shape: Any) -> Tracer:
    """Axes of extent 1 stretched; -1 keeps an extent; new axes go in front."""
    x = array(x)
    dims = dims_of(shape)
    first = len(dims) - x.ndim
    if first < 0:
        raise shape_error(f"expand: {len(dims)} sizes for a tensor of {x.ndim} dimensions")
    old = x.node.shape
    full = tuple(old[i - first] if d == -1 and i >= first else d for i, d in enumerate(dims))
    for have, want in zip(old, full[first:]):
        if have != 1 and not current().sizes.same(have, want):
            raise shape_error(f"cannot expand {show_shape(old)} to {show_shape(full)}")
    return stretched_view(x, full)


def expand_as(x: Value, other: Value) -> Tracer:
    return expand(x, array(other).shape)


def broadcast_tensors(*tensors: Value) -> tuple[Tracer, ...]:
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], tuple | list) else tensors
    found = arrays(given)
    shape = broadcast_shape([x.node.shape for x in found])
    return tuple(stretched_view(x, shape) for x in found)


def repeat(x: Value, repeats: Any) -> Tracer:
    """torch's repeat: the whole tensor side by side; new axes go in front."""
    x = array(x)
    counts = dims_of(repeats)
    if len(counts) < x.ndim:
        raise shape_error("repeat: fewer counts than dimensions")
    shape = (1,) * (len(counts) - x.ndim) + x.node.shape
    b = builder()
    node = b.reshape(x.node, shape=tuple(d for s in shape for d in (1, s)))
    node = b.broadcast(node, shape=tuple(d for c, s in zip(counts, shape) for d in (c, s)))
    return wrap(b.reshape(node, shape=tuple(c * s for c, s in zip(counts, shape))), x)


def tile(x: Value, repeats: Any) -> Tracer:
    """As repeat, but missing counts are 1."""
    x = array(x)
    counts = dims_of(repeats)
    return repeat(x, (1,) * (x.ndim - len(counts)) + counts)


def repeat_interleave(x: Value, repeats: Any, axis: Any = None) -> Tracer:
    """Each element `repeats` times in a row."""
    x = array(x)
    if not is_size(repeats):
        raise unsupported("repeat_interleave with a tensor of counts: its shape depends on data")
    if axis is None:
        x, axis = flatten(x), 0
    axis = normal_axis(axis, x.ndim)
    shape, count = x.node.shape, dim_of(repeats)
    b = builder()
    node = b.reshape(x.node, shape=(*shape[: axis + 1], 1, *shape[axis + 1 :]))
    node = b.broadcast(node, shape=(*shape[: axis + 1], count, *shape[axis + 1 :]))
    return wrap(b.reshape(node, shape=(*shape[:axis], shape[axis] * count, *shape[axis + 1 :])), x)


# --- parts ----------------------------------------------------------------------------------------------------------


def narrow(x: Value, axis: Any, start: Any, length: Any) -> Tracer:
    """`length` elements from `start` along an axis."""
    x = array(x)
    axis = normal_axis(axis, x.ndim)
    start, length = dim_of(start), dim_of(length)
    sizes, extent = current().sizes, x.node.shape[axis]
    if isinstance(start, int) and start < 0:
        start = extent + start
    if not (sizes.decide(length, ">=", 0) and sizes.decide(start + length, "<=", extent)):
        raise shape_error(
            f"start ({sizes.hint(start)}) + length ({sizes.hint(length)}) exceeds dimension size "
            f"({sizes.hint(extent)})."
        )
    return slice_axis(x, axis, start, start + length)


def slice_axis(x: Tracer, axis: int, start: Dim, stop: Dim, step: int = 1) -> Tracer:
    """x[..., start:stop:step, ...] with 0 <= start <= stop <= extent and step >= 1."""
    shape = x.node.shape
    starts = tuple(start if i == axis else 0 for i in range(x.ndim))
    stops = tuple(stop if i == axis else d for i, d in enumerate(shape))
    steps = tuple(step if i == axis else 1 for i in range(x.ndim))
    if start == 0 and stop == shape[axis] and step == 1:
        return x
    return view_of(x, Slice(starts, stops, steps))


def select(x: Value, axis: Any, index: Any) -> Tracer:
    """One position of an axis, which goes away."""
    x = array(x)
    if x.ndim == 0:
        raise shape_error("select() cannot be applied to a 0-dim tensor.")
    axis = normal_axis(axis, x.ndim)
    place, extent, sizes = dim_of(index), x.node.shape[axis], current().sizes
    if sizes.decide(place, "<", 0):
        place = place + extent
    if not (sizes.decide(place, ">=", 0) and sizes.decide(place, "<", extent)):
        raise shape_error(
            f"index {sizes.hint(dim_of(index))} is out of bounds for dimension {axis} with size {sizes.hint(extent)}"
        )
    part = slice_axis(x, axis, place, place + 1)
    shape = part.node.shape
    return view_of(part, Reshape(shape[:axis] + shape[axis + 1 :]))


def split(x: Value, size: Any, axis: Any = 0) -> tuple[Tracer, ...]:
    """Parts of `size` (the last may be smaller), or of the given sizes."""
    x = array(x)
    axis = normal_axis(axis, x.ndim)
    extent, sizes = x.node.shape[axis], current().sizes
    if isinstance(size, tuple | list):
        lengths = dims_of(size)
        if not sizes.same(sum(lengths, 0), extent):
            raise shape_error(
                f"split_with_sizes expects split_sizes to sum exactly to {sizes.hint(extent)}, "
                f"got {show_shape(lengths)}"
            )
        return _cut(x, axis, lengths)
    step = dim_of(size)
    count = -(-sizes.hint(extent) // sizes.hint(step))
    last = extent - step * (count - 1)
    if count > 1:
        sizes.decide(last, ">", 0)
    sizes.decide(last, "<=", step)
    return _cut(x, axis, (*[step] * (count - 1), last))


def _cut(x: Tracer, axis: int, lengths: Sequence[Dim]) -> tuple[Tracer, ...]:
    parts, start = [], 0
    for length in lengths:
        parts.append(slice_axis(x, axis, start, start + length))
        start = start + length  # type: ignore[assignment]
    return tuple(parts)


def chunk(x: Value, chunks: int, axis: Any = 0) -> tuple[Tracer, ...]:
    """At most `chunks` parts of equal size but for the last."""
    x = array(x)
    axis = normal_axis(axis, x.ndim)
    extent, sizes = x.node.shape[axis], current().sizes
    if sizes.hint(extent) % chunks == 0:
        step = extent // chunks
        sizes.same(step * chunks, extent)
        return _cut(x, axis, [step] * chunks)
    return split(x, max(1, -(-sizes.fix(extent) // chunks)), axis)


def halves(x: Value, axis: Any) -> tuple[Tracer, Tracer]:
    """The two halves of an axis of even extent."""
    x = array(x)
    axis = normal_axis(axis, x.ndim)
    if x.ndim == 0 or current().sizes.hint(x.node.shape[axis]) % 2:
        raise shape_error("Halving dimension must be even")
    first, second = chunk(x, 2, axis)
    return first, second


UNROLL_LIMIT = 16


def unbind(x: Value, axis: Any = 0) -> tuple[Tracer, ...]:
    """Every position of an axis. The number of results must be known, so a symbolic extent is fixed."""
    x = array(x)
    if x.ndim == 0:
        raise shape_error("iteration over a 0-d tensor")
    axis = normal_axis(axis, x.ndim)
    extent = x.node.shape[axis]
    return tuple(select(x, axis, i) for i in range(current().sizes.fix(extent)))
