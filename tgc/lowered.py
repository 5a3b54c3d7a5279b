"""What a function becomes, to be looked at: its graph, its kernels, its source, its cost.

Lowering needs no data and no device: arguments may be `tgc.spec`s, and a target may be a GPU that is not there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tgc.errors import BackendError
from tgc.ir.nodes import Graph, Leaf
from tgc.ir.sizes import evaluate
from tgc.kernel.ir import Kernel, Plan
from tgc.pipeline import Pipeline, emit, or_numpy, target_named, wanted
from tgc.report.cost import Cost, cost_of, ideal_bytes
from tgc.schedule.save import Saved
from tgc.schedule.target import Target
from tgc.simplify.rewriter import Rewrite


@dataclass(frozen=True)
class KernelView:
    """One kernel of a lowered function.

    Attributes:
        name: of the emitted function.
        source: its text.
        reads, writes: bytes per buffer at the sizes at hand.
        flops: scalar operations at the sizes at hand.
        launch: "numpy", or the grid and options of the launch.
        kernel: its kernel IR.
    """

    name: str
    source: str
    reads: Mapping[str, int]
    writes: Mapping[str, int]
    flops: int
    launch: str
    kernel: Kernel


@dataclass(frozen=True, eq=False)
class Lowered:
    """A function lowered for a target: one host function, or with `grad=True` a forward and a backward.

    Attributes:
        graph: the traced graph; prints as runnable Python with shapes and the user's lines.
        target: what it was lowered for.
        plans: the host functions.
        sizes: the extent of each size symbol the numbers below are for.
        saved: what the backward reads of the forward, and why.
        rewrites: what simplification changed.
        note: why another engine than the one asked for serves it.
    """

    graph: Graph
    target: Target
    plans: tuple[Plan, ...]
    sizes: Mapping[str, int]
    saved: tuple[Saved, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    note: str = ""

    @cached_property
    def source(self) -> str:
        """The whole emitted file."""
        return emit(self.plans, self.target)

    @property
    def script(self) -> str:
        """The same file with a part that runs each function once on random arguments of the example sizes."""
        from tgc.codegen.script import script

        return self.source + script(self.plans, self.sizes, self.target.backend)

    @cached_property
    def kernels(self) -> tuple[KernelView, ...]:
        """Every kernel, in the order of the launches."""
        return tuple(self._view(plan, k) for plan in self.plans for k in plan.kernels)

    @property
    def forward(self) -> Lowered:
        """The forward of the training pair (the function itself, without `grad=True`)."""
        return replace(self, plans=self.plans[:1], rewrites=())

    @property
    def backward(self) -> Lowered:
        """The backward of the training pair.

        Raises:
            BackendError: it was lowered without `grad=True`.
        """
        if len(self.plans) < 2:
            raise BackendError("there is no backward", hint="lower(..., grad=True)")
        return replace(self, plans=self.plans[1:], saved=(), rewrites=())

    def cost(self) -> Cost:
        """Predicted cost, forward and backward together."""
        costs = [cost_of(plan, self.sizes) for plan in self.plans]
        costs[0] = cost_of(self.plans[0], self.sizes, self.saved_bytes)
        return sum(costs[1:], costs[0])

    @property
    def saved_bytes(self) -> int:
        """What the forward keeps beyond inputs and outputs."""
        return sum(evaluate(s.bytes, self.sizes) for s in self.saved if s.kind == "value")

    @property
    def ideal_bytes(self) -> int:
        """What would move if every input were read once and every output written once."""
        return ideal_bytes(self.plans, self.sizes)

    def asm(self, kind: str) -> str:
        """The assembly of all kernels.

        Args:
            kind: "ttir", "ttgir", "llir", "ptx", "sass" or "amdgcn" for a GPU; "llvm" or "asm" for the native engine.

        Raises:
            BackendError: the target has no such stage, or Triton or llvmlite is not installed.
        """
        if self.target.backend == "native":
            code = self._module.code
            texts = {"llvm": lambda: code.text, "asm": lambda: code.assembly()}
            if kind not in texts:
                raise BackendError(f"the native engine has no {kind!r}", hint='"llvm" or "asm"')
            return str(texts[kind]())
        return "\n".join(binary.asm(kind) for binary in self._binaries.values())

    def resources(self) -> dict[str, Any]:
        """Per kernel: registers, spilled bytes, shared memory, warps."""
        return {name: binary.resources() for name, binary in self._binaries.items()}

    def __str__(self) -> str:
        return self.source

    @cached_property
    def _module(self) -> Any:
        from tgc.runtime.build import module_of
        from tgc.runtime.cache import cache, key_of

        entry = cache().store(key_of("lowered", self.source), self.source, {"guards": []})
        return module_of(entry)

    @cached_property
    def _binaries(self) -> dict[str, Any]:
        if self.target.backend != "triton":
            raise BackendError(
                f"the {self.target.backend} backend has no assembly",
                hint='lower(..., target="sm_90") compiles for a GPU without one',
            )
        from tgc.codegen.triton import launches
        from tgc.runtime.offline import compile_kernel

        module, found = self._module, {}
        for plan in self.plans:
            for launch in launches(plan, self.sizes):
                found[launch.kernel_name] = compile_kernel(
                    getattr(module, launch.kernel_name),
                    launch.signature,
                    target=self.target.name,
                    constexprs=launch.constexprs,
                    aligned=launch.divisible_by_16,
                    num_warps=launch.num_warps,
                    num_stages=launch.num_stages,
                )
        return found

    def _view(self, plan: Plan, kernel: Kernel) -> KernelView:
        from tgc.kernel.traffic import traffic

        moved = traffic(kernel)
        return KernelView(
            kernel.name,
            _excerpt(self.source, kernel.name),
            {name: evaluate(amount, self.sizes) for name, amount in moved.reads.items()},
            {name: evaluate(amount, self.sizes) for name, amount in moved.writes.items()},
            evaluate(moved.flops, self.sizes),
            self._launch(plan, kernel),
            kernel,
        )

    def _launch(self, plan: Plan, kernel: Kernel) -> str:
        if self.target.backend != "triton":
            return self.target.backend
        from tgc.codegen.triton import launches

        return str(next(x for x in launches(plan, self.sizes) if x.kernel_name == kernel.name))


def _excerpt(source: str, name: str) -> str:
    """The definition of one function in a module, with its decorators and the comments above it."""
    native = re.search(
        rf"(^; .*\n)*^define (void|i64) @{re.escape(name)}\(.*?^}}$", source, re.M | re.S
    )
    if native is not None:
        return native[0] + "\n"
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
            while first and lines[first - 1].startswith("#"):
                first -= 1
            return "\n".join(lines[first : node.end_lineno]) + "\n"
    return source


def lower_graph(
    pipeline: Pipeline,
    graph: Graph,
    target: str,
    sizes: Mapping[str, int],
    *,
    grad: bool,
    numbers: tuple[str, ...] = (),
    wrt: tuple[int, ...] | None = None,
) -> Lowered:
    """Lower a traced graph; with `grad`, the training pair with respect to the inputs `wrt` (default: all it can)."""
    chosen = wanted(graph, tuple(range(len(graph.inputs))) if wrt is None else wrt)
    named = tuple(i for i in chosen if _name(graph.inputs[i]) not in numbers)

    def make(where: Target) -> Lowered:
        log: list[Rewrite] = []
        logged = replace(pipeline, log=log)
        if not grad:
            plan = logged.plan(graph, where, sizes, numbers)
            made = Lowered(graph, where, (plan,), sizes, rewrites=tuple(log))
        else:
            pair = logged.plan_pair(graph, named, where, sizes, numbers)
            plans = (pair.forward, pair.backward)
            made = Lowered(graph, where, plans, sizes, pair.saved, tuple(log))
        if where.backend == "native":
            _ = made.source  # only emitting it shows whether the engine can do it
        return made

    found, note = or_numpy(make, target_named(target))
    return replace(found, note=note) if note else found


def _name(leaf: Leaf) -> str:
    return leaf.source.name  # type: ignore[union-attr]
