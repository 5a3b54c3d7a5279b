"""Scalar expressions as text: `add(relu(a), log1p(exp(neg(abs(a)))))`.

Expansions in the operation table and rewrite rules are written this way. The text is parsed once, with Python's own
parser but a grammar of nested calls, variables and numbers only; nothing is ever evaluated as Python.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias


@dataclass(frozen=True)
class Variable:
    """A free variable: `a`, `b`, `c` are the operands of an expansion."""

    name: str


@dataclass(frozen=True)
class Number:
    """A literal. It takes the dtype and shape of the values it meets."""

    value: float


@dataclass(frozen=True)
class Apply:
    """An operation of the table over expressions."""

    op: str
    args: tuple[Expression, ...]


Expression: TypeAlias = Variable | Number | Apply

_NAMED = {"inf": float("inf"), "nan": float("nan")}
_KEYWORD = re.compile(r"\b(and|or|not)(?=\s*\()")  # operations whose names Python keeps for itself


INFIX = {
    "add": ("+", 1),
    "sub": ("-", 1),
    "mul": ("*", 2),
    "div": ("/", 2),
    "eq": ("==", 0),
    "ne": ("!=", 0),
    "lt": ("<", 0),
    "le": ("<=", 0),
    "gt": (">", 0),
    "ge": (">=", 0),
    "and": ("&", 0),
    "or": ("|", 0),
    "xor": ("^", 0),
    "lshift": ("<<", 0),
    "rshift": (">>", 0),
}
"""Operations that people write between their operands: the sign, and how tightly it binds."""


def levels(op: str) -> tuple[int, int]:
    """How tightly each operand of an operation of INFIX must bind to stand there without brackets."""
    _, rank = INFIX[op]
    return (rank, rank + (op in ("sub", "mul", "div"))) if rank else (1, 1)


@cache
def parse(text: str) -> Expression:
    """The expression a text stands for.

    Raises:
        ValueError: the text holds anything but calls, names and numbers.
    """
    return _convert(ast.parse(_KEYWORD.sub(r"\1_", text), mode="eval").body, text)


def _convert(node: ast.expr, text: str) -> Expression:
    if isinstance(node, ast.Name):
        return Number(_NAMED[node.id]) if node.id in _NAMED else Variable(node.id)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return Number(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _convert(node.operand, text)
        if isinstance(inner, Number):
            return Number(-inner.value)
    if not isinstance(node, ast.Call):
        raise ValueError(f"not an expression of operations: {ast.unparse(node)!r} in {text!r}")
    if not isinstance(node.func, ast.Name) or node.keywords:
        raise ValueError(f"not an operation: {ast.unparse(node)!r} in {text!r}")
    return Apply(node.func.id.rstrip("_"), tuple(_convert(arg, text) for arg in node.args))


def operations(expression: Expression) -> Iterator[str]:
    """The name of every operation used, with repetitions."""
    if isinstance(expression, Apply):
        yield expression.op
        for arg in expression.args:
            yield from operations(arg)


def variables(expression: Expression) -> Iterator[str]:
    """The name of every variable used, with repetitions."""
    if isinstance(expression, Variable):
        yield expression.name
    elif isinstance(expression, Apply):
        for arg in expression.args:
            yield from variables(arg)
