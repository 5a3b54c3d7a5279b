"""A lowered function explained in plain text: what runs, what it moves against the ideal, and why.

It takes anything with the attributes of `tgc.lowered.Lowered`, which stands after this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tgc.ir.sizes import evaluate
from tgc.kernel.ir import Guard, Launch, Matmul, Plan
from tgc.report.cli import heading, table


def explain(lowered: Any) -> str:
    """The report."""
    parts = [
        _summary(lowered),
        heading("kernels"),
        _kernels(lowered),
        heading("traffic"),
        _traffic(lowered),
    ]
    if len(lowered.plans) > 1:
        parts += [heading("saved for the backward"), _saved(lowered)]
    parts += [heading("rewrites"), _rewrites(lowered)]
    parts += [heading("regime"), _regime(lowered.plans)]
    parts += [heading("not fused"), _unfused(lowered.plans)]
    return "\n".join(parts)


def _summary(lowered: Any) -> str:
    sizes = ", ".join(f"{name} = {extent:,}" for name, extent in lowered.sizes.items())
    what = "forward and backward" if len(lowered.plans) > 1 else "the function"
    lines = [f"{lowered.graph.name}: {what} for {lowered.target.name}"]
    if sizes:
        lines[0] += f", at {sizes}"
    return "\n".join([*lines, lowered.note] if lowered.note else lines)


def _kernels(lowered: Any) -> str:
    rows: list[tuple[str, ...]] = [("name", "reads", "writes", "operations", "computes")]
    for view in lowered.kernels:
        formula = "; ".join(view.kernel.formula)
        reads, writes = sum(view.reads.values()), sum(view.writes.values())
        rows.append((view.name, _bytes(reads), _bytes(writes), f"{view.flops:,}", formula))
    for plan in lowered.plans:
        for step in plan.steps:
            if isinstance(step, Matmul):
                what = f"{step.out} = einsum({step.subscripts!r}, {step.a}, {step.b})"
                rows.append((f"{plan.name}: library", "", "", "", what))
    return table(rows) if len(rows) > 1 else "none: nothing is computed"


def _traffic(lowered: Any) -> str:
    cost, ideal = lowered.cost(), lowered.ideal_bytes
    ratio = cost.bytes / ideal if ideal else 1.0
    rows = [
        ("moved", _bytes(cost.bytes), f"{ratio:.2f} of the ideal"),
        ("ideal", _bytes(ideal), "every input read once, every output written once"),
        ("allocated", _bytes(cost.peak_bytes), "outputs and temporaries"),
    ]
    lines = [table(rows)]
    for plan in lowered.plans:
        lines += [f"  {plan.name}: {b.name} overwrites {b.alias}" for b in plan.buffers if b.alias]
        lines += [f"  {line}" for line in _repeated(plan)]
    return "\n".join(lines)


def _repeated(plan: Plan) -> Iterable[str]:
    """Which buffers more than one kernel reads."""
    readers: dict[str, list[str]] = {}
    for step in plan.steps:
        if isinstance(step, Launch):
            for buffer in step.kernel.buffers:
                if buffer.role != "out" or buffer.name not in plan.outputs:
                    readers.setdefault(buffer.name, []).append(step.kernel.name)
        else:
            for name in (step.a, step.b):
                readers.setdefault(name, []).append("the library")
    for name, kernels in readers.items():
        if name in plan.inputs and len(kernels) > 1:
            yield f"{plan.name}: {name} is read by {', '.join(kernels)}"


def _saved(lowered: Any) -> str:
    rows = [(s.reason, _bytes(evaluate(s.bytes, lowered.sizes))) for s in lowered.saved]
    return table(rows) if rows else "nothing"


def _rewrites(lowered: Any) -> str:
    counts: dict[str, int] = {}
    for rewrite in lowered.rewrites:
        counts[str(rewrite)] = counts.get(str(rewrite), 0) + 1
    lines = [name if count == 1 else f"{name} ({count} times)" for name, count in counts.items()]
    return "\n".join(lines) if lines else "none"


def _regime(plans: Sequence[Plan]) -> str:
    guards = dict.fromkeys(g for plan in plans for g in plan.guards)
    lines = [_guard(g) for g in guards]
    return "\n".join(lines) if lines else "one source serves all sizes"


def _guard(guard: Guard) -> str:
    low = "" if guard.low is None else f"{guard.low:,} <= "
    high = "" if guard.high is None else f" <= {guard.high:,}"
    return f"{low}{guard.size}{high}"


def _unfused(plans: Sequence[Plan]) -> str:
    """Why a plan has more than one step: the value that had to be finished before the next could start."""
    lines = []
    for plan in plans:
        for earlier, later in zip(plan.steps, plan.steps[1:]):
            lines.append(f"{plan.name}: {_step(earlier)} | {_step(later)}: {_why(earlier, later)}")
    return "\n".join(lines) if lines else "nothing: each host function is one kernel"


def _step(step: Launch | Matmul) -> str:
    return step.kernel.name if isinstance(step, Launch) else f"matmul of {step.a} and {step.b}"


def _why(earlier: Launch | Matmul, later: Launch | Matmul) -> str:
    if isinstance(earlier, Matmul) or isinstance(later, Matmul):
        return "a contraction is left to the library"
    staged = {b.name for b in earlier.kernel.buffers if b.role == "partial"}
    if staged & {b.name for b in later.kernel.buffers}:
        return "partial results of several programs are added in a fixed order"
    made = {b.name for b in earlier.kernel.buffers if b.role != "in"}
    shared = sorted(made & {b.name for b in later.kernel.buffers})
    if shared:
        return f"{', '.join(shared)} must be whole before it is read"
    return "their results have different iteration spaces"


def _bytes(count: int) -> str:
    return f"{count:,} B"
