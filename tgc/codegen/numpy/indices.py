"""Index arithmetic on integer arrays: iotas, gathers, and indices with quotients and remainders.

Each axis in sight has its positions as an integer array of its layout, made where the axis is: at the kernel's top
for a lane, at the block's top for a grid axis, at the loop's top for a loop axis. Index expressions are plain operator
expressions over these.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tgc.codegen.naming import size_operand, size_text
from tgc.codegen.numpy.access import Part, is_contiguous, split_index, stays_inside
from tgc.codegen.numpy.constants import dtype_text
from tgc.codegen.numpy.padding import Padded
from tgc.codegen.numpy.sight import Sight
from tgc.codegen.numpy.views import layout
from tgc.ir import dtypes
from tgc.ir.sizes import Dim
from tgc.kernel.ir import Buffer, Const, Gathered, Index, Iota, Load, Program, Quotient, Store, Term
from tgc.kernel.walk import gathers


@dataclass
class IndexArrays:
    """Positions along axes, and what is addressed by them.

    `lanes` are arrays to make at the kernel's top, `header` lines for the block's top, `starts` the grid axes whose
    bounds the block needs, `programs` the axes whose program number it needs, `flats` the buffers needed as flat
    memory, `wholes` those needed whole although sliced too.
    """

    sight: Sight
    lanes: dict[str, str] = field(default_factory=dict)
    header: list[str] = field(default_factory=list)
    starts: dict[str, tuple[str, str]] = field(default_factory=dict)
    programs: dict[str, str] = field(default_factory=dict)
    flats: dict[str, str] = field(default_factory=dict)
    wholes: dict[str, str] = field(default_factory=dict)
    _positions: dict[str, str] = field(default_factory=dict)
    _checked: set[str] = field(default_factory=set)

    # --- axes ---

    def bounds(self, axis: str) -> tuple[str, str]:
        """First and one past the last position of this block along an axis."""
        for scope in self.sight.scopes:
            if scope.axis == axis:
                return scope.low, scope.high
        kernel_axis = self.sight.kernel.axis(axis)
        if kernel_axis.kind == "grid":
            return self.start(axis)
        return (
            self.range_of(axis)
            if kernel_axis.kind == "loop"
            else ("0", self.sight.size(kernel_axis.extent))
        )

    def range_of(self, axis: str) -> tuple[str, str]:
        """The range a loop runs over: its program's share where the axis is split."""
        found = self.sight.kernel.axis(axis)
        if found.split is None:
            return "0", self.sight.size(found.extent)
        return self.start(axis)

    def start(self, axis: str) -> tuple[str, str]:
        """The bounds of this block (or program) along a grid or split axis, as arguments of the block function."""
        if axis not in self.starts:
            suffix = (
                ("_lo", "_hi") if self.sight.kernel.axis(axis).split is not None else ("0", "1")
            )
            self.starts[axis] = (
                self.sight.names.new(axis + suffix[0]),
                self.sight.names.new(axis + suffix[1]),
            )
        low, high = self.starts[axis]
        return self.sight.use(low), self.sight.use(high)

    def program(self, axis: str) -> str:
        """The program number along an axis, as an argument of the block function."""
        if axis not in self.programs:
            self.programs[axis] = self.sight.names.new(f"{axis}_program")
        return self.sight.use(self.programs[axis])

    def positions(self, axis: str) -> str:
        """The integer array of an axis' positions in this block."""
        sight = self.sight
        for scope in sight.scopes:
            if scope.axis == axis:
                key = f"(positions {axis})"
                if key not in scope.slices:
                    scope.slices[key] = sight.local(axis)
                    text = f"np.arange({scope.low}, {scope.high}){self._widen(axis)}"
                    scope.header.append(f"{scope.slices[key]} = {text}")
                return scope.slices[key]
        if axis not in self._positions:
            name = self._positions[axis] = sight.names.new(axis)
            if sight.kernel.axis(axis).kind == "lane":
                self.lanes[axis] = name
            else:
                low, high = self.start(axis)
                self.header.append(f"{name} = np.arange({low}, {high}){self._widen(axis)}")
        name = self._positions[axis]
        return sight.use(name) if axis in self.lanes else name

    def lane_text(self, axis: str) -> str:
        """The positions of a lane, whole."""
        return f"np.arange({self.sight.size(self.sight.extent_of(axis))}){self._widen(axis)}"

    def _widen(self, axis: str) -> str:
        dims = layout((axis,), self.sight.frame)
        return f"[:{', None' * (len(dims) - 1)}]" if len(dims) > 1 else ""

    # --- expressions ---

    def expression(self, terms: tuple[tuple[Term, Dim], ...], offset: Dim) -> str:
        """`offset + sum(coefficient * term)` as operators on arrays."""
        sizes, text = self.sight.sizes, ""
        for term, coefficient in terms:
            factor = self._term(term)
            if coefficient == 1:
                text += f" + {factor}" if text else factor
            elif coefficient == -1:
                text += f" - {factor}" if text else f"-{factor}"
            else:
                product = f"{factor} * {size_operand(coefficient, sizes)}"
                text += f" + {product}" if text else product
        if not text:
            return size_text(offset, sizes)
        if offset == 0:
            return text[1:-1] if len(terms) == 1 and text.endswith(")") and text[0] == "(" else text
        if isinstance(offset, int) and offset < 0:
            return f"{text} - {-offset}"
        return f"{text} + {size_operand(offset, sizes)}"

    def _term(self, term: Term) -> str:
        if isinstance(term, str):
            return self.positions(term)
        if isinstance(term, Program):
            return self.program(term.axis)
        if isinstance(term, Gathered):
            return self.sight.operand(term.value)
        inner = self.expression(term.index.terms, term.index.offset)
        inner = inner if inner.isidentifier() or inner.isdigit() else f"({inner})"
        sign = "//" if isinstance(term, Quotient) else "%"
        return f"({inner} {sign} {size_operand(term.divisor, self.sight.sizes)})"

    def iota(self, s: Iota) -> str:
        """The value of an iota: an expression of integer arrays, named if it is more than positions."""
        text = self.expression(s.index.terms, s.index.offset)
        bare = text.isidentifier()
        if not s.axes:
            text, bare = f"np.array({text}, {dtype_text(s.dtype)})", False
        elif s.dtype is not dtypes.int64:
            text, bare = f"{text if bare else f'({text})'}.astype({dtype_text(s.dtype)})", False
        if bare:
            return text
        name = self.sight.names.new(s.name)
        self.sight.emit(f"{name} = {text}")
        return name

    # --- gathers and scatters ---

    def load(self, s: Load) -> str:
        """A load by index arrays; under a mask the indices are clipped, so that nothing outside is touched."""
        buffer = self.sight.kernel.buffer(s.buffer)
        self._check(s)
        if s.mask is None:
            return self._element(buffer, s.index)
        mask = self.sight.operand(s.mask)
        fill = self.sight.constants.name(Const(s.fill, s.dtype))
        if any(d == 0 for d in buffer.shape):
            index = self.expression(s.index.terms, s.index.offset)
            return f"np.full(np.broadcast({mask}, {index}).shape, {fill})"
        parts = split_index(buffer, s.index, self.sight.extent_of, inside=False)
        if len(buffer.shape) == 1 and buffer.strides == (1,):
            array = self._array(buffer)
        elif (
            buffer.shape
            and parts is not None
            and parts.shape is None
            and self._leading_only(buffer, s.index)
        ):
            return f"np.where({mask}, {self._clipped(buffer, parts.parts)}, {fill})"
        else:
            array = self._flat(buffer)
        index = self.expression(s.index.terms, s.index.offset)
        if index.isdigit():
            index = f"np.array({index})"
        return f'np.where({mask}, {array}.take({index}, mode="clip"), {fill})'

    def _check(self, s: Load) -> None:
        """Lines that raise for a position outside the axis it counts along."""
        sight = self.sight
        for term in gathers(s.index):
            value, extent = sight.operand(term.value), size_text(term.extent, sight.sizes)
            where = sight.constants.line(term.line)
            made = sight.live.values[term.value]
            array = f"np.asarray({value})" if isinstance(made.by, Iota) else value
            unsigned = f"{array}.view(np.uint{8 * made.dtype.itemsize})"
            line = f"check_index({unsigned}, {extent}, {where})"
            if line not in self._checked:
                self._checked.add(line)
                sight.emit(line)

    def padded(self, s: Load, found: Padded, target: str) -> list[str]:
        """Fill the target, then copy the part of the buffer that lies in this block."""
        sight = self.sight
        fill = sight.constants.name(Const(s.fill, s.dtype))
        lines, ranges = [f"{target}.fill({fill})"], dict[str, tuple[str, str]]()
        into: list[str] = []
        for axis in layout(s.axes, sight.frame):
            low, high = self.bounds(axis) if axis is not None else ("0", "1")
            bounded = axis is not None and (axis in found.box.lows or axis in found.box.highs)
            if not bounded or axis is None:
                ranges[axis or ""] = (low, high)
                into.append(":")
                continue
            first, last = sight.local(f"{axis}_first"), sight.local(f"{axis}_last")
            lows = [size_text(d, sight.sizes) for d in found.box.lows.get(axis, [])]
            highs = [size_text(d, sight.sizes) for d in found.box.highs.get(axis, [])]
            lines.append(f"{first} = " + (f"max({', '.join([low, *lows])})" if lows else low))
            stop = f"min({', '.join([high, *highs])})" if highs else high
            lines.append(f"{last} = max({first}, {stop})")
            ranges[axis] = (first, last)
            shift = "" if low == "0" else f" - {low}"
            into.append(f"{first}{shift}:{last}{shift}")
        buffer = sight.kernel.buffer(s.buffer)
        source = self._flat(buffer) if found.flat else self._array(buffer)
        keys = [self._part_key(part, ranges) for part in found.parts]
        widen = self._widen_to(s, found)
        lines.append(f"{target}[{', '.join(into)}] = {source}[{', '.join(keys)}]{widen}")
        return lines

    def _part_key(self, part: Part, ranges: dict[str, tuple[str, str]]) -> str:
        if not part.terms:
            return size_text(part.offset, self.sight.sizes)
        axis = part.terms[0][0]
        assert isinstance(axis, str)
        low, high = ranges[axis]
        if part.offset == 0:
            return f"{low}:{high}"
        if isinstance(part.offset, int) and part.offset < 0:
            return f"{low} - {-part.offset}:{high} - {-part.offset}"
        shift = size_text(part.offset, self.sight.sizes)
        shift = (
            f" - {size_operand(-part.offset, self.sight.sizes)}"
            if shift.startswith("-")
            else f" + {shift}"
        )
        return f"{low}{shift}:{high}{shift}"

    def _widen_to(self, s: Load, found: Padded) -> str:
        """New dimensions where the buffer lacks an axis the mask has."""
        has = [t for part in found.parts for t, _ in part.terms]
        dims = layout(tuple(a for a in s.axes if a in has), self.sight.frame)
        return f"[{', '.join('None' if d is None else ':' for d in dims)}]" if None in dims else ""

    def target(self, s: Store) -> str:
        """The left-hand side of a store by index arrays."""
        return self._element(self.sight.kernel.buffer(s.buffer), s.index)

    def _element(self, buffer: Buffer, index: Index) -> str:
        split = split_index(buffer, index, self.sight.extent_of)
        if split is None or split.shape is not None:
            return f"{self._flat(buffer)}[{self.expression(index.terms, index.offset)}]"
        keys = [self.expression(p.terms, p.offset) for p in split.parts]
        return f"{self._array(buffer)}[{', '.join(keys)}]"

    def _leading_only(self, buffer: Buffer, index: Index) -> bool:
        """Whether only the first dimension's index (and gathered ones) can leave its dimension."""
        if buffer.shape[0] == 1:
            return False  # a dimension of one element gets no terms: they would fall to the others
        grown = Buffer(
            buffer.name, buffer.dtype, (1 << 60, *buffer.shape[1:]), buffer.strides, buffer.role
        )
        lowered = Index(index.terms, index.offset + buffer.strides[0] * (1 << 59))
        split = split_index(grown, lowered, self.sight.extent_of)
        return split is not None and split.shape is None

    def _clipped(self, buffer: Buffer, parts: tuple[Part, ...]) -> str:
        array, keys = self._array(buffer), []
        for place, part in enumerate(parts):
            text = self.expression(part.terms, part.offset)
            moves = bool(part.terms) or not stays_inside(part, self.sight.extent_of)
            gathered = any(isinstance(t, Gathered) for t, _ in part.terms)
            if (place == 0 and moves) or gathered:
                text = f"np.clip({text}, 0, {array}.shape[{place}] - 1)"
            keys.append(text)
        return f"{array}[{', '.join(keys)}]"

    def _array(self, buffer: Buffer) -> str:
        """The whole array of a buffer; under another name where a slice of it has the buffer's own."""
        own = self.sight.names_of(buffer.name)
        if all(array.name != own for array, _ in self.sight.views.values()):
            return self.sight.use(own)
        if buffer.name not in self.wholes:
            self.wholes[buffer.name] = self.sight.names.new(f"{buffer.name}_all")
        return self.sight.use(self.wholes[buffer.name])

    def _flat(self, buffer: Buffer) -> str:
        """The buffer as flat memory, made at the kernel's top."""
        if buffer.name not in self.flats:
            self.flats[buffer.name] = self.sight.names.new(f"{buffer.name}_flat")
        return self.sight.use(self.flats[buffer.name])

    def flat_text(self, buffer: Buffer) -> str:
        """The expression that makes it."""
        name = self.sight.names_of(buffer.name)
        if is_contiguous(buffer):
            return f"{name}.ravel()"
        span: Dim = 1
        for stride, extent in zip(buffer.strides, buffer.shape):
            span = span + stride * (extent - 1)
        return f"as_strided({name}, ({self.sight.size(span)},), ({buffer.dtype.itemsize},))"
