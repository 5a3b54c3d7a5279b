"""One figure of the CPU suite: ratios by workload and size, cold compilations, and how the time of an add grows."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.cpu.race import Row
from bench.cpu.verdict import Ratios
from bench.report import installed


def draw(rows: Sequence[Row], cold: Mapping[str, Any], path: Path) -> None:
    """Write the figure.

    Raises:
        SystemExit: where matplotlib is not installed.
    """
    if not installed("matplotlib"):
        raise SystemExit("bench: --plot needs matplotlib: pip install 'tgc[bench]'")
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    ratios = Ratios(rows)
    ours = next(
        (e for e in ("native", "numpy") if any(e in t for t in ratios.medians.values())), None
    )
    names = list(dict.fromkeys(f"{row.cell.task}, {row.cell.mode}" for row in rows))
    figure = pyplot.figure(figsize=(13, 3 + 0.28 * max(8, len(names))), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.7, 1))
    axes = left.subplots()
    if ours is not None:
        _ratios(axes, ratios, ours, names)
    top, bottom = right.subplots(2)
    _cold(top, cold)
    _scaling(bottom, ratios)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _colour(ratios: Ratios, engine: str) -> str:
    """An engine's colour, the same in every part."""
    engines = list(dict.fromkeys(e for times in ratios.medians.values() for e in times))
    return f"C{engines.index(engine)}" if engines.index(engine) < 10 else "black"


def _ratios(axes: Any, ratios: Ratios, ours: str, names: Sequence[str]) -> None:
    """A dot for each cell and engine, larger for larger sizes."""
    others = [e for e in dict.fromkeys(e for t in ratios.medians.values() for e in t) if e != ours]
    for number, other in enumerate(others):
        pairs = ratios.between(ours, other)
        if not pairs:
            continue
        offset = 0.7 * (number / max(1, len(others) - 1) - 0.5) if len(others) > 1 else 0.0
        axes.scatter(
            list(pairs.values()),
            [names.index(f"{cell.task}, {cell.mode}") + offset for cell in pairs],
            s=[3 * max(1, len(str(cell.elements)) - 2) ** 1.3 for cell in pairs],
            label=other,
            color=_colour(ratios, other),
            alpha=0.8,
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(f"time over that of tgc {ours}; larger dots are larger sizes")
    axes.legend(fontsize=7, loc="lower right")


def _cold(axes: Any, cold: Mapping[str, Any]) -> None:
    found = {name: answer["seconds"] for name, answer in cold.items() if "seconds" in answer}
    axes.set_title("cold compilation, gelu and its gradient", fontsize=9)
    if not found:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        return
    bars = axes.barh(list(found), list(found.values()))
    texts = [f" {t:.1f} s" if t >= 1 else f" {t * 1e3:.3g} ms" for t in found.values()]
    axes.bar_label(bars, texts, fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.3)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")


def _scaling(axes: Any, ratios: Ratios) -> None:
    series: dict[str, list[tuple[int, float]]] = {}
    for cell, times in ratios.medians.items():
        if cell.task == "add":
            for engine, seconds in times.items():
                series.setdefault(engine, []).append((cell.elements, seconds / cell.elements * 1e9))
    axes.set_title("add", fontsize=9)
    if not series:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        return
    for engine, points in series.items():
        axes.plot(
            *zip(*sorted(p for p in points if p[0] >= 10**5 or len(points) < 3)),
            "o-",
            label=engine,
            color=_colour(ratios, engine),
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("elements")
    axes.set_ylabel("ns an element")
    axes.legend(fontsize=7)
