"""Outputs in the memory of donated inputs.

A graph's `writes` say which inputs end up holding which outputs. A kernel may store such an output where the input
lies if it reads nothing of the input but the element it overwrites, before it overwrites it: a map, all of whose loads
from the input have the index of the store, run after everything else that reads the input. Nor may anything fail from
there on, as a gather may: an input is overwritten whole or not at all. Elsewhere the output has memory of its own, and
the host copies it into the input at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tgc.errors import UnsupportedOpError
from tgc.kernel.ir import Buffer, Kernel, Launch, Load, Matmul, Plan, Step, Store
from tgc.kernel.walk import gathered, may_overwrite, statements, stored


def donate(plan: Plan, writes: Mapping[str, str]) -> Plan:
    """The plan that also leaves outputs in inputs: `writes` maps inputs to outputs.

    Raises:
        UnsupportedOpError: a donated input is to receive another input as it came.
    """
    aliases: dict[str, str] = {}
    for given, output in writes.items():
        if output in plan.inputs and output != given:
            raise UnsupportedOpError(
                f"the donated argument {given} receives the argument {output} unchanged",
                hint="donate neither, or return a copy",
            )
        if output not in aliases and _fits(plan, given, output):
            aliases[output] = given

    def placed(buffer: Buffer) -> Buffer:
        return replace(buffer, alias=aliases.get(buffer.name))

    steps: list[Step] = []
    for step in plan.steps:
        if isinstance(step, Launch):
            kernel = replace(step.kernel, buffers=tuple(map(placed, step.kernel.buffers)))
            step = Launch(_stored_last(kernel) if kernel != step.kernel else kernel)
        steps.append(step)
    return replace(
        plan,
        buffers=tuple(map(placed, plan.buffers)),
        steps=tuple(steps),
        writes=tuple((given, output) for given, output in writes.items() if given != output),
    )


def _stored_last(kernel: Kernel) -> Kernel:
    """The kernel with its stores at the end: a backend may read an input where it uses it, not where it is loaded."""
    stores = [s for s in kernel.body if isinstance(s, Store)]
    rest = [s for s in kernel.body if not isinstance(s, Store)]
    return replace(kernel, body=(*rest, *stores))


def _fits(plan: Plan, given: str, output: str) -> bool:
    """Whether the kernel that makes an output may overwrite an input with it."""
    maker = next((i for i, s in enumerate(plan.steps) if output in _written(s)), None)
    if maker is None or any(given in _read(s) for s in plan.steps[maker + 1 :]):
        return False
    if any(_may_fail(s) for s in plan.steps[maker:]):
        return False
    step = plan.steps[maker]
    return isinstance(step, Launch) and may_overwrite(step.kernel, given, output)


def _may_fail(step: Step) -> bool:
    """Whether a step may find a position outside its axis."""
    if isinstance(step, Matmul):
        return False
    return any(isinstance(s, Load) and gathered(s.index) for s in statements(step.kernel.body))


def _written(step: Step) -> set[str]:
    if isinstance(step, Matmul):
        return {step.out}
    return stored(step.kernel.body)


def _read(step: Step) -> set[str]:
    """The buffers a step may read: all it knows."""
    return {step.a, step.b} if isinstance(step, Matmul) else {b.name for b in step.kernel.buffers}
