"""The only way to make nodes: typed constructors that infer shape and dtype and intern the result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from tgc.errors import DTypeError, Line, ShapeError
from tgc.ir import dtypes
from tgc.ir.dtypes import DType
from tgc.ir.nodes import (
    Broadcast,
    Call,
    Const,
    Flip,
    Fold,
    Graph,
    Input,
    Iota,
    Leaf,
    Map,
    Monoid,
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
)
from tgc.ir.ops import OPS, OpSpec
from tgc.ir.sizes import Dim, Size, cdiv, product

N = TypeVar("N", bound=Node)


def const_key(value: object, dtype: DType) -> str:
    """The identity of a constant: its type and bits."""
    if isinstance(value, Size):
        return f"size {value}"
    if dtype.is_float:
        return float(value).hex()  # type: ignore[arg-type]
    return repr(bool(value)) if dtype is dtypes.bool_ else repr(int(value))  # type: ignore[call-overload]


class Builder:
    """Interns the nodes of one trace and everything derived from it.

    `line` is attached to new nodes; `names` remembers what the user called a value, for readable kernels.
    """

    def __init__(self) -> None:
        self._table: dict[tuple[Any, ...], Node] = {}
        self.line: Line | None = None
        self.names: dict[Node, str] = {}

    @contextlib.contextmanager
    def at(self, line: Line | None) -> Iterator[None]:
        """Attribute nodes made inside to `line`."""
        saved, self.line = self.line, line or self.line
        try:
            yield
        finally:
            self.line = saved

    def _intern(
        self, kind: type[N], args: tuple[Node, ...], dtype: DType, shape: Shape, **fields: Any
    ) -> N:
        key = (kind, tuple(a.id for a in args), dtype.name, shape, *fields.values())
        node = self._table.get(key)
        if node is None:
            node = kind()
            node.args, node.dtype, node.shape = args, dtype, shape
            node.id, node.line = len(self._table), self.line
            for name, value in fields.items():
                setattr(node, name, value)
            self._table[key] = node
        return node  # type: ignore[return-value]

    # --- leaves ---

    def sizes(self, names: str) -> tuple[Size, ...]:
        """Size symbols, from names separated by spaces."""
        return tuple(Size.symbol(name) for name in names.split())

    def input(self, name: str, dtype: DType | str, shape: Shape) -> Leaf:
        """A function argument; the name is its identity."""
        return self._intern(Leaf, (), _dtype(dtype), shape, source=Input(name))

    def inputs(self) -> tuple[Leaf, ...]:
        """Every input made so far, in order."""
        return tuple(
            n for n in self._table.values() if isinstance(n, Leaf) and isinstance(n.source, Input)
        )

    def const(self, value: Any, dtype: DType | str, shape: Shape = ()) -> Leaf:
        """A constant of the given shape. `value` is a Python number or a `Size`."""
        dtype = _dtype(dtype)
        if not isinstance(value, Size):
            value = (
                float(value)
                if dtype.is_float
                else bool(value)
                if dtype is dtypes.bool_
                else int(value)
            )
        return self._intern(Leaf, (), dtype, shape, source=Const(const_key(value, dtype), value))

    def like(self, node: Node, value: Any) -> Leaf:
        """A constant with another node's dtype and shape."""
        return self.const(value, node.dtype, node.shape)

    def iota(self, axis: int, shape: Shape, dtype: DType | str = dtypes.int64) -> Leaf:
        """The index along `axis`, as an array of `shape`."""
        return self._intern(Leaf, (), _dtype(dtype), shape, source=Iota(axis))

    # --- maps ---

    def map(self, op: str, *args: Node, dtype: DType | None = None) -> Node:
        """A scalar operation over equal shapes and, but for `where` and `cast`, equal dtypes.

        Raises:
            ShapeError, DTypeError: operands disagree; the caller (trace, calculus) inserts casts and broadcasts.
        """
        spec = OPS[op]
        if len(args) != spec.arity:
            raise ShapeError(f"{op} takes {spec.arity} operands, not {len(args)}", line=self.line)
        shape = args[0].shape
        for arg in args[1:]:
            if arg.shape != shape:
                raise ShapeError(
                    f"{op}: operands have shapes {shape} and {arg.shape}", line=self.line
                )
        values = args[1:] if op == "where" else args
        if any(v.dtype is not values[0].dtype for v in values):
            raise DTypeError(
                f"{op}: operands have dtypes {', '.join(v.dtype.name for v in values)}",
                line=self.line,
            )
        if op == "where" and args[0].dtype is not dtypes.bool_:
            raise DTypeError("where: the condition must be bool", line=self.line)
        if op == "cast":
            if dtype is None:
                raise DTypeError("cast needs a dtype", line=self.line)
            return (
                args[0] if dtype is args[0].dtype else self._intern(Map, args, dtype, shape, op=op)
            )
        return self._intern(Map, args, result_dtype(spec, values[0].dtype), shape, op=op)

    def cast(self, x: Node, dtype: DType | str) -> Node:
        """`x` converted to `dtype` (itself if it has that type)."""
        return self.map("cast", x, dtype=_dtype(dtype))

    # --- views ---

    def view(self, x: Node, movement: Movement) -> Node:
        """One movement; an identity movement is the node itself, and a constant moves for free (but for pads)."""
        shape = moved_shape(x.shape, movement, self.line)
        if shape == x.shape and not isinstance(movement, Flip) and _is_identity(movement, x.ndim):
            return x
        if isinstance(x, Leaf) and isinstance(x.source, Const) and not isinstance(movement, Pad):
            return self.const(x.source.value, x.dtype, shape)
        return self._intern(View, (x,), x.dtype, shape, movement=movement)

    def broadcast(self, x: Node, *, shape: Shape, dims: tuple[int, ...] | None = None) -> Node:
        """Stretch to `shape`; by default dimensions align at the right, as in numpy."""
        if dims is None:
            dims = tuple(range(len(shape) - x.ndim, len(shape)))
        return self.view(x, Broadcast(tuple(shape), dims))

    def permute(self, x: Node, *, order: tuple[int, ...]) -> Node:
        return self.view(x, Permute(tuple(order)))

    def reshape(self, x: Node, *, shape: Shape) -> Node:
        return self.view(x, Reshape(tuple(shape)))

    def slice(self, x: Node, *, start: Shape, stop: Shape, step: tuple[int, ...]) -> Node:
        return self.view(x, Slice(tuple(start), tuple(stop), tuple(step)))

    def pad(
        self, x: Node, *, before: Shape, after: Shape, interior: tuple[int, ...] | None = None
    ) -> Node:
        return self.view(x, Pad(tuple(before), tuple(after), interior or (0,) * x.ndim))

    def flip(self, x: Node, *, axes: tuple[int, ...]) -> Node:
        return self.view(x, Flip(tuple(axes))) if axes else x

    # --- folds, gathers, calls ---

    def fold(
        self,
        monoid: str | Monoid,
        *xs: Node,
        axes: tuple[int, ...],
        mode: str = "reduce",
        output: int = 0,
        reverse: bool = False,
    ) -> Node:
        """Combine along `axes`. A reduce over no axes is its operand. The operand's dtype is the accumulator's."""
        x = xs[0]
        axes = tuple(sorted(axes))
        if any(not 0 <= a < x.ndim for a in axes) or len(set(axes)) != len(axes):
            raise ShapeError(
                f"axes {axes} do not fit a value of {x.ndim} dimensions", line=self.line
            )
        if mode == "reduce":
            if not axes:
                return x
            shape = tuple(d for i, d in enumerate(x.shape) if i not in axes)
        else:
            shape = x.shape
        dtype = x.dtype
        if isinstance(monoid, Monoid):
            dtype = monoid.merge.outputs[output].dtype
        return self._intern(
            Fold,
            tuple(xs),
            dtype,
            shape,
            monoid=monoid,
            axes=axes,
            mode=mode,
            output=output,
            reverse=reverse,
        )

    def take(self, x: Node, index: Node, *, axis: int) -> Node:
        """Gather along `axis`; see `Take`."""
        _check_index(x, index, axis, self.line)
        return self._intern(Take, (x, index), x.dtype, index.shape, axis=axis)

    def put(self, x: Node, index: Node, *, axis: int, extent: Dim) -> Node:
        """Scatter-add along `axis` into `extent` zeros; see `Put`."""
        _check_index(x, index, axis, self.line)
        shape = (*x.shape[:axis], extent, *x.shape[axis + 1 :])
        return self._intern(Put, (x, index), x.dtype, shape, axis=axis)

    def call(
        self,
        name: str,
        *xs: Node,
        dtype: DType | str,
        shape: Shape,
        params: Mapping[str, object] | None = None,
        output: int = 0,
    ) -> Node:
        """A library routine; its caller declares the result's type."""
        fields = tuple(sorted((params or {}).items()))
        return self._intern(
            Call, tuple(xs), _dtype(dtype), shape, name=name, params=fields, output=output
        )

    def monoid(
        self,
        name: str,
        *,
        init: tuple[float, ...],
        merge: Graph | Callable[[Builder], Graph | Node | tuple[Node, ...]],
        associative: bool = True,
        commutative: bool = False,
    ) -> Monoid:
        """A monoid whose merge is a graph, or a function that makes one with a builder of its own."""
        if not isinstance(merge, Graph):
            inner = Builder()
            made = merge(inner)
            outputs = made if isinstance(made, tuple) else (made,)
            merge = made if isinstance(made, Graph) else inner.graph(name, inner.inputs(), outputs)  # type: ignore[arg-type]
        return Monoid(name, init, merge, associative, commutative)

    # --- rebuilding ---

    def remake(self, node: Node, args: tuple[Node, ...]) -> Node:
        """The same operation over other arguments (same node if they are its own)."""
        if args == node.args:
            return node
        with self.at(node.line):
            if isinstance(node, Map):
                new = self.map(node.op, *args, dtype=node.dtype if node.op == "cast" else None)
            elif isinstance(node, View):
                new = self.view(args[0], node.movement)
            elif isinstance(node, Fold):
                new = self.fold(
                    node.monoid,
                    *args,
                    axes=node.axes,
                    mode=node.mode,
                    output=node.output,
                    reverse=node.reverse,
                )
            elif isinstance(node, Take):
                new = self.take(args[0], args[1], axis=node.axis)
            elif isinstance(node, Put):
                new = self.put(args[0], args[1], axis=node.axis, extent=node.shape[node.axis])
            elif isinstance(node, Call):
                new = self.call(
                    node.name,
                    *args,
                    dtype=node.dtype,
                    shape=node.shape,
                    params=dict(node.params),
                    output=node.output,
                )
            else:
                raise TypeError(f"a {type(node).__name__} has no arguments")
        if node in self.names:
            self.names.setdefault(new, self.names[node])
        return new

    def graph(
        self, name: str, inputs: tuple[Leaf, ...], outputs: tuple[Node, ...], **effects: Any
    ) -> Graph:
        """A function of this builder's nodes."""
        return Graph(name, inputs, outputs, self, **effects)


def result_dtype(spec: OpSpec, operands: DType) -> DType:
    """The type of an operation's result, but for a cast."""
    return dtypes.BY_NAME.get(spec.result, operands)


def _dtype(dtype: DType | str) -> DType:
    return dtypes.BY_NAME[dtype] if isinstance(dtype, str) else dtype


def _check_index(x: Node, index: Node, axis: int, line: Line | None) -> None:
    if index.dtype.kind not in ("int", "uint"):
        raise DTypeError(f"an index must be an integer, not {index.dtype.name}", line=line)
    if x.ndim != index.ndim or not 0 <= axis < x.ndim:
        raise ShapeError(
            f"gather: value {x.shape} and index {index.shape} along axis {axis}", line=line
        )


def _is_identity(movement: Movement, ndim: int) -> bool:
    if isinstance(movement, Permute):
        return movement.order == tuple(range(ndim))
    if isinstance(movement, Broadcast):
        return movement.dims == tuple(range(ndim))
    if isinstance(movement, Slice):
        return all(s == 0 for s in movement.start) and all(s == 1 for s in movement.step)
    if isinstance(movement, Pad):
        return not any(movement.interior) and all(b == 0 for b in movement.before)
    return isinstance(movement, Reshape)


def moved_shape(shape: Shape, movement: Movement, line: Line | None = None) -> Shape:
    """The shape after a movement.

    Raises:
        ShapeError: the movement does not fit the shape.
    """
    ndim = len(shape)
    if isinstance(movement, Broadcast):
        dims, out = movement.dims, movement.shape
        if (
            len(dims) != ndim
            or list(dims) != sorted(set(dims))
            or any(not 0 <= d < len(out) for d in dims)
        ):
            raise ShapeError(f"cannot broadcast {shape} to {out} along {dims}", line=line)
        if any(s not in (1, out[d]) for s, d in zip(shape, dims, strict=True)):
            raise ShapeError(f"cannot broadcast {shape} to {out}", line=line)
        return out
    if isinstance(movement, Permute):
        if sorted(movement.order) != list(range(ndim)):
            raise ShapeError(f"{movement.order} is no order of {ndim} axes", line=line)
        return tuple(shape[i] for i in movement.order)
    if isinstance(movement, Reshape):
        if product(shape) != product(movement.shape):
            raise ShapeError(f"cannot reshape {shape} to {movement.shape}", line=line)
        return movement.shape
    if isinstance(movement, Slice):
        if not len(movement.start) == len(movement.stop) == len(movement.step) == ndim:
            raise ShapeError(
                f"a slice of {len(movement.start)} axes does not fit {shape}", line=line
            )
        return tuple(
            cdiv(b - a, s)
            for a, b, s in zip(movement.start, movement.stop, movement.step, strict=True)
        )
    if isinstance(movement, Pad):
        if not len(movement.before) == len(movement.after) == len(movement.interior) == ndim:
            raise ShapeError(
                f"a pad of {len(movement.before)} axes does not fit {shape}", line=line
            )
        return tuple(
            b + a + d + (d - 1) * i if i else b + a + d
            for d, b, a, i in zip(
                shape, movement.before, movement.after, movement.interior, strict=True
            )
        )
    if any(not 0 <= a < ndim for a in movement.axes):
        raise ShapeError(f"cannot flip axes {movement.axes} of {ndim}", line=line)
    return shape
