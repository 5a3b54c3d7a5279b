"""Quickstart: compile a function, look at what was made of it, differentiate it.

Run: python examples/quickstart.py (numpy is enough).
"""

from __future__ import annotations

import numpy as np

import tgc


@tgc.jit
def loss(w, x, y):
    """Logistic loss, written as in a textbook: exp overflows in float32 for scores above 88."""
    score = x @ w
    return tgc.mean(tgc.log(1 + tgc.exp(score)) - y * score)


def main() -> float:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 8)).astype(np.float32)
    true = np.linspace(-2, 2, 8, dtype=np.float32)
    y = (x @ true + rng.logistic(size=1000) > 0).astype(np.float32)
    w = np.zeros(8, dtype=np.float32)

    print("loss at zero:", float(loss(w, x, y)), "= log 2:", np.log(2.0))
    print("\nthe graph:\n", loss.lower(w, x, y).graph, sep="")
    print("\nthe numpy module for it:\n", loss.lower(w, x, y).source, sep="")

    # Sizes stay symbols, and no GPU is needed to see the Triton kernels for one.
    shapes = tgc.spec("f32[d]"), tgc.spec("f32[n, d]"), tgc.spec("f32[n]")
    pair = loss.lower(*shapes, grad=True, target="sm_90")
    print("Triton kernels, forward and gradient:", *[k.name for k in pair.kernels])

    value_and_grad = tgc.value_and_grad(loss)
    for _ in range(200):
        value, slope = value_and_grad(w, x, y)
        w -= slope
    print("\nfitted:", np.round(w, 2), "loss:", float(value))

    # The textbook formula gives inf here; the compiled one was made stable before it was differentiated.
    huge = float(loss(1000 * w, x, y))
    print("loss at 1000 times the weights:", huge)
    assert np.isfinite(huge)
    return float(value)


if __name__ == "__main__":
    main()
