"""tgc: a tensor-graph compiler. Fused kernels and their derivatives, of any order, from plain Python functions.

Names are loaded at their first use: the decorator and the transforms from `tgc.api` and `tgc.transforms`, the
operations (`tgc.exp`, `tgc.sum`, ...) from `tgc.trace.namespace`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tgc import errors
from tgc.settings import settings

if TYPE_CHECKING:
    from tgc.api import Compiled, jit
    from tgc.lowered import Lowered
    from tgc.runtime.seeds import manual_seed
    from tgc.trace.abstract import spec
    from tgc.trace.namespace import *  # noqa: F403
    from tgc.transforms import (
        derivative,
        grad,
        hessian,
        hvp,
        jacfwd,
        jacrev,
        jvp,
        laplacian,
        value_and_grad,
        vjp,
    )

_HOMES = {
    "Compiled": "tgc.api",
    "jit": "tgc.api",
    "Lowered": "tgc.lowered",
    "spec": "tgc.trace.abstract",
    "derivative": "tgc.transforms",
    "grad": "tgc.transforms",
    "hessian": "tgc.transforms",
    "hvp": "tgc.transforms",
    "jacfwd": "tgc.transforms",
    "jacrev": "tgc.transforms",
    "jvp": "tgc.transforms",
    "manual_seed": "tgc.runtime.seeds",
    "laplacian": "tgc.transforms",
    "value_and_grad": "tgc.transforms",
    "vjp": "tgc.transforms",
}

_FOLDERS = frozenset(
    "api calculus codegen ir kernel lowered numerics pipeline report runtime schedule simplify "
    "trace transforms trees".split()
)

__all__ = [
    "Compiled",
    "Lowered",
    "derivative",
    "errors",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacrev",
    "jit",
    "jvp",
    "laplacian",
    "manual_seed",
    "settings",
    "spec",
    "value_and_grad",
    "vjp",
]


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'tgc' has no attribute {name!r}")
    if name in _FOLDERS:  # `from tgc import trees` asks here before it imports the module
        raise AttributeError(f"module 'tgc' has no attribute {name!r} yet")
    home = _HOMES.get(name)
    if home is None:
        home = "tgc.trace.namespace"
        importlib.import_module("tgc.api")  # what runs these functions outside a trace
    try:
        value = getattr(importlib.import_module(home), name)
    except AttributeError:
        raise AttributeError(f"module 'tgc' has no attribute {name!r}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    from tgc.trace import namespace

    return sorted({*__all__, *(n for n in vars(namespace) if not n.startswith("_"))})
