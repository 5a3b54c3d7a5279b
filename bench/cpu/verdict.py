"""The lines the CPU engines are held to, each computed from what was measured: a figure, a limit, and pass or fail.

A line whose figure was not measured neither passes nor fails. Ratios are the other engine's time over ours, so above 1
ours is faster; a mean is geometric, over every cell in which both engines have a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.cpu.race import Cell, Row
from bench.cpu.tasks import LARGE

MICRO, MILLI = 1e-6, 1e-3
SCRATCH = 4 << 20  # bytes a thread may use besides inputs and outputs


@dataclass(frozen=True)
class Line:
    """One demand. `sense` is ">=" or "<="; `figure` is None where nothing was measured."""

    text: str
    figure: float | None
    sense: str
    limit: float
    detail: str = ""

    @property
    def passed(self) -> bool | None:
        if self.figure is None:
            return None
        return self.figure >= self.limit if self.sense == ">=" else self.figure <= self.limit

    def __str__(self) -> str:
        verdict = {True: "PASS", False: "FAIL", None: "----"}[self.passed]
        figure = "not measured" if self.figure is None else f"{self.figure:.3g}"
        detail = f"  ({self.detail})" if self.detail else ""
        return f"{verdict}  {self.text}: {figure}, limit {self.sense} {self.limit:g}{detail}"

    def document(self) -> dict[str, Any]:
        """The line as JSON."""
        return {
            "line": self.text,
            "figure": self.figure,
            "limit": f"{self.sense} {self.limit:g}",
            "passed": self.passed,
            "detail": self.detail,
        }


def geometric_mean(values: Iterable[float]) -> float | None:
    """None for no values."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


class Ratios:
    """Medians by cell and engine."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.medians: dict[Cell, dict[str, float]] = {}
        self.refused: dict[str, list[Row]] = {}
        for row in rows:
            if row.refused is None:
                self.medians.setdefault(row.cell, {})[row.engine] = row.median
            else:
                self.refused.setdefault(row.engine, []).append(row)

    def between(
        self, ours: str, other: str, keep: Callable[[Cell], bool] = lambda cell: True
    ) -> dict[Cell, float]:
        """The other's time over ours, in each cell kept that has both."""
        return {
            cell: times[other] / times[ours]
            for cell, times in self.medians.items()
            if ours in times and other in times and keep(cell)
        }

    def mean_line(
        self, ours: str, other: str, limit: float, *, large: bool = False, called: str = ""
    ) -> Line:
        """The geometric mean against an engine."""
        ratios = self.between(ours, other, is_large if large else lambda cell: True)
        text = f"{ours} against {called or other}{', large sizes' if large else ''}, geometric mean"
        return Line(text, geometric_mean(ratios.values()), ">=", limit, f"{len(ratios)} cells")

    def worst_line(
        self, ours: str, other: str, limit: float, *, large: bool = False, called: str = ""
    ) -> Line:
        """The worst cell against an engine."""
        ratios = self.between(ours, other, is_large if large else lambda cell: True)
        text = f"{ours} against {called or other}{', large sizes' if large else ''}, worst cell"
        if not ratios:
            return Line(text, None, ">=", limit)
        below = sum(ratio < limit for ratio in ratios.values())
        worst = min(ratios, key=lambda cell: ratios[cell])
        return Line(text, ratios[worst], ">=", limit, f"{worst.name}; {below} cells below")


def is_large(cell: Cell) -> bool:
    """Whether a cell is at 1e7 elements, or rows as many."""
    return cell.elements >= LARGE


def race_lines(rows: Sequence[Row]) -> list[Line]:
    """What the interleaved medians are held to."""
    ratios = Ratios(rows)
    lines = []
    for engine in ("native", "numpy"):
        known = [row for row in rows if row.engine == engine]
        refused = ratios.refused.get(engine, [])
        detail = "; ".join(f"{row.cell.name}: {row.refused}" for row in refused[:2])
        count = float(len(refused)) if known else None
        lines.append(Line(f"{engine}, cells without a time", count, "<=", 0, detail[:200]))
    return [
        *lines,
        ratios.mean_line("native", "torch", 3, called="torch eager as shipped"),
        ratios.mean_line("native", "compile", 2.5, called="torch.compile as shipped"),
        ratios.mean_line("native", "torch-warm", 1.5, called="torch eager, warm allocator"),
        ratios.mean_line("native", "compile-warm", 1.5, called="torch.compile, warm allocator"),
        ratios.mean_line("native", "jax", 4),
        ratios.mean_line("native", "numexpr", 4),
        ratios.mean_line("native", "c", 0.9, large=True, called="C"),
        ratios.worst_line("native", "c", 0.6, large=True, called="C"),
        ratios.worst_line("native", "torch", 1, called="torch eager as shipped"),
        ratios.mean_line("numpy", "torch", 1.5, large=True, called="torch eager as shipped"),
        ratios.mean_line("numpy", "naive", 4, large=True, called="naive numpy"),
        ratios.worst_line("numpy", "naive", 0.9, called="naive numpy"),
        *(scaling_line(ratios, engine) for engine in ("native", "numpy")),
    ]


def scaling_line(ratios: Ratios, engine: str) -> Line:
    """How much dearer an element of `add` may become from 1e7 to 1e8: both are far beyond the caches."""
    each = {
        cell.elements: times[engine] / cell.elements * 1e9
        for cell, times in ratios.medians.items()
        if cell.task == "add" and engine in times
    }
    figure = each[10**8] / each[10**7] if {10**7, 10**8} <= each.keys() else None
    detail = ", ".join(f"{n:.0e}: {ns:.3g} ns" for n, ns in sorted(each.items()) if n >= 10**5)
    return Line(f"{engine}, time an element at 1e8 over 1e7, add", figure, "<=", 1.25, detail)


def probe_lines(probes: Mapping[str, Any]) -> list[Line]:
    """What single calls, cold compilations and memory are held to. `probes` as bench.cpu.probe gives them."""
    lines = []
    for backend in ("native", "numpy"):
        calls = probes.get("calls", {}).get(backend, {})

        def micro(name: str, found: Mapping[str, Any] = calls) -> float | None:
            return found[name] / MICRO if name in found else None

        why = calls.get("refused", "")

        def beside(other: str, found: Mapping[str, Any] = calls, why: str = why) -> str:
            """The same call by another engine at the same time: how fast the processor then was."""
            return f"{other}: {found[other] / MICRO:.3g}" if other in found else why

        lines += [
            Line(f"{backend}, a call on arrays, µs", micro("arrays"), "<=", 2.5, beside("numpy")),
            Line(f"{backend}, a call on tensors, µs", micro("tensors"), "<=", 6, beside("torch")),
            Line(f"{backend}, autograd beyond an empty Function, µs", micro("autograd"), "<=", 20),
        ]
        for task in ("BCE with logits", "gelu tanh"):
            figure = calls.get("against torch", {}).get(task)
            text = f"{backend}, {task} and gradient of 16 elements against the same text in torch eager"
            lines.append(Line(text, figure, ">=", 1))
    cold = probes.get("cold", {})
    for name, limit in (
        ("numpy", 100),
        ("native", 200),
        ("numpy, cached", 20),
        ("native, cached", 20),
    ):
        found = cold.get(name, {})
        figure = found["seconds"] / MILLI if "seconds" in found else None
        lines.append(
            Line(f"{name}, cold compilation, ms", figure, "<=", limit, found.get("refused", ""))
        )
    for backend in ("native", "numpy"):
        found = probes.get("memory", {}).get(backend, {})
        shares = {task: m["peak"] / m["allowed"] for task, m in found.items() if "peak" in m}
        worst = max(shares, key=lambda task: shares[task], default=None)
        lines.append(
            Line(
                f"{backend}, peak memory over inputs, outputs and 4 MB a thread",
                None if worst is None else shares[worst],
                "<=",
                1,
                worst or "",
            )
        )
    return lines


def means(rows: Sequence[Row], ours: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Geometric means of each of our engines against each other engine: over all, by size class and by mode."""
    ratios = Ratios(rows)
    found: dict[str, dict[str, Any]] = {}
    others = dict.fromkeys(row.engine for row in rows)
    for engine in ours:
        for other in others:
            pairs = ratios.between(engine, other)
            if other == engine or not pairs:
                continue
            groups: dict[str, list[float]] = {"all": list(pairs.values())}
            for cell, ratio in pairs.items():
                groups.setdefault(f"{cell.elements:.0e} elements", []).append(ratio)
                groups.setdefault(cell.mode, []).append(ratio)
            found[f"{engine} against {other}"] = {
                name: geometric_mean(values) for name, values in groups.items()
            }
    return found
