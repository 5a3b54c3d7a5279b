"""Emitted Triton modules as real files, imported; called on numpy arrays through the interpreter."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tests.support.triton_interpreter import Trace, interpreting
from tgc.codegen.triton import emit, launches
from tgc.kernel.ir import Plan
from tgc.runtime.offline import Binary, compile_kernel

_numbers = itertools.count()


def load(plans: Sequence[Plan], folder: Path) -> ModuleType:
    """The module of some plans, from a file in `folder`."""
    return load_text(emit(plans), folder)


def load_text(source: str, folder: Path) -> ModuleType:
    """A module from its text; Triton reads the file again when it compiles."""
    name = f"emitted_{next(_numbers)}"
    path = folder / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def to_torch(value: Any) -> Any:
    """A tensor with the bits of a numpy array, bfloat16 included; numbers as they are."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(value)


def call(module: ModuleType, plan: Plan, inputs: Sequence[Any]) -> tuple[list[Any], Trace]:
    """Run a host function with every allocation poisoned by NaN (or the largest integer); outputs and accesses."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # makes torch.empty fill what it allocates
    try:
        with interpreting() as trace:
            outputs = getattr(module, plan.name)(*map(to_torch, inputs))
    finally:
        torch.use_deterministic_algorithms(before)
    return list(outputs), trace


def compile_plan(
    plan: Plan, folder: Path, sizes: Mapping[str, int], target: str = "sm_90"
) -> list[Binary]:
    """Every kernel of a plan compiled for a GPU that is not there, as its host function would launch it."""
    module = load([plan], folder)
    return [
        compile_kernel(
            getattr(module, launch.kernel_name),
            launch.signature,
            target=target,
            constexprs=launch.constexprs,
            aligned=launch.divisible_by_16,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
        for launch in launches(plan, sizes)
    ]
