"""Derivatives wait until something is compiled; what is found in the cache is what would be derived."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tgc
from tgc import trees
from tgc.calculus import waiting
from tgc.ir.nodes import DERIVATIVES, Call, Graph
from tgc.pipeline import Pipeline
from tgc.trace.run import trace

X = np.linspace(-1.0, 1.5, 4)
SCALE = np.array([1.0, 2.0, 3.0, 4.0])


def wave(x: Any) -> Any:
    return tgc.sum(tgc.sin(x) * x * tgc.exp(x))


def nested(x: Any) -> Any:
    """Derivatives that close over values of other derivatives."""
    slope = tgc.grad(wave)(x)
    return tgc.grad(lambda y: tgc.sum(tgc.grad(wave)(y) * x * slope))(x)


def steps(x: Any, count: int = 3) -> Any:
    """Each step's derivative sees the step before it."""
    for _ in range(count):
        x = x - 0.1 * tgc.grad(lambda y, x=x: tgc.sum((y - x) ** 2 * tgc.sin(y)))(x)
    return x


def pulled(x: Any) -> Any:
    out, pull = tgc.vjp(lambda x: (tgc.tanh(x), x * x), x)
    _, along = tgc.jvp(tgc.grad(wave), (x,), (out[0],))
    return pull(out)[0] + along


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "value_and_grad": tgc.value_and_grad(wave).function,
    "hessian": tgc.hessian(wave).function,
    "jacrev": tgc.jacrev(lambda x: tgc.sin(x) * x).function,
    "laplacian": tgc.laplacian(wave).function,
    "third": tgc.derivative(lambda x: tgc.tanh(x) * x, 3).function,
    "nested": nested,
    "steps": steps,
    "pulled": pulled,
    "an input": tgc.grad(lambda x: tgc.sum(x * SCALE)).function,
    "a constant": tgc.grad(lambda x: tgc.sum(SCALE) + 3.0 * x[0]).function,
    "maximum": tgc.grad(lambda x: tgc.max(x * x)).function,
}


def waiting_graph(function: Callable[..., Any], *args: Any) -> Graph:
    return trace(function, args, derive=Pipeline().derived).graph


def calls(graph: Graph) -> list[Call]:
    return [n for n in graph if isinstance(n, Call) and n.name in DERIVATIVES]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derived_later_is_derived_at_once(name: str) -> None:
    """To the letter of what is emitted."""
    graph = waiting_graph(FUNCTIONS[name], X)
    assert calls(graph)
    later = Pipeline().derived(graph)
    assert not calls(later)
    compiled = tgc.jit(FUNCTIONS[name], backend="numpy")
    lowered = compiled.lower(X)
    assert not calls(lowered.graph)
    compiled(X)
    (record,) = compiled._records
    (entry,) = record.program.entries().values()
    assert lowered.source in entry.text


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_is_derived_for_what_lies_in_the_cache(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tgc.settings(cache_dir=tmp_path):
        expected = tgc.jit(FUNCTIONS[name], backend="numpy")(X)
        monkeypatch.setattr(waiting, "written_out", None)
        monkeypatch.setattr(Pipeline, "simplify", None)
        again = tgc.jit(FUNCTIONS[name], backend="numpy")
        for found, wanted in zip(trees.flatten(again(X))[0], trees.flatten(expected)[0]):
            np.testing.assert_array_equal(found, wanted)


def test_a_cached_gradient_can_still_be_looked_at_and_differentiated(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with tgc.settings(cache_dir=tmp_path):
        texts = []
        for _ in range(2):
            slope = tgc.jit(tgc.grad(wave).function, backend="numpy")
            x = torch.linspace(-1, 1, 5, dtype=torch.float64, requires_grad=True)
            (second,) = torch.autograd.grad(slope(x).sum(), x)
            exact = torch.autograd.functional.hessian(
                lambda x: (torch.sin(x) * x * torch.exp(x)).sum(), x
            ).sum(0)
            torch.testing.assert_close(second, exact)
            texts.append((slope.explain(x), slope.lower(x).source))
        assert texts[0] == texts[1]


def test_what_differs_anywhere_inside_has_its_own_text() -> None:
    """Constants, exponents, orders, arguments, kinds of derivative and closures, at any depth."""
    one, two = (lambda x, k=k: tgc.sum(tgc.sin(x) * k) for k in (1.5, 2.5))
    pair = lambda x, y: tgc.sum(x * x * y)
    texts = [
        str(waiting_graph(tgc.grad(one).function, X)),
        str(waiting_graph(tgc.grad(two).function, X)),
        str(waiting_graph(tgc.grad(lambda x: tgc.sum(tgc.grad(one)(x))).function, X)),
        str(waiting_graph(tgc.grad(lambda x: tgc.sum(tgc.grad(two)(x))).function, X)),
        str(waiting_graph(tgc.grad(pair, 0).function, X, X)),
        str(waiting_graph(tgc.grad(pair, 1).function, X, X)),
        str(waiting_graph(lambda x, y: tgc.jvp(pair, (x, y), (y, x))[1], X, X)),
        str(waiting_graph(lambda x, y: tgc.jvp(pair, (x, y), (x, y))[1], X, X)),
        str(waiting_graph(tgc.grad(one).function, X.astype("f4"))),
        str(waiting_graph(tgc.grad(lambda x: one(tgc.stop_gradient(x) * x)).function, X)),
    ]
    assert len(set(texts)) == len(texts)


def test_a_captured_array_is_read_anew(tmp_path: Path) -> None:
    with tgc.settings(cache_dir=tmp_path):
        for scale in (SCALE, SCALE + 1):
            slope = tgc.grad(lambda x, scale=scale: tgc.sum(x * x * scale))
            np.testing.assert_allclose(slope(X), 2 * X * scale)


def test_options_are_part_of_the_key(tmp_path: Path) -> None:
    f = tgc.grad(lambda x: tgc.sum(tgc.sin(x) * x)).function
    entries: dict[str, Any] = {}
    with tgc.settings(cache_dir=tmp_path):
        for options in ({}, {"fast_math": True}, {"precision": "eager"}):
            compiled = tgc.jit(f, backend="numpy", **options)
            compiled(X)
            entries |= compiled._records[0].program.entries()
    assert len(entries) == 3


def test_a_long_chain_of_derivatives_stays_short() -> None:
    """Each graph is printed once, however often those inside it call it."""
    lengths = [len(str(waiting_graph(lambda x, k=k: steps(x, k), X))) for k in (4, 8, 16)]
    assert lengths[2] / lengths[1] < 5
    expected = X
    for _ in range(8):
        expected = tgc.jit(lambda x: steps(x, 1))(expected)
    np.testing.assert_allclose(tgc.jit(lambda x: steps(x, 8))(X), expected)


def test_a_derivative_that_is_known_may_be_asked_for() -> None:
    assert tgc.jit(lambda x: x * float(tgc.grad(lambda y: 3.0 * y)(x)))(2.0) == 6.0
    with pytest.raises(tgc.errors.TraceError, match="branch on a traced value"):
        tgc.jit(lambda x: x if tgc.grad(lambda y: y * y)(x) > 0 else -x)(2.0)


def test_what_has_no_derivative_says_so_where_it_is_taken() -> None:
    def fallback(x: Any) -> Any:
        try:
            return tgc.grad(lambda x: tgc.sum(tgc.cumprod(x, 0)))(x)
        except tgc.errors.DerivativeError:
            return 2 * x

    np.testing.assert_allclose(tgc.jit(fallback)(X), 2 * X)
    with pytest.raises(tgc.errors.DerivativeError, match="no derivative of a scan by prod"):
        tgc.grad(lambda x: tgc.sum(tgc.cumprod(x, 0)))(X)


def test_an_entry_of_a_scalar_excuses_no_vector(tmp_path: Path) -> None:
    with tgc.settings(cache_dir=tmp_path):
        slope = tgc.grad(lambda x: x * x)
        assert slope(3.0) == 6.0
        for _ in range(2):
            with pytest.raises(tgc.errors.ShapeError, match="scalar result"):
                slope(X)


def test_torch_is_told_whether_a_gradient_needs_one() -> None:
    torch = pytest.importorskip("torch")
    seen = []

    def f(x: Any) -> Any:
        linear = tgc.grad(lambda x: (x * 2).sum())(x)
        square = tgc.grad(lambda x: (x * x).sum())(x)
        seen.append((linear.requires_grad, square.requires_grad))
        return square

    tgc.jit(f)(torch.ones(3, requires_grad=True))
    assert seen[-1] == (False, True)
