"""The partials of one Map node: those derived from the table, and the subgradient of a norm.

sqrt has an infinite derivative at 0, which is right for sqrt(x), but not where its operand is a sum of squares: a
norm is Lipschitz, 0 is one of its subgradients at the origin, and inf * 0 would be NaN. Whether an operand is a sum
of squares is read off the graph, so this holds for any way to write a norm: linalg.norm, std, sqrt(x*x + y*y).
"""

from __future__ import annotations

from tgc.calculus.cotangents import is_const
from tgc.calculus.derived import FINITE, PARTIALS
from tgc.ir.build import Builder
from tgc.ir.nodes import Const, Fold, Leaf, Map, Node, Pad, View
from tgc.ir.sizes import Size

ROOTS = frozenset({"sqrt", "rsqrt", "pow"})
"""Operations whose derivative by the first operand may be infinite at 0 and multiply a zero there."""


def differentiable(node: Map) -> bool:
    """Whether an operation has a derivative that is not zero everywhere."""
    return node.op in PARTIALS or node.op in ("where", "cast")


def finite(node: Map) -> bool:
    """Whether finite operands give finite partials."""
    return node.op in FINITE


def partials(g: Builder, node: Map) -> tuple[Node | None, ...]:
    """The partial by each operand, None for zero."""
    if node.op not in PARTIALS:
        return (None,) * len(node.args)
    found = PARTIALS[node.op](g, *node.args, node)
    first = node.args[0]
    if node.op in ROOTS and found[0] is not None and is_sum_of_squares(first):
        at_zero = g.map("eq", first, g.like(first, 0))
        return (g.map("where", at_zero, g.like(first, 0), found[0]), *found[1:])
    return found


def is_sum_of_squares(node: Node, depth: int = 32) -> bool:
    """Whether a value is visibly >= 0 with a derivative that vanishes where it is 0."""
    if depth == 0:
        return False
    if isinstance(node, View):
        return not isinstance(node.movement, Pad) and is_sum_of_squares(node.args[0], depth - 1)
    if isinstance(node, Fold):
        return (
            node.monoid == "sum"
            and node.mode == "reduce"
            and is_sum_of_squares(node.args[0], depth - 1)
        )
    if not isinstance(node, Map):
        return False
    if node.op == "square":
        return True
    if node.op in ("mul", "div") and _is_positive(node.args[1]):
        return is_sum_of_squares(node.args[0], depth - 1)
    if node.op == "mul":
        a, b = node.args
        return a is b or (_is_positive(a) and is_sum_of_squares(b, depth - 1))
    if node.op == "pow":
        return any(is_const(node.args[1], k) for k in (2, 4, 6, 8))
    if node.op in ("add", "maximum"):
        return all(is_sum_of_squares(a, depth - 1) for a in node.args)
    return node.op == "cast" and is_sum_of_squares(node.args[0], depth - 1)


def _is_positive(node: Node) -> bool:
    """A positive constant; sizes are positive. A cast or a broadcast of one counts."""
    if isinstance(node, (View, Map)) and (isinstance(node, View) or node.op == "cast"):
        return _is_positive(node.args[0])
    if not isinstance(node, Leaf) or not isinstance(node.source, Const):
        return False
    value = node.source.value
    return isinstance(value, Size) or value > 0
