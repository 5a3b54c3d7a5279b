"""Who uses which value of a kernel: what may be written inside an expression, and what deserves a name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tgc.codegen.triton.expressions import repeats_operand
from tgc.errors import Line
from tgc.ir.nodes import BASIC_MONOIDS
from tgc.ir.ops import OPS
from tgc.kernel.ir import Iota, Kernel, Load, Loop, Op, Operand, Reduce, Statement, Store
from tgc.kernel.walk import reads

# What the result of a fold is called where the user gave no name: not sum or max, which are Python's.
_FOLDED = {
    "sum": "total",
    "prod": "product",
    "max": "largest",
    "min": "smallest",
    "any": "some",
    "all": "every",
}


@dataclass
class Usage:
    """The uses of one value: how often, by which statement last, and in which block it was made and used."""

    count: int = 0
    user: Statement | None = None
    home: object = None
    places: set[object] = field(default_factory=set)


class Uses:
    """The uses of every value of a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._found: dict[str, Usage] = {}
        self._visit(kernel.body, None)
        self.casts: dict[str, Op] = {
            arg: s
            for arg, usage in self._found.items()
            if isinstance(s := usage.user, Op) and s.op == "cast" and self._once(arg)
        }

    def _visit(self, body: Sequence[Statement], block: object) -> None:
        for statement in body:
            if isinstance(statement, Loop):
                inner = id(statement)
                self._visit(statement.body, inner)
                for fold in statement.folds:
                    self._use(fold.value, fold, inner)
                    self._usage(fold.name).home = block
                continue
            for value in reads(statement):
                self._use(value, statement, block)
            if not isinstance(statement, Store):
                self._usage(statement.name).home = block

    def _usage(self, name: str) -> Usage:
        return self._found.setdefault(name, Usage())

    def _use(self, operand: Operand, user: Statement, block: object) -> None:
        if isinstance(operand, str):
            usage = self._usage(operand)
            usage.count += 1
            usage.user = user
            usage.places.add(block)

    def _once(self, name: str) -> bool:
        usage = self._usage(name)
        return usage.count == 1 and usage.places == {usage.home}

    def inline(self, statement: Op | Reduce) -> bool:
        """Whether a value may be written where it is used: once, in its block, unnamed, from the user's same line."""
        if not self._unnamed(statement) or not self._once(statement.name):
            return False
        user = self._usage(statement.name).user
        if isinstance(user, (Load, Iota)):
            return False
        if isinstance(user, Op) and repeats_operand(OPS[user.op].triton or ""):
            return False
        line: Line | None = user.line if isinstance(user, (Op, Reduce)) else statement.line
        return line == statement.line

    def stored(self, name: str) -> Store | None:
        """The store that is a value's only use."""
        user = self._usage(name).user
        return user if isinstance(user, Store) and self._usage(name).count == 1 else None

    def wish(self, statement: Load | Iota | Op | Reduce) -> str:
        """What a value should be called: as the buffer it comes from or goes to, unless the user named it."""
        name = statement.name
        if self._unnamed(statement) and (store := self.stored(name)):
            return store.buffer
        stem = re.sub(r"(_value)?(_\d+)?$", "", name)
        if isinstance(statement, Reduce) and stem == statement.monoid:
            return _FOLDED[stem]
        buffers = {b.name.removesuffix("_partial") for b in self.kernel.buffers}
        return stem if stem in buffers or stem in OPS or stem in BASIC_MONOIDS else name

    def _unnamed(self, statement: Load | Iota | Op | Reduce) -> bool:
        """Whether a value has the name of what computes it, or a mere number."""
        generic = {Op: "op", Reduce: "monoid"}.get(type(statement))
        kind = getattr(statement, generic) if generic else "v"
        return re.fullmatch(rf"(v|{kind})(_?\d+)?", statement.name) is not None
