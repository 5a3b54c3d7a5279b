"""The folders of tgc/ stand in the order in which data flows through them, and import only upstream.

LAYERS is that order. A module may import its own layer, any layer before it, and the ones open to all; what it needs
from a later layer it is handed as an argument. Imports inside functions count: a hidden edge is still an edge. Those
under `if TYPE_CHECKING:` do not, since they never run.
"""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tgc"
OPEN_TO_ALL = ("errors", "settings", "numerics", "trees")
LAYERS = (
    "ir",
    "trace",
    "calculus",
    "simplify",
    "kernel",  # the dataclasses that the scheduler makes, so before it
    "schedule",
    "codegen",
    "runtime",
    "report",
    "pipeline",
    "lowered",
    "api",
    "sites",
    "transforms",
    "",  # the package itself, which re-exports the api
    "__main__",
)
MAX_LINES = 600
GENERATED = ("kernels/generated/",)
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}


def python_files() -> list[Path]:
    """Every Python file of the repository that a person wrote or could read, environments left out."""
    folders = ("tgc", "kernels", "examples", "bench", "tests")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> tuple[str, ...]:
    """tgc/ir/nodes.py is ("tgc", "ir", "nodes"); a package's __init__.py is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def layer_of(module: tuple[str, ...]) -> str:
    """The name in LAYERS or OPEN_TO_ALL that a module of tgc belongs to."""
    return module[1] if len(module) > 1 else ""


def running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for node in child.orelse:
                yield node
                yield from running_nodes(node)
            continue
        yield child
        yield from running_nodes(child)


def imports(
    source: str, module: tuple[str, ...], *, is_package: bool
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The line and target of each import of tgc; `from tgc.ir import nodes` names tgc.ir.nodes."""
    for node in running_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "tgc":
                    yield node.lineno, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            target = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                here = module if is_package else module[:-1]
                target = here[: len(here) - node.level + 1] + target
            if target[:1] != ("tgc",):
                continue
            for alias in node.names:
                yield node.lineno, (*target, alias.name) if len(target) == 1 else target


def forbidden(source: str, module: tuple[str, ...], *, is_package: bool = False) -> list[str]:
    """Each import that goes against the order of the layers, as text."""
    mine = layer_of(module)
    found = []
    for line, target in imports(source, module, is_package=is_package):
        theirs = layer_of(target)
        if theirs == mine or theirs in OPEN_TO_ALL:
            continue
        if theirs not in LAYERS:
            # A name the package re-exports, such as `from tgc import jit`: an edge to the package itself.
            theirs = ""
        if mine in OPEN_TO_ALL or LAYERS.index(theirs) > LAYERS.index(mine):
            found.append(f"line {line}: {'.'.join(module)} imports {'.'.join(target)}")
    return found


def test_every_module_of_tgc_has_a_layer() -> None:
    known = {*LAYERS, *OPEN_TO_ALL}
    layers = {layer_of(module_of(path)) for path in PACKAGE.rglob("*.py")}
    assert layers <= known, f"put {sorted(layers - known)} into LAYERS, where the data passes them"


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_go_upstream(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert forbidden(source, module_of(path), is_package=path.name == "__init__.py") == []


def test_the_check_itself_sees_each_kind_of_import() -> None:
    module = ("tgc", "ir", "nodes")
    for source in (
        "import tgc.codegen.triton",
        "from tgc.codegen import triton",
        "from ..codegen import triton",
        "from tgc import api",
        "from tgc import jit",
        "def f():\n    from tgc.runtime import cache",
    ):
        assert forbidden(source, module), source
    for source in (
        "from tgc.ir.sizes import Dim",
        "from . import sizes",
        "from tgc import errors",
        "import tgc.numerics.ulp",
        "if TYPE_CHECKING:\n    from tgc.codegen import triton",
        "import numpy",
    ):
        assert not forbidden(source, module), source
    assert forbidden("from tgc.ir import nodes", ("tgc", "numerics", "stress"))


def test_no_file_is_longer_than_a_person_reads() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files()
        if not str(path.relative_to(ROOT)).startswith(GENERATED)
    }
    assert {name: count for name, count in lengths.items() if count > MAX_LINES} == {}


def test_no_module_is_named_after_nothing() -> None:
    named = [str(p.relative_to(ROOT)) for p in python_files() if p.stem.strip("_") in EMPTY_NAMES]
    assert named == []


def test_every_module_says_why_it_exists() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*.py")
        if (source := path.read_text(encoding="utf-8")).strip()
        and not ast.get_docstring(ast.parse(source))
    ]
    assert silent == []


def test_the_map_of_the_runtime_is_whole() -> None:
    folder = PACKAGE / "runtime"
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    table = [line for line in str(text).splitlines() if line.startswith("|")]
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert set(re.findall(r"`(\w+)`", "".join(table))) == modules


def run_python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's second import finds bytecode
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_loads_neither_sympy_nor_torch_nor_triton() -> None:
    heavy = run_python(
        "import sys, tgc\n"
        "print(*[m for m in ('sympy', 'mpmath', 'torch', 'triton', 'llvmlite') if m in sys.modules])"
    )
    assert heavy.split() == []


def test_import_works_without_the_extras() -> None:
    out = run_python(
        "import sys\n"
        "for name in ('torch', 'triton', 'llvmlite', 'ml_dtypes', 'scipy'): sys.modules[name] = None\n"
        "import numpy as np, tgc\n"
        "print(tgc.jit(lambda x: tgc.exp(x) * 2)(np.zeros(3)))"
    )
    assert out.strip() == "[2. 2. 2.]"


def test_import_costs_little_more_than_numpy() -> None:
    """At most 20 ms over numpy's own import; the best of several, since the machine is shared."""
    code = "import numpy, time; start = time.perf_counter(); import tgc; print(time.perf_counter() - start)"
    run_python("import tgc")  # writes the bytecode
    times = []
    for _ in range(15):
        times.append(float(run_python(code)))
        if min(times) < 0.020:
            return
    pytest.fail(
        f"import tgc took {min(times) * 1e3:.1f} ms at best, {statistics.median(times) * 1e3:.1f} ms median"
    )
