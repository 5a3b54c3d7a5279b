"""What a call costs when there is little to compute: a*b + c on 16 elements, and its gradient through torch autograd.

The target is under 5 µs for a call on numpy arrays, and at most 20 µs over a `torch.autograd.Function` that computes
nothing for a forward that will be differentiated.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

import tgc
from bench.measure import Candidate, Workload
from bench.report import installed

SIZE = 16


def fused(a: Any, b: Any, c: Any) -> Any:
    return a * b + c


def workloads(device: str, *, quick: bool) -> list[Workload]:
    """The suite; `quick` changes nothing, since the arrays are small anyway."""
    found = []
    if device == "cpu":
        found.append(Workload(f"a*b + c, {SIZE} elements, numpy", on_arrays))
    if installed("torch"):
        for name, build in (
            ("values", on_tensors),
            ("with a graph", with_graph),
            ("and its gradient", with_gradient),
        ):
            found.append(
                Workload(f"a*b + c, {SIZE} elements, torch, {name}", lambda b=build: b(device))
            )
    return found


def same(name: str, run: Any) -> Candidate:
    return Candidate(name, run, run)


def on_arrays() -> Sequence[Candidate]:
    compiled = tgc.jit(fused)
    a, b, c = np.random.default_rng(0).random((3, SIZE))
    return [same("numpy", lambda: fused(a, b, c)), same("tgc, numpy", lambda: compiled(a, b, c))]


def tensors(device: str, *, requires_grad: bool) -> Any:
    torch = importlib.import_module("torch")
    values = np.random.default_rng(0).random((3, SIZE))
    return [torch.tensor(v, device=device, requires_grad=requires_grad) for v in values]


def on_tensors(device: str) -> Sequence[Candidate]:
    compiled = tgc.jit(fused)
    a, b, c = tensors(device, requires_grad=False)
    return [same("torch", lambda: fused(a, b, c)), same("tgc, torch", lambda: compiled(a, b, c))]


def empty_function() -> Any:
    """An autograd.Function with the arguments of `fused` whose kernel is torch's own."""
    torch = importlib.import_module("torch")

    class Empty(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: Any, b: Any, c: Any) -> Any:
            ctx.save_for_backward(a, b)
            return a * b + c

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            a, b = ctx.saved_tensors
            return g * b, g * a, g

    return Empty.apply


def with_graph(device: str) -> Sequence[Candidate]:
    compiled, empty = tgc.jit(fused), empty_function()
    a, b, c = tensors(device, requires_grad=True)
    return [
        Candidate(name, lambda f=f: f(a, b, c), lambda f=f: f(a, b, c).detach())
        for name, f in (
            ("torch", fused),
            ("torch, autograd.Function", empty),
            ("tgc, torch", compiled),
        )
    ]


def with_gradient(device: str) -> Sequence[Candidate]:
    torch = importlib.import_module("torch")
    compiled, empty = tgc.jit(fused), empty_function()
    inputs = tensors(device, requires_grad=True)
    ones = torch.ones(SIZE, dtype=torch.float64, device=device)

    def both(function: Any) -> Any:
        return lambda: torch.autograd.grad(function(*inputs), inputs, ones)[0]

    return [
        same("torch", both(fused)),
        same("torch, autograd.Function", both(empty)),
        same("tgc, torch", both(compiled)),
    ]
