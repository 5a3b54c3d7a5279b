"""Gathered positions are asked whether they are inside their axis: outside it nothing is read, and the caller hears."""

from __future__ import annotations

from dataclasses import dataclass, field

from tgc.codegen.native.address import Addresses, Lookup
from tgc.codegen.native.instructions import cast, instruction, spread
from tgc.codegen.native.llvm import Value
from tgc.ir import dtypes
from tgc.kernel.ir import Gathered


@dataclass
class Bounds:
    """What a kernel gathers by; the variable at `pointer` is the number of a term that was outside, counted from 1."""

    addresses: Addresses
    pointer: str
    terms: list[Gathered] = field(default_factory=list)

    def check(self, term: Gathered, mask: Value | None, look: Lookup) -> Value:
        """The lanes whose position is inside; notes if another is among those of `mask` (None: all)."""
        f = self.addresses.f
        place = cast(f, "position", look(term.value), dtypes.int64)
        lanes, extent = place.lanes, Value(self.addresses.size(term.extent), dtypes.int64)
        bound = spread(f, extent, lanes).text
        inside = Value(f.put("inside", f"icmp ult {place}, {bound}"), dtypes.bool_, lanes)
        wrong = Value(f.put("wrong", f"icmp uge {place}, {bound}"), dtypes.bool_, lanes)
        if lanes > 1 and mask is not None:
            wrong = instruction(f, "wrong", "and", [wrong, mask], dtypes.bool_)
        if lanes > 1:
            name = f"llvm.vector.reduce.or.v{lanes}i1"
            wrong = Value(f.call("some", "i1", name, str(wrong)), dtypes.bool_)
        if term not in self.terms:
            self.terms.append(term)
        with f.when(wrong.text, "outside"):
            f.do(f"store i64 {self.terms.index(term) + 1}, ptr {self.pointer}, align 8")
        return inside
