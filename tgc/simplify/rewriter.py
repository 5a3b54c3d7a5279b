"""The engine of simplification: nodes are rebuilt bottom-up, and every node made on the way is settled at once.

Settling a node tries the rules for its kind until one applies; what the rule makes is made through the rewriter, and
so is settled too. One walk over a graph therefore reaches the fixpoint. A budget bounds the number of rewrites.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from tgc.errors import Line
from tgc.ir.dtypes import BY_NAME, DType, bool_, float64
from tgc.ir.expressions import Expression, Number, Variable
from tgc.ir.nodes import Fold, Graph, Leaf, Map, Movement, Node, reachable
from tgc.ir.references import scalar_reference
from tgc.simplify.patterns import STRICT, Bindings, Rule, constant, to_twelve_digits

Step: TypeAlias = "Callable[[Rewriter, Node], Node | None]"


@dataclass(frozen=True)
class Procedure:
    """A rewrite that is no expression of scalar operations: it looks at movements, folds or values of constants.

    `heads` are the heads (see `head`) of the nodes it looks at; `run` returns the replacement or None.
    """

    name: str
    heads: tuple[str, ...]
    exact: str
    run: Step


@dataclass(frozen=True)
class Rewrite:
    """One rewrite that happened: for reports."""

    rule: str
    line: Line | None

    def __str__(self) -> str:
        return self.rule if self.line is None else f"{self.rule} at {self.line}"


def head(node: Node) -> str:
    """What rules are indexed by: the operation of a Map, else the node's kind."""
    return node.op if isinstance(node, Map) else type(node).__name__


class RuleSet:
    """Rules and procedures by head. Patterns are parsed when a node of their head is met for the first time."""

    def __init__(
        self, rules: Iterable[Rule], procedures: Iterable[Procedure], *, fast_math: bool
    ) -> None:
        self._rules: dict[str, list[Rule]] = {}
        self._steps: dict[str, list[tuple[str, Step]]] = {}
        self._procedures = [p for p in procedures if fast_math or p.exact in STRICT]
        for rule in rules:
            if fast_math or rule.exact in STRICT:
                self._rules.setdefault(rule.head, []).append(rule)

    def steps(self, name: str) -> list[tuple[str, Step]]:
        """What may be tried on a node of this head: procedures, then rules, the most specific first."""
        found = self._steps.get(name)
        if found is None:
            rules = sorted(self._rules.get(name, ()), key=lambda rule: -rule.size)
            found = [(p.name, p.run) for p in self._procedures if name in p.heads]
            found += [(rule.name, _step(rule)) for rule in rules]
            self._steps[name] = found
        return found


def _step(rule: Rule) -> Step:
    def run(rewriter: Rewriter, node: Node) -> Node | None:
        bindings = rule.match(node)
        if bindings is None:
            return None
        return rewriter.expression(rule.result, bindings, node.args[-1])

    return run


@dataclass
class Rewriter:
    """One simplification of one graph.

    Attributes:
        graph: the graph being rewritten; new nodes go to its builder.
        rules: what is tried.
        budget: rewrites left.
        log: what was done.
        quotients: those of the graph's quotients a / c settled so far that are used more than once, by (a, c).
        results: the graph's results settled so far.
    """

    graph: Graph
    rules: RuleSet
    budget: int
    log: list[Rewrite] = field(default_factory=list)
    quotients: dict[tuple[Node, Node], Node] = field(default_factory=dict)
    results: list[Node] = field(default_factory=list)
    _settled: dict[Node, Node] = field(default_factory=dict)

    def run(self) -> Graph:
        """The graph with every node settled."""
        graph = self.graph
        values = tuple(value for _, value in graph.writes)
        done: dict[Node, Node] = {}
        nodes = reachable((*graph.outputs, *values))
        uses = Counter(a for node in nodes for a in node.args) + Counter(graph.outputs)
        for node in nodes:
            with graph.builder.at(node.line):
                done[node] = new = self._rebuilt(node, done)
            if isinstance(new, Map) and new.op == "div" and uses[node] > 1:
                self.quotients.setdefault((new.args[0], new.args[1]), new)
            if node in graph.outputs:
                self.results.append(new)
        outputs = tuple(done[node] for node in graph.outputs)
        writes = tuple((leaf, done[value]) for leaf, value in graph.writes)
        return replace(graph, outputs=outputs, writes=writes)

    def _rebuilt(self, node: Node, done: Mapping[Node, Node]) -> Node:
        if isinstance(node, Leaf):
            return node
        new = self.settle(self.graph.builder.remake(node, tuple(done[a] for a in node.args)))
        names = self.graph.builder.names
        if node in names:
            names.setdefault(new, names[node])
        return new

    def settle(self, node: Node) -> Node:
        """The normal form of a node whose arguments are in normal form."""
        known = self._settled.get(node)
        if known is not None:
            return known
        result = node
        for name, step in self.rules.steps(head(node)):
            new = step(self, node) if self.budget > 0 else None
            if new is not None and new is not node:
                self.budget -= 1
                self.log.append(Rewrite(name, node.line))
                result = new
                break
        self._settled[node] = self._settled[result] = result
        return result

    # --- making nodes: as the builder does, and settled ---

    def map(self, op: str, *args: Node, dtype: DType | None = None) -> Node:
        return self.settle(self.graph.builder.map(op, *args, dtype=dtype))

    def cast(self, x: Node, dtype: DType) -> Node:
        return self.settle(self.graph.builder.cast(x, dtype))

    def view(self, x: Node, movement: Movement) -> Node:
        return self.settle(self.graph.builder.view(x, movement))

    def fold(self, fold: Fold, x: Node, axes: tuple[int, ...] | None = None) -> Node:
        """`fold` over another operand and perhaps other axes."""
        axes = fold.axes if axes is None else axes
        builder = self.graph.builder
        return self.settle(
            builder.fold(
                fold.monoid, x, axes=axes, mode=fold.mode, output=fold.output, reverse=fold.reverse
            )
        )

    def like(self, node: Node, value: float | int | bool) -> Node:
        return self.graph.builder.like(node, value)

    def expression(self, expression: Expression, bindings: Bindings, model: Node) -> Node:
        """The nodes of an expression; numbers take the dtype of the values they meet, or else of `model`."""
        return build_expression(self._map_or_constant, self.like, expression, bindings, model)

    def _map_or_constant(self, op: str, *args: Node, dtype: DType | None = None) -> Node:
        """As `map`; what a rule makes of float constants keeps more digits than their type has."""
        values = [constant(arg) for arg in args]
        if dtype is not None or None in values or not args[-1].dtype.is_float:
            return self.map(op, *args, dtype=dtype)
        with np.errstate(all="ignore"):
            exact = float(scalar_reference(op)(*map(np.float64, values)))
        return self.like(args[-1], exact if args[-1].dtype is float64 else to_twelve_digits(exact))


def build_expression(
    make: Callable[..., Node],
    like: Callable[[Node, float], Node],
    expression: Expression,
    bindings: Mapping[str, Node],
    model: Node,
) -> Node:
    """The nodes of an expression, made by `make(op, *args)`; see `Rewriter.expression`.

    `cast_like(x, y)` converts x to the dtype of y, and `float32(x)` to the dtype of that name.
    """
    if isinstance(expression, Variable):
        return bindings[expression.name]
    if isinstance(expression, Number):
        return like(model, expression.value)
    made: list[Node | None] = [
        None if isinstance(arg, Number) else build_expression(make, like, arg, bindings, model)
        for arg in expression.args
    ]
    values = made[1:] if expression.op == "where" else made
    meet = next((value for value in values if value is not None), model)
    args = [
        like(meet, arg.value) if value is None and isinstance(arg, Number) else value
        for value, arg in zip(made, expression.args, strict=True)
    ]
    operands = [arg for arg in args if arg is not None]
    if expression.op == "cast_like":
        return make("cast", operands[0], dtype=operands[1].dtype)
    if expression.op in BY_NAME:
        return make("cast", operands[0], dtype=BY_NAME[expression.op])
    if expression.op == "where" and operands[0].dtype is not bool_:
        raise ValueError("the condition of where must be a predicate")
    return make(expression.op, *operands)
