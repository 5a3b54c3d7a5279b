"""The trace in progress: its builder, its sizes, what it captured, and where in the user's source it is.

Held in a context variable, so that threads and nested traces do not see each other. A size the user's Python looked at
is written down as an assumption; two sizes that must be equal and are, at this call, restart the trace with that
equality built in, so that afterwards every shape is canonical.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain, count
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tgc.errors import Line, ShapeError, TraceError
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.nodes import Graph, Leaf, Node, inputs_below
from tgc.ir.sizes import Dim, FloorDiv, Size, evaluate, substitute, symbols
from tgc.settings import settings
from tgc.trace.abstract import (
    SPEC_HINT,
    Abstract,
    check_layout,
    container_of,
    device_of,
    dtype_of,
    extents_of,
    loaded_torch,
)
from tgc.trace.guards import RELATIONS, Assumption

if TYPE_CHECKING:
    from tgc.trace.tracer import Tracer

LETTERS = ("n", "m", "k", "l", "p", "q", "r", "s", "t", "u", "v", "w")


class Restart(BaseException):
    """Two sizes are equal at this call: trace again with `size` (their difference) known to be zero.

    Not an `Exception`, so that a user's `except Exception` does not swallow it.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size


class Sizes:
    """The size symbols of a trace.

    Attributes:
        hints: the extent of each symbol at this call.
        given: symbols that turned out to be other sizes (found by restarts).
        assumptions: what the user's Python learnt about sizes.
    """

    def __init__(self, reserved: set[str], given: dict[str, Dim]) -> None:
        self.hints: dict[str, int] = {}
        self.given = given
        self.assumptions: dict[Assumption, None] = {}
        self._of_extent: dict[int, Dim] = {}
        self._of_name: dict[str, Dim] = {}
        letters = chain(LETTERS, (f"n{i}" for i in count(2)))
        self._free = (name for name in letters if name not in reserved)

    def dim(self, extent: int | str) -> Dim:
        """The size of an argument's dimension: extents that are equal share a symbol; a name is a spec's symbol."""
        if isinstance(extent, str):
            return self._named(extent)
        if extent < 2:
            return extent
        if extent not in self._of_extent:
            self._of_extent[extent] = self._symbol(next(self._free), extent)
        return self._of_extent[extent]

    def _named(self, extent: str) -> Dim:
        name, _, typical = extent.partition("=")
        if name not in self._of_name:
            hint = int(typical) if typical else SPEC_HINT * (len(self._of_name) + 1)
            self._of_name[name] = self._symbol(name, hint)
        return self._of_name[name]

    def _symbol(self, name: str, extent: int) -> Dim:
        self.hints[name] = extent
        return substitute(Size.symbol(name), self.given)

    def hint(self, size: Dim) -> int:
        """The extent at this call."""
        return size if isinstance(size, int) else evaluate(size, self.hints)

    def same(self, a: Dim, b: Dim) -> bool:
        """Whether two sizes are equal. Where they are but not visibly so, the trace restarts."""
        if a == b:
            return True
        difference = a - b
        if isinstance(difference, int) or self.hint(difference) != 0:
            return False
        raise Restart(difference)

    def is_one(self, a: Dim) -> bool:
        """Whether a size is 1, as in broadcasting; only sizes that are 1 at this call are asked about twice."""
        return a == 1 if isinstance(a, int) or self.hint(a) != 1 else self.same(a, 1)

    def decide(self, a: Dim, relation: str, b: Dim) -> bool:
        """Compare two sizes at this call; an assumption is recorded unless the answer holds for all sizes."""
        difference = a - b
        value = self.hint(difference)
        answer = RELATIONS[relation](value, 0)
        if isinstance(difference, Size) and not _always(difference, relation):
            offset = sum(c for m, c in difference.terms if not m)
            kept = relation if answer else _NEGATED[relation]
            self.assumptions[(difference - offset, kept, -offset)] = None
        return answer

    def fix(self, size: Dim) -> int:
        """The integer the user's Python asked for; assumed from now on."""
        value = self.hint(size)
        self.decide(size, "==", value)
        return value


_NEGATED = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def _always(size: Size, relation: str) -> bool:
    """Whether comparing `size` with 0 gives one answer for all extents of 2 and more."""
    if any(isinstance(atom, FloorDiv) for monomial, _ in size.terms for atom in monomial):
        return False
    signs = {c > 0 for m, c in size.terms if m}
    if len(signs) != 1:
        return False
    # A polynomial without mixed signs is monotone: it starts at its value for extents of 2.
    edge = evaluate(size, dict.fromkeys(symbols(size), 2))
    if signs == {False}:
        edge = -edge
        relation = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(relation, relation)
    return edge > 0 or (edge == 0 and relation in (">=", "<"))


def solve(difference: Size, hints: dict[str, int]) -> tuple[str, Dim]:
    """A symbol and what to put for it so that `difference` becomes zero (or simpler).

    The youngest symbol that occurs once, by itself and with coefficient 1 or -1, is expressed by the others; where
    there is none, the youngest is fixed to its extent at this call.
    """
    age = {name: i for i, name in enumerate(hints)}
    found: list[tuple[int, str, Dim]] = []
    for monomial, coefficient in difference.terms:
        if len(monomial) != 1 or not isinstance(monomial[0], str) or abs(coefficient) != 1:
            continue
        name = monomial[0]
        rest = difference - Size.symbol(name) * coefficient
        if name not in symbols(rest):
            found.append((age[name], name, rest * -coefficient))
    if found:
        _, name, value = max(found, key=lambda item: item[0])
        return name, value
    name = max(symbols(difference), key=lambda s: age[s])
    return name, hints[name]


Derive: TypeAlias = "Callable[[Graph], Graph]"
"""The same graph with its derivatives written out."""


class Trace:
    """One run of the user's function over tracers.

    Derivatives may stay calls (`DERIVATIVES` in tgc.ir.nodes) if there is a `derive` that can write them out.
    """

    def __init__(
        self,
        code: CodeType | None,
        reserved: set[str],
        given: dict[str, Dim],
        derive: Derive | None = None,
    ) -> None:
        self.builder = Builder()
        self.derive = derive
        self.sizes = Sizes(reserved, given)
        self.abstracts: list[Abstract] = []
        self.leaves: list[Leaf] = []
        self.captured: list[object] = []
        self.arguments: dict[Leaf, Abstract] = {}
        self.scalars: set[Leaf] = set()
        self.code = code
        self.frame: FrameType | None = None
        self.depth = 0
        self.seed: Leaf | None = None
        self._streams = 0
        self._names: set[str] = set(reserved)
        self._lifted: dict[int, Tracer] = {}
        self._constants: dict[int, object] = {}
        torch = loaded_torch()
        self.grad_enabled = torch is None or torch.is_grad_enabled()
        self.asked_for_gradient = False
        self.carries: dict[Node, bool] = {}  # whether a gradient flows back from a node

    # --- inputs ---

    def add_input(self, value: Any, name: str) -> Tracer:
        """A new graph input for an argument or a captured array."""
        from tgc.trace.tracer import Tracer

        container = container_of(value)
        assert container is not None, value
        check_layout(value, name, self.builder.line)
        dtype = dtype_of(value, name, self.builder.line)
        extents, fixed = extents_of(value), container == "spec"
        shape = tuple(e if fixed and isinstance(e, int) else self.sizes.dim(e) for e in extents)
        torch = container == "torch"
        abstract = Abstract(
            self.unique(name),
            dtype,
            shape,
            container,
            requires_grad=bool(torch and value.requires_grad and self.grad_enabled),
            device=device_of(value),
        )
        leaf = self.builder.input(abstract.name, dtype, shape)
        self.abstracts.append(abstract)
        self.leaves.append(leaf)
        self.arguments[leaf] = abstract
        if isinstance(value, np.generic):
            self.scalars.add(leaf)
        return Tracer(leaf, container, abstract.device)

    def draw(self) -> tuple[Leaf, int]:
        """The input that holds the seed of a call, and the number of a new random stream."""
        if self.seed is None:
            self.seed = self.builder.input(self.unique("seed"), dtypes.int64, ())
        self._streams += 1
        return self.seed, self._streams

    def unique(self, name: str) -> str:
        """An identifier like `name` that no input and no size has."""
        clean = "".join(c if c.isalnum() or c == "_" else "_" for c in name) or "x"
        clean = f"_{clean}" if clean[0].isdigit() else clean
        candidate, count = clean, 0
        while candidate in self._names or candidate in self.sizes.hints:
            count += 1
            candidate = f"{clean}_{count}"
        self._names.add(candidate)
        return candidate

    def release(self, name: str) -> None:
        """Let the next input have a reserved name."""
        if name not in self.sizes.hints:
            self._names.discard(name)

    def lift(self, value: Any) -> Tracer:
        """The input that stands for a tensor or array the function did not get as an argument; one per object."""
        found = self._lifted.get(id(value))
        if found is None:
            name = find_name(value, self.code) or f"captured_{len(self.captured)}"
            found = self._lifted[id(value)] = self.add_input(value, name)
            self.captured.append(value)
        return found

    def know(self, value: object, tracer: Tracer) -> None:
        """Remember that an argument's own object, met again as a capture, is that argument."""
        self._lifted[id(value)] = tracer

    def own(self, value: object) -> None:
        """Remember a real tensor made while tracing from constants alone: the program's own, not a capture."""
        self._constants[id(value)] = value

    def owns(self, value: object) -> bool:
        return id(value) in self._constants

    def written_out(self, node: Node) -> Node:
        """A value with the derivatives in it taken: for questions about what it depends on."""
        if self.derive is None:
            return node
        return self.derive(self.builder.graph("f", inputs_below((node,)), (node,))).outputs[0]

    # --- the user's line ---

    def enter(self) -> None:
        """Begin an operation: its nodes belong to the user's line, and so do those of operations it is made of."""
        if self.depth == 0:
            self.builder.line = self.line()
        self.depth += 1

    def line(self) -> Line | None:
        """The innermost line of the user's source."""
        frame = _user_frame()
        if frame is None:
            return None
        if self.frame is None:
            self._find_function(frame)
        return line_of(frame)

    def _find_function(self, frame: FrameType) -> None:
        """Keep the traced function's own frame: its variables name the nodes when it has returned."""
        walk: FrameType | None = frame
        while walk is not None:
            if walk.f_code is self.code:
                self.frame = walk
                return
            walk = walk.f_back

    def error_line(self) -> Line | None:
        """The line to show in an error raised now."""
        return self.builder.line if self.depth else self.line()


_LINES: dict[tuple[str, int], Line] = {}
_INSIDE: dict[bool, tuple[str, ...]] = {}


def _inside() -> tuple[str, ...]:
    """File name prefixes of tgc, what it has written, torch and numpy: these frames are not the user's."""
    torch = loaded_torch()
    found = _INSIDE.get(torch is not None)
    if found is None:
        files = [__file__.rsplit(os.sep, 1)[0], np.__file__]
        if torch is not None:
            files.append(torch.__file__)
        folders = [os.path.dirname(os.path.abspath(f)) + os.sep for f in files]
        found = _INSIDE[torch is not None] = (*folders, "<tgc ", "<frozen", "<__array_function__")
    return found


def _user_frame() -> FrameType | None:
    """The innermost frame that is neither tgc's nor torch's nor numpy's."""
    frame: FrameType | None = sys._getframe(1)
    inside = _inside()
    while frame is not None and frame.f_code.co_filename.startswith(inside):
        frame = frame.f_back
    return frame


def calling_line() -> Line | None:
    """The user's line that called a compiled function: for errors met before it is traced."""
    frame = _user_frame()
    return None if frame is None else line_of(frame)


def line_of(frame: FrameType) -> Line:
    """The line a frame is at."""
    return _line(frame.f_code.co_filename, frame.f_lineno)


def line_of_code(code: CodeType | None) -> Line | None:
    """The first line of a function."""
    return None if code is None else _line(code.co_filename, code.co_firstlineno)


def _line(file: str, number: int) -> Line:
    """A line, made once per place."""
    line = _LINES.get((file, number))
    if line is None:
        line = _LINES[file, number] = Line(file, number, linecache.getline(file, number).strip())
    return line


def find_name(value: object, code: CodeType | None) -> str | None:
    """What the user's program calls a captured object: a variable, or a parameter of a module in a variable."""
    inside, own = _inside(), __file__.rsplit(os.sep, 2)[0] + os.sep
    found = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(own):
            if not frame.f_code.co_filename.startswith(inside) or found is None:
                found = _name_in(frame, value) or found
            if frame.f_code is code:
                break
        frame = frame.f_back
    return found


def _name_in(frame: FrameType, value: object) -> str | None:
    scopes: dict[str, object] = {
        n: frame.f_globals[n] for n in frame.f_code.co_names if n in frame.f_globals
    }
    scopes.update(frame.f_locals)
    for name, held in scopes.items():
        if held is value:
            return name
    for name, held in scopes.items():
        path = _attribute(held, value)
        if path is not None:
            return path if name == "self" else f"{name}_{path}"
    return None


def _attribute(holder: object, value: object) -> str | None:
    named = getattr(type(holder), "named_parameters", None)
    if named is not None:
        everything = [*holder.named_parameters(), *holder.named_buffers()]  # type: ignore[attr-defined]
        return next((path for path, held in everything if held is value), None)
    attributes = getattr(holder, "__dict__", None)
    if (
        isinstance(attributes, dict)
        and not isinstance(holder, type)
        and type(holder).__name__ != "module"
    ):
        return next((name for name, held in attributes.items() if held is value), None)
    return None


_active: ContextVar[Trace | None] = ContextVar("tgc_trace", default=None)


active: Callable[[], Trace | None] = _active.get
"""The trace in progress in this context, if any."""


def current() -> Trace:
    """The trace in progress.

    Raises:
        TraceError: there is none, so a tracer outlived its trace.
    """
    trace = _active.get()
    if trace is None:
        raise TraceError(
            "a value of a traced function is used after the function returned",
            hint="return it from the function instead of storing it",
        )
    return trace


@contextmanager
def running(trace: Trace) -> Iterator[None]:
    """Make `trace` the current one, under a record of the settings of its own: no prepared call is meant by then."""
    token = _active.set(trace)
    try:
        with settings():
            yield
    finally:
        _active.reset(token)


def shape_error(message: str, hint: str | None = None) -> ShapeError:
    """A ShapeError at the user's line."""
    return ShapeError(message, line=current().error_line(), hint=hint)
