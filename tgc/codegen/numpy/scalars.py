"""Values without axes: Python's operators on numpy's scalars, which take a tenth of a ufunc's call.

A ufunc of an array wants the same number as a zero-dimensional array: it converts a scalar for as much as a short call
costs. So a value has one form or both, by who uses it.
"""

from __future__ import annotations

from tgc.codegen.naming import size_operand, size_text
from tgc.codegen.numpy.constants import dtype_text, number_text
from tgc.ir.sizes import Size
from tgc.kernel.ir import Const, Kernel, Op
from tgc.kernel.walk import statements

OPERATORS = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "abs": "abs({0})",
    "square": "{0} * {0}",
}
"""How an operation is written of scalars; integers stay with the ufuncs, whose overflow is silent."""


def is_operator(s: Op) -> bool:
    """Whether an operation is written as an operator."""
    numbers = [a for a in s.args if isinstance(a, Const) and not isinstance(a.value, Size)]
    plain = not s.axes and s.op in OPERATORS and s.dtype.name in ("float32", "float64")
    return plain and len(numbers) < len(s.args)


def wanted_forms(kernel: Kernel) -> tuple[frozenset[str], frozenset[str]]:
    """The values that operators take, and those that ufuncs of arrays do."""
    scalars: set[str] = set()
    arrays: set[str] = set()
    for s in statements(kernel.body):
        if isinstance(s, Op):
            names = {a for a in s.args if isinstance(a, str)}
            if is_operator(s):
                scalars |= names
            elif s.axes:
                arrays |= names
    return frozenset(scalars), frozenset(arrays)


def operator_text(s: Op, texts: dict[str, str], sizes: dict[str, str]) -> str:
    """The expression; a Python number beside a numpy scalar takes its type."""
    alone = not any(isinstance(a, str) for a in s.args)
    words = []
    for a in s.args:
        if isinstance(a, str):
            words.append(texts[a])
        elif not isinstance(a.value, Size):
            text = number_text(a.value, a.dtype)
            words.append(f"({text})" if text.startswith("-") else text)
        elif alone:
            words.append(f"{dtype_text(a.dtype)}({size_text(a.value, sizes)})")
        else:
            words.append(size_operand(a.value, sizes))
    return OPERATORS[s.op].format(*words)
