"""Constant factors: one normal form for multiples of a value, so that derivatives find what they have in common.

A derivative is full of 2 x and -2 x, -t and t. Constants leave products (x * (k * y) is k * (x * y)), a sum of
multiples by powers of two is a multiple of a sum with small factors, minus signs become subtractions, and terms that
are multiples of one value are added up. Two values that are proportional then differ in their outermost factor alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from tgc.ir.nodes import Map, Node
from tgc.simplify.algebra import is_no_shift
from tgc.simplify.patterns import Rule, constant
from tgc.simplify.rewriter import Procedure, Rewriter

ALIKE = 8.0
"""Terms of a longer sum are added up if they are multiples by factors that differ no more than that."""


def is_scale(bound: Mapping[str, Node]) -> bool:
    """k neither overflows nor underflows what it multiplies, if that is of ordinary size."""
    value = constant(bound["k"])
    return value is not None and value != 0 and 2.0**-30 <= abs(value) <= 2.0**30


def _is_negative_scale(bound: Mapping[str, Node]) -> bool:
    value = constant(bound["k"])
    return value is not None and value < 0 and is_scale(bound)


def _leaves_shift(bound: Mapping[str, Node]) -> bool:
    return _is_negative_scale(bound) and is_no_shift(bound)


def _is_scale_of_value(bound: Mapping[str, Node]) -> bool:
    """A product of two constants and a value is not turned round for ever."""
    return is_scale(bound) and ("a" not in bound or constant(bound["a"]) is None)


def _by_power_of_two(bound: Mapping[str, Node]) -> bool:
    """k2 is k1 times 2, 4, 8 ... or the negative of that."""
    k1, k2 = constant(bound["k1"]), constant(bound["k2"])
    if not k1 or not k2 or not math.isfinite(k1) or not math.isfinite(k2) or abs(k1) == 1:
        return False
    return abs(k1) < abs(k2) and abs(math.frexp(k2 / k1)[0]) == 0.5


RULES: tuple[Rule, ...] = (
    Rule("x*(k*y)", "mul(a, mul(k, b))", "mul(k, mul(a, b))", "regroup", _is_scale_of_value),
    Rule("k*x/y", "div(mul(k, a), b)", "mul(k, div(a, b))", "regroup", is_scale),
    Rule("x*(y/k)", "mul(a, div(b, k))", "mul(div(1, k), mul(a, b))", "regroup", is_scale),
    Rule("x/k/y", "div(div(a, k), b)", "mul(div(1, k), div(a, b))", "regroup", is_scale),
    Rule("x/y/k", "div(div(a, b), k)", "mul(div(1, k), div(a, b))", "regroup", is_scale),
    Rule("(x/z)/(y/z)", "div(div(a, c), div(b, c))", "div(a, b)", "regroup"),
    Rule("x+-k*y", "add(a, mul(k, b))", "sub(a, mul(neg(k), b))", "bits", _is_negative_scale),
    Rule("x--k*y", "sub(a, mul(k, b))", "add(a, mul(neg(k), b))", "bits", _is_negative_scale),
    Rule("-k*x-y", "sub(mul(k, a), b)", "neg(add(mul(neg(k), a), b))", "regroup", _leaves_shift),
    Rule(
        "k1*x+k2*y",
        "add(mul(k1, a), mul(k2, b))",
        "mul(k1, add(a, mul(div(k2, k1), b)))",
        "regroup",
        _by_power_of_two,
    ),
    Rule(
        "k1*x-k2*y",
        "sub(mul(k1, a), mul(k2, b))",
        "mul(k1, sub(a, mul(div(k2, k1), b)))",
        "regroup",
        _by_power_of_two,
    ),
    Rule(
        "k2*x-k1*y",
        "sub(mul(k2, a), mul(k1, b))",
        "mul(k1, sub(mul(div(k2, k1), a), b))",
        "regroup",
        _by_power_of_two,
    ),
)


class Multiple(NamedTuple):
    """k * node."""

    k: float
    node: Node

    @staticmethod
    def of(node: Node, sign: float = 1.0) -> Multiple:
        """A value as a multiple of the value without its constant factor."""
        if isinstance(node, Map) and node.op == "neg":
            return Multiple.of(node.args[0], -sign)
        if isinstance(node, Map) and node.op == "mul":
            value = constant(node.args[0])
            if value and math.isfinite(value):
                return Multiple(sign * value, node.args[1])
        return Multiple(sign, node)

    def times(self, sign: float) -> Multiple:
        return Multiple(sign * self.k, self.node)


def like_terms(rewriter: Rewriter, node: Node) -> Node | None:
    """k1 * a + k2 * a is (k1 + k2) * a, and (b + k1 * a) + k2 * a is b + (k1 + k2) * a.

    Terms have one sign, since what cancels is NaN for an infinite a, and in longer sums they are of like size:
    (x - n * high) - n * low has its order for a reason, and so has (t - s) - y.
    """
    assert isinstance(node, Map)
    if not node.dtype.is_float:
        return None
    sign = -1.0 if node.op == "sub" else 1.0
    a, b = Multiple.of(node.args[0]), Multiple.of(node.args[1], sign)
    if a.node is b.node:
        return _value(rewriter, Multiple(a.k + b.k, a.node)) if a.k * b.k > 0 else None
    for total, other in ((a, b), (b, a)):
        terms = _terms(total)
        for known, rest in (terms, terms[::-1]) if terms else ():
            if known.node is other.node and 1 / ALIKE <= known.k / other.k <= ALIKE:
                return _sum(rewriter, rest, Multiple(known.k + other.k, known.node))
    return None


def _terms(total: Multiple) -> tuple[Multiple, Multiple] | None:
    """The two terms of a sum."""
    node = total.node
    if not isinstance(node, Map) or node.op not in ("add", "sub") or abs(total.k) != 1:
        return None
    sign = -1.0 if node.op == "sub" else 1.0
    a, b = Multiple.of(node.args[0], total.k), Multiple.of(node.args[1], sign * total.k)
    return a, b


def _sum(rewriter: Rewriter, a: Multiple, b: Multiple) -> Node:
    if a.k < 0 < b.k:
        a, b = b, a
    if a.k < 0:
        return rewriter.map("neg", _sum(rewriter, a.times(-1), b.times(-1)))
    op = "add" if b.k > 0 else "sub"
    return rewriter.map(op, _value(rewriter, a), _value(rewriter, b.times(1 if b.k > 0 else -1)))


def _value(rewriter: Rewriter, a: Multiple) -> Node:
    return a.node if a.k == 1 else rewriter.map("mul", rewriter.like(a.node, a.k), a.node)


PROCEDURES: tuple[Procedure, ...] = (
    Procedure("like terms", ("add", "sub"), "regroup", like_terms),
)
