"""A graph that can be run and differentiated: the unit that dispatch finds and autograd works on.

A `Program` knows the types of its inputs and outputs and a key that identifies it; the graph itself is made only
when something must be compiled. So a derivative of any order whose kernels lie in the cache is loaded without being
derived. For each target it holds its executables, one per regime of sizes, for two uses: `value` (outputs only) and
`pair` (a forward that also returns what its backward wants, and that backward).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from tgc.errors import ShapeError
from tgc.ir.dtypes import DType
from tgc.ir.nodes import Graph, Shape
from tgc.ir.sizes import Atom, Dim, FloorDiv, Guard, PowerOfTwo, Size, evaluate
from tgc.runtime import memory
from tgc.runtime.arrays import empty
from tgc.runtime.build import function_of
from tgc.runtime.cache import Entry, cache, key_of
from tgc.trace.guards import plain

Host = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True)
class Slot:
    """The type of one input or output."""

    dtype: DType
    shape: Shape

    def nbytes(self, sizes: Mapping[str, int]) -> int:
        """Bytes at these sizes."""
        return self.dtype.itemsize * math.prod(evaluate(dim, sizes) for dim in self.shape)


@dataclass(frozen=True)
class Emitted:
    """What a compiler hands back: one module's text and the metadata that says how to call it."""

    source: str
    meta: Mapping[str, Any]


class Compiler(Protocol):
    """The pipeline, as the runtime sees it.

    `target` names a target; `options` is part of the key; `numbers` names the inputs that are Python numbers.
    """

    @property
    def options(self) -> str: ...

    def value(
        self, graph: Graph, target: str, hints: Mapping[str, int], numbers: tuple[str, ...]
    ) -> Emitted: ...

    def pair(
        self,
        graph: Graph,
        wrt: tuple[int, ...],
        target: str,
        hints: Mapping[str, int],
        numbers: tuple[str, ...],
    ) -> Emitted: ...

    def derived(self, graph: Graph) -> Graph: ...

    def vjp(self, graph: Graph, wrt: tuple[int, ...]) -> Graph: ...


@dataclass(frozen=True)
class Value:
    """The outputs of a program, for one regime."""

    run: Host
    guards: tuple[Guard, ...]
    entry: Entry


@dataclass(frozen=True)
class Pair:
    """A forward that returns outputs and saved values, and its backward, for one regime.

    There is no backward where no output has a derivative with respect to the wanted inputs.

    Attributes:
        depends: per output, whether it has a derivative with respect to the wanted inputs.
        keeps: where each value of the backward comes from: ("input", i), ("output", i), ("saved", i) for the i-th
            result of the forward after its outputs, or ("cotangent", i) of the i-th float output.
        results: per input of the program, the position of its cotangent among the backward's results, or None.
    """

    forward: Host
    backward: Host | None
    depends: tuple[bool, ...]
    keeps: tuple[tuple[str, int], ...]
    results: tuple[int | None, ...]
    guards: tuple[Guard, ...]
    entry: Entry


V = TypeVar("V", Value, Pair)


class Program:
    """A pure function over flat inputs, identified by `key`, whose graph `derive` makes when it is needed."""

    def __init__(
        self,
        key: str,
        inputs: tuple[Slot, ...],
        outputs: tuple[Slot, ...],
        derive: Callable[[], Graph],
        compiler: Compiler,
        *,
        numbers: tuple[str, ...] = (),
    ) -> None:
        self.key, self.inputs, self.outputs = key, inputs, outputs
        self.compiler, self.numbers = compiler, numbers
        self.floats = tuple(k for k, o in enumerate(outputs) if o.dtype.is_float)
        self._derive = derive
        self._graph: Graph | None = None
        self._values: dict[str, list[Value]] = {}
        self._pairs: dict[tuple[str, tuple[int, ...]], list[Pair]] = {}
        self._derivatives: dict[tuple[int, ...], Program] = {}
        self._lock = threading.RLock()
        self.bound: dict[Any, Any] = {}

    @property
    def graph(self) -> Graph:
        """The graph, made at the first use."""
        with self._lock:
            if self._graph is None:
                self._graph = self._derive()
            return self._graph

    def sizes(self, values: Sequence[Any]) -> dict[str, int]:
        """The size symbols' extents, from the shapes of the inputs.

        Raises:
            ShapeError: an input does not have its slot's shape.
        """
        return bind(self.inputs, values)

    def value(self, target: str, sizes: Mapping[str, int]) -> Value:
        """The executable for these sizes: from memory, from the cache, or compiled."""
        with self._lock:
            known = self._values.setdefault(target, [])
            return self._find(
                known,
                sizes,
                ("value", target),
                _load_value,
                lambda: self._emit_value(target, sizes),
            )

    def pair(self, target: str, wrt: tuple[int, ...], sizes: Mapping[str, int]) -> Pair:
        """The training pair for these sizes and wanted inputs."""
        with self._lock:
            known = self._pairs.setdefault((target, wrt), [])
            what = ("pair", target, repr(wrt))
            return self._find(
                known, sizes, what, _load_pair, lambda: self._emit_pair(target, wrt, sizes)
            )

    def vjp(self, wrt: tuple[int, ...]) -> Program:
        """The program (inputs, then one cotangent per float output) -> cotangents of the inputs `wrt`."""
        with self._lock:
            found = self._derivatives.get(wrt)
            if found is None:
                found = Program(
                    key_of(self.key, "vjp", repr(wrt)),
                    self.inputs + tuple(self.outputs[k] for k in self.floats),
                    tuple(self.inputs[i] for i in wrt),
                    lambda: self.compiler.vjp(self.graph, wrt),
                    self.compiler,
                    numbers=self.numbers,
                )
                self._derivatives[wrt] = found
            return found

    def entries(self) -> dict[str, Entry]:
        """The emitted modules in use by name, derivatives included."""
        with self._lock:
            used = [v.entry for values in self._values.values() for v in values]
            used += [p.entry for pairs in self._pairs.values() for p in pairs]
            found = {entry.name: entry for entry in used}
            for derivative in self._derivatives.values():
                found |= derivative.entries()
            return found

    def _find(
        self,
        known: list[V],
        sizes: Mapping[str, int],
        what: tuple[str, ...],
        load: Callable[[Entry], V],
        emit: Callable[[], Emitted],
    ) -> V:
        """The executable whose regime holds the sizes."""
        for item in known:
            if holds(item.guards, sizes):
                return item
        key = key_of(self.key, self.compiler.options, *what)
        for entry in cache().load(key):
            if holds(_guards(entry.meta), sizes):
                known.append(load(entry))
                return known[-1]
        emitted = emit()
        loaded = load(cache().store(key, emitted.source, emitted.meta))
        known.append(loaded)
        return loaded

    def _emit_value(self, target: str, sizes: Mapping[str, int]) -> Emitted:
        return self.compiler.value(self.graph, target, sizes, self.numbers)

    def _emit_pair(self, target: str, wrt: tuple[int, ...], sizes: Mapping[str, int]) -> Emitted:
        return self.compiler.pair(self.graph, wrt, target, sizes, self.numbers)


# --- sizes ----------------------------------------------------------------------------------------


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of an array, a tensor or a Python number."""
    return tuple(getattr(value, "shape", ()))


def bind(slots: Sequence[Slot], values: Sequence[Any]) -> dict[str, int]:
    """Size symbols from actual shapes; see `Program.sizes`."""
    shapes = [shape_of(v) for v in values]
    sizes: dict[str, int] = {}
    for slot, shape in zip(slots, shapes, strict=True):
        if len(shape) != len(slot.shape):
            raise ShapeError(f"expected {len(slot.shape)} dimensions, got shape {shape}")
        for dim, extent in zip(slot.shape, shape, strict=True):
            name = plain(dim)
            if name is not None:
                sizes.setdefault(name, extent)
    for slot, shape in zip(slots, shapes, strict=True):
        if any(
            evaluate(dim, sizes) != extent for dim, extent in zip(slot.shape, shape, strict=True)
        ):
            raise ShapeError(f"expected shape {slot.shape}, got {shape}")
    return sizes


@dataclass(frozen=True)
class Known:
    """What a host function is told when it is called.

    Attributes:
        told: the arguments after its inputs.
        addresses: which inputs may be the addresses of their memory.
        exports: its results are DLPack's capsules.
        small: neither its inputs nor its outputs are as large as `memory.LEAST`.
    """

    told: tuple[Any, ...]
    addresses: tuple[bool, ...]
    exports: bool = False
    small: bool = False


def known(
    host: Host,
    program: Program,
    sizes: Mapping[str, int],
    count: int,
    *,
    exported: Callable[..., Any] | None = None,
) -> Known:
    """What a host function of a program, with `count` inputs, can be told.

    Attributes of functions that can be told say so: `sizes`, the symbols, `addresses`, `allocates`: it takes the
    function that it makes its arrays with, and `exports`: that may be `exported`, which makes capsules.
    """
    names = getattr(host, "sizes", None)
    slots = (*program.inputs, *program.outputs)
    small = all(slot.nbytes(sizes) < memory.LEAST for slot in slots)
    if names is None or any(name not in sizes for name in names):
        return Known((), (False,) * count, small=small)
    told: tuple[Any, ...] = tuple(sizes[name] for name in names)
    exports = exported is not None and getattr(host, "exports", False)
    if getattr(host, "allocates", False):
        told += (exported if exports else empty(small=small),)
    return Known(told, getattr(host, "addresses", (False,) * count), exports, small)


def holds(guards: Sequence[Guard], sizes: Mapping[str, int]) -> bool:
    """Whether the sizes lie in a regime."""
    for guard in guards:
        extent = evaluate(guard.size, sizes)
        if guard.low is not None and extent < guard.low:
            return False
        if guard.high is not None and extent > guard.high:
            return False
    return True


# --- metadata -------------------------------------------------------------------------------------


def size_to_json(dim: Dim) -> Any:
    """A size as lists: `[[atoms], coefficient]` per term; a floor division is `[numerator, denominator]`,
    a power of two `[value]`."""
    if isinstance(dim, int):
        return dim
    return [[[_atom_to_json(a) for a in atoms], coefficient] for atoms, coefficient in dim.terms]


def _atom_to_json(atom: Atom) -> Any:
    if isinstance(atom, str):
        return atom
    if isinstance(atom, PowerOfTwo):
        return [size_to_json(atom.value)]
    return [size_to_json(atom.numerator), size_to_json(atom.denominator)]


def size_from_json(data: Any) -> Dim:
    """The inverse of `size_to_json`."""
    if isinstance(data, int):
        return data
    return Size(tuple((tuple(_atom_from_json(a) for a in atoms), c) for atoms, c in data))


def _atom_from_json(data: Any) -> Atom:
    if isinstance(data, str):
        return data
    if len(data) == 1:
        return PowerOfTwo(size_from_json(data[0]))
    return FloorDiv(size_from_json(data[0]), size_from_json(data[1]))


def guards_to_json(guards: Sequence[Guard]) -> list[Any]:
    """Guards as the metadata line holds them."""
    return [[size_to_json(g.size), g.low, g.high] for g in guards]


def _guards(meta: Mapping[str, Any]) -> tuple[Guard, ...]:
    return tuple(Guard(size_from_json(size), low, high) for size, low, high in meta["guards"])


def _load_value(entry: Entry) -> Value:
    return Value(function_of(entry, entry.meta["function"]), _guards(entry.meta), entry)


def _load_pair(entry: Entry) -> Pair:
    meta = entry.meta
    return Pair(
        forward=function_of(entry, meta["forward"]),
        backward=None if meta["backward"] is None else function_of(entry, meta["backward"]),
        depends=tuple(meta["depends"]),
        keeps=tuple((kind, number) for kind, number in meta["keeps"]),
        results=tuple(meta["results"]),
        guards=_guards(meta),
        entry=entry,
    )
