"""The engines by name: what each needs installed, the environment of its process, and how it builds a task."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.cpu.tasks import Inputs

Build = Callable[..., Callable[[], Any]]


@dataclass(frozen=True)
class Engine:
    """One competitor, in a process of its own.

    Attributes:
        module, options: what builds its tasks, and how it is called.
        needs: modules or programs; without one the engine is absent, which the document says.
        beside: modules that are loaded before it where they are installed, as they are in programs that use it.
        warm: whether its process tells the allocator to keep its pages.
    """

    name: str
    module: str
    options: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    function: str = "build"
    beside: tuple[str, ...] = ()
    warm: bool = False

    @property
    def at_huge_sizes(self) -> bool:
        """Whether it is timed at 1e8 elements: not all engines' memory fits side by side."""
        return self.name in ("native", "numpy", "naive", "torch", "c")

    def load(self, threads: int) -> None:
        """Import what is loaded before it, torch to use so many threads."""
        for name in (*self.needs, *self.beside):
            if name == "torch" and importlib.util.find_spec(name) is not None:
                importlib.import_module(name).set_num_threads(threads)

    def missing(self) -> str | None:
        """Why the engine is absent, or None."""
        for need in self.needs:
            if importlib.util.find_spec(need) is None and shutil.which(need) is None:
                return f"{need} is not installed"
        return None

    def build(self, task: str, mode: str, size: str, inputs: Inputs) -> Callable[[], Any]:
        """A call of a task; `bench.cpu.tasks.Unsupported` where it has none."""
        build: Build = getattr(importlib.import_module(self.module), self.function)
        options = dict(self.options)
        if options.get("compiled"):
            options["size"] = size
        return build(task, mode, inputs, **options)


_TGC, _TORCH = "bench.cpu.by_tgc", "bench.cpu.by_torch"

ENGINES: Mapping[str, Engine] = {
    engine.name: engine
    for engine in (
        # Beside torch, which it is compared with, its matrix products are torch's library's.
        Engine("native", _TGC, {"backend": "native"}, ("llvmlite",), beside=("torch",)),
        Engine("numpy", _TGC, {"backend": "numpy"}),
        Engine(
            "native-autograd",
            _TORCH,
            {"backend": "native"},
            ("llvmlite", "torch"),
            function="build_through_tgc",
        ),
        Engine("naive", "bench.cpu.by_numpy", {}),
        Engine("torch", _TORCH, {}, ("torch",)),
        Engine("torch-warm", _TORCH, {}, ("torch",), warm=True),
        Engine("compile", _TORCH, {"compiled": True}, ("torch", "g++")),
        Engine("compile-warm", _TORCH, {"compiled": True}, ("torch", "g++"), warm=True),
        Engine("jax", "bench.cpu.by_jax", {}, ("jax",)),
        Engine("numexpr", "bench.cpu.by_numexpr", {}, ("numexpr",)),
        Engine("c", "bench.cpu.by_c", {}, ("gcc",)),
    )
}

# glibc's mallopt(3): nothing is mapped by itself, and the heap never shrinks.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_LARGEST_INT = 2**31 - 1


def keep_pages() -> bool:
    """Have this process's allocator keep what it once got; whether that worked."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return False
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_INT)  # refused above 32 MB, hence the next
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))


def environment(threads: int, folder: str) -> dict[str, str]:
    """A worker's environment: as many threads for everyone, caches in the run's folder."""
    count = str(threads)
    variables = dict(os.environ)
    for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMEXPR_MAX"):
        variables[f"{name}_NUM_THREADS" if name != "NUMEXPR_MAX" else "NUMEXPR_MAX_THREADS"] = count
    variables["TGC_THREADS"] = count
    variables["TGC_CACHE_DIR"] = os.path.join(folder, "tgc")
    variables["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(folder, "inductor")
    variables["BENCH_FOLDER"] = folder
    return variables
