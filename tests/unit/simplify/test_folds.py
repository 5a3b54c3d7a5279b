"""Sums of values less their mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tgc
from tgc.ir.nodes import Fold
from tgc.pipeline import Pipeline
from tgc.trace.run import trace


def folds(function: Any, *shapes: tuple[int, ...]) -> int:
    """How many folds the simplified value and gradient of a function have."""
    graph = trace(function, tuple(np.ones(s) for s in shapes), {}).graph
    wrt = tuple(range(len(shapes)))
    joint = Pipeline().simplify(Pipeline().joint(graph, wrt), last=True)
    return sum(isinstance(node, Fold) for node in joint.nodes())


def norm(x: Any, weight: Any) -> Any:
    centred = x - tgc.mean(x, axis=1, keepdims=True)
    return weight * centred / tgc.sqrt(tgc.mean(centred**2, axis=1, keepdims=True) + 1e-5)


def test_the_gradient_of_a_variance_needs_no_further_sum() -> None:
    assert folds(lambda x: tgc.var(x), (50,)) == 2  # the mean and the variance


def test_the_gradient_of_a_norm_needs_two_sums_a_row() -> None:
    """Two for the value, two of a row and one of columns for the gradient, none of which needs another's result."""
    assert folds(norm, (6, 8), (8,)) == 5


@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_what_is_not_finite_stays(special: float) -> None:
    """The sum is zero only where there is a mean."""
    x = np.array([[1.0, 2.0, special], [1.0, 2.0, 3.0]])
    f = lambda x: tgc.sum(x - tgc.mean(x, axis=1, keepdims=True), axis=1)
    with np.errstate(all="ignore"):
        found = tgc.jit(f)(x)
    assert np.isnan(found[0]) and found[1] == 0


def test_other_means_are_other_values(rng: np.random.Generator) -> None:
    """Over other axes, of other values, or with another count the difference does not vanish."""
    x, y = rng.normal(size=(2, 4, 5))
    for f in (
        lambda x, y: tgc.sum(x - tgc.mean(x, axis=0, keepdims=True), axis=1),
        lambda x, y: tgc.sum(x - tgc.mean(y, axis=1, keepdims=True), axis=1),
        lambda x, y: tgc.sum(x - tgc.sum(x, axis=1, keepdims=True) / 6, axis=1),
        lambda x, y: tgc.sum(y * (x - tgc.mean(x, axis=1, keepdims=True)), axis=1),
    ):
        with tgc.settings(disable=True):
            want = f(x, y)
        np.testing.assert_allclose(tgc.jit(f)(x, y), want, rtol=1e-12)
        assert np.abs(want).min() > 1e-6


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_sum_of_nothing_is_zero() -> None:
    """Whatever is a factor of all its terms: a mean of nothing is NaN."""
    for f in (
        lambda x: tgc.sum(x - tgc.mean(x, axis=1, keepdims=True), axis=1),
        lambda x: tgc.sum(x / tgc.sum(x, axis=1, keepdims=True), axis=1),
        lambda x: tgc.sum(x * tgc.softmax(x, axis=1), axis=1),
        lambda x: tgc.sum(x * tgc.mean(x)) + tgc.zeros_like(x[:, 0:1].sum(1)),
    ):
        np.testing.assert_array_equal(tgc.jit(f)(np.ones((3, 0))), np.zeros(3))
