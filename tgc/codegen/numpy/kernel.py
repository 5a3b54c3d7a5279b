"""One kernel as Python: a function for one block, and a function that cuts the arrays into blocks and calls it.

What fits one block is handed over whole, without a loop: that is all a call on small arrays does. A kernel without
grid axes, and one that is a single operation, is one function.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tgc.codegen.naming import Names
from tgc.codegen.numpy.body import Array, Body
from tgc.codegen.numpy.constants import Constants, dtype_text
from tgc.codegen.numpy.lines import define
from tgc.codegen.numpy.liveness import statements
from tgc.codegen.numpy.points import remove_points
from tgc.codegen.numpy.slots import Place
from tgc.codegen.numpy.views import View
from tgc.ir.sizes import Size
from tgc.kernel.ir import Axis, Kernel, Load, Op, Reduce, Store


@dataclass(frozen=True)
class Argument:
    """An argument of the block function: its name, what a whole call passes, and what a call on one block passes."""

    name: str
    whole: str
    block: str


def emit_kernel(kernel: Kernel, name: str, constants: Constants, module_names: Names) -> str:
    """The source of a kernel's functions. The last one, `name`, takes the buffers, then the sizes, by position."""
    return _KernelWriter(remove_points(kernel), name, constants, module_names).write()


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
        self.outer = [a for a in kernel.axes if a.kind == "grid" or a.split is not None]

    def write(self) -> str:
        body = self.body
        lines = [*body.indices.header, *body.lines] or ["pass"]
        if not self.outer or self._is_single():
            return self._function(
                self.name, self._parameters(), [*self._prepare(), *self._whole(), *lines]
            )
        arguments = self._arguments()
        block_name = self.module_names.new(f"{self.name}_block")
        used = [s for s in self.sizes.values() if self._mentions(lines, s)]
        params = [a.name for a in arguments] + used
        text = define(block_name, params, lines)
        loop = self._loops(block_name, arguments, used)
        return (
            text + "\n\n" + self._function(self.name, self._parameters(), [*self._prepare(), *loop])
        )

    # --- functions ---

    def _function(self, name: str, params: list[str], lines: list[str]) -> str:
        return define(name, params, [*(f"# {f}" for f in self.kernel.formula), *lines])

    def _parameters(self) -> list[str]:
        return [*(self.body.names_of(b.name) for b in self.kernel.buffers), *self.sizes.values()]

    def _mentions(self, lines: list[str], name: str) -> bool:
        pattern = re.compile(rf"\b{re.escape(name)}\b")
        return any(pattern.search(line) for line in lines)

    def _is_single(self) -> bool:
        """One operation and nothing to keep: numpy itself runs it best, unblocked."""
        work = [s for s in statements(self.kernel.body) if isinstance(s, Op | Reduce)]
        plain = all(isinstance(s, Op | Reduce | Load | Store) for s in self.kernel.body)
        needs = self.body.slots.made or self.body.indices.starts or self.body.indices.programs
        programs = any(view.program for _, view in self.body.views.values())
        return plain and len(work) <= 1 and not needs and not programs

    # --- what the kernel function does before it calls ---

    def _views(self) -> list[tuple[Array, View]]:
        return [(a, v) for a, v in self.body.views.values() if a.name in self.body.used]

    def _prepare(self) -> list[str]:
        """Views, positions along lanes, sizes as constants, scratch."""
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
        return lines + [self._allocate(p) for p in body.slots.made if p.name in body.used]

    def _allocate(self, place: Place) -> str:
        texts = [self._block_extent(d) for d in place.layout]
        shape = texts[0] if len(texts) == 1 else f"({', '.join(texts)})"
        return f"{place.name} = np.empty({shape}, {dtype_text(place.dtype)})"

    def _block_extent(self, name: str | None) -> str:
        if name is None:
            return "1"
        axis = self.kernel.axis(name)
        extent = self.body.size(axis.extent)
        if axis.kind == "lane" or axis.block is None:
            return extent
        if isinstance(axis.extent, int) and isinstance(axis.block, int):
            return str(min(axis.extent, axis.block))
        return f"min({extent}, {self.body.size(axis.block)})"

    def _whole(self) -> list[str]:
        """For a kernel in one function: bounds of axes as if in one block."""
        lines = []
        for axis, (low, high) in self.body.indices.starts.items():
            lines.append(f"{low}, {high} = 0, {self.body.size(self.body.extent_of(axis))}")
        return lines

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
        for place in body.slots.made:
            if place.name in body.used:
                array = Array(place.name, place.layout, is_scratch=True)
                found.append(Argument(place.name, place.name, self._slice(array, None)))
        for axis, pair in body.indices.starts.items():
            extent = body.size(body.extent_of(axis))
            for name, whole_text, text in zip(pair, ("0", extent), self._bounds(axis), strict=True):
                found.append(Argument(name, whole_text, text))
        found += [Argument(n, "0", self._program(a)) for a, n in body.indices.programs.items()]
        return found + [Argument(n, n, n) for n in body.size_constants.values()]

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

    def _loops(self, block_name: str, arguments: list[Argument], used: list[str]) -> list[str]:
        whole = f"{block_name}({', '.join([*(a.whole for a in arguments), *used])})"
        if all(
            a.split is None
            and isinstance(a.extent, int)
            and isinstance(a.block, int)
            and a.extent <= a.block
            for a in self.outer
        ):
            return [whole]
        lines = []
        if not any(a.split is not None for a in self.outer) and not self.body.indices.programs:
            if not any(view.program for _, view in self._views()):
                fits = " and ".join(
                    f"{self.body.size(a.extent)} <= {self._step(a)}" for a in self.outer
                )
                lines += [f"if {fits}:", f"    {whole}", "    return"]
        indent = ""
        for axis in self.outer:
            lines += [indent + line for line in self._loop_head(axis)]
            indent += "    "
        call = f"{block_name}({', '.join([*(a.block for a in arguments), *used])})"
        return [*lines, indent + call]

    def _step(self, axis: Axis) -> str:
        """How far one turn of the loop over an axis goes: a block, or a program's share."""
        return self.body.size((axis.block or 1) if axis.split is None else axis.split)

    def _loop_head(self, axis: Axis) -> list[str]:
        low, high = self._bounds(axis.name)
        extent = self.body.size(axis.extent)
        head: list[str] = []
        step = self._step(axis)
        if not step.isdigit():
            head.append(f"{self._local(f'{axis.name}_step')} = {step}")
            step = self._local(f"{axis.name}_step")
        needs_number = axis.split is not None and self._counts_programs(axis.name)
        steps = f"range(0, {extent}, {step})"
        if needs_number:
            first = f"for {self._program(axis.name)}, {low} in enumerate({steps}):"
        else:
            first = f"for {low} in {steps}:"
        return [*head, first, f"    {high} = min({low} + {step}, {extent})"]

    def _counts_programs(self, axis: str) -> bool:
        return axis in self.body.indices.programs or any(
            v.program == axis for _, v in self._views()
        )
