"""grad, vjp, jvp and the rest, on arrays and tensors, nested and inside traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tgc

X = np.linspace(-1.5, 1.5, 7)


def loss(w: Any, x: Any) -> Any:
    return tgc.sum(tgc.tanh(w * x) ** 2)


def loss_slope(w: Any, x: Any) -> Any:
    t = np.tanh(w * x)
    return 2 * t * (1 - t * t) * x


def numerical(f: Callable[[Any], Any], x: Any, step: float = 1e-6) -> Any:
    """Central differences of a scalar function."""
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = step
        out[i] = (f(x + e) - f(x - e)) / (2 * step)
    return out


def test_grad() -> None:
    np.testing.assert_allclose(tgc.grad(loss)(X, 2 * X), loss_slope(X, 2 * X))


def test_grad_of_a_compiled_function() -> None:
    np.testing.assert_allclose(tgc.grad(tgc.jit(loss))(X, X), loss_slope(X, X))
    np.testing.assert_allclose(tgc.jit(tgc.grad(loss))(X, X), loss_slope(X, X))


def test_argnums() -> None:
    f = lambda a, b, c: tgc.sum(a * b * c)
    a, b, c = X, X + 1, X + 2
    np.testing.assert_allclose(tgc.grad(f, 1)(a, b, c), a * c)
    np.testing.assert_allclose(tgc.grad(f, -1)(a, b, c), a * b)
    first, last = tgc.grad(f, (0, 2))(a, b, c)
    np.testing.assert_allclose(first, b * c)
    np.testing.assert_allclose(last, a * b)


def test_value_and_grad() -> None:
    value, slope = tgc.value_and_grad(loss)(X, X)
    np.testing.assert_allclose(value, np.sum(np.tanh(X * X) ** 2))
    np.testing.assert_allclose(slope, loss_slope(X, X))


def test_aux() -> None:
    f = lambda x: (tgc.sum(x * x), {"double": 2 * x, "note": "n"})
    slope, aux = tgc.grad(f, has_aux=True)(X)
    np.testing.assert_allclose(slope, 2 * X)
    np.testing.assert_allclose(aux["double"], 2 * X)
    assert aux["note"] == "n"
    (value, aux), slope = tgc.value_and_grad(f, has_aux=True)(X)
    np.testing.assert_allclose(value, np.sum(X * X))


def test_trees() -> None:
    f = lambda params, x: tgc.sum((params["w"] * x + params["b"][0]) ** 2)
    params = {"w": X, "b": [np.float64(0.5)]}
    slope = tgc.grad(f)(params, X)
    residual = X * X + 0.5
    np.testing.assert_allclose(slope["w"], 2 * residual * X)
    np.testing.assert_allclose(slope["b"][0], np.sum(2 * residual))


def test_keywords_pass_through() -> None:
    f = lambda x, *, scale: tgc.sum(x * x) * scale
    np.testing.assert_allclose(tgc.grad(f)(X, scale=3.0), 6 * X)


def test_numbers() -> None:
    assert tgc.grad(lambda x: x**3)(2.0) == pytest.approx(12.0)
    assert type(tgc.grad(lambda x: x**3)(2.0)) is float


def test_second_and_third_gradients() -> None:
    f = lambda x: tgc.sum(tgc.sin(x) * x)
    inner = tgc.grad(f)
    second = tgc.grad(lambda x: tgc.sum(inner(x)))
    np.testing.assert_allclose(second(X), 2 * np.cos(X) - X * np.sin(X), atol=1e-12)
    third = tgc.grad(lambda x: tgc.sum(second(x)))
    np.testing.assert_allclose(third(X), -3 * np.sin(X) - X * np.cos(X), atol=1e-12)
    assert tgc.grad(tgc.grad(tgc.grad(lambda x: x**4)))(2.0) == pytest.approx(48.0)


def test_perturbations_are_kept_apart() -> None:
    """d/dx (x · d/dy (x + y)) = 1: the inner derivative sees x as a constant, even at y = x."""
    outer = tgc.grad(lambda x: x * tgc.grad(lambda y: x + y)(x))
    assert outer(3.0) == pytest.approx(1.0)
    squared = tgc.grad(lambda x: tgc.grad(lambda y: (x * x) * y)(x * x))
    assert squared(3.0) == pytest.approx(6.0)


def test_arguments_named_as_cotangents_are() -> None:
    f = lambda g, gg: tgc.sum(tgc.grad(lambda t_at: tgc.sum(t_at * t_at * g))(gg) * g)
    np.testing.assert_allclose(tgc.grad(f, 0)(X, X + 1), 2 * 2 * (X + 1) * X)


def test_vjp() -> None:
    f = lambda x, y: (x * y, tgc.sin(x))
    (product, sine), pull = tgc.vjp(f, X, X + 1)
    np.testing.assert_allclose(product, X * (X + 1))
    np.testing.assert_allclose(sine, np.sin(X))
    dx, dy = pull((np.ones(7), 2 * np.ones(7)))
    np.testing.assert_allclose(dx, X + 1 + 2 * np.cos(X))
    np.testing.assert_allclose(dy, X)


def test_jvp() -> None:
    out, tangent = tgc.jvp(lambda x, y: x * y, (X, X + 1), (np.ones(7), X))
    np.testing.assert_allclose(out, X * (X + 1))
    np.testing.assert_allclose(tangent, X + 1 + X * X)


def test_jvp_of_integers_and_several_results() -> None:
    (a, b), (da, db) = tgc.jvp(lambda x: (x * x, x > 0), (X,), (np.ones(7),))
    np.testing.assert_allclose(da, 2 * X)
    assert b.dtype == bool and not db.any() and a.shape == (7,)


def test_hvp() -> None:
    f = lambda x: tgc.sum(x**3) + tgc.sum(x) ** 2
    v = np.arange(7.0)
    np.testing.assert_allclose(tgc.hvp(f, (X,), (v,)), 6 * X * v + 2 * v.sum())
    along_x, along_y = tgc.hvp(lambda x, y: tgc.sum(x * x * y), (X, X + 1), (v, 2 * v))
    np.testing.assert_allclose(along_x, 2 * (X + 1) * v + 2 * X * 2 * v)
    np.testing.assert_allclose(along_y, 2 * X * v)


def test_hvp_sees_arrays_by_closure() -> None:
    data = np.arange(5.0)
    one = (np.ones(1),)
    product = tgc.hvp(lambda t: tgc.sum((data * t[0]) ** 2), one, one)
    np.testing.assert_allclose(product, [2 * np.sum(data**2)])


@pytest.mark.parametrize("jacobian", [tgc.jacrev, tgc.jacfwd], ids=["jacrev", "jacfwd"])
def test_jacobians(jacobian: Any) -> None:
    f = lambda x, y: tgc.stack([x * y, tgc.sin(x)], axis=0)
    x, y = X[:3], X[:3] + 2
    dx, dy = jacobian(f, (0, 1))(x, y)
    assert dx.shape == (2, 3, 3)
    np.testing.assert_allclose(dx, [np.diag(y), np.diag(np.cos(x))])
    np.testing.assert_allclose(dy, [np.diag(x), np.zeros((3, 3))])
    np.testing.assert_allclose(jacobian(lambda x: x * x)(2.0), 4.0)


def test_jacobian_of_a_matrix() -> None:
    x = np.arange(6.0).reshape(2, 3) + 1
    expected = 2 * np.einsum("ij,ia,jb->ijab", x, np.eye(2), np.eye(3))
    for jacobian in (tgc.jacrev, tgc.jacfwd):
        np.testing.assert_allclose(jacobian(lambda x: x * x)(x), expected)


def test_hessian_and_laplacian() -> None:
    def rosenbrock(x: Any) -> Any:
        return tgc.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    x = np.array([0.5, -1.0, 2.0])
    h = tgc.hessian(rosenbrock)(x)
    slope = tgc.grad(rosenbrock)
    rows = [numerical(lambda z, k=k: slope(z)[k], x) for k in range(3)]
    np.testing.assert_allclose(h, rows, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(h, h.T, rtol=1e-12)
    np.testing.assert_allclose(tgc.laplacian(rosenbrock)(x), np.trace(h))


@pytest.mark.parametrize("order", range(5))
def test_derivatives_of_any_order(order: int) -> None:
    exact = [np.sin(X), np.cos(X), -np.sin(X), -np.cos(X), np.sin(X)][order]
    np.testing.assert_allclose(tgc.derivative(tgc.sin, order)(X), exact, atol=1e-12)


def test_a_transform_inside_a_compiled_function() -> None:
    @tgc.jit
    def residual(x: Any) -> Any:
        u = lambda x: tgc.tanh(x) * x
        out, pull = tgc.vjp(u, x)
        (du,) = pull(tgc.exp(x))
        _, along = tgc.jvp(u, (x,), (x,))
        return out + du + along

    t = np.tanh(X)
    slope = (1 - t * t) * X + t
    np.testing.assert_allclose(residual(X), t * X + slope * np.exp(X) + slope * X)


def test_gradients_compile_to_source_of_their_own_name() -> None:
    lowered = tgc.grad(loss).lower(tgc.spec("f32[n]"), tgc.spec("f32[n]"))
    assert "def loss_grad(" in lowered.source


def test_the_signature_is_that_of_the_function() -> None:
    import inspect

    assert str(inspect.signature(tgc.grad(loss))) == str(inspect.signature(loss))
    assert "grad" in tgc.grad(loss).__name__


# --- errors ---------------------------------------------------------------------------------------


def test_a_gradient_needs_a_scalar() -> None:
    with pytest.raises(tgc.errors.ShapeError, match=r"tgc\.sum"):
        tgc.grad(lambda x: x * x)(X)
    with pytest.raises(tgc.errors.DerivativeError, match="one scalar"):
        tgc.grad(lambda x: (x, x))(1.0)


def test_a_gradient_needs_floats() -> None:
    with pytest.raises(tgc.errors.DTypeError, match="needs floats"):
        tgc.grad(lambda x: tgc.sum(x * 1.0))(np.arange(3))
    with pytest.raises(tgc.errors.DTypeError, match="float result"):
        tgc.grad(lambda x: tgc.sum(x > 0))(X)


def test_arguments_that_are_not_there() -> None:
    for argnums in (2, -3):
        with pytest.raises(tgc.errors.DerivativeError, match="no argument"):
            tgc.grad(loss, argnums)(X, X)
    with pytest.raises(tgc.errors.DerivativeError, match="tangents"):
        tgc.jvp(loss, (X, X), (X,))


def test_cotangents_that_do_not_fit() -> None:
    _, pull = tgc.vjp(lambda x: x * x, X)
    with pytest.raises(tgc.errors.ShapeError, match="cotangent"):
        pull(np.ones(3))
    with pytest.raises(tgc.errors.DerivativeError, match="structure"):
        pull((np.ones(7), np.ones(7)))


# --- torch ----------------------------------------------------------------------------------------


def test_on_tensors() -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(X)
    slope = tgc.grad(lambda x: torch.sum(torch.tanh(x) ** 2))(x)
    assert isinstance(slope, torch.Tensor) and not slope.requires_grad
    np.testing.assert_allclose(slope, loss_slope(1.0, X) * 0 + _tanh_slope(X))


def _tanh_slope(x: Any) -> Any:
    return 2 * np.tanh(x) * (1 - np.tanh(x) ** 2)


def test_results_on_tensors_are_differentiable() -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(X, requires_grad=True)
    f = lambda x: torch.sum(torch.sin(x) * x)
    slope = tgc.grad(f)(x)
    (second,) = torch.autograd.grad(slope.sum(), x)
    np.testing.assert_allclose(second, 2 * np.cos(X) - X * np.sin(X), atol=1e-12)
    assert torch.autograd.gradgradcheck(tgc.grad(f), (x,))


def test_hvp_and_jvp_on_tensors() -> None:
    torch = pytest.importorskip("torch")
    x, v = torch.tensor(X), torch.ones(7, dtype=torch.float64)
    out, tangent = tgc.jvp(torch.sin, (x,), (v,))
    torch.testing.assert_close(out, torch.sin(x))
    torch.testing.assert_close(tangent, torch.cos(x))
    torch.testing.assert_close(tgc.hvp(lambda x: torch.sum(x**3), (x,), (v,)), 6 * x)


def test_a_transform_made_at_each_call_is_made_once() -> None:
    def f(x: Any, y: Any) -> Any:
        return tgc.sum(x * x * y)

    x = np.arange(3.0)
    for k in range(3):
        np.testing.assert_allclose(tgc.grad(f)(x, x + k), 2 * x * (x + k))
        np.testing.assert_allclose(tgc.grad(f, 1)(x, x + k), x * x)
        np.testing.assert_allclose(tgc.grad(f, argnums=1)(x, x + k), x * x)
        first, second = tgc.grad(f, [0, 1])(x, x + k)
        np.testing.assert_allclose([first, second], [2 * x * (x + k), x * x])
    assert tgc.grad(f) is tgc.grad(f) and tgc.grad(f, 1) is not tgc.grad(f)
    assert tgc.grad(f).stats().traces == 1


def test_transforms_of_functions_alike_are_kept_apart() -> None:
    def power(n: int) -> Any:
        return lambda x: tgc.sum(x**n)

    x = np.arange(1.0, 4)
    for n in (1, 2, 3):
        np.testing.assert_allclose(tgc.grad(power(n))(x), n * x ** (n - 1))
