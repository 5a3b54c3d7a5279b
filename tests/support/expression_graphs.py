"""Graphs of scalar expression text, for tests of rewrite rules: operands become inputs `a`, `b`, ..."""

from __future__ import annotations

from collections.abc import Mapping

from tgc.ir.build import Builder
from tgc.ir.dtypes import DType, bool_
from tgc.ir.expressions import Apply, Expression, Variable, parse
from tgc.ir.nodes import Graph
from tgc.ir.sizes import Size
from tgc.simplify.rewriter import build_expression

COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


def operand_types(root: Apply, dtype: DType, compared: DType) -> dict[str, DType]:
    """The dtype each letter has if the operands of `root` have `dtype`; what is compared has `compared`."""
    found: dict[str, DType] = {}

    def walk(expression: Expression, wanted: DType) -> None:
        if isinstance(expression, Variable):
            found.setdefault(expression.name, wanted)
        elif isinstance(expression, Apply):
            inner = compared if expression.op in COMPARISONS else wanted
            for position, arg in enumerate(expression.args):
                condition = expression.op == "where" and position == 0
                walk(arg, bool_ if condition else inner)

    for position, arg in enumerate(root.args):
        walk(arg, bool_ if root.op == "where" and position == 0 else dtype)
    return found


def expression_graph(
    text: str,
    types: Mapping[str, DType],
    constants: Mapping[str, float] | None = None,
    model: DType | None = None,
) -> Graph:
    """The graph of an expression over vectors of one length; letters in `constants` are constants.

    Numbers that meet no operand take the dtype `model`.
    """
    builder = Builder()
    n = Size.symbol("n")
    constants = constants or {}
    inputs = {
        name: builder.input(name, dtype, (n,))
        for name, dtype in sorted(types.items())
        if name not in constants
    }
    bindings = dict(inputs) | {
        name: builder.const(value, types[name], (n,)) for name, value in constants.items()
    }
    typical = builder.const(0, model or next(iter(types.values())), (n,))
    root = build_expression(builder.map, builder.like, parse(text), bindings, typical)
    return builder.graph("expression", tuple(inputs.values()), (root,))
