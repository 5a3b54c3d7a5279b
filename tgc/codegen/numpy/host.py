"""The host function of a plan: sizes from the inputs, fresh outputs, kernels and library products in order.

It is Python over numpy arrays for every engine of the CPU; they differ in how a kernel is called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from tgc.codegen.naming import Names, returned, size_text, written_back
from tgc.codegen.numpy.constants import dtype_text
from tgc.codegen.numpy.lines import define
from tgc.codegen.numpy.matrices import as_matrices
from tgc.ir.dtypes import DType
from tgc.ir.sizes import Dim, product, symbols
from tgc.kernel.ir import Binding, Buffer, Launch, Matmul, Plan


@dataclass(frozen=True)
class Host:
    """The plan of a host function and the names it uses: of its buffers, of its sizes, and new ones."""

    plan: Plan
    names: Names
    buffers: Mapping[str, str]
    sizes: Mapping[str, str]


Launcher = Callable[[int, list[str], Host], list[str]]
"""The lines that run the launch at a position of the plan with these arguments: its buffers, then its sizes."""

Multiplier = Callable[[int, tuple[str, str], str], list[str]]
"""The lines that compute the product of matrices at a position of the plan: of these factors, into this array."""


def by_numpy(position: int, factors: tuple[str, str], out: str) -> list[str]:
    """A product by numpy's library."""
    return [f"np.matmul({', '.join(factors)}, out={out})"]


def emit_host(
    plan: Plan,
    module_names: Names,
    launch: Launcher,
    *,
    prepare: Sequence[str] = (),
    addresses: tuple[bool, ...] = (),
    exports: bool = False,
    multiply: Multiplier = by_numpy,
    later: Collection[str] = (),
    small: Mapping[str, int] = {},
) -> str:
    """The source of `plan.name`: of an engine whose kernels `launch` calls.

    After the inputs the function takes the sizes, if they are known, and last what it allocates memory with, if any.

    Args:
        prepare: scalar inputs that become arrays first.
        addresses: which inputs may be the addresses of contiguous memory, if any may.
        exports: what it allocates may be DLPack's capsules instead of arrays.
        multiply: how products of matrices are computed.
        later: buffers that launches allocate where they are needed.
        small: buffers that launches make of None where they have fewer elements than this.
    """
    names = module_names.child()
    buffers = {
        b: names.new(b)
        for b in (*plan.inputs, *(b.name for b in plan.buffers if b.name not in plan.inputs))
    }
    used = _symbols(plan)
    sizes = {b.name: names.new(b.name) for b in plan.bindings if b.name in used}
    given = _told(plan, used)
    lines = [
        f"{buffers[name]} = np.array({buffers[name]}, {dtype_text(plan.buffer(name).dtype)})"
        for name in prepare
    ]
    lines += _bind(plan, buffers, sizes, given)
    counts = _name_counts(plan, names, sizes)
    lines += [f"{name} = {size_text(d, sizes)}" for d, name in counts.items()]
    for b in plan.buffers:
        if b.alias is not None:
            lines.append(f"{buffers[b.name]} = {buffers[b.alias]}")
        elif b.role not in ("in", "scalar") and b.name not in later:
            lines.append(allocated(b, buffers[b.name], sizes, counts, small.get(b.name)))
    host = Host(plan, names, buffers, sizes)
    for position, step in enumerate(plan.steps):
        if isinstance(step, Launch):
            kernel = step.kernel
            args = [*(buffers[b.name] for b in kernel.buffers), *(sizes[s] for s in kernel.sizes)]
            lines += launch(position, args, host)
        else:
            lines += _matmul(position, host, multiply)
    lines += written_back(plan, buffers, "{0}[...] = {1}")
    outputs = returned(plan, buffers, "copy")
    lines.append(f"return ({', '.join(outputs)}{',' if len(outputs) == 1 else ''})")
    params = [*(buffers[i] for i in plan.inputs), *_optional(plan, given, sizes)]
    text = define(plan.name, params, lines)
    if len(given) == len(sizes):
        text += "\n\n" + _attributes(plan, given, addresses, exports)
    return text


# --- what a host function may be told -------------------------------------------------------------------------------


def _told(plan: Plan, used: set[str]) -> list[str]:
    """The sizes the function takes behind its inputs, where the caller knows them: all it speaks of, or none."""
    bindings = [b for b in plan.bindings if b.name in used]
    return [] if any(b.stride for b in bindings) else [b.name for b in bindings]


def _bind(
    plan: Plan, buffers: Mapping[str, str], sizes: Mapping[str, str], given: list[str]
) -> list[str]:
    """Read the sizes off the inputs, where they are not given."""
    lines = _read_sizes(plan, buffers, sizes)
    if not given:
        return lines
    return [f"if {sizes[given[0]]} is None:", *(f"    {line}" for line in lines)]


def _optional(plan: Plan, given: list[str], sizes: Mapping[str, str]) -> list[str]:
    """The parameters behind the inputs: sizes, and what allocates memory."""
    return [
        *(f"{sizes[name]}=None" for name in given),
        *(["empty=empty"] if _allocates(plan) else []),
    ]


def _attributes(plan: Plan, given: list[str], addresses: tuple[bool, ...], exports: bool) -> str:
    """What the runtime is told of a host function: see `tgc.runtime.program.known`."""
    found: dict[str, object] = {"sizes": tuple(given)}
    if addresses:
        found["addresses"] = addresses
    if _allocates(plan):
        found["allocates"] = True
        if exports:
            found["exports"] = True
    return "".join(f"{plan.name}.{name} = {value!r}\n" for name, value in found.items())


def _allocates(plan: Plan) -> bool:
    return any(b.alias is None and b.role not in ("in", "scalar") for b in plan.buffers)


def _name_counts(plan: Plan, names: Names, sizes: Mapping[str, str]) -> dict[Dim, str]:
    """Names for the numbers of programs, which are long to write."""
    found: dict[Dim, str] = {}
    for b in plan.buffers:
        for d in b.shape if b.role == "partial" else ():
            if d not in found and "//" in size_text(d, sizes):
                found[d] = names.new("programs")
    return found


def _symbols(plan: Plan) -> set[str]:
    """The sizes the host function speaks of."""
    found: set[str] = set()
    for b in plan.buffers:
        if b.role not in ("in", "scalar"):
            for d in b.shape:
                found |= symbols(d)
    for step in plan.steps:
        if isinstance(step, Launch):
            found |= set(step.kernel.sizes)
        elif (matrices := as_matrices(plan, step)) is not None:
            found |= matrices.symbols
    return found


def allocated(
    buffer: Buffer,
    name: str,
    sizes: Mapping[str, str],
    counts: Mapping[Dim, str],
    small: int | None = None,
) -> str:
    """The line that makes the array of a buffer, unless it has fewer elements than this."""
    texts = [counts.get(d) or size_text(d, sizes) for d in buffer.shape]
    shape = texts[0] if len(texts) == 1 else f"({', '.join(texts)})"
    made = f"empty({shape}, {dtype_text(buffer.dtype)})"
    if small is not None:
        made = f"None if {size_text(product(buffer.shape), sizes)} < {small} else {made}"
    return f"{name} = {made}"


def _read_sizes(plan: Plan, buffers: Mapping[str, str], sizes: Mapping[str, str]) -> list[str]:
    """Read sizes off the inputs: a whole shape at once where all of it is wanted."""
    lines: list[str] = []
    by_buffer: dict[str, list[Binding]] = {}
    for binding in plan.bindings:
        if binding.name in sizes:
            by_buffer.setdefault(binding.buffer, []).append(binding)
    for name, bindings in by_buffer.items():
        array, rank = buffers[name], len(plan.buffer(name).shape)
        dims = {b.dim: sizes[b.name] for b in bindings if not b.stride}
        if len(dims) == rank and rank > 1:
            lines.append(f"{', '.join(dims[d] for d in range(rank))} = {array}.shape")
        else:
            lines += [f"{local} = {array}.shape[{d}]" for d, local in dims.items()]
        item = plan.buffer(name).dtype.itemsize
        for b in bindings:
            if b.stride:
                divided = f" // {item}" if item > 1 else ""
                lines.append(f"{sizes[b.name]} = {array}.strides[{b.dim}]{divided}")
    return lines


# --- products -------------------------------------------------------------------------------------------------------


def _matmul(position: int, host: Host, multiply: Multiplier) -> list[str]:
    """One library product: of matrices where it is one, else by einsum."""
    step, plan = host.plan.steps[position], host.plan
    assert isinstance(step, Matmul)
    a, b, out = (plan.buffer(n) for n in (step.a, step.b, step.out))
    texts = [_operand(host.buffers[x.name], x.dtype, step.dtype) for x in (a, b)]
    target = host.buffers[out.name]
    whole = out.dtype is step.dtype and out.shape != ()
    found = as_matrices(plan, step)
    if found is None:
        call = f'np.einsum("{step.subscripts}", {texts[0]}, {texts[1]}, optimize=True'
        return [f"{call}, out={target})" if whole else f"{target}[...] = {call})"]
    first, second = texts[::-1] if found.turned else texts
    factors = found.first.text(first, host.sizes), found.second.text(second, host.sizes)
    target = found.out.text(target, host.sizes)
    if whole:
        return multiply(position, factors, target)
    return [f"{target}[...] = np.matmul({', '.join(factors)})"]


def _operand(name: str, dtype: DType, compute: DType) -> str:
    return name if dtype is compute else f"{name}.astype({dtype_text(compute)})"
