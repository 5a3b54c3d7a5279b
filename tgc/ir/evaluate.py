"""The slow reference: what a graph means, in numpy, one node at a time.

Every pass and every backend is tested against it. Floats are held in one type (float64 by default); with
`dtype=None` each node is computed in float64 and rounded to its own dtype, which is the correctly rounded result for
arithmetic and roots, and within a hair of it elsewhere.

Two things keep large graphs within reach. A value that is constant along an axis keeps stride zero there and is
computed once; and a product of values that is only ever summed is never formed: the sum becomes an einsum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from tgc.errors import ShapeError, UnsupportedOpError
from tgc.ir import sizes
from tgc.ir.dtypes import DType
from tgc.ir.nodes import (
    Broadcast,
    Call,
    Const,
    Flip,
    Fold,
    Graph,
    Input,
    Leaf,
    Map,
    Movement,
    Node,
    Pad,
    Permute,
    Put,
    Reshape,
    Shape,
    Slice,
    Take,
    View,
    identity,
    reachable,
)
from tgc.ir.references import CALLS, FOLDS, scalar_reference
from tgc.ir.sizes import Dim, Size

Array: TypeAlias = npt.NDArray[Any]

LAZY_ELEMENTS = 1 << 14
"""Products of more elements than this are left to einsum; smaller ones are formed and rounded."""


def evaluate(
    graph: Graph,
    arrays: Sequence[Any],
    dtype: Any = np.float64,
    *,
    binding: Mapping[str, int] | None = None,
) -> list[Array]:
    """The outputs of `graph` for `arrays`, one for each input.

    Args:
        dtype: the numpy type that floats are held in; None rounds each node to its own dtype.
        binding: sizes that no input's shape gives.

    Raises:
        ShapeError: an array does not have its input's shape, or a size is bound to two values.
    """
    evaluation = _prepare(graph, arrays, dtype, binding)
    return [evaluation.result(value) for value in evaluation.run(graph.outputs)]


def written(
    graph: Graph,
    arrays: Sequence[Any],
    dtype: Any = np.float64,
    *,
    binding: Mapping[str, int] | None = None,
) -> list[Array]:
    """What each of the graph's writes leaves in its input; arguments as for `evaluate`."""
    evaluation = _prepare(graph, arrays, dtype, binding)
    values = evaluation.run(tuple(value for _, value in graph.writes))
    return [evaluation.result(value) for value in values]


def bind_sizes(inputs: Sequence[Leaf], shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """The value of each size symbol, from concrete shapes of the inputs.

    Raises:
        ShapeError: shapes contradict each other or the inputs.
    """
    binding: dict[str, int] = {}
    pairs: list[tuple[Leaf, Dim, int]] = []
    for leaf, shape in zip(inputs, shapes, strict=True):
        if len(shape) != leaf.ndim:
            raise ShapeError(f"an array of shape {shape} was given for {leaf}", line=leaf.line)
        pairs += [(leaf, dim, extent) for dim, extent in zip(leaf.shape, shape, strict=True)]
    for _, dim, extent in pairs:
        if isinstance(dim, Size) and len(dim.terms) == 1 and str(dim) in sizes.symbols(dim):
            binding.setdefault(str(dim), extent)
    for leaf, dim, extent in pairs:
        if sizes.symbols(dim) <= binding.keys() and sizes.evaluate(dim, binding) != extent:
            raise ShapeError(
                f"an axis of extent {extent} was given for {dim} of {leaf}", line=leaf.line
            )
    return binding


def _prepare(
    graph: Graph, arrays: Sequence[Any], dtype: Any, binding: Mapping[str, int] | None
) -> _Evaluation:
    values = [np.asarray(a) for a in arrays]
    if len(values) != len(graph.inputs):
        raise ShapeError(f"{graph.name} takes {len(graph.inputs)} arrays, not {len(values)}")
    found = bind_sizes(graph.inputs, [v.shape for v in values])
    precision = None if dtype is None else np.dtype(dtype)
    evaluation = _Evaluation(found | dict(binding or {}), precision, {})
    for leaf, value in zip(graph.inputs, values, strict=True):
        evaluation.values[leaf] = evaluation.rounded(value, leaf.dtype)
    return evaluation


def round_float(x: Array, dtype: DType) -> Array:
    """Float64 values rounded to nearest even in `dtype`, still held as float64."""
    if dtype.name == "bfloat16":
        return _round_bfloat16(x)
    return x.astype(dtype.name).astype(np.float64)


def _round_bfloat16(x: Array) -> Array:
    """Round once, from float64: 8 significand bits, subnormals below 2**-126, overflow at 2**128."""
    mantissa, exponent = np.frexp(x)
    quantum = np.ldexp(1.0, np.maximum(exponent, -125) - 8)
    rounded = np.where(np.isfinite(x), np.rint(x / quantum) * quantum, x)
    return np.where(np.abs(rounded) >= 2.0**128, np.copysign(np.inf, mantissa), rounded)


@dataclass
class _Product:
    """Factors whose elementwise product was not formed."""

    factors: list[Array]
    shape: tuple[int, ...]


@dataclass
class _Evaluation:
    """Floats are arrays of `precision` (float64 when it is None, rounded to each node's dtype)."""

    binding: Mapping[str, int]
    precision: np.dtype[Any] | None
    values: dict[Node, Array | _Product]

    @property
    def float_type(self) -> np.dtype[Any]:
        return self.precision or np.dtype(np.float64)

    def rounded(self, x: Any, dtype: DType) -> Array:
        """`x` as a value of `dtype` in this evaluation's representation."""
        if not dtype.is_float:
            return np.asarray(np.asarray(x).astype(dtype.name, copy=False))
        held: Array = np.asarray(x).astype(self.float_type, copy=False)
        if self.precision is None and dtype.name != "float64":
            return round_float(held, dtype)
        return held

    def result(self, x: tuple[Array, DType]) -> Array:
        """The array handed to the caller: float64, or the node's own dtype when precision is None."""
        value, dtype = x
        if not dtype.is_float or self.precision is not None:
            return np.array(value)
        if dtype.name != "bfloat16":
            return value.astype(dtype.name)
        try:
            import ml_dtypes
        except ImportError:
            return value.astype(np.float32)
        return value.astype(np.float32).astype(ml_dtypes.bfloat16)

    def run(self, roots: tuple[Node, ...]) -> list[tuple[Array, DType]]:
        """The values of `roots`."""
        nodes = reachable(roots)
        lazy = _summed_products(nodes, roots)
        last = {arg: node for node in nodes for arg in node.args}
        with np.errstate(all="ignore"):
            for node in nodes:
                if node not in self.values:
                    self.values[node] = self._node(node, node in lazy)
                for arg in dict.fromkeys(node.args):
                    if last[arg] is node and arg not in roots and arg is not node:
                        self.values.pop(arg, None)
        return [(self.array(root), root.dtype) for root in roots]

    def array(self, node: Node) -> Array:
        value = self.values[node]
        assert not isinstance(value, _Product), (
            "a product is only left unformed where it is only summed"
        )
        return value

    def shape(self, shape: Shape) -> tuple[int, ...]:
        return tuple(self.size(d) for d in shape)

    def size(self, dim: Dim) -> int:
        return sizes.evaluate(dim, self.binding)

    def _node(self, node: Node, lazy: bool) -> Array | _Product:
        if isinstance(node, Map) and lazy and int(np.prod(self.shape(node.shape))) > LAZY_ELEMENTS:
            return self._product(node)
        if isinstance(node, Fold) and isinstance(self.values[node.args[0]], _Product):
            return self._contract(node, cast(_Product, self.values[node.args[0]]))
        if isinstance(node, Leaf):
            value = self._leaf(node)
        elif isinstance(node, Map):
            value = self._map(node)
        elif isinstance(node, View):
            return self._move(self.array(node.args[0]), node.movement)
        elif isinstance(node, Fold):
            value = self._fold(node)
        elif isinstance(node, Take):
            value = _take(self.array(node.args[0]), self.array(node.args[1]), node.axis)
        elif isinstance(node, Put):
            extent = self.size(node.shape[node.axis])
            value = _put(self.array(node.args[0]), self.array(node.args[1]), node.axis, extent)
        elif isinstance(node, Call):
            value = self._call(node)
        else:
            raise TypeError(f"no node kind: {node}")
        return self._rounded_once(value, node.dtype)

    def _rounded_once(self, x: Array, dtype: DType) -> Array:
        base, shape = _distinct(x)
        return np.broadcast_to(self.rounded(base, dtype), shape)

    def _leaf(self, node: Leaf) -> Array:
        shape = self.shape(node.shape)
        source = node.source
        if isinstance(source, Input):
            raise ShapeError(
                f"input {source.name!r} is used but not listed among the graph's inputs"
            )
        if isinstance(source, Const):
            value = self.size(source.value) if isinstance(source.value, Size) else source.value
            return np.broadcast_to(self.rounded(value, node.dtype), shape)
        column = [-1 if i == source.axis else 1 for i in range(node.ndim)]
        return np.broadcast_to(np.arange(shape[source.axis]).reshape(column), shape)

    def _map(self, node: Map) -> Array:
        """The operation, over those axes only along which some operand varies."""
        args = [self.array(a) for a in node.args]
        if node.op == "cast":
            return _cast(args[0], node.dtype)
        shape = np.broadcast_shapes(*(a.shape for a in args))
        held = tuple(
            n > 1 and all(a.ndim < len(shape) or a.strides[i] == 0 for a in args)
            for i, n in enumerate(shape)
        )
        pick = tuple(slice(0, 1) if h else slice(None) for h in held)
        small = scalar_reference(node.op)(*(a[pick] if a.ndim else a for a in args))
        return np.broadcast_to(small, shape)

    def _move(self, x: Array, movement: Movement) -> Array:
        if isinstance(movement, Broadcast):
            shape = self.shape(movement.shape)
            kept = dict(zip(movement.dims, x.shape, strict=True))
            return np.broadcast_to(x.reshape([kept.get(i, 1) for i in range(len(shape))]), shape)
        if isinstance(movement, Permute):
            return np.transpose(x, movement.order)
        if isinstance(movement, Reshape):
            return x.reshape(self.shape(movement.shape))
        if isinstance(movement, Slice):
            spans = zip(self.shape(movement.start), self.shape(movement.stop), movement.step)
            return x[tuple(slice(*span) for span in spans)]
        if isinstance(movement, Pad):
            return self._pad(x, movement)
        assert isinstance(movement, Flip)
        return np.flip(x, movement.axes)

    def _pad(self, x: Array, pad: Pad) -> Array:
        before, after = self.shape(pad.before), self.shape(pad.after)
        inner = [n + max(n - 1, 0) * i for n, i in zip(x.shape, pad.interior)]
        out = np.zeros([b + n + a for b, n, a in zip(before, inner, after)], x.dtype)
        places = zip(before, inner, pad.interior)
        out[tuple(slice(b, b + n, i + 1) for b, n, i in places)] = x
        return out

    def _fold(self, node: Fold) -> Array:
        xs = [self.array(a) for a in node.args]
        if isinstance(node.monoid, str):
            return _basic_fold(node, xs[0])
        steps = self._steps(node, [_rows(x, node.axes) for x in xs])
        if node.mode == "reduce":
            return steps[-1]
        after = steps[:0:-1] if node.reverse else steps[1:]
        return _unrows(np.stack(after) if after else xs[0], xs[0].shape, node.axes)

    def _steps(self, node: Fold, rows: list[Array]) -> list[Array]:
        """Result `node.output` before the first row and after each: the definition, row after row."""
        monoid = node.monoid
        assert not isinstance(monoid, str)
        merge = monoid.merge
        carry: list[Array] = [
            np.broadcast_to(self.rounded(value, root.dtype), rows[0].shape[1:])
            for value, root in zip(monoid.init, merge.outputs, strict=True)
        ]
        history = [carry[node.output]]
        count = rows[0].shape[0]
        for i in reversed(range(count)) if node.reverse else range(count):
            inner = _Evaluation(self.binding, self.precision, {})
            for leaf, value in zip(merge.inputs, [*carry, *(r[i] for r in rows)], strict=True):
                inner.values[leaf] = inner.rounded(value, leaf.dtype)
            shape = rows[0].shape[1:]
            carry = [np.broadcast_to(value, shape) for value, _ in inner.run(merge.outputs)]
            history.append(carry[node.output])
        return history

    def _call(self, node: Call) -> Array:
        if node.name not in CALLS:
            raise UnsupportedOpError(
                f"no reference for the library routine {node.name}", line=node.line
            )
        results = CALLS[node.name](*(self.array(a) for a in node.args), **dict(node.params))
        return results[node.output]

    # --- contractions ---

    def _product(self, node: Map) -> _Product:
        factors: list[Array] = []
        for arg in node.args:
            value = self.values[arg]
            factors += value.factors if isinstance(value, _Product) else [value]
        return _Product(factors, self.shape(node.shape))

    def _contract(self, node: Fold, product: _Product) -> Array:
        """The sum of a product over `node.axes`, over views that repeat nothing."""
        operands: list[Any] = []
        scale = 1.0
        for axis in node.axes:
            if all(f.strides[axis] == 0 for f in product.factors):
                scale *= product.shape[axis]
        for factor in product.factors:
            varies = [i for i in range(factor.ndim) if factor.strides[i] != 0]
            pick = tuple(slice(None) if i in varies else 0 for i in range(factor.ndim))
            operands += [factor[pick], varies]
        kept = [i for i in range(len(product.shape)) if i not in node.axes]
        present = [i for i in kept if any(f.strides[i] != 0 for f in product.factors)]
        small = np.einsum(*operands, present, optimize=True) * scale
        small = small.reshape([product.shape[i] if i in present else 1 for i in kept])
        full = np.broadcast_to(small, [product.shape[i] for i in kept])
        return self._rounded_once(full, node.dtype)


def _summed_products(nodes: Sequence[Node], roots: tuple[Node, ...]) -> set[Node]:
    """Float multiplications that only sums (or other such multiplications) read."""
    blocked: set[Node] = set(roots)
    lazy: set[Node] = set()
    for node in reversed(nodes):
        summing = isinstance(node, Fold) and node.monoid == "sum" and node.mode == "reduce"
        if (
            isinstance(node, Map)
            and node.op == "mul"
            and node.dtype.is_float
            and node not in blocked
        ):
            lazy.add(node)
            summing = True
        if not summing:
            blocked.update(node.args)
    return lazy


def _distinct(x: Array) -> tuple[Array, tuple[int, ...]]:
    """The part of `x` that is not repeated by a zero stride, and the full shape."""
    if 0 not in x.strides:
        return x, x.shape
    pick = tuple(
        slice(0, 1) if s == 0 and n > 1 else slice(None) for s, n in zip(x.strides, x.shape)
    )
    return x[pick], x.shape


def _cast(x: Array, dtype: DType) -> Array:
    if dtype.kind == "bool":
        return np.asarray(x != 0)
    if x.dtype.kind == "f" and not dtype.is_float:
        return np.asarray(np.trunc(np.nan_to_num(x)).astype(np.int64).astype(dtype.name))
    return x


def _basic_fold(node: Fold, x: Array) -> Array:
    assert isinstance(node.monoid, str)
    ufunc = FOLDS[node.monoid]
    if node.monoid in ("any", "all"):
        x = x.astype(bool)
    if node.mode == "reduce":
        initial = identity(node.monoid, node.dtype)
        return np.asarray(ufunc.reduce(x, axis=node.axes, initial=initial, dtype=x.dtype))
    rows = _rows(x, node.axes)
    rows = rows[::-1] if node.reverse else rows
    rows = ufunc.accumulate(rows, axis=0, dtype=x.dtype)
    return _unrows(rows[::-1] if node.reverse else rows, x.shape, node.axes)


def _rows(x: Array, axes: tuple[int, ...]) -> Array:
    """The folded axes as one leading axis, in row-major order."""
    rest = [i for i in range(x.ndim) if i not in axes]
    count = int(np.prod([x.shape[i] for i in axes]))
    return np.transpose(x, [*axes, *rest]).reshape([count, *(x.shape[i] for i in rest)])


def _unrows(rows: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """The inverse of `_rows`."""
    rest = [i for i in range(len(shape)) if i not in axes]
    moved = rows.reshape([*(shape[i] for i in axes), *(shape[i] for i in rest)])
    return np.moveaxis(moved, range(len(axes)), axes)


def _take(x: Array, index: Array, axis: int) -> Array:
    """Gather; an index out of range reads zero, as the adjoint of `Put` must."""
    extent = x.shape[axis]
    inside = (index >= 0) & (index < extent)
    if extent == 0:
        return np.zeros(index.shape, x.dtype)
    found = np.take_along_axis(x, np.where(inside, index, 0).astype(np.int64), axis)
    return np.where(inside, found, np.zeros((), x.dtype))


def _put(x: Array, index: Array, axis: int, extent: int) -> Array:
    """Scatter-add; an element whose index is out of range is dropped."""
    out = np.zeros((*x.shape[:axis], extent, *x.shape[axis + 1 :]), x.dtype)
    inside = (index >= 0) & (index < extent)
    places: list[Array] = list(np.indices(index.shape))
    places[axis] = index.astype(np.int64)
    np.add.at(out, tuple(p[inside] for p in places), x[inside])
    return out
