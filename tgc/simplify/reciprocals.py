"""Division by a value of a row becomes one division a row and a product an element.

a / [s] divides each element by the same s; a * [1 / s] rounds once more (at most 1.5 ULP, where a division has 0.5) and
costs a quarter. It is done for divisors that a sum over axes went into, whose own rounding is larger, and of which it
is known that 1 / s neither overflows nor is denormal where s is finite: then zeros, infinities and NaN come out as
they do from the division. A user's x / 3 or x / scale stays a division. This is the last rewrite before operations
are expanded: derivatives and algebra want the quotient.
"""

from __future__ import annotations

from tgc.ir.nodes import Broadcast, Fold, Graph, Map, Node, View, reachable
from tgc.ir.rewrite import rewrite
from tgc.simplify.patterns import constant
from tgc.simplify.stability import ITSELF, is_shifted


def share_reciprocals(graph: Graph) -> Graph:
    """The same function with per-element divisions by such divisors written as products."""
    builder = graph.builder

    def visit(node: Node) -> Node | None:
        if not isinstance(node, Map) or not node.dtype.is_float:
            return None
        if node.op == "neg":
            return _signed(node)
        if node.op != "div" or not _repeats(node.args[1]):
            return None
        divisor = node.args[1]
        assert isinstance(divisor, View)
        source = divisor.args[0]
        if not is_moderate(source) or not _is_summed(source):
            return None
        inverse = builder.map("div", builder.like(source, 1), source)
        return builder.map("mul", node.args[0], builder.view(inverse, divisor.movement))

    def _signed(node: Map) -> Node | None:
        """-(a * [c]) is a * [-c]."""
        product = node.args[0]
        if not isinstance(product, Map) or product.op != "mul":
            return None
        for part, other in (product.args, product.args[::-1]):
            if _repeats(part):
                assert isinstance(part, View)
                return builder.map(
                    "mul", other, builder.view(builder.map("neg", part.args[0]), part.movement)
                )
        return None

    return rewrite(graph, visit)


def _repeats(node: Node) -> bool:
    """A broadcast that makes more elements."""
    if not isinstance(node, View) or not isinstance(node.movement, Broadcast):
        return False
    return sum(d != 1 for d in node.shape) > sum(d != 1 for d in node.args[0].shape)


def _is_summed(node: Node) -> bool:
    """A sum over axes lies below."""
    return any(isinstance(below, Fold) and below.monoid == "sum" for below in reachable((node,)))


def is_moderate(node: Node) -> bool:
    """Whether 1 / x neither overflows nor is denormal, unless x is zero, infinite or NaN.

    The square root of any number lies within 2^-75 and 2^64 (in float32); a sum of exponentials shifted by their
    maximum lies between 1 and the number of terms, or is 0 if all of them are.
    """
    if isinstance(node, View):
        return isinstance(node.movement, Broadcast) and is_moderate(node.args[0])
    if isinstance(node, Fold):
        x = node.args[0]
        is_exp = (
            isinstance(x, Map) and x.op == "exp" and node.monoid == "sum" and node.mode == "reduce"
        )
        return is_exp and is_shifted(x.args[0], node.axes, ITSELF)
    if not isinstance(node, Map) or not node.dtype.is_float or node.dtype.is_half:
        return False
    if node.op in ("add", "maximum", "clamp_min"):
        a, b = node.args
        value = constant(b)
        return value is not None and 2.0**-60 <= value <= 2.0**60 and is_moderate(a) and _is_root(a)
    return node.op == "sqrt"


def _is_root(node: Node) -> bool:
    while isinstance(node, View):
        node = node.args[0]
    return isinstance(node, Map) and node.op == "sqrt"
