"""libdevice for the interpreter, which has none: there every `libdevice` function silently returns None.

fp32 functions are computed in fp64 and rounded once, so their results do not depend on the machine's vector unit, and
are at least as accurate as the GPU's. What libdevice refuses is refused here too: fp16 and bf16 operands, operands of
different types, functions not listed below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.language.extra import libdevice
from triton.runtime import interpreter as stock

Array = np.ndarray


def _by_torch(function: Callable[..., torch.Tensor]) -> Callable[..., Array]:
    def on_arrays(*arrays: Array) -> Array:
        return function(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)).numpy()

    return on_arrays


def _by_element(function: Callable[..., float]) -> Callable[..., Array]:
    return np.vectorize(function, otypes=[np.float64])


def _gamma(x: float) -> float:
    if x == 0.0:
        return math.copysign(math.inf, x)
    try:
        return math.gamma(x)
    except OverflowError:
        return math.inf
    except ValueError:  # poles, and -inf
        return math.nan


def _ieee_remainder(x: float, y: float) -> float:
    if math.isnan(x) or math.isnan(y) or math.isinf(x) or y == 0.0:
        return math.nan
    return math.remainder(x, y)


def _round_half_away(x: Array) -> Array:
    whole = np.trunc(x)
    return np.copysign(np.where(np.abs(x - whole) >= 0.5, np.abs(whole) + 1, np.abs(whole)), x)


# fp64 in, fp64 out; fp32 operands are widened before and the result is rounded after.
WIDE: dict[str, Callable[..., Array]] = {
    "abs": np.abs,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "atanh": np.arctanh,
    "cbrt": np.cbrt,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "cyl_bessel_i0": _by_torch(torch.special.i0),
    "cyl_bessel_i1": _by_torch(torch.special.i1),
    "div_rn": np.divide,  # one rounding of an fp64 quotient or root of fp32 values is the correct one
    "erf": _by_torch(torch.erf),
    "erfc": _by_torch(torch.erfc),
    "erfcx": _by_torch(torch.special.erfcx),
    "erfinv": _by_torch(torch.erfinv),
    "exp": np.exp,
    "exp10": lambda x: np.power(10.0, x),
    "exp2": np.exp2,
    "expm1": np.expm1,
    "fdim": lambda x, y: np.where(np.isnan(x) | np.isnan(y), np.nan, np.maximum(x - y, 0.0)),
    "floor": np.floor,
    "fmod": np.fmod,
    "hypot": np.hypot,
    "j0": _by_torch(torch.special.bessel_j0),
    "j1": _by_torch(torch.special.bessel_j1),
    "lgamma": _by_torch(torch.lgamma),
    "log": np.log,
    "log10": np.log10,
    "log1p": np.log1p,
    "log2": np.log2,
    "nearbyint": np.rint,
    "normcdf": _by_torch(torch.special.ndtr),
    "normcdfinv": _by_torch(torch.special.ndtri),
    "pow": np.power,
    "rcp_rn": np.reciprocal,
    "remainder": _by_element(_ieee_remainder),
    "rint": np.rint,
    "round": _round_half_away,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "rsqrt_rn": lambda x: 1.0 / np.sqrt(x),
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "sqrt_rn": np.sqrt,
    "tan": np.tan,
    "tanh": np.tanh,
    "tgamma": _by_element(_gamma),
    "trunc": np.trunc,
    "y0": _by_torch(torch.special.bessel_y0),
    "y1": _by_torch(torch.special.bessel_y1),
}


def fused_multiply_add(x: Array, y: Array, z: Array) -> Array:
    """x y + z with one rounding, in the dtype of the operands (fp16, fp32 or fp64)."""
    x, y, z = np.broadcast_arrays(x, y, z)
    if x.dtype == np.float64:
        return np.vectorize(_fma64, otypes=[np.float64])(x, y, z)
    # The product of two fp32 values is exact in fp64. The sum is not, so it is rounded to odd: rounding that to fp32
    # equals rounding the exact sum (S. Boldo and G. Melquiond, "Emulation of FMA and correctly rounded sums").
    product, addend = x.astype(np.float64) * y.astype(np.float64), z.astype(np.float64)
    total = product + addend
    shadow = total - product
    error = (product - (total - shadow)) + (addend - shadow)
    even = (np.ascontiguousarray(total).view(np.int64) & 1) == 0
    inexact = np.isfinite(error) & (error != 0) & even
    return np.where(inexact, np.nextafter(total, np.copysign(np.inf, error)), total).astype(x.dtype)


def _fma64(x: float, y: float, z: float) -> float:
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
        return x * y + z
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    if exact == 0:
        return x * y + z  # the sign of a zero
    try:
        return float(exact)
    except OverflowError:
        return math.copysign(math.inf, exact)


# In the dtype of the operands.
NATIVE: dict[str, Callable[..., Array]] = {
    "copysign": np.copysign,
    "fma": fused_multiply_add,
    "fma_rn": fused_multiply_add,
    "add_rn": np.add,
    "sub_rn": np.subtract,
    "mul_rn": np.multiply,
    "nextafter": np.nextafter,
}
# To int32, as libdevice has it.
PREDICATES: dict[str, Callable[[Array], Array]] = {
    "isnan": np.isnan,
    "isinf": np.isinf,
    "signbit": np.signbit,
}
# A floating first operand, an int32 second.
WITH_INTEGER: dict[str, Callable[[Array, Array], Array]] = {
    "ldexp": np.ldexp,
    "scalbn": np.ldexp,
    "pow": lambda x, n: np.power(x, n.astype(np.float64)),
}
_FLOATS = (tl.float32, tl.float64)


def replacements() -> dict[str, Callable[..., Any]]:
    """A function for every name in `libdevice`; those not supplied raise when called."""
    names = [n for n, f in vars(libdevice).items() if callable(f) and not n.startswith("_")]
    return {name: _replacement(name) for name in names}


def _replacement(name: str) -> Callable[..., tl.tensor]:
    def call(*arguments: Any, _semantic: Any = None) -> tl.tensor:
        operands = [_operand(a) for a in arguments]
        types = tuple(o.dtype.scalar for o in operands)
        arrays = [o.handle.data for o in operands]
        if len(set(types)) == 1 and types[0] in _FLOATS:
            if name in PREDICATES:
                return _wrap(PREDICATES[name](arrays[0]).astype(np.int32), tl.int32, operands)
            if name in NATIVE:
                return _wrap(NATIVE[name](*arrays), types[0], operands)
            if name in WIDE:
                wide = WIDE[name](*(a.astype(np.float64) for a in arrays))
                return _wrap(wide.astype(arrays[0].dtype), types[0], operands)
        if types[0] in _FLOATS and types[1:] == (tl.int32,) and name in WITH_INTEGER:
            wide = WITH_INTEGER[name](arrays[0].astype(np.float64), arrays[1])
            return _wrap(wide.astype(arrays[0].dtype), types[0], operands)
        shown = ", ".join(str(t) for t in types)
        raise TypeError(f"libdevice.{name}({shown}) is not available")

    call.__name__ = name
    return call


def _operand(value: Any) -> tl.tensor:
    """A tensor as it is; a Python number as libdevice takes it: int32, or fp32 whatever stands beside it."""
    if isinstance(value, tl.tensor):
        return value
    value = value.value if isinstance(value, tl.constexpr) else value
    dtype = tl.float32 if isinstance(value, float) else tl.int32
    data = np.array([value], dtype=np.float32 if dtype == tl.float32 else np.int32)
    return tl.tensor(stock.TensorHandle(data, dtype), dtype)


def _wrap(data: Array, dtype: tl.dtype, operands: list[tl.tensor]) -> tl.tensor:
    handle = stock.TensorHandle(data, dtype)
    if not any(o.type.is_block() for o in operands):
        return tl.tensor(handle, dtype)
    return tl.tensor(handle, tl.block_type(dtype, list(data.shape)))
