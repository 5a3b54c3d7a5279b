"""Rewrite rules as data, and the matcher that runs them.

A rule is two texts over operations of the table: `Rule("softplus", "log(add(1, exp(a)))", "softplus(a)", "rounding")`.
In a pattern a letter stands for any value (the same value wherever it recurs), `k`, `k1`, `k2` for constants, and a
number for a constant of exactly that value; a number in a replacement takes the dtype of the values it meets.
Operands of commutative operations match in either order.

What a rule may change is its class:

| class | the result |
|---|---|
| `bits` | is the same to the bit (which NaN it is aside) |
| `rounding` | is as accurate or more so; NaN, infinities and signs of zero stay, or come closer to the exact value |
| `regroup` | is as accurate for operands of ordinary size, by the distributive law or another order of factors |
| `zeros` | may have another sign of zero |
| `finite` | may differ where an operand or intermediate is infinite, NaN or outside the domain |

The first three always run, the others only under `fast_math`.

What `regroup` may do, and nothing else: round elsewhere; overflow or underflow elsewhere where the product of a few
operands comes near the limits of the type; give NaN for an infinity, or an infinity for a NaN, where a factor is
infinite or a divisor zero; and give another sign to a zero. It never makes a finite result of ordinary operands
infinite or NaN, nor a number of what was neither, but where a divisor that two quotients share cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TypeAlias

from tgc.ir.expressions import Apply, Expression, Number, Variable, parse
from tgc.ir.nodes import Const, Leaf, Map, Node
from tgc.ir.ops import OPS

Bindings: TypeAlias = dict[str, Node]
Matcher: TypeAlias = Callable[[Node, Bindings], bool]

CLASSES = ("bits", "rounding", "regroup", "zeros", "finite")
STRICT = frozenset({"bits", "rounding", "regroup"})


@dataclass(frozen=True)
class Rule:
    """One rewrite of scalar operations.

    Attributes:
        name: as in reports of what was rewritten.
        pattern, replacement: expression texts; see the module's docstring.
        exact: the class.
        where: a further condition on what the letters matched.
        kinds: dtype kinds of the operands for which the rule holds.
    """

    name: str
    pattern: str
    replacement: str
    exact: str
    where: Callable[[Mapping[str, Node]], bool] | None = None
    kinds: tuple[str, ...] = ("float",)

    @property
    def head(self) -> str:
        """The operation the pattern starts with, read off its text."""
        return self.pattern.partition("(")[0].rstrip("_")

    @cached_property
    def root(self) -> Apply:
        """The pattern, parsed."""
        body = parse(self.pattern)
        if not isinstance(body, Apply) or self.exact not in CLASSES:
            raise ValueError(
                f"rule {self.name}: a pattern starts with an operation, and a class is one of {CLASSES}"
            )
        return body

    @cached_property
    def result(self) -> Expression:
        """The replacement, parsed."""
        return parse(self.replacement)

    @cached_property
    def matchers(self) -> tuple[Matcher, ...]:
        """One matcher for each order of commutative operands."""
        return tuple(_matcher(variant) for variant in dict.fromkeys(_orders(self.root)))

    @cached_property
    def size(self) -> int:
        """Operations, numbers and constants in the pattern: larger patterns are tried first."""
        return _size(self.root)

    def match(self, node: Node) -> Bindings | None:
        """What the letters stand for in `node`, or None if the rule does not apply."""
        if node.args[-1].dtype.kind not in self.kinds:
            return None
        for matcher in self.matchers:
            bindings: Bindings = {}
            if matcher(node, bindings) and (self.where is None or self.where(bindings)):
                return bindings
        return None


def constant(node: Node) -> float | int | bool | None:
    """The value of a constant of any shape; None for other nodes and for constants that are sizes."""
    if isinstance(node, Leaf) and isinstance(node.source, Const):
        value = node.source.value
        if isinstance(value, (bool, int, float)):
            return value
    return None


def to_twelve_digits(value: float) -> float:
    """A float32 constant computed from others: 16 bits more than its type has.

    So it is as good as exact, what two rules compute in two orders is one constant, and people can read it.
    """
    return float(f"{value:.12g}")


def is_negation(a: Node, b: Node) -> bool:
    """a is -b, or they are products with constants of opposite sign (as algebra leaves them)."""
    if not isinstance(a, Map):
        return False
    if a.op == "neg":
        return a.args[0] is b
    if a.op != "mul" or not isinstance(b, Map) or b.op != "mul" or a.args[1] is not b.args[1]:
        return False
    left, right = constant(a.args[0]), constant(b.args[0])
    return left is not None and right is not None and left == -right


def _size(expression: Expression) -> int:
    if isinstance(expression, Apply):
        return 2 + sum(_size(arg) for arg in expression.args)
    return int(isinstance(expression, Number) or expression.name.startswith("k"))


def _orders(expression: Expression) -> Iterator[Expression]:
    """The expression with operands of commutative operations in every order."""
    if not isinstance(expression, Apply):
        yield expression
        return
    for args in product(*(tuple(_orders(arg)) for arg in expression.args)):
        yield Apply(expression.op, args)
        spec = OPS.get(expression.op)
        if spec is not None and spec.commutes:
            yield Apply(expression.op, args[::-1])


def _matcher(expression: Expression) -> Matcher:
    if isinstance(expression, Number):
        return _number_matcher(expression.value)
    if isinstance(expression, Variable):
        return _variable_matcher(expression.name)
    op, parts = expression.op, [_matcher(arg) for arg in expression.args]
    negated = expression.args[0] if op == "neg" else None
    letter = negated.name if isinstance(negated, Variable) else None

    def match(node: Node, bindings: Bindings) -> bool:
        if letter is not None and letter in bindings and is_negation(node, bindings[letter]):
            return True
        if not isinstance(node, Map) or node.op != op:
            return False
        for part, arg in zip(parts, node.args):
            if not part(arg, bindings):
                return False
        return True

    return match


def _number_matcher(value: float) -> Matcher:
    negative = math.copysign(1.0, value) < 0

    def match(node: Node, bindings: Bindings) -> bool:
        found = constant(node)
        return found is not None and found == value and (math.copysign(1.0, found) < 0) == negative

    return match


def _variable_matcher(name: str) -> Matcher:
    only_constants = name.startswith("k")

    def match(node: Node, bindings: Bindings) -> bool:
        if only_constants and constant(node) is None:
            return False
        return bindings.setdefault(name, node) is node

    return match
