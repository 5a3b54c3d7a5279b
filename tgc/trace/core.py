"""What every operation shares: lifting operands, common types and shapes, and making tracers of nodes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from tgc.errors import DeviceError, DTypeError, UnsupportedOpError
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.dtypes import DType
from tgc.ir.nodes import Broadcast, Input, Leaf, Movement, Node, Reshape, Shape
from tgc.ir.ops import OPS
from tgc.ir.sizes import Dim, Size
from tgc.trace import layout
from tgc.trace.abstract import is_torch, loaded_torch, python_dtype, to_dtype
from tgc.trace.promote import ARRAY, WEAK, ZERO_D, floating, result_dtype
from tgc.trace.state import current, shape_error
from tgc.trace.symbolic import SymbolicInt, dim_of
from tgc.trace.tracer import Tracer

# What an operation takes as an array: a tracer or a number.
Value: TypeAlias = object

MIXED_HINT = "convert one side before the call: torch.from_numpy(a), or t.numpy()"


def builder() -> Builder:
    """The builder of the trace in progress."""
    return current().builder


def is_number(value: object) -> bool:
    """Whether a value is a Python number, a symbolic size or a numpy scalar."""
    return isinstance(value, bool | int | float | SymbolicInt | np.generic)


def is_operand(value: object) -> bool:
    """Whether a value may stand beside a tracer in arithmetic."""
    return isinstance(value, Tracer | np.ndarray) or is_number(value) or is_torch(value)


def lift(value: Any) -> Any:
    """Arrays, also those in lists and tuples, become tracers; everything else stays."""
    kind = type(value)
    if kind is Tracer or kind is int or kind is float or value is None or kind is str:
        return value
    if isinstance(value, np.ndarray) or is_torch(value):
        return current().lift(value)
    if kind is tuple or kind is list:
        return kind(lift(v) for v in value)
    return value


def array(value: Value) -> Tracer:
    """A tracer for one operand; a number becomes a 0-d constant."""
    return value if isinstance(value, Tracer) else Operands(value).tracer(value)


def arrays(values: Sequence[Value]) -> list[Tracer]:
    return [array(v) for v in values]


def scalar_of(value: Any) -> bool | int | float | Size:
    """The Python number behind a number of the user."""
    if isinstance(value, SymbolicInt):
        return value.size
    return value.item() if isinstance(value, np.generic) else value  # type: ignore[no-any-return]


def fits(value: Any, dtype: DType) -> bool:
    """Whether a number is one of a type's, if that is of integers."""
    if dtype.kind not in ("int", "uint") or type(value) is not int:
        return True
    low, count = _range(dtype)
    return 0 <= value - low < count


def _range(dtype: DType) -> tuple[int, int]:
    """The least integer of a type, and how many there are."""
    count = 1 << 8 * dtype.itemsize
    return (-count // 2 if dtype.kind == "int" else 0), count


def fitted(value: Any, dtype: DType, *, wraps: bool = False) -> Any:
    """A number that fits a type; `wraps`: others are taken modulo its range, as torch takes operands.

    Raises:
        DTypeError: it does not fit.
    """
    if fits(value, dtype):
        return value
    if wraps:
        low, count = _range(dtype)
        return (value - low) % count + low
    raise DTypeError(
        f"Python integer {value} out of bounds for {dtype.name}",
        line=current().error_line(),
        hint="convert the array to a wider type first",
    )


_CONVERT = "make it an array before the call: np.array(values) or torch.tensor(values)"


class Operands:
    """Operands of one operation, with their common container, device, type and shape."""

    def __init__(self, *values: Value) -> None:
        for value in values:
            if not isinstance(value, Tracer) and not is_number(value):
                raise DTypeError(
                    f"an operand is a {type(value).__name__}, not an array or a number",
                    line=current().error_line(),
                    hint=_CONVERT if isinstance(value, list | tuple) else None,
                )
        tracers = [v for v in values if isinstance(v, Tracer)]
        kinds = [_container(v) for v in values]
        self.values = values
        self.container = join_containers(kinds)
        self.device = join_devices(tracers)
        self.dtype = common_dtype(values, self.container)
        self.shape: Shape = broadcast_shape([t.node.shape for t in tracers])

    def floating(self) -> Operands:
        """The same operands, taken as floats. numpy converts each before it looks for a common type."""
        if self.container == "numpy":
            ranked = [_ranked(v, "numpy") for v in self.values]
            self.dtype = result_dtype(
                [(floating(d, "numpy"), r) for d, r in ranked if r != WEAK]
                + [p for p in ranked if p[1] == WEAK],
                "numpy",
            )
        self.dtype = floating(self.dtype, self.container)
        return self

    def node(self, value: Value, dtype: DType | None = None, *, shape: Shape | None = None) -> Node:
        """The operand converted and broadcast to the common (or the given) type and shape."""
        dtype, shape = dtype or self.dtype, self.shape if shape is None else shape
        if isinstance(value, Tracer):
            return stretch(builder().cast(value.node, dtype), shape)
        number = fitted(scalar_of(value), dtype, wraps=self.container in ("torch", "spec"))
        return builder().const(number, dtype, shape)

    def nodes(self, dtype: DType | None = None) -> list[Node]:
        return [self.node(v, dtype) for v in self.values]

    def tracer(self, value: Value) -> Tracer:
        """The operand as a tracer of its own shape, converted to the common type."""
        shape = value.node.shape if isinstance(value, Tracer) else ()
        return self.wrap(self.node(value, shape=shape))

    def wrap(self, node: Node) -> Tracer:
        """A result."""
        return Tracer(node, self.container, self.device)


def _container(value: Value) -> str:
    if _is_numpy_scalar(value):
        return "numpy scalar"
    return value.container if isinstance(value, Tracer) else "scalar"


def _is_numpy_scalar(value: Value) -> bool:
    """Whether numpy would have a scalar here: all that is 0-d but arrays that came in as such."""
    if not isinstance(value, Tracer):
        return isinstance(value, np.generic)
    if value.container != "numpy" or value.ndim:
        return False
    leaf = isinstance(value.node, Leaf) and value.node in current().arguments
    return not leaf or value.node in current().scalars


_AS_NUMBERS = {
    "float": dtypes.float64,
    "int": dtypes.int64,
    "uint": dtypes.int64,
    "bool": dtypes.bool_,
}


def _ranked(value: Value, container: str) -> tuple[DType, int]:
    if isinstance(value, Tracer):
        if value.container == "scalar":
            return value.kind, WEAK
        if container != "numpy" and _is_numpy_scalar(value):
            return _AS_NUMBERS[value.kind.kind], WEAK  # a number to torch, of whatever width
        return value.kind, ARRAY if value.ndim else ZERO_D
    if isinstance(value, SymbolicInt):
        return dtypes.int64, WEAK
    if isinstance(value, np.generic):
        found = to_dtype(value.dtype)
        if found is None:
            raise DTypeError(f"element type {value.dtype}", line=current().error_line())
        return (found, ZERO_D) if container == "numpy" else (python_dtype(value.item()), WEAK)
    assert isinstance(value, bool | int | float), value
    return python_dtype(value), WEAK


def common_dtype(values: Sequence[Value], container: str) -> DType:
    """The type some operands have in common under the rules of a container."""
    return result_dtype([_ranked(v, container) for v in values], container)


def join_containers(kinds: Sequence[str]) -> str:
    """Whose rules an operation follows.

    Raises:
        DTypeError: torch tensors and numpy arrays are mixed.
    """
    found = set(kinds)
    if {"torch", "numpy"} <= found:
        raise DTypeError(
            "torch tensors and numpy arrays in one operation",
            line=current().error_line(),
            hint=MIXED_HINT,
        )
    for kind in ("torch", "numpy", "spec"):
        if kind in found:
            return kind
    return "numpy" if "numpy scalar" in found else "scalar"


def join_devices(tracers: Sequence[Tracer]) -> str:
    """The device of a result; 0-d CPU tensors go with any.

    Raises:
        DeviceError: with torch's words.
    """
    devices = list(dict.fromkeys(t.device for t in tracers if t.container == "torch" and t.ndim))
    if len(devices) > 1:
        raise DeviceError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{devices[0]} and {devices[1]}!",
            line=current().error_line(),
            hint="move one of them with .to(device) before the call",
        )
    if devices:
        return devices[0]
    others = [t.device for t in tracers if t.device != "cpu"]
    return others[0] if others else "cpu"


def broadcast_shape(shapes: Sequence[Shape]) -> Shape:
    """The shape of an elementwise result, dimensions aligned at the right."""
    ndim = max((len(s) for s in shapes), default=0)
    out: list[Dim] = [1] * ndim
    for shape in shapes:
        for i, dim in enumerate(shape, start=ndim - len(shape)):
            out[i] = _broadcast_dim(out[i], dim, shapes, i)
    return tuple(out)


def _broadcast_dim(a: Dim, b: Dim, shapes: Sequence[Shape], axis: int) -> Dim:
    sizes = current().sizes
    if a == b or sizes.is_one(b):
        return a
    if sizes.is_one(a):
        return b
    if sizes.same(a, b):
        return a
    shown = " and ".join(show_shape(s) for s in shapes)
    raise shape_error(
        f"The size of tensor a ({sizes.hint(a)}) must match the size of tensor b ({sizes.hint(b)}) "
        f"at non-singleton dimension {axis}; shapes {shown}",
        "dimensions align at the right and only those of size 1 stretch: insert one with x[:, None] or unsqueeze",
    )


def show_shape(shape: Shape) -> str:
    """A shape as the user knows it: extents at this call."""
    sizes = current().sizes
    return "[" + ", ".join(str(sizes.hint(d)) for d in shape) + "]"


def stretch(node: Node, shape: Shape) -> Node:
    """Broadcast a node, aligned at the right. Sizes were checked by `broadcast_shape`."""
    if node.shape == shape:
        return node
    return builder().broadcast(node, shape=shape)


def stretched_view(x: Tracer, shape: Shape) -> Tracer:
    """`x` broadcast, aligned at the right, as a view."""
    return view_of(x, Broadcast(shape, tuple(range(len(shape) - x.ndim, len(shape)))))


def wrap(node: Node, *like: Tracer) -> Tracer:
    """A result that follows the rules of its operands."""
    return Tracer(node, join_containers([_container(t) for t in like]), join_devices(like))


def check_accepts(op: str, dtype: DType) -> None:
    """Raise DTypeError where the operation table does not define `op` for `dtype`."""
    if dtype.kind not in OPS[op].accepts:
        raise DTypeError(f"{op} is not defined for {dtype.name}", line=current().error_line())


def map_op(op: str, *values: Value, floats: bool = False) -> Tracer:
    """An operation of the table, elementwise, over broadcast operands of a common type."""
    group = Operands(*values)
    if floats:
        group.floating()
    check_accepts(op, group.dtype)
    return group.wrap(builder().map(op, *group.nodes()))


def cast(x: Tracer, dtype: DType) -> Tracer:
    """`x` in another type: itself if it has it."""
    if x.kind is dtype and x.container != "scalar":
        return x
    return Tracer(builder().cast(x.node, dtype), x.container, x.device)


def refuse_bool(x: Value, what: str) -> None:
    """Raise DTypeError for a bool array where torch does not define an operation and numpy may."""
    if isinstance(x, Tracer) and x.kind is dtypes.bool_ and x.container in ("torch", "spec"):
        raise DTypeError(f"{what} is not defined for bool", line=current().error_line())


def stand_in(x: Tracer) -> Tracer:
    """One element of `x`'s type and rank, for promotion without broadcasting."""
    return Tracer(builder().const(0, x.kind, (1,) if x.ndim else ()), x.container, x.device)


def full_like(x: Tracer, value: Any) -> Tracer:
    """A constant of `x`'s type and shape."""
    return Tracer(builder().like(x.node, fitted(value, x.kind)), x.container, x.device)


def stop_gradient(x: Value) -> Tracer:
    """`x`, through which no derivative passes."""
    x = array(x)
    if not x.kind.is_float:
        return x
    return Tracer(builder().map("stop_gradient", x.node), x.container, x.device)


def view_of(x: Tracer, movement: Movement) -> Tracer:
    """A movement whose result shares memory with `x` in torch and numpy: writes into one are seen by the other.

    But for a reshape that has to copy: that of an array made here is a new one.
    """
    node = builder().view(x.node, movement)
    path = (*x.path, movement) if x.path is not None else None
    if node is x.node:
        return x
    root = x if x.base is None else x.base
    if isinstance(movement, Reshape) and path is not None and is_made_here(root):
        if layout.strides(root.node, path, builder()) is None:
            return wrap(node, x)
    return _sharing(x, node, path)


def is_made_here(root: Tracer) -> bool:
    """Whether memory is the traced function's own, not an argument's or a captured array's."""
    source = root.node.source if isinstance(root.node, Leaf) else None
    return root.fresh or not isinstance(source, Input)


def opaque_view(x: Tracer, node: Node) -> Tracer:
    """A result that shares memory with `x` through no movement: writes are refused while both live."""
    return _sharing(x, node, None)


def _sharing(x: Tracer, node: Node, path: tuple[Movement, ...] | None) -> Tracer:
    out = Tracer(node, x.container, x.device)
    out.base = root = x if x.base is None else x.base
    out.path = path
    root.views = [ref for ref in root.views if ref() is not None]
    root.views.append(weakref.ref(out))
    return out


def normal_axis(axis: Any, ndim: int) -> int:
    """An axis counted from the front.

    Raises:
        ShapeError: in torch's words.
    """
    axis = axis.__index__()
    limit = max(ndim, 1)
    if not -limit <= axis < limit:
        raise shape_error(
            f"Dimension out of range (expected to be in range of [{-limit}, {limit - 1}], but got {axis})"
        )
    return int(axis % limit)


def normal_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """Axes counted from the front, in order; None or () is all of them."""
    if axis is None:
        return tuple(range(ndim))
    given = tuple(axis) if isinstance(axis, tuple | list) else (axis,)
    found = [normal_axis(a, ndim) for a in given]
    if len(set(found)) != len(found):
        raise shape_error(f"an axis appears twice in {given}")
    return tuple(sorted(a for a in found if a < ndim))


def dims_of(shape: Any) -> tuple[Dim, ...]:
    """A shape argument as sizes: an integer or a sequence of them."""
    given = shape if isinstance(shape, tuple | list) else (shape,)
    return tuple(dim_of(d) for d in given)


def element_type(dtype: object) -> DType:
    """A dtype argument of the user.

    Raises:
        DTypeError: tgc has no such type.
    """
    found = to_dtype(dtype)
    if found is None:
        raise DTypeError(f"element type {dtype}", line=current().error_line())
    return found


def unsupported(what: str, hint: str | None = None) -> UnsupportedOpError:
    """An UnsupportedOpError at the user's line."""
    return UnsupportedOpError(what, line=current().error_line(), hint=hint)


def call(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run one operation at the user's line: lift its operands, detach its results under `torch.no_grad()`."""
    trace = current()
    if trace.depth:
        return function(*args, **kwargs)
    trace.enter()
    try:
        args = [lift(a) for a in args]
        kwargs = {k: lift(v) for k, v in kwargs.items()}
        result = function(*args, **kwargs)
        return detached(result) if trace.grad_enabled and _grad_is_off() else result
    finally:
        trace.depth -= 1


def _grad_is_off() -> bool:
    torch = loaded_torch()
    return torch is not None and not torch.is_grad_enabled()


def detached(result: Any) -> Any:
    """The tracers of a result, without gradients."""
    if isinstance(result, Tracer):
        return stop_gradient(result) if result.container == "torch" else result
    if isinstance(result, tuple) and hasattr(result, "_make"):
        return result._make(detached(r) for r in result)
    if type(result) in (tuple, list):
        return type(result)(detached(r) for r in result)
    return result
