"""The verifier: it passes sound graphs, and each of its checks catches the break it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from tests.support.random_graphs import Case, graphs
from tgc.errors import Line, VerifyError
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.nodes import Broadcast, Const, Graph, Monoid, Node, Pad, Permute, Slice
from tgc.ir.verify import verify


@settings(max_examples=100)
@given(graphs())
def test_random_graphs_are_sound(case: Case) -> None:
    verify(case.graph, "generation")


def node_of(g: Builder, kind: str) -> Node:
    n, d = g.sizes("n d")
    x = g.input("x", "f32", (n, d))
    index = g.input("index", "i64", (n, 1))
    makers: dict[str, Callable[[], Node]] = {
        "map": lambda: g.map("add", x, g.map("exp", x)),
        "where": lambda: g.map("where", g.map("lt", x, g.like(x, 0)), x, g.map("exp", x)),
        "cast": lambda: g.cast(x, "f64"),
        "const": lambda: g.like(x, 1.5),
        "iota": lambda: g.iota(1, (n, d)),
        "permute": lambda: g.permute(x, order=(1, 0)),
        "broadcast": lambda: g.broadcast(x, shape=(3, n, d)),
        "slice": lambda: g.slice(x, start=(1, 0), stop=(n, d), step=(1, 1)),
        "pad": lambda: g.pad(x, before=(1, 0), after=(0, 0)),
        "sum": lambda: g.fold("sum", x, axes=(1,)),
        "any": lambda: g.fold("any", g.map("lt", x, g.like(x, 0)), axes=(1,)),
        "monoid": lambda: g.fold(biggest(), x, axes=(1,)),
        "take": lambda: g.take(x, index, axis=1),
        "put": lambda: g.put(g.take(x, index, axis=1), index, axis=1, extent=d),
    }
    return makers[kind]()


def biggest(init: tuple[float, ...] = (0.0,), dtype: str = "f32", op: str = "maximum") -> Monoid:
    inner = Builder()
    a, b = inner.input("a", dtype, ()), inner.input("b", dtype, ())
    return Monoid("biggest", init, inner.graph("m", (a, b), (inner.map(op, a, b),)))


def broken_monoid() -> Monoid:
    monoid = biggest()
    monoid.merge.outputs[0].shape = (2,)
    return monoid


def cut(x: Node, start: int, beyond: int) -> Slice:
    n, d = x.args[0].shape
    return Slice((start, 0), (n + beyond, d), (1, 1))


def graph_over(g: Builder, node: Node) -> Graph:
    return g.graph("f", g.inputs(), (node,))


# what is broken: kind of node, attribute, the wrong value (from the builder and the node), what the verifier says
BREAKS: list[tuple[str, str, Callable[[Builder, Node], Any], str]] = [
    ("map", "op", lambda g, x: "frobnicate", "no operation 'frobnicate'"),
    ("map", "op", lambda g, x: "exp", "takes 1 operands"),
    ("map", "op", lambda g, x: "lt", "the dtype is f32, inferred bool"),
    ("map", "op", lambda g, x: "and", "not defined for float32"),
    ("map", "shape", lambda g, x: (3,), "operands of shapes"),
    ("map", "dtype", lambda g, x: dtypes.float64, "the dtype is f64, inferred f32"),
    ("map", "dtype", lambda g, x: dtypes.DType("float8", "f8", 1, "float"), "no such dtype"),
    ("map", "args", lambda g, x: (x.args[0], g.cast(x.args[0], "f64")), "not older"),
    ("where", "args", lambda g, x: (x.args[1], *x.args[1:]), "the condition is not bool"),
    ("cast", "dtype", lambda g, x: dtypes.float32, "a cast to the type it has"),
    ("const", "source", lambda g, x: Const("1", 1), "holds 1"),
    ("const", "source", lambda g, x: Const("x", 1.0), "key"),
    ("const", "source", lambda g, x: None, "no source of a leaf"),
    ("const", "shape", lambda g, x: (-1,), "negative extent"),
    ("iota", "shape", lambda g, x: (3,), "iota along axis 1 of 1"),
    ("iota", "dtype", lambda g, x: dtypes.float32, "iota of dtype"),
    ("permute", "shape", lambda g, x: x.args[0].shape, "the shape is"),
    ("permute", "movement", lambda g, x: Permute((0, 0)), "no order"),
    ("permute", "dtype", lambda g, x: dtypes.float64, "the dtype is"),
    ("broadcast", "movement", lambda g, x: Broadcast(x.shape, (0, 1)), "cannot broadcast"),
    ("slice", "movement", lambda g, x: cut(x, -1, -2), "slice -1:n - 2:1"),
    ("slice", "movement", lambda g, x: cut(x, 2, 1), r"slice 2:n \+ 1:1"),
    ("pad", "movement", lambda g, x: Pad((-1, 0), (2, 0), (0, 0)), "negative pad"),
    ("sum", "mode", lambda g, x: "backwards", "no mode"),
    ("sum", "mode", lambda g, x: "sequential", "has no step"),
    ("sum", "mode", lambda g, x: "scan", "the shape is"),
    ("sum", "axes", lambda g, x: (2,), "axes"),
    ("sum", "axes", lambda g, x: (), "axes"),
    ("sum", "monoid", lambda g, x: "median", "no monoid"),
    ("sum", "monoid", lambda g, x: "any", "any of float32"),
    ("sum", "output", lambda g, x: 1, "has one result"),
    ("sum", "args", lambda g, x: (x.args[0], x.args[0]), "takes one operand"),
    ("any", "monoid", lambda g, x: "sum", "sum of bool"),
    ("monoid", "output", lambda g, x: 1, "result 1 of a fold with 1"),
    ("monoid", "monoid", lambda g, x: biggest((0.0, 0.0)), "2 starting values and 1 carries"),
    ("monoid", "monoid", lambda g, x: biggest(dtype="f64"), "receives a scalar of"),
    ("monoid", "monoid", lambda g, x: broken_monoid(), "in biggest: maximum: operands of shapes"),
    ("monoid", "args", lambda g, x: (x.args[0], x.args[0]), "takes 2 values"),
    ("take", "args", lambda g, x: (x.args[0], x.args[0]), "index of dtype"),
    ("take", "axis", lambda g, x: 0, "differ off axis 0"),
    ("take", "axis", lambda g, x: 2, "along axis 2"),
    ("take", "shape", lambda g, x: x.args[0].shape, "the shape is"),
    ("put", "args", lambda g, x: (x.args[0].args[0], x.args[1]), "is put at index"),
]


@pytest.mark.parametrize(("kind", "attribute", "wrong", "says"), BREAKS)
def test_a_broken_node_is_caught(
    kind: str, attribute: str, wrong: Callable[[Builder, Node], Any], says: str
) -> None:
    g = Builder()
    node = node_of(g, kind)
    verify(graph_over(g, node), "construction")
    setattr(node, attribute, wrong(g, node))
    with pytest.raises(VerifyError, match=says):
        verify(graph_over(g, node), "breaking")


def test_inputs_must_be_listed_and_named_once() -> None:
    g = Builder()
    x, y = g.input("x", "f32", (3,)), g.input("x", "f64", (3,))
    with pytest.raises(VerifyError, match="reached but not listed"):
        verify(g.graph("f", (), (x,)), "p")
    with pytest.raises(VerifyError, match="two inputs are named 'x'"):
        verify(g.graph("f", (x, y), (x,)), "p")
    with pytest.raises(VerifyError, match="not an Input leaf"):
        verify(g.graph("f", (g.const(1.0, "f32"),), ()), "p")


def test_effects_must_be_legal() -> None:
    g = Builder()
    x, y = g.input("x", "f32", (3,)), g.input("y", "f32", (4,))
    sound = g.graph("f", (x, y), (x,), writes=((x, g.map("exp", x)),), aliases=((0, x),))
    verify(sound, "p")
    for changes, says in (
        ({"inputs": (x,), "writes": ((y, g.const(0.0, "f32", (4,))),)}, "no input"),
        ({"writes": ((x, x), (x, x))}, "written twice"),
        ({"writes": ((y, x),)}, "is written to"),
        ({"aliases": ((1, x),)}, "output 1 of 1"),
        ({"inputs": (x,), "aliases": ((0, y),)}, "aliases something that is no input"),
        ({"outputs": (g.cast(x, "f64"),)}, "another dtype"),
    ):
        with pytest.raises(VerifyError, match=says):
            verify(replace(sound, **changes), "p")  # type: ignore[arg-type]


def test_graphs_have_a_budget() -> None:
    g = Builder()
    x = g.input("x", "f32", ())
    graph = g.graph("f", (x,), (g.map("exp", g.map("exp", x)),))
    verify(graph, "p", budget=3)
    with pytest.raises(VerifyError, match="3 nodes are over the budget of 2"):
        verify(graph, "p", budget=2)


def test_the_message_names_the_pass_and_shows_the_lines_around() -> None:
    g = Builder()
    x = g.input("x", "f32", (3,))
    g.line = Line("train.py", 9, "y = f(x)")
    middle = g.map("exp", x)
    graph = g.graph("f", (x,), (g.map("sin", middle),))
    middle.dtype = dtypes.float64
    with pytest.raises(VerifyError) as caught:
        verify(graph, "fuse_everything")
    text = str(caught.value)
    assert "after fuse_everything: the dtype is f64, inferred f32" in text
    assert '      x = g.input("x", "f32", (3,))' in text and '  >     v0 = g.map("exp", x)' in text
    assert "train.py:9" in text
