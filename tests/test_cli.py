"""The command line as a user types it: what it prints, and what it says to a slightly wrong call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tgc.__main__ import main
from tgc.errors import TgcError
from tgc.report import cli

ROOT = Path(__file__).resolve().parent.parent


def tgc(*arguments: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run `python -m tgc` in a process of its own, with some packages out of reach."""
    code = (
        f"import sys\nfor name in {without!r}: sys.modules[name] = None\n"
        f"from tgc.__main__ import main\nsys.exit(main({list(arguments)!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_demo_shows_checks_and_times() -> None:
    result = tgc("demo", "--size", "10000")
    assert result.returncode == 0, result.stderr
    out = result.stdout
    assert "@triton.jit" in out and "import numpy" in out
    assert "logistic.py:" in out, "kernels name the user's lines"
    assert out.count(" ok") == 3 and "FAILS" not in out
    assert "numpy, by hand" in out and "tgc on numpy arrays" in out


def test_demo_reports_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    from tgc import __main__ as command

    def wrong(score: np.ndarray, label: np.ndarray) -> tuple[np.floating, np.ndarray]:
        loss, slope = command.reference(score, label)
        return loss, slope * 1.001

    assert command.check_demo(command.reference)
    assert not command.check_demo(wrong)


def test_doctor_names_versions_and_works_without_torch() -> None:
    result = tgc("doctor", without=("torch", "triton", "llvmlite"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert np.__version__ in result.stdout
    for line in ("numpy backend", "gradients", "Triton source"):
        assert any(row.startswith(line) and " ok " in row for row in result.stdout.splitlines())


def test_doctor_says_what_fails() -> None:
    def broken() -> str:
        raise ValueError("no luck\nsecond line")

    assert cli.outcome(broken) == (False, "ValueError: no luck")
    assert cli.outcome(lambda: "fine") == (True, "fine")


def test_source_prints_the_kernels() -> None:
    call = ("source", "kernels.definitions:softmax", "f32[rows, cols]")
    triton, numpy = tgc(*call, "--target", "sm_90", "--grad"), tgc(*call, "--backend", "numpy")
    assert triton.returncode == 0, triton.stderr
    assert "@triton.jit" in triton.stdout and "definitions.py:" in triton.stdout
    assert numpy.returncode == 0, numpy.stderr
    assert "import numpy" in numpy.stdout and "triton" not in numpy.stdout
    compile(numpy.stdout, "softmax_numpy.py", "exec")


def test_source_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("SCALE = 3.0\n")
    path = tmp_path / "mine.py"
    path.write_text("from beside import SCALE\n\ndef triple(x):\n    return SCALE * x\n")
    result = tgc("source", f"{path}:triple", "f32[n]", "--backend", "numpy")
    assert result.returncode == 0, result.stderr
    assert "mine.py:4" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["source", "softmax", "f32[n]"], "write module:function"),
        (["source", "kernels.nothing:f", "f32[n]"], "there is no module 'kernels.nothing'"),
        (["source", "nowhere.py:f", "f32[n]"], "there is no file nowhere.py"),
        (["source", "kernels.definitions:sofmax", "f32[n]"], "it has softmax"),
        (["source", "kernels.definitions:EPSILON", "f32[n]"], "is not a function"),
        (["source", "kernels.definitions:softmax"], "give one spec for each"),
        (["source", "kernels.definitions:softmax", "f33[n]"], "f33"),
        (["source", "kernels.definitions:softmax", "f32[n, m]", "--target", "sm90"], "no target"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_a_wrong_call_is_told_what_to_write(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert says in captured.err and captured.out == ""
    assert "Traceback" not in captured.err


def test_an_unknown_command_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["dmo"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert all(command in error for command in ("demo", "doctor", "source"))


def test_a_module_that_imports_a_missing_one_is_not_called_missing(tmp_path: Path) -> None:
    path = tmp_path / "needs.py"
    path.write_text("import a_module_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        cli.load_function(f"{path}:f")


def test_numbers_and_specs_are_told_apart() -> None:
    assert [cli.literal(text) for text in ("3", "1e-5", "True")] == [3, 1e-5, True]
    assert cli.literal("f32[n]") is None and cli.literal("'text'") is None
    with pytest.raises(TgcError, match="cannot take 1 arguments"):
        cli.check_count(lambda x, y: x, [1])


def test_table_aligns_columns() -> None:
    assert cli.table([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"
