"""The statements of a kernel as numpy calls over the arrays of one block.

Values over all axes in sight live in scratch arrays or in the block of an output and are written into; values
over fewer axes (statistics of rows, a row vector) are small and simply named; scalars are numpy scalars. A value read
from memory is the slice itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tgc.codegen.naming import cited, size_operand
from tgc.codegen.numpy.clamps import clamps
from tgc.codegen.numpy.constants import dtype_text
from tgc.codegen.numpy.folds import FOLDERS, Folds
from tgc.codegen.numpy.functions import FUNCTIONS
from tgc.codegen.numpy.indices import IndexArrays
from tgc.codegen.numpy.lines import mentions
from tgc.codegen.numpy.liveness import Value, analyse, last_read
from tgc.codegen.numpy.padding import Padded, needed, padding, restates
from tgc.codegen.numpy.products import sums_of_products
from tgc.codegen.numpy.scalars import is_operator, operator_text, wanted_forms
from tgc.codegen.numpy.sight import Array, Scope, Sight
from tgc.codegen.numpy.slots import Lender, Place, Slots
from tgc.codegen.numpy.streams import DRAWS, joint_draws
from tgc.codegen.numpy.views import Layout, View, affine_view, layout
from tgc.errors import BackendError, Line
from tgc.ir import dtypes
from tgc.ir.dtypes import DType
from tgc.ir.ops import OPS
from tgc.ir.sizes import Size
from tgc.kernel.ir import (
    Const,
    Index,
    Iota,
    Load,
    Loop,
    Op,
    Operand,
    Reduce,
    Statement,
    Store,
)
from tgc.kernel.walk import statements


@dataclass
class Body(Sight):
    """Writes the body of a kernel. What it needs from outside is collected in `views`, `slots`, `used` and `sizes`.

    `numbers` are the lines for values that depend on sizes alone, which need not be made at each call. `makes` are the
    buffers that may be None instead of arrays: the first operation that writes into one makes it.
    """

    numbers: list[str] = field(default_factory=list)
    makes: list[str] = field(default_factory=list)
    _masks: dict[tuple[str, DType], str] = field(default_factory=dict)
    _of_sizes: set[str] = field(default_factory=set)
    _line: Line | None = None

    def __post_init__(self) -> None:
        self.frame = tuple(a.name for a in self.kernel.axes)
        self.slots = Slots(self.names)
        self.indices = IndexArrays(self)
        self.folds = Folds(self, self.indices)
        listed = statements(self.kernel.body)
        self._draws = [s for s in listed if isinstance(s, Op) and s.op in DRAWS]
        self._joint = joint_draws(self.kernel.body)
        self._loops = [s for s in statements(self.kernel.body) if isinstance(s, Loop)]
        self.forms = wanted_forms(self.kernel)
        self._find_views()
        self.live = analyse(self.kernel, self._may_write_early)
        self.products = sums_of_products(self.kernel, self.live)
        self.clamps = clamps(self.kernel, self.live)
        self._plan_padding()
        self._lend_outputs()

    # --- preparation ---

    def _find_views(self) -> None:
        """Give each distinct affine access a view; the plain array keeps the buffer's name."""
        accesses: dict[tuple[str, Index], None] = {}
        for s in statements(self.kernel.body):
            if isinstance(s, Store) or (isinstance(s, Load) and s.mask is None):
                accesses.setdefault((s.buffer, s.index))
        counts: dict[str, int] = {}
        found: list[tuple[str, Index, View]] = []
        for name, index in accesses:
            counts[name] = counts.get(name, 0) + 1
            view = affine_view(
                self.kernel.buffer(name),
                self.names_of(name),
                index,
                self.frame,
                self.extent_of,
                self.sizes,
            )
            if view is not None:
                found.append((name, index, view))
        whole = {
            s.buffer
            for s in statements(self.kernel.body)
            if isinstance(s, Load) and s.mask is not None
        }
        for name, index, view in found:
            alone = view.prepare is None or (counts[name] == 1 and name not in whole)
            local = self.names_of(name) if alone else self.names.new(f"{name}_view")
            self.views[name, index] = (Array(local, view.layout), view)

    def _plan_padding(self) -> None:
        """Find the loads done by slices, what merely repeats them, and what nobody needs then."""
        listed = statements(self.kernel.body)
        self.padded: dict[str, Padded] = {}
        for s in listed:
            if isinstance(s, Load) and layout(s.axes, self.frame) and s.mask is not None:
                found = padding(s, self.kernel, self.live, self.extent_of)
                if found is not None:
                    self.padded[s.name] = found
        self.aliases: dict[str, str] = {}
        for s in listed:
            if not isinstance(s, Op) or s.name in self.live.direct:
                continue
            repeated = restates(s, self.live)
            if repeated is not None:
                self.aliases[s.name] = repeated
                value = self.live.values[repeated]
                value.last = max(value.last, self.live.values[s.name].last)
        kept = needed(self.kernel, self.padded, self.aliases)
        self._skipped = {id(p) for p in self.products.values()}
        self._skipped |= {id(c.inner) for c in self.clamps.values()}
        self._skipped |= {
            id(s) for s in listed if isinstance(s, Load | Iota | Op | Reduce) and s.name not in kept
        }

    def _may_write_early(self, store: Store, value: Value) -> bool:
        """Values that are read, not computed, have nothing to write early; so have scalars, but for reductions."""
        if isinstance(value.by, Load | Iota) or (store.buffer, store.index) not in self.views:
            return False
        if self.kernel.buffer(store.buffer).dtype is not value.dtype:
            return False
        target = self.views[store.buffer, store.index][0].layout
        reduced = isinstance(value.by, Reduce) and not any(
            value.by in loop.folds for loop in self._loops
        )
        return target == layout(value.axes, self.frame) and (bool(target) or reduced)

    def _lend_outputs(self) -> None:
        """Let the block of each output hold other values until its own is made."""
        for name, store in self.live.direct.items():
            value = self.live.values[name]
            array = self.views[store.buffer, store.index][0]
            closes = self.live.folds.get(name, value.made)
            strict = not isinstance(value.by, Op) or value.by.op == "where"
            head = value.loops[-1] if value.loops else -1
            head = max(head, last_read(self.live, self.kernel.buffer(store.buffer).alias) + 1)
            place = Place(array.name, value.dtype, array.layout)
            if array.layout:
                self.slots.lenders.append(Lender(place, head, closes, value.loops, strict))

    def _cite(self, line: Line | None) -> None:
        """Say which line of the user's source comes next, when it changes."""
        if line is None or line == self._line:
            return
        self._line = line
        self.emit(f"# {cited(line)}")

    # --- statements ---

    def write(self) -> None:
        """Write the whole body."""
        for s in self.kernel.body:
            self._statement(s)

    def _statement(self, s: Statement) -> None:
        if id(s) in self._skipped:
            return
        self.slots.release(self.live.numbers[id(s)])
        if isinstance(s, Load):
            self._load(s)
        elif isinstance(s, Iota):
            self.texts[s.name] = self._range(s) or self.indices.iota(s)
        elif isinstance(s, Op) and self._is_number(s):
            self._number(s)
        elif isinstance(s, Op):
            self._cite(s.line)
            self._op(s)
        elif isinstance(s, Reduce):
            self._cite(s.line)
            self._reduce(s)
        elif isinstance(s, Store):
            self._store(s)
        else:
            self._loop(s)

    def _load(self, s: Load) -> None:
        if s.mask is None and (s.buffer, s.index) in self.views:
            self.stored[s.name] = array = self.views[s.buffer, s.index][0]
            if self._is_repeated(s, array.layout):
                text = self.reach(array)
                del self.stored[s.name]
                self.define(s.name, f"np.ascontiguousarray({text})")
        elif s.name in self.padded and (target := self._destination(s)) is not None:
            self.lines += self.indices.padded(s, self.padded[s.name], target)
        else:
            self.define(s.name, self.indices.load(s))

    def _is_repeated(self, s: Load, dims: Layout) -> bool:
        """Whether each element is read often, and in steps, for which numpy has slower loops."""
        if not dims or dims[-1] is None or self._is_full(dims):
            return False
        return dict(s.index.terms)[dims[-1]] != 1

    def _range(self, s: Iota) -> str | None:
        """Positions along one axis as a Python range, where only random draws ask for them."""
        draws = [op for op in self._draws if op.args[0] == s.name]
        if len(draws) != self.live.values[s.name].uses or len(s.index.terms) != 1:
            return None
        (axis, step), offset = s.index.terms[0], s.index.offset
        alone = layout(s.axes, self.frame) == (axis,) and all(op.axes == s.axes for op in draws)
        if not alone or step != 1:
            return None
        assert isinstance(axis, str)
        shift = f" + {size_operand(offset, self.sizes)}" if offset != 0 else ""
        low, high = self.indices.bounds(axis)
        return f"range({low}{shift}, {high}{shift})"

    def _store(self, s: Store) -> None:
        if isinstance(s.value, str) and self.live.direct.get(s.value) is s:
            return
        target = (
            self.reach(self.views[s.buffer, s.index][0])
            if (s.buffer, s.index) in self.views
            else None
        )
        value = self.operand(s.value)
        self.emit(f"{target}[...] = {value}" if target else f"{self.indices.target(s)} = {value}")

    # --- operations ---

    def _destination(self, s: Load | Op | Reduce, inplace: tuple[str, ...] = ()) -> str | None:
        """The array a value is written into, or None if it is small and gets a name of its own."""
        value, number = self.live.values[s.name], self.live.numbers.get(id(s), -1)
        if s.name in self.live.direct:
            store = self.live.direct[s.name]
            self.stored[s.name] = self.views[store.buffer, store.index][0]
            self.slots.release(number, inplace)
            return self.reach(self.stored[s.name])
        dims = layout(s.axes, self.frame)
        if isinstance(s, Reduce) or not (self._is_full(dims) or s.name in self.padded):
            return None
        self.slots.release(number, inplace)
        place = self.slots.hold(s.name, s.dtype, dims, number, value.last, value.loops)
        scratch = any(place is p for p in self.slots.made)
        self.stored[s.name] = Array(place.name, dims, scratch)
        return self.reach(self.stored[s.name])

    def _is_full(self, dims: Layout) -> bool:
        """Whether a value has every axis in sight, so that it is as large as a block."""
        loops = {s.axis for s in self.scopes}
        seen = {a.name for a in self.kernel.axes if a.kind != "loop" or a.name in loops}
        return bool(dims) and seen <= set(dims)

    def _op(self, s: Op) -> None:
        if s.name in self.aliases:
            self._alias(s.name, self.aliases[s.name])
            return
        if is_operator(s):
            self._operator(s)
            return
        if s.name in self._joint and self._is_full(layout(s.axes, self.frame)):
            self._draw_together(self._joint[s.name])
            return
        clamp = self.clamps.get(s.name)
        operands = s.args if clamp is None else (clamp.value, clamp.low, clamp.high)
        args = [self.operand(a) for a in operands]
        named = tuple(a for a in operands if isinstance(a, str))
        if s.op == "where":
            self._where(s, args)
            return
        target = self._destination(s, named)
        if s.op == "cast":
            if target is None:
                text = f"{_as_array(args[0], s.args[0])}.astype({dtype_text(s.dtype)})"
                self.define(s.name, f"{text}[()]" if s.name in self.forms[0] else text)
            else:
                self.emit(f"{target}[...] = {args[0]}")
            return
        name = OPS[s.op].numpy
        if name is None:
            raise BackendError(
                f"the numpy backend has no {s.op}: it should have been expanded", line=s.line
            )
        if not s.dtype.is_float and f"integer_{name}" in FUNCTIONS:
            name = f"integer_{name}"
        function = name if name in FUNCTIONS else f"np.{name}"
        function = function if clamp is None else "clip"
        if target is None:
            self.define(s.name, f"{function}({', '.join(args)})")
        else:
            # By position it is a fifth of a short call cheaper; numpy wants the name for two.
            out = "out=" if function in ("np.maximum", "np.minimum") else ""
            call = f"{function}({', '.join(args)}, {out}{target})"
            made = function not in FUNCTIONS and self._is_made_by(s, operands, target)
            self.emit(f"{target} = {call}" if made else call)

    def _is_made_by(self, s: Op, operands: tuple[Operand, ...], target: str) -> bool:
        """Whether an operation that is told no array makes just that of a buffer, which nothing has touched before."""
        found = [
            self.kernel.buffer(name)
            for (name, _), (array, view) in self.views.items()
            if array.name == target and view.prepare is None and view.program is None
        ]
        if not found or found[0].alias is not None or found[0].name in self.makes:
            return False
        named = [a for a in operands if isinstance(a, str)]
        kinds = {a.dtype if isinstance(a, Const) else self.live.values[a].dtype for a in operands}
        if any(a not in self.stored for a in named) or kinds != {s.dtype} or not s.dtype.is_float:
            return False  # its dtype might be another
        before = (line for line in self.lines if not line.startswith("#"))
        if self.scopes or len(layout(s.axes, self.frame)) != 1 or mentions(before, target):
            return False
        self.makes.append(found[0].name)
        return True

    def _operator(self, s: Op) -> None:
        texts = {a: self.scalar(a) for a in s.args if isinstance(a, str)}
        self.define(s.name, operator_text(s, texts, self.sizes))

    def _is_number(self, s: Op) -> bool:
        """Whether an operation on scalars depends on sizes alone."""
        return is_operator(s) and all(isinstance(a, Const) or a in self._of_sizes for a in s.args)

    def _number(self, s: Op) -> None:
        self._of_sizes.add(s.name)
        outer, self.lines = self.lines, self.numbers
        self._operator(s)
        self.lines = outer

    def _draw_together(self, draws: list[Op]) -> None:
        """Several streams by one call; what reads them comes later."""
        first = draws[0]
        at, seed = self.operand(first.args[0]), self.operand(first.args[2])
        streams = ", ".join(self.operand(op.args[1]) for op in draws)
        targets = ", ".join(str(self._destination(op)) for op in draws)
        self._skipped |= {id(op) for op in draws}
        self.emit(f"{OPS[first.op].numpy}_each({at}, ({streams}), {seed}, ({targets}))")

    def _alias(self, name: str, other: str) -> None:
        if other in self.stored:
            self.stored[name] = self.stored[other]
        else:
            self.texts[name] = self.texts[other]
        if other in self.scalars:
            self.scalars[name] = self.scalars[other]

    def _where(self, s: Op, args: list[str]) -> None:
        """By bits; only the `yes` operand may share the target."""
        condition, yes, no = s.args
        shared = isinstance(yes, str) and yes not in (condition, no)
        if not self._is_full(layout(s.axes, self.frame)) and s.name not in self.live.direct:
            self.define(s.name, f"np.where({', '.join(args)})")
            return
        bits = self._bits(s, args[0])
        target = self._destination(s, (yes,) if shared else ())  # type: ignore[arg-type]
        if isinstance(no, Const) and _is_zero(no):
            self.emit(f"select_or_zero({bits}, {args[1]}, {target})")
        else:
            self.emit(f"select({bits}, {args[1]}, {args[2]}, {target})")

    def _bits(self, s: Op, condition: str) -> str:
        """What a selection selects by: the condition as integers of the size of what it selects, -1 where it holds."""
        name = s.args[0]
        size = dtypes.BY_NAME[f"int{8 * s.dtype.itemsize}"]
        if not isinstance(name, str) or name not in self.stored:
            return f"-np.asarray({condition}, {dtype_text(size)})"
        value, made = self.live.values[name], self.live.values[s.name]
        key = (name, size)
        if key not in self._masks:
            again = value.loops == made.loops
            place = self.slots.hold(
                f"{name} {size.name}",
                size,
                self.stored[name].layout,
                made.made,
                value.last if again else made.made,
                made.loops,
            )
            array = Array(place.name, place.layout, any(place is p for p in self.slots.made))
            bits = self.names.new("chosen")
            self.emit(f"{bits} = chosen({condition}, {self.reach(array)})")
            if not again:
                return bits
            self._masks[key] = bits
        return self._masks[key]

    # --- folds ---

    def _reduce(self, s: Reduce) -> None:
        target = self._destination(s)
        if target is None:
            self.define(s.name, self.folds.reduction(s))
        else:
            self.emit(self.folds.reduction(s, out=target))

    def _loop(self, s: Loop) -> None:
        axis = self.kernel.axis(s.axis)
        for fold in s.folds:
            self._cite(fold.line)
            self._start_fold(fold)
        low, high = self.local(f"{s.axis}0"), self.local(f"{s.axis}1")
        start, stop = self.indices.range_of(s.axis)
        outer, self.lines = self.lines, []
        self.scopes.append(Scope(s.axis, low, high))
        for inner in s.body:
            self._statement(inner)
        for fold in s.folds:
            self._step_fold(fold)
        scope, body = self.scopes.pop(), self.lines
        self.lines = outer
        step = self.size(axis.block or 1)
        self.emit(f"for {low} in range({start}, {stop}, {step}):")
        head = [f"{high} = min({low} + {step}, {stop})", *scope.header]
        self.lines += [f"    {line}" for line in head + body]

    def _start_fold(self, fold: Reduce) -> None:
        dims = layout(fold.axes, self.frame)
        if not dims:
            self.define(fold.name, f"{self.folds.identity(fold)}[()]")
            return
        if fold.name in self.live.direct:
            store = self.live.direct[fold.name]
            self.stored[fold.name] = self.views[store.buffer, store.index][0]
        else:
            place = self.slots.own(fold.name, fold.dtype, dims)
            self.stored[fold.name] = Array(place.name, dims, is_scratch=True)
        self.emit(f"{self.reach(self.stored[fold.name])}.fill({self.folds.identity(fold)})")

    def _step_fold(self, fold: Reduce) -> None:
        """Fold a block into the accumulator."""
        call, text = FOLDERS[fold.monoid], self.folds.reduction(fold)
        if fold.name in self.stored:
            total = self.reach(self.stored[fold.name])
            self.emit(f"{call}({total}, {text}, out={total})")
        else:
            total = self.texts[fold.name]
            self.emit(f"{total} = {call}({total}, {text})")


def _as_array(text: str, operand: Operand) -> str:
    return f"np.asarray({text})" if isinstance(operand, str) and text.isdigit() else text


def _is_zero(const: Const) -> bool:
    """Whether all bits of a constant are 0."""
    return not isinstance(const.value, Size) and repr(const.value) in ("0", "0.0", "False")
