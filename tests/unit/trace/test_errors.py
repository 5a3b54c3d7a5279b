"""What cannot be traced raises the right class, names the caller's line and says what to write."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tgc.errors import (
    DeviceError,
    DTypeError,
    MutationError,
    ShapeError,
    TgcError,
    TraceError,
    UnsupportedOpError,
)
from tgc.trace.abstract import spec
from tgc.trace.run import trace
from tgc.trace.state import active

torch = pytest.importorskip("torch")
F = torch.nn.functional
HERE = Path(__file__).name

x, y = torch.ones(3, 4), torch.ones(4, 4)
a = np.ones((3, 4))


def fails(kind: type[TgcError], function: Callable[..., Any], *args: Any) -> TgcError:
    """The error of tracing `function`; its line must be one of the function's own."""
    with pytest.raises(kind) as caught:
        trace(function, args)
    error = caught.value
    assert active() is None
    lines, first = inspect.getsourcelines(function)
    assert error.line is not None, error
    assert error.line.file.endswith(HERE)
    assert first <= error.line.number < first + len(lines)
    assert f":{error.line.number}" in str(error) and error.line.text in str(error)
    return error


def branch(x: Any) -> Any:
    if x.sum() > 0:
        return x
    return -x


def loop(x: Any) -> Any:
    while x.sum() > 0:
        x = x - 1
    return x


@pytest.mark.parametrize("argument", [x, a], ids=["torch", "numpy"])
@pytest.mark.parametrize(
    "function",
    [
        branch,
        loop,
        lambda x: float(x.sum()) * x,
        lambda x: int(x.sum()) * x,
        lambda x: x.sum().item() * x,
        lambda x: [1, 2][x.sum()],
        lambda x: x if x[0, 0] else -x,
        lambda x: 0.0 in x,
        lambda x: x[0] and x[1],
    ],
)
def test_values_are_not_there_while_tracing(function: Callable[..., Any], argument: Any) -> None:
    error = fails(TraceError, function, argument)
    assert error.hint is not None
    assert "tgc.where" in error.hint or "static" in error.hint


def test_a_format_needs_values_and_a_plain_one_does_not() -> None:
    fails(TraceError, lambda x: x * len(f"{x.sum():.3f}"), a)
    assert trace(lambda x: x * len(f"{x}"), (a,)).graph.outputs


def generator(x: Any) -> Any:
    for k in range(3):
        yield x * k


async def coroutine(x: Any) -> Any:
    return x


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize(
    "function",
    [
        generator,
        coroutine,
        lambda x: (x, map(abs, [x])),
        lambda x: {"a": (v for v in x)},
        lambda x: {x},
        lambda x: [SimpleNamespace(total=x.sum())],
    ],
)
def test_results_that_hide_values_are_refused(function: Callable[..., Any]) -> None:
    error = fails(TraceError, function, a)
    assert error.hint is not None and "tuples" in error.hint


def test_other_results_are_constants() -> None:
    kept = SimpleNamespace(rate=3), {1, 2}, SimpleNamespace
    traced = trace(lambda x: (x + 1, *kept), (a,))
    assert len(traced.graph.outputs) == 1


def test_conversions_to_other_libraries_are_refused() -> None:
    fails(TraceError, lambda x: x.numpy(), x)
    fails(TraceError, lambda x: np.asarray(x) + 1, x)
    fails(TraceError, lambda x: x.tolist(), x)


def test_long_symbolic_axes_are_not_unrolled() -> None:
    fails(TraceError, lambda x: sum(row for row in x), torch.ones(40, 2))


def test_a_number_that_decides_should_be_static() -> None:
    error = fails(TraceError, lambda x, n: x if n > 2 else -x, x, 3)
    assert error.hint is not None and "static_argnames" in error.hint


def test_shape_errors_speak_of_extents() -> None:
    error = fails(ShapeError, lambda x, y: x + y, x, y)
    assert "size of tensor a (3) must match the size of tensor b (4)" in str(error)
    assert "shape '[5, -1]' is invalid for input of size 12" in str(
        fails(ShapeError, lambda x: x.view(5, -1), x)
    )
    fails(ShapeError, lambda x: x @ x, x)
    fails(ShapeError, lambda x: x.sum(2), x)
    fails(ShapeError, lambda x: x[3], x)
    fails(ShapeError, lambda x: x[0, 0, 0], x)
    fails(ShapeError, lambda x: x.expand(2, 4), x)
    fails(ShapeError, lambda x, y: torch.cat([x, y], 1), x, y)
    fails(ShapeError, lambda x, y: torch.stack([x, y]), x, y)
    fails(ShapeError, lambda x: x.permute(0, 0), x)
    fails(ShapeError, lambda x: x.split([1, 1]), x)
    fails(ShapeError, lambda x: torch.einsum("ij,j->k", x, x[0]), x)
    fails(ShapeError, lambda x: F.layer_norm(x, (3,)), x)
    fails(ShapeError, lambda x: x[:, :0].amax(1), x)
    fails(ShapeError, lambda x: x[::-1], x)


def test_dtype_errors() -> None:
    i, m = torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.bool)
    assert "could not infer output dtype" in str(fails(DTypeError, lambda i: i.mean(), i))
    fails(DTypeError, lambda m: -m, m)
    fails(DTypeError, lambda m: m - m, m)
    fails(DTypeError, lambda x: x & 1, x)
    fails(DTypeError, lambda x: x @ x.double().T, x)
    fails(DTypeError, lambda x: torch.gather(x, 1, x), x)
    fails(DTypeError, lambda x: x.to(torch.complex64), x)
    fails(DTypeError, lambda i: i**-1, i)


def test_unsupported_arguments_are_named() -> None:
    with pytest.raises(DTypeError, match="complex64"):
        trace(lambda z: z, (torch.ones(2, dtype=torch.complex64),))
    with pytest.raises(UnsupportedOpError, match="sparse"):
        trace(lambda z: z, (torch.eye(3).to_sparse(),))


def test_torch_and_numpy_do_not_mix() -> None:
    error = fails(DTypeError, lambda x, a: x + a, x, a)
    assert error.hint is not None and "from_numpy" in error.hint


def test_devices_do_not_mix() -> None:
    meta = torch.ones(3, 4, device="meta")
    error = fails(DeviceError, lambda x, y: x + y, x, meta)
    assert "Expected all tensors to be on the same device" in str(error)
    trace(lambda x, y: x + y, (torch.ones(()), meta))  # 0-d CPU tensors go with any


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.linalg.svd(x),
        lambda x: torch.fft.fft(x),
        lambda x: x.cholesky_inverse(),
        lambda x: x.sort(),
        lambda x: F.interpolate(x[None, None], scale_factor=2),
        lambda x: x[x > 0],
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x[[0, 1]],
        lambda x: torch.randperm(3) * x[0, 0],
        lambda x: torch.poisson(x),
        lambda x: F.alpha_dropout(x, training=True),
        lambda x: torch.nonzero(x),
        lambda x: torch.where(x > 0),
        lambda x: F.pad(x, (1, 1), mode="reflect"),
        lambda x: x.to("meta"),
        lambda x: torch.add(x, x, out=torch.empty(3, 4)),
    ],
)
def test_unsupported_functions_are_named(function: Callable[..., Any]) -> None:
    fails(UnsupportedOpError, function, x)


def test_unsupported_names_are_spelt_out() -> None:
    assert "torch.linalg.svd" in str(fails(UnsupportedOpError, lambda x: torch.linalg.svd(x), x))
    assert "torch.Tensor.sort" in str(fails(UnsupportedOpError, lambda x: x.sort(), x))
    assert "numpy.linalg.inv" in str(fails(UnsupportedOpError, lambda a: np.linalg.inv(a), a))
    assert "numpy.sort" in str(fails(UnsupportedOpError, lambda a: np.sort(a), a))


def test_a_missing_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        trace(lambda x: x.no_such_thing, (x,))
    assert trace(lambda x: x if hasattr(x, "no_such_thing") else x + 1, (x,))


def test_captured_values_cannot_be_read() -> None:
    fails(TraceError, lambda a: a * x.sum().item() if False else x[0, 0].item() * a, torch.ones(()))


def test_the_line_is_that_of_the_innermost_user_frame() -> None:
    def helper(value: Any) -> Any:
        return value.view(7)

    with pytest.raises(ShapeError) as caught:
        trace(lambda x: torch.nn.Identity()(helper(x)), (x,))
    assert caught.value.line is not None
    assert caught.value.line.text == "return value.view(7)"


@pytest.mark.parametrize(
    "text, kind",
    [
        ("f33[2]", DTypeError),
        ("f32", ShapeError),
        ("f32[2", ShapeError),
        ("f32[2*n]", ShapeError),
        ("f32[-1]", ShapeError),
        ("f32[2,,3]", ShapeError),
    ],
)
def test_bad_specs(text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="f3"):
        spec(text)


def test_after_an_error_tracing_works_again() -> None:
    fails(TraceError, branch, x)
    assert trace(lambda x: x + 1, (x,)).graph.outputs


# --- writes ---------------------------------------------------------------------------------------


def add_in_place(x: Any) -> Any:
    x += 1
    return x


@pytest.mark.parametrize("argument", [x, a], ids=["torch", "numpy"])
@pytest.mark.parametrize("function", [add_in_place, lambda x: x.__setitem__(0, 1.0)])
def test_arguments_are_not_written(function: Callable[..., Any], argument: Any) -> None:
    error = fails(MutationError, function, argument)
    assert "`x`" in str(error) and error.hint is not None


def test_captured_tensors_are_not_written() -> None:
    held = torch.ones(4)
    fails(MutationError, lambda x: held.add_(x[0]), x)
    fails(MutationError, lambda x: held.add_(1) + x, x)
    assert held.sum() == 4


def test_views_of_arguments_are_not_written() -> None:
    fails(MutationError, lambda x: x.view(-1).add_(1), x)
    fails(MutationError, lambda x: x[0].T.zero_(), torch.ones(2, 3, 3))


def test_memory_shared_without_a_path_is_not_written() -> None:
    fails(MutationError, lambda x: (x * 1).detach().add_(1), x)
    fails(MutationError, lambda x: (x * 1)[:1].expand(3, 4).add_(1), x)


def test_a_float_result_does_not_fit_into_integers() -> None:
    fails(MutationError, lambda i: (i * 1).add_(0.5), torch.ones(3, dtype=torch.int64))


@pytest.mark.parametrize("other", [[1.0, 2.0], (1.0,), {"a": 1.0}, "x", None], ids=repr)
def test_plain_values_are_no_operands(other: Any) -> None:
    """Python would repeat a list, or find no operator, and name no line."""
    for error in (
        fails(DTypeError, lambda x: x * other, a),
        fails(DTypeError, lambda x: other * x, a),
        fails(DTypeError, lambda x: x < other, a),
    ):
        assert f"an operand is a {type(other).__name__}" in str(error)
        assert ("np.array" in str(error)) == isinstance(other, list | tuple)


def test_equality_is_asked_of_anything() -> None:
    trace(lambda x: x if x != None and not x == "x" else fail(), (a,))  # noqa: E711


def fail() -> None:
    raise AssertionError
