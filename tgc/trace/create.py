"""Arrays made inside a function, conversions, and what a traced array tells about itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tgc.errors import TraceError
from tgc.ir import dtypes
from tgc.ir.dtypes import DType
from tgc.ir.nodes import Const, Input, Leaf, Node, Shape, reachable
from tgc.ir.sizes import Dim, Size, cdiv, product, symbols
from tgc.trace.abstract import is_torch, loaded_torch, python_dtype, to_dtype
from tgc.trace.core import (
    Value,
    array,
    builder,
    cast,
    dims_of,
    element_type,
    fitted,
    opaque_view,
    scalar_of,
    stop_gradient,
    unsupported,
)
from tgc.trace.elementwise import add, lt, mul, sub, where
from tgc.trace.joining import stack
from tgc.trace.promote import default_float
from tgc.trace.state import current, shape_error
from tgc.trace.symbolic import SymbolicInt, SymbolicShape, dim_of, is_size, symbolic
from tgc.trace.tracer import CONVERT_HINT, Tracer

# --- arrays like others ---------------------------------------------------------------------------------------------


def _filled(value: Any, dtype: DType, shape: Shape, container: str, device: str) -> Tracer:
    if isinstance(value, Tracer):
        node = builder().cast(value.node, dtype)
        return Tracer(builder().broadcast(node, shape=shape, dims=()), container, device)
    return Tracer(builder().const(fitted(scalar_of(value), dtype), dtype, shape), container, device)


def full_like(x: Value, value: Value, dtype: object = None, device: object = None) -> Tracer:
    """`value` in x's shape."""
    x = array(x)
    kind = x.kind if dtype is None else element_type(dtype)
    return _filled(value, kind, x.node.shape, x.container, _device(device, x))


def zeros_like(x: Value, dtype: object = None, device: object = None) -> Tracer:
    return full_like(x, 0, dtype, device)


def ones_like(x: Value, dtype: object = None, device: object = None) -> Tracer:
    return full_like(x, 1, dtype, device)


def new_full(
    x: Value, shape: Any, value: Value, dtype: object = None, device: object = None
) -> Tracer:
    """`value` in another shape, with x's type and device."""
    x = array(x)
    kind = x.kind if dtype is None else element_type(dtype)
    return _filled(value, kind, dims_of(shape), x.container, _device(device, x))


def new_zeros(x: Value, shape: Any, dtype: object = None, device: object = None) -> Tracer:
    return new_full(x, shape, 0, dtype, device)


def new_ones(x: Value, shape: Any, dtype: object = None, device: object = None) -> Tracer:
    return new_full(x, shape, 1, dtype, device)


def _device(device: object, x: Tracer | None = None) -> str:
    if device is not None:
        return str(device)
    if x is not None:
        return x.device
    torch = loaded_torch()
    return "cpu" if torch is None else str(torch.get_default_device())


def place_of(device: object, container: str) -> str:
    """The device of an array that a container makes of nothing."""
    return _device(device) if container == "torch" else "cpu"


# --- arrays from nothing --------------------------------------------------------------------------------------------


class Factory:
    """The functions that make arrays, under the rules of one container."""

    def __init__(self, container: str) -> None:
        self.container = container

    def _dtype(self, dtype: object, *values: Any) -> DType:
        if dtype is not None:
            return element_type(dtype)
        kinds = [v.kind if isinstance(v, Tracer) else _number_dtype(v) for v in values]
        if any(k.is_float for k in kinds) or not kinds:
            return default_float(self.container)
        return kinds[0] if kinds == [dtypes.bool_] else dtypes.int64

    def _place(self, device: object) -> str:
        return place_of(device, self.container)

    def full(self, shape: Any, value: Value, dtype: object = None, device: object = None) -> Tracer:
        kind = self._dtype(dtype, value)
        return _filled(value, kind, dims_of(shape), self.container, self._place(device))

    def zeros(self, shape: Any, dtype: object = None, device: object = None) -> Tracer:
        kind = self._dtype(dtype)
        return _filled(0, kind, dims_of(shape), self.container, self._place(device))

    def ones(self, shape: Any, dtype: object = None, device: object = None) -> Tracer:
        kind = self._dtype(dtype)
        return _filled(1, kind, dims_of(shape), self.container, self._place(device))

    def arange(
        self,
        start: Any,
        stop: Any = None,
        step: Any = 1,
        dtype: object = None,
        device: object = None,
    ) -> Tracer:
        """start, start + step, ... below stop."""
        start, stop = (0, start) if stop is None else (start, stop)
        kind = self._dtype(dtype, start, stop, step)
        if all(is_size(v) for v in (start, stop, step)):
            count = _steps(dim_of(start), dim_of(stop), dim_of(step))
        else:
            count = max(0, math.ceil((float(stop) - float(start)) / float(step)))
        inner = kind if not kind.is_float else dtypes.float64
        place = Tracer(builder().iota(0, (count,)), self.container, self._place(device))
        place = cast(place, inner)
        out = place if _is(step, 1) else mul(place, step)
        return cast(out if _is(start, 0) else add(out, start), kind)

    def linspace(
        self, start: Any, stop: Any, steps: Any, dtype: object = None, device: object = None
    ) -> Tracer:
        """`steps` values from start to stop, both included; counted from the nearer end."""
        kind = default_float(self.container) if dtype is None else element_type(dtype)
        count = dim_of(steps)
        inner = kind if kind.is_float else dtypes.float64
        place = Tracer(builder().iota(0, (count,)), self.container, self._place(device))
        if count == 1:
            return _filled(start, kind, (1,), self.container, place.device)
        last = symbolic(count - 1)
        step = (stop - start) / last
        low = add(start, mul(step, cast(place, inner)))
        high = sub(stop, mul(step, cast(sub(last, place), inner)))
        return cast(where(lt(place, symbolic(count // 2)), low, high), kind)

    def eye(self, n: Any, m: Any = None, dtype: object = None, device: object = None) -> Tracer:
        """Ones on the main diagonal."""
        shape = (dim_of(n), dim_of(n if m is None else m))
        b = builder()
        on = b.map("eq", b.iota(0, shape), b.iota(1, shape))
        return Tracer(b.cast(on, self._dtype(dtype)), self.container, self._place(device))

    def array(self, data: Any, dtype: object = None, device: object = None) -> Tracer:
        """An array of numbers and traced values."""
        if isinstance(data, tuple | list):
            out = stack([self.array(item, dtype, device) for item in data])
            return Tracer(out.node, self.container, out.device)
        if isinstance(data, Tracer):
            if self.container == "torch" and data.container == "torch":
                raise TraceError(
                    "torch.tensor() of a traced value",
                    line=current().error_line(),
                    hint="use the value itself, or torch.stack for a list of them",
                )
            kind = data.kind if dtype is None else element_type(dtype)
            return Tracer(builder().cast(data.node, kind), self.container, data.device)
        return _filled(data, self._dtype(dtype, data), (), self.container, self._place(device))


def _number_dtype(value: Any) -> DType:
    if isinstance(value, SymbolicInt):
        return dtypes.int64
    if hasattr(value, "dtype") and not is_torch(value):
        return to_dtype(value.dtype) or dtypes.float64
    return python_dtype(value)


def _is(value: Any, number: int) -> bool:
    return type(value) in (int, float) and value == number


def _steps(start: Dim, stop: Dim, step: Dim) -> Dim:
    sizes = current().sizes
    if sizes.decide(step, "<", 0):
        start, stop, step = stop, start, -step
    if step == 0:
        raise shape_error("step must be nonzero")
    return cdiv(stop - start, step) if sizes.decide(stop, ">", start) else 0


# --- conversions ----------------------------------------------------------------------------------------------------


def to(x: Value, *args: Any, **kwargs: Any) -> Tracer:
    """torch's to: a type, a device (which must be the tensor's own), another tensor."""
    x = array(x)
    dtype, device = kwargs.get("dtype"), kwargs.get("device")
    for arg in (*args, kwargs.get("other")):
        if isinstance(arg, Tracer):
            dtype, device = arg.kind, arg.device
        elif arg is None or isinstance(arg, bool):
            continue
        elif not isinstance(arg, str) and (to_dtype(arg) is not None or _is_dtype(arg)):
            dtype = arg
        else:
            device = arg
    if device is not None and not _same_device(str(device), x.device):
        raise unsupported(
            f"a move from {x.device} to {device} inside a compiled function",
            hint="move the arguments before the call",
        )
    return x if dtype is None else cast(x, element_type(dtype))


def _is_dtype(value: object) -> bool:
    torch = loaded_torch()
    return torch is not None and isinstance(value, torch.dtype)


def _same_device(a: str, b: str) -> bool:
    return a == b or a == b.split(":")[0] or b == a.split(":")[0]


def astype(x: Value, dtype: object) -> Tracer:
    return clone(cast(array(x), element_type(dtype)))


def type_as(x: Value, other: Value) -> Tracer:
    return cast(array(x), array(other).kind)


def torch_type(x: Value, dtype: object = None) -> Any:
    """x.type(dtype)."""
    if dtype is None:
        raise unsupported("x.type() without a type", hint="x.dtype")
    return astype(x, dtype)


def conversion(dtype: DType) -> Callable[[Value], Tracer]:
    """x.float() and the like."""
    return lambda x: cast(array(x), dtype)


def same(x: Value) -> Tracer:
    """contiguous(), requires_grad_() and the like: the array itself."""
    return array(x)


def clone(x: Value) -> Tracer:
    """A new array of the same values, which may be written into."""
    x = array(x)
    out = Tracer(x.node, x.container, x.device)
    out.fresh = True
    return out


def detach(x: Value) -> Tracer:
    """The same memory without a gradient."""
    x = array(x)
    return opaque_view(x, stop_gradient(x).node)


# --- what an array is -----------------------------------------------------------------------------------------------


def dtype_of(x: Tracer) -> Any:
    """The element type in the words of the array's library."""
    torch = loaded_torch()
    if torch is not None and x.container != "numpy":
        return getattr(torch, x.kind.name)
    if x.kind is dtypes.bfloat16:
        return x.kind
    import numpy as np

    return np.dtype(x.kind.name)


def device_of(x: Tracer) -> Any:
    torch = loaded_torch()
    return x.device if torch is None or x.container == "numpy" else torch.device(x.device)


def size(x: Tracer, axis: Any = None) -> Any:
    """torch's size(): the shape, or one extent."""
    return SymbolicShape(x.node.shape) if axis is None else SymbolicShape(x.node.shape)[axis]


def numel(x: Tracer) -> Any:
    return symbolic(product(x.node.shape))


def dim(x: Tracer) -> int:
    return x.ndim


def is_floating_point(x: Tracer) -> bool:
    return x.kind.is_float


def element_size(x: Tracer) -> int:
    return x.kind.itemsize


def requires_grad(x: Tracer) -> bool:
    """Whether torch would differentiate through this value."""
    current().asked_for_gradient = True
    return needs_gradient((current().written_out(x.node),))[0]


def needs_gradient(nodes: tuple[Node, ...]) -> tuple[bool, ...]:
    """For each node, whether a differentiable path leads to it from an input that requires a gradient."""
    wanted, carries = current().arguments, current().carries
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node in carries:
            continue
        if isinstance(node, Leaf):
            abstract = wanted.get(node)
            carries[node] = abstract is not None and abstract.requires_grad
        elif getattr(node, "op", None) == "stop_gradient" or not node.dtype.is_float:
            carries[node] = False
        elif unknown := [a for a in node.args if a not in carries]:
            stack += [node, *unknown]
        else:
            carries[node] = any(carries[a] for a in node.args)
    return tuple(carries[n] for n in nodes)


def known(x: Tracer, what: str, hint: str) -> bool | int | float:
    """The value of a 0-d array that depends on nothing but sizes; assumes those sizes.

    Args:
        what: needs it, and a hint, for the error.

    Raises:
        TraceError: it depends on an argument.
    """
    root = current().written_out(x.node)
    for node in reachable((root,)):
        if isinstance(node, Leaf) and isinstance(node.source, Input):
            if x.container == "scalar":
                hint = f"make it static: @tgc.jit(static_argnames=...), or {hint}"
            raise TraceError(
                f"{what} needs a value that exists only when the compiled function runs",
                line=current().error_line(),
                hint=hint,
            )
    if any(d != 1 for d in x.node.shape):
        raise shape_error("only arrays of one element can be converted to a number")
    return _evaluated(root)


def _evaluated(root: Node) -> bool | int | float:
    from tgc.ir.evaluate import evaluate

    trace = current()
    for node in reachable((root,)):
        for dim in _dims(node):
            for name in sorted(symbols(dim)):
                trace.sizes.fix(Size.symbol(name))
    graph = trace.builder.graph("known", (), (root,))
    value = evaluate(graph, (), binding=trace.sizes.hints)[0].reshape(-1)[0]
    if root.dtype is dtypes.bool_:
        return bool(value)
    return float(value) if root.dtype.is_float else int(value)


def _dims(node: Node) -> tuple[Dim, ...]:
    if (
        isinstance(node, Leaf)
        and isinstance(node.source, Const)
        and isinstance(node.source.value, Size)
    ):
        return (*node.shape, node.source.value)
    return node.shape


def item(x: Tracer) -> bool | int | float:
    return known(x, "item()", CONVERT_HINT)


def refuse(x: Tracer) -> Any:
    raise TraceError(
        "numpy(), tolist() or data access needs values that exist only when the compiled function runs",
        line=current().error_line(),
        hint="return the array and convert it after the call",
    )
