"""What a block sees: arrays, values and sizes by the names they have at the place that is being written."""

from __future__ import annotations

from dataclasses import dataclass, field

from tgc.codegen.naming import Names, size_text
from tgc.codegen.numpy.constants import Constants
from tgc.codegen.numpy.liveness import Liveness
from tgc.codegen.numpy.views import Layout, View
from tgc.ir.sizes import Dim, Size
from tgc.kernel.ir import Const, Index, Kernel, Op, Operand


@dataclass(frozen=True)
class Array:
    """An array in sight: its name outside of loops, and its dimensions."""

    name: str
    layout: Layout
    is_scratch: bool = False


@dataclass
class Scope:
    """A loop being written: its axis, bounds, what its slices are called, and the lines that make them."""

    axis: str
    low: str
    high: str
    slices: dict[str, str] = field(default_factory=dict)
    header: list[str] = field(default_factory=list)


@dataclass
class Sight:
    """The names in a block function of `kernel`, and its lines so far.

    `sizes` and `arrays` map size symbols and buffers to their names; `frame` are the axes in order; `views` are the
    arrays that are read and written by slices; `used` what the function needs from outside; `scopes` the loops around.
    Of values, `stored` are those that lie in arrays and `texts` the others; `scalars` those that are numpy scalars,
    and `forms` who wants which (`scalars.py`). `products` are the products that a sum takes in as it makes them.
    """

    kernel: Kernel
    constants: Constants
    names: Names
    sizes: dict[str, str]
    arrays: dict[str, str]
    frame: tuple[str, ...] = ()
    lines: list[str] = field(default_factory=list)
    views: dict[tuple[str, Index], tuple[Array, View]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    size_constants: dict[Const, str] = field(default_factory=dict)
    scopes: list[Scope] = field(default_factory=list)
    stored: dict[str, Array] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    scalars: dict[str, str] = field(default_factory=dict)
    live: Liveness = field(init=False)
    products: dict[str, Op] = field(init=False)
    forms: tuple[frozenset[str], frozenset[str]] = field(init=False)
    _locals: dict[str, str] = field(default_factory=dict)

    def extent_of(self, axis: str) -> Dim:
        return self.kernel.axis(axis).extent

    def names_of(self, buffer: str) -> str:
        """The name of a buffer's array in this kernel."""
        return self.arrays[buffer]

    def use(self, name: str) -> str:
        """`name`, noted as needed from outside."""
        self.used.add(name)
        return name

    def reach(self, array: Array) -> str:
        """The array as the innermost loop sees it: sliced along the axes of the loops around."""
        name, dims = self.use(array.name), array.layout
        for scope in self.scopes:
            if scope.axis not in dims:
                continue
            if name not in scope.slices:
                made = self.local(f"{name}_{scope.axis}")
                at = dims.index(scope.axis)
                bounds = (
                    f":{scope.high} - {scope.low}"
                    if array.is_scratch
                    else f"{scope.low}:{scope.high}"
                )
                scope.header.append(f"{made} = {name}[{':, ' * at}{bounds}]")
                scope.slices[name] = made
            name = scope.slices[name]
        return name

    def operand(self, operand: Operand) -> str:
        """The text of an operand."""
        if isinstance(operand, Const):
            if not isinstance(operand.value, Size):
                return self.constants.name(operand)
            if operand not in self.size_constants:
                text = size_text(operand.value, self.sizes)
                name = text if text.isidentifier() else "size"
                self.size_constants[operand] = self.names.new(f"{name}_{operand.dtype.short}")
            return self.use(self.size_constants[operand])
        if operand in self.stored:
            return self.reach(self.stored[operand])
        return self.texts[operand]

    def local(self, text: str) -> str:
        """A name inside a loop: the same in every loop that asks for it."""
        if text not in self._locals:
            self._locals[text] = self.names.new(text)
        return self._locals[text]

    def size(self, dim: Dim) -> str:
        return size_text(dim, self.sizes)

    def define(self, name: str, expression: str) -> None:
        """Bind a small or fresh value to a name of its own, in the forms that its users want (`scalars.py`)."""
        local = self.texts[name] = self.names.new(name)
        as_scalar, as_array = (name in wanted for wanted in self.forms)
        if self.live.values[name].axes or not (as_scalar or as_array):
            self.emit(f"{local} = {expression}")
        elif not as_scalar:
            self.emit(f"{local} = np.asarray({expression})")
        else:
            self.scalars[name] = local
            self.emit(f"{local} = {expression}")
            if as_array:
                self.texts[name] = self.names.new(f"{name}_array")
                self.emit(f"{self.texts[name]} = np.asarray({local})")

    def scalar(self, name: str) -> str:
        """The text of a value without axes as a numpy scalar."""
        if name in self.scalars:
            return self.scalars[name]
        return f"{self.operand(name)}[()]" if name in self.stored else self.texts[name]

    def emit(self, line: str) -> None:
        self.lines.append(line)
