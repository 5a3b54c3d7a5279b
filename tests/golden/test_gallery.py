"""The gallery in kernels/generated is what the compiler emits now, runs without tgc, and computes what torch does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tgc
from kernels.definitions import DEFINITIONS, Definition
from kernels.generate import FOLDER, TARGETS, main, path_of, source_of

torch = pytest.importorskip("torch")
F = torch.nn.functional

CASES = [
    pytest.param(definition, backend, id=f"{definition.name}-{backend}")
    for definition in DEFINITIONS
    for backend in TARGETS
]

REFERENCES: dict[str, Callable[..., Any]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "swiglu": lambda gate, value: F.silu(gate) * value,
    "softmax": lambda x: F.softmax(x, dim=-1),
    "layer_norm": lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, eps=1e-5),
    "rms_norm": lambda x, w: F.rms_norm(x, x.shape[-1:], w, eps=1e-5),
    "cross_entropy": F.cross_entropy,
    "bce_with_logits": lambda z, y: F.binary_cross_entropy_with_logits(z, y.detach()),
}
SIZES = {"rows": 7, "cols": 33, "n": 101}


@pytest.mark.parametrize(("definition", "backend"), CASES)
def test_generated_module_is_what_the_compiler_emits(
    definition: Definition, backend: str, golden: Callable[[Path, str], None]
) -> None:
    golden(path_of(definition, backend), source_of(definition, backend))


def test_emitted_source_is_the_same_twice() -> None:
    assert source_of(DEFINITIONS[0], "triton") == source_of(DEFINITIONS[0], "triton")


def test_gallery_holds_nothing_else() -> None:
    expected = {path_of(d, backend).name for d in DEFINITIONS for backend in TARGETS} | {
        "__init__.py"
    }
    assert {path.name for path in FOLDER.glob("*.py")} == expected


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--check", "gelo"])
    assert "there are gelu" in capsys.readouterr().err


@pytest.mark.parametrize("backend", TARGETS)
def test_modules_need_no_tgc(backend: str) -> None:
    """Imported with tgc out of reach, and torch too for the numpy modules."""
    absent = ["tgc", "sympy"] + (["torch", "triton"] if backend == "numpy" else [])
    paths = [str(path_of(definition, backend)) for definition in DEFINITIONS]
    code = (
        "import runpy, sys\n"
        f"for name in {absent}: sys.modules[name] = None\n"
        f"for path in {paths}: runpy.run_path(path, run_name='standalone')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
def test_numpy_module_runs_as_a_script(definition: Definition, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(path_of(definition, "numpy"))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip(), "a script should say what it did"


def arguments(definition: Definition, rng: np.random.Generator) -> list[Any]:
    """Random float32 arguments of the definition's specs; labels are row indices below `cols`."""
    made = []
    for text in definition.specs:
        dtype, sizes = text.rstrip("]").split("[")
        shape = [SIZES[size.strip()] for size in sizes.split(",")]
        if dtype == "i64":
            made.append(torch.from_numpy(rng.integers(0, SIZES["cols"], shape)))
        else:
            made.append(torch.from_numpy(rng.normal(size=shape).astype(np.float32) * 3))
    return made


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
def test_definition_agrees_with_torch(definition: Definition, rng: np.random.Generator) -> None:
    """Forward and gradient, against torch in float64."""
    values = arguments(definition, rng)
    mine = [v.clone().requires_grad_(v.is_floating_point()) for v in values]
    exact = [v.double().requires_grad_() if v.is_floating_point() else v for v in values]
    out = tgc.jit(definition.function)(*mine)
    expected = REFERENCES[definition.name](*exact)
    np.testing.assert_allclose(out.detach(), expected.detach(), rtol=2e-6, atol=2e-6)
    cotangent = torch.from_numpy(rng.normal(size=tuple(expected.shape)))
    out.backward(cotangent.float())
    expected.backward(cotangent)
    for ours, theirs in zip(mine, exact):
        if theirs.grad is None:
            assert ours.grad is None or not ours.grad.any()
        else:
            np.testing.assert_allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


def test_bce_does_not_overflow() -> None:
    """The textbook formula overflows in float32 at logit 89; the compiled one must not."""
    logit = torch.tensor([-200.0, -50.0, 0.0, 50.0, 200.0], requires_grad=True)
    target = torch.tensor([0.0, 1.0, 0.5, 1.0, 0.0])
    bce = next(d.function for d in DEFINITIONS if d.name == "bce_with_logits")
    loss = tgc.jit(bce)(logit, target)
    loss.backward()
    np.testing.assert_allclose(
        loss.detach(), F.binary_cross_entropy_with_logits(logit.detach(), target), rtol=1e-6
    )
    np.testing.assert_allclose(
        logit.grad, (torch.sigmoid(logit.detach()) - target) / 5, rtol=1e-6, atol=1e-30
    )
