"""Taking turns across processes: every engine of a cell samples once a round, each round from another start.

A cell is a task in one mode at one size. Its engines prepare side by side; then only one runs at a time. An engine
that crashes or hangs is reported and started again for the next cell.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.cpu import by_numpy, engines
from bench.cpu.tasks import (
    FORWARD,
    GRADIENT,
    QUICK,
    TASKS,
    Shape,
    digest,
    disagreement,
    wrong_draw,
)

PREPARE_SECONDS = 240.0  # the longest compilation waited for
HUGE = 10**8  # elements at which only some engines take part
LEAST_ROUNDS, MOST_ROUNDS = 3, 40
CERTAIN = 0.03  # standard error of a median, relative to it, at which a cell needs no more rounds
PAUSE = 15e-3  # OpenMP's threads keep a core busy for 8 to 11 ms after their work: the next engine must not pay for it
PAUSE_OF_PRODUCTS = 150e-3  # OpenBLAS's do so for longer than 50 ms


@dataclass(frozen=True)
class Cell:
    """A task in one mode at one size."""

    task: str
    mode: str
    size: str
    shape: Shape

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape))

    @property
    def name(self) -> str:
        return f"{self.task}, {self.mode}, {self.size}"


@dataclass(frozen=True)
class Row:
    """What one engine took for a cell, or why there is no time: unsupported, failed, wrong or crashed."""

    cell: Cell
    engine: str
    seconds: tuple[float, ...] = ()
    refused: str | None = None
    first_call: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The distance between the quartiles, relative to the median."""
        if len(self.seconds) < 2:
            return 0.0
        return spread(self.seconds)

    def document(self, others: Mapping[str, float]) -> dict[str, Any]:
        """The row as JSON; `others` are the medians of the other engines."""
        row: dict[str, Any] = {
            "workload": self.cell.task,
            "mode": self.cell.mode,
            "size": self.cell.size,
            "elements": self.cell.elements,
            "candidate": self.engine,
        }
        if self.refused is not None:
            return row | {"refused": self.refused}
        return row | {
            "median_s": self.median,
            "spread": self.spread,
            "samples_s": list(self.seconds),
            "first_call_s": self.first_call,
            "ns_per_element": self.median / self.cell.elements * 1e9,
            "times_faster_than": {name: t / self.median for name, t in others.items()},
        }


def spread(seconds: Sequence[float]) -> float:
    """The distance between the quartiles, relative to the median."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / middle


class Crashed(Exception):
    """A worker ended or did not answer."""


@dataclass
class Worker:
    """An engine's process, started when it is first asked."""

    engine: str
    threads: int
    folder: str
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def send(self, *request: Any) -> None:
        """Ask, without waiting for the answer."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.cpu.worker", self.engine],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=Path(__file__).parents[2],
                env=engines.environment(self.threads, self.folder),
            )
        assert self.process.stdin is not None
        try:
            pickle.dump(request, self.process.stdin)
            self.process.stdin.flush()
        except OSError as error:
            raise self._crash() from error

    def receive(self, seconds: float = PREPARE_SECONDS) -> Any:
        """The answer to what was sent.

        Raises:
            Crashed: the process ended or took longer than `seconds`.
        """
        assert self.process is not None and self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not ready:
            self.stop()
            raise Crashed(f"no answer in {seconds:.0f} s")
        try:
            return pickle.load(self.process.stdout)
        except (EOFError, pickle.UnpicklingError) as error:
            raise self._crash() from error

    def ask(self, *request: Any) -> Any:
        """Send and receive."""
        self.send(*request)
        return self.receive()

    def _crash(self) -> Crashed:
        assert self.process is not None
        self.process.kill()
        status = self.process.wait()
        self.stop()
        return Crashed(f"the process ended with status {status}")

    def stop(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass  # what was not sent has no reader
        process.kill()
        process.wait()


def cells(
    only: str | None, sizes: Sequence[str] | None, modes: Sequence[str], *, quick: bool
) -> list[Cell]:
    """What to run: small sizes first, so that a mistake shows early."""
    found = []
    for task in TASKS.values():
        if only is not None and only.lower() not in task.name.lower():
            continue
        shapes = dict(task.shapes)
        if quick:
            shapes = dict([QUICK[len(next(iter(shapes.values())))]])
        found += [
            Cell(task.name, mode, size, shape)
            for size, shape in shapes.items()
            if sizes is None or size in sizes
            for mode in task.modes
            if mode in modes
        ]
    return sorted(found, key=lambda cell: cell.elements)


class References:
    """float64 results of the last task and shape: a gradient begins with the forward results."""

    def __init__(self) -> None:
        self.key: tuple[str, Shape] | None = None
        self.digests: list[Any] = []

    def of(self, cell: Cell) -> list[Any]:
        task = TASKS[cell.task]
        if self.key != (cell.task, cell.shape):
            mode = GRADIENT if task.wrt else FORWARD
            results = by_numpy.reference(cell.task, mode, task.inputs(cell.shape, mode))
            self.key, self.digests = (cell.task, cell.shape), [digest(r) for r in results]
        if cell.mode == FORWARD and task.wrt:
            return self.digests[:1]
        return self.digests


def check(cell: Cell, ours: Sequence[Any], reference: Sequence[Any]) -> str | None:
    """What is wrong with an engine's results, or None."""
    task = TASKS[cell.task]
    if len(ours) != len(reference):
        return f"{len(ours)} results instead of {len(reference)}"
    for number, (result, right) in enumerate(zip(ours, reference)):
        if task.random:
            problem = wrong_draw(result, cell.elements)
        else:
            problem = disagreement(result, right, task.rtol)
        if problem is not None:
            return f"result {number}: {problem}"
    return None


def run(cell: Cell, workers: Sequence[Worker], references: References, budget: float) -> list[Row]:
    """Prepare, check and time one cell on all engines."""
    refused: dict[str, str] = {}
    first: dict[str, float] = {}
    willing: list[Worker] = []
    reference: list[Any] = []
    # Those with a warm allocator come second: they find on disk what their twins compiled.
    for wave in (False, True):
        asked = []
        for worker in workers:
            if engines.ENGINES[worker.engine].warm != wave:
                continue
            if cell.elements >= HUGE and not engines.ENGINES[worker.engine].at_huge_sizes:
                refused[worker.engine] = "unsupported: not timed at this size, to save memory"
                continue
            try:
                worker.send("prepare", cell.task, cell.mode, cell.size, cell.shape)
                asked.append(worker)
            except Crashed as error:
                refused[worker.engine] = f"crashed: {error}"
        reference = reference or references.of(cell)
        for worker in asked:
            problem = _prepared(worker, cell, reference, first)
            if problem is None:
                willing.append(worker)
            else:
                refused[worker.engine] = problem
    pause = PAUSE_OF_PRODUCTS if TASKS[cell.task].multiplies else PAUSE
    samples, crashed = _samples(willing, budget, pause)
    refused |= crashed
    for worker in willing:
        if worker.process is not None:
            with contextlib.suppress(Crashed):
                worker.ask("drop")
    rows = []
    for worker in workers:
        name = worker.engine
        if name in refused:
            rows.append(Row(cell, name, refused=refused[name]))
        else:
            rows.append(Row(cell, name, tuple(samples[name]), first_call=first[name]))
    return rows


def _prepared(
    worker: Worker, cell: Cell, reference: Sequence[Any], first: dict[str, float]
) -> str | None:
    """Wait for an engine's results and check them: None, or why it takes no part."""
    try:
        kind, answer, *rest = worker.receive()
        if kind != "ready":
            return f"{kind}: {answer}"
        problem = check(cell, answer, reference)
        if problem is not None:
            worker.ask("drop")
            return f"wrong: {problem}"
    except Crashed as error:
        return f"crashed: {error}"
    first[worker.engine] = rest[0]
    return None


def _samples(
    workers: Sequence[Worker], budget: float, pause: float
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds a call of each engine, and why some stopped: round by round until the medians are certain.

    At most `budget` seconds after three rounds. An engine that takes half of them stops after its third sample.
    """
    samples: dict[str, list[float]] = {worker.engine: [] for worker in workers}
    crashed: dict[str, str] = {}
    start = time.perf_counter()
    spent = dict.fromkeys(samples, 0.0)

    def ask(worker: Worker, request: str) -> float:
        begin = time.perf_counter()
        try:
            return float(worker.ask(request))
        except Crashed as error:
            crashed[worker.engine] = f"crashed: {error}"
            return math.nan
        finally:
            spent[worker.engine] += time.perf_counter() - begin

    for worker in workers:
        ask(worker, "calibrate")
    for number in range(MOST_ROUNDS):
        alive = [worker for worker in workers if worker.engine not in crashed]
        if number >= LEAST_ROUNDS:
            certain = all(_certain(samples[worker.engine]) for worker in alive)
            if certain or time.perf_counter() - start > budget:
                break
            alive = [worker for worker in alive if spent[worker.engine] < budget / 2]
        turn = number % max(1, len(alive))
        for worker in (*alive[turn:], *alive[:turn]):
            time.sleep(pause)
            samples[worker.engine].append(ask(worker, "sample"))
    return samples, crashed


def _certain(seconds: Sequence[float]) -> bool:
    """Whether a median is. The standard error of normal samples' is 0.93 times the quartiles' distance over √n."""
    return 0.93 * spread(seconds) <= CERTAIN * math.sqrt(len(seconds))
