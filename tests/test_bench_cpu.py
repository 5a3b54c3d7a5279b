"""The CPU suite: gradients by hand against differences, engines against float64, processes, the verdict."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.__main__ import main
from bench.cpu import by_c, by_numpy, plot, probe, race, tasks, verdict
from bench.cpu.engines import ENGINES
from bench.cpu.race import Cell, Row, Worker
from bench.cpu.tasks import FORWARD, GRADIENT, TASKS, Unsupported
from bench.cpu.worker import as_numpy

CELLS = race.cells(None, None, (FORWARD, GRADIENT), quick=True)
# What is compared engine by engine; torch.compile is left out, as one compilation takes as long as all of these.
IN_PROCESS = [name for name in ENGINES if "compile" not in name and "warm" not in name]
THROUGH_AUTOGRAD = ("swiglu", "layer norm", "BCE with logits")
DERIVED = [t for t in TASKS.values() if t.wrt and t.name != "Black-Scholes and Greeks"]


def wide(task: tasks.Task, mode: str) -> list[np.ndarray]:
    """Small float64 inputs."""
    (_, shape) = tasks.QUICK[len(next(iter(task.shapes.values())))]
    made = task.inputs(shape, mode)
    return [a.astype(np.float64) if a.dtype == np.float32 else a for a in made]


def slope(function: Any, inputs: list[np.ndarray], place: int, step: np.ndarray) -> Any:
    """The central difference of a function's first result along `step` of one input."""

    def at(sign: int) -> Any:
        moved = [a + sign * step if i == place else a for i, a in enumerate(inputs)]
        return function(*moved)[0]

    return (at(1) - at(-1)) / 2


@pytest.mark.parametrize("task", DERIVED, ids=lambda task: task.name)
def test_gradients_by_hand_are_those_of_differences(task: tasks.Task) -> None:
    inputs = wide(task, GRADIENT)
    primals, g = (inputs[:-1], inputs[-1]) if task.cotangent else (inputs, 1.0)
    forward, gradient = by_numpy.TABLE[task.name]
    assert gradient is not None
    value, *slopes = gradient(*inputs)
    np.testing.assert_allclose(value, forward(*primals)[0], rtol=1e-12)
    for place, found in zip(task.wrt, slopes, strict=True):
        direction = np.random.default_rng(place).standard_normal(primals[place].shape)
        by_difference = np.sum(g * slope(forward, primals, place, 1e-6 * direction)) / 1e-6
        assert np.sum(found * direction) == pytest.approx(by_difference, rel=1e-5, abs=1e-6)


def test_greeks_by_hand_are_those_of_differences() -> None:
    inputs = wide(TASKS["Black-Scholes and Greeks"], GRADIENT)
    price, delta, years, rho, vega, gamma = by_numpy.black_scholes_greeks(*inputs)
    np.testing.assert_allclose(price, by_numpy.black_scholes(*inputs)[0], rtol=1e-12)
    for place, found in ((0, delta), (2, years), (3, rho), (4, vega)):
        by_difference = slope(by_numpy.black_scholes, inputs, place, np.float64(1e-5)) / 1e-5
        np.testing.assert_allclose(found, by_difference, rtol=1e-6, atol=1e-6)
    of_delta = slope(lambda *a: by_numpy.black_scholes_greeks(*a)[1:], inputs, 0, np.float64(1e-4))
    np.testing.assert_allclose(gamma, of_delta / 1e-4, rtol=1e-6, atol=1e-9)


def test_third_derivative_by_hand_is_that_of_differences() -> None:
    (x,), h = wide(TASKS["third derivative"], FORWARD), 1e-3
    f = lambda x: np.tanh(np.sin(x) * np.exp(-x * x))
    difference = (f(x + 2 * h) - 2 * f(x + h) + 2 * f(x - h) - f(x - 2 * h)) / (2 * h**3)
    np.testing.assert_allclose(by_numpy.third_derivative(x)[0], difference, rtol=1e-4, atol=1e-3)


def test_erf_without_scipy() -> None:
    x = np.concatenate([np.linspace(-9, 9, 999), [0.0, -0.0, 1e-30]])
    right = [math.erf(a) for a in x]
    np.testing.assert_allclose(by_numpy._table_erf(x), right, rtol=1e-11, atol=1e-15)
    narrow = by_numpy._tanh_erf(x.astype(np.float32))
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, right, rtol=1e-6)


@pytest.mark.parametrize("name", IN_PROCESS)
def test_engine_agrees_with_float64(name: str) -> None:
    """Every task in every mode, small. An engine may say that it has no such task; it may not be wrong."""
    engine = ENGINES[name]
    missing = engine.missing()
    if missing is not None:
        pytest.skip(missing)
    if name.startswith("native"):
        pytest.importorskip("llvmlite")
    references, done = race.References(), 0
    # What compiles takes long: there only gradients, which begin with the forward results.
    plain = name in ("naive", "numexpr", "c")
    for cell in CELLS:
        if cell.mode != TASKS[cell.task].modes[-1] and not plain:
            continue
        if name == "native-autograd" and cell.task not in THROUGH_AUTOGRAD:
            continue
        inputs = TASKS[cell.task].inputs(cell.shape, cell.mode)
        try:
            results = engine.build(cell.task, cell.mode, cell.size, inputs)()
        except Exception as error:
            if isinstance(error, Unsupported) or type(error).__module__ == "tgc.errors":
                continue
            raise
        results = results if isinstance(results, tuple | list) else (results,)
        digests = [tasks.digest(as_numpy(r)) for r in results]
        assert race.check(cell, digests, references.of(cell)) is None, cell.name
        done += 1
    least = {"native-autograd": len(THROUGH_AUTOGRAD), "numexpr": 9, "c": 30, "naive": len(CELLS)}
    assert done >= least.get(name, 17)


def test_c_source_compiles_without_calls_of_libm() -> None:
    if shutil.which("gcc") is None or shutil.which("nm") is None:
        pytest.skip("gcc and nm are not installed")
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", by_c.library()._name],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    called = {line.split()[-1].split("@")[0] for line in listed.splitlines()}
    assert not called & {"expf", "logf", "tanhf", "erff", "sinf", "cosf", "sincosf", "log1pf"}
    assert "GOMP_parallel" in called


# --- agreement ------------------------------------------------------------------------------------


def test_a_wrong_element_or_sum_is_seen() -> None:
    right = np.random.default_rng(0).standard_normal(3 * tasks.SAMPLE)
    wanted = tasks.digest(right)
    assert tasks.disagreement(tasks.digest(right.astype(np.float32)), wanted, 1e-6) is None
    assert "error" in str(tasks.disagreement(tasks.digest(right + 1e-3), wanted, 1e-5))
    half = right.copy()
    half[len(half) // 2 :] = 0
    assert "error" in str(tasks.disagreement(tasks.digest(half), wanted, 1e-5))
    one = right.copy()
    one[5] = 1e7  # perhaps not among the elements compared, but in the sums
    assert "error" in str(tasks.disagreement(tasks.digest(one), wanted, 1e-5))
    assert "shape" in str(tasks.disagreement(tasks.digest(right[:9]), wanted, 1e-5))
    one[:] = np.nan
    assert tasks.disagreement(tasks.digest(one), wanted, 1e-5) == "not finite"


def test_draws_are_judged_by_their_moments() -> None:
    drawn = np.random.default_rng(0).standard_normal((2, 10**5)).sum(0)
    assert tasks.wrong_draw(tasks.digest(drawn), drawn.size) is None
    assert "mean" in str(tasks.wrong_draw(tasks.digest(drawn + 0.1), drawn.size))
    assert "variance" in str(tasks.wrong_draw(tasks.digest(drawn * 0.9), drawn.size))


# --- processes ------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_reported_and_started_again(tmp_path: Path) -> None:
    cell = next(cell for cell in CELLS if cell.task == "add")
    worker = Worker("naive", 1, str(tmp_path))
    try:
        worker.ask("version")
        assert worker.process is not None
        worker.process.kill()
        worker.process.wait()
        (row,) = race.run(cell, [worker], race.References(), 0.0)
        assert str(row.refused).startswith("crashed")
        (row,) = race.run(cell, [worker], race.References(), 0.0)
        assert row.refused is None and len(row.seconds) >= race.LEAST_ROUNDS
    finally:
        worker.stop()


def test_suite_runs_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, figure = tmp_path / "out.json", tmp_path / "out.png"
    options = [
        "--quick",
        "--only",
        "swiglu",
        "--engines",
        "numpy,naive,numexpr",
        "--minutes",
        "0.1",
    ]
    pytest.importorskip("matplotlib")
    assert main(["--suite", "cpu", *options, "--json", str(path), "--plot", str(figure)]) == 0
    document = json.loads(path.read_text(encoding="utf-8"))
    assert {"device", "versions", "commit", "threads"} <= set(document["environment"])
    assert {row["workload"] for row in document["rows"]} == {"swiglu"}
    ours = [row for row in document["rows"] if row["candidate"] == "numpy"]
    assert len(ours) == 2 and all(row["times_faster_than"]["naive"] > 0 for row in ours)
    assert document["geometric_means"]["numpy against naive"]["all"] > 0
    assert any(line["passed"] is None for line in document["acceptance"])
    assert "swiglu, gradient" in capsys.readouterr().out
    assert figure.stat().st_size > 10_000


def test_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(SystemExit, match="there are native"):
        main(["cpu", "--engines", "nativ"])


# --- the verdict ----------------------------------------------------------------------------------


def rows_of(**medians: tuple[float, ...]) -> list[Row]:
    """Rows of made-up times, one cell for each place; None is a refusal."""
    names = [("add", "1e3", 10**3), ("huber", "1e7", 10**7), ("add", "1e8", 10**8)]
    return [
        Row(
            Cell(task, FORWARD, size, (n,)),
            engine,
            (time,) * 3 if time else (),
            refused=None if time else "no",
        )
        for engine, times in medians.items()
        for (task, size, n), time in zip(names, times)
    ]


def line_of(lines: list[verdict.Line], start: str) -> verdict.Line:
    (found,) = [line for line in lines if line.text.startswith(start)]
    return found


def test_means_are_geometric_and_the_worst_cell_is_named() -> None:
    lines = verdict.race_lines(rows_of(native=(1, 1, 1), torch=(8, 1, 3.375), c=(0.1, 1, 0.64)))
    mean = line_of(lines, "native against torch eager as shipped, geometric")
    assert mean.figure == pytest.approx(3.0) and mean.passed and mean.detail == "3 cells"
    worst = line_of(lines, "native against torch eager as shipped, worst")
    assert worst.figure == 1 and worst.passed and worst.detail.startswith("huber, forward, 1e7")
    c = line_of(lines, "native against C, large sizes, geometric")  # 1e3 is not large
    assert c.figure == pytest.approx(0.8) and c.passed is False
    assert line_of(lines, "native against C, large sizes, worst").passed
    assert line_of(lines, "native against jax").passed is None


def test_a_refused_cell_fails_its_line_and_leaves_the_ratios() -> None:
    rows = rows_of(native=(1, 0, 1), torch=(4, 1, 4))
    assert line_of(verdict.race_lines(rows), "native, cells without").figure == 1
    assert verdict.means(rows, ("native",))["native against torch"]["all"] == pytest.approx(4)


def test_probes_are_held_to_their_limits() -> None:
    memory = {"peak": 90, "allowed": 100}
    lines = verdict.probe_lines(
        {
            "calls": {
                "native": {
                    "arrays": 2e-6,
                    "tensors": 7e-6,
                    "torch": 9e-6,
                    "against torch": {"gelu tanh": 2},
                },
                "numpy": {"refused": "no answer"},
            },
            "cold": {"native": {"seconds": 0.15}, "numpy": {"refused": "no"}},
            "memory": {"native": {"swiglu": memory, "softmax": memory | {"peak": 120}}},
        }
    )
    assert line_of(lines, "native, a call on arrays").passed
    tensors = line_of(lines, "native, a call on tensors")
    assert tensors.passed is False and tensors.detail == "torch: 9"
    assert line_of(lines, "numpy, a call on tensors").detail == "no answer"
    assert line_of(lines, "native, gelu tanh").passed
    assert line_of(lines, "native, cold").figure == pytest.approx(150)
    assert line_of(lines, "numpy, cold").passed is None
    peak = line_of(lines, "native, peak memory")
    assert peak.figure == pytest.approx(1.2) and peak.detail == "softmax" and not peak.passed


def test_scaling_compares_elements_not_calls() -> None:
    cells = [Cell("add", FORWARD, str(n), (n,)) for n in (10**7, 10**8)]
    rows = [Row(cell, "native", (cell.elements * t,)) for cell, t in zip(cells, (1.0, 1.3))]
    line = verdict.scaling_line(verdict.Ratios(rows), "native")
    assert line.figure == pytest.approx(1.3) and line.passed is False


def test_a_probe_that_fails_says_why() -> None:
    assert "no-such" in probe._asked(["no-such-command", "numpy"], {})["refused"]
    assert probe.median_of([{"seconds": 3}, {"seconds": 1}, {"seconds": 2}])["seconds"] == 2
    assert probe.median_of([{"seconds": 3}, {"refused": "no"}]) == {"refused": "no"}


def test_a_figure_of_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot.draw([], {}, tmp_path / "empty.png")
    assert (tmp_path / "empty.png").exists()
