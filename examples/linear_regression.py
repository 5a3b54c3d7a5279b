"""Linear regression with torch tensors: find w = 3 and b = -2 from noisy points by gradient descent.

Only the loss is compiled; the loop is the one every torch tutorial has, and stays as it is.

Run: python examples/linear_regression.py (needs torch).
"""

from __future__ import annotations

import torch

import tgc


@tgc.jit
def loss_of(w, b, x, y):
    y_hat = w * x + b
    return torch.sum((y_hat - y) ** 2)


def main() -> tuple[float, float]:
    torch.manual_seed(0)
    x = torch.randn([20, 1])
    y = 3 * x - 2
    w = torch.tensor([1.0], requires_grad=True)
    b = torch.tensor([1.0], requires_grad=True)

    loss = loss_of(w, b, x, y)
    loss.backward()
    print(f"gradients at the start: w {w.grad.item():.2f}, b {b.grad.item():.2f}")
    with torch.no_grad():
        residual = w * x + b - y
        torch.testing.assert_close(w.grad, torch.sum(2 * residual * x).reshape(1))
        torch.testing.assert_close(b.grad, torch.sum(2 * residual).reshape(1))
    w.grad.zero_()
    b.grad.zero_()

    for step in range(25):
        loss = loss_of(w, b, x, y)
        loss.backward()
        with torch.no_grad():
            w -= 0.01 * w.grad
            b -= 0.01 * b.grad
            w.grad.zero_()
            b.grad.zero_()
        if step % 5 == 0:
            print(f"step {step:2d}  loss {loss.item():9.5f}  w {w.item():6.3f}  b {b.item():6.3f}")
    print(f"w = {w.item():.3f}, b = {b.item():.3f}")

    # One pass over the data for the value and both gradients:
    print(loss_of.lower(w, b, x, y, grad=True).cost())
    return w.item(), b.item()


if __name__ == "__main__":
    main()
