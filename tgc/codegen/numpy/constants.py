"""Constants as zero-dimensional arrays, made once: numpy converts a Python number on every call."""

from __future__ import annotations

import math
import re

from tgc.codegen.naming import Names, cited
from tgc.errors import Line
from tgc.ir import dtypes
from tgc.ir.dtypes import DType
from tgc.ir.sizes import Size
from tgc.kernel.ir import Const

# From here on a number rounds to infinity: half a unit in the last place above the largest finite one.
OVERFLOW = {
    "float32": (2 - 2.0**-24) * 2.0**127,
    "bfloat16": (2 - 2.0**-8) * 2.0**127,
    "float16": (2 - 2.0**-11) * 2.0**15,
}


def dtype_text(dtype: DType) -> str:
    """The dtype in emitted code."""
    special = {"bfloat16": "bfloat16", "bool": "np.bool_"}
    return special.get(dtype.name, f"np.{dtype.name}")


def number_text(value: bool | int | float, dtype: DType) -> str:
    """A number as Python reads it back, exactly."""
    if not dtype.is_float:
        return repr(bool(value)) if dtype is dtypes.bool_ else repr(int(value))
    value = float(value)
    if math.isnan(value):
        return "np.nan"
    if abs(value) >= OVERFLOW.get(dtype.name, math.inf):
        value = math.copysign(math.inf, value)  # numpy would warn of the conversion
    if math.isinf(value):
        return "np.inf" if value > 0 else "-np.inf"
    return repr(value)


class Constants:
    """The constants of a module, named after their values: `c_0_5 = np.array(0.5, np.float32)`."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._known: dict[tuple[str, str], str] = {}
        self.lines: list[str] = []

    def name(self, const: Const) -> str:
        """The module-level name of a constant that is not a size."""
        assert not isinstance(const.value, Size)
        text = number_text(const.value, const.dtype)
        key = (text, const.dtype.name)
        if key not in self._known:
            made = self._names.new(_constant_name(const.value, const.dtype))
            self._known[key] = made
            self.lines.append(f"{made} = np.array({text}, {dtype_text(const.dtype)})")
        return self._known[key]

    def line(self, line: Line | None) -> str:
        """The module-level name of the text of a line of the user's source, for messages."""
        text = cited(line)
        if (text, "") not in self._known:
            made = self._names.new(f"line_{line.number}" if line is not None else "line")
            self._known[text, ""] = made
            self.lines.append(f"{made} = {text!r}")
        return self._known[text, ""]


def _constant_name(value: bool | int | float, dtype: DType) -> str:
    if dtype is dtypes.bool_:
        return "TRUE" if value else "FALSE"
    if dtype.is_float and math.isnan(value):
        text = "nan"
    elif dtype.is_float and math.isinf(value):
        text = "inf"
    else:
        text = f"{abs(value):.6g}" if dtype.is_float else str(abs(value))
    negative = value < 0 or (dtype.is_float and math.copysign(1.0, value) < 0)
    text = re.sub(r"\W", "_", text.replace("e-", "em").replace("+", ""))
    suffix = "" if dtype is dtypes.float32 else f"_{dtype.short}"
    return f"c_{'m' if negative else ''}{text}{suffix}"
