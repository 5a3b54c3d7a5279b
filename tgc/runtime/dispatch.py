"""The call path of a compiled function: from arguments to prepared kernels.

A call is looked up three times, each lookup seldom needing the next:

1. by the exact types of its leaves (shape, strides, dtype, device, requires_grad, ...): a prepared runner;
2. by assumptions: the traces made so far, each valid for all sizes that satisfy what the user's Python asked;
3. by regime: the emitted sources of a trace (see `program.py`).

Most calls are like one of the last few, or like the last one with the same looks, and are recognised before any of
this, without making a key: see `guarded.py`.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tgc import trees
from tgc.runtime.build import module_of
from tgc.runtime.cache import Entry, key_of
from tgc.runtime.captures import Get, Guards, Same, Scalar, getter_of
from tgc.runtime.collection import paused
from tgc.runtime.donation import check_donated
from tgc.runtime.guarded import MISS, Guarded, Prepared, guarded
from tgc.runtime.program import Compiler, Program, Slot, shape_of
from tgc.runtime.runners import Results, Runner, runner_of, separate
from tgc.runtime.tensors import check_dense, device_of, torch_mode
from tgc.runtime.tensors import container_of as container_of_all
from tgc.runtime.watch import Watch
from tgc.settings import current, override
from tgc.trace.abstract import Abstract, container_of, is_torch
from tgc.trace.guards import Assumption, bind, hold
from tgc.trace.run import Traced, trace
from tgc.trace.state import active
from tgc.trace.tracer import Tracer

_MEMO_LIMIT = 4096
_PLAIN = frozenset((bool, int, float, str, type(None), tuple, list, dict))
_RECENT = 4  # guarded calls that are tried before a key is made
_ndarray = np.ndarray


@dataclass(frozen=True)
class Stats:
    """How often a function was traced, and how many emitted sources and compiled kernels serve it."""

    traces: int
    sources: int
    binaries: int


@dataclass(frozen=True)
class Record:
    """One trace: what it was made for, and how its program is fed and its results returned. It holds no data.

    `inputs` are positions among the leaves of a call and, after them, the captured arrays, whose types are `captured`.
    `draws`: whether its last input is a seed, bound at each call.
    `required`: which inputs required a gradient, if the function's Python asked.
    """

    signature: Any
    captured: tuple[Any, ...]
    required: tuple[bool, ...] | None
    abstracts: tuple[Abstract, ...]
    assumptions: tuple[Assumption, ...]
    program: Program
    inputs: tuple[int, ...]
    results: Results
    draws: bool


@dataclass
class _Entry:
    """A prepared call: its runner, the leaves that takes, and its guarded call if that may be kept."""

    runner: Runner
    inputs: tuple[int, ...]
    guarded: Guarded | None = None


class Dispatcher:
    """The traces and prepared calls of one function."""

    def __init__(
        self,
        function: Callable[..., Any],
        compiler: Compiler,
        *,
        backend: str | None = None,
        static_argnames: tuple[str, ...] = (),
        donate_argnames: tuple[str, ...] = (),
    ) -> None:
        self.function, self.compiler, self.backend = function, compiler, backend
        self.static_argnames, self.donate_argnames = static_argnames, donate_argnames
        self._parameters = _parameters(function) if static_argnames else ()
        self._memo: dict[Any, _Entry] = {}
        self._recent: tuple[Guarded, ...] = (_no_call,)
        self._later: Guarded = _no_call  # the last one that served, but the first of the recent
        self._by_looks: dict[Any, Guarded] = {}
        self._records: list[Record] = []
        self._captures: list[Get] = []
        self._guards = Guards(None)
        self._lock = threading.RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recent = self._recent
        result = recent[0](args, kwargs)
        if result is not MISS:
            return result
        for call in recent[1:]:
            result = call(args, kwargs)
            if result is not MISS:
                if call is self._later:  # calls that take turns are to stay as they are
                    self._recent = (call, *[c for c in recent if c is not call])
                self._later = call
                return result
        earlier = self._by_looks.get(_looks(args, kwargs))
        if earlier is not None:
            result = earlier(args, kwargs)
            if result is not MISS:
                self._recent = (earlier, *self._recent[: _RECENT - 1])
                return result
        return self._general(args, kwargs)

    def stats(self) -> Stats:
        """See `Stats`."""
        with self._lock:
            entries: dict[str, Entry] = {}
            for record in self._records:
                entries |= record.program.entries()
            binaries = sum(_binaries(module_of(e)) for e in entries.values())
            return Stats(len(self._records), len(entries), binaries)

    # --- the long way ---

    def _general(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if active() is not None or current().disable:
            return self.function(*args, **kwargs)
        leaves, definition = _flat(args, kwargs)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self.function(*args, **kwargs)
        given = len(leaves)
        leaves += [get() for get in self._captures]
        entry = self._memo.get(self._key(leaves, definition, args, kwargs))
        if entry is None:
            with self._lock, paused():
                key = self._key(leaves, definition, args, kwargs)
                entry = self._memo.get(key) or self._prepare(args, kwargs, leaves, definition)
        leaves = leaves[:given] + [get() for get in self._captures]
        call = self._remember(entry, args, kwargs, leaves, definition)
        result = MISS if call is None else call(args, kwargs)
        return entry.runner.run(*leaves) if result is MISS else result

    def _remember(
        self,
        entry: _Entry,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        leaves: list[Any],
        definition: Any,
    ) -> Guarded | None:
        """Put an entry's guarded call before those of the last calls. One that was there, and refused, is made anew."""
        call = entry.guarded
        refused = call is None or call in self._recent
        recent = [c for c in self._recent if c is not call and c is not _no_call]
        if refused:
            call = self._guarded(entry, args, kwargs, leaves, definition)
        if call is not None:
            self._recent = (call, *recent[: _RECENT - 1])
            self._by_looks[_looks(args, kwargs)] = call
        return call

    def _guarded(
        self,
        entry: _Entry,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        leaves: list[Any],
        definition: Any,
    ) -> Guarded | None:
        given: list[Any] = leaves[: definition.leaves]
        holders = [leaf for leaf in given if _is_holder(leaf)]
        watch = Watch()
        self._guards(holders, watch)
        positional, named = definition.children if kwargs else (definition, None)
        call = guarded(
            Prepared(
                positional,
                named,
                leaves,
                self._static_leaves(args, kwargs),
                tuple(
                    (watch.reader(get()) or get) if len(given) + k in entry.inputs else None
                    for k, get in enumerate(self._captures)
                ),
                watch,
                entry.runner.body,
                self._gone,
            )
        )
        if not holders:  # which a guarded call does not outlive
            entry.guarded = call
        return call

    def _gone(self, _: Any) -> None:
        """Drop the guarded calls: an object among some arguments is no more, and what it held shall go."""
        self._recent, self._later = (_no_call,), _no_call
        self._by_looks.clear()

    def _key(
        self, leaves: Sequence[Any], definition: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The exact types of a call."""
        torch = torch_mode() if any(is_torch(leaf) for leaf in leaves) else None
        types = [_exact(leaf) for leaf in leaves]
        watched = self._watched(leaves[: definition.leaves])
        return (
            override(),
            definition,
            torch,
            self._static(args, kwargs),
            watched,
            *types,
        )

    def _watched(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """What the function sees in globals, cells, and objects among its arguments."""
        return self._guards([leaf for leaf in leaves if _is_holder(leaf)])

    def _static_leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> frozenset[int]:
        """Which leaves belong to the arguments in `static_argnames`."""
        found, start = set[int](), 0
        for name, value in (*zip(self._parameters, args), *kwargs.items()):
            count = len(trees.flatten(value)[0])
            if name in self.static_argnames:
                found.update(range(start, start + count))
            start += count
        return frozenset(found)

    def _static(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """The values of the arguments in `static_argnames`."""
        if not self.static_argnames:
            return ()
        given = dict(zip(self._parameters, args)) | kwargs
        chosen = [given[name] for name in self.static_argnames if name in given]
        return tuple(_value_key(x) for value in chosen for x in trees.flatten(value)[0])

    def _signature(
        self, leaves: Sequence[Any], definition: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """What a trace is made for: everything of the exact key but sizes, strides and what requires a gradient."""
        torch = torch_mode() if any(is_torch(leaf) for leaf in leaves) else None
        types = [_loose(leaf) for leaf in leaves[: definition.leaves]]
        watched = self._watched(leaves[: definition.leaves])
        return (definition, torch, self._static(args, kwargs), watched, *types)

    def _prepare(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        leaves: list[Any],
        definition: Any,
    ) -> _Entry:
        device_of(leaves)
        record = self._find(self._signature(leaves, definition, args, kwargs), leaves)
        if record is None:  # a name may now be bound to something that has other names
            self._guards = Guards(self.function)
            signature = self._signature(leaves, definition, args, kwargs)
            record = self._find(signature, leaves) or self._trace(
                signature, args, kwargs, leaves[: definition.leaves]
            )
        leaves = leaves[: definition.leaves] + [get() for get in self._captures]
        container = container_of_all([leaves[i] for i in record.inputs])
        names = [a.name for a in record.abstracts]
        if record.results.donated:
            check_donated(record.results.donated, [leaves[i] for i in record.inputs], names)
        runner = runner_of(
            record.program,
            record.inputs,
            record.results,
            leaves,
            container,
            self.backend,
            names=names,
            draws=record.draws,
        )
        entry = _Entry(runner, record.inputs)
        if len(self._memo) >= _MEMO_LIMIT:
            self._memo.clear()
        if len(self._by_looks) >= _MEMO_LIMIT:
            self._by_looks.clear()
        self._memo[self._key(leaves, definition, args, kwargs)] = entry
        return entry

    def _find(self, signature: Any, leaves: Sequence[Any]) -> Record | None:
        for record in self._records:
            if record.signature != signature:
                continue
            values = [leaves[i] for i in record.inputs]
            captured = values[len(values) - len(record.captured) :]
            if record.captured != tuple(map(_loose, captured)):
                continue
            if record.required not in (None, tuple(map(_requires, values))):
                continue
            if not all(_same_rank(a, v) for a, v in zip(record.abstracts, values)):
                continue
            sizes = bind(record.abstracts[: len(values)], [shape_of(v) for v in values])
            if sizes is not None and hold(record.assumptions, sizes):
                return record
        return None

    def _trace(
        self, signature: Any, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any]
    ) -> Record:
        traced = trace(
            self.function,
            args,
            kwargs,
            static_argnames=self.static_argnames,
            donate_argnames=self.donate_argnames,
            derive=self.compiler.derived,
        )
        inputs = [*traced.places, *self._capture(traced.captured, leaves)]
        program, results = program_of(traced, self.compiler)
        captured = tuple(map(_loose, traced.captured))
        values = (*traced.values, *traced.captured)
        record = Record(
            signature,
            captured,
            tuple(map(_requires, values)) if traced.asked_for_gradient else None,
            traced.abstracts,
            traced.assumptions,
            program,
            tuple(inputs),
            results,
            traced.draws,
        )
        self._records.append(record)
        return record

    def _capture(self, captured: Sequence[Any], leaves: list[Any]) -> list[int]:
        """Positions of captured arrays behind the leaves; each is found by name, so that rebinding is seen."""
        places = []
        known = {id(get()): k for k, get in enumerate(self._captures)}
        for value in captured:
            if id(value) not in known:
                holders = [leaf for leaf in leaves if _is_holder(leaf)]
                known[id(value)] = len(self._captures)
                self._captures.append(getter_of(value, self.function, holders))
                self._memo.clear()
            places.append(len(leaves) + known[id(value)])
        return places


def program_of(traced: Traced, compiler: Compiler) -> tuple[Program, Results]:
    """The program of a trace: only what must be computed, each value once."""
    outputs, results = separate(traced.graph, traced.out_tree, traced.out_containers)
    graph = replace(traced.graph, outputs=outputs, aliases=())
    numbers = tuple(a.name for a in traced.abstracts if a.container == "scalar")
    program = Program(
        key_of(str(graph), repr(numbers)),
        tuple(Slot(a.dtype, a.shape) for a in traced.abstracts),
        tuple(Slot(o.dtype, o.shape) for o in outputs),
        lambda: compiler.derived(graph),
        compiler,
        numbers=numbers,
    )
    return program, results


# --- keys -----------------------------------------------------------------------------------------


def _flat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], trees.TreeDef]:
    """The leaves of a call's arguments, and their structure: that of `args`, or of both."""
    leaves, positional = trees.flatten(args)
    if not kwargs:
        return leaves, positional
    more, named = trees.flatten(kwargs)
    count = positional.leaves + named.leaves
    return leaves + more, trees.TreeDef("tuple", children=(positional, named), leaves=count)


def _no_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """In the place of a guarded call where there is none."""
    return MISS


def _looks(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """What tells most kinds of calls apart and costs little: shapes, classes, and which objects."""
    found: list[Any] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        kind = value.__class__
        if kind in _PLAIN:
            found.append(kind)
        else:
            found.append(value.shape if hasattr(kind, "shape") else id(value))
    return tuple(found)


def _exact(leaf: Any) -> Any:
    if isinstance(leaf, _ndarray):
        return (leaf.__class__, leaf.dtype, leaf.shape, leaf.strides)
    if is_torch(leaf):
        check_dense(leaf)
        return (
            leaf.__class__,
            leaf.dtype,
            leaf.shape,
            leaf.stride(),
            leaf.device,
            leaf.requires_grad,
            leaf.is_neg(),
        )
    return _loose(leaf)


def _loose(leaf: Any) -> Any:
    if isinstance(leaf, _ndarray):
        return (leaf.__class__, leaf.dtype, leaf.ndim)
    if is_torch(leaf):
        return (leaf.__class__, leaf.dtype, leaf.ndim, leaf.device)
    if type(leaf) in (float, int):
        return type(leaf)
    if isinstance(leaf, np.generic):
        return (leaf.__class__, leaf.dtype)
    return _value_key(leaf)


def _value_key(value: Any) -> Any:
    """A static value: by equality where it has one, else by identity (held weakly where that is possible)."""
    if isinstance(value, bool | int | float | str | bytes | type | None):
        return (type(value), value.hex() if isinstance(value, float) else value)
    mode = getattr(value, "training", None)  # of a torch module
    try:
        hash(value)
        return (type(value), mode, weakref.ref(value))
    except TypeError:
        return (type(value), mode, Same(value))


def _is_holder(leaf: Any) -> bool:
    """Whether a leaf is an object in which the function may find more."""
    return not isinstance(leaf, Scalar) and container_of(leaf) is None


def _requires(value: Any) -> bool:
    return is_torch(value) and bool(value.requires_grad)


def _same_rank(abstract: Any, value: Any) -> bool:
    return len(abstract.shape) == len(shape_of(value))


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _binaries(module: Any) -> int:
    """How many compiled kernels a module holds: variants of its Triton kernels, or the module itself on numpy."""
    kernels = [k for k in vars(module).values() if hasattr(k, "device_caches")]
    if not kernels:
        return 1
    return sum(len(cache[0]) for k in kernels for cache in k.device_caches.values())
