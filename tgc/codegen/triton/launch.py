"""How the kernels of a plan are launched: one description, printed by the host code and evaluated by `launches`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tgc.codegen.triton.expressions import signature_type
from tgc.codegen.triton.parameters import Parameters, passed_type
from tgc.codegen.triton.prelude import lanes, warps
from tgc.ir.sizes import evaluate
from tgc.kernel.ir import Guard, Kernel, Plan

NUM_STAGES = 3
"""Triton's default, which the host code leaves as it is."""


@dataclass(frozen=True)
class KernelLaunch:
    """One launch at given sizes, in the words of `tgc.runtime.offline.compile_kernel`.

    Attributes:
        signature: type of each runtime argument, as Triton spells it.
        constexprs: value of each constexpr parameter, and of sizes that are 1 (Triton makes constants of those).
        divisible_by_16: arguments that are: pointers (16-byte aligned, as every torch allocation is) and sizes.
        grid: number of programs; 0 is not launched.
    """

    kernel_name: str
    signature: Mapping[str, str]
    constexprs: Mapping[str, int]
    divisible_by_16: tuple[str, ...]
    num_warps: int
    num_stages: int
    grid: int


@dataclass(frozen=True)
class Launch:
    """A launch with symbolic sizes."""

    kernel: Kernel
    guards: tuple[Guard, ...] = ()

    @cached_property
    def parameters(self) -> Parameters:
        return Parameters(self.kernel, self.guards)

    @property
    def pointers(self) -> dict[str, str]:
        """Parameter name and type of each buffer."""
        found = {}
        for buffer in self.parameters.buffers:
            kind = "" if buffer.role == "scalar" else "*"
            passed = passed_type(buffer) if buffer.role == "scalar" else buffer.dtype
            found[self.parameters.pointers[buffer.name]] = kind + signature_type(passed)
        return found

    def at(self, sizes: Mapping[str, int]) -> KernelLaunch:
        """This launch where the size symbols have these values."""
        values = {name: evaluate(size, sizes) for name, size in self.parameters.sizes}
        blocks = {
            g.block_name: lanes(evaluate(g.axis.extent, sizes))
            if g.block is None
            else evaluate(g.block, sizes)
            for g in self.parameters.blocks
        }
        pointers = self.pointers
        integers = {n: "i64" if v >= 2**31 else "i32" for n, v in values.items() if v != 1}
        aligned = [n for n, kind in pointers.items() if kind.startswith("*")]
        aligned += [n for n, v in values.items() if v % 16 == 0]
        return KernelLaunch(
            self.kernel.name,
            pointers | integers,
            blocks | {n: v for n, v in values.items() if v == 1},
            tuple(aligned),
            warps(math.prod(blocks.values())),
            NUM_STAGES,
            evaluate(self.parameters.grid, sizes),
        )


def launches(plan: Plan, sizes: Mapping[str, int]) -> tuple[KernelLaunch, ...]:
    """Every kernel launch of a plan, in order, for size symbols of these values."""
    return tuple(Launch(kernel, plan.guards).at(sizes) for kernel in plan.kernels)
