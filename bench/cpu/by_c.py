"""The tasks by kernels.c: compiled in the run, called through ctypes with pointers and outputs made before."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.cpu.tasks import (
    ADAM,
    ADAM_MEAN,
    ADAM_SQUARE,
    FORWARD,
    TASKS,
    Inputs,
    Unsupported,
    sgd_rate,
)

FLAGS = (
    "-O3 -march=native -mprefer-vector-width=512 -std=gnu11 -ffp-contract=fast -fno-math-errno "
    "-fno-trapping-math -fopenmp -fPIC -shared -Wall -Wno-unknown-pragmas"
).split()

# The C function of each task; its gradient's name ends in _gradient.
NAMES = {
    "add": "add",
    "randn + randn": "randn_sum",
    "sigmoid sum": "sigmoid_sum",
    "gelu erf": "gelu_erf",
    "gelu tanh": "gelu_tanh",
    "swiglu": "swiglu",
    "BCE with logits": "bce",
    "BCE as written": "bce",
    "huber": "huber",
    "third derivative": "third_derivative",
    "dot regression, SGD step": "regression_step",
    "AdamW step": "adamw",
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "layer norm": "layer_norm",
    "rms norm": "rms_norm",
    "cross-entropy": "cross_entropy",
    "variance": "variance",
    "column sums": "column_sums",
    "Black-Scholes and Greeks": "black_scholes",
    "gaussian kernel sum": "gaussian",
}
SCALARS = frozenset(
    {"sigmoid sum", "BCE with logits", "BCE as written", "huber", "cross-entropy", "variance"}
)


def compile_library(folder: str) -> Path:
    """Build kernels.c; about a second.

    Raises:
        subprocess.CalledProcessError: gcc refused it; `stderr` says why.
    """
    path, source = Path(folder, "kernels.so"), Path(__file__).with_name("kernels.c")
    subprocess.run(
        ["gcc", *FLAGS, str(source), "-o", str(path)], check=True, capture_output=True, text=True
    )
    return path


@functools.cache
def library() -> ctypes.CDLL:
    """The library, built once a process."""
    folder = os.environ.get("BENCH_FOLDER") or tempfile.mkdtemp()
    return ctypes.CDLL(str(compile_library(folder)))


def _outputs(task: str, mode: str, inputs: Inputs) -> list[np.ndarray]:
    """Zeros, written and not merely promised by the system, so that their pages are there before the first call."""
    shapes = [inputs[0].shape]
    if task == "column sums":
        shapes = [inputs[0].shape[1:]]
    elif task == "gaussian kernel sum":
        shapes = [inputs[0].shape[:1]]
    elif task in SCALARS:
        shapes = [()]
    if task == "Black-Scholes and Greeks" and mode != FORWARD:
        shapes *= 6
    elif mode != FORWARD:
        shapes += [inputs[i].shape for i in TASKS[task].wrt]
    return [_aligned_zeros(shape) for shape in shapes]


def _aligned_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros from the start of a cache line on, in huge pages, which np.empty asks for and np.zeros does not."""
    count = math.prod(shape)
    room = np.empty(count + 16, np.float32)
    room.fill(0)
    start = -room.ctypes.data // 4 % 16
    return room[start : start + count].reshape(shape)


def build(task: str, mode: str, inputs: Inputs) -> Callable[[], Any]:
    """A call of the C function; results are written into the same arrays each time."""
    if task not in NAMES:
        raise Unsupported("no matrix product is written in C: that is a library's work")
    function = getattr(library(), NAMES[task] + ("" if mode == FORWARD else "_gradient"))
    shape = inputs[0].shape if task != "gaussian kernel sum" else (len(inputs[1]), len(inputs[0]))
    results: tuple[np.ndarray, ...]
    outputs: list[np.ndarray] = []
    if task == "dot regression, SGD step":
        inputs = (*inputs, np.array([sgd_rate(inputs[0].size)], np.float32))
        results = inputs[:2]
    elif task == "AdamW step":
        beta1, beta2 = ADAM["beta1"], ADAM["beta2"]
        keep, rate = 1 - ADAM["rate"] * ADAM["decay"], ADAM["rate"] / ADAM_MEAN
        correction = 1 / math.sqrt(ADAM_SQUARE)
        constants = [keep, beta1, 1 - beta1, beta2, 1 - beta2, rate, correction, ADAM["epsilon"]]
        results = (inputs[0], inputs[2], inputs[3])
        inputs = (*inputs, np.array(constants, np.float32))
    else:
        outputs = _outputs(task, mode, inputs)
        results = tuple(outputs)
    if task == "randn + randn":
        inputs = (np.array([1], np.uint32),)
    sizes = (ctypes.c_long * 2)(*shape[:2])
    into = (ctypes.c_void_p * len(inputs))(*(a.ctypes.data for a in inputs))
    out = (ctypes.c_void_p * max(1, len(outputs)))(*(a.ctypes.data for a in outputs))
    keep_alive = (inputs, outputs)

    def run(_alive: Any = keep_alive) -> Any:
        function(sizes, into, out)
        return results

    return run
