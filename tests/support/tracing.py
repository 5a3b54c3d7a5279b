"""Compare a traced function with the same function run by its library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tgc import trees
from tgc.ir.evaluate import evaluate
from tgc.trace.run import Traced, trace

TOLERANCE = {"float64": 1e-10, "float32": 3e-5, "float16": 2e-2, "bfloat16": 1e-1}


def to_numpy(value: Any) -> Any:
    """An array, tensor or number for the evaluator; bfloat16, which numpy lacks, as float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    return np.asarray(value)


def dtype_name(value: Any) -> str:
    """The element type of a result, without its library."""
    if not hasattr(value, "dtype"):
        return {bool: "bool", int: "int64", float: "float64"}[type(value)]
    return str(value.dtype).removeprefix("torch.")


def run(traced: Traced) -> list[Any]:
    """The graph's outputs for the arguments it was traced with."""
    arrays = [to_numpy(v) for v in (*traced.values, *traced.captured)]
    return evaluate(traced.graph, arrays)


def check(function: Callable[..., Any], *args: Any, tolerance: float | None = None) -> Traced:
    """Trace, evaluate in float64 and compare structure, types, shapes and values with a plain call."""
    expected, definition = trees.flatten(function(*args))
    traced = trace(function, args)
    assert len(traced.graph.outputs) == len(expected)
    assert traced.out_tree.leaves == definition.leaves
    for node, value, wanted in zip(traced.graph.outputs, run(traced), expected):
        assert node.dtype.name == dtype_name(wanted)
        wanted = to_numpy(wanted)
        assert value.shape == wanted.shape
        if node.dtype.is_float:
            close = TOLERANCE[node.dtype.name] if tolerance is None else tolerance
            np.testing.assert_allclose(
                np.asarray(value, np.float64),
                np.asarray(wanted, np.float64),
                rtol=close,
                atol=close,
            )
        else:
            np.testing.assert_array_equal(value, wanted)
    return traced
