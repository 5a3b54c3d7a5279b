"""The elementary functions of the native engine, as LLVM functions of its vectors.

A vector loop that calls libm runs at a tenth of its speed, so every function is written here as polynomials and bit
operations over the engine's own vector type, inlined, without a branch or a call. They hold to 4 units in the last
place in float32 and float64, edge values included; the tests measure it.

Products that must be rounded once use `llvm.fma`, which is an instruction on every x86 since Haswell and every ARM64;
on a host without it LLVM calls the C library, correct and slow.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable

from tgc.codegen.native import error_functions, exponentials
from tgc.codegen.native.vectors import Code, Value, format_of
from tgc.ir.dtypes import DType

_TABLE: dict[str, Callable[..., Value]] = {
    "exp": exponentials.exp,
    "exp2": exponentials.exp2,
    "expm1": exponentials.expm1,
    "log": exponentials.log,
    "log2": exponentials.log2,
    "log10": exponentials.log10,
    "log1p": exponentials.log1p,
    "sinh": exponentials.sinh,
    "cosh": exponentials.cosh,
    "tanh": exponentials.tanh,
    "erf": error_functions.erf,
    "erfc": error_functions.erfc,
}

FUNCTIONS = frozenset(_TABLE)


def call_name(op: str, dtype: DType, lanes: int) -> str:
    """The LLVM function of an operation of FUNCTIONS: "@exp.v32f32", "@exp.f64" for one lane."""
    return f"@{op}.{Code(format_of(dtype), lanes).suffix}"


def _define(op: str, dtype: DType, lanes: int) -> tuple[str, set[str]]:
    """The text of one definition, and the declarations of the intrinsics it calls."""
    code = Code(format_of(dtype), lanes)
    build = _TABLE[op]
    names = "abc"[: len(inspect.signature(build).parameters)]
    result = build(*(code.argument(name) for name in names))
    kind = code.type_of("f")
    parameters = ", ".join(f"{kind} %{name}" for name in names)
    body = "\n".join(f"  {line}" for line in code.lines)
    text = (
        f"define internal {kind} {call_name(op, dtype, lanes)}({parameters}) alwaysinline nounwind {{\n"
        f"{body}\n  ret {kind} {result.text}\n}}\n"
    )
    return text, code.declared


def definitions(needed: Iterable[tuple[str, DType, int]]) -> str:
    """LLVM text that defines each function needed, once, in the order of their names."""
    unique = {call_name(*key): key for key in needed}
    return "\n".join(_define(*unique[name])[0] for name in sorted(unique))


def declarations(needed: Iterable[tuple[str, DType, int]]) -> set[str]:
    """The `declare` lines of the intrinsics that `definitions` of the same functions call."""
    return set().union(*(_define(*key)[1] for key in set(needed)))
