"""What a prepared call does: arguments into host functions, results out of them, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tgc
from tgc.runtime.native import unavailable
from tgc.runtime.steps import Convert, Lines, function

ENGINES = [
    "numpy",
    pytest.param("native", marks=pytest.mark.skipif(unavailable() is not None, reason="no LLVM")),
]


def test_texts_that_are_equal_share_their_code() -> None:
    made = [function("f", "x", ["return x + by"], {"by": by}) for by in (1, 2)]
    assert [f(10) for f in made] == [11, 12]
    assert made[0].__code__ is made[1].__code__


def test_an_error_in_a_step_shows_its_line() -> None:
    import traceback

    f = function("f", "x", ["return 1 / x"], {})
    with pytest.raises(ZeroDivisionError) as caught:
        f(0)
    assert "return 1 / x" in "".join(traceback.format_exception(caught.value))


def test_a_conversion_keeps_what_it_made_alive() -> None:
    body = Lines()
    expression = body.convert(Convert("address({})", (("address", id),), "copied({})"), "x")
    assert expression == "address(kept_x)" and body.lines == ["kept_x = copied(x)"]


@pytest.mark.parametrize("engine", ENGINES)
class TestTensors:
    """Tensors, of which an engine is given arrays or addresses."""

    def compare(self, engine: str, f: Any, *xs: Any) -> None:
        """A function and its gradients are those of torch."""
        torch = pytest.importorskip("torch")
        compiled = tgc.jit(f, backend=engine)
        for _ in range(2):
            ours, theirs = compiled(*xs), f(*xs)
            torch.testing.assert_close(ours, theirs)
            asked = [x for x in xs if torch.is_tensor(x) and x.requires_grad]
            if asked:
                slope = torch.randn_like(theirs)
                torch.testing.assert_close(
                    torch.autograd.grad(ours, asked, slope, allow_unused=True),
                    torch.autograd.grad(theirs, asked, slope, allow_unused=True),
                )

    def test_shapes_and_strides(self, engine: str) -> None:
        torch = pytest.importorskip("torch")
        base = torch.randn(6, 4)
        cases = (base, base.T, base[::2], base[:, 1], base[0, 0], base[:0], base[:1], base[None])
        for x in (*cases, torch._neg_view(base), base[:1].expand(6, 4)):
            for grad in (False, True):
                y = x.detach()
                self.compare(engine, lambda x: torch.tanh(x) * x + 1, y.requires_grad_(grad))

    def test_dtypes(self, engine: str) -> None:
        torch = pytest.importorskip("torch")
        pytest.importorskip("ml_dtypes")
        for dtype in (torch.float64, torch.float16, torch.bfloat16):
            x = torch.arange(1.0, 7).to(dtype).requires_grad_()
            self.compare(engine, lambda x: x * x * x, x)

    def test_products_read_arrays(self, engine: str) -> None:
        torch = pytest.importorskip("torch")
        a = torch.randn(5, 3, requires_grad=True)
        b = torch.randn(3, 4, requires_grad=True)
        self.compare(engine, lambda a, b: torch.relu(a @ b) * 2, a, b)
        self.compare(engine, lambda a, b: torch.relu(a.T @ b.T), b.detach(), a)

    def test_a_cotangent_that_is_a_result(self, engine: str) -> None:
        torch = pytest.importorskip("torch")
        a, b = (torch.randn(5, requires_grad=True) for _ in range(2))
        self.compare(engine, lambda a, b: a + b.exp(), a, b)
        (slope, _) = torch.autograd.grad(
            tgc.jit(lambda a, b: a + b, backend=engine)(a, b), (a, b), given := torch.ones(5)
        )
        slope += 1
        assert given.tolist() == [1.0] * 5

    def test_numbers_between_tensors(self, engine: str) -> None:
        torch = pytest.importorskip("torch")
        x = torch.randn(5, requires_grad=True)
        self.compare(engine, lambda k, x, n: torch.sin(x * k) ** n, 0.5, x, 3)

    def test_cotangents_of_any_stride_and_of_some_results(self, engine: str) -> None:
        torch = pytest.importorskip("torch")
        f = tgc.jit(lambda x, y: (torch.sin(x) * y, torch.cos(x), y > 0), backend=engine)
        x, y = (torch.randn(4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
        for slope in (
            torch.randn(4, 4, dtype=torch.float64).T,
            torch.ones(1, 1).double().expand(4, 4),
        ):
            for k in (0, 1):
                ours = torch.autograd.grad(f(x, y)[k], (x, y), slope, allow_unused=True)
                plain = torch.sin(x) * y if k == 0 else torch.cos(x)
                theirs = torch.autograd.grad(plain, (x, y), slope, allow_unused=True)
                torch.testing.assert_close(ours[0], theirs[0])
                if theirs[1] is not None:
                    torch.testing.assert_close(ours[1], theirs[1])
        assert not f(x, y)[2].requires_grad

    def test_every_order(self, engine: str) -> None:
        torch = pytest.importorskip("torch")
        f = tgc.jit(lambda x, y: torch.tanh(x * y) + y * y * x, backend=engine)
        x, y = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
        assert torch.autograd.gradcheck(f, (x, y))
        assert torch.autograd.gradgradcheck(f, (x, y))

    def test_what_torch_does_with_saved_tensors(self, engine: str) -> None:
        torch = pytest.importorskip("torch")
        from torch.utils.checkpoint import checkpoint

        f = tgc.jit(lambda x: torch.exp(torch.sin(x)) * x, backend=engine)
        x = torch.randn(6, requires_grad=True)
        (expected,) = torch.autograd.grad((torch.exp(torch.sin(x)) * x).sum(), x)
        unpacked = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t: t.clone(), lambda t: unpacked.append(1) or t
        )
        with hooks:
            y = f(x)
        for _ in range(2):
            (slope,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
            torch.testing.assert_close(slope, expected)
        once = len(unpacked) // 2
        assert once and len(unpacked) == 2 * once, "each is unpacked once a backward"
        y = checkpoint(f, x, use_reentrant=False)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], expected)
        y = f(x)
        torch.autograd.grad(y.sum(), x)
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(y.sum(), x)
        y = f(x)
        with torch.no_grad():
            x.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(y.sum(), x)

    def test_arrays_are_told_the_same_sizes(self, engine: str) -> None:
        f = tgc.jit(lambda x, y: np.tanh(x) * y[:, None] + x.sum(), backend=engine)
        for n, m in ((4, 6), (6, 4), (1, 3), (0, 2), (5, 5)):
            x, y = np.random.default_rng(n).normal(size=(n, m)), np.arange(float(n))
            np.testing.assert_allclose(f(x, y), np.tanh(x) * y[:, None] + x.sum())
