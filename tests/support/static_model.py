"""What a compiled kernel does to memory and to precision, read off its PTX.

The interpreter shows values and addresses, but not how wide the loads are, nor that `/` became an approximate
instruction. Both stand in the PTX, so they are checked there, on machines without a GPU.

**Traffic.** `accesses` follows every global address back to the pointer argument it was computed from, and gives
width, predicate and whether the access sits in a loop (a cycle of the control-flow graph). `traffic` turns that
into bytes per program, taking every thread to execute every access once. That is exact for full blocks; where a
block has fewer elements than the program has threads, Triton replicates loads over threads and the sum is an upper
bound (the copies hit the same cache lines).

**Approximate arithmetic.** What was found by compiling each form for sm_90 on Triton 3.6 to 3.9:

- `x / y` in fp32 is `div.full.f32`. No libdevice function contains `div.full`.
- `tl.exp` in fp32 is `ex2.approx.f32(x * 0f3FB8AA3B)`, that is exp2 of x times log2(e): the product is rounded, so
  the relative error grows with x, to 64 ulp near 87. libdevice's exp, too, ends in `ex2.approx`, but of what a
  reduction by fma has left over (`fma(x, 0f32A57060, ...)`, the low part of log2(e)), which costs nothing. Some
  functions (sinh, cosh, erfc, normcdf, pow) multiply by log2(e) once more, but an fma result, and with `.ftz`;
  tanh multiplies by 2 log2(e), expm1 selects. So: an `ex2.approx` of a product with log2(e) is approximate,
  unless it is the `.ftz` form and the other factor comes from an fma.
- `ex2.approx` of anything else is `exp2`, within 2 ulp by NVIDIA's table. `rsqrt.approx` likewise, and
  `rcp.approx` stands only inside libdevice functions, which correct it. None of the three is reported.
- `sin.approx`, `cos.approx`, `tanh.approx`, and `lg2.approx` outside the functions below, come from `__nv_fast_*`
  or inline assembly.
- libdevice itself has `sqrt.approx` in asin, acos, asinh, acosh and hypot, `div.approx` in sinh, cosh, tgamma,
  erfcx, fmod and remainder, `lg2.approx` in asinh, cbrt, erfinv and normcdfinv: there the PTX alone cannot tell
  who asked. The TTIR can, as it names both (`tt.extern_elementwise {symbol = "__nv_asinf"}` and `math.sqrt`);
  given it, `has_approximate_math` judges by it. Without it these instructions are reported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_TYPE_BYTES = {
    **{f"{kind}8": 1 for kind in "bus"},
    **{f"{kind}16": 2 for kind in "busf"},
    **{f"{kind}32": 4 for kind in "busf"},
    **{f"{kind}64": 8 for kind in "busf"},
    "b128": 16,
    "f16x2": 4,
    "bf16": 2,
    "bf16x2": 4,
}
_INSTRUCTION = re.compile(r"(?:(@!?%p\d+)\s+)?([a-z][\w.:]*)\s*(.*?)\s*;")
_LABEL = re.compile(r"(\$\w+):$")
_LOG2_E = ("0f3FB8AA3B", "0fBFB8AA3B")  # and its negative: exp(-x)

_APPROXIMATE = re.compile(r"(div|sqrt|lg2|sin|cos|tanh)\.(?:approx|full)\b")
_LIBDEVICE_CONTAINS = {
    "sqrt.approx": ("asin", "acos", "asinh", "acosh", "hypot"),
    "div.approx": ("sinh", "cosh", "tgamma", "erfcx", "fmod", "remainder"),
    "lg2.approx": ("asinh", "cbrt", "erfinv", "normcdfinv"),
}
# TTIR operations that lower to the above in fp32, and libdevice symbols that are approximate by name.
_TTIR_APPROXIMATE = re.compile(
    r"(math\.exp|arith\.divf|math\.sqrt)\s[^:]*:\s*(?:tensor<[\dx]*x)?(f32|f16|bf16)\b"
    r'|symbol = "(__nv_fast_\w+|__nv_fdividef|__nv_sqrtf)"'
)
_TTIR_SYMBOL = re.compile(r'symbol = "__nv_(\w+)"')


@dataclass(frozen=True)
class Access:
    """One load, store or atomic instruction on global memory."""

    kind: str  # "load", "store" or "atomic"
    bytes: int  # per thread
    predicated: bool
    in_loop: bool


@dataclass(frozen=True)
class Traffic:
    """Bytes one program moves through one argument; those inside loops are per iteration."""

    load: int = 0
    store: int = 0
    atomic: int = 0
    loop_load: int = 0
    loop_store: int = 0
    loop_atomic: int = 0


@dataclass(frozen=True)
class _Instruction:
    predicate: str
    opcode: str
    operands: str
    in_loop: bool


def accesses(ptx: str, arguments: Sequence[str] = ()) -> dict[str, tuple[Access, ...]]:
    """Every access to global memory, by the pointer argument its address is computed from.

    Args:
        ptx: the text of one kernel.
        arguments: names of the kernel's runtime arguments in order (`Binary.arguments`); an argument without a
            name is called `"arg<i>"`.

    Returns:
        one entry per pointer argument, in order; empty tuples for arguments never touched. An address that may come
        from several arguments is listed under each; one that comes from none under `"?"`.
    """
    header, body = _entry(ptx)
    pointers = _pointer_parameters(header)
    code = _parse(body)
    roots = _provenance(code, pointers)
    names = {i: arguments[i] if i < len(arguments) else f"arg{i}" for i in pointers}
    # Triton appends scratch pointers of its own after the arguments: named only if touched.
    found: dict[str, list[Access]] = {
        name: [] for i, name in names.items() if not arguments or i < len(arguments)
    }
    for instruction in code:
        access = _global_access(instruction)
        if access is None:
            continue
        register, entry = access
        owners = sorted(roots.get(register, ()))
        for name in [names[i] for i in owners] or ["?"]:
            found.setdefault(name, []).append(entry)
    return {name: tuple(entries) for name, entries in found.items()}


def traffic(ptx: str, arguments: Sequence[str] = ()) -> dict[str, Traffic]:
    """Bytes per program and argument, every thread executing every access once (an upper bound: see above)."""
    threads = threads_per_program(ptx)
    result = {}
    for name, entries in accesses(ptx, arguments).items():
        sums = dict.fromkeys(Traffic.__dataclass_fields__, 0)
        for entry in entries:
            sums[("loop_" if entry.in_loop else "") + entry.kind] += entry.bytes * threads
        result[name] = Traffic(**sums)
    return result


def threads_per_program(ptx: str) -> int:
    """The thread count the kernel was compiled for (`.reqntid`)."""
    found = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", ptx)
    if found is None:
        raise ValueError("the PTX does not state its number of threads")
    return int(found[1])


def has_approximate_math(ptx: str, ttir: str | None = None) -> tuple[str, ...]:
    """The approximate instructions of a kernel, one string each; empty, so false, where there are none.

    Args:
        ptx: the text of one kernel.
        ttir: its TTIR. With it, what libdevice does inside its own functions is told apart from what the kernel
            asked for, and approximate operations the PTX rule would miss are found (`tl.exp` of a `tl.fma`).
    """
    called = _libdevice_calls(ttir) if ttir is not None else frozenset()
    found = []
    defined: dict[str, _Instruction] = {}
    _, body = _entry(ptx)
    for instruction in _parse(body):
        text = f"{instruction.opcode} {instruction.operands}"
        approximate = _APPROXIMATE.match(instruction.opcode)
        if approximate and not called.intersection(_LIBDEVICE_CONTAINS.get(approximate[0], ())):
            found.append(text)
        if instruction.opcode.startswith("ex2.approx") and _is_plain_exp(instruction, defined):
            found.append(text)
        target = instruction.operands.split(",", 1)[0].strip()
        if target.startswith("%"):
            defined[target] = instruction
    if ttir is not None:
        found += [line for line in _approximate_ttir(ttir) if line not in found]
    return tuple(found)


def _entry(ptx: str) -> tuple[str, str]:
    """Header (parameters) and body of the kernel; device functions before it are left out."""
    start = ptx.find(".entry")
    if start < 0:
        raise ValueError("not PTX of a kernel: no .entry")
    opening = re.compile(r"^\{", re.M).search(ptx, start)
    if opening is None:
        raise ValueError("not PTX of a kernel: .entry without a body")
    closing = re.compile(r"^\}", re.M).search(ptx, opening.end())
    end = closing.start() if closing else len(ptx)
    return ptx[start : opening.start()], ptx[opening.end() : end]


def _pointer_parameters(header: str) -> list[int]:
    """Indices of the parameters that point to global memory."""
    found = re.findall(r"\.param\s+\.[bu]64\s+\.ptr\s+\.global[^\n,]*?_param_(\d+)", header)
    return [int(index) for index in found]


def _parse(body: str) -> list[_Instruction]:
    """Instructions in order, each knowing whether it lies on a cycle of the control flow."""
    rows: list[tuple[int, str, str, str]] = []  # block, predicate, opcode, operands
    starts: dict[str, int] = {}
    block = 0
    for line in body.splitlines():
        line = line.split("//", 1)[0].strip()
        if label := _LABEL.match(line):
            block += 1
            starts[label[1]] = block
            continue
        match = _INSTRUCTION.match(line)
        if match is None or line.startswith("."):
            continue
        rows.append((block, match[1] or "", match[2], match[3]))
        if match[2].startswith(("bra", "ret", "brx")):
            block += 1
    cyclic = _blocks_on_cycles(rows, starts, block + 1)
    return [_Instruction(p, opcode, operands, b in cyclic) for b, p, opcode, operands in rows]


def _blocks_on_cycles(
    rows: list[tuple[int, str, str, str]], starts: dict[str, int], count: int
) -> set[int]:
    """Blocks that can reach themselves. Kernels have tens of blocks: a search from each is cheap enough."""
    next_blocks: list[set[int]] = [{b + 1} if b + 1 < count else set() for b in range(count)]
    for block, predicate, opcode, operands in rows:
        if opcode.startswith("ret") and not predicate:
            next_blocks[block] = set()
        if opcode.startswith("bra"):
            jump = starts[operands.split(",")[-1].strip()]
            next_blocks[block] = {jump, *(next_blocks[block] if predicate else ())}
    cyclic = set()
    for block in range(count):
        reached: set[int] = set()
        pending = set(next_blocks[block])
        while pending:
            reached |= pending
            pending = set().union(*(next_blocks[b] for b in pending)) - reached
        if block in reached:
            cyclic.add(block)
    return cyclic


def _provenance(code: list[_Instruction], pointers: list[int]) -> dict[str, frozenset[int]]:
    """For every 64-bit register, the pointer parameters its value is computed from.

    A fixpoint, as pointers are carried round loops. What is loaded from memory carries no provenance: an index read
    from one tensor must not make it the owner of the access it serves.
    """
    known = set(pointers)
    roots: dict[str, frozenset[int]] = {}
    changed = True
    while changed:
        changed = False
        for instruction in code:
            target, _, sources = instruction.operands.partition(",")
            target = target.strip()
            if not target.startswith("%rd"):
                continue
            if instruction.opcode.startswith("ld.param"):
                index = re.search(r"_param_(\d+)", sources)
                new = frozenset({int(index[1])} & known if index else ())
            elif instruction.opcode.startswith(("ld.", "atom.")):
                continue
            else:
                read = re.findall(r"%rd\d+", sources)
                new = frozenset().union(*(roots.get(name, frozenset()) for name in read))
            new |= roots.get(target, frozenset())
            if new != roots.get(target, frozenset()):
                roots[target] = new
                changed = True
    return roots


def _global_access(instruction: _Instruction) -> tuple[str, Access] | None:
    """Address register and description, or None for anything but an access to global memory."""
    parts = instruction.opcode.replace("::", ".").split(".")
    # Triton guards accesses by a predicate on the instruction; a masked block is predicated, a full one not.
    predicated = bool(instruction.predicate)
    if parts[:2] == ["cp", "async"] and "shared" in parts and "global" in parts:
        registers = re.findall(r"\[\s*(%rd\d+)", instruction.operands)
        size = re.search(r"\]\s*,\s*(0x[0-9a-fA-F]+|\d+)", instruction.operands)
        if not registers or size is None:
            return None
        width = int(size[1], 0)
        return registers[0], Access("load", width, predicated, instruction.in_loop)
    kind = {"ld": "load", "st": "store", "atom": "atomic", "red": "atomic"}.get(parts[0])
    if kind is None or "global" not in parts:
        return None
    address = re.search(r"\[\s*(%rd\d+)", instruction.operands)
    if address is None:
        return None
    vector = next((int(p[1:]) for p in parts if re.fullmatch(r"v\d+", p)), 1)
    width = next((_TYPE_BYTES[p] for p in reversed(parts) if p in _TYPE_BYTES), 0)
    return address[1], Access(kind, vector * width, predicated, instruction.in_loop)


def _is_plain_exp(instruction: _Instruction, defined: dict[str, _Instruction]) -> bool:
    """Whether an ex2.approx computes exp of an unreduced argument: the rule of the module docstring."""
    operand = instruction.operands.split(",")[-1].strip()
    product = defined.get(operand)
    if product is None or not product.opcode.startswith("mul"):
        return False
    factors = [f.strip() for f in product.operands.split(",")[1:]]
    others = [f for f in factors if _constant(f, defined) not in _LOG2_E]
    if len(others) != 1:
        return False
    other = others[0]
    reduced = other in defined and defined[other].opcode.startswith("fma")
    return not (reduced and ".ftz" in instruction.opcode)


def _constant(operand: str, defined: dict[str, _Instruction]) -> str:
    """The literal an operand stands for, looking through one `mov`."""
    source = defined.get(operand)
    if source is not None and source.opcode.startswith("mov"):
        return source.operands.split(",")[-1].strip()
    return operand


def _libdevice_calls(ttir: str) -> frozenset[str]:
    """Names of the libdevice functions a kernel calls, without the `f` of the fp32 variants."""
    names = _TTIR_SYMBOL.findall(ttir)
    return frozenset(names) | frozenset(n.removesuffix("f") for n in names)


def _approximate_ttir(ttir: str) -> list[str]:
    found = []
    for line in ttir.splitlines():
        match = _TTIR_APPROXIMATE.search(line)
        if match is not None:
            found.append(re.sub(r"\s*loc\(.*", "", line).strip())
    return found
