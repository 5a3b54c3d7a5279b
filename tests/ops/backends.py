"""What runs an operation of the table in these tests: one entry per way tgc computes it.

Backends are added here; every test of the table then covers them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgc.calculus.terms import OPERANDS, expansion, run, run_op
from tgc.ir.expressions import parse
from tgc.ir.ops import OPS

Array = NDArray[Any]


@dataclass(frozen=True)
class Backend:
    """`run(op, operands)` for the operations that `covers(op)` accepts."""

    covers: Callable[[str], bool]
    run: Callable[[str, tuple[Array, ...]], Array]


def by_table(op: str, operands: tuple[Array, ...]) -> Array:
    """The numpy function the table names, or the expansion."""
    return run_op(op, operands, operands[-1].dtype)


def by_expansion(op: str, operands: tuple[Array, ...]) -> Array:
    """The expansion, also where numpy has the operation itself: other backends have not."""
    text = expansion(OPS[op], operands[-1].dtype)
    assert text is not None
    return np.asarray(run(parse(text), dict(zip(OPERANDS, operands))))


def _expanded_elsewhere(op: str) -> bool:
    return OPS[op].expansion is not None and OPS[op].numpy is not None


BACKENDS: dict[str, Backend] = {
    "table": Backend(lambda op: op not in ("cast", "where"), by_table),
    "expansion": Backend(_expanded_elsewhere, by_expansion),
}
