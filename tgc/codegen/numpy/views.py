"""The text of a view: how one access of a kernel is written as an expression over the array.

A view has one dimension per axis of its layout, in the kernel's order of axes: leading axes it lacks are left out,
as numpy's broadcasting wants, others have length one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tgc.codegen.naming import size_text
from tgc.codegen.numpy.access import ExtentOf, Part, Split, is_contiguous, is_negative, split_index
from tgc.ir.sizes import Dim
from tgc.kernel.ir import Buffer, Index, Program

Layout: TypeAlias = tuple[str | None, ...]
PROGRAM = "(program)"


def layout(axes: tuple[str, ...], frame: tuple[str, ...]) -> Layout:
    """The dimensions of a value over `axes`: from its first axis in the frame on; None has length one."""
    if not axes:
        return ()
    first = min(frame.index(a) for a in axes)
    return tuple(a if a in axes else None for a in frame[first:])


@dataclass(frozen=True)
class View:
    """An affine access: `prepare` is the expression over the buffer's array, None for the array itself.

    `program`: the split or grid axis whose program number leads the view's dimensions, if one does.
    """

    layout: Layout
    prepare: str | None
    program: str | None


def affine_view(
    buffer: Buffer,
    name: str,
    index: Index,
    frame: tuple[str, ...],
    extent_of: ExtentOf,
    sizes: Mapping[str, str],
) -> View | None:
    """The view an index stands for, or None where it takes index arrays."""
    terms = [t for t, _ in index.terms]
    if any(not isinstance(t, str | Program) for t in terms):
        return None
    axes = tuple(a for a in frame if a in terms)
    dims = layout(axes, frame)
    programs = [t for t in terms if isinstance(t, Program)]
    if len(programs) > 1:
        return None
    program = programs[0].axis if programs else None
    split = split_index(buffer, index, extent_of)
    if split is not None and all(len(p.terms) <= 1 for p in split.parts):
        text = _sliced(name, split, dims, program, extent_of, sizes)
    elif program is None:
        text = _strided(buffer, name, index, dims, extent_of, sizes)
    else:
        return None
    return View(dims, None if text == name else text, program)


def _sliced(
    name: str,
    split: Split,
    dims: Layout,
    program: str | None,
    extent_of: ExtentOf,
    sizes: Mapping[str, str],
) -> str:
    """Reshape, subscript, turn round, transpose and widen, each where needed."""
    subscripts = [_subscript(part, extent_of, sizes) for part in split.parts]
    order = [s.axis for s in subscripts if s.axis is not None]
    wanted = ([] if program is None else [PROGRAM]) + [d for d in dims if d is not None]
    text = name + _reshape(split, sizes) + _keys([s.key for s in subscripts], order)
    text += _keys(["::-1" if s.turned else ":" for s in subscripts if s.axis is not None], order)
    if order != wanted:
        places = [order.index(d) for d in wanted]
        text += ".T" if places == [1, 0] else f".transpose({', '.join(map(str, places))})"
    if None in dims:
        lead = [] if program is None else [":"]
        text += f"[{', '.join([*lead, *('None' if d is None else ':' for d in dims)])}]"
    return text


def _reshape(split: Split, sizes: Mapping[str, str]) -> str:
    if split.shape is None:
        return ""
    if len(split.shape) == 1:
        return ".ravel()"  # a third of what reshape takes
    return f".reshape({', '.join(size_text(d, sizes) for d in split.shape)})"


def _keys(keys: list[str], order: list[str]) -> str:
    """A subscript; "" if it takes everything. One of numbers alone gets `...`, to stay an array."""
    rest = list(keys)
    while rest and rest[-1] == ":":
        rest.pop()
    if not rest:
        return ""
    return f"[{', '.join(rest)}]" if order else f"[{', '.join(rest)}, ...]"


@dataclass(frozen=True)
class _Subscript:
    """The key along one dimension, the axis that remains there, and whether it must still be turned round."""

    key: str
    axis: str | None
    turned: bool = False


def _subscript(part: Part, extent_of: ExtentOf, sizes: Mapping[str, str]) -> _Subscript:
    if not part.terms:
        return _Subscript(size_text(part.offset, sizes), None)
    term, step = part.terms[0]
    if isinstance(term, Program):
        return _Subscript(":", PROGRAM)
    assert isinstance(term, str)
    extent = extent_of(term)
    last = part.offset + step * (extent - 1)
    low, high, stride, turned = (
        (last, part.offset, -step, True) if is_negative(step) else (part.offset, last, step, False)
    )
    if extent == part.extent and low == 0 and stride == 1:
        return _Subscript("::-1" if turned else ":", term)
    start = "" if low == 0 else size_text(low, sizes)
    stop = "" if high + 1 == part.extent else size_text(high + 1, sizes)
    by = "" if stride == 1 else f":{size_text(stride, sizes)}"
    return _Subscript(f"{start}:{stop}{by}", term, turned)


def _strided(
    buffer: Buffer,
    name: str,
    index: Index,
    dims: Layout,
    extent_of: ExtentOf,
    sizes: Mapping[str, str],
) -> str:
    """A view by strides, where slices cannot say it."""
    coefficient = {t: c for t, c in index.terms if isinstance(t, str)}
    shape = ["1" if d is None else size_text(extent_of(d), sizes) for d in dims]
    item = buffer.dtype.itemsize
    steps = ["0" if d is None else size_text(coefficient[d] * item, sizes) for d in dims]
    base = name
    if index.offset != 0 and is_contiguous(buffer):
        base = f"{name}.ravel()[{size_text(index.offset, sizes)}:]"
    elif index.offset != 0:
        span: Dim = 1
        for stride, extent in zip(buffer.strides, buffer.shape):
            span = span + stride * (extent - 1)
        base = f"as_strided({name}, ({size_text(span, sizes)},), ({item},))[{size_text(index.offset, sizes)}:]"
    return f"as_strided({base}, ({_tuple(shape)}), ({_tuple(steps)}))"


def _tuple(items: list[str]) -> str:
    return ", ".join(items) + ("," if len(items) == 1 else "")
