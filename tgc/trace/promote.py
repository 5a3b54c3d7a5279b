"""Result types of operations: torch's rules and numpy's.

torch ranks operands: arrays with dimensions before 0-d arrays before Python numbers; a lower rank changes the result
only where it is of a higher kind (bool < int < float). numpy 2 ranks only Python numbers below all arrays.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tgc.ir import dtypes
from tgc.ir.dtypes import BY_NAME, DType, promote
from tgc.trace.abstract import loaded_torch, to_dtype

_KINDS = {"bool": 0, "uint": 1, "int": 1, "float": 2}
WEAK, ZERO_D, ARRAY = 0, 1, 2


def default_float(container: str) -> DType:
    """The type of a float that nothing else decides."""
    if container in ("numpy", "scalar"):
        return dtypes.float64
    torch = loaded_torch()
    found = to_dtype(torch.get_default_dtype()) if torch is not None else None
    return found or dtypes.float32


def result_dtype(operands: Iterable[tuple[DType, int]], container: str) -> DType:
    """The common type of operands, each a type and a rank (WEAK, ZERO_D or ARRAY)."""
    if container == "scalar":
        return max((d for d, _ in operands), key=lambda d: _KINDS[d.kind])
    if container == "numpy":
        return _numpy_result(list(operands))
    best: list[DType | None] = [None, None, None]
    for dtype, rank in operands:
        if rank == WEAK and dtype.is_float:
            dtype = default_float(container)
        held = best[rank]
        best[rank] = dtype if held is None else promote(held, dtype)
    lower: DType | None = None
    for dtype_or_none in best:
        lower = _combine(dtype_or_none, lower)
    assert lower is not None
    return lower


def _combine(higher: DType | None, lower: DType | None) -> DType | None:
    if higher is None or lower is None:
        return higher or lower
    return promote(higher, lower) if _KINDS[lower.kind] > _KINDS[higher.kind] else higher


def _numpy_result(operands: list[tuple[DType, int]]) -> DType:
    strong = [d for d, rank in operands if rank != WEAK]
    if not strong:
        return max((d for d, _ in operands), key=lambda d: _KINDS[d.kind])
    result = strong[0]
    for dtype in strong[1:]:
        result = numpy_promote(result, dtype)
    for dtype, rank in operands:
        if rank == WEAK and _KINDS[dtype.kind] > _KINDS[result.kind]:
            result = numpy_promote(result, dtype) if dtype.is_float else dtypes.int64
    return result


def numpy_promote(a: DType, b: DType) -> DType:
    """numpy's common type of two arrays; bfloat16, which numpy lacks, follows torch."""
    if a is b:
        return a
    if dtypes.bfloat16 in (a, b):
        return promote(a, b)
    return BY_NAME[np.promote_types(a.name, b.name).name]


def floating(dtype: DType, container: str) -> DType:
    """The type in which an operation defined for floats only takes an operand."""
    if dtype.is_float:
        return dtype
    if container != "numpy":
        return default_float(container)
    return {1: dtypes.float16, 2: dtypes.float32}.get(dtype.itemsize, dtypes.float64)
