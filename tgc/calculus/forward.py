"""Forward mode: from the graph of a function to the graph of its Jacobian-vector product.

Tangents are pushed up with the same derived partials that reverse mode pulls down with. A tangent that is
structurally zero is None and is never made.
"""

from __future__ import annotations

from tgc.calculus.cotangents import Cotangent, scaled, settle
from tgc.calculus.folds import fold_tangent
from tgc.calculus.reverse import MAX_NODES, check_targets, dependents, no_rule
from tgc.calculus.scalars import partials
from tgc.errors import DerivativeError
from tgc.ir.build import Builder
from tgc.ir.nodes import Fold, Graph, Input, Leaf, Map, Node, Put, Take, View, reachable


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
    found: dict[Node, Node] = dict(zip(targets, seeds))
    for node in sorted(active, key=lambda n: n.id):
        if node in found or isinstance(node, Leaf):
            continue
        with g.at(node.line):
            tangent = _tangent(g, node, [found.get(a) for a in node.args])
        if tangent is not None:
            found[node] = tangent
    tangents = tuple(found.get(o, g.like(o, 0)) for o in graph.outputs if o.dtype.is_float)
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


def _tangent(g: Builder, node: Node, tangents: list[Node | None]) -> Node | None:
    """The tangent of a node from those of its arguments."""
    if isinstance(node, Map):
        return _map_tangent(g, node, tangents)
    first = tangents[0]
    if first is None:
        return None
    if isinstance(node, View):
        return g.view(first, node.movement)
    if isinstance(node, Fold):
        return fold_tangent(g, node, first)
    if isinstance(node, Take):
        return g.take(first, node.args[1], axis=node.axis)
    if isinstance(node, Put):
        return g.put(first, node.args[1], axis=node.axis, extent=node.shape[node.axis])
    raise no_rule(node)  # type: ignore[arg-type]


def _map_tangent(g: Builder, node: Map, tangents: list[Node | None]) -> Node | None:
    if node.op == "cast":
        first = tangents[0]
        return None if first is None else g.cast(first, node.dtype)
    if node.op == "where":
        yes, no = (g.like(node, 0) if t is None else t for t in tangents[1:])
        return None if tangents[1] is tangents[2] is None else g.map("where", node.args[0], yes, no)
    total: Node | None = None
    for tangent, partial in zip(tangents, partials(g, node)):
        if tangent is None or partial is None:
            continue
        product = scaled(g, Cotangent(tangent), partial, finite=True)
        if product is not None:
            term = settle(g, product)
            total = term if total is None else g.map("add", total, term)
    return total
