"""Every stability rule, measured: no less accurate than what it replaces, and more accurate somewhere.

Both forms are expanded to operations numpy has, run in float32, and compared with mpmath over points uniform in value
and in bit pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.expression_graphs import expression_graph
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.evaluate import evaluate
from tgc.ir.expressions import Apply, Expression, Number, Variable, parse, variables
from tgc.ir.nodes import Fold, Graph, Map, Node
from tgc.ir.ops import OPS
from tgc.ir.text import print_graph
from tgc.numerics.samples import points
from tgc.numerics.ulp import ulp_error
from tgc.simplify.expand import expand
from tgc.simplify.patterns import Rule
from tgc.simplify.run import simplify
from tgc.simplify.stability import RULES

NUMPY = frozenset(name for name, spec in OPS.items() if spec.numpy is not None)
PRECISION = 600

TRUTHS: Mapping[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b if b else mpmath.nan,
    "neg": lambda a: -a,
    "abs": abs,
    "square": lambda a: a * a,
    "sigmoid": lambda a: 1 / (1 + mpmath.exp(-a)),
    "softplus": lambda a: mpmath.log1p(mpmath.exp(a)),
    "log": lambda a: mpmath.log(a) if a > 0 else (mpmath.ninf if a == 0 else mpmath.nan),
    "log1p": lambda a: mpmath.log1p(a) if a > -1 else (mpmath.ninf if a == -1 else mpmath.nan),
}

DOMAINS: Mapping[str, tuple[float, float]] = {
    "log1p": (-0.999, 1e30),
    "log1p of negative": (-1e30, 0.999),
    "log(1-exp)": (-100.0, -1e-30),
    "log(1-sigmoid)": (-80.0, 80.0),
    "log sigmoid": (-80.0, 80.0),
    "1-cos": (-3.0, 3.0),
    "cos-1": (-3.0, 3.0),
    "1-sin^2": (-6.0, 6.0),
    "1-cos^2": (-6.0, 6.0),
    "1-erf": (-9.0, 9.0),
    "1-erfc": (-9.0, 9.0),
    "cosh^2-1": (-40.0, 40.0),
    "sqrt(x^2+1)-1": (-1e30, 1e30),
    "log cosh": (-200.0, 200.0),
    "softplus(-x)+x": (-80.0, 80.0),
}
DEFAULT = (-80.0, 80.0)
NAMING = ("sigmoid",)
"""Rules that gain no digits themselves, but name a form that others improve."""


def truth(expression: Expression, value: Any) -> Any:
    if isinstance(expression, Variable):
        return value
    if isinstance(expression, Number):
        return mpmath.mpf(expression.value)
    assert isinstance(expression, Apply)
    function = TRUTHS.get(expression.op) or getattr(mpmath, expression.op)
    return function(*(truth(arg, value) for arg in expression.args))


def in_float32(text: str, x: NDArray[np.float32]) -> NDArray[Any]:
    graph = expression_graph(text, {"a": dtypes.float32})
    return evaluate(expand(graph, NUMPY), [x], None)[0]


def sampled(interval: tuple[float, float]) -> NDArray[np.float32]:
    (x,) = points([interval], 600, np.random.default_rng(0), np.float32)
    return np.unique(x.astype(np.float32))


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_rule_is_more_accurate(rule: Rule) -> None:
    assert set(variables(parse(rule.pattern))) == {"a"}
    x = sampled(DOMAINS.get(rule.name, DEFAULT))
    with mpmath.workprec(PRECISION):
        want = [truth(rule.root, mpmath.mpf(float(v))) for v in x]
    kept = np.array([not mpmath.isnan(w) for w in want])
    x, want = x[kept], [w for w, k in zip(want, kept) if k]
    before = ulp_error(in_float32(rule.pattern, x), want, flush=True)
    after = ulp_error(in_float32(rule.replacement, x), want, flush=True)
    assert np.all(after <= np.maximum(before, 0) + 8), worst(x, before, after)
    assert after.max() <= before.max() + 1, worst(x, before, after)
    if rule.name in NAMING:
        assert np.all(after <= before)
    else:
        assert np.any(after < before - 0.5), "never better: no stability rule"


def worst(x: NDArray[Any], before: NDArray[Any], after: NDArray[Any]) -> str:
    i = int(np.argmax(after - before))
    return f"at {x[i]!r}: {before[i]:.3g} ULP before, {after[i]:.3g} after"


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_rule_keeps_special_values(rule: Rule) -> None:
    """Where the pattern, in float64, has a value at an edge, the replacement in float32 has it too; NaN stays NaN."""
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 1e-30, -1e-30])
    graph = expression_graph(rule.pattern, {"a": dtypes.float64})
    want = evaluate(graph, [x])[0]
    got = in_float32(rule.replacement, x.astype(np.float32))
    assert np.isnan(got[4])
    known = ~np.isnan(want) & (np.abs(x) > 1e-20) | (x == 0)
    tiny = 1e-16 if "1" in rule.pattern else 0.0  # what float64 itself lost in the pattern
    with np.errstate(all="ignore"):
        close = np.isclose(got, want, rtol=1e-5, atol=tiny, equal_nan=True)
    assert np.all(close[known]), list(zip(x[known], want[known], got[known]))


# --- rules that look at folds ---


def exponentials(shape: str, scale: float = 1.0) -> Graph:
    """`softmax`, `logsumexp` or `log_softmax` of the rows of scale * x, as a user writes them."""
    g = Builder()
    n, d = g.sizes("n d")
    x = g.input("x", "f32", (n, d))
    e = g.map("exp", x if scale == 1 else g.map("mul", g.like(x, scale), x))
    total = g.fold("sum", e, axes=(1,))
    if shape == "logsumexp":
        return g.graph(shape, (x,), (g.map("log", total),))
    rows = g.broadcast(g.reshape(total, shape=(n, 1)), shape=(n, d))
    softmax = g.map("div", e, rows)
    return g.graph(shape, (x,), (g.map("log", softmax) if shape == "log_softmax" else softmax,))


def reference(shape: str, x: NDArray[Any]) -> NDArray[Any]:
    shift = np.where(np.isfinite(m := x.max(1, keepdims=True)), m, 0)
    with np.errstate(all="ignore"):
        e = np.exp(x - shift)
        total = e.sum(1, keepdims=True)
        if shape == "softmax":
            return e / total
        lse = shift + np.log(total)
        return lse[:, 0] if shape == "logsumexp" else x - lse


@pytest.mark.parametrize("shape", ["softmax", "logsumexp", "log_softmax"])
def test_sums_of_exponentials_are_shifted(shape: str) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(9, 7)) * 200).astype(np.float32)
    x[1] = [1000, 1000, -1000, 0, 1, 2, 3]
    x[2, 3] = -np.inf
    x[3] = -np.inf
    x[4] = [1, 2, np.inf, 4, 5, 6, 7]
    x[5, 0] = np.nan
    graph = exponentials(shape)
    want = reference(shape, x.astype(np.float64))
    got = evaluate(simplify(graph), [x], None)[0]
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-37)
    with np.errstate(all="ignore"):
        naive = evaluate(graph, [x], None)[0]
    assert not np.allclose(naive[1], want[1]), (
        "the naive form has to fail for this test to mean anything"
    )


@pytest.mark.parametrize("scale", [1.0, -1.0, -0.5, 2.0])
@pytest.mark.parametrize("shape", ["softmax", "logsumexp", "log_softmax"])
def test_a_shifted_sum_is_not_shifted_again(shape: str, scale: float) -> None:
    once = simplify(exponentials(shape, scale))
    assert print_graph(simplify(once)) == print_graph(once)
    assert sum(isinstance(node, Fold) and node.monoid == "max" for node in once.nodes()) == 1


def test_a_users_own_shift_is_recognised() -> None:
    g = Builder()
    n, d = g.sizes("n d")
    x = g.input("x", "f32", (n, d))
    m = g.fold("max", x, axes=(1,))
    e = g.map("exp", g.map("sub", x, g.broadcast(m, shape=(n, d), dims=(0,))))
    graph = g.graph("f", (x,), (g.map("log", g.fold("sum", e, axes=(1,))),))
    assert len(simplify(graph).nodes()) == len(graph.nodes())


def test_no_gradient_passes_through_the_shift() -> None:
    graph = simplify(exponentials("logsumexp"))
    stopped = [n for n in graph.nodes() if isinstance(n, Map) and n.op == "stop_gradient"]
    assert len(stopped) == 1

    def below(node: Node) -> bool:
        return isinstance(node, Fold) and node.monoid == "max" or any(map(below, node.args))

    assert below(stopped[0])


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("log(add(1, exp(a)))", "softplus(a)"),
        ("log1p(exp(a))", "softplus(a)"),
        ("div(1, add(1, exp(neg(a))))", "sigmoid(a)"),
        ("div(1, add(exp(neg(a)), 1))", "sigmoid(a)"),
        ("reciprocal(add(1, exp(neg(a))))", "sigmoid(a)"),
        ("pow(add(1, exp(neg(a))), -1)", "sigmoid(a)"),
        ("div(exp(a), add(1, exp(a)))", "sigmoid(a)"),
        ("log(sub(1, sigmoid(a)))", "neg(softplus(a))"),
        ("log(sigmoid(a))", "neg(softplus(neg(a)))"),
        ("log(div(1, add(1, exp(neg(a)))))", "neg(softplus(neg(a)))"),
        ("mul(sigmoid(a), sub(1, sigmoid(a)))", "mul(sigmoid(a), sigmoid(neg(a)))"),
        ("sub(exp(a), 1)", "expm1(a)"),
        ("add(-1, exp(a))", "expm1(a)"),
        ("div(a, sub(exp(a), 1))", "div(a, expm1(a))"),
        ("div(sub(exp(a), exp(neg(a))), add(exp(a), exp(neg(a))))", "tanh(a)"),
        ("div(sub(exp(mul(2, a)), 1), add(exp(mul(2, a)), 1))", "tanh(a)"),
        (
            "div(sub(exp(mul(2, a)), exp(mul(-2, a))), add(exp(mul(2, a)), exp(mul(-2, a))))",
            "tanh(mul(2, a))",
        ),
        ("sub(mul(2, sigmoid(mul(2, a))), 1)", "tanh(a)"),
        ("sub(1, mul(tanh(a), tanh(a)))", "mul(4, mul(sigmoid(mul(2, a)), sigmoid(mul(-2, a))))"),
        ("sub(1, exp(neg(softplus(a))))", "sigmoid(a)"),
        ("mul(a, tanh(log(add(1, exp(a)))))", "mul(a, tanh(softplus(a)))"),
    ],
)
def test_naive_forms_are_recognised(text: str, want: str) -> None:
    letters = {"a": dtypes.float32}
    got = print_graph(simplify(expression_graph(text, letters)))
    assert got == print_graph(simplify(expression_graph(want, letters)))


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_rules_end(rule: Rule) -> None:
    """No rule makes what it, or another, rewrites again."""
    once = simplify(expression_graph(rule.pattern, {"a": dtypes.float32}))
    log: list[Any] = []
    assert print_graph(simplify(once, log=log)) == print_graph(once)
    assert log == []
