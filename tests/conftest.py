"""Fixtures and options of the whole suite.

Every session (and every xdist worker) gets a cache folder of its own, set before tgc is imported, so that no test
sees a kernel compiled by an earlier version and none writes to the user's cache.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Random graphs compile: a deadline per example would measure the machine. Derandomised, so that a failure repeats.
hypothesis.settings.register_profile("tgc", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("tgc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite golden files and the gallery with what is emitted now",
    )


def pytest_configure(config: pytest.Config) -> None:
    folder = tempfile.mkdtemp(prefix="tgc-tests-")
    os.environ["TGC_CACHE_DIR"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """torch's generator starts from the test's name, so that a test draws the same alone and in the suite."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


# Tests of the way a user's call takes run on the engine a user gets. All others say which engine they are about, or
# are about none: numpy compiles in a tenth of the time.
AS_A_USER = (
    "test_api_autograd",
    "test_api_dispatch",
    "test_donation",
    "test_program",
    "test_steps",
    "test_guarded",
    "test_native",
)


@pytest.fixture(autouse=True)
def _engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.path.stem not in AS_A_USER:
        from tgc.runtime import tensors

        chosen = tensors.cpu_engine
        monkeypatch.setattr(tensors, "cpu_engine", lambda backend: chosen(backend or "numpy"))


@pytest.fixture(scope="module")
def small_heap() -> Iterator[None]:
    """Collections leave out what lives so far: a test that collects need not go through torch's and sympy's objects."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator seeded from the test's name."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compare text with a checked-in file to the byte; with --update-golden, write it."""
    update = request.config.getoption("--update-golden")

    def compare(path: Path, text: str) -> None:
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        name = path.relative_to(ROOT)
        assert path.exists(), f"{name} is missing; write it with: pytest --update-golden"
        assert path.read_text(encoding="utf-8") == text, (
            f"{name} differs from what is emitted now; if that is meant: pytest --update-golden"
        )

    return compare


@pytest.fixture
def root() -> Iterator[Path]:
    """The repository's top folder, as the working folder of the test."""
    before = Path.cwd()
    os.chdir(ROOT)
    yield ROOT
    os.chdir(before)
