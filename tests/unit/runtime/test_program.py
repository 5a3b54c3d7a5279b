"""Sizes, guards and their JSON; targets and devices."""

from __future__ import annotations

import numpy as np
import pytest

from tgc.errors import BackendError, ShapeError
from tgc.ir import dtypes
from tgc.ir.sizes import Size, floordiv
from tgc.kernel.ir import Guard
from tgc.runtime import native
from tgc.runtime.captures import Guards, getter_of
from tgc.runtime.program import Slot, bind, guards_to_json, holds, size_from_json, size_to_json
from tgc.runtime.tensors import target_of
from tgc.settings import settings

N, M = Size.symbol("n"), Size.symbol("m")


def slot(*shape: object) -> Slot:
    return Slot(dtypes.float32, shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "size", [0, 7, N, N * M + 3, N - 1, floordiv(N * 2 + 1, 3), floordiv(N, M) * M + N], ids=str
)
def test_sizes_survive_json(size: object) -> None:
    import json

    assert size_from_json(json.loads(json.dumps(size_to_json(size)))) == size  # type: ignore[arg-type]


def test_guards_hold_on_intervals() -> None:
    guards = (Guard(N * M, None, 100), Guard(N, 4, None))
    assert holds(guards, {"n": 4, "m": 25})
    assert not holds(guards, {"n": 4, "m": 26})
    assert not holds(guards, {"n": 3, "m": 1})
    assert guards_to_json(guards)[1][1:] == [4, None]


def test_sizes_are_bound_from_shapes() -> None:
    slots = (slot(N, M), slot(N * M), slot())
    assert bind(slots, [np.zeros((2, 3)), np.zeros(6), 1.0]) == {"n": 2, "m": 3}
    for shapes in ((2, 3), 5), ((2,), 6):
        with pytest.raises(ShapeError):
            bind(slots, [np.zeros(shapes[0]), np.zeros(shapes[1]), 1.0])  # type: ignore[arg-type]


def test_targets_of_arrays() -> None:
    assert target_of(None, None) == ("numpy" if native.unavailable() else "native")
    assert target_of(None, "numpy") == "numpy"
    with settings(backend="numpy"):
        assert target_of(None, None) == "numpy"
    with settings(backend="cuda"), pytest.raises(BackendError, match="no backend 'cuda'"):
        target_of(None, None)


FACTOR = 3
TABLE = {"inner": [np.zeros(2)]}


def outer() -> object:
    return nested() + FACTOR  # type: ignore[operator]


def nested() -> object:
    return TABLE


def test_values_read_through_helpers_are_guards() -> None:
    assert (int, 3) in Guards(outer)()


def test_an_array_in_a_container_is_found_again() -> None:
    old = TABLE["inner"][0]
    get = getter_of(old, outer)
    assert get() is old
    TABLE["inner"][0] = new = np.ones(2)
    assert get() is new
    TABLE["inner"][0] = old


def test_an_array_nobody_names_is_itself() -> None:
    hidden = np.ones(3)
    assert getter_of(hidden, outer)() is hidden
