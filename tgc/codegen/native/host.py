"""The host function of a plan: sizes from the inputs, fresh outputs, kernels on one thread or several."""

from __future__ import annotations

from collections.abc import Mapping

from tgc.codegen.naming import Names, returned, size_operand, size_text, written_back
from tgc.codegen.native.kernel import Emitted
from tgc.codegen.numpy.constants import dtype_text
from tgc.codegen.numpy.host import (
    _name_counts,
    _shape,
    _symbols,
    attributes,
    bind,
    emit_matmul,
    optional,
    told,
)
from tgc.codegen.numpy.lines import define
from tgc.ir.ops import OPS
from tgc.ir.sizes import Dim, product
from tgc.kernel.ir import Kernel, Launch, Load, Op, Plan, Store
from tgc.kernel.walk import statements

STREAM_BYTES = 1 << 23
"""Outputs larger than this do not fit the caches beside what is read: their stores pass by."""
PIECE_NS = 5_000
"""Work that is worth a thread's while."""
NS_PER_COST, NS_PER_BYTE = 0.03, 0.04


def emit_host(plan: Plan, module_names: Names, launched: Mapping[int, Emitted]) -> str:
    """The source of `plan.name`; `launched` maps the position of each launch to its kernel.

    After the inputs, the function takes the sizes, if they are known; then those inputs that `addresses` tells may be
    the addresses of contiguous memory. Last comes what it allocates its memory with, if it does.
    """
    names = module_names.child()
    buffers = {
        b: names.new(b)
        for b in (*plan.inputs, *(b.name for b in plan.buffers if b.name not in plan.inputs))
    }
    used = _symbols(plan)
    sizes = {b.name: names.new(b.name) for b in plan.bindings if b.name in used}
    given = told(plan, used)
    lines = bind(plan, buffers, sizes, given)
    counts = _name_counts(plan, names, sizes)
    lines += [f"{name} = {size_text(d, sizes)}" for d, name in counts.items()]
    for b in plan.buffers:
        if b.alias is not None:
            lines.append(f"{buffers[b.name]} = {buffers[b.alias]}")
        elif b.role not in ("in", "scalar"):
            shape = _shape([counts.get(d) or size_text(d, sizes) for d in b.shape])
            lines.append(f"{buffers[b.name]} = empty({shape}, {dtype_text(b.dtype)})")
    for position, step in enumerate(plan.steps):
        if not isinstance(step, Launch):
            lines.append(emit_matmul(step, plan, buffers))
            continue
        kernel = step.kernel
        args = [*(buffers[b.name] for b in kernel.buffers), *(sizes[s] for s in kernel.sizes)]
        lines += _launch(launched[position], args, buffers, sizes, names)
    lines += written_back(plan, buffers, "{0}[...] = {1}")
    outputs = returned(plan, buffers, "copy")
    lines.append(f"return ({', '.join(outputs)}{',' if len(outputs) == 1 else ''})")
    text = define(
        plan.name, [*(buffers[i] for i in plan.inputs), *optional(plan, given, sizes)], lines
    )
    if len(given) == len(sizes):
        addresses = tuple(name not in _held(plan) for name in plan.inputs)
        text += "\n\n" + attributes(plan, given, addresses)
    return text


def _held(plan: Plan) -> set[str]:
    """The inputs the host function itself reads, so that the address of their memory is not enough."""
    products = [step for step in plan.steps if not isinstance(step, Launch)]
    donated = (given for given, _ in plan.writes)
    return {*plan.outputs, *donated, *(name for step in products for name in (step.a, step.b))}


def _launch(
    code: Emitted,
    args: list[str],
    buffers: Mapping[str, str],
    sizes: Mapping[str, str],
    names: Names,
) -> list[str]:
    """One call, of a team where there is work for two threads, and past the caches where that pays."""
    programs: Dim = product(tuple(a.programs for a in code.kernel.axes))
    piece = max(1, round(PIECE_NS / _program_time(code.kernel)))
    call = ", ".join(args)
    if isinstance(programs, int) and programs < 2 * piece:
        return [f"{code.name}({call}, {programs}, {piece}, 0)"]
    count = names.new("programs")
    lines = [
        f"{count} = {size_text(programs, sizes)}",
        f"if {count} < {2 * piece}:",
        f"    {code.name}({call}, {count}, {piece}, 0)",
        "else:",
    ]
    chosen = code.name
    if code.streams:
        large = " + ".join(f"{buffers[b.name]}.nbytes" for b in code.streams)
        rows = [f"{size_operand(d, sizes)} % 64 == 0" for d in code.aligned]
        test = " and ".join([f"{large} > {STREAM_BYTES}", *rows])
        lines.append(f'    kernel = code.streaming("{code.name}") if {test} else {code.name}')
        chosen = "kernel"
    return [*lines, f"    {chosen}({call}, {count}, {piece}, team())"]


def _program_time(kernel: Kernel) -> float:
    """Nanoseconds a program takes, roughly: by the cost table and the bytes of an element, elements by the tile."""
    cost = nbytes = 0.0
    for s, _ in statements(kernel.body):
        if isinstance(s, Op):
            cost += OPS[s.op].cost
        elif isinstance(s, Load | Store):
            nbytes += kernel.buffer(s.buffer).dtype.itemsize
    blocks = [a.block for a in kernel.axes if a.kind == "grid"]
    elements = blocks[0] if len(blocks) == 1 and isinstance(blocks[0], int) else 1 << 16
    return max(1.0, elements * (cost * NS_PER_COST + nbytes * NS_PER_BYTE))
