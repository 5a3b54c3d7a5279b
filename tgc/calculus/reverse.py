"""Reverse mode: from the graph of a function to the graph of its vector-Jacobian product.

`vjp(graph, wrt)` is a pure function of the primals and the cotangents of the outputs. Derivative k + 1 is the vjp of
that function: what a backward pass saves is a cached value of one of its nodes, never an input of its own, or terms
of second derivatives would be lost. Gradients are made of the same node kinds as programs.

Cotangents that are structurally zero are never made; masks are handled in cotangents.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tgc.calculus.chains import Chains, derivative
from tgc.calculus.cotangents import (
    Cotangent,
    accumulate,
    composed,
    negation,
    scaled,
    settle,
    taken,
)
from tgc.calculus.folds import fold_adjoint
from tgc.calculus.movements import transposed
from tgc.calculus.scalars import differentiable, finite, partials
from tgc.errors import DerivativeError
from tgc.ir.build import Builder
from tgc.ir.nodes import Call, Fold, Graph, Leaf, Map, Node, Put, Take, View, reachable
from tgc.ir.verify import verified

MAX_NODES = 200_000


@verified
def vjp(graph: Graph, wrt: tuple[int, ...], name: str | None = None) -> Graph:
    """The function (inputs, cotangents of the outputs) -> cotangents of `inputs[k] for k in wrt`.

    Cotangents are inputs named g, or g_0, g_1 ... for several outputs; outputs that are not floats have none. If g is
    taken, as in the gradient of a gradient, they are named gg, ggg ...

    Raises:
        DerivativeError: an operation has no derivative rule, `wrt` names an input that is not a float, or the
            gradient would exceed MAX_NODES nodes.
    """
    seeds, cotangents = _reverse(graph, wrt)
    return _graph(graph, name or f"{graph.name}_vjp", seeds, cotangents)


@verified
def joint(graph: Graph, wrt: tuple[int, ...], name: str | None = None) -> Graph:
    """The function of the same inputs as `vjp` that returns the outputs and then the cotangents, sharing nodes."""
    seeds, cotangents = _reverse(graph, wrt)
    return _graph(graph, name or f"{graph.name}_joint", seeds, (*graph.outputs, *cotangents))


def _graph(graph: Graph, name: str, seeds: tuple[Leaf, ...], outputs: tuple[Node, ...]) -> Graph:
    if len(reachable(outputs)) > MAX_NODES:
        raise DerivativeError(
            f"the gradient of {graph.name} has more than {MAX_NODES} nodes",
            hint="take fewer orders at once, or use jvp for the inner derivatives",
        )
    return graph.builder.graph(name, (*graph.inputs, *seeds), outputs)


def _reverse(graph: Graph, wrt: tuple[int, ...]) -> tuple[tuple[Leaf, ...], tuple[Node, ...]]:
    """The cotangent inputs, and the cotangents of the inputs asked for."""
    g = graph.builder
    targets = tuple(graph.inputs[k] for k in wrt)
    check_targets(targets)
    active = dependents(graph, targets)
    seeds: list[Leaf] = []
    found: dict[Node, Cotangent] = {}
    for output, name in zip(graph.outputs, seed_names(graph)):
        if not output.dtype.is_float:
            continue
        seed = g.input(name, output.dtype, output.shape)
        seeds.append(seed)
        if output in active:
            _add(g, found, output, Cotangent(seed))
    _sweep(g, found, active, Chains(active, targets, set(graph.outputs)))
    results = tuple(settle(g, found[x]) if x in found else g.like(x, 0) for x in targets)
    for x, result in zip(targets, results):
        if not isinstance(result, Leaf):
            g.names.setdefault(result, f"d_{_name(x)}")
    return tuple(seeds), results


def _sweep(g: Builder, found: dict[Node, Cotangent], active: set[Node], chains: Chains) -> None:
    """From the outputs down: each node hands its cotangent to its arguments, a chain to its way in."""
    for node in sorted(active, key=lambda n: n.id, reverse=True):
        ct = found.get(node)
        if ct is None or isinstance(node, Leaf):
            continue
        chain = chains.longest(node)
        if chain is not None:
            start, nodes = chain
            factor = derivative(g, start, nodes)
            if factor is not None:
                safe = all(finite(n) for n in nodes if isinstance(n, Map))
                _add(g, found, start, composed(g, ct, factor, finite=safe))
            continue
        with g.at(node.line):
            for arg, contribution in zip(node.args, adjoints(g, node, ct, active)):
                if contribution is not None and arg in active:
                    _add(g, found, arg, contribution)


def _add(g: Builder, found: dict[Node, Cotangent], node: Node, ct: Cotangent) -> None:
    found[node] = accumulate(g, found[node], ct) if node in found else ct


def adjoints(
    g: Builder, node: Node, ct: Cotangent, active: set[Node]
) -> tuple[Cotangent | None, ...]:
    """What each argument of a node receives.

    Raises:
        DerivativeError: the node has no derivative rule.
    """
    if isinstance(node, Map):
        return _map_adjoints(g, node, ct, active)
    if isinstance(node, View):
        return (transposed(g, node, ct),)
    if isinstance(node, Fold):
        return (fold_adjoint(g, node, ct),)
    if isinstance(node, Take):
        return (_take_adjoint(g, node, settle(g, ct)), None)
    if isinstance(node, Put):
        return (Cotangent(g.take(settle(g, ct), node.args[1], axis=node.axis)), None)
    assert isinstance(node, Call)
    raise no_rule(node)


def no_rule(node: Call) -> DerivativeError:
    """The error for a library routine."""
    return DerivativeError(
        f"no derivative of {node.name}",
        line=node.line,
        hint="wrap its operands in tgc.stop_gradient",
    )


def _map_adjoints(
    g: Builder, node: Map, ct: Cotangent, active: set[Node]
) -> tuple[Cotangent | None, ...]:
    if node.op == "where":
        mask = node.args[0]
        return (None, taken(g, ct, mask), taken(g, ct, negation(g, mask)))
    if node.op == "cast":
        dtype = node.args[0].dtype
        return (replace(ct, value=g.cast(ct.value, dtype)),)
    return tuple(
        None if p is None or arg not in active else scaled(g, ct, p, finite=finite(node))
        for arg, p in zip(node.args, partials(g, node))
    )


def _take_adjoint(g: Builder, node: Take, t: Node) -> Cotangent:
    """One index per row is a comparison, which fuses; several are a scatter."""
    x, index = node.args
    if index.shape[node.axis] != 1:
        return Cotangent(g.put(t, index, axis=node.axis, extent=x.shape[node.axis]))
    here = g.map("eq", g.iota(node.axis, x.shape, index.dtype), g.broadcast(index, shape=x.shape))
    return Cotangent(g.broadcast(t, shape=x.shape), here)


def dependents(graph: Graph, targets: Iterable[Node]) -> set[Node]:
    """The float nodes whose value depends on the targets in a way that has a derivative.

    Raises:
        DerivativeError: the function writes such a value into one of its arguments.
    """
    active: set[Node] = set(targets)
    for node in graph.nodes():
        if isinstance(node, Leaf) or not node.dtype.is_float:
            continue
        if isinstance(node, Map) and not differentiable(node):
            continue
        if any(arg in active for arg in node.args):
            active.add(node)
    for leaf, value in graph.writes:
        if value in active:
            raise DerivativeError(
                f"{_name(leaf)} is written in place with a value that is being differentiated",
                line=value.line,
                hint="return the new value instead",
            )
    return active


def check_targets(targets: Iterable[Leaf]) -> None:
    """Raises DerivativeError for an input that is not a float."""
    for x in targets:
        if not x.dtype.is_float:
            raise DerivativeError(f"{_name(x)} is {x.dtype.name}: only floats have derivatives")


def seed_names(graph: Graph) -> list[str]:
    """A name for the cotangent of each output, distinct from the names of the inputs."""
    taken = {_name(x) for x in graph.inputs}
    count = len(graph.outputs)
    prefix = "g"
    while True:
        names = [prefix] if count == 1 else [f"{prefix}_{k}" for k in range(count)]
        if not taken & set(names):
            return names
        prefix += "g"


def _name(leaf: Leaf) -> str:
    return str(getattr(leaf.source, "name", leaf))
