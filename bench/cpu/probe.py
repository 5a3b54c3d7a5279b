"""What only a fresh process can tell: the cost of a call, a cold compilation, peak memory.

`python -m bench.cpu.probe COMMAND BACKEND [TASK]` prints one JSON object. The suite runs it, several times
where a single figure would be noise.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import measure
from bench.cpu import engines
from bench.cpu.tasks import GRADIENT, TASKS, Inputs
from bench.cpu.verdict import SCRATCH
from bench.measure import Candidate

SMALL = 16
COLD_TASK, COLD_SIZE, COLD_REPEATS = "gelu erf", (1000,), 5
MEMORY = {
    "gelu erf": (10**7,),
    "swiglu": (10**7,),
    "third derivative": (10**7,),
    "softmax": (4096, 1024),
    "layer norm": (4096, 1024),
}
ROUNDS = 100  # processors work at half their pace for tenths of a second: samples must outlast that


def interleaved(runs: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds a call, one sample a round; whatever is compared or held to a limit belongs into one interleaving."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    candidates = [Candidate(name, run, run) for name, run in runs.items()]
    for name, _, seconds in measure.interleave(
        candidates, rounds=ROUNDS, budget=3, clock=measure.wall_clock
    ):
        samples[name].append(seconds)
    return samples


def medians(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds a call."""
    return {name: statistics.median(times) for name, times in interleaved(runs).items()}


def calls(backend: str) -> dict[str, Any]:
    """Seconds of a*b + c of 16 elements, and what two losses of 16 cost with their gradients."""
    import tgc
    from bench.cpu import by_tgc
    from bench.report import installed
    from bench.suites.calls import empty_function, fused, tensors

    compiled = tgc.jit(fused, backend=backend)
    a, b, c = np.random.default_rng(0).random((3, SMALL), dtype=np.float32)
    on_arrays: dict[str, Callable[[], Any]] = {
        "numpy": lambda: fused(a, b, c),
        "arrays": lambda: compiled(a, b, c),
    }
    if not installed("torch"):
        return dict(medians(on_arrays))
    torch = importlib.import_module("torch")
    from bench.cpu import by_torch

    x, y, z = tensors("cpu", requires_grad=False)
    leaves, ones = tensors("cpu", requires_grad=True), torch.ones(SMALL, dtype=torch.float64)
    empty = empty_function()

    def both(function: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function(*leaves), leaves, ones)

    runs = on_arrays | {
        "torch": lambda: fused(x, y, z),
        "tensors": lambda: compiled(x, y, z),
        "torch autograd": both(fused),
        "empty": both(empty),
        "tgc autograd": both(compiled),
    }
    samples = interleaved(runs)
    found: dict[str, Any] = {name: statistics.median(times) for name, times in samples.items()}
    found["quartiles"] = {name: statistics.quantiles(times, n=4) for name, times in samples.items()}
    beyond = [ours - empty for ours, empty in zip(samples["tgc autograd"], samples["empty"])]
    found["autograd"] = statistics.median(beyond)
    found["against torch"], found["against torch, arrays"] = {}, {}
    for task in ("BCE with logits", "gelu tanh"):
        make = lambda task=task: TASKS[task].inputs((SMALL,), GRADIENT)
        builds = {
            "torch": by_torch.written(task, make()),
            "torch's own": by_torch.build(task, GRADIENT, make()),
            "tgc": by_torch.build_through_tgc(task, GRADIENT, make(), backend=backend),
            "arrays": by_tgc.build(task, GRADIENT, make(), backend=backend),
        }
        times = found[task] = medians(builds)
        found["against torch"][task] = times["torch"] / times["tgc"]
        found["against torch, arrays"][task] = times["torch"] / times["arrays"]
    return found


def import_all(backend: str) -> None:
    """Every module a compilation may load, so that what is timed is compiling."""
    import tgc

    for module in pkgutil.walk_packages(tgc.__path__, "tgc."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ImportError:
            pass  # an extra that is not installed
    if backend == "native":
        importlib.import_module("llvmlite.binding")


def cold(backend: str) -> dict[str, Any]:
    """Seconds of the first call of gelu and its gradient, imports done."""
    from bench.cpu import by_tgc

    import_all(backend)
    inputs = TASKS[COLD_TASK].inputs(COLD_SIZE, GRADIENT)
    start = time.perf_counter()
    by_tgc.build(COLD_TASK, GRADIENT, inputs, backend=backend)()
    return {"seconds": time.perf_counter() - start}


def cold_compile(_: str) -> dict[str, Any]:
    """The same by torch.compile, through autograd."""
    from bench.cpu import by_torch

    inputs = TASKS[COLD_TASK].inputs(COLD_SIZE, GRADIENT)
    importlib.import_module("torch._inductor.compile_fx")
    start = time.perf_counter()
    by_torch.build(COLD_TASK, GRADIENT, inputs, compiled=True, size="1e5")()
    return {"seconds": time.perf_counter() - start}


def memory_of(backend: str, task: str) -> dict[str, Any]:
    """Bytes that inputs and one call add at most, and what they may add. It is compiled at smaller sizes before."""
    import tgc
    from bench.cpu import by_tgc

    shape = MEMORY[task]
    mode = TASKS[task].modes[-1]
    if task == "third derivative":
        function = by_tgc.third_derivative
    else:
        function = by_tgc.with_gradient(task)
    compiled = tgc.jit(function, backend=backend)
    for divisor in (64, 8):
        compiled(*TASKS[task].inputs((shape[0] // divisor, *shape[1:]), mode))
    sizes: list[int] = []

    def run() -> Any:
        inputs: Inputs = TASKS[task].inputs(shape, mode)
        results = compiled(*inputs)
        if not isinstance(results, tuple):
            results = (results,)
        sizes.append(sum(a.nbytes for a in (*inputs, *results)))
        return inputs, results

    peak = measure.peak_bytes(run, "cpu")
    if peak is None:
        return {"refused": "this system does not reset its high-water mark"}
    return {"peak": peak, "allowed": sizes[0] + SCRATCH * measure.cores(), "ideal": sizes[0]}


# --- asking ---------------------------------------------------------------------------------------


def _asked(arguments: list[str], variables: dict[str, str], seconds: float = 180) -> dict[str, Any]:
    """The answer of a fresh process, or {"refused": why}."""
    with tempfile.TemporaryDirectory() as folder:
        environment = engines.environment(measure.cores(), folder) | variables
        try:
            done = subprocess.run(
                [sys.executable, "-m", "bench.cpu.probe", *arguments],
                cwd=Path(__file__).parents[2],
                env=environment,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            return {"refused": f"no answer in {seconds:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return {"refused": said[-1][:200]}
    return dict(json.loads(lines[-1]))


def median_of(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of several answers, or the first refusal."""
    for answer in answers:
        if "refused" in answer:
            return answer
    seconds = sorted(answer["seconds"] for answer in answers)
    return {"seconds": statistics.median(seconds), "samples_s": seconds}


def ask_calls(backends: list[str]) -> dict[str, Any]:
    """By backend."""
    return {backend: _asked(["calls", backend], {}) for backend in backends}


def ask_cold(backends: list[str], *, with_torch: bool) -> dict[str, Any]:
    """By backend, afresh and from the disk cache, and torch.compile's."""
    found: dict[str, Any] = {}
    for backend in backends:
        fresh, cached = [], []
        for _ in range(COLD_REPEATS):
            with tempfile.TemporaryDirectory() as folder:
                variables = {"TGC_CACHE_DIR": folder}
                fresh.append(_asked(["cold", backend], variables))
                if "refused" in fresh[-1]:
                    break
                cached.append(_asked(["cold", backend], variables))
        found[backend] = median_of(fresh)
        found[f"{backend}, cached"] = median_of(cached) if cached else fresh[-1]
    if with_torch:
        found["torch.compile"] = _asked(["compile", "torch"], {})
    return found


def ask_memory(backends: list[str]) -> dict[str, Any]:
    """By backend and task."""
    return {
        backend: {task: _asked(["memory-of", backend, task], {}) for task in MEMORY}
        for backend in backends
    }


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "calls": calls,
    "cold": cold,
    "compile": cold_compile,
    "memory-of": memory_of,
}

if __name__ == "__main__":
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
