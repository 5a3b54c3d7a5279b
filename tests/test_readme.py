"""The README's Python runs as it stands, prints what its comments say, and its commands exist."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def run_block(tmp_path: Path, block: str, names: dict[str, Any]) -> list[str]:
    """Run a code block as a file, which is how a reader would; the lines it printed."""
    path = tmp_path / "readme.py"
    path.write_text(block, encoding="utf-8")
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(block, str(path), "exec"), names)
    return out.getvalue().splitlines()


def test_the_first_example_prints_what_its_comments_say(tmp_path: Path) -> None:
    lines = run_block(tmp_path, BLOCKS[0], {"__name__": "readme"})
    claimed = re.findall(r"^print\(.*?\) +# ([^;=:\n]+)", BLOCKS[0], flags=re.MULTILINE)
    assert len(claimed) == 4
    for printed, claim in zip(lines[:3], claimed):
        assert printed == claim.strip()
    assert any("@triton.jit" in line for line in lines[3:])
    assert any("readme.py:" in line for line in lines[3:]), "kernels name the user's lines"


def test_the_torch_example_runs(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    names: dict[str, Any] = {"__name__": "readme"}
    run_block(tmp_path, "import tgc\n" + BLOCKS[1], names)
    x, beta = names["x"].detach().double(), names["beta"].detach().double()
    x.requires_grad_()
    beta.requires_grad_()
    (slope,) = torch.autograd.grad((x * torch.sigmoid(beta * x)).sum(), x, create_graph=True)
    slope.sum().backward()
    torch.testing.assert_close(names["x"].grad.double(), x.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(names["beta"].grad.double(), beta.grad, rtol=1e-5, atol=1e-5)


def test_every_python_block_is_run_here() -> None:
    assert len(BLOCKS) == 2


def test_linked_files_and_make_targets_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
