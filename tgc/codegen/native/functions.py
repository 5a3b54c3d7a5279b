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

from tgc.codegen.native import error_functions, exponentials, powers, trigonometry
from tgc.codegen.native.vectors import Code, Value, format_of
from tgc.ir.dtypes import DType

_TABLE: dict[str, Callable[..., Value]] = {
    function.__name__: function
    for function in (
        exponentials.exp,
        exponentials.exp2,
        exponentials.expm1,
        exponentials.log,
        exponentials.log2,
        exponentials.log10,
        exponentials.log1p,
        exponentials.sinh,
        exponentials.cosh,
        exponentials.tanh,
        exponentials.asinh,
        exponentials.acosh,
        exponentials.atanh,
        error_functions.erf,
        error_functions.erfc,
        trigonometry.sin,
        trigonometry.cos,
        trigonometry.tan,
        trigonometry.asin,
        trigonometry.acos,
        trigonometry.atan,
        trigonometry.atan2,
        powers.pow,
        powers.cbrt,
        powers.hypot,
        powers.mod,
        powers.floordiv,
    )
}

FUNCTIONS = frozenset(_TABLE)


def call_name(op: str, dtype: DType, lanes: int) -> str:
    """The LLVM function of an operation of FUNCTIONS: "@exp.v32f32", "@exp.f64" for one lane."""
    return f"@{op}.{Code(format_of(dtype), lanes).suffix}"


def _build(op: str, dtype: DType, lanes: int) -> tuple[str, Code]:
    """The text of one definition, and the code with what else the module needs for it."""
    code = Code(format_of(dtype), lanes)
    build = _TABLE[op]
    names = "abc"[: len(inspect.signature(build).parameters)]
    result = build(*(code.argument(name) for name in names))
    parameters = [f"{code.type_of('f')} %{name}" for name in names]
    return code.definition(
        call_name(op, dtype, lanes)[1:], parameters, result, "alwaysinline"
    ), code


def definitions(needed: Iterable[tuple[str, DType, int]]) -> str:
    """LLVM text that defines each function needed, and what it is made of, once; in the order of their names."""
    texts: set[str] = set()
    for key in needed:
        text, code = _build(*key)
        texts |= {text, *code.globals}
    return "\n".join(sorted(texts))


def declarations(needed: Iterable[tuple[str, DType, int]]) -> set[str]:
    """The `declare` lines of the intrinsics that `definitions` of the same functions call."""
    return set().union(*(_build(*key)[1].declared for key in set(needed)))
