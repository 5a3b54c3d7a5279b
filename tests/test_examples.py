"""Each example runs to its end in seconds, stays short, and reaches the answer it claims."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MAX_LINES = 80


def run_main(name: str) -> Any:
    """Import the example from its file, as `python examples/name.py` would, and call its main()."""
    spec = importlib.util.spec_from_file_location(
        f"examples_{name}", ROOT / "examples" / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_is_short_and_tested(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < MAX_LINES
    assert "def main()" in text and 'if __name__ == "__main__":' in text
    assert f'"{path.stem}"' in Path(__file__).read_text(encoding="utf-8"), (
        "no test calls its main()"
    )


def test_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("quickstart") < 0.5 < np.log(2)
    out = capsys.readouterr().out
    assert "quickstart.py:" in out, "the graph names the lines it came from"


def test_custom_activation() -> None:
    pytest.importorskip("torch")
    first, last = run_main("custom_activation")
    assert last < first / 50


def test_linear_regression() -> None:
    pytest.importorskip("torch")
    w, b = run_main("linear_regression")
    assert w == pytest.approx(3, abs=0.01) and b == pytest.approx(-2, abs=0.01)


def test_pinn_third_derivative() -> None:
    pytest.importorskip("torch")
    first, last = run_main("pinn_third_derivative")
    assert last < first / 20


def test_pinn_residual_agrees_with_eager_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled loss and its gradient against torch's own third derivatives, in float64."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    pinn = importlib.import_module("pinn_third_derivative")
    weights = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    x, t = torch.randn(2, 9, dtype=torch.float64)
    x.requires_grad_()
    t.requires_grad_()
    u = (
        weights[3] * torch.tanh(weights[0] * x[:, None] + weights[1] * t[:, None] + weights[2])
    ).sum(1)

    def slope(y: Any, z: Any) -> Any:
        return torch.autograd.grad(y.sum(), z, create_graph=True)[0]

    expected = slope(u, t) + 6 * u * slope(u, x) + slope(slope(slope(u, x), x), x)
    actual = pinn.residual(x.detach(), t.detach(), weights)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    ours, theirs = (torch.autograd.grad((r * r).mean(), weights)[0] for r in (actual, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_numpy_only() -> None:
    centre, half_distance = run_main("numpy_only")
    assert centre == pytest.approx(0.7, abs=0.05) and half_distance == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("name", ["numpy_only", "quickstart"])
def test_example_without_torch(name: str) -> None:
    code = (
        "import runpy, sys\n"
        "for name in ('torch', 'triton', 'llvmlite'): sys.modules[name] = None\n"
        f"runpy.run_path({str(ROOT / 'examples' / f'{name}.py')!r}, run_name='__main__')\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_adamw() -> None:
    first, last = run_main("adamw")
    assert last < first / 1000
