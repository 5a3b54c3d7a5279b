"""Kernels and plans as text that a person reads and `parse_plan` reads back.

    plan softmax(x) -> (y)
      in x: f32[n, m] strides [m, 1]
      out y: f32[n, m] strides [m, 1]
      size n = x.shape[0]
      size m = x.shape[1]
      kernel softmax_kernel(n, m)
        # y = exp(x - max) / sum
        grid r: n block 64
        lane c: m
        use x y
        x_1: f32[r, c] = load x[r*(m) + c]
        row_max: f32[r] = max(x_1) over c
        ...
        store y[r*(m) + c] over (r, c) = y_1

Statements are one line each; the body of a loop is indented, its folds follow it as `fold` lines.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from tgc.errors import Line
from tgc.ir.sizes import Dim, Size
from tgc.kernel.ir import (
    Axis,
    Binding,
    Buffer,
    Gathered,
    Guard,
    Index,
    Iota,
    Kernel,
    Launch,
    Load,
    Loop,
    Matmul,
    Op,
    Operand,
    Plan,
    Program,
    Quotient,
    Reduce,
    Statement,
    Store,
    Term,
)

INDENT = "  "


def print_plan(plan: Plan) -> str:
    """The text of a plan."""
    lines = [f"plan {plan.name}({', '.join(plan.inputs)}) -> ({', '.join(plan.outputs)})"]
    lines += [INDENT + _buffer(b) for b in plan.buffers]
    lines += [INDENT + _binding(b) for b in plan.bindings]
    lines += [INDENT + _guard(g) for g in plan.guards]
    lines += [f"{INDENT}write {given} = {output}" for given, output in plan.writes]
    for step in plan.steps:
        if isinstance(step, Launch):
            lines += _kernel(step.kernel, plan.buffers, INDENT)
        else:
            lines.append(INDENT + _matmul(step))
    return "\n".join(lines) + "\n"


def print_kernel(kernel: Kernel) -> str:
    """The text of a kernel, its buffers first."""
    return "\n".join([*map(_buffer, kernel.buffers), *_kernel(kernel, kernel.buffers, "")]) + "\n"


# --- plans ----------------------------------------------------------------------------------------


def _buffer(b: Buffer) -> str:
    alias = "" if b.alias is None else f" in {b.alias}"
    return f"{b.role} {b.name}: {b.dtype.short}{_dims(b.shape)} strides {_dims(b.strides)}{alias}"


def _dims(dims: tuple[Dim, ...]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def _binding(b: Binding) -> str:
    return f"size {b.name} = {b.buffer}.{'stride' if b.stride else 'shape'}[{b.dim}]"


def _guard(g: Guard) -> str:
    low = "" if g.low is None else f"{g.low} <= "
    high = "" if g.high is None else f" <= {g.high}"
    return f"guard {low}({g.size}){high}"


def _matmul(step: Matmul) -> str:
    return f"matmul {json.dumps(step.subscripts)} {step.a} {step.b} -> {step.out} in {step.dtype.short}"


# --- kernels --------------------------------------------------------------------------------------


def _kernel(kernel: Kernel, known: tuple[Buffer, ...], indent: str) -> list[str]:
    inner = indent + INDENT
    lines = [f"{indent}kernel {kernel.name}({', '.join(kernel.sizes)})"]
    lines += [f"{inner}# {line}" for line in kernel.formula]
    lines += [inner + _axis(a) for a in kernel.axes]
    # A kernel sees the plan's buffers; one that differs is written out.
    lines.append(f"{inner}use {' '.join(b.name for b in kernel.buffers)}".rstrip())
    lines += [inner + _buffer(b) for b in kernel.buffers if b not in known]
    return lines + [inner + line for line in print_body(kernel.body)]


def _axis(a: Axis) -> str:
    block = (
        ""
        if a.block is None
        else f" block ({a.block})"
        if isinstance(a.block, Size)
        else f" block {a.block}"
    )
    split = "" if a.split is None else f" split ({a.split})"
    return f"{a.kind} {a.name}: ({a.extent}){block}{split}"


def print_body(body: tuple[Statement, ...]) -> Iterator[str]:
    """The lines of some statements."""
    for s in body:
        if not isinstance(s, Loop):
            yield print_statement(s)
            continue
        yield f"loop {s.axis}"
        for line in print_body(s.body):
            yield INDENT + line
        for fold in s.folds:
            yield f"fold {print_statement(fold)}"


def print_statement(s: Load | Iota | Op | Reduce | Store) -> str:
    """One statement that is not a loop."""
    if isinstance(s, Store):
        return f"store {s.buffer}{index_text(s.index)} over ({', '.join(s.axes)}) = {_operand(s.value)}"
    head = f"{s.name}: {s.dtype.short}[{', '.join(s.axes)}] = "
    if isinstance(s, Load):
        mask = "" if s.mask is None else f" if {s.mask} else {_number(s.fill)}"
        return f"{head}load {s.buffer}{index_text(s.index)}{mask}"
    if isinstance(s, Iota):
        return f"{head}iota {index_text(s.index)}"
    if isinstance(s, Op):
        return f"{head}{s.op}({', '.join(map(_operand, s.args))}){_line(s.line)}"
    return f"{head}fold {s.monoid}({_operand(s.value)}) over ({', '.join(s.over)}){_line(s.line)}"


def index_text(index: Index) -> str:
    """An index: `[r*(m) + c; 3]` is r*m + c + 3, `[]` is 0."""
    terms = " + ".join(_term(t) + ("" if c == 1 else f"*({c})") for t, c in index.terms)
    offset = "" if index.offset == 0 else f"; {index.offset}"
    return f"[{terms}{offset}]"


def _term(term: Term) -> str:
    if isinstance(term, str):
        return term
    if isinstance(term, Program):
        return f"@program({term.axis})"
    if isinstance(term, Gathered):
        return f"@value({term.value}, {term.extent})"
    name = "quotient" if isinstance(term, Quotient) else "remainder"
    return f"@{name}({index_text(term.index)}, {term.divisor})"


def _operand(operand: Operand) -> str:
    if isinstance(operand, str):
        return operand
    value = operand.value
    text = f"{{{value}}}" if isinstance(value, Size) else _number(value)
    return f"{text}:{operand.dtype.short}"


def _number(value: bool | int | float | Dim) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return repr(value)


def _line(line: Line | None) -> str:
    return "" if line is None else f"  # {json.dumps([line.file, line.number, line.text])}"
