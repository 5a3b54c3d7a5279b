"""Kernel IR to Triton: `emit` makes the module, `launches` says how its kernels are launched at given sizes."""

from tgc.codegen.triton.launch import KernelLaunch, launches
from tgc.codegen.triton.module import emit
from tgc.codegen.triton.operations import primitives

PRIMITIVES = primitives()
"""The operations this backend emits itself."""

__all__ = ["PRIMITIVES", "KernelLaunch", "emit", "launches"]
