"""The host function of a plan: sizes from shapes, allocations, launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tgc.codegen.naming import Names, identifier, returned, written_back
from tgc.codegen.triton.expressions import WIDTH, dim, filled, subsizes, text, wrapped
from tgc.codegen.triton.launch import Launch
from tgc.codegen.triton.parameters import program_count
from tgc.codegen.triton.prelude import warps
from tgc.ir.dtypes import DType
from tgc.ir.sizes import Dim, Size, product, row_major
from tgc.kernel.ir import Buffer, Matmul, Plan
from tgc.kernel.ir import Launch as LaunchStep

_MODULE_NAMES = ("torch", "triton", "tl", "libdevice", "lanes", "warps", "IEEE")


class HostWriter:
    """Writes the function of one plan; `taken` are names of the module's kernels."""

    def __init__(self, plan: Plan, kernel_names: Sequence[str]) -> None:
        self.plan = plan
        self.launches = [
            Launch(step.kernel, plan.guards) if isinstance(step, LaunchStep) else step
            for step in plan.steps
        ]
        self.names = Names((*_MODULE_NAMES, *kernel_names, plan.name))
        self.buffers = {b.name: self.names.new(b.name) for b in plan.buffers}
        self.sizes: dict[Dim, str] = {
            Size.symbol(b.name): self.names.new(b.name) for b in plan.bindings
        }
        self.lines: list[str] = []

    def write(self) -> str:
        """The whole function."""
        inputs = [self.buffers[name] for name in self.plan.inputs]
        self.lines += wrapped(f"def {self.plan.name}(", [inputs], "):", 0)
        self._docstring()
        self._guards_and_sizes()
        for buffer in self._made():
            if not self._made_by_library(buffer):
                self._allocate(buffer)
        self._run()
        for line in written_back(self.plan, self.buffers, "{0}.copy_({1})"):
            self._line(line)
        outputs = returned(self.plan, self.buffers, "clone")
        self._line(f"return {_tuple(outputs)}")
        return "\n".join(self.lines) + "\n"

    def _line(self, source: str, depth: int = 1) -> None:
        self.lines.append("    " * depth + source)

    def _size(self, value: Dim) -> str:
        return text(dim(value, self.sizes))

    def _docstring(self) -> None:
        described = [self._described(name) for name in self.plan.inputs]
        results = [self._described(name) for name in self.plan.outputs]
        arrow = f"{', '.join(described)} -> {', '.join(results)}"
        if len(arrow) <= WIDTH - 10:
            self._line(f'"""{arrow}"""')
            return
        lines = [*_paragraph(described), *_paragraph(["-> " + results[0], *results[1:]])]
        self.lines += ['    """' + lines[0].lstrip(), *lines[1:], '    """']

    def _described(self, buffer_name: str) -> str:
        buffer = self.plan.buffer(buffer_name)
        if buffer.role == "scalar":
            return f"{self.buffers[buffer_name]}: {buffer.dtype.name}"
        shape = ", ".join(self._size(d) for d in buffer.shape)
        return f"{self.buffers[buffer_name]}: {buffer.dtype.name}[{shape}]"

    # --- sizes ---

    def _guards_and_sizes(self) -> None:
        dense = [self.buffers[b.name] for b in self._tensors() if _is_row_major(b) and b.shape]
        self._make_contiguous(dense)
        for buffer in self._tensors():
            self._bind(buffer)
        for guard in self.plan.guards:
            # A lower bound is where this plan is the better one; it computes the same below it.
            if guard.high is not None:
                self._line(f"assert {self._size(guard.size)} <= {guard.high}")
        self._name_sizes()

    def _make_contiguous(self, tensors: Sequence[str]) -> None:
        if len(tensors) == 1:
            self._line(f"{tensors[0]} = {tensors[0]}.contiguous()")
        elif tensors:
            names = ", ".join(tensors)
            generator = f"t.contiguous() for t in ({names})"
            self.lines += wrapped(f"{names} = (", [[generator]], ")", 1, trailing="")

    def _tensors(self) -> list[Buffer]:
        found = [self.plan.buffer(name) for name in dict.fromkeys(self.plan.inputs)]
        return [b for b in found if b.role != "scalar"]

    def _bind(self, buffer: Buffer) -> None:
        """Sizes that are dimensions of an input, in one line where they are all of its dimensions."""
        bound = [b for b in self.plan.bindings if b.buffer == buffer.name]
        tensor = self.buffers[buffer.name]
        shape = {b.dim: self.sizes[Size.symbol(b.name)] for b in bound if not b.stride}
        if shape and sorted(shape) == list(range(len(buffer.shape))):
            targets = [shape[i] for i in range(len(buffer.shape))]
            bare = ", ".join(targets) if len(targets) > 1 else _tuple(targets)
            self._line(f"{bare} = {tensor}.shape")
        else:
            for position, size in shape.items():
                self._line(f"{size} = {tensor}.shape[{position}]")
        for binding in bound:
            if binding.stride:
                size = self.sizes[Size.symbol(binding.name)]
                self._line(f"{size} = {tensor}.stride({binding.dim})")

    def _name_sizes(self) -> None:
        """Composite sizes that are needed more than once get a name."""
        wishes: dict[Dim, str] = {}
        needed: list[Dim] = [d for b in self._made() for d in b.shape]
        for launch in self.launches:
            if isinstance(launch, Matmul):
                continue
            for axis in launch.parameters.programs:
                needed.append(program_count(axis))
                wishes.setdefault(program_count(axis), f"{axis.name}_programs")
            for name, size in launch.parameters.sizes:
                needed.append(size)
                wishes.setdefault(size, name)
        parts = [part for size in needed for part in subsizes(size)]
        for size, count in Counter(parts).items():
            if count > 1 and size in wishes and size not in self.sizes:
                self.sizes[size] = self.names.new(wishes[size])
                named = {s: name for s, name in self.sizes.items() if s != size}
                self._line(f"{self.sizes[size]} = {text(dim(size, named))}")

    def _made(self) -> list[Buffer]:
        return [b for b in self.plan.buffers if b.role not in ("in", "scalar")]

    # --- memory ---

    def _made_by_library(self, buffer: Buffer) -> bool:
        return any(isinstance(s, Matmul) and s.out == buffer.name for s in self.plan.steps)

    def _device(self) -> str:
        tensors = self._tensors()
        return f"{self.buffers[tensors[0].name]}.device" if tensors else '"cuda"'

    def _allocate(self, buffer: Buffer) -> None:
        if buffer.alias is not None:
            self._line(f"{self.buffers[buffer.name]} = {self.buffers[buffer.alias]}")
            return
        dtype, device = torch_type(buffer.dtype), self._device()
        options = f"dtype={dtype}, device={device}"
        shape = _tuple([self._size(d) for d in buffer.shape])
        target = self.buffers[buffer.name]
        if _is_row_major(buffer):
            self._line(f"{target} = torch.empty({shape}, {options})")
        else:
            strides = _tuple([self._size(d) for d in buffer.strides])
            self._line(f"{target} = torch.empty_strided({shape}, {strides}, {options})")

    # --- steps ---

    def _run(self) -> None:
        steps = [s for s in self.launches if isinstance(s, Matmul) or s.parameters.grid != 0]
        tensors, depth = self._tensors(), 1
        if steps and tensors:
            self._line(f"with torch.cuda.device_of({self.buffers[tensors[0].name]}):")
            depth = 2
        for step in steps:
            if isinstance(step, Matmul):
                self._matmul(step, depth)
            else:
                self._launch(step, depth)

    def _matmul(self, step: Matmul, depth: int) -> None:
        out = self.plan.buffer(step.out)
        operands = [self._converted(name, step.dtype) for name in (step.a, step.b)]
        target = self.buffers[step.out]
        if step.subscripts == "ij,jk->ik":
            found = f"torch.matmul({', '.join(operands)})"
        elif step.subscripts == "ij,kj->ik":
            found = f"torch.matmul({operands[0]}, {operands[1]}.T)"
        else:
            found = f'torch.einsum("{step.subscripts}", {", ".join(operands)}).contiguous()'
        if out.dtype is not step.dtype:
            found += f".to({torch_type(out.dtype)})"
        self._line(f"{target} = {found}", depth)

    def _converted(self, buffer_name: str, dtype: DType) -> str:
        found = self.buffers[buffer_name]
        if self.plan.buffer(buffer_name).dtype is not dtype:
            found += f".to({torch_type(dtype)})"
        return found

    def _launch(self, launch: Launch, depth: int) -> None:
        programs = self._programs(launch)
        if isinstance(launch.parameters.grid, Size):
            if not programs.isidentifier():
                self._line(f"programs = {programs}", depth)
                programs = "programs"
            self._line(f"if {programs} > 0:", depth)
            depth += 1
        parameters = launch.parameters
        buffers = [self.buffers[b.name] for b in parameters.buffers]
        sizes = [self._size(size) for _, size in parameters.sizes]
        options = self._options(launch, depth)
        opening = f"{launch.kernel.name}[({programs},)]("
        self.lines += wrapped(opening, [buffers, sizes, options], ")", depth)

    def _programs(self, launch: Launch) -> str:
        counts = [program_count(a) for a in launch.parameters.programs]
        if isinstance(product(counts), int):
            return str(product(counts))
        parts = [self._size(c) for c in counts if c != 1]
        alone = len(parts) == 1
        return " * ".join(
            p if alone or " + " not in p and " - " not in p else f"({p})" for p in parts
        )

    def _options(self, launch: Launch, depth: int) -> list[str]:
        """The keyword arguments of a launch: blocks, warps and the meaning of arithmetic."""
        options: list[str] = []
        fixed, spans = 1, []
        for geometry in launch.parameters.blocks:
            block, width = geometry.block_name, geometry.block
            if isinstance(width, int):
                fixed *= width
                options.append(f"{block}={width}")
                continue
            text = (
                f"lanes({self._size(geometry.axis.extent)})" if width is None else self._size(width)
            )
            self._line(f"{block} = {text}", depth)
            spans.append(block)
            options.append(f"{block}={block}")
        tile = " * ".join([*([str(fixed)] if fixed > 1 else []), *spans])
        chosen = f"warps({tile})" if spans else str(warps(fixed))
        return [*options, f"num_warps={chosen}", "**IEEE"]


def torch_type(dtype: DType) -> str:
    return f"torch.{identifier(dtype.name)}" if dtype.kind != "bool" else "torch.bool"


def _is_row_major(buffer: Buffer) -> bool:
    return buffer.strides == row_major(buffer.shape)


def _tuple(items: Sequence[str]) -> str:
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def _paragraph(items: Sequence[str]) -> list[str]:
    lines = filled(items, "    ")
    return [*lines[:-1], lines[-1].rstrip(",")]
