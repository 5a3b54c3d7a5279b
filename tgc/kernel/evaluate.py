"""The reference evaluator of kernels and plans: slow, whole axes at once, and strict.

What it checks while it runs: that no load or store leaves its buffer, that no element is written twice, that none is
read before it is written, and that all of an output is written. It counts what is moved, so that predictions can be
compared with it. It shares nothing with the backends: no tiles, no views, no scratch.

Floats are computed in float64 unless `exact`, when each value has its own type.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tgc.errors import VerifyError
from tgc.ir import dtypes
from tgc.ir.dtypes import DType
from tgc.ir.nodes import identity
from tgc.ir.references import FOLDS, scalar_reference
from tgc.ir.sizes import Size, evaluate, product
from tgc.kernel.ir import (
    Buffer,
    Gathered,
    Index,
    Iota,
    Kernel,
    Load,
    Loop,
    Matmul,
    Op,
    Operand,
    Plan,
    Program,
    Quotient,
    Reduce,
    Remainder,
    Statement,
    Store,
    Term,
)
from tgc.kernel.walk import executions

Array: TypeAlias = npt.NDArray[Any]


@dataclass
class Memory:
    """A buffer as flat memory; `written` says which elements hold something."""

    buffer: Buffer
    data: Array
    written: npt.NDArray[np.bool_]


@dataclass
class Moves:
    """What a kernel moved: elements per buffer, and how many of them were distinct."""

    reads: dict[str, int] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)
    unique_reads: dict[str, int] = field(default_factory=dict)
    _seen: dict[str, set[int]] = field(default_factory=dict)

    def read(self, buffer: str, places: Array, times: int) -> None:
        self.reads[buffer] = self.reads.get(buffer, 0) + places.size * times
        seen = self._seen.setdefault(buffer, set())
        seen.update(places.ravel().tolist())
        self.unique_reads[buffer] = len(seen)

    def write(self, buffer: str, count: int) -> None:
        self.writes[buffer] = self.writes.get(buffer, 0) + count


@dataclass(frozen=True)
class Result:
    """The outputs of a plan, and what each launch moved."""

    outputs: tuple[Array, ...]
    moves: tuple[Moves, ...]


def number_type(dtype: DType, *, exact: bool) -> np.dtype[Any]:
    """The numpy type values of `dtype` are computed in."""
    if dtype.is_float and not exact:
        return np.dtype(np.float64)
    if dtype is dtypes.bfloat16:
        import ml_dtypes

        half: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return half
    return np.dtype(dtype.name)


def evaluate_plan(plan: Plan, inputs: Sequence[Array | float], *, exact: bool = False) -> Result:
    """Run a plan.

    Raises:
        VerifyError: it touched memory outside of a buffer, or wrote an element twice or not at all.
    """
    sizes: dict[str, int] = {}
    arrays = {name: np.asarray(x) for name, x in zip(plan.inputs, inputs, strict=True)}
    for b in plan.bindings:
        array = arrays[b.buffer]
        sizes[b.name] = array.strides[b.dim] // array.itemsize if b.stride else array.shape[b.dim]
    memory = {b.name: _memory(b, sizes, arrays.get(b.name), exact=exact) for b in plan.buffers}
    moves: list[Moves] = []
    with np.errstate(all="ignore"):
        for step in plan.steps:
            if isinstance(step, Matmul):
                _matmul(step, memory, sizes, exact=exact)
            else:
                moves.append(run_kernel(step.kernel, memory, sizes, exact=exact))
    return Result(tuple(array_of(memory[o], sizes) for o in plan.outputs), tuple(moves))


def _places(buffer: Buffer, sizes: Mapping[str, int]) -> Array:
    """The flat offset of each element of a buffer, in its shape."""
    shape = [evaluate(d, sizes) for d in buffer.shape]
    place = np.zeros(shape, np.int64)
    for dim, stride in enumerate(buffer.strides):
        steps = np.arange(shape[dim], dtype=np.int64) * evaluate(stride, sizes)
        place += steps.reshape([-1 if i == dim else 1 for i in range(len(shape))])
    return place


def _memory(b: Buffer, sizes: Mapping[str, int], array: Array | None, *, exact: bool) -> Memory:
    """Flat memory holding `array`, or poison."""
    places = _places(b, sizes)
    length = int(places.max()) + 1 if places.size else 0
    kind = number_type(b.dtype, exact=exact)
    data = np.full(length, np.nan if b.dtype.is_float else 1, kind)
    written = np.zeros(length, np.bool_)
    if array is not None:
        if array.shape != places.shape:
            raise VerifyError(f"{b.name} is declared {places.shape}, and got {array.shape}")
        data[places] = array
        written[places] = True
    return Memory(b, data, written)


def array_of(memory: Memory, sizes: Mapping[str, int]) -> Array:
    """The array a buffer holds.

    Raises:
        VerifyError: an element was never written.
    """
    places = _places(memory.buffer, sizes)
    if not memory.written[places].all():
        raise VerifyError(
            f"{memory.buffer.name}: {int((~memory.written[places]).sum())} elements never written"
        )
    return np.asarray(memory.data[places])


def _matmul(
    step: Matmul, memory: Mapping[str, Memory], sizes: Mapping[str, int], *, exact: bool
) -> None:
    kind = number_type(step.dtype, exact=exact)
    a, b = (array_of(memory[n], sizes).astype(kind) for n in (step.a, step.b))
    out = memory[step.out]
    places = _places(out.buffer, sizes)
    out.data[places] = np.einsum(step.subscripts, a, b)
    out.written[places] = True


def run_kernel(
    kernel: Kernel, memory: Mapping[str, Memory], sizes: Mapping[str, int], *, exact: bool = False
) -> Moves:
    """Run one kernel over flat memories.

    Raises:
        VerifyError: see `evaluate_plan`.
    """
    moves = Moves()
    for ranges in _programs(kernel, sizes):
        _Run(kernel, memory, sizes, exact, ranges, moves).body(kernel.body, ())
    return moves


def _programs(
    kernel: Kernel, sizes: Mapping[str, int]
) -> Iterator[dict[str, tuple[int, int, int]]]:
    """For each program, its number and range along the axes whose programs can be told apart."""
    split = [
        a
        for a in kernel.axes
        if a.split is not None or (a.kind == "grid" and _numbered(kernel, a.name))
    ]
    choices: list[list[tuple[int, int, int]]] = []
    for axis in split:
        extent = evaluate(axis.extent, sizes)
        step = evaluate(axis.block or 1 if axis.split is None else axis.split, sizes)
        choices.append(
            [(p, lo, min(lo + step, extent)) for p, lo in enumerate(range(0, extent, step))]
        )
    for chosen in itertools.product(*choices):
        yield {axis.name: found for axis, found in zip(split, chosen, strict=True)}


def _numbered(kernel: Kernel, axis: str) -> bool:
    return any(f"Program(axis='{axis}')" in repr(s) for s in kernel.body)


@dataclass
class _Run:
    """One program (or all that need not be told apart). Arrays have one dimension per axis of the kernel."""

    kernel: Kernel
    memory: Mapping[str, Memory]
    sizes: Mapping[str, int]
    exact: bool
    ranges: Mapping[str, tuple[int, int, int]]
    moves: Moves
    values: dict[str, Array] = field(default_factory=dict)

    def body(self, body: tuple[Statement, ...], loops: tuple[str, ...]) -> None:
        for s in body:
            if isinstance(s, Loop):
                self.body(s.body, (*loops, s.axis))
                for fold in s.folds:
                    self.values[fold.name] = self._fold(fold)
            elif isinstance(s, Load):
                self.values[s.name] = self._load(s, loops)
            elif isinstance(s, Iota):
                self.values[s.name] = self._index(s.index).astype(number_type(s.dtype, exact=True))
            elif isinstance(s, Op):
                self.values[s.name] = self._op(s)
            elif isinstance(s, Reduce):
                self.values[s.name] = self._fold(s)
            else:
                self._store(s, loops)

    # --- indices ---

    def _range(self, axis: str) -> tuple[int, int]:
        if axis in self.ranges:
            return self.ranges[axis][1:]
        return 0, evaluate(self.kernel.axis(axis).extent, self.sizes)

    def _along(self, axis: str) -> Array:
        shape = [-1 if a.name == axis else 1 for a in self.kernel.axes]
        return np.arange(*self._range(axis), dtype=np.int64).reshape(shape)

    def _index(self, index: Index) -> Array:
        place = np.full([1] * len(self.kernel.axes), evaluate(index.offset, self.sizes), np.int64)
        for term, coefficient in index.terms:
            place = place + self._term(term) * evaluate(coefficient, self.sizes)
        return place

    def _term(self, term: Term) -> Array:
        if isinstance(term, str):
            return self._along(term)
        if isinstance(term, Program):
            return np.asarray(self.ranges[term.axis][0], np.int64)
        if isinstance(term, Gathered):
            return self.values[term.value].astype(np.int64)
        inner, divisor = self._index(term.index), evaluate(term.divisor, self.sizes)
        assert isinstance(term, Quotient | Remainder)
        return inner // divisor if isinstance(term, Quotient) else inner % divisor

    def _full(self, x: Array, axes: tuple[str, ...]) -> Array:
        """Broadcast to the extents of `axes`."""
        shape = []
        for axis in self.kernel.axes:
            low, high = self._range(axis.name)
            shape.append(high - low if axis.name in axes else 1)
        return np.broadcast_to(x, shape)

    def _inside(self, memory: Memory, places: Array, what: str) -> None:
        if places.size and (places.min() < 0 or places.max() >= memory.data.size):
            raise VerifyError(
                f"kernel {self.kernel.name}: a {what} of {memory.buffer.name} at {places.min()}..{places.max()},"
                f" which has {memory.data.size} elements"
            )

    def _times(self, axes: tuple[str, ...], loops: tuple[str, ...]) -> int:
        """How often each element is moved: once per program and turn of a loop that does not know it."""
        once = evaluate(product([self.kernel.axis(a).extent for a in axes]), self.sizes)
        if not once:
            return 0
        times = evaluate(executions(self.kernel, axes, loops), self.sizes) // once
        for name in self.ranges:
            if name not in axes:  # these programs are run one by one
                times //= max(1, evaluate(self.kernel.axis(name).programs, self.sizes))
        return times

    # --- statements ---

    def _operand(self, operand: Operand, kind: np.dtype[Any] | None = None) -> Array:
        if isinstance(operand, str):
            return self.values[operand]
        value = (
            evaluate(operand.value, self.sizes)
            if isinstance(operand.value, Size)
            else operand.value
        )
        dims = [1] * len(self.kernel.axes)
        return np.full(dims, value, kind or number_type(operand.dtype, exact=self.exact))

    def _load(self, s: Load, loops: tuple[str, ...]) -> Array:
        memory = self.memory[s.buffer]
        places = self._full(self._index(s.index), s.axes)
        mask = (
            self._full(self.values[s.mask], s.axes) if s.mask else np.ones(places.shape, np.bool_)
        )
        touched = places[mask]
        self._inside(memory, touched, "load")
        if not memory.written[touched].all():
            raise VerifyError(
                f"kernel {self.kernel.name}: {s.buffer} is read where nothing was written"
            )
        self.moves.read(s.buffer, touched, self._times(s.axes, loops))
        out = np.full(places.shape, s.fill, memory.data.dtype)
        out[mask] = memory.data[touched]
        return out

    def _op(self, s: Op) -> Array:
        args = [self._operand(a) for a in s.args]
        if s.op == "cast":
            return _cast(args[0], s.dtype, exact=self.exact)
        result = scalar_reference(s.op)(*args)
        return np.asarray(result).astype(number_type(s.dtype, exact=self.exact), copy=False)

    def _fold(self, s: Reduce) -> Array:
        value = self._operand(s.value)
        over = tuple(i for i, a in enumerate(self.kernel.axes) if a.name in s.over)
        value = self._full(value, tuple({*s.over, *self._present(value)}))
        initial = identity(s.monoid, s.dtype)
        out = FOLDS[s.monoid].reduce(value, axis=over, keepdims=True, initial=initial)
        return np.asarray(out).astype(value.dtype)

    def _present(self, value: Array) -> list[str]:
        """The axes a value has, by its shape (an axis of extent one may count as missing)."""
        return [a.name for a, d in zip(self.kernel.axes, value.shape, strict=True) if d != 1]

    def _store(self, s: Store, loops: tuple[str, ...]) -> None:
        memory = self.memory[s.buffer]
        places = self._full(self._index(s.index), s.axes)
        self._inside(memory, places, "store")
        if np.unique(places).size != places.size or memory.written[places].any():
            raise VerifyError(
                f"kernel {self.kernel.name}: an element of {s.buffer} is written twice"
            )
        memory.data[places] = self._full(self._operand(s.value), s.axes)
        memory.written[places] = True
        self.moves.write(s.buffer, places.size * self._times(s.axes, loops))


def _cast(x: Array, dtype: DType, *, exact: bool) -> Array:
    """Convert; from floats to integers towards zero, to bool by comparison with zero."""
    if dtype is dtypes.bool_:
        return np.asarray(x != 0)
    return x.astype(number_type(dtype, exact=exact))
