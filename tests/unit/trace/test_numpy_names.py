"""Every numpy name: traced and evaluated, it gives what numpy gives, with numpy's type and shape; and `tgc.*`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tgc
from tests.support.tracing import check, run
from tgc.errors import TgcError
from tgc.trace.run import trace

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("x", "y", "u", "v", "w", "b", "i", "k", "m", "s")


def arguments(dtype: Any = np.float64) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {
        "x": rng.standard_normal((3, 4)),
        "y": rng.random((3, 4)) + 0.5,
        "u": rng.random((3, 4)) * 0.8 + 0.1,
        "v": rng.standard_normal(4),
        "w": rng.standard_normal((4, 5)),
        "b": rng.standard_normal((2, 3, 4)),
        "s": rng.standard_normal(()),
    }
    made = {name: np.asarray(value).astype(dtype) for name, value in made.items()}
    made["i"] = rng.integers(0, 3, (3, 4))
    made["k"] = np.array([1, 3, 0])
    made["m"] = rng.random((3, 4)) > 0.5
    return made


def function_of(expression: str) -> Any:
    code = compile(expression, "case.py", "eval")
    used = [n for n in NAMES if n in code.co_names]
    return eval(f"lambda {', '.join(used)}: ({expression})", globals()), used


CASES = """
np.exp(x) + np.log(y) * np.sqrt(y)
np.sin(x) + np.cos(x) + np.tan(u) + np.arcsin(u) + np.arccos(u) + np.arctan(x)
np.sinh(x) + np.cosh(x) + np.tanh(x) + np.arcsinh(x) + np.arccosh(y + 1) + np.arctanh(u)
np.exp2(x) + np.expm1(x) + np.log2(y) + np.log10(y) + np.log1p(y) + np.cbrt(y)
np.abs(x) + np.fabs(x) + np.negative(x) + np.square(x) + np.sign(x) + np.reciprocal(y)
np.floor(x) + np.ceil(x) + np.trunc(x) + np.rint(x) + np.round(x, 1)
np.deg2rad(x) + np.rad2deg(x) + np.sinc(x)
np.add(x, y) - np.subtract(x, 1) * np.multiply(2, y) / np.divide(x, y)
x // y + x % y + np.fmod(x, y) + np.mod(x, y)
np.power(y, x) + y ** 2.5 + x ** 2 + 2 ** x
np.arctan2(x, y) + np.hypot(x, y) + np.copysign(x, y) + np.heaviside(x, 0.5)
np.maximum(x, y) + np.minimum(x, v) + np.fmax(x, y) + np.fmin(x, 0)
np.logaddexp(x, y) + np.logaddexp2(x, y)
np.isnan(x) | np.isinf(x) | np.isfinite(x) & np.signbit(x)
np.logical_and(x, m), np.logical_or(m, m), np.logical_not(x), np.logical_xor(m, x)
x < y, x >= 0, np.equal(x, x), np.not_equal(x, y), np.less(x, v)
np.where(m, x, y) + np.where(m, 1.0, 0.0) + np.where(x > 0, v, 0)
np.select([x < 0, y > v, True], [y, 2, v], np.nan) + np.select((m,), (1,)) * np.select([m, m], [x, 1.5])
np.clip(x, -0.5, 0.5) + x.clip(0, None) + np.clip(x, None, y)
np.nan_to_num(x)
np.invert(m), ~i, i & 1, i | 2, i ^ 1, np.bitwise_and(i, 1)
np.sum(x), x.sum(0), np.sum(x, axis=-1, keepdims=True), x.sum(axis=(0, 1))
np.mean(x, 1), x.mean(), np.mean(i), i.mean(0)
np.prod(x, axis=0), x.prod(), np.max(x), x.max(1), np.min(x, axis=0), np.amax(x, axis=(0, 1))
np.var(x), x.var(1), np.std(x, axis=0, ddof=1), x.std(ddof=1, keepdims=True)
np.argmax(x), x.argmax(1), np.argmin(x, axis=0)
np.all(m), m.any(1), np.any(x, axis=0), np.count_nonzero(m)
np.cumsum(x), x.cumsum(0), np.cumprod(x, axis=1), np.diff(x), np.diff(x, axis=0)
np.add.reduce(x), np.maximum.reduce(x, axis=1)
np.linalg.norm(x), np.linalg.norm(x, axis=1), np.trace(x)
np.trace(b), np.trace(b, 1, -1, 0), np.trace(x, -1), np.isclose(m, x > 0)
np.nansum(x), np.trapezoid(x, v)
x.reshape(4, 3), x.reshape((2, -1)), np.reshape(x, -1), x.flatten(), x.ravel(), np.ravel(x)
x.T, x.transpose(), b.transpose(2, 0, 1), np.transpose(b, (1, 0, 2)), np.swapaxes(b, 0, 1)
np.moveaxis(b, 0, -1), np.expand_dims(x, 0), np.expand_dims(x, (0, 3)), np.squeeze(x[None])
np.broadcast_to(v, (3, 4)), np.tile(x, 2), np.tile(v, (3, 1)), np.repeat(x, 2, axis=0), np.repeat(v, 2)
np.flip(x), np.flip(x, 0), np.fliplr(x), np.roll(x, 1), np.roll(x, 2, axis=1)
np.roll(x, -1), np.roll(x, (-3, 5), (0, 1))
np.concatenate([x, y]), np.concatenate((x, y), axis=1), np.stack([x, y], axis=-1), np.vstack([x, v]), np.hstack([v, v])
np.split(x, 2, axis=1), np.array_split(x, 2), np.split(x, [1, 3], axis=1)
np.meshgrid(v, w[0])
np.pad(x, 1), np.pad(x, ((1, 2), (0, 1))), np.pad(x, ((1, 1), (2, 2)), constant_values=3.0)
np.tril(x), np.triu(x, 1), np.diagonal(x), np.atleast_2d(v)
x[0], x[-1, 1], x[:, 1], x[::-1], x[1:, ::-2], x[..., None], x[-1:0:-1], x[5:], b[:, -1]
np.take_along_axis(x, k[:, None], axis=1), np.take_along_axis(x, -k[:, None] - 1 + 0 * k[:, None], axis=1)
x @ w, np.matmul(x, w), np.dot(x, w), x.dot(v), v @ v, np.inner(x, y), np.outer(v, k), b @ w
np.einsum("ij,jk->ik", x, w), np.einsum("ij->i", x), np.tensordot(b, w, 1), np.kron(x, v), np.vecdot(x, y)
np.cross(x[:, :3], y[:, :3]), np.vdot(v, v), np.vdot(x, y.T)
np.zeros_like(x), np.ones_like(i), np.full_like(x, 3), np.zeros_like(x, dtype=np.int64)
x.astype(np.float32), x.astype("f4"), i.astype(float), x.copy(), np.copy(x)
x * np.float32(2), x + np.pi, i + np.int32(1), x.size * x, x.ndim * x, len(x) * x, np.shape(x)[0] * x
i + 1, i / 2, i * 2.5, i // 2, i ** 2, np.exp(i), np.sqrt(i), -i, m + m, m * 2, m & m
x.shape[0] * v, s + x, x + s, s * 2
divmod(x, y), abs(x), -x, +x
np.isclose(x, x + 1e-12), np.linalg.vecdot(x, y), np.linalg.norm(v, 1)
"""


@pytest.mark.parametrize("expression", CASES.strip().splitlines())
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["f64", "f32"])
def test_values_types_and_shapes_are_numpys(expression: str, dtype: Any) -> None:
    function, used = function_of(expression)
    given = arguments(dtype)
    check(function, *[given[n] for n in used])


DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
MIXES = """
x + y
x * y
x / y
x - y
np.maximum(x, y)
np.where(x > 0, x, y)
np.select([x > 0, y > 1], [x, y], 2)
x + 2
x * 2.5
x / 2
x // 2
-x
x & y
np.exp(x)
np.sqrt(x)
np.sinc(x)
np.fabs(x)
np.rint(x)
np.heaviside(x, y)
np.arctan2(x, y)
x.mean()
x.max()
x.argmax()
np.abs(x)
x ** 2
x @ y
np.concatenate([x, y.reshape(-1)])
"""


@pytest.mark.parametrize("expression", MIXES.strip().splitlines())
def test_promotion_is_numpys(expression: str) -> None:
    function, used = function_of(expression)
    for a in DTYPES:
        for b in DTYPES if "y" in used else [a]:
            x, y = np.ones(3, a), np.ones(3, b)
            args = [x, y] if used == ["x", "y"] else [x]
            try:
                expected = function(*args)
            except TypeError:
                with pytest.raises(TgcError):
                    trace(function, args)
                continue
            (node,) = trace(function, args).graph.outputs
            assert node.dtype.name == expected.dtype.name, (a, b)
            check(function, *args)


TGC_CASES = {
    "tgc.exp(x) + tgc.where(x > 0, x, 0)": "np.exp(x) + np.where(x > 0, x, 0)",
    "tgc.sum(x, axis=-1, keepdims=True)": "x.sum(-1, keepdims=True)",
    "tgc.max(x, axis=1)": "x.max(1)",
    "tgc.var(x, axis=1, correction=1)": "x.var(1, ddof=1)",
    "tgc.std(x)": "x.std()",
    "tgc.matmul(x, w)": "x @ w",
    "tgc.take_along_axis(x, k[:, None], axis=-1)[:, 0]": "np.take_along_axis(x, k[:, None], -1)[:, 0]",
    "tgc.concat([x, y], axis=1)": "np.concatenate([x, y], 1)",
    "tgc.permute_dims(b, (2, 0, 1))": "b.transpose(2, 0, 1)",
    "tgc.logsumexp(x, axis=-1)": "np.log(np.exp(x).sum(-1))",
    "tgc.softmax(x, axis=-1)": "np.exp(x) / np.exp(x).sum(-1, keepdims=True)",
    "tgc.stop_gradient(x)": "x + 0",
    "tgc.sigmoid(x)": "1 / (1 + np.exp(-x))",
    "tgc.zeros_like(x) + tgc.pi": "np.full_like(x, np.pi)",
    "tgc.asin(u) + tgc.atan2(x, y) + tgc.pow(y, 2)": "np.arcsin(u) + np.arctan2(x, y) + y**2",
    "tgc.clip(x, 0.0, 1.0)": "x.clip(0, 1)",
    "tgc.mean(i.astype(float))": "i.mean()",
    "tgc.relu(x) + tgc.silu(x)": "np.maximum(x, 0) + x / (1 + np.exp(-x))",
    "tgc.einsum('ij,jk->ik', x, w)": "x @ w",
    "tgc.layer_norm(x, (4,))": "(x - x.mean(1)[:, None]) / np.sqrt(x.var(1)[:, None] + 1e-5)",
}


@pytest.mark.parametrize("expression", TGC_CASES)
def test_tgc_names(expression: str) -> None:
    function, used = function_of(expression)
    reference, needed = function_of(TGC_CASES[expression])
    given = arguments()
    traced = trace(function, [given[n] for n in used])
    expected = reference(*[given[n] for n in needed])
    np.testing.assert_allclose(run(traced)[0], expected, rtol=1e-12, atol=1e-12)
    assert traced.out_containers == ("numpy",)


def test_every_tgc_name_is_documented() -> None:
    from tgc.trace import namespace
    from tgc.trace.names import TGC

    assert len(TGC) > 150
    for name in TGC:
        function = getattr(namespace, name)
        assert function.__name__ == name and function.__doc__
        assert getattr(tgc, name) is not None


def test_only_numpy_is_needed() -> None:
    """Tracing numpy functions, closures and errors included, imports no torch."""
    code = """
import sys
import numpy as np
from tgc.errors import TgcError
from tgc.trace.abstract import spec
from tgc.trace.run import trace
import tgc
held = np.ones(3)
trace(lambda x: np.exp(x) @ x.T + held.sum() * x.shape[0], (np.ones((3, 3)),))
trace(lambda x: tgc.softmax(x * 2.5, axis=-1), (spec("f32[n,m]"),))
traced = trace(lambda x, s: np.where(x > s, x, 0).astype(np.float32), (np.ones(3), 2.0))
try:
    trace(lambda x: 1 if x.sum() > 0 else 2, (np.ones(3),))
except TgcError as error:
    print(type(error).__name__)
print(*[m for m in sys.modules if m.split(".")[0] in ("torch", "sympy")])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert out.stdout.split() == ["TraceError"]


def test_a_ufunc_may_write_into_a_temporary() -> None:
    def f(x: Any) -> Any:
        z = x * 2
        np.add(z, 1, out=z)
        return z

    check(f, np.arange(3.0))
