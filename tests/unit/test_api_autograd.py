"""torch autograd through compiled functions: every order, accumulation, modes, messages."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import tgc

torch = pytest.importorskip("torch")
F = torch.nn.functional


def wave(x: Any) -> Any:
    return torch.tanh(torch.sin(x) * torch.exp(-x * x))


def double(*shape: int, requires_grad: bool = True) -> Any:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=requires_grad)


def slopes(f: Callable[..., Any], x: Any, order: int) -> list[Any]:
    """The value of the elementwise f and its derivatives up to `order`."""
    found = [f(x)]
    for _ in range(order):
        (slope,) = torch.autograd.grad(found[-1].sum(), x, create_graph=True)
        found.append(slope)
    return found


def test_three_derivatives_agree_with_eager() -> None:
    x = torch.linspace(-3, 3, 101, dtype=torch.float64, requires_grad=True)
    for ours, theirs in zip(slopes(tgc.jit(wave), x, 3), slopes(wave, x, 3)):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_fourth_derivative() -> None:
    x = torch.linspace(-1, 1, 11, dtype=torch.float64, requires_grad=True)
    ours, theirs = slopes(tgc.jit(wave), x, 4)[4], slopes(wave, x, 4)[4]
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "polynomial": (lambda x: x * x * x - 2 * x, ((5,),)),
    "product": (lambda x, y: x * y, ((3, 4), (3, 4))),
    "broadcast product": (lambda x, y: x * y, ((3, 4), (4,))),
    "quotient": (lambda x, y: x / (y * y + 1), ((3,), (3,))),
    "tanh": (torch.tanh, ((5,),)),
    "sigmoid": (torch.sigmoid, ((5,),)),
    "exp of sin": (lambda x: torch.exp(torch.sin(x)), ((5,),)),
    "log": (lambda x: torch.log(x * x + 1), ((5,),)),
    "erf": (torch.erf, ((5,),)),
    "gelu": (F.gelu, ((2, 3),)),
    "silu": (F.silu, ((2, 3),)),
    "softplus": (F.softplus, ((2, 3),)),
    "softmax": (lambda x: F.softmax(x, dim=-1), ((2, 5),)),
    "log_softmax": (lambda x: F.log_softmax(x, dim=-1), ((2, 5),)),
    "logsumexp": (lambda x: torch.logsumexp(x, dim=1), ((2, 5),)),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b), ((3, 4), (4,), (4,))),
    "mean of squares": (lambda x: (x * x).mean(), ((3, 4),)),
    "sum over rows": (lambda x: x.sum(0) ** 2, ((3, 4),)),
    "matmul": (lambda x, y: x @ y, ((2, 3), (3, 4))),
    "linear and tanh": (lambda x, w, b: torch.tanh(F.linear(x, w, b)), ((2, 3), (4, 3), (4,))),
    "where": (lambda x: torch.where(x > 0, torch.exp(x), x * x), ((6,),)),
    "transpose": (lambda x: (x.T * x.T).sum(0), ((3, 2),)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_derivatives(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    compiled = tgc.jit(function)
    inputs = tuple(double(*shape) for shape in shapes)
    torch.testing.assert_close(compiled(*inputs), function(*inputs))
    assert torch.autograd.gradcheck(compiled, inputs)
    assert torch.autograd.gradgradcheck(compiled, inputs)


def test_gradients_accumulate() -> None:
    f, x = tgc.jit(lambda x: (x * x).sum()), double(4)
    f(x).backward()
    once = x.grad.clone()
    f(x).backward()
    torch.testing.assert_close(x.grad, 2 * once)


def test_no_grad_gives_plain_values() -> None:
    f, x = tgc.jit(wave), double(4)
    with torch.no_grad():
        y = f(x)
    assert not y.requires_grad and y.grad_fn is None
    torch.testing.assert_close(y, wave(x).detach())


def test_inference_mode() -> None:
    f, x = tgc.jit(wave), double(4, requires_grad=False)
    with torch.inference_mode():
        torch.testing.assert_close(f(x), wave(x))


def test_requires_grad_may_change_between_calls() -> None:
    f = tgc.jit(lambda x, y: (x * y).sum())
    a, b = double(3, requires_grad=False), double(3, requires_grad=False)
    for wants in [(True, False), (False, True), (True, True), (False, False), (True, False)]:
        x, y = a.clone().requires_grad_(wants[0]), b.clone().requires_grad_(wants[1])
        out = f(x, y)
        assert out.requires_grad == any(wants)
        if out.requires_grad:
            out.backward()
        for t, other, want in ((x, b, wants[0]), (y, a, wants[1])):
            if want:
                torch.testing.assert_close(t.grad, other)
            else:
                assert t.grad is None
    assert f.stats().traces == 1


def test_retain_graph() -> None:
    f, x = tgc.jit(lambda x: torch.exp(x).sum()), double(3)
    y = f(x)
    y.backward(retain_graph=True)
    y.backward()
    torch.testing.assert_close(x.grad, 2 * torch.exp(x).detach())


def test_a_second_backward_is_refused_in_torchs_words() -> None:
    y = tgc.jit(lambda x: torch.exp(x).sum())(double(3))
    y.backward()
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        y.backward()


def test_a_non_scalar_backward_is_refused_in_torchs_words() -> None:
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar"):
        tgc.jit(wave)(double(3)).backward()


def test_changing_what_was_saved_is_refused_in_torchs_words() -> None:
    x = double(3)
    h = x * 1
    y = tgc.jit(lambda h: (h * h).sum())(h)
    with torch.no_grad():
        h.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_an_input_the_backward_does_not_need_may_change() -> None:
    """As in eager: the gradient of exp is made of its result alone."""
    f, x = tgc.jit(torch.exp), double(5)
    h = x * 1
    y = f(h)
    with torch.no_grad():
        h.zero_()
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, torch.exp(x.detach()))


def test_but_a_second_derivative_needs_it() -> None:
    h = double(5) * 1
    y = tgc.jit(torch.exp)(h)
    with torch.no_grad():
        h.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y.sum(), h, create_graph=True)


def test_several_outputs_of_which_some_are_used() -> None:
    f = tgc.jit(lambda x: (torch.sin(x), torch.exp(x), x > 0))
    x = double(4)
    a, b, c = f(x)
    assert not c.requires_grad and c.dtype == torch.bool
    (slope,) = torch.autograd.grad(b.sum(), x, retain_graph=True)
    torch.testing.assert_close(slope, torch.exp(x).detach())
    (slope,) = torch.autograd.grad((a * b).sum(), x, create_graph=True)
    torch.testing.assert_close(slope, torch.exp(x) * (torch.sin(x) + torch.cos(x)))
    (second,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(second, (2 * torch.exp(x) * torch.cos(x)).detach())


def test_an_input_passed_through_is_itself() -> None:
    x = double(3)
    same, twice, again = tgc.jit(lambda x: (x, 2 * x, 2 * x))(x)
    assert same is x
    assert twice is again
    (twice.sum() + same.sum()).backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 3))


def test_hooks_run() -> None:
    seen = []
    x = double(3)
    h = x * 2
    h.register_hook(lambda g: seen.append(g.clone()))
    tgc.jit(lambda h: (h * h).sum())(h).backward()
    torch.testing.assert_close(seen[0], 2 * h.detach())


def test_cotangents_of_any_stride() -> None:
    f, x = tgc.jit(torch.sin), double(3, 4)
    y = f(x)
    for cotangent in (torch.ones(()).double().expand(3, 4), double(4, 3).detach().T):
        (slope,) = torch.autograd.grad(y, x, cotangent, retain_graph=True)
        torch.testing.assert_close(slope, cotangent * torch.cos(x).detach())


def test_inputs_of_any_stride() -> None:
    f = tgc.jit(lambda x: torch.exp(x) * 2)
    base = double(6, 8, requires_grad=False)
    for view in (base.T, base[::2], base[:, 1:4], base[:1].expand(5, 8), base[1]):
        x = view.detach().requires_grad_()
        torch.testing.assert_close(f(x), torch.exp(x) * 2)
        torch.testing.assert_close(torch.autograd.grad(f(x).sum(), x)[0], 2 * torch.exp(x).detach())


def test_a_stopped_gradient() -> None:
    x, y = double(3), double(3)
    tgc.jit(lambda x, y: (tgc.stop_gradient(x) * y + x.detach()).sum())(x, y).backward()
    assert x.grad is None or not x.grad.any()
    torch.testing.assert_close(y.grad, x.detach())


def test_parts_of_a_module_may_be_replaced() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    f = tgc.jit(lambda x: model(x))
    x = torch.randn(3, 2)
    f(x)
    for place, part in enumerate((torch.nn.Linear(2, 2), torch.nn.LeakyReLU(0.5))):
        model[place] = part
        torch.testing.assert_close(f(x), model(x))
    part.negative_slope = 0.25
    torch.testing.assert_close(f(x), model(x))
    model[0].weight = torch.nn.Parameter(torch.randn(2, 2))
    torch.testing.assert_close(f(x), model(x))


def test_a_trace_made_without_gradients_serves_no_call_with_them() -> None:
    @tgc.jit
    def f(x: Any) -> Any:
        with torch.no_grad():
            scale = x * 2
        return scale * x

    x = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        f(x)
    f(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((2,), 2.0))


def test_python_may_ask_what_requires_a_gradient() -> None:
    f = tgc.jit(lambda x: x * 2 if x.requires_grad else x * 3)
    x = torch.ones(2)
    assert f(x)[0] == 3 and f(x.clone().requires_grad_())[0] == 2 and f(x)[0] == 3
    assert f(torch.ones(5))[0] == 3 and f.stats().traces == 2


def test_an_output_without_a_derivative_needs_no_grad() -> None:
    y = tgc.jit(lambda x: tgc.stop_gradient(x) * 2)(double(3))
    assert not y.requires_grad


def test_captured_parameters_get_gradients() -> None:
    layer = torch.nn.Linear(3, 2).double()
    x = double(4, 3, requires_grad=False)
    f = tgc.jit(lambda x: torch.tanh(layer(x)).sum())
    f(x).backward()
    ours = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    torch.tanh(layer(x)).sum().backward()
    for mine, p in zip(ours, layer.parameters()):
        torch.testing.assert_close(mine, p.grad)


def test_a_captured_tensor_may_be_rebound() -> None:
    w = double(3)
    f = tgc.jit(lambda x: (w * x).sum())
    x = double(3, requires_grad=False)
    for _ in range(3):
        torch.testing.assert_close(f(x), (w * x).sum())
        w = double(3)
    assert f.stats().traces == 1


def test_a_method_with_parameters() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))

        @tgc.jit
        def forward(self, x: Any) -> Any:
            return x * self.scale * (2.0 if self.training else 1.0)

    one, two = Scaled(), Scaled()
    two.scale.data.fill_(5)
    x = double(3, requires_grad=False)
    torch.testing.assert_close(one(x), 2 * x)
    torch.testing.assert_close(two(x), 10 * x)
    torch.testing.assert_close(one.eval()(x), x)
    one(x).sum().backward()
    torch.testing.assert_close(one.scale.grad, x)


def test_training_moves_a_captured_parameter() -> None:
    w = torch.nn.Parameter(torch.zeros(3))
    f = tgc.jit(lambda x, y: F.mse_loss(x @ w, y))
    optimiser = torch.optim.SGD([w], lr=0.1)
    x = torch.randn(50, 3)
    y = x @ torch.tensor([1.0, -2.0, 3.0])
    for _ in range(200):
        optimiser.zero_grad()
        f(x, y).backward()
        optimiser.step()
    torch.testing.assert_close(w.detach(), torch.tensor([1.0, -2.0, 3.0]), atol=1e-3, rtol=1e-3)


def test_nothing_is_kept_alive() -> None:
    f, x = tgc.jit(lambda x: torch.exp(x).sum()), double(1000)
    y = f(x)
    y.backward()
    references = [weakref.ref(x), weakref.ref(y)]
    del x, y
    gc.collect()
    assert [r() for r in references] == [None, None]


def test_many_threads_call_at_once() -> None:
    """The first call races too."""
    f = tgc.jit(wave)
    inputs = [double(100 + k % 3) for k in range(8)]
    start = threading.Barrier(8)
    results: list[Any] = [None] * 8

    def work(k: int) -> None:
        start.wait()
        for _ in range(20):
            y = f(inputs[k])
            (results[k],) = torch.autograd.grad(y.sum(), inputs[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for x, slope in zip(inputs, results):
        torch.testing.assert_close(slope, torch.autograd.grad(wave(x).sum(), x)[0])
    assert f.stats().traces == 1


def test_float32_and_bfloat16() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(33, dtype=dtype, requires_grad=True)
        y = tgc.jit(torch.tanh)(x)
        assert y.dtype == dtype
        torch.testing.assert_close(y, torch.tanh(x))
        (slope,) = torch.autograd.grad(y.sum(), x)
        exact = 1 - torch.tanh(x.detach().double()) ** 2
        torch.testing.assert_close(slope, exact.to(dtype))


def test_numbers_beside_tensors() -> None:
    f, x = tgc.jit(lambda x, rate: (x * rate).sum()), double(3)
    for rate in (0.5, 0.25, 2):
        x.grad = None
        f(x, rate).backward()
        torch.testing.assert_close(x.grad, torch.full_like(x, rate))
    assert f.stats().traces == 2  # a float and an int


def test_meta_tensors_have_shapes() -> None:
    y = tgc.jit(lambda x: x.sum(0) * 2)(torch.empty(3, 5, device="meta"))
    assert y.device.type == "meta" and y.shape == (5,)


def test_mixed_devices_are_refused_in_torchs_words() -> None:
    f = tgc.jit(lambda x, y: x + y)
    with pytest.raises(
        tgc.errors.DeviceError, match="Expected all tensors to be on the same device"
    ):
        f(torch.ones(3), torch.ones(3, device="meta"))
    assert f.stats() == tgc.jit(lambda x: x).stats(), "nothing is left behind"
