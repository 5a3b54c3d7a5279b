"""A custom activation trained by torch autograd: both of its kernels come from three lines.

The activation is x · sigmoid(βx) with a learned β per channel ("swish", arXiv:1710.05941). Its gradient with respect
to x and the sum over rows for β are derived; nothing is registered by hand, and gradients of gradients work.

Run: python examples/custom_activation.py (needs torch).
"""

from __future__ import annotations

import torch

import tgc


@tgc.jit
def swish(x, beta):
    return x * torch.sigmoid(beta * x)


class Network(torch.nn.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(1, width)
        self.out = torch.nn.Linear(width, 1)
        self.beta = torch.nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.out(swish(self.hidden(x), self.beta))


def main() -> tuple[float, float]:
    torch.manual_seed(0)
    x = torch.linspace(-3, 3, 256)[:, None]
    y = torch.sin(2 * x)
    network = Network()
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-2)
    first = None
    for step in range(400):
        loss = torch.mean((network(x) - y) ** 2)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first = loss.item() if first is None else first
        if step % 100 == 0:
            print(f"step {step:3d}  loss {loss.item():.5f}")
    print(f"loss {first:.4f} -> {loss.item():.5f}, beta from 1 to {network.beta.mean().item():.2f}")

    # The same function is exact to the second order, which torch.compile refuses.
    at = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    beta = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(swish, (at, beta))
    print("gradgradcheck passed")
    return first, loss.item()


if __name__ == "__main__":
    main()
