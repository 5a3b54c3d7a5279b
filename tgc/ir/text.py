"""Graph text: a graph as a Python function of a builder, and back.

What is printed can be read, pasted, run with a `Builder`, and parsed:

    def loss(g):
        n, d = g.sizes("n d")
        x = g.input("x", "f32", (n, d))
        v0 = g.map("exp", x)                    # f32[n, d]  train.py:12
        v1 = g.fold("sum", v0, axes=(1,))       # f32[n]  train.py:12
        return v1

The parser walks Python's syntax tree with a whitelist of builder methods; no text is ever executed.

A graph with derivatives that wait (`DERIVATIVES` in nodes.py) also has a text, which names it; that is not read back.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
from collections.abc import Iterable, Mapping

from tgc.errors import Line
from tgc.ir import sizes
from tgc.ir.build import Builder
from tgc.ir.nodes import (
    Broadcast,
    Call,
    Const,
    Fold,
    Graph,
    Input,
    Leaf,
    Map,
    Monoid,
    Movement,
    Node,
    Pad,
    Permute,
    Put,
    Reshape,
    Slice,
    Take,
    View,
)
from tgc.ir.sizes import Dim, Size

_COLUMN = 48
_AUTOMATIC = re.compile(r"[vc]\d+$")
_COMMENT = re.compile(r"#.*?  (?P<file>\S.*):(?P<number>\d+)$")


# --- printing ---------------------------------------------------------------------------------------------------------


def print_graph(graph: Graph) -> str:
    """The graph as the text of a Python function; the same graph always gives the same text."""
    return "\n".join(text for _, text in printed_lines(graph)) + "\n"


def printed_lines(graph: Graph) -> list[tuple[Node | None, str]]:
    """The lines of `print_graph`, each with the node it makes."""
    return _Printer(graph).lines()


def show_type(node: Node) -> str:
    """`f32[n, 3]`"""
    return f"{node.dtype.short}[{', '.join(str(d) for d in node.shape)}]"


class _Printer:
    """`graphs` names those that an enclosing text defines; without one, all that are called are defined here."""

    def __init__(self, graph: Graph, graphs: Mapping[Graph, str] | None = None) -> None:
        self.graph = graph
        self.nodes = graph.nodes()
        self.symbols = sorted({s for node in [*graph.inputs, *self.nodes] for s in _symbols(node)})
        self.taken = {"g", "float", *self.symbols, *(graphs or {}).values()}
        self.called = graph.called() if graphs is None else []
        self.graphs = graphs or {inner: self._unique(inner.name) for inner in self.called}
        self.monoids = self._monoid_names()
        self.names: dict[Node, str] = {}
        self._name_nodes()

    def _monoid_names(self) -> dict[Monoid, str]:
        found: dict[Monoid, str] = {}
        for node in self.nodes:
            if (
                isinstance(node, Fold)
                and isinstance(node.monoid, Monoid)
                and node.monoid not in found
            ):
                found[node.monoid] = self._unique(node.monoid.name)
        return found

    def _unique(self, wanted: str) -> str:
        stem = _plain(wanted) or "value"
        if stem[0].isdigit() or keyword.iskeyword(stem) or _AUTOMATIC.match(stem):
            stem = f"_{stem}"
        name, count = stem, 1
        while name in self.taken:
            count += 1
            name = f"{stem}_{count}"
        self.taken.add(name)
        return name

    def _name_nodes(self) -> None:
        for leaf in self.graph.inputs:
            source = leaf.source
            self.names[leaf] = self._unique(source.name if isinstance(source, Input) else "leaf")
        values = constants = 0
        for node in self.nodes:
            if node in self.names:
                continue
            given = self.graph.builder.names.get(node)
            if given is not None and _is_plain_name(given) and given not in self.taken:
                self.names[node] = given
                self.taken.add(given)
            elif isinstance(node, Leaf) and isinstance(node.source, Const):
                self.names[node] = f"c{constants}"
                constants += 1
            else:
                self.names[node] = f"v{values}"
                values += 1

    def lines(self) -> list[tuple[Node | None, str]]:
        found: list[tuple[Node | None, str]] = [
            (None, f"def {_function_name(self.graph.name)}(g):")
        ]
        if self.symbols:
            targets = ", ".join(self.symbols) + ("," if len(self.symbols) == 1 else "")
            found.append((None, f'    {targets} = g.sizes("{" ".join(self.symbols)}")'))
        for leaf in self.graph.inputs:
            found.append((leaf, self._line(leaf)))
        for inner in self.called:
            lines = _Printer(inner, self.graphs).lines()
            found += [(None, text) for text in _nested(lines, self.graphs[inner])]
        for monoid, name in self.monoids.items():
            found += [(None, text) for text in _monoid_text(monoid, name)]
        found += [(node, self._line(node)) for node in self.nodes if node not in self.graph.inputs]
        found.append((None, f"    return {self._results()}"))
        return found

    def _line(self, node: Node) -> str:
        code = f"    {self.names[node]} = {self._expression(node)}"
        place = f"  {node.line}" if node.line is not None else ""
        if isinstance(node, Leaf) and not place:
            return code
        return f"{code:<{_COLUMN}}  # {show_type(node)}{place}"

    def _results(self) -> str:
        graph = self.graph
        if graph.writes or graph.aliases:
            return self._graph_call()
        if len(graph.outputs) == 1:
            return self.names[graph.outputs[0]]
        return ", ".join(self.names[node] for node in graph.outputs) or "()"

    def _graph_call(self) -> str:
        graph, name = self.graph, self.names
        parts = [
            f'"{_function_name(graph.name)}"',
            _tuple(name[leaf] for leaf in graph.inputs),
            _tuple(name[node] for node in graph.outputs),
        ]
        if graph.writes:
            parts.append(
                "writes=" + _tuple(f"({name[leaf]}, {name[value]})" for leaf, value in graph.writes)
            )
        if graph.aliases:
            parts.append(
                "aliases=" + _tuple(f"({index}, {name[leaf]})" for index, leaf in graph.aliases)
            )
        return f"g.graph({', '.join(parts)})"

    def _expression(self, node: Node) -> str:
        args = ", ".join(self.names[arg] for arg in node.args)
        if isinstance(node, Leaf):
            return _leaf_text(node)
        if isinstance(node, Map):
            if node.op == "cast":
                return f'g.cast({args}, "{node.dtype.short}")'
            return f'g.map("{node.op}", {args})'
        if isinstance(node, View):
            return f"g.{node.movement.name}({args}, {_movement_text(node.movement)})"
        if isinstance(node, Fold):
            return f"g.fold({self._monoid(node)}, {args}, {_fold_text(node)})"
        if isinstance(node, Take):
            return f"g.take({args}, axis={node.axis})"
        if isinstance(node, Put):
            return f"g.put({args}, axis={node.axis}, extent={node.shape[node.axis]})"
        assert isinstance(node, Call)
        return _call_text(node, args, self.graphs)

    def _monoid(self, node: Fold) -> str:
        return f'"{node.monoid}"' if isinstance(node.monoid, str) else self.monoids[node.monoid]


def _is_plain_name(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and not _AUTOMATIC.match(name)


def _plain(name: str) -> str:
    """A name without what no identifier holds. Most are identifiers: then no pattern has to be compiled."""
    return name if name.isidentifier() else re.sub(r"\W", "_", name)


def _function_name(name: str) -> str:
    stem = _plain(name) or "graph"
    return f"_{stem}" if stem[0].isdigit() or keyword.iskeyword(stem) else stem


def _symbols(node: Node) -> set[str]:
    found = {s for dim in node.shape for s in sizes.symbols(dim)}
    dims: list[Dim] = []
    if (
        isinstance(node, Leaf)
        and isinstance(node.source, Const)
        and isinstance(node.source.value, Size)
    ):
        dims.append(node.source.value)
    if isinstance(node, View) and isinstance(node.movement, Slice):
        dims += [*node.movement.start, *node.movement.stop]
    if isinstance(node, View) and isinstance(node.movement, Pad):
        dims += [*node.movement.before, *node.movement.after]
    return found | {s for dim in dims for s in sizes.symbols(dim)}


def _tuple(items: Iterable[object]) -> str:
    texts = [str(item) for item in items]
    return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"


def _value(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, tuple):
        return _tuple(_value(item) for item in value)
    return str(value) if isinstance(value, Size) else repr(value)


def _leaf_text(leaf: Leaf) -> str:
    source, dtype, shape = leaf.source, leaf.dtype.short, _tuple(leaf.shape)
    if isinstance(source, Input):
        return f'g.input({source.name!r}, "{dtype}", {shape})'.replace("'", '"')
    if isinstance(source, Const):
        return f'g.const({_value(source.value)}, "{dtype}", {shape})'
    return f'g.iota({source.axis}, {shape}, "{dtype}")'


def _movement_text(movement: Movement) -> str:
    if isinstance(movement, Broadcast):
        return f"shape={_tuple(movement.shape)}, dims={_tuple(movement.dims)}"
    if isinstance(movement, Permute):
        return f"order={_tuple(movement.order)}"
    if isinstance(movement, Reshape):
        return f"shape={_tuple(movement.shape)}"
    if isinstance(movement, Slice):
        return f"start={_tuple(movement.start)}, stop={_tuple(movement.stop)}, step={_tuple(movement.step)}"
    if isinstance(movement, Pad):
        text = f"before={_tuple(movement.before)}, after={_tuple(movement.after)}"
        return text + (f", interior={_tuple(movement.interior)}" if any(movement.interior) else "")
    return f"axes={_tuple(movement.axes)}"


def _fold_text(fold: Fold) -> str:
    text = f"axes={_tuple(fold.axes)}"
    if fold.mode != "reduce":
        text += f', mode="{fold.mode}"'
    if fold.output:
        text += f", output={fold.output}"
    return text + (", reverse=True" if fold.reverse else "")


def _call_text(call: Call, args: str, graphs: Mapping[Graph, str]) -> str:
    given = f"{args}, " if args else ""
    text = f'g.call("{call.name}", {given}dtype="{call.dtype.short}", shape={_tuple(call.shape)}'
    if call.params:
        text += (
            ", params={"
            + ", ".join(
                f'"{name}": {graphs[value] if isinstance(value, Graph) else _value(value)}'
                for name, value in call.params
            )
            + "}"
        )
    return text + (f", output={call.output})" if call.output else ")")


def _nested(lines: list[tuple[Node | None, str]], name: str) -> list[str]:
    """The lines of a graph as those of a function inside another."""
    return [f"    def {name}(g):", *(f"    {text}" for _, text in lines[1:])]


def _monoid_text(monoid: Monoid, name: str) -> list[str]:
    body = _nested(printed_lines(monoid.merge), name)
    flags = f"associative={monoid.associative}, commutative={monoid.commutative}"
    made = f'g.monoid("{monoid.name}", init={_value(monoid.init)}, merge={name}, {flags})'
    return [*body, f"    {name} = {made}"]


# --- parsing ----------------------------------------------------------------------------------------------------------

_METHODS = frozenset(
    (
        *("sizes", "input", "const", "iota", "map", "cast", "fold", "take", "put", "call"),
        *("broadcast", "permute", "reshape", "slice", "pad", "flip", "monoid", "graph"),
    )
)


def parse_graph(text: str, builder: Builder | None = None) -> Graph:
    """The graph a text stands for.

    Raises:
        ValueError: the text holds anything but a function of builder calls.
        ShapeError, DTypeError: operands do not fit together.
    """
    tree = ast.parse(text)
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        raise ValueError("graph text is one function")
    return _Parser(builder or Builder(), text.splitlines()).function(tree.body[0])


class _Parser:
    def __init__(self, builder: Builder, source: list[str]) -> None:
        self.builder, self.source = builder, source
        self.values: dict[str, object] = {}
        self.inputs: list[Leaf] = []

    def function(self, tree: ast.FunctionDef) -> Graph:
        for statement in tree.body:
            if isinstance(statement, ast.FunctionDef):
                self.values[statement.name] = _Parser(Builder(), self.source).function(statement)
            elif isinstance(statement, ast.Assign):
                self._assign(statement)
            elif isinstance(statement, ast.Return) and statement.value is not None:
                return self._graph(tree.name, self._evaluate(statement.value))
            else:
                raise self._error(statement)
        raise ValueError(f"{tree.name} returns nothing")

    def _graph(self, name: str, result: object) -> Graph:
        if isinstance(result, Graph):
            return result
        outputs = result if isinstance(result, tuple) else (result,)
        return self.builder.graph(name, tuple(self.inputs), outputs)

    def _assign(self, statement: ast.Assign) -> None:
        with self.builder.at(self._line(statement)):
            value = self._evaluate(statement.value)
        target = statement.targets[0]
        if isinstance(target, ast.Tuple) and isinstance(value, tuple):
            for name, item in zip(target.elts, value, strict=True):
                self._bind(name, item)
        else:
            self._bind(target, value)

    def _bind(self, target: ast.expr, value: object) -> None:
        if not isinstance(target, ast.Name):
            raise self._error(target)
        self.values[target.id] = value
        if isinstance(value, Leaf) and isinstance(value.source, Input):
            self.inputs.append(value)
        elif isinstance(value, Node) and _is_plain_name(target.id):
            self.builder.names.setdefault(value, target.id)

    def _line(self, statement: ast.stmt) -> Line | None:
        found = _COMMENT.search(self.source[(statement.end_lineno or statement.lineno) - 1])
        return Line(found["file"], int(found["number"])) if found else None

    def _evaluate(self, tree: ast.expr) -> object:
        if isinstance(tree, ast.Constant):
            return tree.value
        if isinstance(tree, ast.Name) and tree.id in self.values:
            return self.values[tree.id]
        if isinstance(tree, ast.Tuple):
            return tuple(self._evaluate(item) for item in tree.elts)
        if isinstance(tree, ast.Dict):
            keys = [self._evaluate(key) for key in tree.keys if key is not None]
            return dict(zip(keys, [self._evaluate(value) for value in tree.values], strict=True))
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
            return -self._number(tree.operand)
        if isinstance(tree, ast.BinOp):
            return self._arithmetic(tree)
        if isinstance(tree, ast.Call):
            return self._call(tree)
        raise self._error(tree)

    def _number(self, tree: ast.expr) -> Dim | float:
        value = self._evaluate(tree)
        if not isinstance(value, (int, float, Size)):
            raise self._error(tree)
        return value

    def _arithmetic(self, tree: ast.BinOp) -> object:
        a, b = self._number(tree.left), self._number(tree.right)
        if isinstance(a, float) or isinstance(b, float):
            raise self._error(tree)
        if isinstance(tree.op, ast.Add):
            return a + b
        if isinstance(tree.op, ast.Sub):
            return a - b
        if isinstance(tree.op, ast.Mult):
            return a * b
        if isinstance(tree.op, ast.FloorDiv):
            return sizes.floordiv(a, b)
        raise self._error(tree)

    def _call(self, tree: ast.Call) -> object:
        args = [self._evaluate(arg) for arg in tree.args]
        if isinstance(tree.func, ast.Name) and tree.func.id == "float" and len(args) == 1:
            return float(str(args[0]))
        method = tree.func
        if (
            not isinstance(method, ast.Attribute)
            or not isinstance(method.value, ast.Name)
            or method.value.id != "g"
            or method.attr not in _METHODS
        ):
            raise self._error(tree)
        named = {k.arg: self._evaluate(k.value) for k in tree.keywords if k.arg is not None}
        return getattr(self.builder, method.attr)(*args, **named)

    def _error(self, tree: ast.stmt | ast.expr) -> ValueError:
        return ValueError(f"line {tree.lineno}: not graph text: {ast.unparse(tree)}")
