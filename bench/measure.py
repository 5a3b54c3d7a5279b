"""How anything is timed: all candidates of a workload in turn, round after round, and the median of each.

On a shared machine a slow second hits whoever runs in it. Interleaving spreads it over all candidates, and the
order changes each round, so ratios hold where absolute times do not. Before it is timed, every candidate's answer is
compared with the first one's: a fast wrong program has no time.
"""

from __future__ import annotations

import gc
import importlib
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]
# Seconds that `count` calls of a function took.
Clock = Callable[[Run, int], float]

SAMPLE_SECONDS = 2e-3  # a sample repeats its call until it is this long: the clock and the loop then cost nothing
COPY_BYTES = 256 << 20


@dataclass(frozen=True)
class Candidate:
    """One way to do a workload.

    `answer` computes the result on fixed inputs, as something `np.asarray` takes, for comparison; `run` is what is
    timed. They differ where the workload draws random numbers.
    """

    name: str
    run: Run
    answer: Run


@dataclass(frozen=True)
class Workload:
    """Something to be timed in several ways.

    `build` makes the inputs and the candidates; it is called when the workload's turn comes, and what it made is
    dropped after. `ideal_bytes` is what one call has to read and write, or None where that means nothing.
    """

    name: str
    build: Callable[[], Sequence[Candidate]]
    ideal_bytes: int | None = None
    rtol: float = 1e-5
    note: str = ""


@dataclass(frozen=True)
class Timing:
    """What one candidate took; `refused` says why it has no times."""

    workload: str
    candidate: str
    seconds: tuple[float, ...] = ()
    calls_per_sample: int = 1
    peak_bytes: int | None = None
    copy_fraction: float | None = None
    refused: str | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """The distance between the quartiles, relative to the median; 0 for fewer than 4 samples."""
        if len(self.seconds) < 4:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / self.median


# --- clocks ---------------------------------------------------------------------------------------


def wall_clock(run: Run, count: int) -> float:
    """Time `count` calls by the monotonic clock."""
    start = time.perf_counter()
    for _ in range(count):
        run()
    return time.perf_counter() - start


def cuda_clock(run: Run, count: int) -> float:
    """Time `count` calls by CUDA events on the current stream: what the device took, queueing included."""
    cuda = importlib.import_module("torch").cuda
    start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    cuda.synchronize()
    start.record()
    for _ in range(count):
        run()
    end.record()
    cuda.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


def clock_of(device: str) -> Clock:
    """The clock that tells the truth about a device."""
    return cuda_clock if device == "cuda" else wall_clock


# --- memory ---------------------------------------------------------------------------------------


def peak_bytes(run: Run, device: str) -> int | None:
    """How far one call raises memory in use above what was in use before it.

    On a GPU what torch's allocator saw; on Linux the process's high-water mark, which the kernel resets on request;
    None elsewhere.
    """
    gc.collect()
    if device == "cuda":
        cuda = importlib.import_module("torch").cuda
        cuda.synchronize()
        before = cuda.memory_allocated()
        cuda.reset_peak_memory_stats()
        run()
        cuda.synchronize()
        return int(cuda.max_memory_allocated() - before)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _process_bytes("VmRSS")
        kept = run()
        high = _process_bytes("VmHWM")
    except OSError:
        return None
    del kept
    return max(0, high - before)


def _process_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name} in /proc/self/status")


def copy_bandwidth(device: str) -> float:
    """Bytes a second (read plus written) of a large copy into memory already touched: the best of ten."""
    if device == "cuda":
        torch = importlib.import_module("torch")
        source = torch.ones(COPY_BYTES // 4, device="cuda")
        target = torch.empty_like(source)
        return (
            2 * COPY_BYTES / min(cuda_clock(lambda: target.copy_(source), 5) / 5 for _ in range(10))
        )
    array = np.ones(COPY_BYTES // 4, np.float32)
    into = np.ones_like(array)
    return 2 * COPY_BYTES / min(wall_clock(lambda: np.copyto(into, array), 1) for _ in range(10))


# --- timing ---------------------------------------------------------------------------------------


def as_array(value: Any) -> np.ndarray:
    """A result of numpy or torch, on any device, as a float64 array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().double()
    return np.asarray(value, np.float64)


def agree(name: str, candidates: Sequence[Candidate], rtol: float) -> dict[str, str]:
    """Compare all answers with the first candidate's; why each refused candidate refused.

    Raises:
        AssertionError: where an answer differs.
    """
    errors = importlib.import_module("tgc.errors")
    refused: dict[str, str] = {}
    expected: list[np.ndarray] | None = None
    for candidate in candidates:
        try:
            answer = candidate.answer()
        except errors.TgcError as error:
            refused[candidate.name] = str(error).splitlines()[0]
            continue
        arrays = [as_array(a) for a in (answer if isinstance(answer, tuple) else (answer,))]
        if expected is None:
            expected = arrays
        for ours, theirs in zip(arrays, expected, strict=True):
            scale = float(np.max(np.abs(theirs), initial=0.0))
            np.testing.assert_allclose(
                ours, theirs, rtol=rtol, atol=rtol * scale, err_msg=f"{name}: {candidate.name}"
            )
    return refused


def calls_per_sample(run: Run, clock: Clock) -> int:
    """How many calls make a sample of SAMPLE_SECONDS."""
    once = min(clock(run, 1) for _ in range(2))
    return max(1, round(SAMPLE_SECONDS / max(once, 1e-7)))


def interleave(
    candidates: Sequence[Candidate], *, rounds: int, budget: float, clock: Clock
) -> Iterator[tuple[str, int, float]]:
    """Yield (candidate, calls, seconds per call), one sample of each per round, each round from another start.

    Stops after `rounds`, or after `budget` seconds once each candidate has three samples.
    """
    counts = {}
    for candidate in candidates:
        candidate.run()  # compiles, and touches the memory
        counts[candidate.name] = calls_per_sample(candidate.run, clock)
    start = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - start > budget:
            return
        turn = number % len(candidates)
        for candidate in (*candidates[turn:], *candidates[:turn]):
            count = counts[candidate.name]
            yield candidate.name, count, clock(candidate.run, count) / count


def measure(
    workload: Workload, *, device: str, rounds: int, budget: float, bandwidth: float
) -> list[Timing]:
    """Time every candidate of a workload, in the order the workload gives them."""
    candidates = workload.build()
    refused = agree(workload.name, candidates, workload.rtol)
    willing = [c for c in candidates if c.name not in refused]
    samples: dict[str, list[float]] = {c.name: [] for c in willing}
    counts: dict[str, int] = {}
    gc.collect()
    gc.disable()  # a collection would fall on whoever happens to run
    try:
        for name, count, seconds in interleave(
            willing, rounds=rounds, budget=budget, clock=clock_of(device)
        ):
            samples[name].append(seconds)
            counts[name] = count
    finally:
        gc.enable()
    medians = {name: statistics.median(times) for name, times in samples.items()}
    timings = []
    for candidate in candidates:
        name = candidate.name
        if name in refused:
            timings.append(Timing(workload.name, name, refused=refused[name]))
            continue
        fraction = None
        if workload.ideal_bytes is not None:
            fraction = workload.ideal_bytes / medians[name] / bandwidth
        timings.append(
            Timing(
                workload.name,
                name,
                seconds=tuple(samples[name]),
                calls_per_sample=counts[name],
                peak_bytes=peak_bytes(candidate.run, device),
                copy_fraction=fraction,
                ratios={
                    other: median / medians[name]
                    for other, median in medians.items()
                    if other != name
                },
            )
        )
    return timings


# --- where it was measured ------------------------------------------------------------------------


def cpu_name() -> str:
    """The processor as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the next line answers
    return platform.processor() or platform.machine()


def cores() -> int:
    """The cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def environment(device: str) -> dict[str, Any]:
    """Device, versions and commit: what a figure needs beside it to mean anything."""
    cli = importlib.import_module("tgc.report.cli")
    facts: dict[str, Any] = {
        "device": cpu_name(),
        "cores": cores(),
        "platform": platform.platform(),
        "versions": dict(cli.versions()),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if device == "cuda":
        facts["device"] = importlib.import_module("torch").cuda.get_device_name(0)
    return facts


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # an unpacked archive has no history
    return done.stdout.strip()
