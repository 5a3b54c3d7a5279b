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
from dataclasses import dataclass

from tgc.codegen.native import draws, error_functions, exponentials, powers, trigonometry
from tgc.codegen.native.vectors import Code, Value, format_of
from tgc.ir.dtypes import DType, int32, int64

_Build = Callable[..., Value | list[Value]]


def _by_name(*functions: _Build) -> dict[str, _Build]:
    return {function.__name__: function for function in functions}


_FLOAT = _by_name(
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
    exponentials.sech2,
    exponentials.sigmoid,
    exponentials.softplus,
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
_INTEGER: dict[str, _Build] = {"pow": powers.integer_pow}
# Where an operand is known to be never positive, positive and normal, or not far from zero, there is less to do.
_NARROW: dict[str, _Build] = {
    "exp": exponentials.exp_below,
    "log": exponentials.log_normal,
    "sin": trigonometry.sin_near,
    "cos": trigonometry.cos_near,
}
NARROW = {op: build.__name__ for op, build in _NARROW.items()}
# The parts of operations in two functions, and the types of their operands.
_PARTS: dict[str, tuple[_Build, tuple[DType, ...]]] = {
    "philox_words": (draws.philox_words, (int64,) * 3),
    "philox_words_of_a_run": (draws.philox_words_of_a_run, (int64,) * 3),
    "philox_word": (draws.philox_word, (int64, *(int32,) * 4)),
}


@dataclass(frozen=True)
class InTwo:
    """An operation in two functions: `dear` gives all that the last `bits` of the first operand pick from, which
    operations that differ there alone share, and `run` the same where that operand counts up by one and the others
    do not vary; `pick` takes the first operand and what they gave."""

    dear: str
    run: str
    pick: str
    bits: int
    count: int


IN_TWO = {"philox": InTwo("philox_words", "philox_words_of_a_run", "philox_word", bits=2, count=4)}
FLOAT_FUNCTIONS = frozenset(_FLOAT)
FUNCTIONS = FLOAT_FUNCTIONS | _INTEGER.keys() | IN_TWO.keys()


def function_type(op: str, dtype: DType) -> DType | None:
    """The type of operands and result of the function that serves operands of `dtype`; None: there is none.

    Short integers are extended: vectors of bytes have no products.
    """
    if dtype.is_float:
        return dtype if op in _FLOAT else None
    return (int64 if dtype.itemsize == 8 else int32) if op in _INTEGER else None


def call_name(op: str, dtype: DType, lanes: int) -> str:
    """The LLVM function of an operation of FUNCTIONS: "@exp.v32f32", "@exp.f64" for one lane."""
    return f"@{op}.{Code(format_of(dtype), lanes).suffix}"


def _build(op: str, dtype: DType, lanes: int) -> tuple[str, Code]:
    """The text of one definition, and the code with what else the module needs for it."""
    code = Code(format_of(dtype), lanes)
    if op in _PARTS:
        build, types = _PARTS[op]
    else:
        build = ({**_FLOAT, **_by_name(*_NARROW.values())} if dtype.is_float else _INTEGER)[op]
        types = (dtype,) * len(inspect.signature(build).parameters)
    operands = [
        code.over(format_of(kind), lanes).argument(name)
        for name, kind in zip("abcde", types, strict=False)
    ]
    results = build(*operands)
    parameters = [f"{operand.type} {operand.text}" for operand in operands]
    name = call_name(op, dtype, lanes)[1:]
    results = [results] if isinstance(results, Value) else results
    return code.definition(name, parameters, results, "alwaysinline"), code


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
