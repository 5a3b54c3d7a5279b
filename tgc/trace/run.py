"""From a Python function to a graph: run it once over tracers.

The function sees its array arguments as tracers; everything else it gets as it is. What it computes becomes the graph
of a `Traced`, with what the call path needs to know: which inputs there are, which arrays were captured, and what the
function's Python relied on.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np

from tgc import trees
from tgc.errors import MutationError, TraceError
from tgc.ir.dtypes import int64
from tgc.ir.nodes import (
    Graph,
    Input,
    Leaf,
    Node,
    View,
)
from tgc.ir.sizes import Dim, substitute
from tgc.trace import protocols
from tgc.trace.abstract import Abstract, container_of
from tgc.trace.core import lift
from tgc.trace.create import needs_gradient
from tgc.trace.guards import Assumption
from tgc.trace.state import (
    Derive,
    Restart,
    Trace,
    active,
    current,
    line_of_code,
    running,
    solve,
)
from tgc.trace.symbolic import SymbolicInt
from tgc.trace.tracer import Tracer
from tgc.trees import TreeDef

MAX_RESTARTS = 64


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced function.

    Attributes:
        graph: its inputs are the array leaves of the arguments in flattening order of `(args, kwargs)`, then the
            captured arrays.
        abstracts: one per input.
        places: for each input that is an argument, its position among the leaves of `(args, kwargs)`.
        values: those leaves.
        captured: tensors and arrays the function took from elsewhere (closures, modules, globals).
        assumptions: relations of sizes the function's Python relied on, beyond the pattern of the abstracts' shapes.
        hints: size symbol -> extent at this call.
        out_tree: the structure of the result; leaves that are no arrays are constants in it.
        out_containers: per output, "torch", "numpy", "spec", or "scalar" (a weakly typed 0-d value).
        out_requires_grad: per output, whether a gradient flows back from it (detached results do not).
        draws: whether the function draws random numbers: the last input is then the seed, and has no value.
        asked_for_gradient: whether the function's Python looked at what requires a gradient.
    """

    graph: Graph
    abstracts: tuple[Abstract, ...]
    places: tuple[int, ...]
    values: tuple[Any, ...]
    captured: tuple[Any, ...]
    assumptions: tuple[Assumption, ...]
    hints: dict[str, int]
    out_tree: TreeDef
    out_containers: tuple[str, ...]
    out_requires_grad: tuple[bool, ...]
    asked_for_gradient: bool = False
    draws: bool = False


def trace(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any] | None = None,
    *,
    static_argnames: Iterable[str] = (),
    donate_argnames: Iterable[str] = (),
    derive: Derive | None = None,
) -> Traced:
    """Trace `fn` for arguments like these: arrays, tensors, numbers, trees of them, or specs.

    The graph's writes are the arrays of the arguments `donate_argnames`, each with the first result of its type and
    shape that no earlier one receives. Derivatives that the function takes are written out at once; given a function
    that writes them out later, they may stay calls.

    Raises:
        TraceError: the function branches on data, or a trace is in progress.
        UnsupportedOpError, ShapeError, DTypeError, DeviceError, MutationError: at the user's line.
    """
    if active() is not None:
        raise TraceError("trace() inside a trace")
    given: dict[str, Dim] = {}
    for _ in range(MAX_RESTARTS):
        attempt = _Attempt(
            fn,
            tuple(args),
            dict(kwargs or {}),
            frozenset(static_argnames),
            frozenset(donate_argnames),
            given,
            derive,
        )
        try:
            return attempt.run()
        except Restart as restart:
            name, value = solve(restart.size, attempt.trace.sizes.hints)
            given = {k: substitute(v, {name: value}) for k, v in given.items()} | {name: value}
        finally:
            attempt.close()
    raise TraceError("the sizes of this function do not settle", hint="fix some with tgc.spec")


class _Attempt:
    """One run of the function under what is known of the sizes."""

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        static: frozenset[str],
        donate: frozenset[str],
        given: dict[str, Dim],
        derive: Derive | None,
    ) -> None:
        self.fn, self.args, self.kwargs, self.static = fn, args, kwargs, static
        names = parameter_names(fn, args, kwargs)
        self.trace = Trace(code_of(fn), set(names), given, derive)
        self.names = names
        self.donate = donate
        self.donated: list[Leaf] = []
        self.places: list[int] = []
        self.values: list[Any] = []

    def run(self) -> Traced:
        with running(self.trace):
            args, kwargs = self._arguments()
            with protocols.interception():
                result = self.fn(*args, **kwargs)
            outputs, tree = self._result(result)
            self._name_nodes()
            return self._traced(outputs, tree)

    def close(self) -> None:
        """Let go of the function's frame."""
        frame, self.trace.frame = self.trace.frame, None
        if frame is not None:
            with contextlib.suppress(RuntimeError):
                frame.clear()

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with tracers in place of arrays and numbers."""
        trees_in = [*self.args, *self.kwargs.values()]
        out, position = [], 0
        for name, tree in zip(self.names, trees_in):
            leaves, definition = trees.flatten((tree,))
            paths = trees.paths(definition.children[0], name)
            made = []
            for leaf, path in zip(leaves, paths):
                value = leaf if name in self.static else self._argument(leaf, path, position)
                if name in self.donate and _is_memory(leaf):
                    self.donated.append(value.node)
                made.append(value)
                position += 1
            out.append(trees.unflatten(definition, made)[0])
        count = len(self.args)
        return tuple(out[:count]), dict(zip(self.kwargs, out[count:]))

    def _argument(self, leaf: Any, name: str, position: int) -> Any:
        if container_of(leaf) is None:
            return leaf
        if name in self.names:
            self.trace.release(name)
        tracer = self.trace.add_input(leaf, name)
        if tracer.container in ("torch", "numpy"):
            self.trace.know(leaf, tracer)
        self.places.append(position)
        self.values.append(leaf)
        return tracer

    def _result(self, result: Any) -> tuple[list[Tracer], TreeDef]:
        """The arrays of the result, and its structure with everything else as constants."""
        leaves, definition = trees.flatten((result,))
        outputs: list[Tracer] = []
        parts: list[TreeDef] = []
        for leaf in leaves:
            value = lift(leaf)
            if isinstance(value, Tracer):
                outputs.append(value)
                parts.append(trees.LEAF)
            else:
                _check_constant(leaf)
                parts.append(trees.constant(int(leaf) if isinstance(leaf, SymbolicInt) else leaf))
        return outputs, trees.with_parts(definition.children[0], parts)

    def _name_nodes(self) -> None:
        """Name nodes after the function's local variables."""
        frame, names = self.trace.frame, self.trace.builder.names
        if frame is None:
            return
        for name, value in frame.f_locals.items():
            if isinstance(value, Tracer) and not isinstance(value.node, Leaf):
                names.setdefault(value.node, name)

    def _traced(self, outputs: list[Tracer], tree: TreeDef) -> Traced:
        trace = self.trace
        nodes = tuple(t.node for t in outputs)
        aliases = tuple(
            (i, leaf)
            for i, t in enumerate(outputs)
            if not t.fresh and (leaf := _viewed(t.node)) is not None
        )
        if trace.seed is not None:
            assert isinstance(trace.seed.source, Input)
            trace.leaves.append(trace.seed)
            trace.abstracts.append(Abstract(trace.seed.source.name, int64, (), "scalar"))
        writes = _donations(self.donated, nodes)
        graph = trace.builder.graph(
            _name(self.fn), tuple(trace.leaves), nodes, aliases=aliases, writes=writes
        )
        used = {
            name: hint for name, hint in trace.sizes.hints.items() if name not in trace.sizes.given
        }
        return Traced(
            graph,
            tuple(trace.abstracts),
            tuple(self.places),
            tuple(self.values),
            tuple(trace.captured),
            tuple(trace.sizes.assumptions),
            used,
            tree,
            tuple(t.container for t in outputs),
            needs_gradient(nodes),
            trace.asked_for_gradient,
            trace.seed is not None,
        )


def _check_constant(leaf: object) -> None:
    """Raises TraceError for what would run after the trace, or holds traced values where nobody finds them."""
    if isinstance(leaf, Iterator | Awaitable | AsyncIterator):
        what = "which would run after the trace"
    elif any(isinstance(item, Tracer) for item in _items(leaf)):
        what = "which holds traced values"
    else:
        return
    raise TraceError(
        f"the function returns a {type(leaf).__name__}, {what}",
        line=line_of_code(current().code),
        hint="return arrays, or tuples, lists, dicts or dataclasses of them",
    )


def _items(value: object) -> Iterable[object]:
    """What a value holds, one level deep."""
    if isinstance(value, set | frozenset):
        return value
    return tuple(getattr(value, "__dict__", {}).values()) if not isinstance(value, type) else ()


def _is_memory(leaf: object) -> bool:
    """Whether a donated leaf has memory: numbers, numpy's scalars among them, have not."""
    return container_of(leaf) in ("torch", "numpy", "spec") and not isinstance(leaf, np.generic)


def _donations(donated: Sequence[Leaf], outputs: Sequence[Node]) -> tuple[tuple[Leaf, Node], ...]:
    """Each donated input with the result that takes its memory, in order.

    Raises:
        MutationError: nothing of its type and shape is left.
    """
    free = [node for node in dict.fromkeys(outputs) if not isinstance(node, Leaf)]
    found: list[tuple[Leaf, Node]] = []
    for leaf in donated:
        if leaf in outputs:
            continue  # it is returned as it came
        match = next((n for n in free if (n.dtype, n.shape) == (leaf.dtype, leaf.shape)), None)
        if match is None:
            assert isinstance(leaf.source, Input)
            raise MutationError(
                f"no result takes the memory of the donated argument {leaf.source.name}",
                hint="return a value of its shape and dtype, or do not donate it",
            )
        free.remove(match)
        found.append((leaf, match))
    return tuple(found)


def _viewed(node: Node) -> Leaf | None:
    """The input that a node is a view of."""
    while isinstance(node, View):
        node = node.args[0]
    return node if isinstance(node, Leaf) and isinstance(node.source, Input) else None


def _name(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__name__", type(fn).__name__)
    return name if name.isidentifier() else "f"


def code_of(fn: Any) -> CodeType | None:
    """The code whose frame holds the function's local variables."""
    fn = inspect.unwrap(fn) if callable(fn) else fn
    fn = getattr(fn, "__func__", fn)
    if not hasattr(fn, "__code__"):
        fn = getattr(fn, "func", None) or getattr(type(fn), "forward", None) or type(fn).__call__
    found = getattr(getattr(fn, "__func__", fn), "__code__", None)
    return found if isinstance(found, CodeType) else None


def parameter_names(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> list[str]:
    """The user's name of each positional argument, then of each keyword argument."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = []
    for i in range(len(args)):
        rest = next((p for p in parameters[: i + 1] if p.kind is p.VAR_POSITIONAL), None)
        if rest is not None:
            names.append(f"{rest.name}_{i - parameters.index(rest)}")
        elif i < len(parameters):
            names.append(parameters[i].name)
        else:
            names.append(f"x{i}")
    return [*names, *kwargs]
