"""Captured arrays, numbers, modules and attributes: a compiled function sees when they change."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import tgc

SCALE = 2.0


def test_a_number_in_a_cell_may_change() -> None:
    factor: Any = 2

    @tgc.jit
    def f(x: Any) -> Any:
        return x * factor

    assert f(np.ones(2))[0] == 2
    factor = 3
    assert f(np.ones(2))[0] == 3
    factor = float("nan")
    assert np.isnan(f(np.ones(2))[0]) and np.isnan(f(np.ones(2))[0])
    assert f.stats().traces == 3


def helper(x: Any) -> Any:
    return x * SCALE


def test_a_global_of_a_helper_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    f = tgc.jit(lambda x: helper(x))
    assert f(np.ones(2))[0] == 2
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 5.0)
    assert f(np.ones(2))[0] == 5


def test_an_array_in_a_cell_is_an_input() -> None:
    w = np.ones(3)
    f = tgc.jit(lambda x: x * w)
    np.testing.assert_array_equal(f(np.ones(3)), w)
    w[:] = 4
    np.testing.assert_array_equal(f(np.ones(3)), w)
    w = np.arange(3.0)
    np.testing.assert_array_equal(f(np.ones(3)), w)
    assert f.stats().traces == 1


def test_a_helper_may_be_rebound() -> None:
    step: Any = np.sin
    f = tgc.jit(lambda x: step(x))
    x = np.ones(3)
    for step in (np.sin, np.cos, lambda x: x * SCALE, np.sin):
        np.testing.assert_allclose(f(x), step(x))
    assert f.stats().traces == 3


def test_a_container_of_arrays_may_be_rebound() -> None:
    ws = [np.ones(3), np.ones(3)]
    f = tgc.jit(lambda x: x * ws[0] + ws[1])
    f(np.ones(3))
    ws[0] = np.full(3, 4.0)
    assert f(np.ones(3))[0] == 5
    ws = [np.full(3, 6.0), np.ones(3)]
    assert f(np.ones(3))[0] == 7


def test_a_number_in_an_object_in_a_cell_may_change() -> None:
    class Options:
        def __init__(self) -> None:
            self.scale, self.calls = 2.0, 0

    options = Options()
    f = tgc.jit(lambda x: x * options.scale)
    for options.calls, options.scale in enumerate((2.0, 2.0, 5.0, 2.0)):
        assert f(np.ones(2))[0] == options.scale
    assert f.stats().traces == 2


def test_attributes_of_an_argument_may_change() -> None:
    class Part:
        __slots__ = ("power",)

        def __init__(self) -> None:
            self.power = 1

    class Line:
        offset = 0.0

        def __init__(self) -> None:
            self.slope, self.w, self.part, self.calls = 2.0, np.ones(3), Part(), 0

        @property
        def both(self) -> Any:
            return self.w, self.slope

        @tgc.jit
        def at(self, x: Any) -> Any:
            w, slope = self.both
            return x**self.part.power * w * slope + self.offset

    line, x = Line(), np.full(3, 3.0)
    assert line.at(x)[0] == 6
    line.calls = 1
    assert line.at(x)[0] == 6 and Line.at.stats().traces == 1
    line.slope = 5.0
    assert line.at(x)[0] == 15
    line.w = np.full(3, 2.0)
    assert line.at(x)[0] == 30 and Line.at.stats().traces == 2
    line.part.power = 2
    assert line.at(x)[0] == 90
    line.part = Part()
    assert line.at(x)[0] == 30
    Line.offset = 1.0
    assert line.at(x)[0] == 31
    line.offset = 2.0
    assert line.at(x)[0] == 32


def test_parts_of_a_module_that_is_an_argument_may_change() -> None:
    torch = pytest.importorskip("torch")

    class Scaled(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.0))
            self.by = 1.0

        @tgc.jit
        def forward(self, x: Any) -> Any:
            return self.inner(x) / self.by

    module, x = Scaled(), torch.ones(2, 3)

    def check() -> None:
        with torch.no_grad():
            expected = (x @ module.inner[0].weight.T + module.inner[0].bias) / module.by
            torch.testing.assert_close(module(x), expected)

    check()
    module.by = 2.0
    check()
    module.inner[0] = torch.nn.Linear(3, 3)
    check()
    module.inner = torch.nn.Sequential(torch.nn.Linear(3, 3))
    check()
    module.inner[0].weight = torch.nn.Parameter(torch.eye(3))
    check()
    assert Scaled.forward.stats().traces == 4


def test_containers_in_containers_may_change() -> None:
    table: dict[str, Any] = {"w": [np.ones(3)], "by": {"scale": 2.0}, "sizes": [1, 2]}
    f = tgc.jit(lambda x: x * table["w"][0] * table["by"]["scale"] + table["sizes"][1])
    x = np.ones(3)
    assert f(x)[0] == 4
    table["w"] = [np.full(3, 5.0)]
    assert f(x)[0] == 12 and f.stats().traces == 1
    table["by"]["scale"] = 3.0
    assert f(x)[0] == 17
    table["by"] = {"scale": 4.0}
    assert f(x)[0] == 22
    table["sizes"][1] = 3
    assert f(x)[0] == 23
    table["w"][0] = 2.0
    assert f(x)[0] == 11
    table = {"w": (np.ones(3), np.zeros(3)), "by": {"scale": 1.0}, "sizes": [0, 0]}
    assert f(x)[0] == 1


def test_two_names_of_one_array_may_part() -> None:
    a: Any = np.ones(3)
    b: Any = a
    kept = {"w": a}
    f = tgc.jit(lambda x: x * a - b + kept["w"])
    x = np.ones(3)
    assert f(x)[0] == 1
    b = np.full(3, 5.0)
    assert f(x)[0] == -3
    a = np.full(3, 7.0)
    assert f(x)[0] == 3
    a, b, kept["w"] = b, a, b
    assert f(x)[0] == 5 - 7 + 5
    kept["w"] = np.zeros(3)
    assert f(x)[0] == -2
    a = b = kept["w"]
    assert f(x)[0] == 0
    b = np.ones(3)
    assert f(x)[0] == -1


def test_an_array_in_a_cell_may_become_a_number() -> None:
    w: Any = np.ones(3)
    f = tgc.jit(lambda x: x * w)
    for w in (np.ones(3), 2.5, 3.5, np.full(3, 4.0)):
        np.testing.assert_array_equal(f(np.ones(3)), np.ones(3) * w)


def test_an_array_in_a_cell_may_change_its_type() -> None:
    w: Any = np.ones(3, np.float32)
    f = tgc.jit(lambda x: x * w)
    assert f(np.ones(3, np.float32)).dtype == np.float32
    w = np.full(3, 1e300)
    np.testing.assert_array_equal(f(np.ones(3, np.float32)), w)
