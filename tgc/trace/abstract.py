"""What the compiler knows of one argument: its type, its shape in symbols, where it came from.

An argument is a torch tensor, a numpy array or scalar, a Python number, or an `ArraySpec`, which stands for an array
that does not exist (so that a function can be lowered without data or devices). torch is looked for among the loaded
modules and never imported.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from tgc.errors import DTypeError, Line, ShapeError, UnsupportedOpError
from tgc.ir import dtypes
from tgc.ir.dtypes import BY_NAME, DType
from tgc.ir.sizes import Dim

# A spec's symbols get extents of their own, for choices that ask for one; multiples of 16 as real sizes mostly are.
SPEC_HINT = 4096


@dataclass(frozen=True)
class Abstract:
    """One graph input.

    Attributes:
        name: the user's parameter name; leaves of a tree are called `params_w`, `x_0`. A unique identifier.
        dtype: element type; float64, int64 or bool for Python numbers.
        shape: integers (0, 1 and what a spec or an assumption fixed) and sizes in symbols. A symbol is at least 2.
            Every integer and every repeated symbol is a guard; `tgc.trace.guards.bind` checks them.
        container: "torch", "numpy", "scalar" (a Python number: weakly typed) or "spec".
        requires_grad: whether torch wants a gradient of it.
        device: as torch spells it; "cpu" for all else.
    """

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    container: str
    requires_grad: bool = False
    device: str = "cpu"


class ArraySpec:
    """The type of an array: see `spec`."""

    __slots__ = ("dims", "dtype")

    def __init__(self, dtype: DType, dims: tuple[int | str, ...]) -> None:
        self.dtype, self.dims = dtype, dims

    @property
    def shape(self) -> tuple[int | str, ...]:
        return self.dims

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArraySpec) and (other.dtype, other.dims) == (self.dtype, self.dims)

    def __hash__(self) -> int:
        return hash((self.dtype, self.dims))

    def __repr__(self) -> str:
        return f'spec("{self.dtype.short}[{",".join(map(str, self.dims))}]")'


_SPEC = re.compile(r"\s*(\w+)\s*\[(.*)\]\s*")


def spec(text: str) -> ArraySpec:
    """The type of an array, for lowering without one: `spec("bf16[4096,n]")`.

    Integers are fixed extents, names are symbols (the same name is the same extent, two at least), `f32[]` is 0-d. A
    symbol may come with a typical extent, `f32[n=1000000]`, by which choices are made that sizes decide.

    Raises:
        DTypeError: the element type is unknown.
        ShapeError: the text is no type, or an extent is neither an integer nor a name.
    """
    found = _SPEC.fullmatch(text)
    if found is None:
        raise ShapeError(f'"{text}" is no array type', hint='write tgc.spec("f32[64,n]")')
    name, inside = found.groups()
    if name not in BY_NAME:
        known = ", ".join(d.short for d in dtypes.DTYPES)
        raise DTypeError(f'"{name}" is no element type', hint=f"one of: {known}")
    parts = [part.strip() for part in inside.split(",")] if inside.strip() else []
    if parts and not parts[-1]:
        parts.pop()  # a trailing comma, as in a tuple
    return ArraySpec(BY_NAME[name], tuple(_extent(part, text) for part in parts))


def _extent(part: str, text: str) -> int | str:
    if part.isdecimal():
        return int(part)
    name, _, typical = part.partition("=")
    if name.isidentifier() and (typical.isdecimal() or part == name):
        return part
    raise ShapeError(f'extent "{part}" of "{text}" is neither an integer >= 0 nor a name')


def loaded_torch() -> Any:
    """The torch module if the program imported it, else None."""
    return sys.modules.get("torch")


def is_torch(value: object) -> bool:
    """Whether a value is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def container_of(value: object) -> str | None:
    """The `container` of an argument that becomes an input; None for what is static.

    Static are bools, strings, None, functions, dtypes: they belong to the key of a compiled function.
    """
    if isinstance(value, np.ndarray | np.generic):
        return "numpy"
    if type(value) in (float, int):
        return "scalar"
    if isinstance(value, ArraySpec):
        return "spec"
    return "torch" if is_torch(value) else None


_TORCH_DTYPES: dict[Any, DType] = {}


def dtype_of(value: Any, name: str = "the argument", line: Line | None = None) -> DType:
    """The element type of a tensor, array, number or spec.

    Raises:
        DTypeError: tgc has no such type (complex, object, ...).
    """
    if isinstance(value, ArraySpec):
        return value.dtype
    if isinstance(value, bool | int | float):
        return python_dtype(value)
    found = to_dtype(value.dtype)
    if found is None:
        raise DTypeError(
            f"{name} has element type {value.dtype}, which tgc does not compile",
            line=line,
            hint="float64, float32, float16, bfloat16, int8 to int64, uint8 and bool are; split complex numbers in two",
        )
    return found


def to_dtype(dtype: Any) -> DType | None:
    """The DType of a torch dtype, numpy dtype, Python type, DType or name; None where there is none."""
    if isinstance(dtype, DType):
        return dtype
    if isinstance(dtype, str) and dtype in BY_NAME:
        return BY_NAME[dtype]
    found = _TORCH_DTYPES.get(dtype)
    if found is not None:
        return found
    text = str(dtype)
    if text.startswith("torch."):
        found = BY_NAME.get(text[6:])
        if found is not None:
            _TORCH_DTYPES[dtype] = found
        return found
    try:
        return BY_NAME.get(np.dtype(dtype).name)
    except TypeError:
        return None


def python_dtype(value: bool | int | float) -> DType:
    """The type of a Python number."""
    if isinstance(value, bool):
        return dtypes.bool_
    return dtypes.int64 if isinstance(value, int) else dtypes.float64


def extents_of(value: Any) -> tuple[int | str, ...]:
    """The extents of an argument; names for the symbols of a spec."""
    if isinstance(value, ArraySpec):
        return value.dims
    return () if isinstance(value, bool | int | float) else tuple(value.shape)


def device_of(value: Any) -> str:
    """The device of an argument, as torch spells it."""
    return str(value.device) if is_torch(value) else "cpu"


def check_layout(value: Any, name: str, line: Line | None = None) -> None:
    """Raise UnsupportedOpError for tensors that are no dense arrays."""
    torch = loaded_torch()
    if torch is not None and isinstance(value, torch.Tensor) and value.layout is not torch.strided:
        raise UnsupportedOpError(
            f"{name} is a {str(value.layout)[6:]} tensor", line=line, hint="pass x.to_dense()"
        )
