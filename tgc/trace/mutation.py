"""Writing in place while tracing.

A write into a temporary gives its tracer a new node; nobody else sees it. A write into an argument, a captured array,
or memory that a live view shares is refused: those effects belong to the graph's `writes`, which are not made yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tgc.errors import MutationError
from tgc.ir.nodes import Input, Leaf
from tgc.trace.core import array, cast, stretch
from tgc.trace.create import full_like
from tgc.trace.indexing import scattered
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


def setitem(x: Tracer, index: Any, value: Any) -> None:
    """x[index] = value."""
    if value is x:
        return
    check_writable(x)
    x.node = scattered(x, index, value)


def assign(x: Tracer, value: Tracer) -> Tracer:
    """x[...] = value, in x's type; the result must have x's shape."""
    if value is x:
        return x
    check_writable(x)
    if value.kind.is_float and not x.kind.is_float:
        raise MutationError(
            f"result type {value.kind.name} can't be cast to the desired output type {x.kind.name}",
            line=current().error_line(),
            hint="write x = x + y instead of x += y",
        )
    if value.ndim > x.ndim:
        raise shape_error("output with smaller shape doesn't match the broadcast shape")
    x.node = stretch(cast(value, x.kind).node, x.node.shape)
    return x


def check_writable(x: Tracer) -> None:
    """Raise MutationError where somebody else would see a write into `x`."""
    root = x if x.base is None else x.base
    if isinstance(root.node, Leaf) and isinstance(root.node.source, Input) and not root.fresh:
        name = root.node.source.name
        raise MutationError(
            f"the function writes into its argument or captured array `{name}`",
            line=current().error_line(),
            hint=f"work on a copy ({name}.clone() or {name} * 1) and return it",
        )
    if root is not x or any(ref() is not None for ref in root.views):
        raise MutationError(
            "a write into memory that another live array (a view) shares",
            line=current().error_line(),
            hint="write before taking views, or copy with x.clone()",
        )


def copy(x: Tracer, source: Any) -> Tracer:
    """torch's copy_: the source converted to x's type and broadcast."""
    value = cast(array(source), x.kind)
    return assign(x, Tracer(stretch(value.node, x.node.shape), x.container, x.device))


def fill(x: Tracer, value: Any) -> Tracer:
    """torch's fill_."""
    return assign(x, full_like(x, value))


def zero(x: Tracer) -> Tracer:
    """torch's zero_."""
    return fill(x, 0)
