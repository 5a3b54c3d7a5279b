"""References of the scalar operations, the basic folds and library routines: the numpy the evaluator runs.

Most operations are a numpy ufunc, named in the table. Those without one are written here in a form that is accurate
in float64, independent of the expansions the backends use; an operation that has neither falls back to its
expansion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from tgc.errors import UnsupportedOpError
from tgc.ir.expressions import Apply, Expression, Number, Variable, parse
from tgc.ir.ops import OPS

Array: TypeAlias = npt.NDArray[Any]
Reference: TypeAlias = Callable[..., Array]


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _xlogy(x: Array, y: Array) -> Array:
    return np.where((x == 0) & ~np.isnan(y), 0.0, x * np.log(y))


def _vectorised(function: Callable[[float], float]) -> Reference:
    outer = np.frompyfunc(function, 1, 1)
    return lambda x: np.asarray(outer(x), dtype=x.dtype)


def _pow(x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        return np.power(x, y)
    inverse = np.where(x == 1, 1, np.where(x == -1, np.where(y % 2 == 0, 1, -1), 0))
    return np.where(y >= 0, np.power(x, np.maximum(y, 0)), inverse).astype(x.dtype)


def _philox(at: Array, stream: Array, seed: Array) -> Array:
    words = philox(at >> 2, stream, seed)
    return np.choose(at & 3, words).astype(np.uint32).view(np.int32)


def _normal(at: Array, stream: Array, seed: Array) -> Array:
    words = philox(at >> 2, stream, seed)
    first, second = (np.where(at & 2 == 0, words[k], words[k + 2]) for k in (0, 1))
    uniform = (first & 0x7FFFFFFF) * 2.0**-31 + 2.0**-32
    angle = (second & 0xFFFFFF) * (2 * np.pi * 2.0**-24)
    turned: Array = np.where(at & 1, np.sin(angle), np.cos(angle))
    turned *= np.sqrt(-2 * np.log(uniform))
    return turned


def _relu(x: Array) -> Array:
    return np.maximum(x, np.zeros((), x.dtype))


_WRITTEN: dict[str, Reference] = {
    "sigmoid": _sigmoid,
    "softplus": lambda x: np.logaddexp(np.zeros((), x.dtype), x),
    "erf": _vectorised(math.erf),
    "erfc": _vectorised(math.erfc),
    "fma": lambda a, b, c: a * b + c,
    "reciprocal": lambda x: 1 / x,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sign": np.sign,
    "xlogy": _xlogy,
    "relu": _relu,
    "pow": _pow,
    "stop_gradient": lambda x: x,
    "where": np.where,
    "philox": _philox,
    "normal": _normal,
}


@cache
def scalar_reference(op: str) -> Reference:
    """The numpy function that says what `op` means.

    Raises:
        UnsupportedOpError: the table gives neither a ufunc nor an expansion.
    """
    if op in _WRITTEN:
        return _WRITTEN[op]
    spec = OPS.get(op)
    if spec is not None and spec.numpy is not None:
        return cast(Reference, getattr(np, spec.numpy))
    if spec is not None and spec.expansion is not None:
        body = parse(spec.expansion)
        return lambda *args: _expanded(body, dict(zip("abc", args)))
    raise UnsupportedOpError(f"operation {op} has no reference")


def _expanded(body: Expression, operands: dict[str, Array]) -> Array:
    if isinstance(body, Variable):
        return operands[body.name]
    if isinstance(body, Number):
        return np.asarray(body.value, dtype=operands["a"].dtype)
    assert isinstance(body, Apply)
    args = [_expanded(arg, operands) for arg in body.args]
    if body.op == "cast_like":
        return args[0].astype(args[1].dtype)
    return scalar_reference(body.op)(*args)


FOLDS: dict[str, np.ufunc] = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "any": np.logical_or,
    "all": np.logical_and,
}
"""The basic monoids."""


# --- random bits ----------------------------------------------------------------------------------------------------

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(block: Array, stream: Array, seed: Array) -> list[Array]:
    """The four words of Philox 4x32-10 (Salmon et al., 2011) of each counter, as 64-bit integers.

    The counter is the low and the high half of `block`, then those of `stream`; the key those of `seed`.
    """
    block, stream, seed = (np.asarray(x).astype(np.uint64) for x in (block, stream, seed))
    zero = np.zeros_like(block)
    counter = [block & _LOW, block >> _HALF, zero + (stream & _LOW), zero + (stream >> _HALF)]
    key = [seed & _LOW, seed >> _HALF]
    for _ in range(10):
        a, b = counter[0] * np.uint64(0xD2511F53), counter[2] * np.uint64(0xCD9E8D57)
        counter = [
            (b >> _HALF) ^ counter[1] ^ key[0],
            b & _LOW,
            (a >> _HALF) ^ counter[3] ^ key[1],
            a & _LOW,
        ]
        key = [key[0] + np.uint64(0x9E3779B9) & _LOW, key[1] + np.uint64(0xBB67AE85) & _LOW]
    return [word.astype(np.int64) for word in counter]


# --- library routines -----------------------------------------------------------------------------------------------


def _sort(x: Array, *, axis: int = -1, descending: bool = False) -> Sequence[Array]:
    """Stable, NaN last (first when descending), as torch.sort."""
    if not descending:
        order = np.argsort(x, axis=axis, kind="stable")
    else:
        backward = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
        order = x.shape[axis] - 1 - np.flip(backward, axis)
    return np.take_along_axis(x, order, axis), order


CALLS: dict[str, Callable[..., Sequence[Array]]] = {
    "sort": _sort,
    "cholesky": lambda x: (np.linalg.cholesky(x),),
    "inverse": lambda x: (np.linalg.inv(x),),
    "solve": lambda a, b: (np.linalg.solve(a, b),),
}
