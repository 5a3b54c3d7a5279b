"""Where the seeds of calls that draw random numbers come from: one new 64-bit number a call.

Calls on torch tensors take it from torch's generator of the CPU, so that `torch.manual_seed` fixes what they draw; all
others from a generator of tgc's own, which `tgc.manual_seed` fixes.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

_generators: list[np.random.Generator] = []
_ahead: list[int] = []
"""Numbers of the generator's to come, the next one last: one alone takes it longer than a small kernel takes."""
_AHEAD = 64
_looking = threading.RLock()  # a handler of signals may draw too


def manual_seed(seed: int) -> None:
    """Fix what compiled functions of numpy arrays and numbers draw from now on (for tensors: torch.manual_seed)."""
    with _looking:
        _generators[:] = [np.random.default_rng(seed)]
        _ahead.clear()


def of_numpy() -> int:
    """A new seed for a call without tensors."""
    while True:
        try:
            return _spread(_ahead.pop())
        except IndexError:
            _look_ahead()


def _look_ahead() -> None:
    with _looking:
        if not _generators:
            _generators.append(np.random.default_rng())
        if not _ahead:
            _ahead[:] = _generators[0].integers(2**61, size=_AHEAD).tolist()[::-1]


def of_torch() -> int:
    """A new seed for a call on tensors."""
    return _spread(int(sys.modules["torch"].randint(2**61, ()).item()))


def _spread(number: int) -> int:
    """An odd number of 63 bits: Triton compiles a kernel again for an argument that is short, or divisible by 16."""
    return 2**62 | 2 * number | 1
