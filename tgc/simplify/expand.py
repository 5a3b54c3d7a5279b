"""Expansion: operations a backend has no primitive for, written in operations it has.

The operation table holds the expansions; `expansion64` is the one for float64 where it differs. Expansion is the last
pass before scheduling, and the only one that may bring in forms that are not differentiable everywhere (`abs` in
softplus): derivatives were taken of the whole operation. Afterwards only exact algebra runs, which does not turn
expansions back into what they expand.
"""

from __future__ import annotations

from tgc.errors import UnsupportedOpError
from tgc.ir.build import Builder
from tgc.ir.dtypes import DType
from tgc.ir.expressions import parse
from tgc.ir.nodes import Graph, Map, Node
from tgc.ir.ops import OPS
from tgc.ir.rewrite import rewrite
from tgc.ir.verify import verified
from tgc.simplify.products import share_products
from tgc.simplify.reciprocals import share_reciprocals
from tgc.simplify.rewriter import build_expression
from tgc.simplify.run import run_algebra

ALWAYS = frozenset({"where", "cast"})
"""What every backend renders itself."""

_DEPTH = 16
"""Expansions inside expansions; more means that two of them call each other."""

_ROUNDS = 4
"""Algebra may bring back an operation that is no primitive (a square); then both run again."""


@verified
def expand(graph: Graph, primitives: frozenset[str]) -> Graph:
    """The same function using only operations of `primitives`, `where` and `cast`.

    Raises:
        UnsupportedOpError: an operation has neither a primitive nor an expansion.
    """
    allowed = primitives | ALWAYS
    graph = share_products(share_reciprocals(graph))
    for _ in range(_ROUNDS):
        graph = run_algebra(_expanded(graph, allowed))
        if all(not isinstance(node, Map) or node.op in allowed for node in graph.nodes()):
            break
    else:
        graph = _expanded(graph, allowed)
    return graph


def _expanded(graph: Graph, allowed: frozenset[str]) -> Graph:
    maker = _Maker(graph.builder, allowed)

    def visit(node: Node) -> Node | None:
        if not isinstance(node, Map) or node.op in allowed:
            return None
        return maker.expansion(node)

    return rewrite(graph, visit)


class _Maker:
    """Makes nodes of allowed operations only."""

    def __init__(self, builder: Builder, allowed: frozenset[str]) -> None:
        self.builder, self.allowed, self.depth = builder, allowed, 0

    def map(self, op: str, *args: Node, dtype: DType | None = None) -> Node:
        """As the builder's, expanded as needed."""
        node = self.builder.map(op, *args, dtype=dtype)
        return (
            self.expansion(node) if isinstance(node, Map) and node.op not in self.allowed else node
        )

    def expansion(self, node: Map) -> Node:
        """The node written in other operations."""
        text = OPS[node.op].expansion_for(node.args[-1].dtype.name)
        if text is None or self.depth > _DEPTH:
            raise UnsupportedOpError(
                f"this backend has neither a primitive nor an expansion for {node.op}",
                line=node.line,
            )
        self.depth += 1
        bindings = dict(zip("abc", node.args))
        result = build_expression(self.map, self.builder.like, parse(text), bindings, node.args[-1])
        self.depth -= 1
        return result
