"""What a block costs on one thread: enough to know whether threads pay.

A thread takes over in some 10 µs, so work of less than `WORTH` nanoseconds stays where it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from tgc.codegen.naming import size_text
from tgc.ir.ops import OPS
from tgc.kernel.ir import Kernel, Load, Loop, Op, Reduce, Store
from tgc.kernel.walk import statements

WORTH = 500_000


def nanoseconds(kernel: Kernel) -> float:
    """Per element of the kernel's space: 0.1 for a simple operation, 0.45 for an exponential, 0.15 for a load."""
    everything = max(
        (len(s.axes) for s in statements(kernel.body) if not isinstance(s, Loop)), default=0
    )
    total = 0.0
    for s in statements(kernel.body):
        if isinstance(s, Op) and len(s.axes) == everything:
            total += 0.05 + 0.05 * OPS[s.op].cost
        elif isinstance(s, Reduce) and len(s.axes) + len(s.over) == everything:
            total += 0.2
        elif isinstance(s, Load | Store) and len(s.axes) == everything:
            total += 0.15
        elif isinstance(s, Loop):
            total += 0.2 * len(s.folds)
    return max(total, 0.1)


def grain_text(kernel: Kernel, steps: Mapping[str, str], sizes: Mapping[str, str]) -> str:
    """How many programs take `WORTH` together; `steps` are the blocks of the axes they are numbered along."""
    elements = round(WORTH / nanoseconds(kernel), -3)
    factors, number = [], 1
    for axis in kernel.axes:
        text = steps.get(axis.name) or size_text(axis.extent, sizes)
        if text.isdigit():
            number *= int(text)
        elif "//" not in text:  # a number of programs is small
            factors.append(text if text.isidentifier() else f"({text})")
    if not factors:
        return str(max(1, round(elements / max(1, number))))
    if number > 1:
        factors.insert(0, str(number))
    product = " * ".join(factors)
    return f"1 + {int(elements)} // " + (product if len(factors) == 1 else f"({product})")
