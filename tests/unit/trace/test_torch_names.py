"""Every torch name: traced and evaluated, it gives what torch gives, with torch's type and shape.

The cases are expressions over arguments that tests/support/torch_cases.py describes.
"""

from __future__ import annotations

from typing import Any

import pytest

import tgc
from tests.support.torch_cases import (
    ACTIVATIONS,
    CREATION,
    ELEMENTWISE,
    LOSSES,
    MOVEMENT,
    NORMS,
    PRODUCTS,
    REDUCTIONS,
)
from tests.support.tracing import check, dtype_name
from tgc.errors import TgcError
from tgc.trace.run import trace

torch = pytest.importorskip("torch")
F = torch.nn.functional

NAMES = ("x", "y", "u", "v", "w", "z", "b", "c", "s", "i", "k", "m", "img")


def arguments(dtype: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    made = {
        "x": torch.randn(3, 4),
        "y": torch.rand(3, 4) + 0.5,
        "u": torch.rand(3, 4) * 0.8 + 0.1,
        "v": torch.randn(4),
        "w": torch.randn(4, 5),
        "z": torch.randn(5, 4),
        "b": torch.randn(2, 3, 4),
        "c": torch.randn(2, 4, 5),
        "s": torch.randn(()),
        "img": torch.randn(2, 6, 5),
    }
    made = {n: t.to(dtype) for n, t in made.items()}
    made["i"] = torch.randint(0, 3, (3, 4))
    made["k"] = torch.tensor([1, 3, 0])
    made["m"] = torch.rand(3, 4) > 0.5
    return made


def function_of(expression: str) -> Any:
    """The case as a function of the arguments it uses."""
    code = compile(expression, "case.py", "eval")
    used = [n for n in NAMES if n in code.co_names]
    return eval(f"lambda {', '.join(used)}: ({expression})", globals()), used


def cases(*groups: str) -> list[str]:
    return [line for group in groups for line in group.strip().splitlines()]


ALL = cases(ELEMENTWISE, ACTIVATIONS, REDUCTIONS, MOVEMENT, PRODUCTS, NORMS, LOSSES, CREATION)


@pytest.mark.parametrize("expression", ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_values_types_and_shapes_are_torchs(expression: str, dtype: Any) -> None:
    function, used = function_of(expression)
    given = arguments(dtype)
    check(function, *[given[n] for n in used])


@pytest.mark.parametrize("expression", ALL)
def test_bfloat16_results_have_torchs_types(expression: str) -> None:
    function, used = function_of(expression)
    given = [arguments(torch.bfloat16)[n] for n in used]
    try:
        expected = function(*given)
    except RuntimeError:
        pytest.skip("torch does not compute this in bfloat16")
    flat = expected if isinstance(expected, tuple | list) else (expected,)
    found = trace(function, given).graph.outputs
    assert [n.dtype.name for n in found] == [dtype_name(v) for v in flat]


SHAPES = [
    ((), ()),
    ((), (3, 4)),
    ((0, 4), (4,)),
    ((1, 4), (3, 1)),
    ((0,), (0,)),
    ((2, 1, 4), (3, 1)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize(
    "expression",
    [e for e in cases(ELEMENTWISE, ACTIVATIONS) if set("xy") >= set(function_of(e)[1])],
)
def test_elementwise_for_other_shapes(expression: str, shapes: Any) -> None:
    function, used = function_of(expression)
    torch.manual_seed(1)
    given = {"x": torch.randn(shapes[0]).double(), "y": (torch.rand(shapes[1]) + 0.5).double()}
    args = [given[n] for n in used]
    try:
        function(*args)
    except (RuntimeError, IndexError):
        with pytest.raises(TgcError):
            trace(function, args)
        return
    check(function, *args)


DTYPES = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]
MIXES = """
x + y
x * y
x / y
torch.maximum(x, y)
x < y
x ** y
torch.where(x > 0, x, y)
x + 2
x + 2.5
x * True
x / 2
x // 2
x - 1
-x
abs(x)
x ** 2
torch.exp(x)
torch.sigmoid(x)
x.sum()
x.mean()
x.prod()
x.amax()
x.cumsum(0)
x.argmax()
x.any()
x.var()
torch.relu(x)
torch.clamp(x, 0, 1)
torch.clamp(x, min=0.5)
x.logsumexp(0)
torch.softmax(x, 0)
torch.floor(x)
torch.sign(x)
x & y
torch.atan2(x, y)
torch.cat([x, y.reshape(-1)])
x @ y
"""


@pytest.mark.parametrize("expression", cases(MIXES))
def test_promotion_is_torchs(expression: str) -> None:
    """For every pair of types and ranks: torch's result type, or an error where torch has one."""
    function, used = function_of(expression)
    for a in DTYPES:
        for b in DTYPES if "y" in used else [a]:
            for shape in ((3,), ()):
                x, y = torch.ones(3).to(a), torch.ones(shape).to(b)
                args = [x, y] if used == ["x", "y"] else [x]
                try:
                    expected = function(*args)
                except (RuntimeError, TypeError):
                    with pytest.raises(TgcError):
                        trace(function, args)
                    continue
                (node,) = trace(function, args).graph.outputs
                assert node.dtype.name == dtype_name(expected), (a, b, shape)
                if expression != "x ** y":
                    check(function, *args)


def test_slopes_of_fmod_at_zero() -> None:
    """They are 1 there, as everywhere between two jumps."""
    x = torch.tensor([0.0, -0.0, 1.0, -2.5, 7.0], requires_grad=True)
    y = torch.tensor([2.0, 2.0, -3.0, 2.0, 3.0], requires_grad=True)
    found = torch.autograd.grad(tgc.jit(torch.fmod)(x, y).sum(), (x, y))
    expected = torch.autograd.grad(torch.fmod(x, y).sum(), (x, y))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
