"""Graph text: it reads well, parses back to the same graph, runs as Python, and executes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from tests.support.random_graphs import Case, equal, graphs
from tgc.errors import Line
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.evaluate import evaluate
from tgc.ir.nodes import Graph, Monoid
from tgc.ir.text import parse_graph, print_graph

EXAMPLE = """\
def loss(g):
    d, n = g.sizes("d n")
    x = g.input("x", "f32", (n, d))
    e = g.map("exp", x)                           # f32[n, d]  train.py:12
    v0 = g.fold("sum", e, axes=(1,))              # f32[n]  train.py:12
    c0 = g.const(d, "f32", (n,))
    v1 = g.map("div", v0, c0)                     # f32[n]  train.py:13
    return v1
"""


def example() -> Graph:
    g = Builder()
    n, d = g.sizes("n d")
    x = g.input("x", dtypes.float32, (n, d))
    g.line = Line("/home/user/train.py", 12)
    e = g.map("exp", x)
    g.names[e] = "e"
    total = g.fold("sum", e, axes=(1,))
    g.line = None
    count = g.const(d, dtypes.float32, (n,))
    g.line = Line("/home/user/train.py", 13)
    return g.graph("loss", (x,), (g.map("div", total, count),))


def test_text_is_readable() -> None:
    assert print_graph(example()) == EXAMPLE


def test_text_parses_back() -> None:
    graph = parse_graph(EXAMPLE)
    assert print_graph(graph) == EXAMPLE
    assert str(graph.outputs[0].line) == "train.py:13"


def test_text_runs_with_a_builder() -> None:
    scope: dict[str, object] = {}
    exec(EXAMPLE, scope)
    g = Builder()
    result = scope["loss"](g)  # type: ignore[operator]
    graph = g.graph("loss", g.inputs(), (result,))
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(evaluate(graph, [x])[0], np.exp(x).sum(1) / 3)


@settings(max_examples=100)
@given(graphs())
def test_random_graphs_round_trip(case: Case) -> None:
    text = print_graph(case.graph)
    again = parse_graph(text)
    assert print_graph(again) == text
    assert equal(evaluate(again, case.arrays), evaluate(case.graph, case.arrays), 0)


def everything() -> Graph:
    """Every node kind and field the text can show."""
    g = Builder()
    n, m = g.sizes("n m")
    x = g.input("x[0].weight", "f32", (n, m))
    y = g.input("lambda", "bf16", (2 * n + 1, (n * m + 1) // 2))
    inner = Builder()
    a, b, c, d = (inner.input(name, "f32", ()) for name in "abcd")
    more = inner.map("gt", c, a)
    monoid = Monoid(
        "argmax",
        (float("-inf"), -1.0),
        inner.graph(
            "m", (a, b, c, d), (inner.map("where", more, c, a), inner.map("where", more, d, b))
        ),
    )
    place = g.cast(g.iota(1, (n, m)), "f32")
    best = [g.fold(monoid, x, place, axes=(1,), output=i) for i in (0, 1)]
    scan = g.fold("sum", x, axes=(1,), mode="scan", reverse=True)
    padded = g.pad(x, before=(1, 0), after=(0, n), interior=(0, 2))
    cut = g.slice(x, start=(0, 1), stop=(n - 1, m), step=(1, 2))
    index = g.cast(g.iota(0, (n, 1), "i32"), "i64")
    taken = g.take(x, index, axis=1)
    put = g.put(taken, index, axis=1, extent=m)
    order = g.call(
        "sort", x, dtype="i64", shape=(n, m), params={"axis": 1, "descending": False}, output=1
    )
    odd = [g.const(v, "f32") for v in (float("inf"), float("-inf"), float("nan"), -0.0, 1e-45)]
    outputs = (
        *best,
        scan,
        padded,
        cut,
        put,
        order,
        *odd,
        g.const(True, "bool"),
        g.flip(x, axes=(0,)),
        y,
    )
    g.names[scan] = "class"
    g.names[cut] = "n"
    g.names[put] = "v7"
    return g.graph(
        "every thing", (x, y), outputs, writes=((x, put),), aliases=((len(outputs) - 1, y),)
    )


def test_every_field_round_trips() -> None:
    text = print_graph(everything())
    again = parse_graph(text)
    assert print_graph(again) == text
    assert "writes=((x_0__weight, " in text and "aliases=((14, _lambda),)" in text
    assert [(type(a), a.dtype, a.shape) for a in again.nodes()] == [
        (type(a), a.dtype, a.shape) for a in everything().nodes()
    ]
    scope: dict[str, object] = {}
    exec(text, scope)
    assert print_graph(scope["every_thing"](Builder())).count("\n") == text.count("\n")  # type: ignore[operator]


def test_a_parsed_monoid_folds() -> None:
    graph = parse_graph(
        "def f(g):\n"
        '    x = g.input("x", "f64", (4,))\n'
        "    def add(g):\n"
        '        a = g.input("a", "f64", ())\n'
        '        b = g.input("b", "f64", ())\n'
        '        return g.map("add", a, b)\n'
        '    add = g.monoid("add", init=(0.0,), merge=add, associative=True, commutative=True)\n'
        "    return g.fold(add, x, axes=(0,))\n"
    )
    assert evaluate(graph, [np.arange(4.0)])[0] == 6


@pytest.mark.parametrize(
    "body",
    [
        'x = __import__("os")',
        "x = g.builder",
        "x = g.at(None)",
        "x = open('f')",
        "import os",
        "x = [1]",
        "x = (1).real",
        "x = unknown",
        "x = 2 ** 3",
        "x = g.const(1.5 + 2, 'f32', ())",
        "for i in (1, 2): pass",
    ],
)
def test_anything_else_is_refused(body: str) -> None:
    with pytest.raises(ValueError, match="not graph text"):
        parse_graph(f"def f(g):\n    {body}\n    return x\n")


def test_text_is_one_function_that_returns() -> None:
    with pytest.raises(ValueError, match="one function"):
        parse_graph("x = 1")
    with pytest.raises(ValueError, match="returns nothing"):
        parse_graph('def f(g):\n    x = g.input("x", "f32", ())\n')


def test_several_and_no_outputs() -> None:
    g = Builder()
    x = g.input("x", "f32", ())
    assert print_graph(g.graph("f", (x,), (x, x))).endswith("return x, x\n")
    assert parse_graph(print_graph(g.graph("f", (x,), ()))).outputs == ()
