"""Derivatives that a traced function takes are calls until something is compiled.

So a program whose kernels lie in the cache is found by the text of its graph, with the graphs it differentiates, and
is loaded without deriving anything. Here the calls become nodes like all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tgc.calculus.forward import jvp
from tgc.calculus.reverse import vjp
from tgc.ir.nodes import DERIVATIVES, Call, Graph, Node
from tgc.ir.rewrite import rewrite, substitute
from tgc.ir.verify import verified

Transform = Callable[[Graph], Graph]


@verified
def written_out(graph: Graph, simplify: Transform) -> Graph:
    """The same function without calls of derivatives: inner ones are taken first, each of a simplified graph.

    Raises:
        DerivativeError: an operation has no derivative rule, or a gradient would have too many nodes.
    """
    writer = _Writer(simplify)
    for inner in graph.called():
        writer.plain[inner] = rewrite(inner, writer.visit)
    return rewrite(graph, writer.visit)


class _Writer:
    """`plain` holds graphs whose own calls are written out, `made` the functions that calls name."""

    def __init__(self, simplify: Transform) -> None:
        self.simplify = simplify
        self.plain: dict[Graph, Graph] = {}
        self.made: dict[tuple[str, tuple[tuple[str, object], ...]], Graph] = {}
        self.results: dict[tuple[Graph, tuple[Node, ...]], tuple[Node, ...]] = {}

    def visit(self, node: Node) -> Node | None:
        """What a call stands for."""
        if not isinstance(node, Call) or node.name not in DERIVATIVES:
            return None
        function = self._function(node)
        key = (function, node.args)
        if key not in self.results:
            given: dict[Node, Node] = dict(zip(function.inputs, node.args, strict=True))
            self.results[key] = substitute(function, given).outputs
        return self.results[key][node.output]

    def _function(self, call: Call) -> Graph:
        """The function of the call's arguments."""
        found = self.made.get((call.name, call.params))
        if found is None:
            graph, wrt = (dict(call.params)[name] for name in ("graph", "wrt"))
            assert isinstance(graph, Graph) and isinstance(wrt, tuple)
            stable = self.simplify(self.plain[graph])
            if call.name == "vjp":
                found = vjp(stable, wrt)
            else:
                both = jvp(stable, wrt)
                found = replace(both, outputs=both.outputs[len(graph.outputs) :])
            self.made[call.name, call.params] = found
        return found
