"""What numpy lacks or does slowly: functions that an emitted module defines.

Operations are called as ufuncs are, the output last. The text below is what is emitted, of which FUNCTIONS holds each
function.
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import numpy as np

from tgc.codegen.numpy import draws

clip = np._core.umath.clip  # type: ignore[attr-defined]


def sign(x: Any, out: Any = None) -> Any:
    """As np.sign, which branches: in place that takes ten times as long."""
    if out is None or out.dtype != np.float32:
        return np.sign(x, out=out)
    if out.size < 2048:
        out[...] = np.sign(x)
        return out
    large, one = np.float32(2.0**100), np.float32(1)
    np.multiply(x, large, out=out)
    np.multiply(out, large, out=out)  # now the smallest denormal is more than 1 too
    return clip(out, -one, one, out=out)


def integer_power(x: Any, y: Any, out: Any = None) -> Any:
    """As np.power, which refuses negative exponents: they leave 1 and -1, and 0 of all else."""
    below = np.less(y, 0)
    if not below.any():
        return np.power(x, y, out=out)
    found = np.power(x, np.maximum(y, 0))
    unit = np.where(np.equal(x, 1), 1, np.where(np.equal(x, -1), 1 - 2 * (y & 1), 0))
    found = np.where(below, unit, found).astype(found.dtype)
    if out is None:
        return found
    out[...] = found
    return out


def chosen(condition: Any, bits: Any) -> Any:
    """What `select` goes by: bits set where the condition holds; for few elements itself."""
    if bits.size < 2048:
        return condition
    bits[...] = condition
    return np.negative(bits, bits)


def select(bits: Any, yes: Any, no: Any, out: Any) -> Any:
    """`yes`, which may be `out`, where chosen, else `no`: by branches if there are few."""
    if bits.dtype == bool:
        if out is yes:
            np.copyto(out, no, where=~bits)
        else:
            out[...] = np.where(bits, yes, no)  # in whose memory `yes` may lie
        return
    mine, no = out.view(bits.dtype), no.view(bits.dtype)
    np.bitwise_xor(yes.view(bits.dtype), no, mine)
    np.bitwise_and(mine, bits, mine)
    np.bitwise_xor(mine, no, mine)


def select_or_zero(bits: Any, yes: Any, out: Any) -> Any:
    """`yes` where chosen, else 0."""
    if bits.dtype == bool:
        return select(bits, yes, out.dtype.type(0), out)
    np.bitwise_and(yes.view(bits.dtype), bits, out.view(bits.dtype))


def sum_line(x: Any, out: Any = None, ones: Any = np.ones(4096, np.float32)) -> Any:  # noqa: B008
    """The sum of one dimension: of few elements a product with ones, which begins soonest."""
    if x.size <= ones.size and x.dtype == ones.dtype:
        return x.dot(ones[: x.size], out)
    if x.size <= ones.size or x.strides[0] != x.itemsize:
        return np.add.reduce(x, 0, None, out)
    return np.einsum("i->", x, out=out)


def sum_rows(x: Any) -> Any:
    """The sum of each row; einsum adds up a long one in a few chains, so it is given pieces."""
    rows, cols = x.shape
    if cols < 8192 or not x.flags.c_contiguous:
        return np.einsum("rc->r", x)
    whole = cols - cols % 4096
    pieces = (rows, whole // 4096, 4096)
    steps = (x.strides[0], 4096 * x.itemsize, x.itemsize)
    total = np.einsum("rpc->rp", np.ndarray(pieces, x.dtype, x, 0, steps)).sum(1)
    return total + np.einsum("rc->r", x[:, whole:]) if whole < cols else total


def fold_rows(ufunc: Any, x: Any) -> Any:
    """Fold the first axis, several short rows at once: numpy's inner loop runs along one."""
    rows, cols = x.shape
    some = 1024 // max(cols, 1)
    even = rows - rows % max(some, 1)
    if some < 2 or even < 2 * some or not x.flags.c_contiguous:
        return ufunc.reduce(x, axis=0)
    total = ufunc.reduce(x[:even].reshape(-1, some * cols), axis=0)
    total = ufunc.reduce(total.reshape(some, cols), axis=0)
    return ufunc(total, ufunc.reduce(x[even:], axis=0)) if even < rows else total


def fold_columns(ufunc: Any, x: Any) -> Any:
    """Fold the last axis and keep it; short rows by pairs, or transposed, in longer loops."""
    rows = x.shape[0]
    while 1 < x.shape[1] <= 128 and x.shape[1] % 2 == 0 and rows > 64 and x.flags.c_contiguous:
        line = x.reshape(-1)
        x = ufunc(line[::2], line[1::2]).reshape(rows, -1)
    if 1 < x.shape[1] <= 64 and rows > 64:
        return ufunc.reduce(x.T.copy(), axis=0)[:, None]
    return ufunc.reduce(x, axis=1, keepdims=True)


def check_index(index: Any, extent: Any, where: Any) -> None:
    """Without a sign, what is below zero is too large; numpy would count it from the end."""
    if index.size and index.max() >= extent:
        raise IndexError(f"an index is out of bounds for an axis of size {extent} ({where})")


@functools.cache
def _source(function: Any) -> str:
    """The function's text without its types."""
    text = inspect.getsource(function)
    text = re.sub(r"  # noqa.*", "", text)
    return re.sub(r": Any( = )?| -> (?:Any|None)(?=:)", lambda m: "=" if m[1] else "", text)


_ALL = (
    *draws.ALL,
    sign,
    integer_power,
    chosen,
    select,
    select_or_zero,
    sum_line,
    sum_rows,
    fold_rows,
    fold_columns,
    check_index,
)
FUNCTIONS = {f.__name__: f for f in _ALL}


def calls(name: str, source: str) -> bool:
    """Whether a piece of source calls a function, and not a method of that name."""
    pattern = rf"(?<![\w.]){name}\("
    return f"{name}(" in source and re.search(pattern, source) is not None


def functions_in(source: str) -> list[str]:
    """The texts of the functions a piece of source calls, those they call before them."""
    wanted = source
    found: list[str] = []
    for function in reversed(_ALL):
        if calls(function.__name__, wanted):
            found.append(_source(function))
            wanted += found[-1]
    return found[::-1]
