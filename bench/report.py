"""What becomes of timings: a table on the terminal, a JSON file with device, versions and commit, a plot."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.measure import Timing

T = TypeVar("T")

HEADER = ("", "median", "spread", "of copy", "peak", "speed against")
MEGABYTE = 1e6  # below this, the high-water mark of a process says nothing


def installed(package: str) -> bool:
    """Whether an optional package is there."""
    return importlib.util.find_spec(package) is not None


def progress(items: Sequence[T], label: str) -> Iterable[T]:
    """The items, with a progress bar on standard error: tqdm's if it is installed, else a line each."""
    if installed("tqdm"):
        tqdm = importlib.import_module("tqdm").tqdm
        yield from tqdm(items, desc=label, unit="workload", file=sys.stderr)
        return
    for number, item in enumerate(items, 1):
        name = getattr(item, "name", item)
        print(f"{label} {number}/{len(items)}: {name}", file=sys.stderr, flush=True)
        yield item


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def cells(timing: Timing) -> tuple[str, ...]:
    """One row of the table. Ratios are other candidates' times over this one's: above 1, this one is faster."""
    name = f"  {timing.candidate}"
    if timing.refused is not None:
        return (name, "refused", "", "", "", timing.refused)
    fraction = "" if timing.copy_fraction is None else f"{timing.copy_fraction:.0%}"
    peak = ""
    if timing.peak_bytes is not None:
        peak = (
            f"{timing.peak_bytes / MEGABYTE:.0f} MB" if timing.peak_bytes > MEGABYTE else "< 1 MB"
        )
    ratio = ""
    if timing.candidate.startswith("tgc"):
        others = ((n, r) for n, r in timing.ratios.items() if not n.startswith("tgc"))
        ratio = ", ".join(f"{other} {ratio:.2f}x" for other, ratio in others)
    return (name, duration(timing.median), f"±{timing.spread / 2:.0%}", fraction, peak, ratio)


def show(timings: Sequence[Timing]) -> None:
    """Print a table for each workload, columns aligned over all: by rich if it is installed, else plain."""
    rows = [(timing.workload, cells(timing)) for timing in timings]
    widths = [
        max(len(row[i]) for row in (HEADER, *(r for _, r in rows))) for i in range(len(HEADER))
    ]
    grouped = {name: [row for n, row in rows if n == name] for name, _ in rows}
    if installed("rich"):
        console = importlib.import_module("rich.console").Console()
        make = importlib.import_module("rich.table").Table
        for name, group in grouped.items():
            table = make(title=name, title_justify="left", title_style="bold", box=None)
            for title, width in zip(HEADER, widths):
                table.add_column(title, min_width=width if title != HEADER[-1] else None)
            for row in group:
                table.add_row(*row)
            console.print(table)
        return
    for name, group in grouped.items():
        print(name)
        for row in (HEADER, *group):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def to_json(suite: str, environment: dict[str, Any], timings: Sequence[Timing]) -> str:
    """One document: where it was measured, then a row for each candidate; seconds and bytes throughout."""
    rows = []
    for timing in timings:
        row: dict[str, Any] = {"workload": timing.workload, "candidate": timing.candidate}
        if timing.refused is not None:
            row["refused"] = timing.refused
        else:
            row |= {
                "median_s": timing.median,
                "best_s": timing.best,
                "samples_s": list(timing.seconds),
                "calls_per_sample": timing.calls_per_sample,
                "peak_bytes": timing.peak_bytes,
                "fraction_of_copy_bandwidth": timing.copy_fraction,
                "times_faster_than": dict(timing.ratios),
            }
        rows.append(row)
    document = {"suite": suite, "environment": environment, "rows": rows}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def plot(timings: Sequence[Timing], path: Path) -> None:
    """Bars of each candidate's median, one group per workload, on a logarithmic axis.

    Raises:
        SystemExit: where matplotlib is not installed.
    """
    if not installed("matplotlib"):
        raise SystemExit("bench: --plot needs matplotlib: pip install 'tgc[bench]'")
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    timed = [timing for timing in timings if timing.refused is None]
    workloads = list(dict.fromkeys(timing.workload for timing in timed))
    names = list(dict.fromkeys(timing.candidate for timing in timed))
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.28 * len(timed)))
    height = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        own = [timing for timing in timed if timing.candidate == name]
        places = [workloads.index(timing.workload) + number * height for timing in own]
        axes.barh(places, [timing.median for timing in own], height=height, label=name)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(workloads))], workloads)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("seconds a call, median")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
