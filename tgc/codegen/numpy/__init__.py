"""numpy source from kernel plans: readable, blocked, in need of numpy alone."""

from __future__ import annotations

from collections.abc import Sequence

from tgc.codegen.naming import Names
from tgc.codegen.numpy.constants import Constants
from tgc.codegen.numpy.host import emit_host
from tgc.codegen.numpy.kernel import emit_kernel
from tgc.ir import dtypes
from tgc.ir.ops import OPS
from tgc.kernel.ir import Kernel, Launch, Plan

PRIMITIVES = frozenset({"cast", *(spec.name for spec in OPS.values() if spec.numpy is not None)})
"""The operations this backend renders itself; all others must have been expanded."""


def emit(plans: Sequence[Plan]) -> str:
    """The source of one module with a host function per plan.

    A host function takes the plan's inputs by position, as numpy arrays, and returns a tuple of its outputs.
    Same plans, same bytes.
    """
    names = Names(["np", "as_strided", "bfloat16", *(plan.name for plan in plans)])
    constants = Constants(names)
    functions: list[str] = []
    known: list[tuple[Kernel, str]] = []
    for plan in plans:
        launched: dict[int, str] = {}
        for position, step in enumerate(plan.steps):
            if not isinstance(step, Launch):
                continue
            name = next((name for kernel, name in known if kernel == step.kernel), None)
            if name is None:
                name = names.new(step.kernel.name)
                known.append((step.kernel, name))
                functions.append(emit_kernel(step.kernel, name, constants, names))
            launched[position] = name
        functions.append(emit_host(plan, names, launched))
    body = "\n\n".join(functions)
    head = ["import numpy as np"]
    if any(b.dtype is dtypes.bfloat16 for plan in plans for b in plan.buffers):
        head.insert(0, "from ml_dtypes import bfloat16")
    if "as_strided(" in body:
        head.append("from numpy.lib.stride_tricks import as_strided")
    parts = ["\n".join(sorted(head, key=lambda line: (line.startswith("from ml"), line)))]
    if constants.lines:
        parts.append("\n".join(constants.lines))
    return "\n\n".join(parts) + "\n\n\n" + body
