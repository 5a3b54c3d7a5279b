"""Python expressions as small syntax trees, so that emitted source has the parentheses it needs and no others.

Operation templates are parsed once, operands are put in as trees, and `ast.unparse` prints the result. Nothing here
knows Triton but for the spelling of its types.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

from tgc.ir.dtypes import DType
from tgc.ir.sizes import Atom, Dim, FloorDiv, PowerOfTwo, Size

Expr: TypeAlias = ast.expr

WIDTH = 100
"""Columns of emitted source."""

_PLACEHOLDER = re.compile(r"\{(\d)\}")


def name(identifier: str) -> Expr:
    return ast.Name(identifier)


def number(value: float | int | bool) -> Expr:
    """A literal that reads back to the same bits."""
    if isinstance(value, bool):
        return ast.Constant(value)
    if isinstance(value, float):
        if math.isnan(value):
            return call("float", ast.Constant("nan"))
        if math.isinf(value):
            infinite = call("float", ast.Constant("inf"))
            return infinite if value > 0 else ast.UnaryOp(ast.USub(), infinite)
    if math.copysign(1.0, value) < 0:
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)


def call(function: str, *args: Expr, **keywords: Expr) -> Expr:
    """`function(args, keyword=...)`; the function may be a dotted name."""
    named = [ast.keyword(key, value) for key, value in keywords.items()]
    return ast.Call(dotted(function), list(args), named)


def dotted(path: str) -> Expr:
    """`tl.float32` and the like."""
    first, *rest = path.split(".")
    node = name(first)
    for attribute in rest:
        node = ast.Attribute(node, attribute)
    return node


def method(target: Expr, function: str, *args: Expr) -> Expr:
    return ast.Call(ast.Attribute(target, function), list(args), [])


def template(text: str, *operands: Expr) -> Expr:
    """`template("({0} + {1})", a, b)`: the operands put into a template of the operation table."""
    filled: Expr = _fill(_parse(text), operands)
    return filled


def repeats_operand(text: str) -> bool:
    """Whether a template writes an operand twice (which should then be a name)."""
    found = _PLACEHOLDER.findall(text)
    return len(found) != len(set(found))


def is_call(text: str) -> bool:
    """Whether a template is a function call, as opposed to an operator."""
    return isinstance(_parse(text), ast.Call)


@cache
def _parse(text: str) -> Expr:
    return ast.parse(_PLACEHOLDER.sub(r"_operand_\1", text), mode="eval").body


def _fill(node: Any, operands: Sequence[Expr]) -> Any:
    if isinstance(node, ast.Name) and node.id.startswith("_operand_"):
        return operands[int(node.id[-1])]
    if isinstance(node, list):
        return [_fill(item, operands) for item in node]
    if not isinstance(node, ast.AST):
        return node
    return type(node)(**{field: _fill(value, operands) for field, value in ast.iter_fields(node)})


def text(node: Expr) -> str:
    """The source of an expression."""
    return ast.unparse(node).replace("'", '"')


def is_name(node: Expr) -> bool:
    return isinstance(node, ast.Name)


def is_sum(node: Expr) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub))


def wrapped(
    opening: str,
    groups: Sequence[Sequence[str]],
    closing: str,
    depth: int,
    *,
    trailing: str = ",",
) -> list[str]:
    """`f(a, b)` on one line if it fits, else each group of arguments on lines of its own."""
    indent, groups = "    " * depth, [group for group in groups if group]
    one = indent + opening + ", ".join(item for group in groups for item in group) + closing
    if len(one) <= WIDTH:
        return [one]
    inner = [line for group in groups for line in filled(group, f"{indent}    ")]
    inner[-1] = inner[-1].rstrip(",") + trailing
    return [indent + opening, *inner, indent + closing]


def filled(items: Sequence[str], indent: str) -> list[str]:
    """Items separated by commas, as many on a line as fit, with a comma after the last."""
    lines = [indent]
    for item in items:
        if len(lines[-1]) + len(item) + 2 > WIDTH and lines[-1] != indent:
            lines.append(indent)
        lines[-1] += item + ", "
    return [line.rstrip() for line in lines]


# --- sums, products, indexing ---------------------------------------------------------------------------------------


def product(left: Expr | None, right: Expr) -> Expr:
    """`left * right`; None is 1."""
    return right if left is None else ast.BinOp(left, ast.Mult(), right)


def sum_of(parts: Sequence[tuple[int, Expr]]) -> Expr | None:
    """The sum of signed parts, one with a plus sign first where there is one; None if there are none."""
    ordered = list(parts)
    if ordered and ordered[0][0] < 0:
        ordered.sort(key=lambda part: -part[0])
    total: Expr | None = None
    for sign, part in ordered:
        if total is None:
            total = part if sign > 0 else ast.UnaryOp(ast.USub(), part)
        else:
            total = ast.BinOp(total, ast.Add() if sign > 0 else ast.Sub(), part)
    return total


def expand(node: Expr, own: Sequence[str], wanted: Sequence[str]) -> Expr:
    """A tile over the axes `own` indexed with `[:, None]` where axes of `wanted` are missing; a scalar stays."""
    if not own or tuple(own) == tuple(wanted):
        return node
    marks: list[Expr] = [
        ast.Slice() if axis in own else ast.Constant(value=None) for axis in wanted
    ]
    return ast.Subscript(node, ast.Tuple(marks, ast.Load()))


def dim(value: Dim, names: Mapping[Dim, str]) -> Expr:
    """A size as an expression: `names` holds the identifiers of sizes that have one (symbols among them)."""
    if isinstance(value, int):
        return number(value)
    if value in names:
        return name(names[value])
    parts = [(1 if c > 0 else -1, _monomial(m, abs(c), names)) for m, c in value.terms]
    total = sum_of(parts)
    assert total is not None
    return total


def _monomial(atoms: tuple[Atom, ...], coefficient: int, names: Mapping[Dim, str]) -> Expr:
    factors = [_atom(atom, names) for atom in atoms]
    if coefficient != 1 or not factors:
        factors.insert(0, number(coefficient))
    result: Expr | None = None
    for factor in factors:
        result = product(result, factor)
    assert result is not None
    return result


def _atom(atom: Atom, names: Mapping[Dim, str]) -> Expr:
    if isinstance(atom, str):
        return name(names.get(Size.symbol(atom), atom))
    if isinstance(atom, PowerOfTwo):
        return call("lanes", dim(atom.value, names))
    numerator, denominator = atom.numerator, atom.denominator
    if _rounds_up(numerator, denominator):
        up = dim(numerator - (denominator - 1), names)
        return call("triton.cdiv", up, dim(denominator, names))
    return ast.BinOp(dim(numerator, names), ast.FloorDiv(), dim(denominator, names))


def _rounds_up(numerator: Dim, denominator: Dim) -> bool:
    """Whether `numerator // denominator` reads better as a division rounded up."""
    if isinstance(numerator, int):
        return False
    rest = dict(numerator.terms)
    if isinstance(denominator, int):
        return rest.get((), 0) >= denominator - 1 > 0
    return rest.get((), 0) < 0 and all(rest.get(m, 0) >= c for m, c in denominator.terms)


def subsizes(size: Dim) -> Iterator[Dim]:
    """The sizes that the expression of a size is written with, innermost first, itself last."""
    if isinstance(size, int):
        return
    for monomial, _ in size.terms:
        for atom in monomial:
            if isinstance(atom, PowerOfTwo):
                yield from subsizes(atom.value)
            elif isinstance(atom, FloorDiv):
                up = _rounds_up(atom.numerator, atom.denominator)
                numerator = atom.numerator - (atom.denominator - 1) if up else atom.numerator
                yield from subsizes(numerator)
                yield from subsizes(atom.denominator)
    yield size


# --- the spelling of types ------------------------------------------------------------------------------------------

_SIGNATURE = {
    "float64": "fp64",
    "float32": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "bool": "i1",
    "uint8": "u8",
}


def triton_type(dtype: DType) -> Expr:
    """`tl.float32`; a bool is `tl.int1`."""
    return dotted("tl.int1" if dtype.kind == "bool" else f"tl.{dtype.name}")


def signature_type(dtype: DType) -> str:
    """As Triton writes it in a signature: `fp32`, `i64`, `i1`."""
    return _SIGNATURE.get(dtype.name, f"i{8 * dtype.itemsize}")
