"""What the command line shows and reads: tables, versions, timings, and functions named as `module:function`.

The commands themselves are in `tgc/__main__.py`, above the api; nothing here compiles anything.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tgc.errors import TgcError
from tgc.settings import current

PACKAGES = ("numpy", "sympy", "torch", "triton", "llvmlite")
EXTRA_OF = {"torch": "torch", "triton": "torch", "llvmlite": "cpu"}


# --- layout ---------------------------------------------------------------------------------------


def heading(title: str) -> str:
    """A title with a rule under it, and an empty line before."""
    return f"\n{title}\n{'-' * len(title)}"


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of text in columns as wide as their widest cell."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def milliseconds(seconds: float) -> str:
    """A duration to three digits, in ms."""
    return f"{seconds * 1e3:.3g} ms"


# --- measuring ------------------------------------------------------------------------------------


def interleaved(runs: Mapping[str, Callable[[], Any]], *, rounds: int = 7) -> dict[str, float]:
    """Median seconds of each run, one after the other in every round, so that noise falls on all alike."""
    for run in runs.values():
        run()  # compiles, and touches the memory
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in samples.items()}


# --- what is installed ----------------------------------------------------------------------------


def version_of(package: str) -> str | None:
    """The installed version, read from its metadata: nothing is imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def importable(package: str) -> bool:
    """Whether an optional package can be used: one that is installed may still lack a library it loads."""
    try:
        importlib.import_module(package)
    except (ImportError, OSError):
        return False
    return True


def versions() -> list[tuple[str, str]]:
    """Name and version of Python, tgc and each package it can use, with what to install for a missing one."""
    rows = [
        ("python", f"{platform.python_version()} ({sys.platform}, {platform.machine()})"),
        ("tgc", version_of("tgc") or "not installed, running from a folder"),
    ]
    for package in PACKAGES:
        missing = f"not installed; pip install 'tgc[{EXTRA_OF.get(package, package)}]'"
        rows.append((package, version_of(package) or missing))
    return rows


def gpus() -> list[str]:
    """The GPUs torch can use, or else those the driver's own tool names; empty without one."""
    if importable("torch"):
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [f"{name} (not usable from torch)" for name in result.stdout.split("\n") if name]


def cache_folder() -> str:
    """Where emitted sources are kept, with the number of files and their size."""
    folder = Path(current().cache_dir)
    if not folder.exists():
        return f"{folder} (empty)"
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    writable = "" if os.access(folder, os.W_OK) else ", not writable"
    return f"{folder} ({len(files)} files, {size / 1e6:.1f} MB{writable})"


def outcome(probe: Callable[[], str]) -> tuple[bool, str]:
    """Whether a probe ran, and what it said; a failure is its error's class and first line.

    Doctor's work is to report any failure there is, so this catches all of them.
    """
    try:
        return True, probe()
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        return False, f"{type(error).__name__}: {first}"


# --- functions and arguments named on the command line --------------------------------------------


def load_function(name: str) -> Callable[..., Any]:
    """The function `package.module:function` or `path/to/file.py:function`.

    Raises:
        TgcError: where there is no such module, file or function, with what there is.
    """
    where, colon, attribute = name.rpartition(":")
    if not colon or not where or not attribute:
        raise TgcError(
            f"{name!r} does not name a function",
            hint="write module:function, such as kernels.definitions:softmax, or file.py:function",
        )
    module = module_from_file(Path(where)) if where.endswith(".py") else module_from_name(where)
    function = getattr(module, attribute, None)
    if callable(function):
        return function  # type: ignore[no-any-return]  # callable() narrows to an untyped callable
    there = sorted(
        key
        for key, value in vars(module).items()
        if callable(value)
        and getattr(value, "__module__", None) == module.__name__
        and not key.startswith("_")
    )
    close = difflib.get_close_matches(attribute, there, n=3) or there
    raise TgcError(
        f"there is no {attribute!r} in {where}"
        if function is None
        else f"{attribute!r} in {where} is not a function",
        hint=f"it has {', '.join(close)}" if close else "it defines no function",
    )


def module_from_file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own; its folder can be imported from, as when Python runs it."""
    if not path.is_file():
        raise TgcError(f"there is no file {path}", hint=f"the working folder is {Path.cwd()}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def module_from_name(name: str) -> ModuleType:
    """Import a module, with the working folder on the path, as `python -m` has it."""
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports one that is not
        raise TgcError(
            f"there is no module {error.name!r}",
            hint=f"give a path ending in .py, or run where it can be imported (now in {Path.cwd()})",
        ) from error


def literal(text: str) -> int | float | bool | None:
    """A Python number written on the command line; None where the text is a spec such as f32[n]."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return value if isinstance(value, bool | int | float) else None


def check_count(function: Callable[..., Any], given: Sequence[Any]) -> None:
    """Raise where the function cannot be called with that many arguments, naming its own."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a callable without a signature: tracing will say
    try:
        signature.bind(*given)
    except TypeError as error:
        raise TgcError(
            f"{getattr(function, '__name__', function)}{signature} cannot take {len(given)} arguments: {error}",
            hint="give one spec for each, such as 'f32[rows, cols]', or a number",
        ) from error
