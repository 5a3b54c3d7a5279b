"""Random graphs for property tests and fuzzing: maps, views, folds and gathers over small shapes.

`graphs()` is a hypothesis strategy; what it draws is well-typed, in float and integer and bool values, with extents
0, 1, a few primes, and size symbols bound to them. Values are kept from growing (products and exponentials are
followed by a bounded operation), so that comparisons between evaluations mean something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
from numpy.typing import NDArray

from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.dtypes import DType
from tgc.ir.evaluate import bind_sizes
from tgc.ir.nodes import Graph, Node
from tgc.ir.sizes import Dim, Size, cdiv, evaluate

EXTENTS = (1, 2, 3, 5, 7)
SYMBOLS = {"n": 5, "m": 3}
UNARY = (
    "neg",
    "abs",
    "square",
    "sin",
    "cos",
    "tanh",
    "sigmoid",
    "softplus",
    "exp",
    "expm1",
    "relu",
    "erf",
    "sqrt",
    "log1p",
)
BINARY = ("add", "sub", "mul", "maximum", "minimum", "div")
COMPARE = ("lt", "le", "gt", "ge", "eq", "ne")
FOLDS = ("sum", "max", "min")
CONSTANTS = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 3.0, -1.702)


@dataclass(frozen=True)
class Case:
    """A graph and the arrays to run it on."""

    graph: Graph
    arrays: tuple[NDArray[np.generic], ...]


@st.composite
def graphs(
    draw: st.DrawFn,
    *,
    dtype: DType = dtypes.float64,
    size: int = 12,
    empty: bool = True,
    smooth: bool = False,
    special: bool = False,
) -> Case:
    """A random graph with its arrays.

    Args:
        dtype: of the inputs.
        size: operations tried.
        empty: some axes have no elements.
        smooth: differentiable operations only (no comparisons, kinks, gathers or casts).
        special: NaN, infinities and signed zeros among the values.
    """
    makers = _Makers(draw, Builder(), dtype, smooth=smooth)
    extents: list[Dim] = [*EXTENTS, *map(Size.symbol, SYMBOLS), *([0] if empty else [])]
    rank = draw(st.integers(1, 3))
    for name in "xyz"[: draw(st.integers(1, 3))]:
        shape = tuple(draw(st.sampled_from(extents)) for _ in range(rank))
        if name != "x" and draw(st.booleans()):
            shape = makers.pool[0].shape
        makers.pool.append(makers.g.input(name, dtype, shape))
    inputs = tuple(makers.pool)
    for _ in range(draw(st.integers(1, size))):
        makers.grow()
    outputs = tuple(dict.fromkeys(makers.pool[-1 - draw(st.integers(0, 2)) :]))
    graph = makers.g.graph("random", inputs, outputs)  # type: ignore[arg-type]
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    arrays = tuple(
        _values(rng, tuple(evaluate(d, SYMBOLS) for d in leaf.shape), dtype, special)
        for leaf in inputs
    )
    bind_sizes(graph.inputs, [a.shape for a in arrays])
    return Case(graph, arrays)


def _values(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: DType, special: bool
) -> NDArray[np.generic]:
    values = np.round(rng.normal(size=shape) * 2, 3)
    if special:
        odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0])
        values = np.where(rng.random(shape) < 0.3, odd[rng.integers(0, len(odd), shape)], values)
    return values.astype("float32" if dtype.is_half else dtype.name)


class _Makers:
    """Each method adds one node to the pool."""

    def __init__(self, draw: st.DrawFn, builder: Builder, dtype: DType, *, smooth: bool) -> None:
        self.draw, self.g, self.dtype, self.smooth = draw, builder, dtype, smooth
        self.pool: list[Node] = []

    def grow(self) -> None:
        """Add a value made from the pool."""
        kinds: list[Callable[[Node], Node]] = [
            self.unary, self.unary, self.binary, self.binary, self.scaled, self.broadcast, self.permute,
            self.reshape, self.slice, self.pad, self.flip, self.fold,
        ]  # fmt: skip
        if not self.smooth:
            kinds += [self.select, self.take, self.scan, self.converted]
        x = self.draw(st.sampled_from([n for n in self.pool if n.dtype is self.dtype]))
        self.pool.append(self.draw(st.sampled_from(kinds))(x))

    def symbols(self) -> list[Size]:
        """The size symbols that the inputs' shapes bind."""
        found = {str(d) for leaf in self.g.inputs() for d in leaf.shape if isinstance(d, Size)}
        return [Size.symbol(name) for name in SYMBOLS if name in found]

    def partner(self, x: Node) -> Node:
        """A value of the shape of x."""
        same = [n for n in self.pool if n.shape == x.shape and n.dtype is x.dtype]
        return self.draw(st.sampled_from(same))

    def bounded(self, x: Node) -> Node:
        return self.g.map("tanh", x)

    def unary(self, x: Node) -> Node:
        kinks = ("abs", "relu")
        names = [n for n in UNARY if not (self.smooth and n in kinks)]
        op = self.draw(st.sampled_from(names))
        if op in ("sqrt", "log1p"):
            x = self.g.map("square", x)
            if op == "sqrt" and self.smooth:
                x = self.g.map("add", x, self.g.like(x, 1))
        return self.g.map(op, self.bounded(x) if op in ("exp", "expm1") else x)

    def binary(self, x: Node) -> Node:
        kinks = ("maximum", "minimum")
        op = self.draw(st.sampled_from([n for n in BINARY if not (self.smooth and n in kinks)]))
        y = self.partner(x)
        if op == "mul":
            x = self.bounded(x)
        if op == "div":
            y = self.g.map("add", self.g.map("square", y), self.g.like(y, 1))
        return self.g.map(op, x, y)

    def scaled(self, x: Node) -> Node:
        op = self.draw(st.sampled_from(("mul", "add", "sub")))
        k = self.g.like(x, self.draw(st.sampled_from(CONSTANTS)))
        pair = (k, x) if self.draw(st.booleans()) else (x, k)
        return self.g.map(op, *pair)

    def select(self, x: Node) -> Node:
        y = self.partner(x)
        mask = self.g.map(self.draw(st.sampled_from(COMPARE)), x, y)
        if self.draw(st.booleans()):
            mask = self.g.map("not", mask)
        return self.g.map(
            "where", mask, self.partner(x), self.g.like(x, self.draw(st.sampled_from(CONSTANTS)))
        )

    def converted(self, x: Node) -> Node:
        """There and back through another type."""
        other = self.draw(
            st.sampled_from([dtypes.float64, dtypes.float32, dtypes.int32, dtypes.bool_])
        )
        return self.g.cast(self.g.cast(self.bounded(x), other), x.dtype)

    def broadcast(self, x: Node) -> Node:
        at = self.draw(st.integers(0, x.ndim))
        extent = self.draw(st.sampled_from((1, 2, 3, *self.symbols())))
        shape = [*x.shape[:at], extent, *x.shape[at:]]
        dims = tuple(i for i in range(len(shape)) if i != at)
        for i in dims:
            if shape[i] == 1 and self.draw(st.booleans()):
                shape[i] = 3
        return self.g.broadcast(x, shape=tuple(shape), dims=dims) if x.ndim < 4 else x

    def permute(self, x: Node) -> Node:
        return self.g.permute(x, order=tuple(self.draw(st.permutations(range(x.ndim)))))

    def reshape(self, x: Node) -> Node:
        """Merge two neighbouring axes, or insert or drop an axis of extent 1."""
        if x.ndim >= 2 and self.draw(st.booleans()):
            at = self.draw(st.integers(0, x.ndim - 2))
            return self.g.reshape(
                x, shape=(*x.shape[:at], x.shape[at] * x.shape[at + 1], *x.shape[at + 2 :])
            )
        units = [i for i, d in enumerate(x.shape) if d == 1]
        if units and self.draw(st.booleans()):
            at = self.draw(st.sampled_from(units))
            return self.g.reshape(x, shape=(*x.shape[:at], *x.shape[at + 1 :]))
        at = self.draw(st.integers(0, x.ndim))
        return self.g.reshape(x, shape=(*x.shape[:at], 1, *x.shape[at:])) if x.ndim < 4 else x

    def slice(self, x: Node) -> Node:
        start, stop, step = [], [], []
        for extent in x.shape:
            low = self.draw(st.integers(0, 1)) if evaluate(extent, SYMBOLS) >= 2 else 0
            stride = self.draw(st.integers(1, 2)) if isinstance(extent, int) else 1
            start.append(low)
            stop.append(extent)
            step.append(stride)
        if any(cdiv(b - a, s) == 0 for a, b, s in zip(start, stop, step)):
            return x
        return self.g.slice(x, start=tuple(start), stop=tuple(stop), step=tuple(step))

    def pad(self, x: Node) -> Node:
        sides = [tuple(self.draw(st.integers(0, 2)) for _ in x.shape) for _ in range(2)]
        interior = tuple(
            self.draw(st.integers(0, 1)) if isinstance(d, int) and d > 0 else 0 for d in x.shape
        )
        return self.g.pad(x, before=sides[0], after=sides[1], interior=interior)

    def flip(self, x: Node) -> Node:
        return self.g.flip(x, axes=self._axes(x))

    def fold(self, x: Node) -> Node:
        monoid = "sum" if self.smooth else self.draw(st.sampled_from(FOLDS))
        axes = self._axes(x)
        if monoid != "sum":
            axes = tuple(a for a in axes if evaluate(x.shape[a], SYMBOLS) > 0)
        return self.g.fold(monoid, x, axes=axes)

    def scan(self, x: Node) -> Node:
        axes = self._axes(x)[:1]
        return (
            self.g.fold("sum", x, axes=axes, mode="scan", reverse=self.draw(st.booleans()))
            if axes
            else x
        )

    def take(self, x: Node) -> Node:
        if not x.ndim:
            return x
        axis = self.draw(st.integers(0, x.ndim - 1))
        extent = x.shape[axis]
        if evaluate(extent, SYMBOLS) == 0:
            return x
        last = self.g.const(extent - 1, dtypes.int64, x.shape)
        return self.g.take(x, self.g.map("sub", last, self.g.iota(axis, x.shape)), axis=axis)

    def _axes(self, x: Node) -> tuple[int, ...]:
        if not x.ndim:
            return ()
        return tuple(sorted(self.draw(st.sets(st.integers(0, x.ndim - 1), min_size=1))))


def equal(
    got: Sequence[NDArray[np.generic]], want: Sequence[NDArray[np.generic]], tolerance: float
) -> bool:
    """Arrays agree, relative to the largest finite value of each."""
    for a, b in zip(got, want, strict=True):
        if a.shape != b.shape:
            return False
        finite = np.abs(b[np.isfinite(b)]) if b.dtype.kind == "f" else np.zeros(0)
        scale = float(finite.max(initial=1.0))
        if not np.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
            return False
    return True
