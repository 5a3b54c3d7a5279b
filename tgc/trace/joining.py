"""Joining arrays, padding them, and masks of triangles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgc.ir import dtypes
from tgc.ir.sizes import Dim
from tgc.trace.core import (
    Operands,
    Value,
    array,
    arrays,
    builder,
    cast,
    dims_of,
    full_like,
    normal_axis,
    show_shape,
    stand_in,
    stretch,
    unsupported,
    wrap,
)
from tgc.trace.elementwise import bitwise_not, where
from tgc.trace.movement import (
    atleast_1d,
    atleast_2d,
    flatten,
    narrow,
    reshape,
    slice_axis,
    transpose,
    unsqueeze,
)
from tgc.trace.state import current, shape_error
from tgc.trace.symbolic import dim_of, is_size
from tgc.trace.tracer import Tracer

# --- joining --------------------------------------------------------------------------------------------------------


def cat(tensors: Any, axis: Any = 0) -> Tracer:
    """Arrays one after another along an axis."""
    given = arrays(tensors)
    if not given:
        raise shape_error("cat of no tensors")
    if axis is None:
        given, axis = [flatten(x) for x in given], 0
    kept = [x for x in given if x.node.shape != (0,)] or given[:1]
    ndim = kept[0].ndim
    if any(x.ndim != ndim for x in kept) or ndim == 0:
        shapes = ", ".join(show_shape(x.node.shape) for x in kept)
        raise shape_error(
            f"Tensors must have the same number of dimensions (at least one): {shapes}"
        )
    axis = normal_axis(axis, ndim)
    _check_joined(kept, axis)
    dtype = Operands(*[stand_in(x) for x in given]).dtype
    out = _joined([cast(x, dtype) for x in kept], axis)
    return wrap(out.node, *given)


def _check_joined(kept: list[Tracer], axis: int) -> None:
    for number, x in enumerate(kept[1:], start=1):
        for i in range(x.ndim):
            a, b = kept[0].node.shape[i], x.node.shape[i]
            if i != axis and not current().sizes.same(a, b):
                hint = current().sizes.hint
                raise shape_error(
                    f"Sizes of tensors must match except in dimension {axis}. Expected size {hint(a)} but got size "
                    f"{hint(b)} for tensor number {number} in the list."
                )


def _joined(parts: list[Tracer], axis: int) -> Tracer:
    """A selection between pads: a sum of them would turn -0.0 into 0.0."""
    if len(parts) == 1:
        return parts[0]
    b, ndim = builder(), parts[0].ndim
    total = sum((x.node.shape[axis] for x in parts), 0)
    shape = tuple(total if i == axis else d for i, d in enumerate(parts[0].node.shape))
    place = b.iota(axis, shape)
    end, result = total, None
    for x in reversed(parts):
        start = end - x.node.shape[axis]
        before = tuple(start if i == axis else 0 for i in range(ndim))
        after = tuple(total - end if i == axis else 0 for i in range(ndim))
        padded = b.pad(x.node, before=before, after=after)
        if result is None:
            result = padded
        else:
            inside = b.map("lt", place, b.const(end, dtypes.int64, shape))
            result = b.map("where", inside, padded, result)
        end = start
    assert result is not None
    return Tracer(result, parts[0].container, parts[0].device)


def stack(tensors: Any, axis: Any = 0) -> Tracer:
    """Arrays of one shape along a new axis."""
    given = arrays(tensors)
    if not given:
        raise shape_error("stack of no tensors")
    first = given[0].node.shape
    for number, x in enumerate(given):
        if len(x.node.shape) != len(first) or not all(
            map(current().sizes.same, x.node.shape, first)
        ):
            raise shape_error(
                f"stack expects each tensor to be equal size, but got {show_shape(first)} at entry 0 and "
                f"{show_shape(x.node.shape)} at entry {number}"
            )
    axis = normal_axis(axis, len(first) + 1)
    return cat([unsqueeze(x, axis) for x in given], axis)


def hstack(tensors: Any) -> Tracer:
    given = [atleast_1d(x) for x in tensors]
    return cat(given, 0 if given[0].ndim == 1 else 1)


def vstack(tensors: Any) -> Tracer:
    return cat([atleast_2d(x) for x in tensors], 0)


def meshgrid(*tensors: Value, indexing: str = "ij") -> tuple[Tracer, ...]:
    """Coordinates of a grid."""
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], tuple | list) else tensors
    axes = [flatten(x) for x in arrays(given)]
    shape = tuple(x.node.shape[0] for x in axes)
    out = []
    for i, x in enumerate(axes):
        node = builder().broadcast(x.node, shape=shape, dims=(i,))
        grid = wrap(node, x)
        out.append(transpose(grid, 0, 1) if indexing == "xy" and len(axes) > 1 else grid)
    return tuple(out)


def roll(x: Value, shifts: Any, axes: Any = None) -> Tracer:
    """Elements moved along an axis, those at the end to the front; over all elements without an axis."""
    x = array(x)
    if axes is None:
        return reshape(roll(flatten(x), shifts, 0), x.shape)
    if isinstance(axes, tuple | list):
        shifts = shifts if isinstance(shifts, tuple | list) else [shifts] * len(axes)
        for shift, axis in zip(shifts, axes):
            x = roll(x, shift, axis)
        return x
    axis = normal_axis(axes, x.ndim)
    extent = x.node.shape[axis]
    if extent == 0:
        return x
    cut = extent - dim_of(shifts) % extent if dim_of(shifts) != 0 else 0
    if isinstance(cut, int) and cut in (0, extent):
        return x
    return cat([narrow(x, axis, cut, extent - cut), narrow(x, axis, 0, cut)], axis)


# --- padding and masks ----------------------------------------------------------------------------------------------


def pad_constant(x: Value, widths: Sequence[tuple[Dim, Dim]], value: Value = 0) -> Tracer:
    """`value` before and after each axis; negative widths cut."""
    x = array(x)
    sizes = current().sizes
    for axis, (first, last) in enumerate(widths):
        low = -first if sizes.decide(first, "<", 0) else 0
        high = -last if sizes.decide(last, "<", 0) else 0
        if low != 0 or high != 0:
            x = slice_axis(x, axis, low, x.node.shape[axis] - high)
    before = tuple(0 if sizes.decide(b, "<", 0) else b for b, _ in widths)
    after = tuple(0 if sizes.decide(a, "<", 0) else a for _, a in widths)
    b = builder()
    padded = wrap(b.pad(x.node, before=before, after=after), x)
    if value is None or (not isinstance(value, Tracer) and value == 0):
        return padded
    inside = wrap(b.pad(b.const(True, dtypes.bool_, x.node.shape), before=before, after=after), x)
    fill = cast(value, x.kind) if isinstance(value, Tracer) else full_like(padded, value)
    return where(inside, padded, fill)


def pad(x: Value, pad: Any, mode: str = "constant", value: Value = None) -> Tracer:
    """torch's pad: pairs of widths, from the last axis on."""
    x = array(x)
    if mode != "constant":
        raise unsupported(f'pad(mode="{mode}")', hint="only constant padding is compiled")
    flat = dims_of(pad)
    if len(flat) % 2 or len(flat) > 2 * x.ndim:
        raise shape_error(f"pad: {len(flat)} widths for a tensor of {x.ndim} dimensions")
    pairs = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1]
    return pad_constant(x, widths, value)


def numpy_pad(
    x: Value, pad_width: Any, mode: str = "constant", constant_values: Value = 0
) -> Tracer:
    """numpy's pad: a width, a pair, or a pair per axis."""
    x = array(x)
    if mode != "constant":
        raise unsupported(f'pad(mode="{mode}")', hint="only constant padding is compiled")
    if is_size(pad_width):
        pad_width = (pad_width, pad_width)
    if is_size(pad_width[0]):
        pad_width = [pad_width] * x.ndim
    widths = [tuple(map(dim_of, (w[0], w[-1]))) for w in pad_width]
    return pad_constant(x, widths * x.ndim if len(widths) == 1 else widths, constant_values)  # type: ignore[arg-type]


def _below(x: Tracer, diagonal: Any) -> Tracer:
    """Where column - row <= diagonal, over the last two axes."""
    if x.ndim < 2:
        raise shape_error("tril and triu need at least two dimensions")
    b, shape = builder(), x.node.shape[-2:]
    row, column = b.iota(0, shape), b.iota(1, shape)
    limit = b.map("add", row, b.const(dim_of(diagonal), dtypes.int64, shape))
    return wrap(stretch(b.map("le", column, limit), x.node.shape), x)


def tril(x: Value, diagonal: Any = 0) -> Tracer:
    """The lower triangle, zeros above."""
    x = array(x)
    return where(_below(x, diagonal), x, full_like(x, 0))


def triu(x: Value, diagonal: Any = 0) -> Tracer:
    """The upper triangle, zeros below."""
    x = array(x)
    return where(bitwise_not(_below(x, dim_of(diagonal) - 1)), x, full_like(x, 0))
