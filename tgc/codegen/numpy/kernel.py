"""One kernel as Python: a function for one block, and a function that cuts the arrays into blocks and calls it.

What fits one block is handed over whole, without a loop: that is all a call on small arrays does. Blocks of the
outermost axis are divided among threads, each with scratch of its own. A kernel without grid axes is one function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tgc.codegen.naming import Names, size_operand
from tgc.codegen.numpy.body import Body
from tgc.codegen.numpy.constants import Constants, dtype_text
from tgc.codegen.numpy.cost import grain_text
from tgc.codegen.numpy.lines import define, mentions
from tgc.codegen.numpy.points import remove_points
from tgc.codegen.numpy.repeats import remove_repeats
from tgc.codegen.numpy.rooms import Room, tuple_text
from tgc.codegen.numpy.short import write_out
from tgc.codegen.numpy.sight import Array
from tgc.codegen.numpy.streams import gather_streams
from tgc.codegen.numpy.strength import reduce_strength
from tgc.codegen.numpy.views import View
from tgc.ir.sizes import Size, product
from tgc.kernel.ir import Axis, Buffer, Kernel, Load, Op, Reduce, Store
from tgc.kernel.walk import statements

SCRATCH = 4 << 20
"""Bytes of a block's scratch from which the block is cut in half: it is far from any cache."""


SMALL = 1 << 17
"""Bytes from which results lie in memory that is recycled. A smaller one numpy makes with the operation that writes it
first, for less than it takes to make an array and hand it over."""


@dataclass(frozen=True)
class Emitted:
    """A kernel's functions: their text, the name of the one to call, and what that returns: the buffers it `makes`, if
    they are small and None is in their place."""

    kernel: Kernel
    name: str
    text: str
    makes: tuple[str, ...]


@dataclass(frozen=True)
class Argument:
    """An argument of the block function: its name, what a whole call passes, and what a call on one block passes."""

    name: str
    whole: str
    block: str


def emit_kernel(given: Kernel, name: str, constants: Constants, module_names: Names) -> Emitted:
    """The source of a kernel's functions. The last one, `name`, takes the buffers, then the sizes, by position."""
    kernel = remove_repeats(remove_points(write_out(given)))
    kernel = gather_streams(reduce_strength(kernel))
    writer = _KernelWriter(kernel, name, constants, module_names)
    if writer.scratch > SCRATCH:
        writer = _KernelWriter(_halved(kernel), name, constants, module_names)
    return Emitted(given, name, writer.write(), writer.makes)


def _halved(kernel: Kernel) -> Kernel:
    """The kernel in blocks half as large; programs stay what they are."""
    axes = tuple(
        replace(a, block=a.block // 2) if isinstance(a.block, int) and a.block % 2 == 0 else a
        for a in kernel.axes
    )
    return replace(kernel, axes=axes)


class _KernelWriter:
    def __init__(
        self, kernel: Kernel, name: str, constants: Constants, module_names: Names
    ) -> None:
        self.kernel, self.name, self.module_names = kernel, name, module_names
        self._locals: dict[str, str] = {}
        self.names = module_names.child()
        # Buffers first: they carry the user's names.
        arrays = {b.name: self.names.new(b.name) for b in kernel.buffers}
        self.sizes = {s: self.names.new(s) for s in kernel.sizes}
        self.body = Body(kernel, constants, self.names, self.sizes, arrays)
        self.body.write()
        outer = [a for a in kernel.axes if a.kind == "grid" or a.split is not None]
        self.single = self._is_single()
        self.outer = outer[:1] if self.single else outer
        places = tuple(p for p in self.body.slots.made if p.name in self.body.used)
        self.makes = tuple(b for b in self.body.makes if self._is_small(kernel.buffer(b)))
        self.room = Room(places, f"{name}_room", *(self.names.new(n) for n in ("room", "kept")))

    @property
    def scratch(self) -> int:
        """Bytes of scratch for one block, as far as its extents are known."""
        blocks = {a.name: a.block for a in self.kernel.axes}
        return sum(
            math.prod(b for d in p.layout if isinstance(b := blocks.get(d or ""), int))
            * p.dtype.itemsize
            for p in self.room.places
        )

    def write(self) -> str:
        body = self.body
        numbers, known = self._numbers()
        lines = [*numbers, *body.indices.header, *body.lines] or ["pass"]
        opened = [*([self.room.unpacked()] if self.room.places else []), *lines]
        if not self.outer:
            taken, left = self._take_room()
            return known + self._function([*self._prepare(), *taken, *opened, *left])
        arguments = self._arguments()
        block_name = self.module_names.new(f"{self.name}_block")
        used = [s for s in self.sizes.values() if mentions(lines, s)]
        params = [a.name for a in arguments] + used
        text = define(block_name, params, [*opened, *self._return()])
        calls, blocks = self._calls(block_name, arguments, used)
        return f"{known}{text}\n\n{blocks}{self._function([*self._prepare(), *calls])}"

    def _numbers(self) -> tuple[list[str], str]:
        """The line that names what depends on sizes alone, and the function, which computes it once."""
        lines = self.body.numbers
        made = [line.partition(" = ")[0] for line in lines]
        made = [name for name in made if mentions(self.body.lines, name)]
        if not made:
            return [], ""
        sizes = [s for s in self.sizes.values() if mentions(lines, s)]
        name = self.module_names.new(f"{self.name}_numbers")
        about = '"""What depends on sizes alone."""'
        text = define(name, sizes, [about, *lines, f"return {', '.join(made)}"])
        call = f"{', '.join(made)} = {name}({', '.join(sizes)})"
        return [call], f"@lru_cache\n{text}\n\n"

    # --- functions ---

    def _function(self, lines: list[str]) -> str:
        """The kernel's own function, behind the one that makes its scratch."""
        params = [
            *self._buffer_names(),
            *self.sizes.values(),
            *([f"{self.room.kept}={{}}"] if self._keeps() else []),
        ]
        text = define(self.name, params, [*(f"# {f}" for f in self.kernel.formula), *lines])
        if not self.room.places:
            return text
        return f"{self.room.function(self.module_names.child(), keeps=self._keeps())}\n\n{text}"

    def _is_small(self, b: Buffer) -> bool:
        """Whether a buffer that is small fits a block."""
        if len(self.outer) != 1 or self._needs_programs():
            return False
        (axis,) = self.outer
        fits = isinstance(axis.block, int) and axis.block * b.dtype.itemsize >= SMALL
        return fits and axis.extent == product(b.shape)

    def _made(self) -> str:
        return ", ".join(self.body.names_of(name) for name in self.makes)

    def _return(self) -> list[str]:
        return [f"return {self._made()}"] if self.makes else []

    def _buffer_names(self) -> list[str]:
        return [self.body.names_of(b.name) for b in self.kernel.buffers]

    def _is_single(self) -> bool:
        """One operation and nothing to keep: numpy runs it best on all of a thread's share at once."""
        work = [s for s in statements(self.kernel.body) if isinstance(s, Op | Reduce)]
        plain = all(isinstance(s, Op | Reduce | Load | Store) for s in self.kernel.body)
        needs = self.body.slots.made or self.body.indices.starts or self._needs_programs()
        return plain and len(work) <= 1 and not needs

    # --- what the kernel function does before it calls ---

    def _views(self) -> list[tuple[Array, View]]:
        return [(a, v) for a, v in self.body.views.values() if a.name in self.body.used]

    def _prepare(self) -> list[str]:
        """Views, positions along lanes, sizes as constants."""
        body = self.body
        lines = []
        for name, flat in body.indices.flats.items():
            lines.append(f"{flat} = {body.indices.flat_text(self.kernel.buffer(name))}")
        lines += [f"{whole} = {body.names_of(name)}" for name, whole in body.indices.wholes.items()]
        views = [(a.name, v.prepare) for a, v in self._views() if v.prepare is not None]
        own = {body.names_of(b.name) for b in self.kernel.buffers}
        lines += [f"{name} = {text}" for name, text in sorted(views, key=lambda v: v[0] in own)]
        lines += [
            f"{name} = {body.indices.lane_text(axis)}" for axis, name in body.indices.lanes.items()
        ]
        for const, name in body.size_constants.items():
            assert isinstance(const.value, Size)
            lines.append(f"{name} = np.array({body.size(const.value)}, {dtype_text(const.dtype)})")
        return lines

    # --- scratch ---

    def _extents(self, *, blocks: bool) -> list[str]:
        """How large the room is: as large as the arrays, or as a block of them."""
        return [self._span(d, blocks=blocks) for d in self.room.axes]

    def _take_room(self) -> tuple[list[str], list[str]]:
        """The lines that take scratch for the whole arrays, and those that put it back."""
        return self.room.taken(self._extents(blocks=False)) if self.room.places else ([], [])

    def _keeps(self) -> bool:
        """Whether there is scratch that may stay: that of whole arrays, where a call takes them so."""
        whole = all(map(self._is_one_block, self.outer)) or not self._needs_programs()
        return bool(self.room.places) and whole and self.room.keeps(self._extents(blocks=False))

    def _span(self, name: str, *, blocks: bool) -> str:
        """How many elements scratch has along an axis: the extent, or a block of it."""
        axis = self.kernel.axis(name)
        extent = self.body.size(axis.extent)
        if axis.block is None or (axis.kind == "grid" and not blocks):
            return extent
        if isinstance(axis.extent, int) and isinstance(axis.block, int):
            return str(min(axis.extent, axis.block))
        if [axis] == self.outer and axis.split is None:
            return self._step(axis)  # there is more than one block
        return f"min({extent}, {self.body.size(axis.block)})"

    # --- calling the block function ---

    def _arguments(self) -> list[Argument]:
        """Arrays in the order of the buffers, then scratch, bounds, programs and constants."""
        body, found = self.body, []
        order = {b.name: i for i, b in enumerate(self.kernel.buffers)}
        views = sorted(
            ((order[name], array, view) for (name, _), (array, view) in body.views.items()),
            key=lambda v: v[0],
        )
        for _, array, view in views:
            if array.name in body.used:
                found.append(Argument(array.name, array.name, self._slice(array, view.program)))
        whole = [body.names_of(b.name) for b in self.kernel.buffers]
        names = [array.name for _, array, _ in views]
        found += [Argument(n, n, n) for n in whole if n in body.used and n not in names]
        flats = [
            *body.indices.wholes.values(),
            *body.indices.flats.values(),
            *body.indices.lanes.values(),
        ]
        found += [Argument(n, n, n) for n in flats if n in body.used]
        if self.room.places:
            found.append(Argument(self.room.name, self.room.name, self._part_of_room()))
        for axis, pair in body.indices.starts.items():
            extent = body.size(body.extent_of(axis))
            for name, whole_text, text in zip(pair, ("0", extent), self._bounds(axis), strict=True):
                found.append(Argument(name, whole_text, text))
        found += [Argument(n, "0", self._program(a)) for a, n in body.indices.programs.items()]
        return found + [Argument(n, n, n) for n in body.size_constants.values()]

    def _extent(self, name: str) -> str:
        return self.body.size(self.kernel.axis(name).extent)

    def _count(self, axis: Axis) -> str:
        """How many blocks or programs lie along an axis."""
        if isinstance(axis.programs, int):
            return str(axis.programs)
        return f"-(-{size_operand(axis.extent, self.sizes)} // {self._step(axis)})"

    def _bounds(self, axis: str) -> tuple[str, str]:
        found = self.kernel.axis(axis)
        low = f"{axis}_lo" if found.split is not None else f"{axis}0"
        high = f"{axis}_hi" if found.split is not None else f"{axis}1"
        return self._local(low), self._local(high)

    def _program(self, axis: str) -> str:
        found = self.kernel.axis(axis)
        low = self._bounds(axis)[0]
        return (
            f"{low} // {self._step(found)}"
            if found.split is None
            else self._local(f"{axis}_program")
        )

    def _local(self, name: str) -> str:
        """A loop variable of the kernel function; the same name each time it is asked for."""
        if name not in self._locals:
            taken = {b for pair in self.body.indices.starts.values() for b in pair}
            taken |= set(self.body.indices.programs.values())
            self._locals[name] = name if name in taken else self.names.new(name)
        return self._locals[name]

    def _slice(self, array: Array, program: str | None) -> str:
        """The part of an array that belongs to one block (or program)."""
        keys = [] if program is None else [self._program(program)]
        grid = {a.name for a in self.outer if a.split is None}
        for d in array.layout:
            if d in grid:
                low, high = self._bounds(d or "")
                keys.append(f":{high} - {low}" if array.is_scratch else f"{low}:{high}")
            else:
                keys.append(":")
        while keys and keys[-1] == ":":
            keys.pop()
        if not keys:
            return array.name
        scalar = program is not None and not array.layout
        return f"{array.name}[{', '.join(keys)}{', ...' if scalar else ''}]"

    def _room_of_blocks(self) -> list[str]:
        if not self.room.places:
            return []
        made = f"{self.room.name} = {self.room.made(self._extents(blocks=True))}"
        return [made, self.room.unpacked()] if self._part_of_room().startswith("(") else [made]

    def _part_of_room(self) -> str:
        """The room of one block, of which the last may be smaller."""
        arrays = [Array(p.name, p.layout, is_scratch=True) for p in self.room.places]
        parts = [self._slice(a, None) for a in arrays]
        keys = {part.removeprefix(a.name) for a, part in zip(arrays, parts)}
        if keys == {""}:
            return self.room.name
        return f"[t{keys.pop()} for t in {self.room.name}]" if len(keys) == 1 else tuple_text(parts)

    def _calls(
        self, block_name: str, arguments: list[Argument], used: list[str]
    ) -> tuple[list[str], str]:
        """One call if everything fits a block, else one per block, on several threads if there are enough: lines, and
        the function for the blocks of one thread."""
        whole = f"{block_name}({', '.join([*(a.whole for a in arguments), *used])})"
        taken, left = self._take_room()
        if self.makes:
            whole = f"{self._made()} = {whole}" if left else f"return {whole}"
        small = [*taken, whole, *left, *(self._return() if left else [])]
        if all(self._is_one_block(a) for a in self.outer):
            return small, ""
        lines, first = list[str](), self.outer[0]
        for axis in self.outer:
            if not self._step_text(axis).isdigit():
                lines.append(f"{self._step(axis)} = {self._step_text(axis)}")
        if not self._needs_programs():
            fits = " and ".join(f"{self._extent(a.name)} <= {self._step(a)}" for a in self.outer)
            end = [] if self.makes else ["return"]
            lines += [f"if {fits}:", *(f"    {line}" for line in [*small, *end])]
        work = self._room_of_blocks()
        low, high = self._local("first"), self._local("last")
        indent, programs = "", self._count(first)
        if self.single:
            work += self._share(first, low, high)
        elif len(self.outer) == 1:
            work += self._loop_head(first, low, high)
            indent = "    "
        else:
            programs = " * ".join(self._count(a) for a in self.outer)
            work += self._blocks_in_turn(low, high)
            indent = "    "
        call = f"{block_name}({', '.join([*(a.block for a in arguments), *used])})"
        work.append(indent + call)
        names = [*self._buffer_names(), *self.sizes.values()]
        names += [line.partition(" = ")[0] for line in [*self._prepare(), *lines] if " = " in line]
        shared = [n for n in dict.fromkeys(names) if mentions(work, n)]
        blocks = self.module_names.new(f"{self.name}_blocks")
        function = define(blocks, [*shared, low, high], work)
        grain = grain_text(self.kernel, {a.name: self._step(a) for a in self.outer}, self.sizes)
        call = f"parallel({', '.join([blocks, programs, grain, *shared])})"
        return [*lines, call, *self._return()], f"{function}\n\n"

    def _is_one_block(self, axis: Axis) -> bool:
        fixed = isinstance(axis.extent, int) and isinstance(axis.block, int)
        return fixed and axis.split is None and axis.extent <= axis.block  # type: ignore[operator]

    def _needs_programs(self) -> bool:
        """Whether blocks are numbered, as where each has partial results."""
        split = any(a.split is not None for a in self.kernel.axes)
        return (
            split
            or bool(self.body.indices.programs)
            or any(view.program for _, view in self._views())
        )

    def _step_text(self, axis: Axis) -> str:
        """How far one turn of the loop over an axis goes: a block, or a program's share."""
        return self.body.size((axis.block or 1) if axis.split is None else axis.split)

    def _step(self, axis: Axis) -> str:
        """The same, by name where it must be computed."""
        text = self._step_text(axis)
        return text if text.isdigit() else self._local(f"{axis.name}_step")

    def _loop_head(self, axis: Axis, first: str, last: str) -> list[str]:
        """A loop over the blocks of an axis with numbers from `first` to `last`."""
        low, high = self._bounds(axis.name)
        extent, step = self._extent(axis.name), self._step(axis)
        end = f"{high} = min({low} + {step}, {extent})"
        if axis.split is not None and self._counts_programs(axis.name):
            number = self._program(axis.name)
            head = f"for {number} in range({first}, {last}):"
            return [head, f"    {low} = {number} * {step}", f"    {end}"]
        first, last = (f"{b} * {step}" if step != "1" else b for b in (first, last))
        return [f"for {low} in range({first}, min({last}, {extent}), {step}):", f"    {end}"]

    def _blocks_in_turn(self, first: str, last: str) -> list[str]:
        """A loop over the blocks along several axes, numbered as one: threads share what any of them has many of."""
        block, inside = self._local("block"), []
        numbers = {}
        for axis in self.outer:
            counts = axis.split is not None and self._counts_programs(axis.name)
            numbers[axis] = (
                self._program(axis.name) if counts else self._local(f"{axis.name}_block")
            )
        left = block
        for place, axis in reversed(list(enumerate(self.outer))[1:]):
            rest = numbers[self.outer[0]] if place == 1 else block
            inside.append(f"{rest}, {numbers[axis]} = divmod({left}, {self._count(axis)})")
            left = rest
        for axis in self.outer:
            (low, high), step = self._bounds(axis.name), self._step(axis)
            inside.append(
                f"{low} = {numbers[axis]} * {step}" if step != "1" else f"{low} = {numbers[axis]}"
            )
            inside.append(f"{high} = min({low} + {step}, {self._extent(axis.name)})")
        return [f"for {block} in range({first}, {last}):", *(f"    {line}" for line in inside)]

    def _share(self, axis: Axis, first: str, last: str) -> list[str]:
        """The bounds of all blocks from number `first` to `last`."""
        (low, high), step = self._bounds(axis.name), self._step(axis)
        if step == "1":
            return [f"{low}, {high} = {first}, {last}"]
        return [
            f"{low}, {high} = {first} * {step}, min({last} * {step}, {self._extent(axis.name)})"
        ]

    def _counts_programs(self, axis: str) -> bool:
        return axis in self.body.indices.programs or any(
            v.program == axis for _, v in self._views()
        )
