"""The functions that emitted numpy modules define for themselves."""

from __future__ import annotations

import numpy as np
import pytest

from tgc.codegen.numpy.functions import fold_columns, fold_rows


@pytest.mark.parametrize("cols", [0, 1, 7, 64, 65, 1500])
@pytest.mark.parametrize("rows", [0, 1, 63, 64, 200])
def test_folds_of_short_rows(rows: int, cols: int, rng: np.random.Generator) -> None:
    wide = rng.standard_normal((rows, cols + 3)).astype(np.float32)
    if wide.size > 4:
        wide.flat[3] = np.nan
    for x in (wide[:, :cols].copy(), wide[:, 3:]):
        np.testing.assert_allclose(fold_rows(np.add, x), x.sum(0), rtol=2e-5, atol=2e-5)
        if rows:
            np.testing.assert_array_equal(fold_rows(np.maximum, x), x.max(0))
        if cols:
            np.testing.assert_array_equal(fold_columns(np.maximum, x), x.max(1, keepdims=True))
