"""The compiler, one line per stage.

    traced graph -> derive what waits -> simplify -> [derive -> simplify] -> legalize -> expand -> [contract]
    -> schedule -> emit

Each pass verifies what it made (`ir.verify.verified`); what runs between is the same for all of them: logging
(TGC_DEBUG) and dumps (TGC_DUMP). The modules of the stages are imported at their first use: a call whose kernels lie in
the cache needs none of them.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tgc.errors import BackendError, UnsupportedOpError
from tgc.ir.nodes import DERIVATIVES, Call, Graph, Node
from tgc.runtime.program import Emitted, guards_to_json
from tgc.settings import current

Names = tuple[str, ...]

if TYPE_CHECKING:
    from tgc.kernel.ir import Plan
    from tgc.schedule.save import Pair, Saved
    from tgc.schedule.target import Target
    from tgc.simplify.rewriter import Rewrite


@dataclass(frozen=True)
class Planned:
    """A training pair, scheduled.

    `keeps`, `results` and `depends` are those of `tgc.runtime.program.Pair`.
    """

    forward: Plan
    backward: Plan
    keeps: tuple[tuple[str, int], ...]
    results: tuple[int | None, ...]
    depends: tuple[bool, ...]
    saved: tuple[Saved, ...]


@dataclass(frozen=True)
class Pipeline:
    """The stages under one set of options. It is the `Compiler` the runtime knows.

    `precision` is "fused" or "eager"; `fast_math` licenses rewrites that change results in IEEE corner cases. `log`
    receives what simplification rewrote, for reports.
    """

    precision: str = "fused"
    fast_math: bool = False
    log: list[Rewrite] | None = field(default=None, compare=False)

    @property
    def options(self) -> str:
        """What a cache key must hold of this pipeline."""
        return f"{self.precision} {self.fast_math}"

    # --- graph to graph ---

    def simplify(self, graph: Graph, *, last: bool = False, in_two: bool = False) -> Graph:
        """Exact algebra and the stability rules; `last` if no derivative is taken any more, `in_two` before a split."""
        from tgc.simplify.run import simplify

        return stage(
            "simplify",
            graph,
            lambda: simplify(
                graph, fast_math=self.fast_math, last=last, in_two=in_two, log=self.log
            ),
        )

    def vjp(self, graph: Graph, wrt: tuple[int, ...]) -> Graph:
        """(inputs, cotangents) -> cotangents of the inputs `wrt`."""
        from tgc.calculus.reverse import vjp

        stable = self.simplify(graph)
        return stage("vjp", graph, lambda: vjp(stable, wrt))

    def derived(self, graph: Graph) -> Graph:
        """The graph with the derivatives that wait in it written out, simplified without options."""
        if not any(isinstance(n, Call) and n.name in DERIVATIVES for n in graph):
            return graph
        from tgc.calculus.waiting import written_out

        plain = Pipeline()
        return stage("derive", graph, lambda: written_out(graph, plain.simplify))

    def joint(self, graph: Graph, wrt: tuple[int, ...]) -> Graph:
        """(inputs, cotangents) -> (outputs, cotangents of the inputs `wrt`)."""
        from tgc.calculus.reverse import joint

        stable = self.simplify(graph)
        return stage("joint", graph, lambda: joint(stable, wrt))

    def lowered(self, graph: Graph, target: Target, *, in_two: bool = False) -> Graph:
        """The graph in the operations the backend has, with every cast written."""
        from tgc.simplify.contract import contract
        from tgc.simplify.expand import expand
        from tgc.simplify.precision import legalize
        from tgc.simplify.run import drop_stop_gradient

        plain = stage("drop_stop_gradient", graph, lambda: drop_stop_gradient(graph))
        small = self.simplify(plain, last=True, in_two=in_two)
        legal = stage("legalize", small, lambda: legalize(small, self.precision))
        whole = stage("expand", legal, lambda: expand(legal, primitives(target)))
        if not target.contracts or self.precision == "eager":
            return whole
        return stage("contract", whole, lambda: contract(whole))

    # --- graph to plans ---

    def plan(
        self, graph: Graph, target: Target, hints: Mapping[str, int], numbers: Names = ()
    ) -> Plan:
        """One host function for the outputs of a graph; `numbers` names inputs that are Python numbers."""
        return _schedule(self.lowered(graph, target), target, hints, graph.name, numbers)

    def plan_pair(
        self,
        graph: Graph,
        wrt: tuple[int, ...],
        target: Target,
        hints: Mapping[str, int],
        numbers: Names = (),
    ) -> Planned:
        """The training pair of a graph, with respect to those of the inputs `wrt` that have a derivative."""
        from tgc.schedule.save import split

        chosen = wanted(graph, wrt)
        joint = self.lowered(self.joint(graph, chosen), target, in_two=True)
        pair = split(joint, len(graph.outputs), len(graph.inputs), dict(hints))
        kept = tuple(s.name for s in pair.saved if s.kind == "value")
        first = ("out",) * len(graph.outputs) + kept
        forward = _schedule(pair.forward, target, hints, graph.name, numbers, first)
        names = tuple(f"d_{graph.inputs[i].source.name}" for i in chosen)  # type: ignore[union-attr]
        backward = _schedule(pair.backward, target, hints, f"{graph.name}_backward", numbers, names)
        return Planned(
            forward,
            backward,
            _keeps(pair, len(joint.inputs) - len(graph.inputs)),
            _results(chosen, len(graph.inputs)),
            depends(graph, chosen),
            pair.saved,
        )

    # --- graph to source ---

    def value(self, graph: Graph, target: str, hints: Mapping[str, int], numbers: Names) -> Emitted:
        """The emitted module for the outputs of a graph."""

        def make(where: Target) -> Emitted:
            plan = self.plan(graph, where, hints, numbers)
            meta = {"function": plan.name, "guards": guards_to_json(plan.guards)}
            return Emitted(emit((plan,), where), meta)

        return or_numpy(make, target_named(target))[0]

    def pair(
        self,
        graph: Graph,
        wrt: tuple[int, ...],
        target: str,
        hints: Mapping[str, int],
        numbers: Names,
    ) -> Emitted:
        """The emitted module of a training pair; it has no backward where nothing has a derivative."""

        def make(where: Target) -> Emitted:
            if not wanted(graph, wrt):
                plan = self.plan(graph, where, hints, numbers)
                return Emitted(emit((plan,), where), _constant_pair(graph, plan))
            pair = self.plan_pair(graph, wrt, where, hints, numbers)
            meta = {
                "forward": pair.forward.name,
                "backward": pair.backward.name,
                "guards": guards_to_json((*pair.forward.guards, *pair.backward.guards)),
                "keeps": pair.keeps,
                "results": pair.results,
                "depends": pair.depends,
            }
            return Emitted(emit((pair.forward, pair.backward), where), meta)

        return or_numpy(make, target_named(target))[0]


def _constant_pair(graph: Graph, plan: Plan) -> dict[str, Any]:
    return {
        "forward": plan.name,
        "backward": None,
        "guards": guards_to_json(plan.guards),
        "keeps": [],
        "results": [None] * len(graph.inputs),
        "depends": [False] * len(graph.outputs),
    }


T = TypeVar("T")


def or_numpy(make: Callable[[Target], T], target: Target) -> tuple[T, str]:
    """What `make` makes for a target; where the native engine cannot do it, for numpy, and why."""
    from tgc.schedule.target import NUMPY

    try:
        return make(target), ""
    except (BackendError, UnsupportedOpError) as error:
        if target.backend != "native":
            raise
        reason = f"the native engine cannot do it: {error.message}"
    return make(NUMPY), reason


# --- targets --------------------------------------------------------------------------------------


def target_named(name: str) -> Target:
    """The target called "numpy" or "native", or the GPU architecture of that name.

    Raises:
        BackendError: no such target.
    """
    from tgc.schedule.target import NATIVE, NUMPY, triton

    if name in ("numpy", "native"):
        return NUMPY if name == "numpy" else NATIVE
    if re.fullmatch(r"sm_\d+[af]?|gfx[0-9a-f]{3,}", name):
        return triton(name)
    raise BackendError(
        f"there is no target {name!r}", hint='"native", "numpy", "sm_90" (NVIDIA) or "gfx942" (AMD)'
    )


def primitives(target: Target) -> Any:
    """The operations a backend has itself."""
    return _backend(target).PRIMITIVES


def emit(plans: tuple[Plan, ...], target: Target) -> str:
    """The text of one module with a host function per plan."""
    start = time.perf_counter()
    source: str = _backend(target).emit(plans)
    _report("emit", plans[0].name, 4, source, time.perf_counter() - start)
    return source


def _backend(target: Target) -> Any:
    if target.backend == "numpy":
        from tgc.codegen import numpy

        return numpy
    if target.backend == "native":
        from tgc.codegen import native

        return native
    from tgc.codegen import triton

    return triton


def _schedule(
    graph: Graph,
    target: Target,
    hints: Mapping[str, int],
    name: str,
    numbers: Names,
    output_names: Names = (),
) -> Plan:
    from tgc.kernel.text import print_plan
    from tgc.kernel.verify import verify
    from tgc.schedule.run import schedule

    start = time.perf_counter()
    plan = schedule(graph, target, dict(hints), name, output_names=output_names, scalars=numbers)
    if current().verify:
        verify(plan)
    _report("schedule", name, 3, lambda: print_plan(plan), time.perf_counter() - start)
    return plan


# --- between the stages ---------------------------------------------------------------------------


def stage(name: str, before: Graph, run: Callable[[], Graph]) -> Graph:
    """Run one pass over a graph and tell those who asked."""
    start = time.perf_counter()
    after = run()
    _report(name, before.name, 2, lambda: str(after), time.perf_counter() - start)
    return after


def _report(
    step: str, name: str, level: int, text: str | Callable[[], str], seconds: float
) -> None:
    """Log a stage (from level 1 its time, from `level` its result) and dump its result."""
    settings = current()
    if not settings.debug and settings.dump is None:
        return
    shown = text if isinstance(text, str) else text()
    if settings.debug:
        print(f"tgc: {name}: {step} {seconds * 1e3:.2f} ms", file=sys.stderr)
    if settings.debug >= level:
        print(shown, file=sys.stderr)
    if settings.dump is not None:
        folder = Path(settings.dump)
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.iterdir()))
        (folder / f"{number:04}-{name}-{step}.txt").write_text(shown, encoding="utf-8")


# --- what a pair keeps ----------------------------------------------------------------------------


def _keeps(pair: Pair, cotangents: int) -> tuple[tuple[str, int], ...]:
    """The arguments of the backward: primals, outputs, values of their own, cotangents."""
    values = sum(saved.kind == "value" for saved in pair.saved)
    return (
        *(("input", i) for i in pair.primals),
        *(("output", i) for i in pair.outputs),
        *(("saved", i) for i in range(values)),
        *(("cotangent", i) for i in range(cotangents)),
    )


def _results(chosen: tuple[int, ...], inputs: int) -> tuple[int | None, ...]:
    return tuple(chosen.index(i) if i in chosen else None for i in range(inputs))


def wanted(graph: Graph, wrt: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the inputs `wrt` that have a derivative: float inputs that reach an output through float values."""
    reached: set[Node] = {o for o in graph.outputs if o.dtype.is_float}
    for node in reversed(graph.nodes()):
        if node in reached and _passes(node):
            reached.update(a for a in node.args if a.dtype.is_float)
    return tuple(i for i in wrt if graph.inputs[i] in reached)


def depends(graph: Graph, wrt: tuple[int, ...]) -> tuple[bool, ...]:
    """Per output, whether it has a derivative with respect to one of the inputs `wrt`."""
    reached: set[Node] = {graph.inputs[i] for i in wrt}
    for node in graph.nodes():
        if (
            node.args
            and node.dtype.is_float
            and _passes(node)
            and any(a in reached for a in node.args)
        ):
            reached.add(node)
    return tuple(o in reached for o in graph.outputs)


def _passes(node: Node) -> bool:
    return getattr(node, "op", "") != "stop_gradient"
