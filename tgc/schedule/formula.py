"""What a kernel computes, as one line a person can read."""

from __future__ import annotations

from tgc.ir import nodes as n
from tgc.ir.expressions import INFIX, levels
from tgc.ir.nodes import Fold, Leaf, Map, Node, Take, View

DEPTH = 12
WIDTH = 100


class _Writer:
    def __init__(self, names: dict[Node, str], root: Node) -> None:
        self.names, self.root = names, root

    def text(self, node: Node, depth: int, level: int = 0) -> str:
        if node is not self.root and node in self.names:
            return self.names[node]
        if isinstance(node, Leaf):
            return _leaf(node)
        if depth == 0:
            return "..."
        if isinstance(node, View):
            return self._view(node, depth, level)
        if isinstance(node, Map):
            return self._map(node, depth, level)
        inner = ", ".join(self.text(a, depth - 1) for a in node.args)
        if isinstance(node, Fold):
            name = node.monoid if isinstance(node.monoid, str) else node.monoid.name
            axes = f"axis={node.axes[0]}" if len(node.axes) == 1 else f"axes={node.axes}"
            return f"{name}({inner}, {axes})"
        if isinstance(node, Take):
            return f"take({inner}, axis={node.axis})"
        return f"{type(node).__name__.lower()}({inner})"

    def _view(self, node: View, depth: int, level: int) -> str:
        if isinstance(node.movement, n.Broadcast | n.Reshape):
            return self.text(node.args[0], depth, level)
        return f"{node.movement.name}({self.text(node.args[0], depth - 1)})"

    def _map(self, node: Map, depth: int, level: int) -> str:
        if node.op == "cast":
            return self.text(node.args[0], depth, level)
        if node.op == "neg":
            return f"-{self.text(node.args[0], depth - 1, 3)}"
        if node.op in INFIX:
            symbol, rank = INFIX[node.op]
            sides = zip(node.args, levels(node.op))
            body = f" {symbol} ".join(self.text(a, depth - 1, k) for a, k in sides)
            return f"({body})" if rank < level else body
        return f"{node.op}({', '.join(self.text(a, depth - 1) for a in node.args)})"


def _leaf(node: Leaf) -> str:
    source = node.source
    if isinstance(source, n.Input):
        return source.name
    if isinstance(source, n.Const):
        return f"{source.value:.6g}" if isinstance(source.value, float) else str(source.value)
    return "iota"


def formula(node: Node, name: str, names: dict[Node, str]) -> str:
    """`name = expression` over the user's names, shortened where it would not fit a line."""
    writer = _Writer(names, node)
    for depth in range(DEPTH, 0, -1):
        text = f"{name} = {writer.text(node, depth)}"
        if len(text) <= WIDTH:
            return text
    return f"{name} = ..."
