"""The graph: seven kinds of node, and the movements a View can make.

| kind | what it is |
|---|---|
| `Leaf` | an input, a constant or an iota |
| `Map` | a scalar operation of the table over equal shapes |
| `View` | one movement of data: broadcast, permute, reshape, slice, pad, flip |
| `Fold` | reduce, scan or a sequential loop, by a monoid, over axes |
| `Take` / `Put` | gather and scatter along one axis |
| `Call` | what a library does best (sort, factorisations), and derivatives that wait to be taken |

Nodes are frozen and interned per `Builder` (see build.py): structurally equal nodes are one object, so equality is
identity and common subexpressions are shared for free. They are numbered in order of creation, so arguments always
have smaller numbers than their users.

A fold with several results (argmax, Welford) is several nodes that differ only in `output`: every node then has one
dtype and one shape, an edge is simply a node, and the scheduler, which merges sibling folds anyway, makes one pass
of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from tgc.errors import Line
from tgc.ir.dtypes import DType
from tgc.ir.sizes import Dim

if TYPE_CHECKING:
    from tgc.ir.build import Builder

Shape: TypeAlias = tuple[Dim, ...]


# --- leaves ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Input:
    """A function argument: `name` is the user's."""

    name: str


@dataclass(frozen=True)
class Const:
    """A constant of any shape. `value` is a Python number, or a `Size` known at call time.

    Floats are keyed by their hexadecimal form, so that 0.0 and -0.0 differ and NaN equals itself.
    """

    key: str
    value: bool | int | float | Dim = field(compare=False)


@dataclass(frozen=True)
class Iota:
    """The index along `axis`."""

    axis: int


Source: TypeAlias = Input | Const | Iota


# --- movements ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broadcast:
    """Input dimension k becomes output dimension `dims[k]` (increasing); extents 1 stretch, other axes are new."""

    shape: Shape
    dims: tuple[int, ...]
    name: ClassVar[str] = "broadcast"


@dataclass(frozen=True)
class Permute:
    """Output dimension i is input dimension `order[i]`."""

    order: tuple[int, ...]
    name: ClassVar[str] = "permute"


@dataclass(frozen=True)
class Reshape:
    """Split and merge axes in row-major order; the number of elements is unchanged."""

    shape: Shape
    name: ClassVar[str] = "reshape"


@dataclass(frozen=True)
class Slice:
    """Per dimension `start:stop:step` with 0 <= start <= stop and step >= 1."""

    start: Shape
    stop: Shape
    step: tuple[int, ...]
    name: ClassVar[str] = "slice"


@dataclass(frozen=True)
class Pad:
    """Zeros before, after and `interior` of them between elements, per dimension: the transpose of `Slice`."""

    before: Shape
    after: Shape
    interior: tuple[int, ...]
    name: ClassVar[str] = "pad"


@dataclass(frozen=True)
class Flip:
    """Reverse the given axes."""

    axes: tuple[int, ...]
    name: ClassVar[str] = "flip"


Movement: TypeAlias = Broadcast | Permute | Reshape | Slice | Pad | Flip


# --- monoids --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Monoid:
    """A fold's algebra where no basic one serves: scalar graphs over the carries.

    `merge` takes 2k inputs (left carries, right carries) and has k outputs. For mode "sequential", `merge` is the
    step of a loop: k carries, then one slice of each operand. `init` gives the k starting values.
    """

    name: str
    init: tuple[float, ...]
    merge: Graph
    associative: bool = True
    commutative: bool = False


BASIC_MONOIDS: dict[str, float] = {
    "sum": 0.0,
    "prod": 1.0,
    "max": float("-inf"),
    "min": float("inf"),
    "any": 0.0,
    "all": 1.0,
}
"""What a fold of nothing is, by name; see `identity`."""

_COMBINED = {
    "sum": "add",
    "prod": "mul",
    "max": "maximum",
    "min": "minimum",
    "any": "or",
    "all": "and",
}


def combination(monoid: str, dtype: DType) -> str:
    """The operation of the table by which a basic monoid combines two values."""
    if dtype.kind == "bool":
        return "or" if monoid in ("any", "max", "sum") else "and"
    return _COMBINED[monoid]


def identity(monoid: str, dtype: DType) -> float | int | bool:
    """What a fold by a basic monoid gives of nothing: what a masked lane contributes."""
    value = BASIC_MONOIDS[monoid]
    if dtype.is_float:
        return value
    if dtype.kind == "bool":
        return combination(monoid, dtype) == "and"
    if abs(value) <= 1:
        return int(value)
    low = 0 if dtype.kind == "uint" else -(2 ** (8 * dtype.itemsize - 1))
    return low if value < 0 else low + 2 ** (8 * dtype.itemsize) - 1


DIFFERENTIABLE_FOLDS = frozenset(
    {*(("reduce", monoid) for monoid in ("sum", "prod", "max", "min")), ("scan", "sum")}
)
"""The mode and the monoid of each fold that has a derivative rule."""

DERIVATIVES = ("vjp", "jvp")
"""The calls that stand for a derivative: of the graph among their parameters with respect to its inputs `wrt`."""


# --- nodes ----------------------------------------------------------------------------------------------------------


class Node:
    """One operation: `args` in, one value of `dtype` and `shape` out. Made by a `Builder`, never directly.

    `id` is the order of creation; `line` the user's source line that first asked for it.
    """

    __slots__ = ("args", "dtype", "id", "line", "shape")
    args: tuple[Node, ...]
    dtype: DType
    shape: Shape
    id: int
    line: Line | None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        dims = ", ".join(str(d) for d in self.shape)
        return f"<{type(self).__name__} %{self.id} {self.dtype.short}[{dims}]>"


class Leaf(Node):
    __slots__ = ("source",)
    source: Source


class Map(Node):
    __slots__ = ("op",)
    op: str


class View(Node):
    __slots__ = ("movement",)
    movement: Movement


class Fold(Node):
    """`monoid` names a basic monoid or is one; `mode` is "reduce", "scan" or "sequential"; `axes` are sorted.

    A reduce drops its axes. `output` says which result of a tuple fold this node is.
    """

    __slots__ = ("axes", "mode", "monoid", "output", "reverse")
    monoid: str | Monoid
    axes: tuple[int, ...]
    mode: str
    output: int
    reverse: bool


class Take(Node):
    """`out[..., j, ...] = x[..., index[..., j, ...], ...]` along `axis`; the other dimensions of both agree."""

    __slots__ = ("axis",)
    axis: int


class Put(Node):
    """Adds `x` into zeros of `shape` at `index` along `axis`: the transpose of `Take`."""

    __slots__ = ("axis",)
    axis: int


class Call(Node):
    """Result `output` of the library routine `name` with static keyword `params`.

    A routine of `DERIVATIVES` takes the inputs of its graph and then the cotangents of its outputs, or the tangents of
    its inputs. It is no routine of a library but is written out before anything else is done with the graph.
    """

    __slots__ = ("name", "output", "params")
    name: str
    output: int
    params: tuple[tuple[str, object], ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """A pure function of `inputs`, and its effects.

    `writes` says which input receives which node's value when the function returns; `aliases` which output is a view
    of which input. Both are kept outside the nodes, which stay pure.
    """

    name: str
    inputs: tuple[Leaf, ...]
    outputs: tuple[Node, ...]
    builder: Builder
    writes: tuple[tuple[Leaf, Node], ...] = ()
    aliases: tuple[tuple[int, Leaf], ...] = ()

    def nodes(self) -> list[Node]:
        """Every node the outputs and writes need, arguments before users."""
        return reachable((*self.outputs, *(value for _, value in self.writes)))

    def called(self) -> list[Graph]:
        """The graphs among the parameters of calls, theirs too, each once and behind those it calls."""
        found: dict[Graph, None] = {}
        stack = [(self, False)]
        while stack:
            graph, seen = stack.pop()
            if seen:
                found[graph] = None
            elif graph not in found:
                inner = [v for n in graph if isinstance(n, Call) for _, v in n.params]
                stack += [(graph, True), *((v, False) for v in inner if isinstance(v, Graph))]
        del found[self]
        return list(found)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes())

    def __str__(self) -> str:
        from tgc.ir.text import print_graph

        return print_graph(self)


def reachable(roots: tuple[Node, ...]) -> list[Node]:
    """The nodes below `roots`, in order of creation (which is topological)."""
    found: dict[int, Node] = {}
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node.id not in found:
            found[node.id] = node
            stack.extend(node.args)
    return [found[i] for i in sorted(found)]


def inputs_below(roots: tuple[Node, ...]) -> tuple[Leaf, ...]:
    """The inputs that nodes depend on, of whichever graphs."""
    leaves = [n for n in reachable(roots) if isinstance(n, Leaf)]
    return tuple(leaf for leaf in leaves if isinstance(leaf.source, Input))
