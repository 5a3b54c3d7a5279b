"""The derived partials: regenerated, against mpmath at generic points, against torch at the edges, and upwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch

from tests.support.torch_walker import torch_function
from tgc.calculus import derive, emit
from tgc.calculus.derived import FINITE, PARTIALS
from tgc.calculus.formulas import Reference, formula
from tgc.calculus.reverse import vjp
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.evaluate import evaluate
from tgc.ir.nodes import Graph
from tgc.ir.ops import OPS
from tgc.numerics.stress import BOUND

INF, NAN = float("inf"), float("nan")
PLAIN = (0.0, 1.0, 2.0, 3.0, 100.0, 1e3, INF)
EDGES = [*PLAIN, *(-v for v in PLAIN), 0.5, 1e-300, 1e300, NAN]
UNARY = [name for name in PARTIALS if OPS[name].arity == 1]

# Where tgc differs from torch on purpose, and why.
DIFFERENT: dict[str, tuple[str, Callable[..., np.ndarray]]] = {
    "abs": ("NaN has the derivative NaN, not 0", np.isnan),
    "rsqrt": ("-0.0: both are infinite, with the sign of the operand", lambda a: a == 0),
    "cbrt": ("torch has none; the power it is compared with is NaN at 0", lambda a: a == 0),
    "hypot": ("a norm has a zero subgradient at 0", lambda a, b: (a == 0) & (b == 0)),
    "atan2": ("torch underflows: a*a + b*b", lambda a, b: np.hypot(a, b) < 1e-160),
    "acosh": ("NaN below 1, where the operation is NaN", lambda a: a < 1),
    "expm1": ("torch cancels: y + 1", lambda a: a < -30),
    "sigmoid": ("torch cancels: y*(1 - y)", lambda a: a > 30),
    "tanh": ("torch cancels: 1 - y*y", lambda a: np.abs(a) > 15),
    "sech2": ("torch, through tanh, cancels", lambda a: np.abs(a) > 15),
}


def primal(name: str, count: int) -> Graph:
    g = Builder()
    inputs = tuple(g.input(n, dtypes.float64, (count,)) for n in "abc"[: OPS[name].arity])
    return g.graph(name, inputs, (g.map(name, *inputs),))


def test_normal_runs_import_neither_sympy_nor_mpmath() -> None:
    code = (
        "import sys, tgc.calculus.reverse, tgc.calculus.forward, tgc.calculus.derive\n"
        "print([m for m in ('sympy', 'mpmath') if m in sys.modules])"
    )
    root = Path(derive.__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stderr


def test_every_operation_with_a_formula_has_partials_or_is_flat() -> None:
    flat = {name for name, spec in OPS.items() if spec.formula and name not in PARTIALS}
    assert flat == {"floor", "ceil", "trunc", "sign", "floordiv", "cast"}


@pytest.mark.parametrize("name", list(PARTIALS))
def test_partials_equal_the_numerical_derivative_of_the_formula(name: str) -> None:
    """Central differences in mpmath: independent of sympy's rules of differentiation."""
    spec, rng = OPS[name], np.random.default_rng(0)
    spans = [(max(lo, -3.0), min(hi, 3.0)) for lo, hi in spec.domain]
    places = [rng.uniform(lo, hi, 20) for lo, hi in spans]
    got = evaluate(vjp(primal(name, 20), tuple(range(spec.arity))), [*places, np.ones(20)])
    value = Reference(formula(spec), spec.arity)
    for k, slopes in enumerate(got):
        for i, slope in enumerate(slopes):
            want = difference(value, [float(p[i]) for p in places], k)
            assert slope == pytest.approx(want, rel=1e-10, abs=1e-12)


def difference(value: Reference, place: list[float], k: int) -> float:
    step = mpmath.mpf(2) ** -100
    with mpmath.workprec(400):
        point = [mpmath.mpf(v) for v in place]
        up = value.exact(*point[:k], point[k] + step, *point[k + 1 :])
        down = value.exact(*point[:k], point[k] - step, *point[k + 1 :])
        return float((up - down) / (2 * step))


@pytest.mark.parametrize("name", [n for n in PARTIALS if OPS[n].arity < 3])
def test_edges_are_as_torch_has_them(name: str) -> None:
    arity = OPS[name].arity
    places = np.array(np.meshgrid(*[EDGES] * arity)).reshape(arity, -1)
    got = evaluate(
        vjp(primal(name, places.shape[1]), tuple(range(arity))), [*places, np.ones(places.shape[1])]
    )
    leaves = [torch.tensor(p, requires_grad=True) for p in places]
    found = torch.autograd.grad(torch_function(name)(*leaves).sum(), leaves, allow_unused=True)
    skip = DIFFERENT[name][1](*places) if name in DIFFERENT else np.zeros(places.shape[1], bool)
    for mine, theirs in zip(got, found):
        want = np.zeros_like(mine) if theirs is None else theirs.numpy()
        same = np.isclose(mine, want, rtol=1e-9, atol=1e-300, equal_nan=True)
        wrong = ~same & ~skip
        assert not wrong.any(), [(places[:, i], mine[i], want[i]) for i in np.flatnonzero(wrong)]


@pytest.mark.parametrize("name", list(DIFFERENT))
def test_differences_from_torch_are_still_there(name: str) -> None:
    """The list above does not outlive what it excuses."""
    arity = OPS[name].arity
    places = np.array(np.meshgrid(*[EDGES] * arity)).reshape(arity, -1)
    graph = vjp(primal(name, places.shape[1]), tuple(range(arity)))
    leaves = [torch.tensor(p, requires_grad=True) for p in places]
    found = torch.autograd.grad(torch_function(name)(*leaves).sum(), leaves)
    got = evaluate(graph, [*places, np.ones(places.shape[1])])
    assert any(
        not np.allclose(mine, t.numpy(), rtol=1e-9, atol=1e-300, equal_nan=True)
        for mine, t in zip(got, found)
    )


@cache
def tower(name: str, count: int) -> list[Graph]:
    graphs = [primal(name, count)]
    for _ in range(4):
        graphs.append(vjp(graphs[-1], (0,)))
    return graphs


@pytest.mark.parametrize("name", [n for n in UNARY if OPS[n].ties is None and n != "abs"])
def test_four_orders_of_each_operation(name: str) -> None:
    """At generic points and, where the domain has it, at 0: even functions keep all their derivatives there."""
    low, high = OPS[name].domain[0]
    places = [v for v in (-2.2, -0.7, 0.0, 0.4, 1.6, 2.5) if low < v < high]
    value = Reference(formula(OPS[name]), 1)
    smooth = [v for v in places if v != 0 or name not in ("reciprocal", "cbrt")]
    arrays = [np.array(smooth)]
    for order, graph in enumerate(tower(name, len(smooth))[1:], 1):
        arrays.append(np.ones(len(smooth)))
        got = evaluate(graph, arrays)[0]
        for slope, place in zip(got, smooth):
            with mpmath.workprec(
                60
            ):  # diff itself works at (order + 2) times that, below PRECISION
                want = float(mpmath.diff(value.exact, mpmath.mpf(place), order))
            assert slope == pytest.approx(want, rel=1e-8, abs=1e-9), (order, place)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "exp", "erf", "atan", "asinh"])
def test_higher_orders_are_numbers_far_out(name: str) -> None:
    """No 0*inf where an exponential overflows: float64 holds exp up to 709."""
    places = np.array([-INF, -1e5, -800.0, -750.0, -300.0, 300.0, 750.0, 800.0, 1e5, INF])
    if name == "exp":
        places = places[:5]
    if name in ("erf", "atan", "asinh"):
        places = places[1:-1]
    arrays = [places]
    for graph in tower(name, len(places))[1:]:
        arrays.append(np.ones(len(places)))
        assert np.isfinite(evaluate(graph, arrays)[0]).all()


def test_finite_means_finite() -> None:
    assert {"mul", "sin", "tanh", "sigmoid", "relu", "where"} - FINITE == {"where"}
    assert not FINITE & {"div", "sqrt", "log", "exp", "pow", "rsqrt", "reciprocal"}


# Textbook forms that lose: by their own error, or by NaN in the next order.
LOSING = [
    ("tanh", "1 - tanh(a)**2", "worst"),
    ("sigmoid", "y*(1 - y)", "worst"),
    ("sigmoid", "y/(exp(a) + 1)", "next"),
    ("expm1", "y + 1", "worst"),
    ("asin", "1/sqrt(1 - a**2)", "worst"),
    ("asinh", "1/sqrt(a**2 + 1)", "worst"),
]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_derived_is_what_derive_generates_to_the_byte() -> None:
    """And the gate saw each form that loses, and turned it down. One test: deriving takes a minute."""
    table = derive.derive()
    for name, bad, why in LOSING:
        partial = table[name][0]
        assert partial is not None
        scores = [s for s in partial.verdict.scores if s.form.name == bad]
        assert scores, [s.form.name for s in partial.verdict.scores]
        for score in scores:
            assert score.form is not partial.verdict.chosen
            assert score.worst > BOUND if why == "worst" else score.form.cost >= derive.FINE
    finite = [name for name in table if derive.finite_partials(OPS[name], table[name])]
    path = Path(derive.__file__).with_name("derived.py")
    assert emit.module(table, finite) == path.read_text(encoding="utf-8")
