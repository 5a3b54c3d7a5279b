"""Write the gallery: `python -m kernels.generate`, or `--check` to compare with what is checked in.

For each function of `kernels.definitions`, one Triton module for sm_90 and one numpy module, each with the forward
and the gradient. Lowering needs no GPU, and the text is deterministic, so a difference means the compiler changed.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import tgc
from kernels.definitions import DEFINITIONS, Definition

TYPICAL = {"rows": 4096, "cols": 1024, "n": 1_000_000}
FOLDER = Path(__file__).parent / "generated"
TARGETS: dict[str, dict[str, str]] = {
    "triton": {"target": "sm_90"},
    "numpy": {"backend": "numpy"},
}


def path_of(definition: Definition, backend: str) -> Path:
    """Where the module of one function and backend is checked in."""
    return FOLDER / f"{definition.name}_{backend}.py"


def _typical(text: str) -> str:
    """A spec whose symbols come with the extents that decide what sizes decide."""
    return re.sub(r"[a-z]+(?=[,\]])", lambda found: f"{found[0]}={TYPICAL[found[0]]}", text)


def source_of(definition: Definition, backend: str) -> str:
    """The emitted module, forward and gradient, which can be run as a script."""
    specs = [tgc.spec(_typical(text)) for text in definition.specs]
    lowered = tgc.jit(definition.function).lower(*specs, grad=True, **TARGETS[backend])
    return lowered.script


def stale(definition: Definition, backend: str) -> str | None:
    """A unified diff from the module checked in to the one emitted now; None where they are equal."""
    path = path_of(definition, backend)
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    new = source_of(definition, backend)
    if old == new:
        return None
    lines = difflib.unified_diff(
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        f"a/{path.name}",
        f"b/{path.name}",
    )
    return "".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write every module, or with --check print the differences and return 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m kernels.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("names", nargs="*", help="functions to generate; default: all")
    options = parser.parse_args(arguments)
    known = {definition.name: definition for definition in DEFINITIONS}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no such function: {', '.join(unknown)}; there are {', '.join(known)}")
    differences = 0
    for name in options.names or known:
        for backend in TARGETS:
            if options.check:
                difference = stale(known[name], backend)
                if difference is not None:
                    differences += 1
                    print(difference)
                continue
            path = path_of(known[name], backend)
            path.write_text(source_of(known[name], backend), encoding="utf-8")
            print(path.relative_to(FOLDER.parent.parent))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
