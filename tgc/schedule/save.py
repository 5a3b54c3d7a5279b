"""What the backward keeps of the forward, chosen by bytes.

The joint graph computes the outputs and the cotangents. A value of it that depends on the primals alone can either be
saved by the forward and loaded by the backward, or computed again by the backward from other such values. Inputs and
outputs lie in memory anyway and cost one read; any other value costs a write and a read. A fold (a row statistic, a
matrix product) is never computed again: it would read its whole operand for a result that is small beside it. The
cheapest set that cuts the backward off from the forward is a minimum cut.

What is saved is a cached value of a node, not an input of the mathematics: derivatives of the backward are derived
from the pure joint graph, never from the pair.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from tgc.ir import nodes as n
from tgc.ir.nodes import Fold, Graph, Leaf, Map, Node, Take, View, reachable
from tgc.ir.rewrite import rebuild
from tgc.ir.sizes import Dim, evaluate, product, symbols

INFINITE = float("inf")


@dataclass(frozen=True)
class Saved:
    """A value the forward hands to the backward. `kind`: "input", "output" or "value"; `bytes` at any sizes."""

    node: Node
    name: str
    kind: str
    bytes: Dim

    @property
    def reason(self) -> str:
        if self.kind == "input":
            return f"{self.name}: an input, alive anyway; one read"
        if self.kind == "output":
            return f"{self.name}: an output, written anyway; one read"
        what = (
            "a fold's result" if isinstance(self.node, Fold) else "cheaper kept than computed again"
        )
        return f"{self.name}: {what}; one write and one read"


@dataclass(frozen=True, eq=False)
class Pair:
    """The forward, whose outputs are the primal outputs and then the saved values, and the backward.

    `backward.inputs` are, in order: the primals it reads (`primals`, positions among the joint's inputs), the
    outputs it reads (`outputs`, positions), the saved values, then the cotangents.
    """

    forward: Graph
    backward: Graph
    primals: tuple[int, ...]
    outputs: tuple[int, ...]
    saved: tuple[Saved, ...]


def split(joint: Graph, n_outputs: int, n_primals: int, hints: Mapping[str, int]) -> Pair:
    """Split a joint graph, whose first outputs are the primal's and whose last inputs are cotangents.

    Args:
        joint: legalised and expanded, so that both halves name the same nodes.
        n_outputs: how many outputs are primal outputs; the rest are cotangents of inputs.
        n_primals: how many inputs are primals; the rest are cotangents of outputs.
        hints: extents, to compare bytes.
    """
    primal_outputs, gradients = joint.outputs[:n_outputs], joint.outputs[n_outputs:]
    primals, cotangents = joint.inputs[:n_primals], joint.inputs[n_primals:]
    pure = _primal_only(gradients, set(cotangents))
    kept = _cheapest(gradients, pure, set(primals), set(primal_outputs), hints)
    kept |= _for_sizes(gradients, kept, cotangents, primals, hints)
    inputs = [p for p in primals if p in kept]
    outputs = [o for o in dict.fromkeys(primal_outputs) if o in kept and o not in primals]
    values = sorted(
        (k for k in kept if k not in primals and k not in primal_outputs), key=lambda k: k.id
    )
    builder = joint.builder
    names = _unique_names(primal_outputs, values, joint)
    given: dict[Node, Node] = {
        node: builder.input(names[node], node.dtype, node.shape) for node in (*outputs, *values)
    }
    forward = builder.graph(joint.name, primals, (*primal_outputs, *values))
    backward_inputs = (
        *inputs,
        *(given[o] for o in outputs),
        *(given[v] for v in values),
        *cotangents,
    )
    new = rebuild(gradients, joint, lambda _: None, given)
    backward = builder.graph(f"{joint.name}_backward", tuple(backward_inputs), new)  # type: ignore[arg-type]
    saved = (
        *(
            Saved(p, p.source.name, "input", _bytes(p))
            for p in inputs
            if isinstance(p.source, n.Input)
        ),
        *(Saved(o, names[o], "output", _bytes(o)) for o in outputs),
        *(Saved(v, names[v], "value", _bytes(v)) for v in values),
    )
    return Pair(
        forward,
        backward,
        tuple(k for k, p in enumerate(primals) if p in kept),
        tuple(primal_outputs.index(o) for o in outputs),
        saved,
    )


def _for_sizes(
    gradients: tuple[Node, ...],
    kept: set[Node],
    cotangents: tuple[Leaf, ...],
    primals: tuple[Leaf, ...],
    hints: Mapping[str, int],
) -> set[Node]:
    """Primals kept for their shape alone: sizes that no other input of the backward has as a dimension."""
    known = {str(d) for node in (*kept, *cotangents) for d in node.shape}
    needed = {s for node in reachable(gradients) for d in node.shape for s in symbols(d)} - known
    extra: set[Node] = set()
    for primal in sorted(primals, key=lambda p: evaluate(_bytes(p), hints)):
        found = {str(d) for d in primal.shape} & needed
        if found:
            needed -= found
            extra.add(primal)
    return extra


def _bytes(node: Node) -> Dim:
    return product(node.shape) * node.dtype.itemsize


def _unique_names(outputs: tuple[Node, ...], values: list[Node], joint: Graph) -> dict[Node, str]:
    """The user's names where there are any; outputs are otherwise called "out", as the forward calls them."""
    taken = {leaf.source.name for leaf in joint.inputs if isinstance(leaf.source, n.Input)}
    names: dict[Node, str] = {}
    for node in dict.fromkeys((*(o for o in outputs if o not in joint.inputs), *values)):
        stem = joint.builder.names.get(node) or ("out" if node in outputs else _stem(node))
        name, k = stem, 1
        while name in taken:
            name, k = f"{stem}_{k}", k + 1
        taken.add(name)
        names[node] = name
    return names


def _stem(node: Node) -> str:
    if isinstance(node, Fold) and isinstance(node.monoid, str):
        return f"row_{node.monoid}" if node.ndim else node.monoid
    return node.op if isinstance(node, Map) else "saved"


def _primal_only(gradients: tuple[Node, ...], cotangents: set[Node]) -> set[Node]:
    """The values below `gradients` that no cotangent reaches."""
    depends: set[Node] = set()
    nodes = reachable(gradients)
    for node in nodes:
        if node in cotangents or any(a in depends for a in node.args):
            depends.add(node)
    return {node for node in nodes if node not in depends}


def _is_free(node: Node) -> bool:
    """Whether a value costs nothing to make: constants, and what is made of them alone."""
    return isinstance(node, Leaf) and not isinstance(node.source, n.Input)


def _cheapest(
    gradients: tuple[Node, ...],
    pure: set[Node],
    primals: set[Node],
    outputs: set[Node],
    hints: Mapping[str, int],
) -> set[Node]:
    """The values to keep: a minimum cut between what must be given and what the backward uses.

    Each value is an edge from its in-vertex to its out-vertex; computing it again is an unlimited edge from each of
    its arguments' out-vertices to its in-vertex.
    """
    ordered = sorted(pure, key=lambda x: x.id)
    vertex = {node: 2 * k + 2 for k, node in enumerate(ordered)}
    source, sink = 0, 1
    network = _Network(2 * len(ordered) + 2)
    for node in ordered:
        if _is_free(node):
            continue
        network.edge(vertex[node], vertex[node] + 1, _price(node, primals, outputs, hints))
        if isinstance(node, Leaf) or _is_dear(node):
            network.edge(source, vertex[node], INFINITE)
        for argument in node.args:
            if argument in vertex and not _is_free(argument) and not _is_dear(node):
                network.edge(vertex[argument] + 1, vertex[node], INFINITE)
    wanted = {
        a for node in reachable(gradients) if node not in pure for a in node.args if a in pure
    }
    wanted |= {node for node in gradients if node in pure}
    for node in sorted(wanted, key=lambda x: x.id):
        if not _is_free(node):
            network.edge(vertex[node] + 1, sink, INFINITE)
    near = network.cut(source, sink)
    return {
        node
        for node in ordered
        if not _is_free(node) and vertex[node] in near and vertex[node] + 1 not in near
    }


def _is_dear(node: Node) -> bool:
    """Whether a value is never computed again: folds over more than constants."""
    return isinstance(node, Fold)


def _price(node: Node, primals: set[Node], outputs: set[Node], hints: Mapping[str, int]) -> float:
    """Bytes moved to keep a value, a little more for one that would not live anyway.

    At a tie the later value wins (it saves arithmetic), but views lose to their operands.
    """
    size = evaluate(_bytes(node), hints)
    small = 1e-3 / (node.id + 2)
    if node in outputs:
        return size  # at a tie with what it was made from: it saves the arithmetic too
    if node in primals:
        return size + small
    return 2.002 * size + small + (1e-3 if isinstance(node, View | Take) else 0.0)


class _Network:
    """A flow network with float capacities; augmenting paths by breadth-first search (Edmonds and Karp 1972)."""

    def __init__(self, size: int) -> None:
        self.out: list[dict[int, float]] = [{} for _ in range(size)]

    def edge(self, a: int, b: int, capacity: float) -> None:
        self.out[a][b] = self.out[a].get(b, 0.0) + capacity
        self.out[b].setdefault(a, 0.0)

    def cut(self, source: int, sink: int) -> set[int]:
        """The source's side of a minimum cut."""
        while True:
            came = self._search(source)
            if sink not in came:
                return set(came)
            path, at = [], sink
            while at != source:
                path.append((came[at], at))
                at = came[at]
            flow = min(self.out[a][b] for a, b in path)
            for a, b in path:
                self.out[a][b] -= flow
                self.out[b][a] += flow

    def _search(self, source: int) -> dict[int, int]:
        came = {source: source}
        queue = deque([source])
        while queue:
            at = queue.popleft()
            for to, capacity in self.out[at].items():
                if capacity > 1e-9 and to not in came:
                    came[to] = at
                    queue.append(to)
        return came
