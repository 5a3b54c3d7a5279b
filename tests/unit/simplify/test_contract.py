"""Products absorbed by sums: which are, and what a user may rely on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import tgc
from tests.support.random_graphs import Case, equal, graphs
from tgc.ir.evaluate import evaluate
from tgc.ir.nodes import Map
from tgc.ir.rewrite import users
from tgc.ir.verify import verify
from tgc.pipeline import Pipeline, target_named
from tgc.simplify.contract import contract


@settings(max_examples=200)
@given(graphs())
def test_values_stay(case: Case) -> None:
    result = contract(case.graph)
    verify(result, "contract")
    assert equal(evaluate(result, case.arrays), evaluate(case.graph, case.arrays), 1e-11)
    assert contract(result).outputs == result.outputs


@settings(max_examples=200)
@given(graphs(special=True))
def test_no_product_is_made_twice(case: Case) -> None:
    """Neither for a sum and for what reads it rounded, nor for two sums of which one cannot take it."""
    result = contract(case.graph)
    read = users(result)
    made = {n.args for n in result.nodes() if isinstance(n, Map) and n.op == "mul" and read[n]}
    fused = {n.args[:2] for n in result.nodes() if isinstance(n, Map) and n.op == "fma"}
    assert not made & fused


def operations(
    function: Callable[..., Any], target: str = "native", **options: Any
) -> Counter[str]:
    specs = [tgc.spec("f32[n]")] * 4
    lowered = tgc.jit(function, **options).lower(*specs, target=target)
    return Counter(s.op for view in lowered.kernels for s in view.kernel.body if hasattr(s, "op"))


@pytest.mark.parametrize(
    ("function", "want"),
    [
        (lambda a, b, c, d: a * b + c, {"fma": 1}),
        (lambda a, b, c, d: c - a * b, {"fma": 1, "neg": 1}),
        (lambda a, b, c, d: a * b - c, {"fma": 1, "neg": 1}),
        (lambda a, b, c, d: a * a - 1.0, {"fma": 1}),
        (lambda a, b, c, d: 1.0 - 3.0 * a, {"fma": 1}),
        (lambda a, b, c, d: c * (a * b + d) + d, {"fma": 2}),
        (lambda a, b, c, d: (a * b + c, a * b - d), {"fma": 2, "neg": 1}),
        # both rounded
        (lambda a, b, c, d: a * b - c * d, {"mul": 2, "sub": 1}),
        (lambda a, b, c, d: a * a + b * b, {"square": 2, "add": 1}),
        # an exact product is none
        (lambda a, b, c, d: a * b + 2.0 * c, {"fma": 1, "mul": 1}),
        # read by something else
        (lambda a, b, c, d: (a * b, a * b + c), {"mul": 1, "add": 1}),
        (lambda a, b, c, d: tgc.exp(a * b) + (a * b + c), {"mul": 1, "add": 2, "exp": 1}),
        (lambda a, b, c, d: (a * b + c, a * b - c * d), {"mul": 2, "add": 1, "sub": 1}),
    ],
)
def test_what_is_contracted(function: Callable[..., Any], want: dict[str, int]) -> None:
    assert operations(function) == want


def test_eager_precision_and_other_targets_round_each() -> None:
    def function(a: Any, b: Any, c: Any, d: Any) -> Any:
        return a * b + c

    assert operations(function, precision="eager") == {"mul": 1, "add": 1}
    assert operations(function, "numpy") == {"mul": 1, "add": 1}
    assert operations(function, "sm_90") == {"mul": 1, "add": 1}


def test_integers_and_half_types_are_left_alone() -> None:
    for kind, count in (("i32", 0), ("f16", 1), ("f64", 1)):
        x = tgc.spec(f"{kind}[n]")
        graph = tgc.jit(lambda x, y: x * y + x).lower(x, x, target="native").graph
        lowered = Pipeline().lowered(graph, target_named("native"))
        made = [n for n in lowered.nodes() if isinstance(n, Map) and n.op == "fma"]
        assert len(made) == count
        assert all(n.dtype.itemsize >= 4 for n in made), "half types are computed in float32"


def test_equal_products_cancel(rng: np.random.Generator) -> None:
    pytest.importorskip("llvmlite")
    x, y = rng.normal(size=(2, 1000)).astype(np.float32)
    difference = tgc.jit(lambda a, b, c, d: a * b - c * d, backend="native")
    np.testing.assert_array_equal(difference(x, y, y, x), 0)
    height = tgc.jit(lambda a, b: tgc.sqrt(a * a - b * b), backend="native")
    np.testing.assert_array_equal(height(x, x.copy()), 0)
    across = tgc.jit(lambda a, b, c, d: a * d + b * c, backend="native")
    np.testing.assert_array_equal(across(x, y, x, -y), 0)


def test_repeated_products_cancel(rng: np.random.Generator) -> None:
    """A product of a row's values meets one of each element's: the second derivative of a saturated softmax."""
    pytest.importorskip("llvmlite")
    x, y = rng.normal(size=(2, 300, 1)).astype(np.float32)
    row, column = np.repeat(x, 200, 1), np.repeat(y, 200, 1)
    for difference in (
        lambda a, b, c, d: a * b - c * d,
        lambda a, b, c, d: a * b + -(c * d),
        lambda a, b, c, d: c * d - a * b,
    ):
        found = tgc.jit(difference, backend="native")(row, column, x, y)
        np.testing.assert_array_equal(found, 0)

    def hessian(z: Any) -> Any:
        return tgc.hessian(lambda z: tgc.sum(tgc.log_softmax(z) * tgc.cos(z)))(z)

    z = np.zeros(7, np.float32)
    z[3] = 120.0  # the other terms are 0 in float32, so all but the cosine is linear
    found = tgc.jit(hessian, backend="native")(z)
    wide = tgc.jit(hessian, backend="numpy")(z.astype(np.float64))
    np.testing.assert_allclose(found, wide, rtol=1e-5, atol=1e-5)


def test_a_sum_rounds_once(rng: np.random.Generator) -> None:
    pytest.importorskip("llvmlite")
    x, y, z = rng.normal(size=(3, 1000)).astype(np.float32)
    # In float64 the product is exact, and so is its sum with a number of its size.
    z = -(x * y) + np.float32(2.0**-20) * z
    want = (x.astype(np.float64) * y + z).astype(np.float32)
    np.testing.assert_array_equal(
        tgc.jit(lambda a, b, c: a * b + c, backend="native")(x, y, z), want
    )
