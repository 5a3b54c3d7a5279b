"""Walking a graph: rebuild it bottom-up with some nodes replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tgc.ir.nodes import Graph, Leaf, Node, reachable


def rebuild(
    roots: tuple[Node, ...],
    graph: Graph,
    visit: Callable[[Node], Node | None],
    given: Mapping[Node, Node] | None = None,
) -> tuple[Node, ...]:
    """Rebuild `roots`, arguments first.

    `given` replaces nodes outright; `visit` sees each other node with its new arguments and returns a replacement,
    or None to keep it.
    """
    done: dict[Node, Node] = dict(given or {})
    for node in reachable(roots):
        if node in done:
            continue
        new = (
            node
            if isinstance(node, Leaf)
            else graph.builder.remake(node, tuple(done[a] for a in node.args))
        )
        with graph.builder.at(node.line):
            replacement = visit(new)
        if replacement is not None and replacement is not new:
            if new in graph.builder.names:
                graph.builder.names.setdefault(replacement, graph.builder.names[new])
            new = replacement
        done[node] = new
    return tuple(done[r] for r in roots)


def rewrite(graph: Graph, visit: Callable[[Node], Node | None]) -> Graph:
    """The same function with every node passed through `visit` (see `rebuild`)."""
    values = tuple(value for _, value in graph.writes)
    new = rebuild((*graph.outputs, *values), graph, visit)
    outputs, written = new[: len(graph.outputs)], new[len(graph.outputs) :]
    writes = tuple((leaf, value) for (leaf, _), value in zip(graph.writes, written, strict=True))
    return replace(graph, outputs=outputs, writes=writes)


def remake(graph: Graph, visit: Callable[[Node, Mapping[Node, Node]], Node | None]) -> Graph:
    """The same function with nodes made anew by `visit`, which sees a node as it was and what the ones below became.

    Where it returns None the node is rebuilt from those.
    """
    done: dict[Node, Node] = {}
    for node in graph.nodes():
        with graph.builder.at(node.line):
            new = None if isinstance(node, Leaf) else visit(node, done)
            if new is not None and node in graph.builder.names:
                graph.builder.names.setdefault(new, graph.builder.names[node])
            if new is None and not isinstance(node, Leaf):
                new = graph.builder.remake(node, tuple(done[a] for a in node.args))
        done[node] = new or node
    outputs = tuple(done[node] for node in graph.outputs)
    return replace(
        graph, outputs=outputs, writes=tuple((leaf, done[value]) for leaf, value in graph.writes)
    )


def substitute(graph: Graph, given: Mapping[Node, Node]) -> Graph:
    """The same function with some nodes replaced by others."""
    outputs = rebuild(graph.outputs, graph, lambda _: None, given)
    return replace(graph, outputs=outputs)


def users(graph: Graph) -> dict[Node, list[Node]]:
    """For each node, the nodes that take it as an argument."""
    found: dict[Node, list[Node]] = {node: [] for node in graph.nodes()}
    for node in graph.nodes():
        for arg in dict.fromkeys(node.args):
            found[arg].append(node)
    return found
