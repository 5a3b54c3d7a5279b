"""How host functions call native kernels: on one thread or by a team, past the caches where that pays."""

from __future__ import annotations

from collections.abc import Mapping

from tgc.codegen.naming import Names, cited, size_operand, size_text
from tgc.codegen.native.kernel import Emitted
from tgc.codegen.native.rows import Follower, followed
from tgc.codegen.numpy.host import Host, allocated
from tgc.codegen.numpy.host import emit_host as emit_host_function
from tgc.codegen.numpy.matrices import as_matrices
from tgc.ir import dtypes
from tgc.ir.ops import OPS
from tgc.ir.sizes import Dim, product
from tgc.kernel.ir import Kernel, Launch, Load, Matmul, Op, Plan, Store
from tgc.kernel.walk import statements
from tgc.schedule.target import NATIVE

STREAM_BYTES = 1 << 23
"""Outputs larger than this do not fit the caches beside what is read: their stores pass by."""
PIECE_NS = 5_000
"""Work that is worth a thread's while."""
NS_PER_COST, NS_PER_BYTE = 0.03, 0.04


def emit_host(plan: Plan, module_names: Names, launched: Mapping[int, Emitted]) -> str:
    """The source of `plan.name`; `launched` maps the position of each launch to its kernel."""
    held = _held(plan)
    followers = {f.launch: f for f in followed(plan)}
    behind = {f.product for f in followers.values()}
    stacks = {
        position
        for position, step in enumerate(plan.steps)
        if isinstance(step, Matmul) and (m := as_matrices(plan, step)) and m.is_stack
    }
    products: dict[int, tuple[str, str]] = {}

    def launch(position: int, args: list[str], host: Host) -> list[str]:
        found = followers.get(position)
        if found is None:
            return _launch(launched[position], args, host)
        return _follow(launched[position], args, host, found, *products[found.product])

    def multiply(position: int, pair: tuple[str, str], out: str) -> list[str]:
        factors = ", ".join(pair)
        if position in behind:
            products[position] = factors, f"matmul({factors}, out={out})"
            return []
        # The library's own threads would be in the way of kernels, and wait for each matrix of a stack.
        ours = launched or position in stacks
        return [f"{'matmul' if ours else 'np.matmul'}({factors}, out={out})"]

    return emit_host_function(
        plan,
        module_names,
        launch,
        addresses=tuple(name not in held for name in plan.inputs),
        exports=_exports(plan),
        multiply=multiply,
        later={f.buffer.name for f in followers.values()},
    )


def _follow(
    code: Emitted, args: list[str], host: Host, found: Follower, factors: str, product: str
) -> list[str]:
    """A launch whose programs come each after the rows of a product that they read, where that pays."""
    name = host.buffers[found.buffer.name]
    rows = host.names.new("rows")
    each = size_text(found.each, host.sizes)
    beside = size_text(found.beside, host.sizes)
    words = len(args) + bool(code.gathers)  # the last is where its result goes
    return [
        f"{name} = 0",
        f"{rows} = panels({factors}, place=({words}, {args.index(name)}), each={each}, beside={beside})",
        f"if {rows} is None:",
        f"    {allocated(found.buffer, name, host.sizes, {})}",
        f"    {product}",
        *_launch(code, args, host, rows),
    ]


def _held(plan: Plan) -> set[str]:
    """The inputs the host function itself reads, so that the address of their memory is not enough."""
    products = [step for step in plan.steps if not isinstance(step, Launch)]
    donated = (given for given, _ in plan.writes)
    return {*plan.outputs, *donated, *(name for step in products for name in (step.a, step.b))}


def _exports(plan: Plan) -> bool:
    """Whether nobody but kernels and the caller sees the arrays that the host function makes, each result another."""
    made = {b.name: b for b in plan.buffers if b.alias is None and b.role not in ("in", "scalar")}
    products = [step for step in plan.steps if not isinstance(step, Launch)]
    seen = {name for step in products for name in (step.a, step.b, step.out)}
    return (
        not plan.writes
        and not seen & set(made)
        and set(plan.outputs) <= set(made)
        and len(set(plan.outputs)) == len(plan.outputs)
        and all(b.dtype is not dtypes.bfloat16 for b in made.values())
    )


def _launch(code: Emitted, args: list[str], host: Host, helpers: str | None = None) -> list[str]:
    """One call, of a team where there is work for two threads; `helpers` are one if they are not None."""
    call = f"({', '.join(args)}"
    if not code.gathers:
        return _run(code, "", call, host, helpers)
    outside = host.names.new("outside")
    lines = _run(code, f"{outside} = ", call, host, helpers)
    return [*lines, *_raise_outside(code, outside, host)]


def _raise_outside(code: Emitted, outside: str, host: Host) -> list[str]:
    """Lines that raise for a position the kernel found outside its axis."""
    lines: list[str] = []
    for number, term in enumerate(code.gathers, 1):
        extent = size_text(term.extent, host.sizes)
        message = f"an index is out of bounds for an axis of size {{{extent}}} "
        lines += [
            f"if {outside} == {number}:",
            f'    raise IndexError(f"{message}" {f"({cited(term.line)})"!r})',
        ]
    return lines


def _run(code: Emitted, to: str, call: str, host: Host, helpers: str | None) -> list[str]:
    """The call, `to` being what its result is assigned to: on this thread, or by a team."""
    programs: Dim = product(tuple(a.programs for a in code.kernel.axes))
    piece = max(1, round(PIECE_NS / _program_time(code.kernel)))
    if helpers is None and isinstance(programs, int) and programs < 2 * piece:
        return [f"{to}{code.name}{call}, {programs}, {piece}, 0)"]
    count = host.names.new("programs")
    lines = [
        f"{count} = {size_text(programs, host.sizes)}",
        f"if {count} < {2 * piece}{'' if helpers is None else f' and {helpers} is None'}:",
        f"    {to}{code.name}{call}, {count}, {piece}, 0)",
        "else:",
    ]
    chosen = code.name
    if code.streams:
        nbytes = [product(b.shape) * b.dtype.itemsize for b in code.streams]
        large = " + ".join(size_text(n, host.sizes) for n in nbytes)
        rows = [f"{size_operand(d, host.sizes)} % 64 == 0" for d in code.aligned]
        test = " and ".join([f"{large} > {STREAM_BYTES}", *rows])
        chosen = host.names.new("kernel")
        lines.append(f'    {chosen} = code.streaming("{code.name}") if {test} else {code.name}')
    team = "team()" if helpers is None else f"{helpers} or team()"
    return [*lines, f"    {to}{chosen}{call}, {count}, {piece}, {team})"]


def _program_time(kernel: Kernel) -> float:
    """Nanoseconds a program takes, roughly: by the cost table and the bytes of an element, elements by the tile."""
    cost = nbytes = 0.0
    for s in statements(kernel.body):
        if isinstance(s, Op):
            cost += OPS[s.op].cost
        elif isinstance(s, Load | Store):
            nbytes += kernel.buffer(s.buffer).dtype.itemsize
    blocks = [a.block for a in kernel.axes if a.kind == "grid"]
    elements = blocks[0] if len(blocks) == 1 and isinstance(blocks[0], int) else NATIVE.tile
    return max(1.0, elements * (cost * NS_PER_COST + nbytes * NS_PER_BYTE))
