"""Chains of elementwise operations: where they begin and end, what their derivative is, and how little it costs."""

from __future__ import annotations

from collections import Counter

import mpmath
import numpy as np
import pytest

import tgc
from tests.support.expression_graphs import expression_graph
from tgc.calculus.chains import Chains, derivative
from tgc.calculus.forward import jvp
from tgc.calculus.reverse import dependents, vjp
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.evaluate import evaluate
from tgc.ir.nodes import Graph, Map, Node
from tgc.ir.rewrite import substitute
from tgc.simplify.run import simplify


def chains(graph: Graph) -> Chains:
    targets = graph.inputs
    return Chains(dependents(graph, targets), targets, set(graph.outputs))


def longest(graph: Graph, end: Node | None = None) -> tuple[Node, list[Node]] | None:
    return chains(graph).longest(end or graph.outputs[0])


def test_a_function_of_one_value_is_one_chain() -> None:
    graph = expression_graph("mul(tanh(a), sin(square(a)))", {"a": dtypes.float64})
    found = longest(graph)
    assert found is not None
    start, nodes = found
    assert start is graph.inputs[0]
    assert nodes == [n for n in graph.nodes() if isinstance(n, Map)]


def test_two_values_make_no_chain_but_what_follows_them_does() -> None:
    graph = expression_graph("sin(exp(mul(a, b)))", {"a": dtypes.float64, "b": dtypes.float64})
    found = longest(graph)
    assert found is not None and isinstance(found[0], Map) and found[0].op == "mul"
    assert longest(graph, found[0]) is None


def test_one_operation_is_no_chain() -> None:
    assert longest(expression_graph("sin(a)", {"a": dtypes.float64})) is None


@pytest.mark.parametrize("seen", ["output", "fold", "cast"])
def test_a_chain_ends_where_something_else_sees_it(seen: str) -> None:
    """Its inner values have no cotangent of their own; a cast rounds the cotangent on its way."""
    g = Builder()
    (n,) = g.sizes("n")
    x = g.input("x", "f32", (n,))
    inner = g.map("exp", x)
    if seen == "cast":
        inner = g.cast(inner, dtypes.float64)
    end = g.map("sin", g.map("tanh", inner))
    others = {
        "output": (inner,),
        "fold": (g.fold("sum", inner, axes=(0,)),),
        "cast": (),
    }[seen]
    found = longest(g.graph("f", (x,), (end, *others)))
    assert found is not None and found[0] is inner


def test_a_long_function_of_several_values_is_searched_once() -> None:
    """Each node asks for its chain; for 4,000 nodes without one that must not take 4,000 walks."""
    g = Builder()
    (n,) = g.sizes("n")
    x, y = g.input("x", "f64", (n,)), g.input("y", "f64", (n,))
    value = x
    for _ in range(2000):
        value = g.map("add", g.map("mul", value, y), x)
    graph = g.graph("f", (x, y), (value,))
    found = chains(graph)
    assert all(found.longest(node) is None for node in graph.nodes()[2:])


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    ("text", "truth"),
    [
        (
            "tanh(mul(sin(a), exp(neg(square(a)))))",
            lambda x: mpmath.tanh(mpmath.sin(x) * mpmath.exp(-x * x)),
        ),
        ("div(add(square(a), 1), add(square(square(a)), 3))", lambda x: (x * x + 1) / (x**4 + 3)),
        ("log(add(2, cos(mul(3, a))))", lambda x: mpmath.log(2 + mpmath.cos(3 * x))),
    ],
)
def test_every_order_agrees_with_mpmath(text: str, truth: object, order: int) -> None:
    graph = expression_graph(text, {"a": dtypes.float64})
    for _ in range(order):
        pulled = simplify(vjp(graph, (0,)))
        g = pulled.builder
        one = {pulled.inputs[-1]: g.like(pulled.inputs[-1], 1)}
        graph = g.graph("d", pulled.inputs[:1], simplify(substitute(pulled, one)).outputs)
    points = np.random.default_rng(order).uniform(-2, 2, 40)
    with mpmath.workdps(40):
        want = [float(mpmath.diff(truth, mpmath.mpf(float(x)), order)) for x in points]
    np.testing.assert_allclose(evaluate(graph, [points])[0], want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mode", ["vjp", "jvp"])
@pytest.mark.parametrize(
    ("text", "slope"),
    [
        ("sqrt(relu(a))", [0.0, 0.0, 0.25]),
        ("log(where(gt(a, 0), a, 1))", [0.0, 0.0, 0.25]),
        ("sqrt(where(gt(a, 0), log(a), 4))", [0.0, 0.0, 1 / (8 * np.sqrt(np.log(4)))]),
    ],
)
def test_an_untaken_branch_gives_no_nan(text: str, slope: list[float], mode: str) -> None:
    """A mask waits in a tangent as it does in a cotangent."""
    graph = expression_graph(text, {"a": dtypes.float64})
    points, ones = np.array([-1.0, -4.0, 4.0]), np.ones(3)
    with np.errstate(all="ignore"):
        transform = vjp if mode == "vjp" else jvp
        got = evaluate(transform(graph, (0,)), [points, ones])[-1]
    np.testing.assert_allclose(got, slope, rtol=1e-14)


def test_a_chain_without_a_derivative_hands_nothing_down() -> None:
    graph = expression_graph("mul(floor(a), sign(a))", {"a": dtypes.float64})
    nodes = [n for n in graph.nodes() if isinstance(n, Map)]
    assert derivative(graph.builder, graph.inputs[0], nodes) is None
    points = np.array([-1.5, 0.5])
    np.testing.assert_array_equal(evaluate(vjp(graph, (0,)), [points, points])[0], [0, 0])


def operations(function: object, *specs: object) -> Counter[str]:
    """How often each operation stands in the kernels of a function, as numpy would run them."""
    lowered = tgc.jit(function).lower(*specs, target="numpy")  # type: ignore[arg-type]
    lines = (line.strip() for line in lowered.source.splitlines() if "_block" not in line)
    return Counter(line[3:].partition("(")[0] for line in lines if line.startswith("np."))


def slope(f: object) -> object:
    def derived(x: object) -> object:
        y, pull = tgc.vjp(f, x)  # type: ignore[arg-type]
        return pull(tgc.ones_like(y))[0]  # type: ignore[operator]

    return derived


X = tgc.spec("f32[n]")


@pytest.mark.parametrize(
    ("function", "order", "most"),
    [
        (lambda x: tgc.tanh(tgc.sin(x) * tgc.exp(-x * x)), 3, 55),
        (lambda x: 0.5 * x * (1 + tgc.tanh(0.8 * (x + 0.0447 * x * x * x))), 3, 45),
        (lambda x: (x * x + 1) / (x**3 + 2 * x * x + 3), 2, 24),
        (lambda x: x / (1 + tgc.exp(-x)), 3, 22),
    ],
    ids=["tanh(sin exp)", "gelu", "rational", "silu"],
)
def test_higher_derivatives_are_lean(function: object, order: int, most: int) -> None:
    """Taken apart from the outside, with constants where they arise, these took 81, 129, 40 and 28 calls."""
    for _ in range(order):
        function = slope(function)
    found = operations(function, X)
    assert sum(found.values()) <= most, found
