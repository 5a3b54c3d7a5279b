"""Tensors as host functions of the CPU see them: arrays over their memory, of every type, size and history."""

from __future__ import annotations

import gc
import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch

import tgc
from tgc.ir import dtypes
from tgc.runtime.steps import Lines, function
from tgc.runtime.tensors import any_into_host, into_host

TYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"]


def seen(value: Any, how: Any, then: str = "") -> np.ndarray:
    """The array that a step makes of a tensor, and what it does with it while it lasts."""
    body = Lines()
    body.say(f"return {body.convert(how, 'x0')}{then}")
    found: np.ndarray = function("step", "x0", body.lines, body.names)(value)
    return found


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5,), (2, 3, 4)])
@pytest.mark.parametrize("kind", TYPES)
def test_an_array_over_the_memory_of_a_tensor(kind: str, shape: tuple[int, ...]) -> None:
    pytest.importorskip("ml_dtypes")
    dtype = getattr(torch, kind)
    x = (torch.arange(math.prod(shape)) % 2 * 3).reshape(shape).to(dtype)
    for how in (into_host(x, "numpy"), any_into_host(dtypes.BY_NAME[kind], shape, "numpy")):
        array = seen(x, how)
        assert (array.dtype.name, array.shape) == (kind, shape)
        assert array.flags.c_contiguous and array.flags.writeable
        np.testing.assert_array_equal(array.astype(np.float64), x.double().numpy())
        if array.size:
            array[...] = 1
            assert (x == 1).all()
            x.zero_()
            assert not array.astype(np.float64).any()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_tensors_that_are_not_contiguous_are_copied(requires_grad: bool) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    turned = (base.T, base[:, 1:3], base[1], torch.view_as_real(torch.randn(3) * 1j)[..., 1])
    for x in (*turned, torch._neg_view(base), torch._neg_view(base)[:, ::2]):
        x = x.detach().requires_grad_(requires_grad)
        how = into_host(x, "numpy")
        assert seen(x, how, ".flags.c_contiguous")
        array = seen(x, how, ".copy()")
        np.testing.assert_array_equal(array, x.detach().resolve_neg().numpy())


def test_results_have_memory_of_their_own() -> None:
    """What is an argument's value, moved or not, outlives it and is not overwritten with it."""

    def kept(x: Any) -> Any:
        return x.reshape(-1), x.T, x[1:]

    x = torch.arange(6.0).reshape(2, 3)
    found = tgc.jit(kept, backend="numpy")(x)
    wanted = [t.clone() for t in kept(x)]
    x.fill_(-1)
    del x
    gc.collect()
    torch.randn(1000).sum()
    for y, want in zip(found, wanted):
        torch.testing.assert_close(y, want)


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_a_result_in_several_places(backend: str) -> None:
    f = tgc.jit(lambda x: (y := x.abs() + 1, y, {"flat": y.reshape(-1)}), backend=backend)
    for x in (torch.randn(5), torch.randn(5, requires_grad=True)):
        for _ in range(2):
            first, second, others = f(x)
            for y in (first, second, others["flat"]):
                torch.testing.assert_close(y, x.abs() + 1)


@pytest.mark.parametrize("kind", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5)])
def test_what_is_saved_for_the_backward(kind: str, shape: tuple[int, ...]) -> None:
    """Inputs, outputs and values between them; cotangents of which some are broadcast."""
    pytest.importorskip("ml_dtypes")

    def f(x: Any, y: Any) -> Any:
        z = torch.exp(x) * torch.cos(y * x)
        return z / (1 + z * z), torch.softmax(x.reshape(-1), 0)

    x, y = (torch.randn(shape).to(getattr(torch, kind)).requires_grad_() for _ in "xy")
    copies = [t.detach().double().requires_grad_() for t in (x, y)]
    for g, inputs in ((tgc.jit(f, backend="numpy"), (x, y)), (f, copies)):
        first, second = g(*inputs)
        (first.sum() + (second * torch.arange(second.numel())).sum()).backward()
    tolerance = 0.1 if kind == "bfloat16" else 1e-5
    for ours, theirs in zip((x, y), copies):
        torch.testing.assert_close(
            ours.grad, theirs.grad, rtol=tolerance, atol=tolerance, check_dtype=False
        )


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_tensors_that_stand_for_others_are_refused(backend: str) -> None:
    if backend == "native":
        pytest.importorskip("llvmlite")
    fake_mode = importlib.import_module("torch._subclasses.fake_tensor").FakeTensorMode()
    f = tgc.jit(lambda x, y: x * y + 1, backend=backend)
    x, y = torch.ones(4), torch.full((4,), 2.0)
    f(x, y)
    for other in (fake_mode.from_tensor(x), torch._to_functional_tensor(x)):
        for given in ((other, y), (y, other), (other.requires_grad_(), y)):
            with pytest.raises(tgc.errors.UnsupportedOpError, match="no memory"):
                f(*given)
        assert f(x, y).tolist() == [3.0] * 4
    assert f(x.to("meta"), y.to("meta")).device.type == "meta"
    assert f(x[:0], y[:0]).tolist() == []
