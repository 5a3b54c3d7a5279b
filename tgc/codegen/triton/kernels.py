"""One kernel as the source of a `@triton.jit` function.

Values are tiles over the axes of their axis set, in the kernel's order; what is one element per program is a scalar.
Operations that are used once and have no name of the user's are written where they are used. A flat map over a size
that no one knows to be divisible by 16 gets a full tile without a mask beside the masked tail: its loads and stores
are 128 bits wide at any size.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tgc.codegen.triton import operations
from tgc.codegen.triton.expressions import (
    Expr,
    call,
    dim,
    dotted,
    expand,
    is_name,
    method,
    name,
    number,
    product,
    repeats_operand,
    sum_of,
    template,
    text,
    triton_type,
)
from tgc.codegen.triton.padding import Paddings, fills
from tgc.codegen.triton.parameters import (
    Geometry,
    Parameters,
    program_count,
    walk,
)
from tgc.errors import Line, VerifyError
from tgc.ir.dtypes import DType
from tgc.ir.sizes import Dim, Size, exact_quotient
from tgc.kernel.ir import (
    Axis,
    Const,
    Gathered,
    Index,
    Iota,
    Kernel,
    Load,
    Loop,
    Op,
    Operand,
    Program,
    Quotient,
    Reduce,
    Remainder,
    Statement,
    Store,
    Term,
)

WIDTH = 100
"""Columns of emitted source."""

_INLINE = 40  # columns of an operation written where it is used
_MODULES = ("tl", "triton", "libdevice", "torch")


@dataclass
class Value:
    """A value of the kernel: its expression, its tile axes and its type."""

    expr: Expr
    axes: tuple[str, ...]
    dtype: DType


@dataclass
class Scope:
    """A block of statements: what is named in it, and the lines written."""

    depth: int
    masks: dict[tuple[str, ...], str] = field(default_factory=dict)
    offsets: dict[tuple[Index, tuple[str, ...]], str] = field(default_factory=dict)
    line: Line | None = None


class KernelWriter:
    """Writes one kernel; `lines` is the source so far."""

    def __init__(self, kernel: Kernel, parameters: Parameters) -> None:
        self.kernel, self.parameters = kernel, parameters
        self.lines: list[str] = []
        self.names = parameters.names.child()
        self.names.taken |= {*_MODULES, *operations.HELPERS}
        self.pointers = parameters.pointers
        self.axis_names = {a.name: self.names.new(a.name) for a in kernel.axes}
        self.values: dict[str, Value] = {}
        self.paddings = Paddings(parameters)
        self.fills = fills(kernel)
        self.scopes: list[Scope] = [Scope(1)]
        self.uses = _use_counts(kernel.body)
        self.offset_uses = Counter(
            s.index for s in walk(kernel.body) if isinstance(s, (Load, Store))
        )
        self.full_tile = False  # writing the unmasked body of a flat map
        self.program_names: dict[str, Expr] = {}
        self.bounds: dict[str, Dim | Expr] = {}

    # --- the frame ---

    def write(self) -> str:
        """The whole function."""
        self._heading(self.kernel.name, self._signature())
        self._comments()
        self._programs()
        for axis in self.kernel.axes:
            if axis.kind != "loop" and self._mentioned(axis.name):
                self._coordinates(axis)
        self._block(self.kernel.body)
        return "\n".join(self.lines) + "\n"

    def _signature(self) -> list[str]:
        sizes = [n for n, _ in self.parameters.sizes]
        blocks = [f"{g.block_name}: tl.constexpr" for g in self.parameters.axes.values() if g.tiled]
        return [*self._pointer_parameters(), *sizes, *blocks]

    def _pointer_parameters(self) -> list[str]:
        annotated = []
        for buffer in self.parameters.buffers:
            declared = self.pointers[buffer.name]
            if buffer.role == "scalar" and buffer.dtype.is_float:
                declared += ": " + text(triton_type(scalar_type(buffer.dtype)))
            annotated.append(declared)
        return annotated

    def _heading(self, function: str, parameters: Sequence[str]) -> None:
        self.lines.append("@triton.jit")
        self.lines += wrapped(f"def {function}(", parameters, "):", 0)

    def _comments(self) -> None:
        for line in self.kernel.formula:
            self._line(f"# {line}"[: WIDTH - 4])

    def _line(self, source: str) -> None:
        self.lines.append("    " * self.scopes[-1].depth + source)

    def _assign(self, target: str, value: Expr) -> None:
        self._line(f"{target} = {text(value)}")

    # --- programs, coordinates, masks ---

    def _mentioned(self, axis: str) -> bool:
        """Whether the coordinate of an axis appears in the kernel."""
        return axis in self.parameters.used_terms() or self.parameters.axes[axis].masked

    def _programs(self) -> None:
        """What number this program has along each axis it is divided along."""
        programs = self.parameters.programs
        wanted = {t.axis for t in self.parameters.used_terms() if isinstance(t, Program)}
        first = call("tl.program_id", number(0))
        if len(programs) > 1:
            program = self.names.new("program")
            self._assign(program, first)
            first = name(program)
        for position, axis in enumerate(programs):
            found = self._program_number(first, programs, position)
            starts_loop = axis.kind == "loop"
            if axis.name in wanted or starts_loop:
                named = self.names.new(f"{axis.name}_program")
                self._assign(named, self._widened(found, Program(axis.name), axis.name))
                found = name(named)
            self.program_names[axis.name] = found

    def _widened(self, value: Expr, *terms: Term) -> Expr:
        wide = self.parameters.wide.intersection(terms)
        return method(value, "to", dotted("tl.int64")) if wide else value

    def _program_number(self, first: Expr, programs: Sequence[Axis], position: int) -> Expr:
        """The last axis runs fastest."""
        found = first
        inner: Expr | None = None
        for axis in programs[position + 1 :]:
            inner = product(inner, self._count(axis))
        if inner is not None:
            found = template("({0} // {1})", found, inner)
        if position > 0:
            found = template("({0} % {1})", found, self._count(programs[position]))
        return found

    def _count(self, axis: Axis) -> Expr:
        count = program_count(axis)
        if isinstance(count, int):
            return number(count)
        if axis.kind == "loop":
            assert axis.split is not None
            return call("tl.cdiv", self._dim(axis.extent), self._dim(axis.split))
        geometry = self.parameters.axes[axis.name]
        if not geometry.tiled:
            return self._dim(axis.extent)
        return call("tl.cdiv", self._dim(axis.extent), name(geometry.block_name))

    def _coordinates(self, axis: Axis) -> None:
        """Name the elements of a grid or lane axis that this program works on, and which of them exist."""
        geometry = self.parameters.axes[axis.name]
        lanes = call("tl.arange", number(0), name(geometry.block_name)) if geometry.tiled else None
        target = self.axis_names[axis.name]
        if axis.kind == "lane":
            if lanes is None:
                return  # one element: its coordinate is 0
            self._assign(target, self._widened(lanes, axis.name))
        elif axis.extent != 1:
            program = self.program_names[axis.name]
            if not is_name(program):
                program = self._widened(program, axis.name)
            if lanes is not None:
                program = template("({0} * {1} + {2})", program, name(geometry.block_name), lanes)
            self._assign(target, program)
        self._axis_mask(geometry, axis.extent)

    def _axis_mask(self, geometry: Geometry, bound: Dim | Expr) -> None:
        if not geometry.masked:
            return
        axis = geometry.axis.name
        limit = bound if not isinstance(bound, (int, Size)) else self._dim(bound)
        mask = self.names.new(f"{axis}_mask")
        self._assign(mask, template("({0} < {1})", name(self.axis_names[axis]), limit))
        self.scopes[-1].masks[(axis,)] = mask

    def _mask(self, axes: Sequence[str]) -> tuple[Expr, tuple[str, ...]] | None:
        """The lanes over `axes` that exist, as a mask over those of them that need one."""
        if self.full_tile:
            return None
        needed = tuple(a for a in axes if self.parameters.axes[a].masked)
        if not needed:
            return None
        known = self._find_mask(needed)
        if known is None:
            parts = [expand(name(self._require_mask(a)), (a,), needed) for a in needed]
            combined = parts[0]
            for part in parts[1:]:
                combined = template("({0} & {1})", combined, part)
            known = self.names.new("mask")
            self._assign(known, combined)
            self.scopes[-1].masks[needed] = known
        return name(known), needed

    def _find_mask(self, axes: tuple[str, ...]) -> str | None:
        return next((s.masks[axes] for s in reversed(self.scopes) if axes in s.masks), None)

    def _require_mask(self, axis: str) -> str:
        found = self._find_mask((axis,))
        if found is None:
            raise VerifyError(f"kernel {self.kernel.name}: axis {axis} is used outside its loop")
        return found

    # --- sizes and indices ---

    def _dim(self, size: Dim) -> Expr:
        return dim(size, self.parameters.size_names)

    def tile(self, axes: Iterable[str]) -> tuple[str, ...]:
        """Those of `axes` that are tile dimensions, in order."""
        wanted = set(axes)
        return tuple(a for a in self.parameters.tiled if a in wanted)

    def _term_axes(self, term: Term) -> tuple[str, ...]:
        if isinstance(term, str):
            return self.tile([term])
        if isinstance(term, (Quotient, Remainder)):
            return self._index_axes(term.index)
        return self.values[term.value].axes if isinstance(term, Gathered) else ()

    def _index_axes(self, index: Index) -> tuple[str, ...]:
        return self.tile(a for term, _ in index.terms for a in self._term_axes(term))

    def _term(self, term: Term) -> Expr | None:
        """A term over its own axes; None is zero."""
        if isinstance(term, str):
            axis = self.kernel.axis(term)
            return None if axis.extent == 1 else name(self.axis_names[term])
        if isinstance(term, Program):
            return self.program_names.get(term.axis)
        if isinstance(term, Gathered):
            return self.values[term.value].expr
        inner = self._index(term.index, self._index_axes(term.index))
        if inner is None:
            return None
        divisor = self._dim(term.divisor)
        if isinstance(term, Quotient):
            rounds_down = _non_negative(term.index)
            return template("({0} // {1})" if rounds_down else "floor_div_int({0}, {1})", inner, divisor)
        return template(
            "({0} % {1})" if _non_negative(term.index) else "floor_mod_int({0}, {1})", inner, divisor
        )

    def _index(self, index: Index, axes: tuple[str, ...]) -> Expr | None:
        """An index over the tile axes `axes`; None is zero."""
        parts: list[tuple[int, Expr]] = []
        for term, coefficient in sorted(index.terms, key=lambda item: self._term_order(item[0])):
            value = self._term(term)
            if value is None:
                continue
            sign = 1 if _positive(coefficient) else -1
            value = expand(value, self._term_axes(term), axes)
            if coefficient * sign != 1:
                value = product(value, self._dim(coefficient * sign))
            parts.append((sign, value))
        if index.offset != 0:
            sign = 1 if _positive(index.offset) else -1
            parts.append((sign, self._dim(index.offset * sign)))
        return sum_of(parts)

    def _term_order(self, term: Term) -> tuple[int, int]:
        order = {a.name: i for i, a in enumerate(self.kernel.axes)}
        if isinstance(term, (str, Program)):
            return (0, order[term if isinstance(term, str) else term.axis])
        return (1, 0)

    def _address(self, buffer: str, index: Index, axes: tuple[str, ...]) -> Expr:
        """`x_ptr + offset`; an offset that several accesses share gets a name."""
        pointer = name(self.pointers[buffer])
        key = (index, axes)
        known = next((s.offsets[key] for s in reversed(self.scopes) if key in s.offsets), None)
        if known is not None:
            return template("({0} + {1})", pointer, name(known))
        offset = self._index(index, axes)
        if offset is None:
            return pointer
        if self.offset_uses[index] > 1 and not is_name(offset):
            shared = self.names.new("offset" if len(axes) < 2 else "offsets")
            self._assign(shared, offset)
            self.scopes[-1].offsets[key] = shared
            offset = name(shared)
        return template("({0} + {1})", pointer, offset)

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

    def _define(self, key: str, wish: str, value: Value) -> None:
        target = self.names.new(wish)
        self._assign(target, value.expr)
        self.values[key] = Value(name(target), value.axes, value.dtype)

    def _comment_line(self, line: Line | None) -> None:
        """Where in the user's program the following statements come from."""
        scope = self.scopes[-1]
        if line is None or line == scope.line:
            return
        scope.line = line
        self._line(f"# {line}: {line.text}".rstrip(": ")[: WIDTH - 4 * scope.depth])

    def _load(self, statement: Load) -> None:
        buffer = self.kernel.buffer(statement.buffer)
        wish = buffer.name if statement.name == f"{buffer.name}_value" else statement.name
        if buffer.role == "scalar":
            value = operations.cast_size(name(self.pointers[buffer.name]), buffer.dtype)
            if buffer.dtype.is_float and scalar_type(buffer.dtype) is buffer.dtype:
                value = name(self.pointers[buffer.name])
            self.values[statement.name] = Value(value, (), buffer.dtype)
            return
        chosen = self.values[statement.mask] if statement.mask is not None else None
        axes = self.tile([*self._index_axes(statement.index), *(chosen.axes if chosen else ())])
        keywords: dict[str, Expr] = {}
        mask = self._access_mask(axes, chosen)
        if mask is not None:
            keywords["mask"] = mask
            fill = self.fills.get(statement.name)
            if fill is not None:
                keywords["other"] = operations.literal(fill, statement.dtype)
        pointer = self._address(buffer.name, statement.index, axes)
        own = self._index_axes(statement.index)
        if own != axes:
            pointer = self._broadcast_pointer(pointer, own, axes)
        self.paddings.load(statement, axes, self.fills.get(statement.name))
        loaded = Value(call("tl.load", pointer, **keywords), axes, statement.dtype)
        self._define(statement.name, wish, loaded)

    def _broadcast_pointer(
        self, pointer: Expr, own: tuple[str, ...], axes: tuple[str, ...]
    ) -> Expr:
        """A load that is masked along more axes than it is addressed by."""
        if own:
            return expand(pointer, own, axes)
        zeros = call("tl.zeros", self._shape(axes), dotted("tl.int32"))
        return template("({0} + {1})", pointer, zeros)

    def _access_mask(self, axes: tuple[str, ...], chosen: Value | None) -> Expr | None:
        lanes = self._mask(axes)
        mask = expand(lanes[0], lanes[1], axes) if lanes is not None else None
        if chosen is None:
            return mask
        condition = expand(chosen.expr, chosen.axes, axes)
        return condition if mask is None else template("({0} & {1})", mask, condition)

    def _store(self, statement: Store) -> None:
        buffer = self.kernel.buffer(statement.buffer)
        value = self._operand(statement.value, buffer.dtype)
        axes = self.tile([*self._index_axes(statement.index), *value.axes])
        stored = expand(operations.cast(value.expr, value.dtype, buffer.dtype), value.axes, axes)
        keywords: dict[str, Expr] = {}
        mask = self._access_mask(axes, None)
        if mask is not None:
            keywords["mask"] = mask
        pointer = self._address(buffer.name, statement.index, axes)
        self._line(text(call("tl.store", pointer, stored, **keywords)))

    def _iota(self, statement: Iota) -> None:
        axes = self._index_axes(statement.index)
        found = self._index(statement.index, axes)
        if found is None or not statement.index.terms or (not axes and not is_name(found)):
            value = operations.cast_size(found or number(0), statement.dtype)
        else:
            value = method(found, "to", triton_type(statement.dtype))
        self._define(statement.name, statement.name, Value(value, axes, statement.dtype))

    def _operand(self, operand: Operand, dtype: DType) -> Value:
        """An operand that stands by itself; a constant carries its type."""
        if not isinstance(operand, Const):
            return self.values[operand]
        if isinstance(operand.value, Size):
            cast = operations.cast_size(self._dim(operand.value), operand.dtype)
            return Value(cast, (), operand.dtype)
        return Value(operations.typed(operand.value, operand.dtype), (), operand.dtype)

    def _op(self, statement: Op) -> None:
        operands = [self._op_operand(statement, i) for i in range(len(statement.args))]
        axes = self.tile(a for v in operands for a in v.axes)
        exprs = [expand(v.expr, v.axes, axes) for v in operands]
        if statement.op == "cast":
            expr = operations.cast(exprs[0], operands[0].dtype, statement.dtype)
        else:
            spelling = operations.spelling(statement.op, operands[-1].dtype)
            if repeats_operand(spelling) and not is_name(operands[0].expr):
                wish = f"{statement.name}_operand"
                self._define(wish, wish, operands[0])
                exprs[0] = expand(self.values[wish].expr, operands[0].axes, axes)
            expr = template(spelling, *exprs)
        value = Value(expr, axes, statement.dtype)
        self.paddings.op(statement)
        if self._inlined(statement, expr):
            self.values[statement.name] = value
            return
        self._comment_line(statement.line)
        self._define(statement.name, statement.name, value)

    def _op_operand(self, statement: Op, position: int) -> Value:
        operand = statement.args[position]
        if not isinstance(operand, Const) or isinstance(operand.value, Size):
            return self._operand(operand, statement.dtype)
        values = statement.args[1:] if statement.op == "where" else statement.args
        condition = statement.op == "where" and position == 0
        alone = condition or all(isinstance(v, Const) for v in values)
        alone = alone or statement.op == "cast"
        expr = operations.constant_for(statement.op, operand.value, operand.dtype, alone=alone)
        return Value(expr, (), operand.dtype)

    def _inlined(self, statement: Op, expr: Expr) -> bool:
        """Whether a value is written where it is used: once, in the same block, unnamed by the user, and short."""
        uses, same_block = self.uses.get(statement.name, (0, False))
        unnamed = re.fullmatch(rf"(v|{statement.op})(_?\d+)?", statement.name) is not None
        line = self.scopes[-1].line
        elsewhere = statement.line is not None and line is not None and statement.line != line
        if elsewhere or not unnamed or uses != 1 or not same_block:
            return False
        self._comment_line(statement.line)
        return len(text(expr)) <= _INLINE

    # --- folds ---

    def _reduce(self, statement: Reduce) -> None:
        value = self._fold_operand(statement)
        self._comment_line(statement.line)
        positions = [i for i, a in enumerate(value.axes) if a in statement.over]
        if statement.monoid == "sum" and statement.dtype.is_half:
            raise VerifyError(f"{statement.name}: a sum in {statement.dtype.name} loses digits")
        expr = operations.reduce_tile(statement.monoid, value.expr, positions, statement.dtype)
        axes = tuple(a for a in value.axes if a not in statement.over)
        self._define(statement.name, statement.name, Value(expr, axes, statement.dtype))

    def _fold_operand(self, statement: Reduce) -> Value:
        """The operand over all lanes it is folded along, with the identity in those that do not exist."""
        value = self._operand(statement.value, statement.dtype)
        axes = self.tile([*value.axes, *statement.over])
        expr = operations.cast(value.expr, value.dtype, statement.dtype)
        neutral = operations.identity(statement.monoid, statement.dtype)
        other = operations.literal(neutral, statement.dtype)
        if isinstance(statement.value, Const) and not isinstance(statement.value.value, Size):
            shape = self._shape(axes)
            expr = call("tl.full", shape, operations.literal(statement.value.value, value.dtype),
                        triton_type(value.dtype)) if axes else expr
            value = Value(expr, axes, value.dtype)
        elif value.axes != axes:
            expr = call("tl.broadcast_to", expand(expr, value.axes, axes), self._shape(axes))
        for axis in self.tile(statement.over):
            if not self._needs_identity(statement, axis, neutral):
                continue
            masks = self._mask([axis])
            if masks is not None:
                expr = operations.select(masks[0], axis, expr, axes, other)
        return Value(expr, axes, statement.dtype)

    def _needs_identity(self, statement: Reduce, axis: str, neutral: float) -> bool:
        if not self.parameters.axes[axis].masked:
            return False
        return self.paddings.of(statement.value, axis) != neutral

    def _shape(self, axes: Sequence[str]) -> Expr:
        from ast import List, Load as Loading

        return List([name(self.parameters.axes[a].block_name) for a in axes], Loading())

    # --- loops ---

    def _loop(self, statement: Loop) -> None:
        axis = self.kernel.axis(statement.axis)
        lanes = [self._accumulator(fold) for fold in statement.folds]
        self._for(axis)
        self.scopes.append(Scope(self.scopes[-1].depth + 1))
        self._loop_coordinates(axis)
        self._block(statement.body)
        for fold, (accumulator, axes) in zip(statement.folds, lanes, strict=True):
            value = self._fold_operand(fold)
            expr = expand(value.expr, value.axes, axes)
            folded = operations.combine(fold.monoid, name(accumulator), expr, fold.dtype)
            self._comment_line(fold.line)
            self._assign(accumulator, folded)
        self.scopes.pop()
        for fold, (accumulator, axes) in zip(statement.folds, lanes, strict=True):
            self._finish(fold, accumulator, axes)

    def _accumulator(self, fold: Reduce) -> tuple[str, tuple[str, ...]]:
        """A tile of identities over the lanes a fold keeps apart until its loop ends."""
        axes = self._accumulated_axes(fold)
        neutral = operations.identity(fold.monoid, fold.dtype)
        reduced = any(a in fold.over for a in axes)
        accumulator = self.names.new(f"{fold.name}_lanes" if reduced else fold.name)
        if axes:
            shape, dtype = self._shape(axes), triton_type(fold.dtype)
            value = operations.literal(neutral, fold.dtype)
            self._assign(accumulator, call("tl.full", shape, value, dtype))
        else:
            self._assign(accumulator, operations.typed(neutral, fold.dtype))
        return accumulator, axes

    def _accumulated_axes(self, fold: Reduce) -> tuple[str, ...]:
        return self.tile([*fold.axes, *fold.over])

    def _for(self, axis: Axis) -> None:
        geometry = self.parameters.axes[axis.name]
        start, stop = number(0), self._dim(axis.extent)
        self.bounds[axis.name] = axis.extent
        if axis.split is not None:
            first = product(self.program_names[axis.name], self._dim(axis.split))
            begin, end = self.names.new(f"{axis.name}_start"), self.names.new(f"{axis.name}_end")
            self._assign(begin, first)
            share = template("({0} + {1})", name(begin), self._dim(axis.split))
            self._assign(end, call("tl.minimum", share, stop))
            start, stop = name(begin), name(end)
            if exact_quotient(axis.split, geometry.block or 1) is None:
                self.bounds[axis.name] = stop
        step = [name(geometry.block_name)] if geometry.tiled else []
        counter = self._counter(axis)
        self._line(f"for {counter} in {text(call('range', start, stop, *step))}:")

    def _counter(self, axis: Axis) -> str:
        geometry = self.parameters.axes[axis.name]
        wide = axis.name in self.parameters.wide
        named = self.axis_names[axis.name]
        self._counters = getattr(self, "_counters", {})
        if not geometry.tiled and not wide:
            return named
        if axis.name not in self._counters:
            self._counters[axis.name] = self.names.new(f"{axis.name}_first")
        return str(self._counters[axis.name])

    def _loop_coordinates(self, axis: Axis) -> None:
        geometry = self.parameters.axes[axis.name]
        counter, target = self._counter(axis), self.axis_names[axis.name]
        if geometry.tiled:
            lanes = call("tl.arange", number(0), name(geometry.block_name))
            tile = template("({0} + {1})", name(counter), lanes)
            self._assign(target, self._widened(tile, axis.name))
        elif counter != target:
            self._assign(target, call("tl.cast", name(counter), dotted("tl.int64")))
        self._axis_mask(geometry, self.bounds[axis.name])

    def _finish(self, fold: Reduce, accumulator: str, axes: tuple[str, ...]) -> None:
        positions = [i for i, a in enumerate(axes) if a in fold.over]
        rest = tuple(a for a in axes if a not in fold.over)
        if not positions:
            self.values[fold.name] = Value(name(accumulator), rest, fold.dtype)
            return
        reduced = operations.reduce_tile(fold.monoid, name(accumulator), positions, fold.dtype)
        self._define(fold.name, fold.name, Value(reduced, rest, fold.dtype))


def scalar_type(dtype: DType) -> DType:
    """The type a by-value number is passed in: half types travel as float32."""
    return dtype.compute


def wrapped(opening: str, items: Sequence[str], closing: str, depth: int) -> list[str]:
    """`f(a, b)` on one line if it fits, else the arguments on lines of their own."""
    indent = "    " * depth
    one = f"{indent}{opening}{', '.join(items)}{closing}"
    if len(one) <= WIDTH:
        return [one]
    inner = f"{indent}    {', '.join(items)}"
    if len(inner) <= WIDTH:
        return [indent + opening, inner, indent + closing]
    return [indent + opening, *(f"{indent}    {item}," for item in items), indent + closing]


def _positive(coefficient: Dim) -> bool:
    return coefficient > 0 if isinstance(coefficient, int) else coefficient.terms[0][1] > 0


def _non_negative(index: Index) -> bool:
    """Whether an index cannot fall below zero, so that `//` and `%` as in C are those of Python."""
    inner = all(
        _non_negative(t.index) for t, _ in index.terms if isinstance(t, (Quotient, Remainder))
    )
    gathered = any(isinstance(t, Gathered) for t, _ in index.terms)
    coefficients = [index.offset, *(c for _, c in index.terms)]
    return inner and not gathered and all(_all_positive(c) for c in coefficients)


def _all_positive(size: Dim) -> bool:
    return size >= 0 if isinstance(size, int) else all(c > 0 for _, c in size.terms)


def _use_counts(body: Sequence[Statement]) -> Mapping[str, tuple[int, bool]]:
    """For each value, how often it is used and whether only in the block that defines it."""
    home: dict[str, int] = {}
    found: dict[str, tuple[int, bool]] = {}

    def use(operand: object, block: int) -> None:
        if isinstance(operand, str):
            count, same = found.get(operand, (0, True))
            found[operand] = (count + 1, same and home.get(operand) == block)

    def visit(statements: Sequence[Statement], block: int) -> None:
        for s in statements:
            for operand in _used(s):
                use(operand, block)
            if isinstance(s, Loop):
                inner = id(s)
                visit(s.body, inner)
                for fold in s.folds:
                    use(fold.value, inner)
                    home[fold.name] = block
            elif not isinstance(s, Store):
                home[s.name] = block

    visit(body, 0)
    return found


def _used(statement: Statement) -> list[Operand]:
    if isinstance(statement, Op):
        return list(statement.args)
    if isinstance(statement, Reduce):
        return [statement.value]
    index = [] if isinstance(statement, Loop) else _gathered(statement.index)
    if isinstance(statement, Store):
        return [statement.value, *index]
    if isinstance(statement, Load) and statement.mask is not None:
        return [statement.mask, *index]
    return list(index)


def _gathered(index: Index) -> list[str]:
    found = [t.value for t, _ in index.terms if isinstance(t, Gathered)]
    for term, _ in index.terms:
        if isinstance(term, (Quotient, Remainder)):
            found += _gathered(term.index)
    return found
