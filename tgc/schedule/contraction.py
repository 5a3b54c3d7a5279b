"""Matrix products in disguise: `Fold(sum, Map(mul, View, View))`, recognised and handed to a library."""

from __future__ import annotations

from dataclasses import dataclass

from tgc.ir.nodes import Broadcast, Fold, Map, Node, Permute, View


@dataclass(frozen=True)
class Factor:
    """One factor: the value in memory it comes from, and the product's dimension each of its own is (None: new)."""

    source: Node
    dims: tuple[int | None, ...]


@dataclass(frozen=True)
class Contraction:
    """A sum over products of two factors."""

    a: Factor
    b: Factor
    subscripts: str


def _factor(node: Node) -> Factor:
    """Look through broadcasts, permutations and the widening of half types, which libraries do themselves."""
    dims: tuple[int | None, ...] = tuple(range(node.ndim))
    while True:
        if isinstance(node, Map) and node.op == "cast" and node.args[0].dtype.is_half:
            node = node.args[0]
        elif isinstance(node, View) and isinstance(node.movement, Broadcast):
            operand, movement = node.args[0], node.movement
            dims = tuple(
                None if extent == 1 and movement.shape[d] != 1 else dims[d]
                for extent, d in zip(operand.shape, movement.dims, strict=True)
            )
            node = operand
        elif isinstance(node, View) and isinstance(node.movement, Permute):
            order = node.movement.order
            dims = tuple(dims[order.index(k)] for k in range(node.ndim))
            node = node.args[0]
        else:
            return Factor(node, dims)


def contraction(node: Node) -> Contraction | None:
    """The contraction a node is, if each factor lacks a kept dimension that the other has.

    A product where one factor has every dimension (a dot product, a matrix times a vector) is an ordinary fold: it
    moves the large factor once, which a fused kernel does as well as a library, and without a stop.
    """
    if not isinstance(node, Fold) or node.mode != "reduce" or node.monoid != "sum":
        return None
    times = node.args[0]
    if not isinstance(times, Map) or times.op != "mul" or not times.dtype.is_float:
        return None
    a, b = (_factor(x) for x in times.args)
    big = [k for k, d in enumerate(times.shape) if d != 1]
    kept = [k for k in big if k not in node.axes]
    reduced = [k for k in big if k in node.axes]
    if not set(kept) - set(a.dims) or not set(kept) - set(b.dims):
        return None
    if set(kept) - set(a.dims) - set(b.dims):
        return None  # a dimension along which the product only repeats
    if any(k not in a.dims or k not in b.dims for k in reduced):
        return None
    return Contraction(a, b, _subscripts(node, a, b))


def _subscripts(node: Fold, a: Factor, b: Factor) -> str:
    letters = "ijklmnopqrstuvw"
    spare = iter("xyzabcdefgh")

    def text(dims: tuple[int | None, ...]) -> str:
        return "".join(next(spare) if d is None else letters[d] for d in dims)

    out = "".join(letters[k] for k in range(node.args[0].ndim) if k not in node.axes)
    left, right = text(a.dims), text(b.dims)
    return f"{left},{right}->{out}"
