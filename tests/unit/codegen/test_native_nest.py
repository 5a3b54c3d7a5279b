"""Kernels with folds that do not depend on the axes around them, which no schedule of ours makes today."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tgc.codegen import native
from tgc.kernel.evaluate import evaluate_plan
from tgc.kernel.parse import parse_plan
from tgc.kernel.verify import verify

pytest.importorskip("llvmlite")

TWO_AXES = """plan f(x) -> (out)
  in x: f32[5, 40] strides [40, 1]
  out out: f32[1] strides [1]
  kernel k()
    loop a: 3 block 2
    lane b: 5
    lane c: 40
    use x out
    loop a
      x_value: f32[b, c] = load x[b*(40) + c]
      square: f32[b, c] = mul(x_value, x_value)
      tile: f32[] = fold sum(square) over (b, c)
    fold total: f32[] = fold sum(tile) over (a)
    store out[] over () = total
"""
TWO_FOLDS = """plan f(x) -> (out)
  in x: f32[40] strides [1]
  out out: f32[5] strides [1]
  kernel k()
    grid b: 5 block 2
    loop c: 40 block 2
    lane a: 3
    use x out
    loop c
      x_value: f32[c] = load x[c]
      t: f32[c] = fold sum(x_value) over (a)
      u: f32[c] = mul(x_value, t)
      v: f32[c] = fold sum(u) over (a)
    fold total: f32[] = fold sum(v) over (c)
    store out[b] over (b) = total
"""
WRITTEN_OUT = """plan f(x) -> (out)
  in x: f32[1] strides [1]
  out out: f32[1] strides [1]
  kernel k()
    loop a: 3 block 2
    lane c: 4 block 4
    lane b: 5
    use x out
    loop a
      x_value: f32[] = load x[]
      t: f32[] = fold sum(x_value) over (c, b)
      u: f32[] = mul(x_value, t)
      v: f32[] = fold sum(u) over (c, b)
    fold total: f32[] = fold sum(v) over (a)
    store out[] over () = total
"""
NEEDED_INSIDE = """plan f(x, y) -> (out)
  in x: f32[5, 40] strides [40, 1]
  in y: f32[3, 5] strides [5, 1]
  out out: f32[1] strides [1]
  kernel k()
    loop a: 3 block 2
    lane b: 5
    lane c: 40
    use x y out
    loop a
      x_value: f32[b, c] = load x[b*(40) + c]
      row: f32[b] = fold sum(x_value) over (c)
      y_value: f32[a, b] = load y[a*(5) + b]
      product: f32[a, b] = mul(y_value, row)
      tile: f32[a] = fold sum(product) over (b)
    fold total: f32[] = fold sum(tile) over (a)
    store out[] over () = total
"""


@pytest.mark.parametrize("text", [TWO_AXES, TWO_FOLDS, WRITTEN_OUT, NEEDED_INSIDE])
def test_folds_that_do_not_depend_on_what_is_around_them(text: str) -> None:
    plan = parse_plan(text)
    verify(plan)
    shapes = [b.shape for b in plan.buffers if b.role == "in"]
    inputs = [np.arange(1, 1 + np.prod(s), dtype=np.float32).reshape(s) % 7 for s in shapes]  # type: ignore[arg-type]
    space: dict[str, Any] = {}
    exec(native.emit([plan]), space)
    (ours,) = space["f"](*inputs)
    (want,) = evaluate_plan(plan, inputs).outputs
    np.testing.assert_allclose(ours, want, rtol=1e-6)
