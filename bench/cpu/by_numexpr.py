"""The elementwise tasks in numexpr: one expression a result, gradients by hand. It has no erf, no rows, no draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numexpr
import numpy as np

from bench.cpu.tasks import ADAM, ADAM_MEAN, ADAM_SQUARE, FORWARD, Inputs, Unsupported

# Decimal constants would make an expression double: they are float32 variables. Integers are exact as they are.
CONSTANTS = {
    "half": 0.5,
    "gelu": math.sqrt(2 / math.pi),
    "cubic": 0.044715,
    "keep": 1 - ADAM["rate"] * ADAM["decay"],
    "beta1": ADAM["beta1"],
    "rest1": 1 - ADAM["beta1"],
    "beta2": ADAM["beta2"],
    "rest2": 1 - ADAM["beta2"],
    "rate": ADAM["rate"] / ADAM_MEAN,
    "correction": 1 / math.sqrt(ADAM_SQUARE),
    "epsilon": ADAM["epsilon"],
}

SIGMOID = "1 / (1 + exp(-x))"
BCE = "where(x > 0, x, 0 * x) - x * t + log1p(exp(-abs(x)))"
WRITTEN = f"-(t * log({SIGMOID}) + (1 - t) * log(1 - {SIGMOID}))"
HUBER = "where(abs(x - t) <= 1, half * (x - t) * (x - t), abs(x - t) - half)"
TANH = "tanh(gelu * (x + cubic * x * x * x))"

# Names of the inputs, the forward results, then the gradients. A tuple ("sum" or "mean", e) folds e.
EXPRESSIONS: dict[str, tuple[tuple[str, ...], tuple[Any, ...], tuple[str, ...]]] = {
    "add": (("a", "b"), ("a + b",), ()),
    "sigmoid sum": (("x",), (("sum", SIGMOID),), (f"{SIGMOID} * (1 - {SIGMOID})",)),
    "gelu tanh": (
        ("x", "g"),
        (f"half * x * (1 + {TANH})",),
        (
            f"g * (half * (1 + {TANH})"
            f" + half * x * (1 - {TANH} * {TANH}) * gelu * (1 + 3 * cubic * x * x))",
        ),
    ),
    "swiglu": (
        ("x", "v", "g"),
        ("x / (1 + exp(-x)) * v",),
        (f"g * v * {SIGMOID} * (1 + x * (1 - {SIGMOID}))", f"g * x * {SIGMOID}"),
    ),
    "BCE with logits": (("x", "t"), (("mean", BCE),), (f"({SIGMOID} - t) / n",)),
    "BCE as written": (("x", "t"), (("mean", WRITTEN),), (f"({SIGMOID} - t) / n",)),
    "huber": (
        ("x", "t"),
        (("mean", HUBER),),
        ("where(abs(x - t) <= 1, x - t, where(x > t, 1 + 0 * x, 0 * x - 1)) / n",),
    ),
}


def build(task: str, mode: str, inputs: Inputs) -> Callable[[], Any]:
    """A call of the task's expressions on the inputs, by numexpr's own threads."""
    size = inputs[0].size
    constants = {name: np.float32(value) for name, value in CONSTANTS.items()}
    constants["n"] = np.float32(size)
    if task == "AdamW step":
        return _adamw(inputs, constants)
    if task not in EXPRESSIONS:
        raise Unsupported("not an elementwise expression of functions numexpr has")
    names, forward, gradient = EXPRESSIONS[task]
    variables = {**constants, **dict(zip(names, inputs))}
    expressions = forward if mode == FORWARD else (*forward, *gradient)

    def value(expression: Any) -> Any:
        if isinstance(expression, str):
            return numexpr.evaluate(expression, variables)
        fold, of = expression
        # numexpr's own sum runs on one thread and adds float32 one by one: 1e7 of them keep four digits.
        total = np.sum(numexpr.evaluate(of, variables))
        return total / size if fold == "mean" else total

    return lambda: tuple(value(e) for e in expressions)


def _adamw(inputs: Inputs, constants: dict[str, Any]) -> Callable[[], Any]:
    p, g, m, v = inputs
    variables = {**constants, "p": p, "g": g, "m": m, "v": v}

    def run() -> Any:
        numexpr.evaluate("beta1 * m + rest1 * g", variables, out=m)
        numexpr.evaluate("beta2 * v + rest2 * g * g", variables, out=v)
        numexpr.evaluate("keep * p - rate * m / (sqrt(v) * correction + epsilon)", variables, out=p)
        return p, m, v

    return run
