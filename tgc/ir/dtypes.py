"""Element types and their promotion, as torch has them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class DType:
    """An element type: `name` as torch and numpy spell it, `short` as in `tgc.spec("f32[n]")`.

    Of floats `digits` are the bits of the significand, the leading one included, and `exponents` those of the exponent.
    """

    name: str
    short: str
    itemsize: int
    kind: str  # "float", "int", "uint" or "bool"
    digits: int = field(default=0, compare=False)
    exponents: int = field(default=0, compare=False)

    def __repr__(self) -> str:
        return self.short

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_half(self) -> bool:
        return self.kind == "float" and self.itemsize == 2

    @property
    def compute(self) -> DType:
        """The type arithmetic on this type is done in: float32 for half types, itself otherwise."""
        return float32 if self.is_half else self

    @property
    def eps(self) -> float:
        """The distance from 1 to the next float."""
        return 2.0 ** (1 - self.digits)

    @property
    def tiny(self) -> float:
        """The smallest normal float."""
        return 2.0 ** (2 - (1 << self.exponents - 1))

    @property
    def largest(self) -> float:
        """The largest finite float."""
        return (2.0 - self.eps) * 2.0 ** ((1 << self.exponents - 1) - 1)


float64 = DType("float64", "f64", 8, "float", 53, 11)
float32 = DType("float32", "f32", 4, "float", 24, 8)
bfloat16 = DType("bfloat16", "bf16", 2, "float", 8, 8)
float16 = DType("float16", "f16", 2, "float", 11, 5)
int64 = DType("int64", "i64", 8, "int")
int32 = DType("int32", "i32", 4, "int")
int16 = DType("int16", "i16", 2, "int")
int8 = DType("int8", "i8", 1, "int")
uint8 = DType("uint8", "u8", 1, "uint")
bool_ = DType("bool", "bool", 1, "bool")

DTYPES = (float64, float32, bfloat16, float16, int64, int32, int16, int8, uint8, bool_)
BY_NAME: dict[str, DType] = {d.name: d for d in DTYPES} | {d.short: d for d in DTYPES}

_INT_ORDER = {"uint8": 0, "int8": 0, "int16": 1, "int32": 2, "int64": 3}


def promote(a: DType, b: DType) -> DType:
    """torch's type promotion of two tensor types of equal rank class."""
    if a is b:
        return a
    if a.is_float and b.is_float:
        if a.is_half and b.is_half:
            return float32
        return a if a.itemsize > b.itemsize else b
    if a.is_float or b.is_float:
        return a if a.is_float else b
    if a.kind == "bool" or b.kind == "bool":
        return b if a.kind == "bool" else a
    if {a.name, b.name} == {"uint8", "int8"}:
        return int16
    return a if _INT_ORDER[a.name] >= _INT_ORDER[b.name] else b
