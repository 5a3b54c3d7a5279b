"""One kernel as the source of a `@triton.jit` function.

Operations that are used once and have no name of the user's are written where they are used. A flat map over a size
that no one knows to be divisible by 16 gets its tile as a function of its own, called without a mask for full tiles
and with one for the last: loads and stores are then 128 bits wide at any size.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from tgc.codegen.triton import operations
from tgc.codegen.triton.expressions import (
    WIDTH,
    Expr,
    call,
    expand,
    is_name,
    method,
    name,
    product,
    template,
    text,
    triton_type,
    wrapped,
)
from tgc.codegen.triton.padding import Paddings, fills
from tgc.codegen.triton.parameters import Parameters, passed_type
from tgc.codegen.triton.tiles import Tiles, Value, lanes
from tgc.codegen.triton.uses import Uses
from tgc.errors import VerifyError
from tgc.ir.dtypes import DType
from tgc.ir.nodes import identity
from tgc.ir.sizes import Size, exact_quotient
from tgc.kernel.ir import (
    Axis,
    Const,
    Index,
    Iota,
    Load,
    Loop,
    Op,
    Operand,
    Program,
    Reduce,
    Statement,
    Store,
)

_INLINE, _INLINE_STORED = 40, 52  # columns of an operation written where it is used, or stored


class KernelWriter(Tiles):
    """Writes one kernel."""

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self.paddings = Paddings(parameters)
        self.fills = fills(self.kernel)
        self.uses = Uses(self.kernel)

    def write(self) -> str:
        """The whole function, after the one for its tile if it has one."""
        if self._has_flat_tile():
            return self._write_flat()
        self._heading(self.kernel.name, *self._signature())
        self._formula()
        self.place_program()
        for axis in self.kernel.axes:
            if axis.kind != "loop":
                self.place_axis(axis)
        self._block(self.kernel.body)
        return "\n".join(self.lines) + "\n"

    def _signature(self) -> tuple[list[str], list[str], list[str]]:
        pointers = []
        for buffer in self.parameters.buffers:
            declared = self.parameters.pointers[buffer.name]
            if buffer.role == "scalar" and buffer.dtype.is_float:
                # Triton takes a Python float for float32 unless told otherwise.
                declared += f": {text(triton_type(passed_type(buffer)))}"
            pointers.append(declared)
        sizes = [size for size, _ in self.parameters.sizes]
        blocks = [f"{g.block_name}: tl.constexpr" for g in self.parameters.blocks]
        return pointers, sizes, blocks

    def _heading(self, function: str, *parameters: Sequence[str]) -> None:
        self.lines += ["@triton.jit", *wrapped(f"def {function}(", parameters, "):", 0)]

    def _formula(self) -> None:
        for formula in self.kernel.formula:
            for line in textwrap.wrap(
                formula, WIDTH - 4, initial_indent="# ", subsequent_indent="#     "
            ):
                self.line(line)

    # --- flat maps ---

    def _has_flat_tile(self) -> bool:
        """Whether a full tile is worth a path of its own: one grid axis, and a mask that would narrow the loads."""
        if len(self.kernel.axes) != 1:
            return False
        geometry = self.parameters.axes[self.kernel.axes[0].name]
        plain = not any(
            isinstance(s, (Reduce, Loop)) or (isinstance(s, Load) and s.mask is not None)
            for s in self.kernel.body
        )
        plain = plain and not any(isinstance(t, Program) for t in self.parameters.terms)
        aligned = exact_quotient(geometry.axis.extent, 16) is not None
        return geometry.axis.kind == "grid" and geometry.masked and plain and not aligned

    def _write_flat(self) -> str:
        axis = self.kernel.axes[0]
        element, mask = self.axis_names[axis.name], self.names.new("mask")
        self.scopes[-1].masks[(axis.name,)] = mask
        self._formula()
        self._block(self.kernel.body)
        body, self.lines = self.lines, []
        pointers = list(self.parameters.pointers.values())
        words = set(re.findall(r"\w+", "\n".join(body)))
        sizes = [size for size, _ in self.parameters.sizes if size in words]
        tile = f"{self.kernel.name}_tile"
        self._heading(tile, pointers, [*sizes, element, mask])
        self.lines += [*body, "", ""]
        self._write_flat_kernel(axis, tile, [*pointers, *sizes, element], mask)
        return "\n".join(self.lines) + "\n"

    def _write_flat_kernel(self, axis: Axis, tile: str, passed: list[str], mask: str) -> None:
        geometry, element = self.parameters.axes[axis.name], name(self.axis_names[axis.name])
        self._heading(self.kernel.name, *self._signature())
        self.place_program()
        block, end = name(geometry.block_name), self.dim(axis.extent)
        start = self.assign_new("start", product(self.program(axis), block))
        self.assign(text(element), template("({0} + {1})", start, lanes(geometry)))
        full = text(template("({0} + {1} <= {2})", start, block, end))
        self.line(f"if {full}:  # a full tile needs no mask: 128 bits at a time, at any size")
        self.lines += wrapped(f"{tile}(", [[*passed, f"{mask}=None"]], ")", 2)
        self.line("else:")
        exist = text(template("({0} < {1})", element, end))
        self.lines += wrapped(f"{tile}(", [[*passed, f"{mask}={exist}"]], ")", 2)

    # --- statements ---

    def _block(self, body: Sequence[Statement]) -> None:
        for statement in body:
            if isinstance(statement, Op):
                self._op(statement)
            elif isinstance(statement, Load):
                self._load(statement)
            elif isinstance(statement, Store):
                self._store(statement)
            elif isinstance(statement, Reduce):
                self._reduce(statement)
            elif isinstance(statement, Iota):
                self._iota(statement)
            else:
                self._loop(statement)

    def _define(self, statement: Load | Iota | Op | Reduce, value: Value) -> None:
        named = self.assign_new(self.uses.wish(statement), value.expr)
        self.values[statement.name] = Value(named, value.axes, value.dtype)

    def _load(self, statement: Load) -> None:
        buffer = self.kernel.buffer(statement.buffer)
        if buffer.role == "scalar":
            passed = name(self.parameters.pointers[buffer.name])
            same = buffer.dtype.is_float and passed_type(buffer) is buffer.dtype
            value = passed if same else operations.cast_size(passed, buffer.dtype)
            self.values[statement.name] = Value(value, (), buffer.dtype)
            return
        condition = self.values[statement.mask] if statement.mask is not None else None
        own = self.index_axes(statement.index)
        axes = self.tile([*own, *(condition.axes if condition else ())])
        fill = self.fills.get(statement.name)
        keywords: dict[str, Expr] = {}
        mask = self._access_mask(axes, condition)
        if mask is not None:
            keywords["mask"] = mask
            if fill is not None:
                keywords["other"] = operations.literal(fill, statement.dtype)
        pointer = self.address(buffer.name, statement.index, own, self.uses.wish(statement))
        loaded = call("tl.load", self._pointer_tile(pointer, own, axes), **keywords)
        self.paddings.load(statement, axes, fill)
        converted = self.uses.casts.get(statement.name)
        if converted is None:
            self._define(statement, Value(loaded, axes, statement.dtype))
            return
        self.paddings.op(converted)
        expr = operations.cast(loaded, statement.dtype, converted.dtype)
        self._define(statement, Value(expr, axes, converted.dtype))
        self.values[converted.name] = self.values[statement.name]

    def _pointer_tile(self, pointer: Expr, own: tuple[str, ...], axes: tuple[str, ...]) -> Expr:
        """The address of a load that its condition spreads over more axes than its index."""
        if own == axes:
            return pointer
        if own:
            pointer = expand(pointer, own, axes)
        return call("tl.broadcast_to", pointer, self.shape(axes))

    def _access_mask(self, axes: tuple[str, ...], condition: Value | None) -> Expr | None:
        exist = self.mask(axes)
        mask = expand(exist[0], exist[1], axes) if exist is not None else None
        if condition is None:
            return mask
        chosen = expand(condition.expr, condition.axes, axes)
        return chosen if mask is None else template("({0} & {1})", mask, chosen)

    def _store(self, statement: Store) -> None:
        buffer = self.kernel.buffer(statement.buffer)
        value = self._operand(statement.value)
        axes = self.tile([*self.index_axes(statement.index), *value.axes])
        stored = operations.cast(value.expr, value.dtype, buffer.dtype)
        self.comment_origin(value.line)
        mask = self._access_mask(axes, None)
        keywords = {} if mask is None else {"mask": mask}
        pointer = self.address(buffer.name, statement.index, axes, buffer.name)
        self.line(text(call("tl.store", pointer, expand(stored, value.axes, axes), **keywords)))

    def _iota(self, statement: Iota) -> None:
        axes = self.index_axes(statement.index)
        found = self.index(statement.index, axes)
        counted_wide = statement.index.terms and self._counts_in(statement.index, statement.dtype)
        if found is not None and counted_wide:
            value = Value(found, axes, statement.dtype)
            if is_name(found):
                self.values[statement.name] = value
                return
        elif found is None or not axes:
            zero = operations.typed(0, statement.dtype)
            expr = zero if found is None else operations.cast_size(found, statement.dtype)
            value = Value(expr, axes, statement.dtype)
        else:
            value = Value(method(found, "to", triton_type(statement.dtype)), axes, statement.dtype)
        self._define(statement, value)

    def _counts_in(self, index: Index, dtype: DType) -> bool:
        """Whether index arithmetic has this type already."""
        plain = all(isinstance(t, str) and t in self.parameters.wide for t, _ in index.terms)
        return plain and dtype.name == "int64"

    def _operand(self, operand: Operand) -> Value:
        """An operand that stands by itself; a constant carries its type."""
        if not isinstance(operand, Const):
            return self.values[operand]
        if isinstance(operand.value, Size):
            cast = operations.cast_size(self.dim(operand.value), operand.dtype)
            return Value(cast, (), operand.dtype)
        return Value(operations.typed(operand.value, operand.dtype), (), operand.dtype)

    def _op(self, statement: Op) -> None:
        if statement.name in self.values:
            return  # a cast written with its load
        operands = [self._op_operand(statement, i) for i in range(len(statement.args))]
        axes = self.tile(a for v in operands for a in v.axes)
        if statement.op == "cast":
            expr = operations.cast(operands[0].expr, operands[0].dtype, statement.dtype)
        else:
            spelling = operations.spelling(statement.op, operands[-1].dtype)
            expr = template(spelling, *(expand(v.expr, v.axes, axes) for v in operands))
        self.paddings.op(statement)
        value = Value(expr, axes, statement.dtype)
        if not self._inlined(statement, value):
            self.comment_origin(statement.line)
            self._define(statement, value)

    def _op_operand(self, statement: Op, position: int) -> Value:
        """An operand as `statement` wants it: a constant beside a value of its type is a bare literal."""
        operand = statement.args[position]
        if not isinstance(operand, Const):
            return self.values[operand]
        others = statement.args[1:] if statement.op == "where" else statement.args
        condition = statement.op == "where" and position == 0
        alone = condition or statement.op == "cast" or all(isinstance(v, Const) for v in others)
        if isinstance(operand.value, Size):
            if alone or operand.dtype.name != "int64":
                return self._operand(operand)
            return Value(self.dim(operand.value), (), operand.dtype)
        expr = operations.constant_for(statement.op, operand.value, operand.dtype, alone=alone)
        return Value(expr, (), operand.dtype)

    def _inlined(self, statement: Op | Reduce, value: Value) -> bool:
        """Whether a value is left to be written where it is used."""
        limit = _INLINE_STORED if self.uses.stored(statement.name) else _INLINE
        if not self.uses.inline(statement) or len(text(value.expr)) > limit:
            return False
        value.line = statement.line
        self.values[statement.name] = value
        return True

    # --- folds ---

    def _reduce(self, statement: Reduce) -> None:
        value = self._fold_operand(statement)
        positions = [i for i, a in enumerate(value.axes) if a in statement.over]
        expr = operations.reduce_tile(statement.monoid, value.expr, positions, statement.dtype)
        rest = tuple(a for a in value.axes if a not in statement.over)
        reduced = Value(expr, rest, statement.dtype)
        if not self._inlined(statement, reduced):
            self.comment_origin(statement.line)
            self._define(statement, reduced)

    def _fold_operand(self, fold: Reduce) -> Value:
        """The operand over all lanes it is folded along, with the identity in those that do not exist."""
        if fold.monoid == "sum" and fold.dtype.is_half:
            raise VerifyError(f"{fold.name}: a sum in {fold.dtype.name} loses digits")
        value = self._operand(fold.value)
        axes = self.tile([*value.axes, *fold.over])
        expr = operations.cast(value.expr, value.dtype, fold.dtype)
        if value.axes != axes:
            expr = call("tl.broadcast_to", expand(expr, value.axes, axes), self.shape(axes))
        neutral = identity(fold.monoid, fold.dtype)
        for axis in self.tile(fold.over):
            exist = self.mask([axis])
            if exist is not None and self.paddings.of(fold.value, axis) != neutral:
                mask = expand(exist[0], exist[1], axes)
                expr = call("tl.where", mask, expr, operations.literal(neutral, fold.dtype))
        return Value(expr, axes, fold.dtype)

    # --- loops ---

    def _loop(self, statement: Loop) -> None:
        axis = self.kernel.axis(statement.axis)
        lanes_of = [self._accumulator(fold) for fold in statement.folds]
        counter, end = self.place_loop(axis)
        with self.block():
            self.place_in_loop(axis, counter, end)
            self._block(statement.body)
            for fold, accumulator in zip(statement.folds, lanes_of, strict=True):
                self._accumulate(fold, accumulator)
            if not statement.body and not statement.folds:
                self.line("pass")
        for fold, accumulator in zip(statement.folds, lanes_of, strict=True):
            self._finish(fold, accumulator)

    def _accumulator(self, fold: Reduce) -> Value:
        """A tile of identities over the lanes a fold keeps apart until its loop ends."""
        axes = self.tile([*fold.axes, *fold.over])
        neutral = identity(fold.monoid, fold.dtype)
        reduced = any(a in fold.over for a in axes)
        tile = operations.full(neutral, self.shape(axes), fold.dtype)
        wish = self.uses.wish(fold)
        named = self.assign_new(f"{wish}_lanes" if reduced else wish, tile)
        return Value(named, axes, fold.dtype)

    def _accumulate(self, fold: Reduce, accumulator: Value) -> None:
        value = self._fold_operand(fold)
        added = expand(value.expr, value.axes, accumulator.axes)
        self.comment_origin(fold.line)
        target = text(accumulator.expr)
        if fold.monoid in ("sum", "prod") and fold.dtype.kind != "bool":
            self.line(f"{target} {'+' if fold.monoid == 'sum' else '*'}= {text(added)}")
            return
        self.assign(target, operations.combine(fold.monoid, accumulator.expr, added, fold.dtype))

    def _finish(self, fold: Reduce, accumulator: Value) -> None:
        positions = [i for i, a in enumerate(accumulator.axes) if a in fold.over]
        rest = tuple(a for a in accumulator.axes if a not in fold.over)
        if not positions:
            self.values[fold.name] = accumulator
            return
        reduced = operations.reduce_tile(fold.monoid, accumulator.expr, positions, fold.dtype)
        self._define(fold, Value(reduced, rest, fold.dtype))
