"""Run suites: `python -m bench seeds [--quick] [--device cuda] [--json PATH] [--plot PATH]`.

Each suite's table goes to standard output and its JSON to bench/out/ unless a path is given. Figures that are quoted
anywhere are JSON files under bench/results, made by this command. `python -m bench cpu --help`: that suite has options
of its own.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import measure, report
from bench.suites import PROCESS_SUITES, SUITES

OUT = Path(__file__).parent / "out"


def parser() -> argparse.ArgumentParser:
    """The options, with the suites there are."""
    known = "; ".join(f"{name}: {what}" for name, what in (SUITES | PROCESS_SUITES).items())
    top = argparse.ArgumentParser(prog="python -m bench", description=f"Suites: {known}.")
    together, alone = ", ".join(SUITES), ", ".join(PROCESS_SUITES)
    top.add_argument(
        "suites", nargs="*", metavar="suite", help=f"{alone} alone, or any of {together} (default)"
    )
    top.add_argument(
        "--quick", action="store_true", help="small sizes and few rounds: does it run at all"
    )
    top.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    top.add_argument(
        "--rounds", type=int, default=15, help="samples of each candidate (default 15)"
    )
    top.add_argument(
        "--seconds", type=float, default=30, help="stop a workload after this, once it has 3 rounds"
    )
    top.add_argument("--only", metavar="TEXT", help="only workloads whose name contains this")
    top.add_argument(
        "--json", type=Path, metavar="PATH", help="default: bench/out/SUITE-DEVICE.json"
    )
    top.add_argument("--plot", type=Path, metavar="PATH", help="also draw the medians")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the suites asked for; 0 unless an answer was wrong."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--suite"]:
        del given[0]
    if given and given[0] in PROCESS_SUITES:
        suite = importlib.import_module(f"bench.suites.{given[0]}")
        return int(suite.main(given[1:]))
    top = parser()
    options = top.parse_args(given)
    names = options.suites or list(SUITES)
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        top.error(f"no suite {', '.join(unknown)}; there are {', '.join(SUITES)}, and cpu alone")
    if len(names) > 1 and (options.json or options.plot):
        top.error("--json and --plot take one suite at a time")
    if options.device == "cuda" and not cuda_is_there():
        top.error("--device cuda needs torch and a GPU it can use")
    rounds = min(options.rounds, 3) if options.quick else options.rounds
    bandwidth = measure.copy_bandwidth(options.device)
    failed = False
    for name in names:
        suite = importlib.import_module(f"bench.suites.{name}")
        chosen = [
            workload
            for workload in suite.workloads(options.device, quick=options.quick)
            if options.only is None or options.only in workload.name
        ]
        timings = []
        for workload in report.progress(chosen, name):
            try:
                timings += measure.measure(
                    workload,
                    device=options.device,
                    rounds=rounds,
                    budget=options.seconds,
                    bandwidth=bandwidth,
                )
            except AssertionError as error:
                failed = True
                print(f"bench: wrong answer, not timed: {error}", file=sys.stderr)
        report.show(timings)
        facts = measure.environment(options.device)
        facts["copy_bytes_per_s"] = bandwidth
        facts["quick"] = options.quick
        path = options.json or OUT / f"{name}-{options.device}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(report.to_json(name, facts, timings), encoding="utf-8")
        print(f"copy bandwidth {bandwidth / 1e9:.1f} GB/s; written to {path}")
        if options.plot:
            report.plot(timings, options.plot)
    return 1 if failed else 0


def cuda_is_there() -> bool:
    """Whether torch is installed and sees a GPU."""
    if not report.installed("torch"):
        return False
    return bool(importlib.import_module("torch").cuda.is_available())


if __name__ == "__main__":
    sys.exit(main())
