"""Forward mode: from the graph of a function to the graph of its Jacobian-vector product.

Tangents are pushed up with the same derived partials that reverse mode pulls down with. A tangent that is
structurally zero is None and is never made.
"""

from __future__ import annotations

from tgc.calculus.chains import tangent
from tgc.calculus.cotangents import Cotangent, settle
from tgc.calculus.folds import fold_tangent
from tgc.calculus.reverse import MAX_NODES, check_targets, dependents, no_rule
from tgc.errors import DerivativeError
from tgc.ir.build import Builder
from tgc.ir.nodes import Fold, Graph, Input, Leaf, Map, Node, Put, Take, View, reachable
from tgc.ir.verify import verified


@verified
def jvp(graph: Graph, wrt: tuple[int, ...], name: str | None = None) -> Graph:
    """The function (inputs, tangents of `inputs[k] for k in wrt`) -> (outputs, tangents of the outputs).

    Tangents are inputs named t_<input>, with more leading t's where that is taken. An output that is not a float has
    no tangent and gets none.

    Raises:
        DerivativeError: an operation has no derivative rule, `wrt` names an input that is not a float, or the result
            would exceed MAX_NODES nodes.
    """
    g = graph.builder
    targets = tuple(graph.inputs[k] for k in wrt)
    check_targets(targets)
    active = dependents(graph, targets)
    seeds = tuple(
        g.input(name_, x.dtype, x.shape) for x, name_ in zip(targets, tangent_names(graph, wrt))
    )
    found: dict[Node, Cotangent] = {x: Cotangent(s) for x, s in zip(targets, seeds)}
    for node in sorted(active, key=lambda n: n.id):
        if node in found or isinstance(node, Leaf):
            continue
        with g.at(node.line):
            pushed = _tangent(g, node, [found.get(a) for a in node.args])
        if pushed is not None:
            found[node] = pushed
    tangents = tuple(
        settle(g, found[o]) if o in found else g.like(o, 0)
        for o in graph.outputs
        if o.dtype.is_float
    )
    outputs = (*graph.outputs, *tangents)
    if len(reachable(outputs)) > MAX_NODES:
        raise DerivativeError(f"the tangent of {graph.name} has more than {MAX_NODES} nodes")
    return g.graph(name or f"{graph.name}_jvp", (*graph.inputs, *seeds), outputs)


def tangent_names(graph: Graph, wrt: tuple[int, ...]) -> list[str]:
    """A name for the tangent of each input, distinct from the names of all inputs."""
    names = [leaf.source.name for leaf in graph.inputs if isinstance(leaf.source, Input)]
    prefix = "t_"
    while any(f"{prefix}{names[k]}" in names for k in wrt):
        prefix = f"t{prefix}"
    return [f"{prefix}{names[k]}" for k in wrt]


def _tangent(g: Builder, node: Node, tangents: list[Cotangent | None]) -> Cotangent | None:
    """The tangent of a node from those of its arguments."""
    if isinstance(node, Map):
        return tangent(g, node, tangents)
    if tangents[0] is None:
        return None
    first = settle(g, tangents[0])
    if isinstance(node, View):
        return Cotangent(g.view(first, node.movement))
    if isinstance(node, Fold):
        return Cotangent(fold_tangent(g, node, first))
    if isinstance(node, Take):
        return Cotangent(g.take(first, node.args[1], axis=node.axis))
    if isinstance(node, Put):
        return Cotangent(g.put(first, node.args[1], axis=node.axis, extent=node.shape[node.axis]))
    raise no_rule(node)  # type: ignore[arg-type]
