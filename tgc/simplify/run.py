"""Simplification: exact algebra and the stability rules, to the fixpoint."""

from __future__ import annotations

from functools import cache

from tgc.ir.nodes import Graph, Map, Node
from tgc.ir.rewrite import rewrite
from tgc.ir.verify import verified
from tgc.simplify import algebra, factors, folds, movements, multiples, stability
from tgc.simplify.rewriter import Rewrite, Rewriter, RuleSet

BUDGET_PER_NODE = 32
"""Rewrites allowed for each node of the graph: far above what rules that all make progress can need."""


_STRUCTURE = (*algebra.PROCEDURES, *movements.PROCEDURES)


@cache
def _all_rules(fast_math: bool, last: bool, in_two: bool) -> RuleSet:
    rules = (*algebra.RULES, *stability.RULES, *factors.RULES, *multiples.RULES)
    procedures = (
        *_STRUCTURE,
        *stability.PROCEDURES,
        *(() if last else stability.BEFORE_DERIVATIVES),
        *folds.PROCEDURES,
        *factors.PROCEDURES,
        *multiples.PROCEDURES,
        *(factors.IN_TWO if in_two else ()),
    )
    return RuleSet(rules, procedures, fast_math=fast_math)


@cache
def _algebra_rules() -> RuleSet:
    return RuleSet(algebra.RULES, _STRUCTURE, fast_math=False)


@verified
def simplify(
    graph: Graph,
    *,
    fast_math: bool = False,
    last: bool = False,
    in_two: bool = False,
    log: list[Rewrite] | None = None,
) -> Graph:
    """The same function, in a form that is cheaper, or keeps more digits, or both.

    Args:
        last: no derivative will be taken any more (see `drop_stop_gradient`).
        in_two: the graph will be split into a forward and a backward.
        fast_math: also rewrites that assume finite values and ignore the sign of zero.
        log: receives what was rewritten.
    """
    return _run(graph, _all_rules(fast_math, last, in_two), log)


def run_algebra(graph: Graph) -> Graph:
    """Exact algebra alone: what may still run once operations have been expanded."""
    return _run(graph, _algebra_rules(), None)


def _run(graph: Graph, rules: RuleSet, log: list[Rewrite] | None) -> Graph:
    rewriter = Rewriter(graph, rules, BUDGET_PER_NODE * (len(graph.nodes()) + 8))
    result = rewriter.run()
    if log is not None:
        log += rewriter.log
    return result


@verified
def drop_stop_gradient(graph: Graph) -> Graph:
    """Without the marks that only differentiation reads; for use when no derivative will be taken any more."""

    def visit(node: Node) -> Node | None:
        return node.args[0] if isinstance(node, Map) and node.op == "stop_gradient" else None

    return rewrite(graph, visit)
