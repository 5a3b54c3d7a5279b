"""Algebra of products: factors leave folds, common factors leave sums, and quotients that exist are used again.

A derivative is a sum of products that share factors, most of them one value per row: the quotient rule divides each of
its terms by the same divisor. These rules bring such a derivative to the form a person writes. They regroup: see the
class `regroup` in patterns.py. A `factor` is an operand of a tree of products, quotients and negations; broadcasts of
such trees are looked through, so that a / [s] and [b / s] share the divisor [s].

They end because each makes a measure smaller: hoisting, the work inside folds; extraction, the number of products and
quotients; a constant moves from many elements to few; and reuse puts the oldest quotient of a product on top, once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tgc.ir.nodes import Broadcast, Const, Fold, Leaf, Map, Node, View
from tgc.simplify.folds import along_others
from tgc.simplify.multiples import is_scale
from tgc.simplify.patterns import Rule, constant
from tgc.simplify.rewriter import Procedure, Rewriter

PRODUCTS = ("mul", "div", "neg", "square")

DEPTH = 6
"""How deep a tree of products is searched."""


@dataclass(frozen=True)
class Factor:
    """An operand of a product, or of its divisor."""

    node: Node
    inverse: bool = False


def _stretched(node: Node) -> Node | None:
    """The source of a broadcast that is a product, so worth looking through."""
    if not isinstance(node, View) or not isinstance(node.movement, Broadcast):
        return None
    source = node.args[0]
    return source if isinstance(source, Map) and source.op in PRODUCTS else None


def _opens(rewriter: Rewriter, node: Node, depth: int) -> bool:
    """Whether a product is looked into: one that others use as well is kept whole, unless it is what was asked for."""
    if not isinstance(node, Map) or node.op not in PRODUCTS:
        return False
    if node.op != "div" or depth == DEPTH:
        return True
    return rewriter.quotients.get((node.args[0], node.args[1])) is not node


def factors(
    rewriter: Rewriter,
    node: Node,
    *,
    inverse: bool = False,
    depth: int = DEPTH,
    through: bool = True,
) -> Iterator[Factor]:
    """The factors of a product; a value that is none is its own only factor, and so is a quotient used elsewhere.

    A divisor that is a product comes as a whole, too, before its parts: what is divided by it once need not be divided
    twice. `through` looks through broadcasts.
    """
    if depth and _opens(rewriter, node, depth):
        assert isinstance(node, Map)
        yield from factors(
            rewriter, node.args[0], inverse=inverse, depth=depth - 1, through=through
        )
        if node.op != "neg":
            flipped, last = inverse != (node.op == "div"), node.args[-1]
            if flipped and isinstance(last, Map) and last.op in ("mul", "square"):
                yield Factor(last, inverse=True)
            yield from factors(rewriter, last, inverse=flipped, depth=depth - 1, through=through)
        return
    yield Factor(node, inverse)
    source = _stretched(node) if depth and through else None
    if source is None:
        return
    for factor in factors(rewriter, source, inverse=inverse, depth=depth - 1):
        yield Factor(rewriter.view(factor.node, node.movement), factor.inverse)  # type: ignore[attr-defined]


def without(rewriter: Rewriter, node: Node, factor: Factor, depth: int = DEPTH) -> Node | None:
    """The product with one occurrence of a factor taken out, or None if it has none."""
    if node is factor.node and not factor.inverse:
        return rewriter.like(node, 1)
    if not depth:
        return None
    if _opens(rewriter, node, depth):
        return _without(rewriter, node, factor, depth - 1)
    source = _stretched(node)
    if source is None:
        return None
    assert isinstance(node, View)
    small = _before(rewriter, factor.node, node)
    rest = small and without(rewriter, source, Factor(small, factor.inverse), depth - 1)
    return rest and rewriter.view(rest, node.movement)


def _without(rewriter: Rewriter, node: Node, factor: Factor, depth: int) -> Node | None:
    assert isinstance(node, Map)
    a, b = node.args[0], node.args[-1]
    if node.op == "neg":
        rest = without(rewriter, a, factor, depth)
        return rest and rewriter.map("neg", rest)
    if node.op == "square":
        rest = without(rewriter, a, factor, depth)
        return rest and rewriter.map("mul", rest, a)
    if node.op == "div":
        if b is factor.node and factor.inverse:
            return a
        rest = without(rewriter, b, Factor(factor.node, not factor.inverse), depth)
        if rest is not None:
            return rewriter.map("div", a, rest)
        # 1 / b is no cheaper than a / b.
        rest = None if a is factor.node else without(rewriter, a, factor, depth)
        return rest and rewriter.map("div", rest, b)
    # Values of a row first: a quotient of full size that others use stays whole.
    for part, other in ((b, a), (a, b)) if isinstance(b, View) else ((a, b), (b, a)):
        rest = without(rewriter, part, factor, depth)
        if rest is not None:
            return rewriter.map("mul", other, rest)
    return None


def _before(rewriter: Rewriter, node: Node, view: View) -> Node | None:
    """What `view`'s movement makes `node` of."""
    if isinstance(node, View) and node.movement == view.movement:
        return node.args[0] if node.args[0].shape == view.args[0].shape else None
    if isinstance(node, Leaf) and isinstance(node.source, Const):
        return rewriter.graph.builder.const(node.source.value, node.dtype, view.args[0].shape)
    return None


# --- folds --------------------------------------------------------------------------------------


def fold_of_product(rewriter: Rewriter, node: Node) -> Node | None:
    """A factor that is the same along the folded axes leaves the sum."""
    if not isinstance(node, Fold) or node.monoid != "sum" or node.mode != "reduce":
        return None
    x = node.args[0]
    if not isinstance(x, Map) or x.op not in PRODUCTS:
        return None
    if x.op == "neg":
        return rewriter.map("neg", rewriter.fold(node, x.args[0]))
    for factor in factors(rewriter, x):
        if factor.inverse and not node.dtype.is_float:
            continue
        small = _outside(rewriter, factor.node, node.axes)
        rest = None if small is None else without(rewriter, x, factor)
        if small is not None and rest is not None:
            op = "div" if factor.inverse else "mul"
            return rewriter.map(op, rewriter.fold(node, rest), small)
    return None


def _outside(rewriter: Rewriter, node: Node, axes: tuple[int, ...]) -> Node | None:
    return along_others(rewriter, node, axes) if _is_plain(node) else None


def _is_plain(node: Node) -> bool:
    """No constant, or one that is finite and neither 0 nor 1 nor -1."""
    value = constant(node)
    return value is None or (math.isfinite(value) and abs(value) not in (0, 1))


# --- sums ---------------------------------------------------------------------------------------


def common_factor(rewriter: Rewriter, node: Node) -> Node | None:
    """a / s + b / s is (a + b) / s, and k * a + k * b is k * (a + b).

    A factor that both operands have inside a broadcast stays there: outside there is more work.
    """
    assert isinstance(node, Map)
    a, b = node.args
    if not node.dtype.is_float or not (_is_product(a) and _is_product(b)):
        return None
    for outside in (a, b):
        for factor in factors(rewriter, outside, through=False):
            left = without(rewriter, a, factor) if _is_plain(factor.node) else None
            right = None if left is None else without(rewriter, b, factor)
            if left is None or right is None:
                continue
            if not factor.inverse and (constant(left) is not None or constant(right) is not None):
                continue
            total = rewriter.map(node.op, left, right)
            return rewriter.map("div" if factor.inverse else "mul", total, factor.node)
    return None


def _is_product(node: Node) -> bool:
    return (isinstance(node, Map) and node.op in PRODUCTS) or bool(_stretched(node))


# --- quotients and exponentials that exist -------------------------------------------------------


def _above_and_below(rewriter: Rewriter, node: Node) -> list[tuple[Node, Node]]:
    """The pairs of a factor of a product and a factor of its divisor."""
    found = tuple(factors(rewriter, node))
    above = dict.fromkeys(f.node for f in found if not f.inverse)
    below = dict.fromkeys(f.node for f in found if f.inverse)
    return [(a, c) for c in below for a in above]


def reuse(rewriter: Rewriter, node: Node) -> Node | None:
    """a * (b / c) is (a / c) * b where a / c is computed anyway; the oldest such quotient is taken."""
    if not node.dtype.is_float or not rewriter.quotients:
        return None
    pairs = _above_and_below(rewriter, node)
    known = [(rewriter.quotients[p], p) for p in pairs if p in rewriter.quotients]
    if not known:
        return None
    quotient, (a, c) = min(known, key=lambda pair: pair[0].id)
    if quotient is node or quotient in node.args:
        return None
    return _on_top(rewriter, node, quotient, a, c)


def reuse_of_result(rewriter: Rewriter, node: Node) -> Node | None:
    """exp(x) / s is exp(x - log(s)) where x - log(s) is a result of the function: then nothing else is read.

    For a backward apart from its forward: together, exp(x) is there. What the result was rounded by comes back as a
    relative error of that size (torch does the same).
    """
    if not node.dtype.is_float or not rewriter.results:
        return None
    for a, c in _above_and_below(rewriter, node):
        for result in rewriter.results:
            if _is_logarithm(result, a, c):
                return _on_top(rewriter, node, rewriter.map("exp", result), a, c)
    return None


def _is_logarithm(node: Node, a: Node, c: Node) -> bool:
    """node is x - log(s) where a is exp(x) and c is s, broadcast."""
    if not (isinstance(node, Map) and node.op == "sub" and isinstance(a, Map) and a.op == "exp"):
        return False
    log = node.args[1]
    if node.args[0] is not a.args[0] or not isinstance(log, View) or not isinstance(c, View):
        return False
    inner = log.args[0]
    same = isinstance(inner, Map) and inner.op == "log" and inner.args[0] is c.args[0]
    return same and log.movement == c.movement


def _on_top(rewriter: Rewriter, node: Node, top: Node, a: Node, c: Node) -> Node | None:
    """The product `node` with its factor a / c written as `top`."""
    rest = without(rewriter, node, Factor(c, inverse=True))
    if isinstance(rest, Map) and rest.op == "div" and rest.args[0] is a:
        return rewriter.map("div", top, rest.args[1])
    rest = rest and without(rewriter, rest, Factor(a))
    return rest and rewriter.map("mul", top, rest)


# --- signs and constants of broadcasts ------------------------------------------------------------


def _negated(node: Node) -> Node | None:
    """The operand of a negation that was broadcast."""
    source = _stretched(node)
    return source.args[0] if isinstance(source, Map) and source.op == "neg" else None


def sign_of_broadcast(rewriter: Rewriter, node: Node) -> Node | None:
    """The sign of a broadcast value joins the sum or product it is in."""
    assert isinstance(node, Map)
    a, b = node.args
    for part, other in ((b, a), (a, b)):
        small = _negated(part)
        if small is None or (node.op == "sub" and part is a):
            continue
        plain = rewriter.view(small, part.movement)  # type: ignore[attr-defined]
        if node.op in ("add", "sub"):
            return rewriter.map("sub" if node.op == "add" else "add", other, plain)
        operands = (plain, b) if part is a else (a, plain)
        return rewriter.map("neg", rewriter.map(node.op, *operands))
    return None


def constant_to_broadcast(rewriter: Rewriter, node: Node) -> Node | None:
    """[c] * (k * a) is [k * c] * a: one product a row, not one an element."""
    assert isinstance(node, Map)
    for part, other in (node.args, node.args[::-1]):
        if not isinstance(other, Map) or other.op != "mul" or not _is_plain(other.args[0]):
            continue
        if (
            isinstance(part, View)
            and isinstance(part.movement, Broadcast)
            and constant(other.args[0]) is not None
        ):
            return rewriter.map("mul", rewriter.map("mul", other.args[0], part), other.args[1])
    return None


def divide_by_root(rewriter: Rewriter, node: Node) -> Node | None:
    """a * (1 / sqrt(v)) is a / sqrt(v), for special values too: one form for derivatives to meet."""
    assert isinstance(node, Map)
    for part, other in ((node.args[1], node.args[0]), node.args):
        inverse = _stretched(part) or part
        if not isinstance(inverse, Map) or inverse.op != "div" or constant(inverse.args[0]) != 1:
            continue
        root = inverse.args[1]
        if not isinstance(root, Map) or root.op != "sqrt" or constant(other) is not None:
            continue
        divisor = root if inverse is part else rewriter.view(root, part.movement)  # type: ignore[attr-defined]
        return rewriter.map("div", other, divisor)
    return None


RULES: tuple[Rule, ...] = (
    Rule("rsqrt", "rsqrt(a)", "div(1, sqrt(a))", "rounding"),
    # not the other way: a * exp(b) and a / exp(-b) overflow where this does not, and so does the derivative
    Rule("x*sigmoid", "div(a, add(1, exp(b)))", "mul(a, sigmoid(neg(b)))", "regroup"),
    Rule(
        "sum of masked k*x",
        "add(where(a, b, 0), mul(k, where(a, c, 0)))",
        "where(a, add(b, mul(k, c)), 0)",
        "bits",
        is_scale,
    ),
    Rule(
        "where of k*x or 0", "where(a, mul(k, b), 0)", "mul(k, where(a, b, 0))", "regroup", is_scale
    ),
    Rule(
        "where of 0 or k*x", "where(a, 0, mul(k, b))", "mul(k, where(a, 0, b))", "regroup", is_scale
    ),
    Rule("where of -x or 0", "where(a, neg(b), 0)", "neg(where(a, b, 0))", "regroup"),
    Rule("where of 0 or -x", "where(a, 0, neg(b))", "neg(where(a, 0, b))", "regroup"),
)

PROCEDURES: tuple[Procedure, ...] = (
    Procedure("quotient by a root", ("mul",), "rounding", divide_by_root),
    Procedure("factor out of a sum over axes", ("Fold",), "regroup", fold_of_product),
    Procedure("sign through a broadcast", ("add", "sub", "mul", "div"), "bits", sign_of_broadcast),
    Procedure("constant to a broadcast", ("mul",), "regroup", constant_to_broadcast),
    Procedure("reuse of a quotient", ("mul", "div"), "regroup", reuse),
    Procedure("common factor", ("add", "sub"), "regroup", common_factor),
)

IN_TWO: tuple[Procedure, ...] = (
    Procedure("reuse of a result", ("mul", "div"), "regroup", reuse_of_result),
)
"""For a function that becomes a forward and a backward, which share no more than what lies in memory."""
