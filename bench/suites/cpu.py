"""The compiler's CPU engines against numpy, torch, torch.compile, jax, numexpr and C: `python -m bench cpu`.

Every engine runs in a process of its own and takes its turn, round by round (bench/cpu/race.py), after its results were
found to agree with float64; there are more rounds where medians are less certain. Single calls, cold compilations and
peak memory are asked of fresh processes (bench/cpu/probe.py). What the engines are held to is printed at the end
(bench/cpu/verdict.py) and stands in the JSON.

torch.compile is timed on one task of each kind: a compilation takes 10 s and more, and all of them would take an hour.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import measure, report
from bench.cpu import plot, probe, verdict
from bench.cpu.engines import ENGINES
from bench.cpu.race import Cell, Crashed, References, Row, Worker, cells, run
from bench.cpu.tasks import FORWARD, GRADIENT, TASKS

OUT = Path(__file__).parents[1] / "out"
BACKENDS = ("native", "numpy")
MINUTES = 25.0
# How much of the time a cell gets, by its size: a large one needs it to have three rounds at all.
WEIGHTS = ((10**8, 8.0), (4 * 10**6, 4.0), (10**6, 2.0), (0, 1.0))
MOST_SECONDS = 15.0  # of a cell's rounds
SAMPLING = 0.6  # of a cell's time; the rest is for preparing it


def main(arguments: Sequence[str]) -> int:
    """Run the suite, or the parts asked for; 0 unless a result was wrong or an engine crashed."""
    options = parser().parse_args(arguments)
    present, absent = chosen_engines(options.engines)
    modes = (FORWARD, GRADIENT) if options.mode is None else (options.mode,)
    todo = cells(options.only, options.sizes, modes, quick=options.quick)
    if options.parts is not None and "race" not in options.parts:
        todo = []
    started = time.perf_counter()
    probes = ask_probes(options.parts, present, todo, quick=options.quick)
    left = 60 * options.minutes - (time.perf_counter() - started)
    rows, versions = race(todo, present, options.threads, left, quick=options.quick)
    lines = [*verdict.race_lines(rows), *verdict.probe_lines(probes)]
    facts = measure.environment("cpu") | {
        "threads": options.threads,
        "quick": options.quick,
        "seconds": time.perf_counter() - started,
    }
    path = options.json or OUT / "cpu-cpu.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(facts, versions | absent, rows, probes, lines), encoding="utf-8")
    show(rows)
    for line in lines:
        print(line)
    print(f"written to {path} after {facts['seconds']:.0f} s")
    if options.plot:
        plot.draw(rows, probes.get("cold", {}), options.plot)
    bad = ("wrong:", "crashed:", "failed:")
    return 1 if any(row.refused and row.refused.startswith(bad) for row in rows) else 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    top = argparse.ArgumentParser(prog="python -m bench cpu", description=__doc__.splitlines()[0])
    names = lambda text: tuple(part for part in text.split(",") if part)
    top.add_argument("--only", metavar="TEXT", help="only workloads whose name contains this")
    top.add_argument("--sizes", type=names, metavar="A,B", help="for example 1e5,1e7,4096x1024")
    top.add_argument(
        "--engines", type=names, metavar="A,B", help=f"any of {', '.join(ENGINES)}; default: all"
    )
    top.add_argument("--mode", choices=(FORWARD, GRADIENT), help="default: both")
    top.add_argument(
        "--parts", type=names, metavar="A,B", help="any of race, calls, cold, memory; default: all"
    )
    top.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"what all may take (default {MINUTES:.0f})"
    )
    top.add_argument("--threads", type=int, default=measure.cores(), help="default: all cores")
    top.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all")
    top.add_argument("--json", type=Path, metavar="PATH", help="default: bench/out/cpu-cpu.json")
    top.add_argument("--plot", type=Path, metavar="PATH", help="also draw ratios and scaling")
    return top


def chosen_engines(names: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """Engines that can run, and those that cannot with the reason.

    Raises:
        SystemExit: for a name there is not.
    """
    unknown = [name for name in names or () if name not in ENGINES]
    if unknown:
        raise SystemExit(f"bench: no engine {', '.join(unknown)}; there are {', '.join(ENGINES)}")
    present, absent = [], {}
    for name in names or ENGINES:
        missing = ENGINES[name].missing()
        if missing is None:
            present.append(name)
        else:
            absent[name] = f"absent: {missing}"
    return present, absent


def ask_probes(
    parts: Sequence[str] | None, present: Sequence[str], todo: Sequence[Cell], *, quick: bool
) -> dict[str, Any]:
    """What fresh processes say: if asked for by name, or when everything is run."""
    whole = (
        parts is None and not quick and len(todo) >= len(cells(None, None, (FORWARD,), quick=False))
    )
    wanted = ("calls", "cold", "memory") if whole else (parts or ())
    backends = [backend for backend in BACKENDS if backend in present]
    asks = {
        "calls": lambda: probe.ask_calls(backends),
        "cold": lambda: probe.ask_cold(backends, with_torch="compile" in present),
        "memory": lambda: probe.ask_memory(backends),
    }
    chosen = [name for name in asks if name in wanted]
    return {name: asks[name]() for name in report.progress(chosen, "probes")} if chosen else {}


def race(
    todo: Sequence[Cell], present: Sequence[str], threads: int, seconds: float, *, quick: bool
) -> tuple[list[Row], dict[str, str]]:
    """Every cell on every engine within about `seconds`, and the versions behind the engines."""
    rows: list[Row] = []
    versions: dict[str, str] = {}
    references = References()
    deadline = time.perf_counter() + seconds
    weights = [next(w for least, w in WEIGHTS if cell.elements >= least) for cell in todo]
    with tempfile.TemporaryDirectory() as folder:
        workers = [Worker(name, threads, folder) for name in present]
        try:
            if todo:
                versions = ask_versions(workers)
            for number, cell in enumerate(report.progress(todo, "cells")):
                left = max(0.0, deadline - time.perf_counter())
                budget = SAMPLING * left * weights[number] / sum(weights[number:])
                rows += run(cell, workers, references, 0.0 if quick else min(budget, MOST_SECONDS))
        finally:
            for worker in workers:
                worker.stop()
    return rows, versions


def ask_versions(workers: Sequence[Worker]) -> dict[str, str]:
    """The library behind each engine; engines start side by side."""
    found = {}
    asked = []
    for worker in workers:
        try:
            worker.send("version")
            asked.append(worker)
        except Crashed as error:
            found[worker.engine] = f"crashed: {error}"
    for worker in asked:
        try:
            found[worker.engine] = worker.receive()
        except Crashed as error:
            found[worker.engine] = f"crashed: {error}"
    return found


def document(
    facts: dict[str, Any],
    engines: dict[str, str],
    rows: Sequence[Row],
    probes: dict[str, Any],
    lines: Sequence[verdict.Line],
) -> str:
    """Everything that was measured, as JSON; seconds and bytes throughout."""
    medians = verdict.Ratios(rows).medians
    described = [
        row.document(
            {name: t for name, t in medians.get(row.cell, {}).items() if name != row.engine}
        )
        for row in rows
    ]
    whole = {
        "suite": "cpu",
        "environment": facts,
        "engines": engines,
        "tolerances": {task.name: task.rtol for task in TASKS.values()},
        "rows": described,
        "geometric_means": verdict.means(rows, BACKENDS),
        "probes": probes,
        "acceptance": [line.document() for line in lines],
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def show(rows: Sequence[Row]) -> None:
    """A line for each cell: nanoseconds an element by each engine; refusals are listed after."""
    if not rows:
        return
    names = list(dict.fromkeys(row.engine for row in rows))
    width = max(len(row.cell.name) for row in rows)
    print(" " * width, *(f"{name[:9]:>9}" for name in names), " (ns an element)")
    for cell in dict.fromkeys(row.cell for row in rows):
        own = {row.engine: row for row in rows if row.cell == cell}
        each = [
            f"{own[name].median / cell.elements * 1e9:9.3g}" if own[name].seconds else f"{'-':>9}"
            for name in names
        ]
        print(f"{cell.name:{width}}", *each)
    refusals: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.refused is not None:
            key = row.engine, row.refused
            refusals[key] = refusals.get(key, 0) + 1
    for (engine, why), count in refusals.items():
        print(f"{engine}, {count} cells: {why}")
