"""Random Python programs over torch functions, compiled and run as they are: values and gradients must agree.

Unlike test_graphs.py this goes in by the front door: tracing, guards, dispatch and torch autograd through the
compiled function, twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from hypothesis import given

pytest.importorskip("torch")

import torch
import torch.nn.functional as F

import tgc
from tests.fuzz.test_graphs import examples

pytestmark = pytest.mark.timeout(600)

Step = Callable[[Any], Any]
ONE: dict[str, Step] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "sin": lambda x: x.sin(),
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "logsigmoid": F.logsigmoid,
    "square": lambda x: x * x,
    "shifted": lambda x: 1.5 - x / 2,
    "rsqrt": lambda x: torch.rsqrt(x * x + 1),
    "power": lambda x: (x * x + 0.5) ** 1.5,
    "log1p": lambda x: torch.log1p(x**2),
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, dim=0),
    "logsumexp": lambda x: torch.logsumexp(x, -1, keepdim=True) + x,
    "centred": lambda x: x - x.mean(0, keepdim=True),
    "scaled": lambda x: x / (1 + x.abs().sum(-1, keepdim=True)),
    "normed": lambda x: F.layer_norm(x, x.shape[-1:]),
    "twice": lambda x: torch.cat([x, -x], 0)[: x.shape[0]],
    "stacked": lambda x: torch.stack([x, x.tanh()]).sum(0),
    "flat": lambda x: (x.reshape(-1) * 2).reshape(x.shape),
    "turned": lambda x: (x.t() * 0.5).t(),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x.exp().clamp(max=2.0)),
}
TWO: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, y: x + y,
    "mul": lambda x, y: x.tanh() * y,
    "div": lambda x, y: x / (1 + y * y),
    "row": lambda x, y: x + y[:1],
    "column": lambda x, y: x * y.sum(1, keepdim=True).tanh(),
    "product": lambda x, y: (x @ y.t()).tanh() @ y,
}
ENDS: dict[str, Step] = {
    "all": lambda x: x,
    "mean": lambda x: x.mean(),
    "rows": lambda x: x.sum(-1),
    "columns": lambda x: x.sum(0),
}
SIZES = (1, 2, 3, 5, 7, 17, 31)


@st.composite
def programs(draw: st.DrawFn) -> tuple[Callable[..., Any], list[Any], str]:
    """A function of two matrices, its arguments in float64, and its text."""
    steps: list[tuple[str, int, int]] = []
    for made in range(2, 2 + draw(st.integers(1, 6))):
        name = draw(st.sampled_from([*ONE, *TWO]))
        steps.append((name, draw(st.integers(0, made - 1)), draw(st.integers(0, made - 1))))
    end = draw(st.sampled_from(list(ENDS)))

    def program(x: Any, y: Any) -> Any:
        values = [x, y]
        for name, i, j in steps:
            values.append(ONE[name](values[i]) if name in ONE else TWO[name](values[i], values[j]))
        return ENDS[end](values[-1])

    shape = (draw(st.sampled_from(SIZES)), draw(st.sampled_from(SIZES)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    arguments = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in "xy"]
    return program, arguments, f"{steps} then {end} of {shape}"


def derivatives(f: Callable[..., Any], arguments: list[Any]) -> list[Any]:
    """The value, the gradients of a weighted sum of it, and the gradients of a weighted sum of those."""
    leaves = [a.clone().requires_grad_() for a in arguments]
    value = f(*leaves)
    weight = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
    first = torch.autograd.grad(
        (value * weight).sum(), leaves, create_graph=True, allow_unused=True, materialize_grads=True
    )
    total = sum((g * g).sum() for g in first)
    if not total.requires_grad:
        return [value, *first]
    second = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return [value, *first, *second]


@examples(40)
@given(programs())
def test_compiled_programs_agree_with_torch_to_second_order(
    drawn: tuple[Callable[..., Any], list[Any], str],
) -> None:
    program, arguments, text = drawn
    hypothesis.note(text)
    got, want = derivatives(tgc.jit(program), arguments), derivatives(program, arguments)
    assert len(got) == len(want)
    for mine, theirs in zip(got, want):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9 * max(scale, 1.0))


def test_found_column_sums_of_what_is_the_same_in_every_column() -> None:
    """Partial results of a value that lacks an axis of the result were stored without it."""

    def program(x: Any) -> Any:
        return F.log_softmax(F.log_softmax(x, dim=0), dim=0).sum(-1)

    x = [torch.linspace(-2, 2, 17 * 5, dtype=torch.float64).reshape(17, 5)]
    for mine, theirs in zip(derivatives(tgc.jit(program), x), derivatives(program, x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("name", [*ONE, *TWO])
def test_every_step_takes_empty_matrices(name: str, shape: tuple[int, int]) -> None:
    step: Callable[..., Any] = (lambda x, y: ONE[name](x)) if name in ONE else TWO[name]
    arguments = [torch.zeros(shape, dtype=torch.float64) for _ in "xy"]
    try:
        want = derivatives(step, arguments)
    except (RuntimeError, IndexError):
        pytest.skip("torch refuses it")
    got = derivatives(tgc.jit(step), arguments)
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True)
