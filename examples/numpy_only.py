"""numpy alone: a Gaussian mixture fitted by Newton's method, with derived gradients and curvature. No torch.

The negative log-likelihood of two unit-variance components with means m - d and m + d is a logsumexp; its gradient
and Hessian-vector products are derived, and the products feed conjugate gradients.

Run: python examples/numpy_only.py.
"""

from __future__ import annotations

import numpy as np

import tgc


@tgc.jit
def negative_log_likelihood(theta, x):
    """theta: [2], centre and half distance; x: [n] samples."""
    left = x - (theta[0] - theta[1])
    right = x - (theta[0] + theta[1])
    log_density = -0.5 * tgc.stack([left * left, right * right], axis=0)
    return -tgc.mean(tgc.logsumexp(log_density, axis=0))


def newton_direction(objective, theta: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Solve H d = -slope by conjugate gradients, with H seen only through its products."""
    direction = np.zeros_like(slope)
    residual = -slope
    search = residual.copy()
    for _ in range(2 * len(slope)):
        if residual @ residual < 1e-20:
            break
        product = tgc.hvp(objective, (theta,), (search,))
        step = (residual @ residual) / (search @ product)
        direction = direction + step * search
        updated = residual - step * product
        search = updated + (updated @ updated) / (residual @ residual) * search
        residual = updated
    return direction


def main() -> np.ndarray:
    rng = np.random.default_rng(0)
    side = rng.choice([-1.0, 1.0], size=20_000)
    x = 0.7 + 2.0 * side + rng.normal(size=20_000)

    def objective(theta):
        return negative_log_likelihood(theta, x)

    theta = np.array([0.5, 1.5])
    value_and_grad = tgc.value_and_grad(objective)
    for step in range(6):
        value, slope = value_and_grad(theta)
        size = np.linalg.norm(slope)
        print(f"step {step}  nll {value:.6f}  |gradient| {size:.1e}  theta {theta}")
        theta = theta + newton_direction(objective, theta, slope)
    assert size < 1e-8, "Newton's method converges quadratically"

    # Away from the minimum, the derived slope against a central difference.
    point, nudge = np.array([0.5, 1.5]), 1e-5 * np.array([1.0, -1.0])
    difference = (objective(point + nudge) - objective(point - nudge)) / 2
    derived = value_and_grad(point)[1] @ nudge
    print(f"slope along a nudge: derived {derived:.12e}, difference {difference:.12e}")
    assert abs(derived - difference) < 1e-7 * abs(derived)
    return theta


if __name__ == "__main__":
    main()
