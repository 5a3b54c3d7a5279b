"""The tasks in torch, eager and by torch.compile: its own fused functions where it has them, always autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from bench.cpu.tasks import (
    ADAM,
    ADAM_MEAN,
    ADAM_SQUARE,
    EPSILON,
    FORWARD,
    TASKS,
    Inputs,
    Unsupported,
    sgd_rate,
)

Tensor = torch.Tensor

# What torch.compile is timed on: each compilation takes 10 s and more, so one task of each kind at a large size, where
# it matters most, two of them at a small one, and only the mode that trains.
COMPILED = {
    "sigmoid sum": ("1e5", "1e7"),
    "gelu erf": ("1e5", "1e7"),
    "swiglu": ("1e7",),
    "BCE with logits": ("1e7",),
    "AdamW step": ("1e7",),
    "softmax": ("4096x1024",),
    "layer norm": ("4096x1024",),
}


def _bce_as_written(z: Tensor, t: Tensor) -> Tensor:
    p = 1 / (1 + torch.exp(-z))
    return -torch.mean(t * torch.log(p) + (1 - t) * torch.log(1 - p))


def _cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))


def black_scholes(spot: Tensor, strike: Tensor, years: Tensor, rate: Tensor, vol: Tensor) -> Tensor:
    spread = vol * torch.sqrt(years)
    d1 = (torch.log(spot / strike) + (rate + 0.5 * vol * vol) * years) / spread
    return spot * _cdf(d1) - strike * torch.exp(-rate * years) * _cdf(d1 - spread)


def gaussian(x: Tensor, y: Tensor, b: Tensor) -> Tensor:
    return torch.exp(-0.5 * (x[:, None, :] - y[None, :, :]).square().sum(-1)) @ b


SIMPLE: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sigmoid sum": lambda x: torch.sigmoid(x).sum(),
    "gelu erf": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "swiglu": lambda gate, value: F.silu(gate) * value,
    "BCE with logits": F.binary_cross_entropy_with_logits,
    "BCE as written": _bce_as_written,
    "huber": F.huber_loss,
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "layer norm": lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, EPSILON),
    "rms norm": lambda x, w: F.rms_norm(x, x.shape[-1:], w, EPSILON),
    "cross-entropy": F.cross_entropy,
    "linear and gelu": lambda x, w, b: F.gelu(torch.addmm(b, x, w)),
    "variance": lambda x: torch.var(x, correction=0),
    "column sums": lambda x: x.sum(0),
    "Black-Scholes and Greeks": black_scholes,
    "gaussian kernel sum": gaussian,
}

# The same text as tgc compiles, operation by operation: what a user has whose function torch does not have.
WRITTEN: dict[str, Callable[..., Tensor]] = {
    "BCE with logits": lambda z, t: torch.mean(torch.log(1.0 + torch.exp(z)) - t * z),
    "gelu tanh": lambda x: (
        0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    ),
}


def written(task: str, inputs: Inputs) -> Callable[[], Any]:
    """Forward and backward of a task of WRITTEN."""
    args = [torch.from_numpy(a) for a in inputs]
    return autograd(WRITTEN[task], args, TASKS[task].wrt, TASKS[task].cotangent)


def third_derivative(x: Tensor) -> Tensor:
    y = torch.tanh(torch.sin(x) * torch.exp(-x * x))
    for order in range(3):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=order < 2)
    return y


def greeks(spot: Tensor, strike: Tensor, years: Tensor, rate: Tensor, vol: Tensor) -> Any:
    price = black_scholes(spot, strike, years, rate, vol)
    delta, *others = torch.autograd.grad(price.sum(), (spot, years, rate, vol), create_graph=True)
    (gamma,) = torch.autograd.grad(delta.sum(), spot)
    return price.detach(), delta.detach(), *(o.detach() for o in others), gamma


def regression_step(w: Tensor, b: Tensor, x: Tensor, goal: Tensor, rate: float) -> Any:
    """The seed's loop."""
    loss = ((torch.dot(w, x) + b - goal) ** 2).sum()
    loss.backward()
    with torch.no_grad():
        w -= rate * w.grad
        b -= rate * b.grad
        w.grad = b.grad = None
    return w, b


def adamw_optimizer(p: Tensor, g: Tensor, m: Tensor, v: Tensor) -> Callable[[], Any]:
    """torch's own fused step."""
    parameter = p.requires_grad_()
    parameter.grad = g
    optimizer = torch.optim.AdamW(
        [parameter],
        lr=ADAM["rate"],
        betas=(ADAM["beta1"], ADAM["beta2"]),
        eps=ADAM["epsilon"],
        weight_decay=ADAM["decay"],
        fused=True,
    )
    step = torch.tensor(ADAM["step"] - 1.0)
    optimizer.state[parameter] = {"step": step, "exp_avg": m, "exp_avg_sq": v}

    def run() -> Any:
        optimizer.step()
        return parameter, m, v

    return run


def adamw(p: Tensor, g: Tensor, m: Tensor, v: Tensor) -> Any:
    """In place, for torch.compile."""
    p.mul_(1 - ADAM["rate"] * ADAM["decay"])
    m.lerp_(g, 1 - ADAM["beta1"])
    v.mul_(ADAM["beta2"]).addcmul_(g, g, value=1 - ADAM["beta2"])
    p.sub_(ADAM["rate"] / ADAM_MEAN * m / (v.sqrt() / math.sqrt(ADAM_SQUARE) + ADAM["epsilon"]))
    return p, m, v


def autograd(
    function: Callable[..., Tensor], args: list[Tensor], wrt: tuple[int, ...], cotangent: bool
) -> Callable[[], Any]:
    """Forward and backward, with fresh gradients at each call."""
    leaves = tuple(args[i].requires_grad_() for i in wrt)
    g = args.pop() if cotangent else None

    def run() -> Any:
        y = function(*args)
        return y.detach(), *torch.autograd.grad(y, leaves, g)

    return run


def build(
    task: str, mode: str, inputs: Inputs, *, compiled: bool = False, size: str = ""
) -> Callable[[], Any]:
    """A call of the task on the inputs."""
    wrap: Callable[..., Any] = lambda f: f
    if compiled:
        if size not in COMPILED.get(task, ()) or mode != TASKS[task].modes[-1]:
            raise Unsupported(
                "not in torch.compile's part of the suite: each compilation costs 10 s and more"
            )
        torch._dynamo.reset()  # each size as if it were the first: no dynamic shapes
        wrap = torch.compile
    args = [torch.from_numpy(a) for a in inputs]
    if task == "randn + randn":
        shape = inputs[0].shape
        return lambda: (torch.randn(shape) + torch.randn(shape),)
    if task == "third derivative":
        x = args[0].requires_grad_()
        return lambda: third_derivative(x)
    if task == "dot regression, SGD step":
        rate = sgd_rate(args[0].numel())
        args[0].requires_grad_()
        args[1].requires_grad_()
        return lambda: regression_step(*args, rate)
    if task == "AdamW step":
        if not compiled:
            return adamw_optimizer(*args)
        update = wrap(adamw)
        return lambda: update(*args)
    if mode == FORWARD:
        function = wrap(SIMPLE[task])
        return lambda: function(*args)
    if task == "Black-Scholes and Greeks":
        for i in TASKS[task].wrt:
            args[i].requires_grad_()
        return lambda: greeks(*args)
    return autograd(wrap(SIMPLE[task]), args, TASKS[task].wrt, TASKS[task].cotangent)


def build_through_tgc(task: str, mode: str, inputs: Inputs, *, backend: str) -> Callable[[], Any]:
    """The compiled forward on tensors, differentiated by torch autograd."""
    import tgc
    from bench.cpu import by_tgc

    if task not in by_tgc.SIMPLE or mode == FORWARD or task == "Black-Scholes and Greeks":
        raise Unsupported("only first gradients of single results are timed through autograd")
    args = [torch.from_numpy(a) for a in inputs]
    function = tgc.jit(by_tgc.SIMPLE[task], backend=backend)
    return autograd(function, args, TASKS[task].wrt, TASKS[task].cotangent)
