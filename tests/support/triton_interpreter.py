"""Run unmodified Triton kernels, and the host functions that launch them, on CPU tensors; watch every access.

    with interpreting() as trace:
        y = emitted_module.softmax(x)          # launches kernels on CPU tensors
    trace.of(x).read_once                      # every element loaded by exactly one lane

Triton ships an interpreter, meant for a whole process (an environment variable read at import). Used on single
kernels it leaves `triton.language` patched, after which nothing compiles; and it differs from the GPU where emitted
kernels need it not to. `interpreting` borrows its numpy implementation of the operations and

- routes every launch (`kernel[grid](...)`) and call of a `@triton.jit` function to it, patching `triton.language` only
  while a kernel runs, so that the offline compiler works before, between and after launches;
- supplies libdevice (`libdevice_on_cpu`), fma with one rounding, bf16 arithmetic and casts rounded to nearest even,
  float-to-int casts that saturate, `tl.maximum` that drops NaN unless told not to, unsigned `umulhi`, bool and float
  arguments typed as a launch types them, and loop variables that are tensors as on the GPU;
- folds any combine function over whole blocks, pair by pair in order (associativity is all it relies on), where the
  stock interpreter takes 0.1 ms an element;
- refuses launch options that no backend knows, and accesses outside the tensors passed to the launch.

It is not a compiler: what only the compiler rejects (types that change round a loop) passes here. Nor does it show the
precision of the GPU's instructions; that is read off the PTX.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.backends.amd.compiler import HIPOptions
from triton.backends.nvidia.compiler import CUDAOptions
from triton.language.extra import libdevice
from triton.runtime import interpreter as stock
from triton.runtime.jit import JITFunction

from tests.support import libdevice_on_cpu

Array = np.ndarray
_LAUNCH_OPTIONS = {*CUDAOptions.__dataclass_fields__, *HIPOptions.__dataclass_fields__}
_MISSING = object()


class OutOfBounds(AssertionError):
    """A kernel touched memory that belongs to none of the tensors it was given."""


@dataclass(frozen=True)
class Event:
    """The active lanes of one load, store or atomic of one program."""

    kind: str  # "load", "store" or "atomic"
    program: tuple[int, int, int]
    addresses: Array  # one per active lane
    itemsize: int


@dataclass
class Launch:
    """One launch: what was passed, and every access made."""

    kernel: str
    grid: tuple[int, int, int]
    tensors: dict[str, torch.Tensor]  # by parameter; kept alive, so addresses stay theirs
    events: list[Event] = field(default_factory=list)
    out_of_bounds_lanes: int = 0

    def of(self, tensor: Any) -> Accesses:
        """Accesses to one tensor in this launch."""
        return _accesses([self], tensor)


@dataclass(frozen=True)
class Accesses:
    """What was done to one tensor. Lanes count active lanes; unique ones count distinct elements."""

    elements: int  # distinct elements: a broadcast dimension counts once
    load_lanes: int
    unique_loads: int
    store_lanes: int
    unique_stores: int
    atomic_lanes: int
    write_conflicts: int  # stores beyond the first to the same element in the same launch
    races: int  # elements that one program loads and another stores in the same launch
    stray_lanes: (
        int  # lanes within the tensor's extent but on no element of it (between the rows of a view)
    )
    bytes_loaded: int
    bytes_stored: int

    @property
    def read_once(self) -> bool:
        """Every element loaded, by one lane."""
        return self.load_lanes == self.unique_loads == self.elements

    @property
    def written_once(self) -> bool:
        """Every element stored, by one lane."""
        return self.store_lanes == self.unique_stores == self.elements


@dataclass
class Trace:
    """All launches within one `interpreting` block, in order."""

    strict: bool
    launches: list[Launch] = field(default_factory=list)

    @property
    def kernels(self) -> list[str]:
        """Names of the kernels launched, in order."""
        return [launch.kernel for launch in self.launches]

    @property
    def out_of_bounds_lanes(self) -> int:
        return sum(launch.out_of_bounds_lanes for launch in self.launches)

    def of(self, tensor: Any) -> Accesses:
        """Accesses to one tensor over all launches. A torch tensor or numpy array passed to a launch, or a view."""
        return _accesses(self.launches, tensor)

    def report(self, **tensors: Any) -> dict[str, Accesses]:
        """Accesses by name: `trace.report(x=x, y=y)["x"].read_once`."""
        return {name: self.of(tensor) for name, tensor in tensors.items()}


@contextlib.contextmanager
def interpreting(*, strict: bool = True) -> Iterator[Trace]:
    """Launches of Triton kernels run on the CPU within the block; their accesses are in the trace it yields.

    Args:
        strict: raise OutOfBounds at the first access outside the tensors of a launch. Otherwise such lanes are
            counted and left undone (loads yield the fill value, stores are dropped).
    """
    trace = Trace(strict)
    session = _Session(trace)
    patches = _Patches()
    patches.set_attr(JITFunction, "run", session.launch)
    patches.set_attr(JITFunction, "__call__", session.call)
    try:
        yield trace
    finally:
        patches.restore()


class _Patches:
    """Attributes set for a while. Restores what an object's own dictionary held, not what it inherited."""

    def __init__(self) -> None:
        self._changes: list[tuple[Any, str, Any]] = []

    def set_attr(self, owner: Any, name: str, value: Any) -> None:
        self._changes.append((owner, name, vars(owner).get(name, _MISSING)))
        setattr(owner, name, value)

    def restore(self) -> None:
        while self._changes:
            owner, name, before = self._changes.pop()
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


class _Session:
    """State of one `interpreting` block: rewritten kernels, and the launch being run."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.current: Launch | None = None
        self.bounds: list[tuple[int, int, str]] = []
        self._rewritten: dict[int, Callable[..., Any]] = {}
        self._kept: list[JITFunction] = []  # ids stay theirs
        self.launch = self._make_launch()
        self.call = self._make_call()

    def _make_launch(self) -> Callable[..., None]:
        def run(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
            if warmup:
                return
            self._run(kernel, grid, args, kwargs)

        return run

    def _make_call(self) -> Callable[..., Any]:
        def call(function: JITFunction, *args: Any, **kwargs: Any) -> Any:
            if self.current is None:
                raise RuntimeError(f"{function.__name__} is a device function: launch a kernel")
            return self._python_of(function)(*args, **kwargs)

        return call

    def _python_of(self, function: JITFunction) -> Callable[..., Any]:
        """The function's body as plain Python, rewritten once."""
        if id(function) not in self._rewritten:
            module = function.fn.__globals__
            before = set(module)
            body = stock.FunctionRewriter(function.fn).rewrite_ast()
            # The rewriter adds names to the module. The body gets a namespace of its own instead, where `range` is
            # the kernels' and not Python's, as host functions of the module need that.
            namespace = {**module, "range": _tensor_range}
            for name in set(module) - before:
                del module[name]
            self._rewritten[id(function)] = types.FunctionType(
                body.__code__, namespace, body.__name__, body.__defaults__
            )
            self._kept.append(function)
        return self._rewritten[id(function)]

    def _run(
        self, kernel: JITFunction, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self.current is not None:
            raise RuntimeError("a kernel cannot launch another")
        names = list(inspect.signature(kernel.fn).parameters)
        unknown = set(kwargs) - set(names) - _LAUNCH_OPTIONS
        if unknown:
            raise TypeError(
                f"{kernel.__name__} has no parameter or launch option {sorted(unknown)}"
            )
        passed = {n: v for n, v in kwargs.items() if n in names}
        bound = inspect.getcallargs(kernel.fn, *args, **passed)
        bound = {n: torch.from_numpy(v) if isinstance(v, Array) else v for n, v in bound.items()}
        sizes = tuple(int(n) for n in (grid(bound) if callable(grid) else grid))
        if not 1 <= len(sizes) <= 3:
            raise ValueError(f"a grid has one to three dimensions, not {len(sizes)}")
        sizes += (1,) * (3 - len(sizes))
        tensors = {n: v for n, v in bound.items() if isinstance(v, torch.Tensor)}
        for name, tensor in tensors.items():
            if tensor.device.type != "cpu":
                raise ValueError(f"argument {name} is on {tensor.device}: only CPU tensors here")
        self.bounds = [(*_extent(t), n) for n, t in tensors.items() if t.numel()]
        launch = Launch(kernel.__name__, sizes, tensors)
        self.trace.launches.append(launch)
        constants = {p.name for p in kernel.params if p.is_constexpr}
        declared = {p.name: p.annotation_type for p in kernel.params}
        body = self._python_of(kernel)
        patches = _Patches()
        self.current = launch
        try:
            _patch_language(self, patches)
            arguments = {
                n: v if n in constants else _argument(v, declared[n]) for n, v in bound.items()
            }
            stock.interpreter_builder.set_grid_dim(*sizes)
            with np.errstate(all="ignore"):
                for program in np.ndindex(*sizes):
                    stock.interpreter_builder.set_grid_idx(*program)
                    body(**arguments)
        finally:
            self.current = None
            patches.restore()

    def permitted(self, kind: str, pointers: Any, mask: Array) -> Array:
        """Record one access; the mask without the lanes that are out of bounds."""
        assert self.current is not None
        itemsize = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        addresses, mask = np.broadcast_arrays(pointers.data, mask)
        inside = np.zeros(addresses.shape, bool)
        for low, high, _ in self.bounds:
            inside |= (addresses >= low) & (addresses + np.uint64(itemsize) <= high)
        program = stock.interpreter_builder.grid_idx
        outside = mask & ~inside
        if outside.any():
            self.current.out_of_bounds_lanes += int(outside.sum())
            if self.trace.strict:
                raise OutOfBounds(
                    self._complaint(kind, program, int(addresses[outside][0]), itemsize)
                )
        active = mask & inside
        self.current.events.append(Event(kind, program, addresses[active].ravel(), itemsize))
        return active

    def _complaint(self, kind: str, program: tuple[int, ...], address: int, itemsize: int) -> str:
        assert self.current is not None
        text = f"{self.current.kernel}, program {program}: {kind} out of bounds"
        if not self.bounds:
            return text
        spans = [(int(low), int(high), name) for low, high, name in self.bounds]
        low, high, name = min(spans, key=lambda s: max(s[0] - address, address - s[1]))
        at, size = (address - low) // itemsize, (high - low) // itemsize
        return f"{text}, at element {at} of {name}, which spans {size}"


def _extent(tensor: torch.Tensor) -> tuple[np.uint64, np.uint64]:
    """Addresses of the first byte of a tensor and the one after its last."""
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride()))
    low = tensor.data_ptr()
    return np.uint64(low), np.uint64(low + (last + 1) * tensor.element_size())


def _argument(value: Any, declared: str = "") -> Any:
    """A launch argument as the kernel sees it: ints int32 or int64, bools int1, tensors pointers, floats fp32 unless
    the parameter is annotated as fp64."""
    if isinstance(value, bool):
        return tl.tensor(stock.TensorHandle(np.array([value]), tl.int1), tl.int1)
    if isinstance(value, float) and declared == "fp64":
        return tl.tensor(stock.TensorHandle(np.array([value], np.float64), tl.float64), tl.float64)
    if isinstance(value, float):
        return tl.tensor(stock.TensorHandle(np.array([value], np.float32), tl.float32), tl.float32)
    return stock._implicit_cvt(value)


def _accesses(launches: list[Launch], tensor: Any) -> Accesses:
    tensor = torch.from_numpy(tensor) if isinstance(tensor, Array) else tensor
    elements = _element_addresses(tensor)
    low, high = _extent(tensor) if tensor.numel() else (np.uint64(0), np.uint64(0))
    lanes = dict.fromkeys(("load", "store", "atomic"), 0)
    moved = dict.fromkeys(("load", "store", "atomic"), 0)
    touched: dict[str, list[Array]] = {"load": [], "store": [], "atomic": []}
    conflicts = races = stray = 0
    for launch in launches:
        stored: list[Array] = []
        readers: dict[int, set[Any]] = {}
        writers: dict[int, set[Any]] = {}
        for event in launch.events:
            near = event.addresses[(event.addresses >= low) & (event.addresses < high)]
            here = near[np.isin(near, elements)]
            stray += len(near) - len(here)
            lanes[event.kind] += len(here)
            moved[event.kind] += len(here) * event.itemsize
            touched[event.kind].append(here)
            if event.kind == "store":
                stored.append(here)
            side = {"load": readers, "store": writers}.get(event.kind)
            for address in here.tolist() if side is not None else ():
                side.setdefault(address, set()).add(event.program)
        if stored:
            written = np.concatenate(stored)
            conflicts += len(written) - len(np.unique(written))
        races += sum(bool(readers[a] - w or len(w) > 1) for a, w in writers.items() if a in readers)
    unique = {k: len(np.unique(np.concatenate(v))) if v else 0 for k, v in touched.items()}
    return Accesses(
        elements=len(elements),
        load_lanes=lanes["load"],
        unique_loads=unique["load"],
        store_lanes=lanes["store"],
        unique_stores=unique["store"],
        atomic_lanes=lanes["atomic"],
        write_conflicts=conflicts,
        races=races,
        stray_lanes=stray,
        bytes_loaded=moved["load"],
        bytes_stored=moved["store"],
    )


def _element_addresses(tensor: torch.Tensor) -> Array:
    """Distinct addresses of a tensor's elements, sorted."""
    addresses = np.array([tensor.data_ptr()], np.int64)
    for size, stride in zip(tensor.shape, tensor.stride()):
        steps = np.arange(size, dtype=np.int64) * stride * tensor.element_size()
        addresses = (addresses[:, None] + steps).ravel()
    return np.unique(addresses).astype(np.uint64)


# --- the language, while a kernel runs --------------------------------------------------------------------------


def _patch_language(session: _Session, patches: _Patches) -> None:
    """Point `triton.language` at numpy: the stock patches, then the corrections."""
    # Members such as x.sum(0) are JITFunctions in the class dictionary, which do not bind.
    for name, member in list(vars(tl.tensor).items()):
        if isinstance(member, JITFunction):
            patches.set_attr(tl.tensor, name, lambda self, *a, _f=member, **k: _f(self, *a, **k))
    for module in (tl, tl.core, tl.math):
        stock._patch_builtin(module, stock.interpreter_builder, patches)
    stock._patch_builtin(tl.tensor, stock.interpreter_builder, patches)
    stock._patch_builtin(tl.core.tensor_descriptor_base, stock.interpreter_builder, patches)
    stock._patch_lang_tensor(tl.tensor, patches)
    for module in (tl, tl.core):
        stock._patch_lang_core(module, patches)
        patches.set_attr(module, "range", _tensor_range)
    # numpy >= 2.4 converts only 0-d arrays to int, and Triton 3.6 hands it 1-d ones.
    patches.set_attr(tl.tensor, "__index__", lambda self: int(self.handle.data.item()))
    for name, function in libdevice_on_cpu.replacements().items():
        patches.set_attr(libdevice, name, function)
    for name, function in _corrections(session).items():
        patches.set_attr(stock.InterpreterBuilder, name, function)
    patches.set_attr(stock.ReduceOps, "apply_impl", _reduce)
    patches.set_attr(stock.ScanOps, "apply_impl", _scan)


def _tensor_range(
    start: Any, stop: Any = None, step: Any = None, **hints: Any
) -> Iterator[tl.tensor]:
    """The values of a `range` in a kernel: int32 tensors, or int64 where a bound is."""
    start, stop = (0, start) if stop is None else (start, stop)
    bounds = [start, stop, 1 if step is None else step]
    wide = any(isinstance(b, tl.tensor) and b.dtype.primitive_bitwidth == 64 for b in bounds)
    dtype = tl.int64 if wide else tl.int32
    numbers = (b.value if isinstance(b, tl.constexpr) else b for b in bounds)
    for i in builtins.range(*(n.__index__() for n in numbers)):
        data = np.array([i], np.int64 if wide else np.int32)
        yield tl.tensor(stock.TensorHandle(data, dtype), dtype)


def _widen(handle: Any) -> Array:
    """The values of a handle; bf16, which is kept as uint16 bits, as fp32."""
    if handle.dtype.scalar == tl.bfloat16:
        return (handle.data.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return handle.data


def _to_bf16(values: Array) -> Array:
    """fp32 to the bits of bf16, to nearest even, as torch rounds."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return tensor.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16).reshape(values.shape)


def _rounded(values: Array, dtype: Any) -> Any:
    return (
        stock.TensorHandle(_to_bf16(values), dtype)
        if values.dtype == np.float32
        else stock.TensorHandle(values, dtype)
    )


def _to_integer(values: Array, dtype: np.dtype) -> Array:
    """Truncate and saturate, NaN to 0, as `cvt.rzi` does."""
    limits = np.iinfo(dtype)
    whole = np.trunc(values.astype(np.float64))
    inside = (whole >= float(limits.min)) & (whole < float(limits.max) + (limits.max < 2**53))
    result = np.where(inside, whole, 0.0).astype(dtype)
    result = np.where(whole >= float(limits.max), dtype.type(limits.max), result)
    return np.where(whole <= float(limits.min), dtype.type(limits.min), result)


def _corrections(session: _Session) -> dict[str, Callable[..., Any]]:
    """Methods of the stock builder that must trace accesses, or differ from the GPU."""
    builder = stock.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store
    rmw, cas = builder.create_atomic_rmw, builder.create_atomic_cas
    binary, ternary, dot = builder.binary_op, builder.ternary_op, builder.create_dot
    handle = stock.TensorHandle

    def masked_load(self: Any, pointers: Any, mask: Any, other: Any, *rest: Any) -> Any:
        allowed = session.permitted("load", pointers, mask.data.astype(bool))
        return load(self, pointers, handle(allowed, tl.int1), other, *rest)

    def masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        allowed = session.permitted("store", pointers, mask.data.astype(bool))
        return store(self, pointers, value, handle(allowed, tl.int1), *rest)

    def atomic_rmw(self: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        allowed = session.permitted("atomic", pointers, mask.data)
        return rmw(self, op, pointers, value, handle(allowed, tl.int1), *rest)

    def atomic_cas(self: Any, pointers: Any, *rest: Any) -> Any:
        everything = np.ones(pointers.data.shape, bool)
        if not session.permitted("atomic", pointers, everything).all():
            raise OutOfBounds(
                "atomic_cas out of bounds"
            )  # it takes no mask to leave lanes undone with
        return cas(self, pointers, *rest)

    def cast(self: Any, source: Any, target: Any) -> Any:
        values, dtype = _widen(source), target.scalar
        if dtype == tl.bfloat16:
            return handle(_to_bf16(values.astype(np.float32)), dtype)
        wanted = stock._get_np_dtype(dtype)
        if values.dtype.kind == "f" and wanted.kind in "iu":
            return handle(_to_integer(values, wanted), dtype)
        return handle(values.astype(wanted), dtype)

    def binary_op(self: Any, left: Any, right: Any, op: Callable[..., Array]) -> Any:
        if left.dtype.scalar == tl.bfloat16:
            return _rounded(op(_widen(left), _widen(right)), tl.bfloat16)
        if left.data.dtype == right.data.dtype == np.bool_ and op in (
            np.add,
            np.subtract,
            np.multiply,
        ):
            # int1 is an integer of one bit.
            return handle(
                (op(left.data.astype(np.int8), right.data.astype(np.int8)) & 1) != 0, tl.int1
            )
        return binary(self, left, right, op)

    def ternary_op(self: Any, a: Any, b: Any, c: Any, op: Callable[..., Array]) -> Any:
        if op is not np.where and c.dtype.scalar == tl.bfloat16:
            return _rounded(op(_widen(a), _widen(b), _widen(c)), tl.bfloat16)
        return ternary(self, a, b, c, op)

    def fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        values = [_widen(v) for v in (x, y, z)]
        if z.dtype.scalar.is_floating():
            total = libdevice_on_cpu.fused_multiply_add(*values)
            return (
                _rounded(total, tl.bfloat16)
                if z.dtype.scalar == tl.bfloat16
                else handle(total, z.dtype.scalar)
            )
        return handle(values[0] * values[1] + values[2], z.dtype.scalar)

    def clamp(self: Any, x: Any, low: Any, high: Any, propagate_nan: Any) -> Any:
        if propagate_nan == stock._ir.PROPAGATE_NAN.NONE:
            return self.binary_op(self.binary_op(x, low, np.fmax), high, np.fmin)
        return self.ternary_op(x, low, high, np.clip)

    def matrix_product(self: Any, a: Any, b: Any, c: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a = handle(_widen(a), tl.float32)
        if b.dtype.scalar == tl.bfloat16:
            b = handle(_widen(b), tl.float32)
        return dot(self, a, b, c, *rest)

    def umulhi(self: Any, left: Any, right: Any) -> Any:
        dtype = left.data.dtype
        unsigned = np.dtype(f"u{dtype.itemsize}")
        a, b = left.data.view(unsigned).astype(object), right.data.view(unsigned).astype(object)
        high = np.asarray((a * b) >> (8 * dtype.itemsize)).astype(unsigned)
        return handle(high.view(dtype), left.dtype.scalar)

    return {
        "create_masked_load": masked_load,
        "create_masked_store": masked_store,
        "create_atomic_rmw": atomic_rmw,
        "create_atomic_cas": atomic_cas,
        "cast_impl": cast,
        "binary_op": binary_op,
        "ternary_op": ternary_op,
        "create_fma": fma,
        "create_clampf": clamp,
        "create_dot": matrix_product,
        "create_umulhi": umulhi,
        "create_maxnumf": lambda self, a, b: self.binary_op(a, b, np.fmax),
        "create_minnumf": lambda self, a, b: self.binary_op(a, b, np.fmin),
        "create_fneg": lambda self, x: handle(-x.data, x.dtype.scalar),
    }


# --- folds ------------------------------------------------------------------------------------------------------


def _block(data: Array, dtype: Any) -> tl.tensor:
    return tl.tensor(stock.TensorHandle(data, dtype), tl.block_type(dtype, list(data.shape)))


def _combined(
    operation: Any, left: tuple[Array, ...], right: tuple[Array, ...], dtypes: list[Any]
) -> tuple[Array, ...]:
    """The combine function over two tuples of blocks."""
    operands = [_block(d, t) for side in (left, right) for d, t in zip(side, dtypes)]
    results = operation.combine_fn(*operands)
    results = results if isinstance(results, tuple) else (results,)
    return tuple(np.broadcast_to(r.handle.data, d.shape) for r, d in zip(results, left))


def _reduce(operation: Any, inputs: tuple[tl.tensor, ...]) -> list[tl.tensor]:
    """Fold neighbours until one value is left along the axis: relies on associativity only."""
    dtypes = [x.dtype.scalar for x in inputs]
    arrays = tuple(x.handle.data for x in inputs)
    rank = arrays[0].ndim
    axis = operation.axis
    if axis is None:
        arrays, axis = tuple(a.reshape(-1) for a in arrays), 0
    arrays = tuple(np.moveaxis(a, axis, 0) for a in arrays)
    while len(arrays[0]) > 1:  # the length of a block is a power of two
        left, right = tuple(a[0::2] for a in arrays), tuple(a[1::2] for a in arrays)
        arrays = _combined(operation, left, right, dtypes)
    if operation.keep_dims:
        shape_of = lambda a: (
            a.reshape((1,) * rank) if operation.axis is None else np.expand_dims(a[0], axis)
        )
        return [_result(shape_of(a), t) for a, t in zip(arrays, dtypes)]
    return [_result(a[0], t) for a, t in zip(arrays, dtypes)]


def _scan(operation: Any, inputs: tuple[tl.tensor, ...]) -> list[tl.tensor]:
    """Running folds by doubling the reach: relies on associativity only."""
    dtypes = [x.dtype.scalar for x in inputs]
    arrays = tuple(np.moveaxis(x.handle.data, operation.axis, 0) for x in inputs)
    if operation.reverse:
        arrays = tuple(a[::-1] for a in arrays)
    reach = 1
    place = np.arange(len(arrays[0])).reshape(-1, *(1,) * (arrays[0].ndim - 1))
    while reach < len(arrays[0]):
        # Blocks must keep their size, so the first ones wrap round and are put back.
        earlier = tuple(np.roll(a, reach, axis=0) for a in arrays)
        folded = _combined(operation, earlier, arrays, dtypes)
        arrays = tuple(np.where(place < reach, a, f) for a, f in zip(arrays, folded))
        reach *= 2
    if operation.reverse:
        arrays = tuple(a[::-1] for a in arrays)
    return [_result(np.moveaxis(a, 0, operation.axis), t) for a, t in zip(arrays, dtypes)]


def _result(data: Array, dtype: Any) -> tl.tensor:
    if data.ndim == 0:
        return tl.tensor(stock.TensorHandle(data.reshape(1), dtype), dtype)
    return _block(np.ascontiguousarray(data), dtype)
