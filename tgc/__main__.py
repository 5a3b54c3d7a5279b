"""The command line: `tgc demo`, `tgc doctor`, `tgc source` (or `python -m tgc ...`)."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tgc
from tgc.errors import TgcError
from tgc.report import cli

# The demo's function is written to a file and imported from there, so that it is the user's code in every respect:
# the graph and the kernels name its lines.
LOGISTIC = '''\
import tgc


def logistic_loss(score, label):
    """The textbook form: exp overflows in float32 for scores above 88."""
    return tgc.mean(tgc.log(1 + tgc.exp(score)) - label * score)
'''
DEMO_SIZE = 1_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 is success, 1 a failed check or an error of tgc, 2 (from argparse) a wrong call."""
    options = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except TgcError as error:
        kind = "" if type(error) is TgcError else f"{type(error).__name__}: "
        print(f"tgc: {kind}{error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this, Python complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="tgc", description="A tensor-graph compiler: fused kernels and their derivatives."
    )
    version = f"tgc {cli.version_of('tgc') or 'in a folder, not installed'}"
    top.add_argument("--version", action="version", version=version)
    commands = top.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="compile a function, show it, check it, time it")
    demo.add_argument("--size", type=positive, default=DEMO_SIZE, help="elements to time with")
    demo.set_defaults(command=run_demo)

    doctor = commands.add_parser("doctor", help="versions, devices, and what works here")
    doctor.set_defaults(command=run_doctor)

    source = commands.add_parser(
        "source",
        help="print the kernels of a function",
        description="Print the emitted module of a function, given the dtype and shape of each argument.",
        epilog="example: tgc source kernels.definitions:softmax 'f32[rows, cols]' --target sm_90",
    )
    source.add_argument("function", help="module:function or file.py:function")
    source.add_argument(
        "specs", nargs="*", metavar="spec", help="f32[rows, cols], bf16[4096, n], or a number"
    )
    source.add_argument("--grad", action="store_true", help="with the gradient's kernels")
    source.add_argument(
        "--backend", choices=("numpy", "native", "triton"), help="default: by the target"
    )
    source.add_argument("--target", help="a GPU to lower for, such as sm_90; none has to be there")
    source.set_defaults(command=run_source)
    return top


def positive(text: str) -> int:
    """An argparse type: a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


# --- source ---------------------------------------------------------------------------------------


def run_source(options: argparse.Namespace) -> int:
    """Print the emitted module of a function."""
    function = cli.load_function(options.function)
    arguments = [argument(text) for text in options.specs]
    cli.check_count(function, arguments)
    compiled = function if hasattr(function, "lower") else tgc.jit(function)
    lowered = compiled.lower(
        *arguments, grad=options.grad, backend=options.backend, target=options.target
    )
    print(lowered.source)
    return 0


def argument(text: str) -> Any:
    """A number as itself, anything else as a spec."""
    number = cli.literal(text)
    return tgc.spec(text) if number is None else number


# --- doctor ---------------------------------------------------------------------------------------


def run_doctor(options: argparse.Namespace) -> int:
    """Print what is installed and what works; 1 if the part that needs no extras does not."""
    print(cli.table(cli.versions()))
    devices = cli.gpus()
    print(cli.heading("where it runs"))
    print(
        cli.table(
            [
                ("GPU", ", ".join(devices) or "none: Triton kernels can be emitted, not run"),
                ("cache", cli.cache_folder()),
                (
                    "settings",
                    ", ".join(k for k in sorted(os.environ) if k.startswith("TGC_")) or "none set",
                ),
            ]
        )
    )
    print(cli.heading("what works"))
    probes: list[tuple[str, Callable[[], str]]] = [
        ("numpy backend", lambda: probe_engine("numpy")),
        ("gradients", probe_gradient),
        ("Triton source", probe_triton_source),
    ]
    if cli.version_of("llvmlite"):
        probes.append(("native backend", lambda: probe_engine("native")))
    if cli.version_of("torch"):
        probes.append(("torch autograd", probe_autograd))
    if cli.version_of("triton"):
        probes.append(("Triton to PTX, without a GPU", probe_ptx))
    if devices:
        probes.append(("Triton on the GPU", probe_gpu))
    rows, works = [], {}
    for name, probe in probes:
        works[name], said = cli.outcome(probe)
        rows.append((name, "ok" if works[name] else "FAILS", said))
    print(cli.table(rows))
    return 0 if works["numpy backend"] and works["gradients"] and works["Triton source"] else 1


def probed(x: Any) -> Any:
    """What doctor compiles: a map and a reduction."""
    return tgc.sum(tgc.exp(x) * x)


def expect(name: str, actual: Any, expected: float) -> None:
    """Raise if a probe's number is not the right one."""
    if abs(float(actual) - expected) > 1e-5 * abs(expected):
        raise ArithmeticError(f"{name} gave {float(actual)}, not {expected}")


def probe_engine(backend: str) -> str:
    expect("the sum", tgc.jit(backend=backend)(probed)(np.ones(10)), 10 * np.e)
    return "compiled and ran"


def probe_gradient() -> str:
    expect("the gradient", tgc.grad(probed)(np.ones(10))[3], 2 * np.e)
    return "derived and ran"


def probe_triton_source() -> str:
    lowered = tgc.jit(probed).lower(tgc.spec("f32[n]"), target="sm_90")
    return f"{len(lowered.kernels)} kernels for sm_90"


def probe_autograd() -> str:
    torch = importlib.import_module("torch")
    x = torch.ones(10, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(tgc.jit(probed)(x), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), x)
    expect("the second derivative", second[0], 3 * np.e)
    return "first and second derivatives"


def probe_ptx() -> str:
    text = tgc.jit(probed).lower(tgc.spec("f32[n]"), target="sm_90").asm("ptx")
    return f"{len(str(text).splitlines())} lines for sm_90"


def probe_gpu() -> str:
    torch = importlib.import_module("torch")
    expect("the sum", tgc.jit(probed)(torch.ones(10, device="cuda")), 10 * np.e)
    return "compiled and ran"


# --- demo -----------------------------------------------------------------------------------------


def run_demo(options: argparse.Namespace) -> int:
    """Compile the logistic loss; print its graph and kernels; check and time its value and gradient."""
    with tempfile.TemporaryDirectory(prefix="tgc-demo-") as folder:
        path = Path(folder) / "logistic.py"
        path.write_text(LOGISTIC, encoding="utf-8")
        plain = cli.load_function(f"{path}:logistic_loss")
        print(cli.heading("the function"), LOGISTIC, sep="\n", end="")
        compiled = tgc.jit(plain)
        both = tgc.value_and_grad(compiled)
        shapes = tgc.spec("f32[n]"), tgc.spec("f32[n]")
        print(cli.heading("its graph"), compiled.lower(*shapes).graph, sep="\n")
        for title, where in (
            ("Triton, for sm_90", "sm_90"),
            ("numpy", "numpy"),
        ):
            start = time.perf_counter()
            lowered = both.lower(*shapes, target=where)
            took = cli.milliseconds(time.perf_counter() - start)
            print(cli.heading(f"its value and gradient in {title} ({took} to compile)"))
            print(lowered.source)
        passed = check_demo(both)
        time_demo(plain, options.size)
    return 0 if passed else 1


def reference(score: Any, label: Any) -> tuple[Any, Any]:
    """The loss and its gradient in float64, by the stable formulas, written by hand."""
    score, label = np.asarray(score, np.float64), np.asarray(label, np.float64)
    loss = np.mean(np.logaddexp(0, score) - label * score)
    # sigmoid by the tanh, which saturates instead of overflowing
    return loss, (0.5 + 0.5 * np.tanh(0.5 * score) - label) / score.size


def check_demo(both: Callable[..., Any]) -> bool:
    """Compare with float64 where exp overflows float32, and with central differences; print both errors."""
    rng = np.random.default_rng(0)
    score = np.concatenate([np.linspace(-200, 200, 401), rng.normal(size=600)])
    label = rng.integers(0, 2, size=score.size).astype(np.float64)
    exact, slope = reference(score.astype(np.float32), label)
    value32, slope32 = both(score.astype(np.float32), label.astype(np.float32))
    value_error = abs(float(value32) - exact) / exact
    slope_error = float(np.max(np.abs(slope32 - slope)) * score.size)

    direction = rng.normal(size=score.size)
    step = 1e-5
    above, below = (float(both(score + sign * step * direction, label)[0]) for sign in (1, -1))
    derived = float(both(score, label)[1] @ direction)
    difference_error = abs((above - below) / (2 * step) - derived) / abs(derived)

    checks = [
        ("float32 value against float64, scores to ±200", value_error, 1e-6),
        ("float32 gradient against float64, per element", slope_error, 1e-6),
        ("float64 gradient against central differences", difference_error, 1e-6),
    ]
    rows = [
        (name, f"{error:.1e}", f"limit {limit:.0e}", "ok" if error <= limit else "FAILS")
        for name, error, limit in checks
    ]
    print(cli.heading("its gradient, checked"), cli.table(rows), sep="\n")
    return all(error <= limit for _, error, limit in checks)


def time_demo(plain: Callable[..., Any], size: int) -> None:
    """Time value and gradient against numpy written by hand and, if there, torch with autograd."""
    rng = np.random.default_rng(0)
    score = rng.normal(size=size).astype(np.float32)
    label = rng.integers(0, 2, size=size).astype(np.float32)
    both = tgc.value_and_grad(plain)

    def by_hand() -> Any:
        e = np.exp(-np.abs(score))
        loss = np.mean(np.maximum(score, 0) + np.log1p(e) - label * score)
        return loss, (np.where(score >= 0, 1, e) / (1 + e) - label) / np.float32(size)

    runs: dict[str, Callable[[], Any]] = {
        "numpy, by hand": by_hand,
        "tgc on numpy arrays": lambda: both(score, label),
    }
    if cli.importable("torch"):
        runs.update(torch_runs(plain, score, label))
    times = cli.interleaved(runs)
    slowest = max(times.values())
    rows = [(name, cli.milliseconds(t), f"{slowest / t:.1f}x") for name, t in times.items()]
    print(cli.heading(f"value and gradient of {size:,} float32 elements, median of 7"))
    print(cli.table(rows))


def torch_runs(plain: Callable[..., Any], score: Any, label: Any) -> dict[str, Callable[[], Any]]:
    """The same through torch: its own stable loss with autograd, and the compiled function with autograd."""
    torch = importlib.import_module("torch")
    compiled = tgc.jit(plain)
    label_tensor = torch.from_numpy(label)
    score_tensor = torch.from_numpy(score).requires_grad_()
    built_in = torch.nn.functional.binary_cross_entropy_with_logits

    def backward(function: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function(score_tensor, label_tensor), score_tensor)

    return {
        "torch, built-in loss and autograd": backward(built_in),
        "tgc on torch tensors, autograd": backward(compiled),
    }


if __name__ == "__main__":
    sys.exit(main())
