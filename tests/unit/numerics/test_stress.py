"""The stress gate rejects the forms that textbooks print and keeps the ones that hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from tgc.numerics.samples import points
from tgc.numerics.stress import BOUND, Form, Verdict, gate, measure

ONE, TWO = np.float32(1), np.float32(2)
Array = np.ndarray


def logistic(x: Array) -> Array:
    return ONE / (ONE + np.exp(-x))


def softplus(x: Array) -> Array:
    return np.maximum(x, np.float32(0)) + np.log1p(np.exp(-np.abs(x)))


def bell(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return e / ((ONE + e) * (ONE + e))


def decide(
    interval: tuple[float, float], truth: Callable[[Any], Any], forms: dict[str, Any]
) -> Verdict:
    operands = points([interval], 400, np.random.default_rng(0))
    with mpmath.workprec(400):
        want = [truth(mpmath.mpf(float(v))) for v in operands[0]]
    return gate([Form(name, run, cost=len(name)) for name, run in forms.items()], operands, want)


CASES: dict[str, tuple[tuple[float, float], Callable[[Any], Any], dict[str, Any], str]] = {
    "sigmoid'": (
        (-80, 80),
        lambda x: mpmath.exp(-x) / (1 + mpmath.exp(-x)) ** 2,
        {
            "s*(1-s)": lambda x: logistic(x) * (ONE - logistic(x)),
            "exp(-x)/(1+exp(-x))**2": lambda x: np.exp(-x) / np.square(ONE + np.exp(-x)),
            "e/(1+e)**2, e=exp(-|x|)": bell,
        },
        "e/(1+e)**2, e=exp(-|x|)",
    ),
    "softplus'": (
        (-80, 80),
        lambda x: 1 / (1 + mpmath.exp(-x)),
        {
            "1-exp(-y)": lambda x: ONE - np.exp(-softplus(x)),
            "-expm1(-y)": lambda x: -np.expm1(-softplus(x)),
        },
        "-expm1(-y)",
    ),
    "softplus": (
        (-80, 80),
        lambda x: mpmath.log(1 + mpmath.exp(x)),
        {
            "log(1+exp(x))": lambda x: np.log(ONE + np.exp(x)),
            "max(x,0)+log1p(exp(-|x|))": softplus,
        },
        "max(x,0)+log1p(exp(-|x|))",
    ),
    "tanh'": (
        (-30, 30),
        lambda x: 1 / mpmath.cosh(x) ** 2,
        {
            "1-y*y": lambda x: ONE - np.tanh(x) * np.tanh(x),
            "(1-y)*(1+y)": lambda x: (ONE - np.tanh(x)) * (ONE + np.tanh(x)),
            "4e/(1+e)**2, e=exp(-2|x|)": lambda x: np.float32(4) * bell(TWO * x),
        },
        "4e/(1+e)**2, e=exp(-2|x|)",
    ),
    "expm1": (
        (-80, 80),
        mpmath.expm1,
        {"exp(x)-1": lambda x: np.exp(x) - ONE, "expm1(x)": np.expm1},
        "expm1(x)",
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_bad_forms_are_rejected(name: str) -> None:
    interval, truth, forms, good = CASES[name]
    verdict = decide(interval, truth, forms)
    assert verdict.chosen is not None and verdict.chosen.name == good
    assert {s.form.name for s in verdict.rejected} == set(forms) - {good}
    assert all(s.worst > BOUND for s in verdict.rejected)
    assert verdict.scores[0].form.name == good


def test_the_cheaper_of_two_sound_forms_wins() -> None:
    verdict = decide(
        (-3, 3),
        mpmath.tanh,
        {"tanh(x) * 1": lambda x: np.tanh(x) * ONE, "tanh(x)": np.tanh},
    )
    assert verdict.chosen is not None and verdict.chosen.name == "tanh(x)"


def test_an_accurate_form_beats_a_cheap_one_beyond_the_slack() -> None:
    """1/sqrt(1 - x*x) is within the bound over most of its domain, but near 1 it is far from the best."""
    verdict = decide(
        (-1, 1),
        lambda x: 1 / mpmath.sqrt(1 - x * x) if abs(x) < 1 else mpmath.inf,
        {
            "1-x*x": lambda x: ONE / np.sqrt(ONE - x * x),
            "(1-x)*(1+x)": lambda x: ONE / np.sqrt((ONE - x) * (ONE + x)),
        },
    )
    assert verdict.chosen is not None and verdict.chosen.name == "(1-x)*(1+x)"


def test_nothing_is_chosen_when_nothing_is_sound() -> None:
    interval, truth, forms, good = CASES["tanh'"]
    verdict = decide(interval, truth, {n: f for n, f in forms.items() if n != good})
    assert verdict.chosen is None and len(verdict.rejected) == len(forms) - 1


def test_a_score_says_where() -> None:
    x = np.array([0.0, 1.0, 2.0], np.float32)
    score = measure(Form("x", lambda x: x, 0), [x], [mpmath.mpf(0), mpmath.mpf(1), mpmath.mpf(3)])
    assert score.where == (2.0,)
    assert "x: 4.19e+06 ULP at (2)" in str(score)
