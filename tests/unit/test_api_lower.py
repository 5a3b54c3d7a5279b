"""lower, cost and explain: what is shown is what runs, with and without data or a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tgc

HERE = Path(__file__).name


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + tgc.erf(x / 2**0.5))


def softmax(x: Any) -> Any:
    e = tgc.exp(x - tgc.max(x, axis=-1, keepdims=True))
    return e / tgc.sum(e, axis=-1, keepdims=True)


def run_source(source: str, name: str, *args: Any) -> Any:
    scope: dict[str, Any] = {}
    exec(compile(source, "emitted", "exec"), scope)
    return scope[name](*args)


def test_the_source_is_what_runs() -> None:
    x = np.linspace(-3, 3, 20).reshape(4, 5)
    lowered = tgc.jit(softmax).lower(x)
    (y,) = run_source(lowered.source, "softmax", x)
    np.testing.assert_array_equal(y, tgc.jit(softmax)(x))


def test_specs_and_arrays_lower_to_the_same_source() -> None:
    one = tgc.jit(gelu).lower(tgc.spec("f64[n]")).source
    assert one == tgc.jit(gelu).lower(np.ones(1024)).source
    assert one == tgc.jit(gelu).lower(np.ones(1000)).source


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_for_a_gpu_that_is_not_there(target: str) -> None:
    lowered = tgc.jit(softmax).lower(tgc.spec("f32[rows, cols]"), target=target)
    assert "@triton.jit" in lowered.source
    assert [k.name for k in lowered.kernels] and lowered.target.name == target


def test_the_training_pair() -> None:
    pair = tgc.jit(gelu).lower(tgc.spec("f32[n]"), grad=True)
    assert [p.name for p in pair.plans] == ["gelu", "gelu_backward"]
    assert len(pair.forward.kernels) == len(pair.backward.kernels) == 1
    assert pair.cost() == pair.forward.cost() + pair.backward.cost()
    assert pair.cost().kernels == 2
    # x read and y written; x and dy read and dx written: 20 bytes an element.
    n = pair.sizes["n"]
    assert (pair.cost().bytes_read, pair.cost().bytes_written) == (12 * n, 8 * n)
    assert pair.cost().bytes == pair.ideal_bytes
    assert pair.cost().saved_bytes == 0


def test_the_pair_is_what_runs() -> None:
    x, g = np.linspace(-2, 2, 9), np.ones(9)
    pair = tgc.jit(gelu).lower(x, grad=True)
    out = run_source(pair.source, "gelu", x)
    given = {"x": x, "g": g}
    order = [given.get(name, None) for name in pair.plans[1].inputs]
    (dx,) = run_source(pair.source, "gelu_backward", *[g if v is None else v for v in order])
    np.testing.assert_allclose(out[0], tgc.jit(gelu)(x))
    np.testing.assert_allclose(dx, tgc.grad(lambda x: tgc.sum(gelu(x)))(x), rtol=1e-12)


def test_no_backward_without_grad() -> None:
    with pytest.raises(tgc.errors.BackendError, match="grad=True"):
        tgc.jit(gelu).lower(tgc.spec("f32[n]")).backward  # noqa: B018


def test_integers_and_stopped_inputs_have_no_gradient() -> None:
    f = lambda x, label, y: tgc.mean(x * tgc.stop_gradient(y) * (label > 0))
    pair = tgc.jit(f).lower(tgc.spec("f32[n]"), tgc.spec("i64[n]"), tgc.spec("f32[n]"), grad=True)
    assert len(pair.plans[1].outputs) == 1


@pytest.mark.parametrize("backend", ["numpy", "native", "triton"])
def test_kernels_can_be_looked_at(backend: str) -> None:
    lowered = tgc.jit(softmax).lower(tgc.spec("f32[64, n]"), backend=backend)
    (kernel,) = lowered.kernels
    n = lowered.sizes["n"]
    assert sum(kernel.reads.values()) == sum(kernel.writes.values()) == 64 * n * 4
    assert f"{kernel.name}(" in kernel.source and kernel.source in lowered.source
    assert "out = " in kernel.source and len(kernel.source) < len(lowered.source) / 1.2
    assert kernel.flops > 64 * n


def test_the_graph_prints_with_lines() -> None:
    text = str(tgc.jit(softmax).lower(tgc.spec("f32[rows, cols]")).graph)
    assert f"{HERE}:" in text and "exp" in text


def test_a_transform_lowers_too() -> None:
    both = tgc.value_and_grad(lambda z, y: tgc.mean(tgc.log(1 + tgc.exp(z)) - y * z))
    lowered = both.lower(tgc.spec("f32[n]"), tgc.spec("f32[n]"), target="sm_90")
    assert "@triton.jit" in lowered.source


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(tgc.errors.BackendError, match="no target"):
        tgc.jit(gelu).lower(tgc.spec("f32[n]"), target="h100")


@pytest.mark.parametrize("target", ["sm_9x", "sm_", "gfx", "cuda"])
def test_a_misspelt_target_is_refused(target: str) -> None:
    with pytest.raises(tgc.errors.BackendError, match="no target"):
        tgc.jit(gelu).lower(tgc.spec("f32[n]"), target=target)


def test_a_backend_is_one_there_is() -> None:
    with pytest.raises(tgc.errors.BackendError, match="no backend 'trition'"):
        tgc.jit(gelu).lower(tgc.spec("f32[n]"), backend="trition")
    with pytest.raises(tgc.errors.BackendError, match="no backend 'cuda'"):
        tgc.jit(gelu, backend="cuda")


@pytest.mark.parametrize(("backend", "target"), [("numpy", "sm_90"), ("triton", "numpy")])
def test_a_backend_does_not_emit_for_the_other_one(backend: str, target: str) -> None:
    with pytest.raises(tgc.errors.BackendError, match="does not emit for the target"):
        tgc.jit(gelu).lower(tgc.spec("f32[n]"), backend=backend, target=target)


@pytest.mark.parametrize("transform", [tgc.jit, tgc.grad, tgc.jacrev, tgc.hessian])
def test_what_is_no_function_is_refused(transform: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="a function, not int"):
        transform(3)


def test_numpy_has_no_assembly() -> None:
    with pytest.raises(tgc.errors.BackendError, match="no assembly"):
        tgc.jit(gelu).lower(tgc.spec("f32[n]")).asm("ptx")


def test_assembly_and_resources() -> None:
    pytest.importorskip("triton")
    lowered = tgc.jit(gelu).lower(tgc.spec("f32[n]"), target="sm_90")
    assert ".target sm_90" in lowered.asm("ptx")
    (used,) = lowered.resources().values()
    assert used.registers > 0 and used.spill_bytes == 0
    with pytest.raises(tgc.errors.BackendError, match="amdgcn"):
        lowered.asm("amdgcn")


def test_explain() -> None:
    text = tgc.jit(softmax).explain(tgc.spec("f32[rows, cols]"), grad=True)
    for part in ("kernels", "traffic", "saved for the backward", "regime", "not fused", "rewrites"):
        assert part in text
    assert "1.00 of the ideal" in text
    assert "x: an input, alive anyway" in tgc.jit(gelu).explain(tgc.spec("f32[n]"), grad=True)
    assert "an output, written anyway" in tgc.jit(tgc.exp).explain(tgc.spec("f32[n]"), grad=True)
    assert "saved" not in tgc.jit(softmax).explain(tgc.spec("f32[rows, cols]"))


def test_explain_counts_no_memory_for_what_is_overwritten() -> None:
    def step(p: Any, g: Any) -> Any:
        return p - 0.1 * g, g * g

    arguments = tgc.spec("f32[100]"), tgc.spec("f32[100]")
    donated = tgc.jit(step, donate_argnames="p")
    costs = [
        f.lower(*arguments, target="numpy").cost().peak_bytes for f in (tgc.jit(step), donated)
    ]
    assert costs == [800, 400]
    assert "step: out overwrites p" in donated.explain(*arguments)


def test_explain_says_why_a_function_is_several_kernels() -> None:
    text = tgc.jit(lambda x, w: tgc.tanh(x @ w)).explain(np.ones((8, 4)), np.ones((4, 3)))
    assert "left to the library" in text and "einsum" in text


def test_requires_grad_chooses_what_is_differentiated() -> None:
    torch = pytest.importorskip("torch")
    x, w = torch.ones(4), torch.ones(4, requires_grad=True)
    pair = tgc.jit(lambda x, w: x * w).lower(x, w, grad=True)
    assert len(pair.plans[1].outputs) == 1


def test_dumps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tgc.settings(dump=tmp_path / "dump", debug=1):
        tgc.jit(gelu).lower(tgc.spec("f32[n]"), grad=True).source  # noqa: B018
    names = [p.name for p in sorted((tmp_path / "dump").iterdir())]
    assert any("simplify" in n for n in names) and any("emit" in n for n in names)
    assert "gelu: schedule" in capsys.readouterr().err
