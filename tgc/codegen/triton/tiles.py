"""The frame of a kernel: where a program stands, which lanes exist, and how indices are written over a tile.

Every value is a tile over the axes of its axis set, in the kernel's order of axes; an operand that lacks an axis is
expanded with `[:, None]` where it is used.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tgc.codegen.triton.expressions import (
    WIDTH,
    Expr,
    call,
    dim,
    dotted,
    expand,
    is_name,
    is_sum,
    method,
    name,
    number,
    product,
    sum_of,
    template,
    text,
)
from tgc.codegen.triton.indices import magnitude, non_negative, sign
from tgc.codegen.triton.operations import HELPERS
from tgc.codegen.triton.parameters import Geometry, Parameters, program_count
from tgc.errors import Line, VerifyError
from tgc.ir.dtypes import DType
from tgc.ir.sizes import Dim, exact_quotient
from tgc.kernel.ir import (
    Axis,
    Gathered,
    Index,
    Program,
    Quotient,
    Remainder,
    Term,
)
from tgc.kernel.walk import accesses

_MODULES = ("tl", "triton", "libdevice", "torch", "float")


@dataclass
class Value:
    """A value of the kernel: its expression, its tile axes and its type."""

    expr: Expr
    axes: tuple[str, ...]
    dtype: DType
    line: Line | None = None  # where it comes from, if no statement has said so yet


@dataclass
class Scope:
    """A block of statements, and what is named in it."""

    depth: int
    masks: dict[tuple[str, ...], str] = field(default_factory=dict)
    offsets: dict[tuple[Index, tuple[str, ...]], str] = field(default_factory=dict)
    line: Line | None = None


class Tiles:
    """Writes lines of one function; knows its axes, masks and offsets."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters, self.kernel = parameters, parameters.kernel
        self.lines: list[str] = []
        self.names = parameters.names.child()
        self.names.taken |= {*_MODULES, *HELPERS}
        self.axis_names = {a.name: self.names.new(a.name) for a in self.kernel.axes}
        self.scopes: list[Scope] = [Scope(1)]
        self.values: dict[str, Value] = {}
        self._programs: dict[str, Expr] = {}
        self._accesses = Counter(s.index for s, _ in accesses(self.kernel))

    # --- lines ---

    def line(self, source: str) -> None:
        self.lines.append("    " * self.scopes[-1].depth + source)

    def assign(self, target: str, value: Expr) -> None:
        self.line(f"{target} = {text(value)}")

    def assign_new(self, wish: str, value: Expr) -> Expr:
        """Name a value; the name."""
        target = self.names.new(wish)
        self.assign(target, value)
        return name(target)

    def comment_origin(self, origin: Line | None) -> None:
        """Where in the user's program the following statements come from."""
        scope = self.scopes[-1]
        if origin is None or origin == scope.line:
            return
        scope.line = origin
        shown = f"# {origin}: {origin.text}" if origin.text else f"# {origin}"
        self.line(shown[: WIDTH - 4 * scope.depth])

    @contextmanager
    def block(self) -> Iterator[None]:
        """An indented block: names given inside are free again after it."""
        outer = self.names
        self.names = outer.child()
        self.scopes.append(Scope(self.scopes[-1].depth + 1, line=self.scopes[-1].line))
        yield
        self.scopes.pop()
        self.names = outer

    # --- programs and coordinates ---

    def place_program(self) -> None:
        """What number this program has along each axis it is divided along; the last axis runs fastest."""
        axes = self.parameters.programs
        first = call("tl.program_id", number(0))
        if len(axes) > 1:
            first = self.assign_new("program", first)
        counts: dict[str, Expr] = {a.name: self._count(a) for a in axes[1:]}
        for position, axis in enumerate(axes):
            found, inner = first, None
            for other in axes[position + 1 :]:
                inner = product(inner, counts[other.name])
            if inner is not None:
                found = template("({0} // {1})", found, inner)
            if position > 0:
                found = template("({0} % {1})", found, counts[axis.name])
            if axis.kind == "loop" or Program(axis.name) in self.parameters.terms:
                found = self._widened(found, Program(axis.name))
                found = self.assign_new(f"{axis.name}_program", found)
            self._programs[axis.name] = found

    def _count(self, axis: Axis) -> Expr:
        count = program_count(axis)
        if isinstance(count, int):
            return number(count)
        geometry = self.parameters.axes[axis.name]
        if axis.kind == "grid" and not geometry.tiled:
            return self.dim(axis.extent)
        share = name(geometry.block_name) if axis.split is None else self.dim(axis.split)
        wish = f"{axis.name}_programs"
        return self.assign_new(wish, call("tl.cdiv", self.dim(axis.extent), share))

    def _widened(self, value: Expr, term: Term) -> Expr:
        return method(value, "to", dotted("tl.int64")) if term in self.parameters.wide else value

    def program(self, axis: Axis) -> Expr:
        """The number of this program along a grid axis, as wide as the coordinates made from it."""
        return self._widened(self._programs[axis.name], axis.name)

    def place_axis(self, axis: Axis) -> None:
        """Name the elements of a grid or lane axis that this program works on, and which of them exist."""
        geometry = self.parameters.axes[axis.name]
        if not geometry.masked and axis.name not in self.parameters.terms:
            return
        if axis.kind == "grid" and axis.extent != 1:
            start = self.program(axis)
            if geometry.tiled:
                tile = template(
                    "({0} * {1} + {2})", start, name(geometry.block_name), lanes(geometry)
                )
                start = tile
            self.assign(self.axis_names[axis.name], start)
        elif geometry.tiled:
            self.assign(self.axis_names[axis.name], self._widened(lanes(geometry), axis.name))
        self._mask_axis(geometry, self.dim(axis.extent))

    def place_loop(self, axis: Axis) -> tuple[str, Expr]:
        """Write the bounds of a loop: the name of its counter, and the end of what exists of its axis."""
        geometry = self.parameters.axes[axis.name]
        start, stop = number(0), self.dim(axis.extent)
        end = stop
        if axis.split is not None:
            share = self.dim(axis.split)
            start = self.assign_new(f"{axis.name}_start", product(self._programs[axis.name], share))
            last = call("tl.minimum", template("({0} + {1})", start, share), stop)
            stop = self.assign_new(f"{axis.name}_end", last)
            whole_tiles = exact_quotient(axis.split, geometry.block or 1) is not None
            # Where a program's share is whole tiles, only the end of the axis cuts one short.
            end = end if whole_tiles else stop
        step = [name(geometry.block_name)] if geometry.tiled else []
        direct = not geometry.tiled and axis.name not in self.parameters.wide
        counter = self.axis_names[axis.name] if direct else f"{self.axis_names[axis.name]}_first"
        if not direct:
            counter = self.names.child().new(counter)
        self.line(f"for {counter} in {text(call('range', start, stop, *step))}:")
        return counter, end

    def place_in_loop(self, axis: Axis, counter: str, end: Expr) -> None:
        """At the top of a loop body: the elements of this iteration, and which of them exist."""
        geometry, target = self.parameters.axes[axis.name], self.axis_names[axis.name]
        self.names.taken.add(counter)
        if geometry.tiled:
            tile = template("({0} + {1})", name(counter), lanes(geometry))
            self.assign(target, self._widened(tile, axis.name))
        elif counter != target:
            self.assign(target, call("tl.cast", name(counter), dotted("tl.int64")))
        self._mask_axis(geometry, end)

    # --- masks ---

    def _mask_axis(self, geometry: Geometry, end: Expr) -> None:
        if geometry.masked:
            axis = geometry.axis.name
            exists = template("({0} < {1})", name(self.axis_names[axis]), end)
            mask = self.names.new(f"{axis}_mask")
            self.assign(mask, exists)
            self.scopes[-1].masks[(axis,)] = mask

    def mask(self, axes: Sequence[str]) -> tuple[Expr, tuple[str, ...]] | None:
        """The lanes over `axes` that exist, as a mask over those of them that need one; None if all do."""
        needed = tuple(a for a in axes if self.parameters.axes[a].masked)
        if not needed:
            return None
        known = self._find_mask(needed)
        if known is None:
            combined: Expr | None = None
            for axis in needed:
                part = expand(name(self._axis_mask(axis)), (axis,), needed)
                combined = part if combined is None else template("({0} & {1})", combined, part)
            assert combined is not None
            known = self.names.new("mask")
            self.assign(known, combined)
            self.scopes[-1].masks[needed] = known
        return name(known), needed

    def _find_mask(self, axes: tuple[str, ...]) -> str | None:
        return next((s.masks[axes] for s in reversed(self.scopes) if axes in s.masks), None)

    def _axis_mask(self, axis: str) -> str:
        found = self._find_mask((axis,))
        if found is None:
            raise VerifyError(f"kernel {self.kernel.name}: axis {axis} is used outside its loop")
        return found

    # --- sizes and indices ---

    def dim(self, size: Dim) -> Expr:
        return dim(size, self.parameters.size_names)

    def shape(self, axes: Sequence[str]) -> Expr:
        """The shape of a tile, as a list of its blocks."""
        return ast.List([name(self.parameters.axes[a].block_name) for a in axes], ast.Load())

    def tile(self, axes: Iterable[str]) -> tuple[str, ...]:
        """Those of `axes` that are tile dimensions, in order."""
        wanted = set(axes)
        return tuple(a for a in self.parameters.tiled if a in wanted)

    def index_axes(self, index: Index) -> tuple[str, ...]:
        return self.tile(a for term, _ in index.terms for a in self._term_axes(term))

    def _term_axes(self, term: Term) -> tuple[str, ...]:
        if isinstance(term, str):
            return self.tile([term])
        if isinstance(term, (Quotient, Remainder)):
            return self.index_axes(term.index)
        return self.values[term.value].axes if isinstance(term, Gathered) else ()

    def index(self, index: Index, axes: tuple[str, ...]) -> Expr | None:
        """An index over the tile axes `axes`; None is zero."""
        parts: list[tuple[int, Expr]] = []
        for term, coefficient in sorted(index.terms, key=lambda item: self._term_order(item[0])):
            value = self._term(term)
            if value is None:
                continue
            value = expand(value, self._term_axes(term), axes)
            if magnitude(coefficient) != 1:
                value = product(value, self.dim(magnitude(coefficient)))
            parts.append((sign(coefficient), value))
        if index.offset != 0:
            parts.append((sign(index.offset), self.dim(magnitude(index.offset))))
        return sum_of(parts)

    def _term(self, term: Term) -> Expr | None:
        """A term over its own axes; None is zero."""
        if isinstance(term, str):
            one = self.kernel.axis(term).extent == 1
            return None if one else name(self.axis_names[term])
        if isinstance(term, Program):
            return self._programs.get(term.axis)
        if isinstance(term, Gathered):
            return self.values[term.value].expr
        inner = self.index(term.index, self.index_axes(term.index))
        if inner is None:
            return None
        operator, helper = (
            ("//", "floor_div_int") if isinstance(term, Quotient) else ("%", "floor_mod_int")
        )
        plain = non_negative(term.index)
        spelled = f"({{0}} {operator} {{1}})" if plain else f"{helper}({{0}}, {{1}})"
        return template(spelled, inner, self.dim(term.divisor))

    def _term_order(self, term: Term) -> tuple[int, int]:
        order = {a.name: i for i, a in enumerate(self.kernel.axes)}
        if isinstance(term, (str, Program)):
            return 0, order[term if isinstance(term, str) else term.axis]
        return 1, 0

    def address(self, buffer: str, index: Index, axes: tuple[str, ...], value: str) -> Expr:
        """`x_ptr + offset` over the tile axes `axes`, where `value` is loaded or stored.

        An offset that is a sum has a name, shared by all who use it.
        """
        pointer = name(self.parameters.pointers[buffer])
        key = (index, axes)
        known = next((s.offsets[key] for s in reversed(self.scopes) if key in s.offsets), None)
        offset = name(known) if known is not None else self.index(index, axes)
        if offset is None:
            return pointer
        if is_sum(offset) or (self._accesses[index] > 1 and not is_name(offset)):
            wish = "offsets" if axes else "offset"
            wish = wish if self._accesses[index] > 1 else f"{value}_{wish}"
            named = self.assign_new(wish, offset)
            self.scopes[-1].offsets[key] = text(named)
            offset = named
        return template("({0} + {1})", pointer, offset)


def lanes(geometry: Geometry) -> Expr:
    return call("tl.arange", number(0), name(geometry.block_name))
