"""A physics-informed network whose equation has a third derivative: Korteweg-de Vries, u_t + 6 u u_x + u_xxx = 0.

The residual is a compiled function made by differentiating the network three times in x; training differentiates it
a fourth time, with respect to the weights. The target is the soliton u = 2 sech²(x - 4t) (Drazin and Johnson,
"Solitons: an introduction", 1989, with speed c = 4).

Run: python examples/pinn_third_derivative.py (needs torch).
"""

from __future__ import annotations

import torch

import tgc

WIDTH = 24


def network(x, t, weights):
    """x, t: [n] points; weights: [4, width], one hidden layer of tanh. Returns u: [n]."""
    hidden = tgc.tanh(weights[0] * x[:, None] + weights[1] * t[:, None] + weights[2])
    return tgc.sum(weights[3] * hidden, axis=1)


def along(f, argnum):
    """The elementwise derivative of f: each output depends on the point of the same index only."""
    return tgc.grad(lambda *args: tgc.sum(f(*args)), argnums=argnum)


u_t = along(network, 1)
u_x = along(network, 0)
u_xxx = along(along(u_x, 0), 0)


@tgc.jit
def residual(x, t, weights):
    u = network(x, t, weights)
    return u_t(x, t, weights) + 6 * u * u_x(x, t, weights) + u_xxx(x, t, weights)


@tgc.jit
def loss_of(weights, x, t, x0, u0):
    start = network(x0, 0 * x0, weights) - u0
    equation = residual(x, t, weights)
    return tgc.mean(start * start) + 0.05 * tgc.mean(equation * equation)


def main() -> tuple[float, float]:
    torch.manual_seed(0)
    weights = torch.randn(4, WIDTH, dtype=torch.float64)
    weights[3] *= 0.1
    weights.requires_grad_()
    x0 = torch.linspace(-4, 4, 64, dtype=torch.float64)
    u0 = 2 / torch.cosh(x0) ** 2
    x, t = 8 * torch.rand(256, dtype=torch.float64) - 4, 0.3 * torch.rand(256, dtype=torch.float64)
    optimiser = torch.optim.Adam([weights], lr=1e-2)
    losses = []
    for step in range(300):
        loss = loss_of(weights, x, t, x0, u0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"step {step:3d}  loss {loss.item():.5f}")
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.5f}")
    return losses[0], losses[-1]


if __name__ == "__main__":
    main()
