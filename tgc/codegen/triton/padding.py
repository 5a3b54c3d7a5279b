"""What values hold in lanes that do not exist, where that is known.

A tile is wider than its axis. Lanes beyond the end are masked when loaded and stored; a fold must find its identity
in them. Where the fill of a load carries through the operations up to the fold (zero times zero is zero), the fold
needs no selection: `other=0.0` on the load is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tgc.codegen.triton.parameters import Parameters
from tgc.ir.nodes import identity
from tgc.kernel.ir import Const, Kernel, Load, Op, Operand, Reduce
from tgc.kernel.walk import everything, statements

Number = float | int | bool

_CARRIES: dict[str, Callable[..., Number]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
    "abs": abs,
    "square": lambda a: a * a,
}


class Paddings:
    """The value of each name in the missing lanes of each axis, as the kernel is written from top to bottom."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self._known: dict[str, dict[str, Number]] = {}

    def of(self, operand: Operand, axis: str) -> Number | None:
        """What the missing lanes of `axis` hold; None if that is not known."""
        if isinstance(operand, Const):
            return operand.value if isinstance(operand.value, (bool, int, float)) else None
        return self._known.get(operand, {}).get(axis)

    def load(self, statement: Load, axes: Sequence[str], fill: Number | None) -> None:
        if fill is not None:
            masked = [a for a in axes if self.parameters.axes[a].masked]
            self._known[statement.name] = dict.fromkeys(masked, fill)

    def op(self, statement: Op) -> None:
        found: dict[str, Number] = {}
        for axis in self.parameters.tiled:
            values = [self.of(arg, axis) for arg in statement.args]
            if statement.op == "cast" and values[0] is not None:
                found[axis] = values[0]
            elif statement.op in _CARRIES and None not in values:
                found[axis] = _CARRIES[statement.op](*values)
        self._known[statement.name] = found


def fills(kernel: Kernel) -> dict[str, Number]:
    """For each load, the value that spares the folds downstream a selection, or that the kernel itself asks for."""
    wanted: dict[str, Number] = {}
    operations = {s.name: s for s in statements(kernel.body) if isinstance(s, Op)}
    loads = {s.name: s for s in statements(kernel.body) if isinstance(s, Load)}
    for fold in (s for s in everything(kernel.body) if isinstance(s, Reduce)):
        for load in _sources(fold, fold.value, operations, loads):
            wanted.setdefault(load, identity(fold.monoid, loads[load].dtype))
    return wanted | {name: s.fill for name, s in loads.items() if s.mask is not None}


def _sources(
    fold: Reduce, operand: Operand, operations: dict[str, Op], loads: dict[str, Load]
) -> list[str]:
    """The loads whose fill reaches the fold: through casts for any monoid, through sums and products of zeros."""
    if isinstance(operand, Const):
        return []
    if operand in loads:
        return [operand]
    made = operations.get(operand)
    if made is None or not (made.op == "cast" or (fold.monoid == "sum" and made.op in _CARRIES)):
        return []
    return [name for arg in made.args for name in _sources(fold, arg, operations, loads)]
