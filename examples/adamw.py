"""AdamW (Loshchilov and Hutter, 2019) over a tree of parameters: one pass over memory a step, in place.

The step is a plain function. Its arguments `params`, `m` and `v` are donated: the results take their memory, so that a
step reads each of p, g, m, v once, writes p, m, v once, and allocates nothing. The network learns sin(3x).

Run: python examples/adamw.py (needs numpy alone).
"""

from __future__ import annotations

import numpy as np

import tgc


@tgc.jit(donate_argnames=("params", "m", "v"))
def adamw(params, grads, m, v, step, lr=1e-2, beta1=0.9, beta2=0.99, decay=1e-3):
    new = {}, {}, {}
    for name, p in params.items():
        g = grads[name]
        mean = beta1 * m[name] + (1 - beta1) * g
        square = beta2 * v[name] + (1 - beta2) * g * g
        slope = mean / (1 - beta1**step) / (tgc.sqrt(square / (1 - beta2**step)) + 1e-8)
        for tree, value in zip(new, (p - lr * (slope + decay * p), mean, square)):
            tree[name] = value
    return new


def loss_of(params, x, y):
    hidden = tgc.tanh(x @ params["w1"] + params["b1"])
    return tgc.mean((hidden @ params["w2"] + params["b2"] - y) ** 2)


def main() -> tuple[float, float]:
    rng = np.random.default_rng(0)
    shapes = {"w1": (1, 64), "b1": (64,), "w2": (64, 1), "b2": (1,)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    m, v = ({name: np.zeros_like(p) for name, p in params.items()} for _ in range(2))
    x = np.linspace(-1, 1, 256, dtype=np.float32)[:, None]
    y = np.sin(3 * x)
    w1 = params["w1"]

    value_and_slopes = tgc.value_and_grad(loss_of)
    losses = []
    for step in range(1, 301):
        loss, grads = value_and_slopes(params, x, y)
        losses.append(float(loss))
        params, m, v = adamw(params, grads, m, v, step)

    assert params["w1"] is w1, "the same array, updated"
    print(f"loss {losses[0]:.4f} at the start, {losses[-1]:.6f} after {len(losses)} steps")
    print(f"{adamw.stats().traces} trace for all steps")
    return losses[0], losses[-1]


if __name__ == "__main__":
    main()
