"""Guarded calls: that a call like the last is recognised, and that whatever else changed is seen."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tgc
from tgc.runtime import dispatch, guarded

Pair = namedtuple("Pair", "a b")


@dataclass
class Box:
    a: Any
    b: Any


@pytest.fixture(params=["native", "python"])
def slow(request: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the calls that no guard recognised; with arrays compared in native code where there is some, or not."""
    if request.param == "python":
        monkeypatch.setattr(guarded, "alike", lambda values, state=(): None)
    counts: list[int] = []
    general = dispatch.Dispatcher._general

    def counted(self: Any, *args: Any) -> Any:
        counts.append(1)
        return general(self, *args)

    monkeypatch.setattr(dispatch.Dispatcher, "_general", counted)
    return counts


@pytest.fixture(params=["native code", "torch's comparison", "one by one"])
def comparison(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """torch, whose tensors are compared in native code where there is some, by torch, or attribute by attribute."""
    torch = pytest.importorskip("torch")
    if request.param == "native code":
        yield torch
        return
    monkeypatch.setattr(guarded, "plain", lambda value: False)
    if request.param == "one by one":
        monkeypatch.setattr(guarded, "_tensor_guards", lambda: None)
    else:
        assert guarded._tensor_guards() is not None
    yield torch


ARRAYS = np.arange(1.0, 5), np.arange(2.0, 6)
CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "positions": lambda f, a, b: f(a, b),
    "a keyword": lambda f, a, b: f(a, b=b),
    "keywords": lambda f, a, b: f(b=b, a=a),
    "a number": lambda f, a, b: f(a, 2.5),
    "no second": lambda f, a, b: f(a, None),
    "a tuple": lambda f, a, b: f((a, b), None),
    "a list": lambda f, a, b: f([a, b], None),
    "a dict": lambda f, a, b: f({"a": a, "b": {"c": b}}),
    "a namedtuple": lambda f, a, b: f(Pair(a, b)),
    "a dataclass": lambda f, a, b: f(Box(a, [b])),
    "a bool": lambda f, a, b: f(a, True),
    "a string": lambda f, a, b: f(a, "text"),
    "a numpy number": lambda f, a, b: f(a, np.float32(2)),
}


def either(a: Any, b: Any = 3.0) -> Any:
    """A function of all these: what it does depends on the structure and on the types."""
    if isinstance(a, dict):
        return a["a"] - a["b"]["c"]
    if isinstance(a, Pair):
        return a.a + 2 * a.b
    if isinstance(a, Box):
        return a.a + 3 * a.b[0]
    if isinstance(a, list):
        return a[0] * a[1]
    if isinstance(a, tuple):
        return a[0] / a[1]
    if b is True or b is None:
        return -a
    return a * 7 if isinstance(b, str) else a * b


@pytest.mark.parametrize("name", CALLS)
def test_a_call_like_the_last_is_recognised(name: str, slow: list[int]) -> None:
    f = tgc.jit(either)
    for scale in (1, 2, 3):
        a, b = ARRAYS[0] * scale, ARRAYS[1] + scale
        np.testing.assert_allclose(CALLS[name](f, a, b), CALLS[name](either, a, b))
    assert len(slow) == 1


def test_calls_in_turn_keep_apart() -> None:
    f = tgc.jit(either)
    a, b = ARRAYS
    for _ in range(2):
        for name, call in CALLS.items():
            np.testing.assert_allclose(call(f, a, b), call(either, a, b), err_msg=name)
        for name, call in reversed(CALLS.items()):
            np.testing.assert_allclose(call(f, a, b), call(either, a, b), err_msg=name)


def test_a_few_kinds_in_turn_are_recognised(slow: list[int]) -> None:
    f = tgc.jit(either)
    kinds = [np.ones(3), np.ones(4), np.ones((2, 2)), np.ones(3, np.float32)]
    for _ in range(3):
        for x in kinds:
            out = f(x, 2.0)
            assert out.shape == x.shape and out.dtype == x.dtype
    assert len(slow) == len(kinds)


@pytest.fixture
def misses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the guards that refused a call."""
    counts: list[int] = []

    def counted(prepared: guarded.Prepared) -> Any:
        call = guarded.guarded(prepared)
        assert call is not None

        def counting(*args: Any) -> Any:
            result = call(*args)
            counts.extend([1] * (result is guarded.MISS))
            return result

        return counting

    monkeypatch.setattr(dispatch, "guarded", counted)
    return counts


def test_a_kind_of_call_that_repeats_is_tried_first(misses: list[int]) -> None:
    f = tgc.jit(lambda x: x * 2)
    kinds = [np.ones(n) for n in (2, 3, 4)]
    for x in (*kinds, kinds[0], kinds[0]):
        f(x)
    misses.clear()
    for _ in range(5):
        f(kinds[0])
    assert not misses
    f(kinds[1])
    f(kinds[1])
    misses.clear()
    f(kinds[1])
    assert not misses


def test_calls_in_turn_do_not_overtake_one_another(misses: list[int]) -> None:
    f = tgc.jit(lambda x: x * 2)
    kinds = [np.ones(n) for n in (2, 3, 4)]
    for x in kinds * 2:
        f(x)
    misses.clear()
    for x in kinds * 4:
        f(x)
    assert len(misses) == 4 * (0 + 1 + 2)


def test_many_shapes_in_turn_are_recognised(slow: list[int]) -> None:
    f = tgc.jit(lambda x, y: x * 2 + y)
    for _ in range(3):
        for n in range(2, 22):
            x = np.full(n, float(n))
            np.testing.assert_array_equal(f(x, y=x), x * 3)
            assert f(x.astype(np.float32), x.astype(np.float32)).dtype == np.float32
            np.testing.assert_array_equal(f(x, y=x), x * 3)
    recognised = 3 * 3 * 20 - len(slow)
    assert recognised > 0
    slow.clear()
    for _ in range(3):
        for n in range(2, 22):
            f(x[:n], y=x[:n])
    assert len(slow) <= 20


def test_what_differs_between_arrays_is_seen() -> None:
    f = tgc.jit(lambda x, y: x + y)
    base = np.arange(16.0).reshape(4, 4)
    y = np.ones((4, 4))
    others = [
        base.T,
        base[::-1],
        base.astype(np.float32),
        base[:1],
        base.astype(np.int64),
        base.view(np.matrix) if hasattr(np, "matrix") else base,
        3.0,
        2,
        np.float32(3),
        True,
    ]
    for other in others:
        np.testing.assert_array_equal(f(base, y), base + y)
        out, expected = f(other, y), other + y
        np.testing.assert_array_equal(out, np.asarray(expected))
        assert out.dtype == expected.dtype
    with pytest.raises(TypeError):
        f(base)
    with pytest.raises(TypeError):
        f(base, y, y)
    with pytest.raises(TypeError):
        f(base, y=y, z=y)


def test_int_and_float_arguments_are_kept_apart() -> None:
    f = tgc.jit(lambda x: x * 2)
    for value in (3, 3.0, 4, 2.5):
        assert f(value) == value * 2 and type(f(value)) is type(value)


def test_static_values_are_compared_by_value() -> None:
    f = tgc.jit(lambda x, by: x * by, static_argnames=("by",))
    x = np.ones(3)
    for by in (2, 2, 3, 2.0, -0.0, 0.0, float("nan"), float("nan"), True):
        for _ in range(2):
            out = f(x, by)
            np.testing.assert_array_equal(np.signbit(out), np.signbit(x * by))
            np.testing.assert_array_equal(out, x * by)
            np.testing.assert_array_equal(f(x, by=by), x * by)


def test_settings_are_seen() -> None:
    f = tgc.jit(lambda x: x * 2 if isinstance(x, np.ndarray) else x * 3)
    x = np.ones(3)
    assert f(x)[0] == 3, "while it is traced"
    with tgc.settings(disable=True):
        assert f(x)[0] == 2
    with tgc.settings(verify=False):
        assert f(x)[0] == 3
    assert f(x)[0] == 3
    with tgc.settings(backend="vulkan"), pytest.raises(tgc.errors.BackendError):
        f(x)


def test_a_call_on_a_captured_array_inside_a_trace_is_traced() -> None:
    inner = tgc.jit(lambda x: tgc.square(x))
    w = np.full(3, 2.0)
    assert inner(w)[0] == 4
    outer = tgc.jit(lambda x: x + inner(w))
    assert outer(np.ones(3))[0] == 5
    w[:] = 5
    assert outer(np.ones(3))[0] == 26


# --- torch ----------------------------------------------------------------------------------------


def test_what_differs_between_tensors_is_seen(comparison: Any) -> None:
    torch = comparison
    f = tgc.jit(lambda x, y: x * y + x)
    base, y = torch.arange(16.0).reshape(4, 4) + 1, torch.ones(4, 4)
    others = [
        base.T,
        base[:1],
        base.double(),
        base.long(),
        base.clone().requires_grad_(),
        torch.nn.Parameter(base.clone()),
        torch._neg_view(base),
        2.0,
    ]
    for other in others:
        with pytest.raises(tgc.errors.UnsupportedOpError, match="no memory"):
            f(torch._to_functional_tensor(base), y)
        torch.testing.assert_close(f(base, y), base * y + base)
        out, expected = f(other, y), other * y + other
        torch.testing.assert_close(out, expected)
        assert out.requires_grad == expected.requires_grad
    torch.testing.assert_close(f(y, y), y * y + y)
    with pytest.raises(tgc.errors.UnsupportedOpError, match="no memory"):
        f(torch._to_functional_tensor(y), y)
    torch.testing.assert_close(f(base, y), base * y + base)
    with pytest.raises(tgc.errors.UnsupportedOpError):
        f(base.to_sparse(), y)
    assert f(base.to("meta"), y.to("meta")).device.type == "meta"


def test_tensors_alike_are_recognised(comparison: Any, slow: list[int]) -> None:
    torch = comparison
    f = tgc.jit(lambda x, y: x * y)
    for k in range(3):
        x, y = torch.full((3, 2), float(k)), torch.ones(3, 2, requires_grad=True)
        torch.testing.assert_close(f(x, y), x * y)
    assert len(slow) == 1
    for _ in range(3):
        torch.testing.assert_close(f(y, y), y * y)
        torch.testing.assert_close(f(y, y=y), y * y)
    assert len(slow) <= 4


def test_tensors_with_and_without_a_history_are_alike(comparison: Any, slow: list[int]) -> None:
    torch = comparison
    f = tgc.jit(lambda x, y: x * y)
    rows = torch.arange(6.0).reshape(2, 3)
    for x in (rows[0].clone(), rows[1], rows[1].clone(), rows[0]):
        for _ in range(2):
            torch.testing.assert_close(f(x, x), x * x)
    assert len(slow) == 1


def test_the_grad_mode_is_seen(comparison: Any) -> None:
    torch = comparison
    f = tgc.jit(lambda x: x * 3)
    x = torch.ones(3, requires_grad=True)
    for _ in range(3):
        assert f(x).requires_grad
        with torch.no_grad():
            assert not f(x).requires_grad
        with torch.inference_mode():
            assert f(x).is_inference() == (x * 3).is_inference() or not f(x).requires_grad
        (slope,) = torch.autograd.grad(f(x).sum(), x)
        assert slope.tolist() == [3.0] * 3


def test_the_default_dtype_and_autocast_are_seen(comparison: Any) -> None:
    torch = comparison
    f = tgc.jit(lambda x: x * 2.5)
    x = torch.arange(3)
    assert f(x).dtype is torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert f(x).dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert f(x).dtype is torch.float32
    product = tgc.jit(lambda a, b: a @ b)
    a = torch.ones(4, 4)
    plain = product(a, a).dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        traces = product.stats().traces
        product(a, a)
        assert product.stats().traces == traces + 1, "it is a program of its own"
    assert product(a, a).dtype is plain


def test_transforms_of_torch_are_refused() -> None:
    torch = pytest.importorskip("torch")
    f = tgc.jit(lambda x: x * x)
    x = torch.ones(3)
    f(x)
    f(x.clone().requires_grad_())
    for transform in (torch.func.vmap(f), torch.func.grad(lambda x: f(x).sum())):
        with pytest.raises(tgc.errors.UnsupportedOpError, match=r"torch\.func"):
            transform(x)
    assert f(x)[0] == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its forward mode
def test_tangents_of_torch_are_refused() -> None:
    """Where its forward mode is on, plain tensors pass."""
    torch = pytest.importorskip("torch")
    forward = torch.autograd.forward_ad
    f = tgc.jit(lambda x: x * x)
    x, asking = torch.ones(3), torch.ones(3, requires_grad=True)
    for _ in range(2):
        f(x), f(asking)
        with forward.dual_level():
            for value in (x, asking):
                assert f(value)[0] == 1
                with pytest.raises(tgc.errors.UnsupportedOpError, match="forward mode"):
                    f(forward.make_dual(value, x))


def test_subclasses_of_tensors_are_seen(comparison: Any) -> None:
    torch = comparison

    class Named(torch.Tensor):  # type: ignore[misc, name-defined]
        pass

    f = tgc.jit(lambda x: x + 1)
    x = torch.ones(3)
    for value in (x, x.as_subclass(Named), x):
        assert f(value).tolist() == [2.0] * 3


# --- what the function sees besides ---------------------------------------------------------------


class Layer:
    offset: Any = 0.0
    bias: Any

    def __init__(self) -> None:
        self.scale: Any = 2.0
        self.parts: Any = [np.ones(3), {"by": 1.0}]
        self.w: Any = np.ones(3)
        self.other = 0

    def at(self, x: Any) -> Any:
        bias = self.bias if "bias" in vars(self) else 0.0
        return (x * self.scale * self.w + self.parts[0]) * self.parts[1]["by"] + bias + self.offset


def changes() -> list[tuple[str, Callable[[Layer], None], bool]]:
    """Each change, and whether the calls after it are recognised without a walk."""

    def set_(name: str, value: Any) -> Callable[[Layer], None]:
        return lambda layer: setattr(layer, name, value)

    return [
        ("a number", set_("scale", 3.0), False),
        ("its type", set_("scale", 3), False),
        ("an array", set_("w", np.full(3, 4.0)), True),
        ("an array's content", lambda layer: layer.w.__setitem__(0, 9.0), True),
        ("an array's dtype", set_("w", np.ones(3, np.float32)), False),
        ("an array's shape", set_("w", np.ones(1)), False),
        ("something it does not read", set_("other", 5), True),
        ("a number in a dict", lambda layer: layer.parts[1].update(by=5.0), False),
        ("a longer dict", lambda layer: layer.parts[1].update(new=5.0), False),
        ("an array in a list", lambda layer: layer.parts.__setitem__(0, np.zeros(3)), True),
        ("a new list", set_("parts", [np.full(3, 2.0), {"by": 1.0}]), False),
        ("one array twice", lambda layer: layer.parts.__setitem__(0, layer.w), False),
        ("no longer twice", lambda layer: layer.parts.__setitem__(0, np.ones(3)), False),
        ("a new attribute", set_("bias", 7.0), False),
        ("an attribute less", lambda layer: delattr(layer, "bias"), False),
        ("over the class", set_("offset", 1.5), False),
        ("the class", lambda layer: setattr(type(layer), "offset", 2.5), False),
        ("a number for an array", set_("w", 3.0), False),
        ("an array for a number", set_("w", np.ones(3)), False),
    ]


@pytest.mark.parametrize("how", ["argument", "captured"])
def test_changes_in_an_object_are_seen(
    how: str, slow: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layer, "offset", 0.0)
    layer = Layer()
    x = np.arange(3.0)
    whole = tgc.jit(lambda layer, x: layer.at(x))
    closed = tgc.jit(lambda x: layer.at(x))
    call = (lambda: whole(layer, x)) if how == "argument" else (lambda: closed(x))
    np.testing.assert_allclose(call(), layer.at(x))
    for name, change, cheap in changes():
        call()
        count = len(slow)
        change(layer)
        np.testing.assert_allclose(call(), layer.at(x), err_msg=name)
        assert len(slow) == count or not cheap, f"after {name}, a walk was needed"
        np.testing.assert_allclose(call(), layer.at(x), err_msg=name)


def test_changes_of_globals_and_cells_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "GAIN", 2.0, raising=False)
    factor: Any = 1.0
    table: dict[str, Any] = {}
    f = tgc.jit(lambda x: x * GAIN * factor + table.get("add", 0.0))  # type: ignore[name-defined] # noqa: F821
    x = np.ones(3)
    assert [f(x)[0], f(x)[0]] == [2, 2]
    monkeypatch.setattr(module, "GAIN", 4.0)
    assert [f(x)[0], f(x)[0]] == [4, 4]
    factor = np.full(3, 2.0)
    assert [f(x)[0], f(x)[0]] == [8, 8]
    factor = np.full(3, 3.0)
    assert [f(x)[0], f(x)[0]] == [12, 12]
    table["add"] = 1.0
    assert [f(x)[0], f(x)[0]] == [13, 13]
    del factor
    with pytest.raises(NameError):
        f(x)


def test_changes_in_a_torch_module_are_seen(slow: list[int]) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    module = nn.Sequential(*[nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(3)])
    f, x = tgc.jit(lambda m, x: m(x)), torch.randn(2, 3)

    def check() -> int:
        before = len(slow)
        for _ in range(2):
            torch.testing.assert_close(f(module, x), module(x))
        return len(slow) - before

    assert check() == 1 and check() == 0
    with torch.no_grad():
        module[0][0].weight.mul_(2)
    assert check() == 0
    module[1][0].weight = nn.Parameter(torch.ones(3, 3))
    assert check() == 0, "another parameter of the same kind"
    module[1][0].bias = None
    assert check() > 0
    module[2][1] = nn.Tanh()
    assert check() > 0
    module[1].append(nn.Sigmoid())
    assert check() > 0
    module[0][0].weight.requires_grad_(False)
    assert check() > 0
    module.eval()
    assert check() > 0
    module[1][0].weight = module[0][0].weight
    assert check() > 0, "one parameter in two places"
    module[1][0].weight = nn.Parameter(torch.ones(3, 3))
    check()


def test_objects_among_the_arguments_are_not_kept_alive() -> None:
    class Part:
        by = 2.0

    f = tgc.jit(lambda layer, x: x * layer.scale * layer.w * layer.parts.by + layer.offset)
    x = np.ones(3)
    layers = [Layer() for _ in range(8)]
    for layer in layers:
        layer.parts = Part()
        for _ in range(2):
            assert f(layer, x)[0] == 4
    dead = [weakref.ref(layer.parts) for layer in layers]
    del layers, layer
    gc.collect()
    assert [part() for part in dead] == [None] * 8


def test_a_method_of_many_objects_is_recognised(slow: list[int]) -> None:
    f = tgc.jit(lambda layer, x: layer.at(x))
    x = np.arange(3.0)
    layers = [Layer() for _ in range(12)]
    for k in range(4):
        for j, layer in enumerate(layers):
            layer.w = np.full(3, k + 3.0 * j)
            np.testing.assert_allclose(f(layer, x), layer.at(x))
    assert len(slow) == len(layers)


def test_threads_with_calls_of_different_kinds() -> None:
    f = tgc.jit(either)
    failures: list[str] = []

    def work(offset: int) -> None:
        names = list(CALLS)
        for k in range(120):
            name = names[(k * (offset + 1) + offset) % len(names)]
            a, b = np.arange(1.0, 3 + offset), np.arange(2.0, 4 + offset)
            if not np.allclose(CALLS[name](f, a, b), CALLS[name](either, a, b)):
                failures.append(name)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
