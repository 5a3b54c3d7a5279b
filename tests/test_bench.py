"""The measuring itself: order of samples, refusal of wrong answers, and one quick run of each suite."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import tgc
from bench import measure, report
from bench.__main__ import main
from bench.measure import Candidate, Timing, Workload
from bench.suites import SUITES


def always(name: str, value: float) -> Candidate:
    return Candidate(name, lambda: value, lambda: value)


def test_samples_are_interleaved_and_each_round_starts_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "SAMPLE_SECONDS", 0.0)
    candidates = [always("a", 1), always("b", 1), always("c", 1)]
    samples = measure.interleave(
        candidates, rounds=3, budget=math.inf, clock=lambda run, count: 1.0
    )
    assert [name for name, _, _ in samples] == list("abc" + "bca" + "cab")


def test_short_calls_are_repeated_until_a_sample_is_long_enough() -> None:
    assert measure.calls_per_sample(lambda: None, lambda run, count: 1e-5) == 200
    assert measure.calls_per_sample(lambda: None, lambda run, count: 1.0) == 1


def test_a_wrong_answer_is_not_timed() -> None:
    workload = Workload("two", lambda: [always("right", 2.0), always("wrong", 2.1)])
    with pytest.raises(AssertionError, match="two: wrong"):
        measure.measure(workload, device="cpu", rounds=3, budget=1, bandwidth=1e9)


def test_a_refusal_is_recorded_with_its_reason() -> None:
    def refuse() -> None:
        raise tgc.errors.UnsupportedOpError("in place is not built")

    workload = Workload("w", lambda: [always("plain", 1.0), Candidate("tgc", refuse, refuse)])
    plain, refused = measure.measure(workload, device="cpu", rounds=3, budget=1, bandwidth=1e9)
    assert plain.refused is None and plain.median > 0
    assert refused.refused == "in place is not built" and not refused.seconds
    row = json.loads(report.to_json("s", {}, [refused]))["rows"][0]
    assert row == {"workload": "w", "candidate": "tgc", "refused": "in place is not built"}


def test_ratio_above_one_is_faster() -> None:
    timing = Timing("w", "tgc", seconds=(1.0, 2.0, 3.0), ratios={"numpy": 4.0, "tgc, other": 9.0})
    assert report.cells(timing)[-1] == "numpy 4.00x"
    assert timing.median == 2.0 and timing.best == 1.0


def test_peak_memory_sees_a_temporary() -> None:
    megabytes = 64
    seen = measure.peak_bytes(lambda: np.ones(megabytes << 17), "cpu")
    if seen is None:
        pytest.skip("only Linux can reset the high-water mark")
    assert 0.9 < seen / (megabytes << 20) < 1.5


@pytest.mark.parametrize("seconds", [2.5, 2.5e-3, 2.5e-6, 2.5e-9])
def test_durations_have_units(seconds: float) -> None:
    number, unit = report.duration(seconds).split()
    assert float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit] == pytest.approx(
        seconds
    )


@pytest.mark.parametrize(
    ("suite", "rich"), [*((suite, True) for suite in SUITES), ("calls", False)]
)
def test_suite_runs(
    suite: str,
    rich: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every workload, small, once: answers agree, and the JSON has what a figure needs beside it.

    The reports are the same code for all suites: one does for those without extras.
    """
    if not rich:
        monkeypatch.setattr(report, "installed", lambda package: package == "torch")
    monkeypatch.setattr(measure, "COPY_BYTES", 1 << 20)
    monkeypatch.setattr(measure, "SAMPLE_SECONDS", 0.0)
    path = tmp_path / "out.json"
    assert main([suite, "--quick", "--rounds", "1", "--json", str(path)]) == 0
    document = json.loads(path.read_text(encoding="utf-8"))
    assert {"device", "versions", "commit", "copy_bytes_per_s"} <= set(document["environment"])
    rows = document["rows"]
    names = {row["workload"] for row in rows}
    shown = capsys.readouterr().out
    for name in names:
        assert name.split(",")[0] in shown
        ours = [
            row for row in rows if row["workload"] == name and row["candidate"].startswith("tgc")
        ]
        assert ours and all(row.get("median_s", 1) > 0 for row in ours)
        if "add_" not in name:
            assert not any("refused" in row for row in ours)


def test_unknown_suite_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sedes"])
    assert "there are seeds" in capsys.readouterr().err
