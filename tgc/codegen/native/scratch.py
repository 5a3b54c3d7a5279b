"""Memory of a kernel's own: values and partial folds that are kept from one loop to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tgc.codegen.native.address import Address, Addresses
from tgc.codegen.native.instructions import cast, constant, instruction, spread
from tgc.codegen.native.llvm import Value
from tgc.ir.dtypes import DType
from tgc.kernel.ir import Kernel

VECTOR_BYTES = 128


@dataclass(frozen=True)
class Array:
    """Scratch with an element per position along `axes`, which is counted from each axis' start in the program."""

    pointer: str
    dtype: DType
    axes: tuple[str, ...]
    strides: tuple[str, ...]
    count: str


@dataclass
class Scratch:
    """The arrays of a kernel by name; `bounds` says where the program's part of each axis starts and ends."""

    kernel: Kernel
    addresses: Addresses
    bounds: Mapping[str, tuple[str, str]]
    arrays: dict[str, Array] = field(default_factory=dict)

    def make(self, name: str, dtype: DType, axes: tuple[str, ...]) -> None:
        """An array with an element per position along `axes` of this program's part; the last axis is contiguous."""
        if name in self.arrays:
            return
        strides, count = list[str](), "1"
        for axis in reversed(axes):
            strides.append(count)
            count = self.addresses.product(count, self._length(axis))
        size = self.addresses.product(count, str(dtype.itemsize))
        pointer = self.addresses.f.memory(name, self.addresses.plus(size, str(VECTOR_BYTES)))
        self.arrays[name] = Array(pointer, dtype, axes, tuple(reversed(strides)), count)

    def at(self, name: str) -> Address:
        """Where the scratch of the element, or the vector, at hand lies."""
        array, f, base, lanes = self.arrays[name], self.addresses.f, "0", 1
        for axis, stride in zip(array.axes, array.strides, strict=True):
            here, low = self.addresses.position[axis], self.bounds[axis][0]
            place = here.text if low == "0" else f.put("place", f"sub nsw i64 {here.text}, {low}")
            base = self.addresses.add(base, self.addresses.times(place, stride))
            lanes = max(lanes, here.lanes)
        return Address(array.pointer, array.dtype, base, lanes)

    def fill(self, name: str, value: Value) -> None:
        """Set all of an array; the last vector may end behind it, where there is room."""
        array, f = self.arrays[name], self.addresses.f
        lanes = VECTOR_BYTES // array.dtype.itemsize
        value = spread(f, value, lanes)
        with f.loop("clear", "0", array.count, lanes) as index:
            self.addresses.store(Address(array.pointer, array.dtype, index, lanes), value, None)

    def move(self, part: str, total: str, *, back: bool = False) -> None:
        """Add an array to its total, and clear it; `back`: or take the total into the array."""
        f, addresses, found = self.addresses.f, self.addresses, self.arrays[part]
        wide = self.arrays[total]
        lanes = VECTOR_BYTES // wide.dtype.itemsize
        with f.loop("move", "0", found.count, lanes) as index:
            here = Address(found.pointer, found.dtype, index, lanes)
            there = Address(wide.pointer, wide.dtype, index, lanes)
            own = cast(f, "part", addresses.load("part", here, None), wide.dtype)
            all_ = addresses.load("total", there, None)
            all_ = instruction(f, "total", "add", [all_, own], wide.dtype)
            if back:
                addresses.store(here, cast(f, "sum", all_, found.dtype), None)
            else:
                addresses.store(there, all_, None)
                addresses.store(here, constant(0.0, found.dtype, lanes), None)

    def _length(self, axis: str) -> str:
        """How many elements of an axis a program has at most."""
        found = self.kernel.axis(axis)
        extent = self.addresses.size(found.extent)
        if found.kind != "grid":
            return extent
        return self.addresses.smaller(extent, self.addresses.size(found.block or 1))
