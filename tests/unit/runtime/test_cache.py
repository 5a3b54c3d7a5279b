"""The disk cache: what is read back is what was written, and nothing else is ever used."""

from __future__ import annotations

import multiprocessing
import os
import stat
import threading
import warnings
from pathlib import Path

import pytest

from tgc.runtime.build import function_of, module_of
from tgc.runtime.cache import Cache, Entry, key_of, seal, unseal

SOURCE = "def f(x):\n    return (x + 1,)\n"
META = {"function": "f", "guards": []}
LIMIT = 1 << 20


def only_file(cache: Cache) -> Path:
    (found,) = (path for path, _ in cache.files())
    return found


def test_what_is_stored_is_loaded(tmp_path: Path) -> None:
    stored = Cache(tmp_path, LIMIT).store("k", SOURCE, META)
    (loaded,) = Cache(tmp_path, LIMIT).load("k")
    assert loaded == stored and loaded.meta == META
    assert SOURCE in loaded.text
    assert function_of(loaded, "f")(2) == (3,)


def test_an_unknown_key_has_no_entries(tmp_path: Path) -> None:
    cache = Cache(tmp_path, LIMIT)
    cache.store("k", SOURCE, META)
    assert cache.load("other") == []


def test_a_key_holds_several_regimes(tmp_path: Path) -> None:
    cache = Cache(tmp_path, LIMIT)
    for high in (10, 20, 30):
        cache.store("k", SOURCE, META | {"guards": [["n", None, high]]})
    assert [e.meta["guards"][0][2] for e in cache.load("k")] == [10, 20, 30]


def test_storing_the_same_twice_keeps_one_file(tmp_path: Path) -> None:
    first = Cache(tmp_path, LIMIT).store("k", SOURCE, META)
    second = Cache(tmp_path, LIMIT).store("k", SOURCE, META)
    assert first.path == second.path
    assert only_file(Cache(tmp_path, LIMIT)) == first.path


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("x + 1", "x + 2"),
        lambda text: text.replace('"function"', '"funktion"'),
        lambda text: text.replace("schema 1", "schema 0"),
        lambda text: text + "import os\n",
        lambda text: "import os\n" + text,
        lambda text: "",
    ],
    ids=["cut", "altered", "metadata", "schema", "appended", "prepended", "empty"],
)
def test_a_damaged_entry_is_ignored_and_rewritten(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = Cache(tmp_path, LIMIT).store("k", SOURCE, META).path
    assert path is not None
    whole = path.read_text()
    assert damage(whole) != whole
    path.write_text(damage(whole))
    fresh = Cache(tmp_path, LIMIT)
    assert fresh.load("k") == []
    fresh.store("k", SOURCE, META)
    assert path.read_text() == whole
    assert len(Cache(tmp_path, LIMIT).load("k")) == 1


def test_an_entry_that_is_not_text_is_ignored(tmp_path: Path) -> None:
    cache = Cache(tmp_path, LIMIT)
    path = cache.store("k", SOURCE, META).path
    assert path is not None
    path.write_bytes(b"\xff\xfe\x00")
    assert cache.load("k") == []


def test_a_damaged_entry_does_not_hide_the_next(tmp_path: Path) -> None:
    cache = Cache(tmp_path, LIMIT)
    first = cache.store("k", SOURCE, META)
    cache.store("k", SOURCE, META | {"guards": [["n", 1, None]]})
    assert first.path is not None
    first.path.write_text("nothing")
    assert [e.meta["guards"] for e in cache.load("k")] == [[["n", 1, None]]]


def test_the_folder_is_private(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new", LIMIT)
    cache.store("k", SOURCE, META)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(cache).stat().st_mode) == 0o600


def test_a_folder_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    good = Cache(tmp_path, LIMIT)
    good.store("k", SOURCE, META)
    good.folder.chmod(0o777)
    cache = Cache(tmp_path, LIMIT)
    assert cache.load("k") == [], "someone else may have written these"
    with pytest.warns(RuntimeWarning, match="memory only"):
        cache.store("k", SOURCE, META)
    assert len(list(cache.files())) == 1, "nothing was added"


def test_an_unusable_folder_warns_once_and_works_from_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file", LIMIT)
    with pytest.warns(RuntimeWarning, match="TGC_CACHE_DIR"):
        entry = cache.store("k", SOURCE, META)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.store("other", SOURCE, META)
    assert entry.path is None
    assert function_of(entry, "f")(1) == (2,)
    assert [e.meta for e in cache.load("k")] == [META]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_still_read(tmp_path: Path) -> None:
    Cache(tmp_path, LIMIT).store("k", SOURCE, META)
    folder = Cache(tmp_path, LIMIT).folder
    folder.chmod(0o500)
    try:
        cache = Cache(tmp_path, LIMIT)
        assert len(cache.load("k")) == 1
        with pytest.warns(RuntimeWarning, match="memory only"):
            cache.store("other", SOURCE, META)
    finally:
        folder.chmod(0o700)


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, LIMIT)
    for number in range(4):
        path = cache.store(f"key{number}", SOURCE, META).path
        assert path is not None
        os.utime(path, (1000 + number, 1000 + number))
    cache.load("key0")  # now the most recent
    cache.limit = cache.size() // 2
    cache.sweep()
    assert [bool(cache.load(f"key{n}")) for n in range(4)] == [True, False, False, True]
    assert cache.size() <= cache.limit


def test_stores_keep_the_folder_below_its_limit(tmp_path: Path) -> None:
    size = len(seal(SOURCE, META))
    cache = Cache(tmp_path, 10 * size)
    for number in range(100):
        cache.store(f"key{number}", SOURCE, META)
    assert cache.size() <= 30 * size  # swept now and then, not at every store


def _store_many(folder: str, start: int) -> None:
    cache = Cache(Path(folder), LIMIT)
    for number in range(30):
        cache.store("shared", SOURCE, META | {"guards": [["n", number % 5, start % 2]]})
        assert all(unseal(e.text) is not None for e in cache.load("shared"))


def test_processes_may_store_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_store_many, args=(str(tmp_path), n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0] * 4
    entries = Cache(tmp_path, LIMIT).load("shared")
    assert len(entries) == 10
    assert len({e.text for e in entries}) == 10
    assert not list(Cache(tmp_path, LIMIT).folder.glob("*.tmp"))


def test_threads_may_store_at_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path, LIMIT)
    threads = [threading.Thread(target=_store_many, args=(str(tmp_path), n)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache.load("shared")) == 10


def test_keys_depend_on_every_part_and_its_boundaries() -> None:
    keys = {key_of("a", "b"), key_of("ab"), key_of("a", "b", ""), key_of("b", "a")}
    assert len(keys) == 4
    assert key_of("a", "b") == key_of("a", "b")


@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
def test_source_can_be_inspected(tmp_path: Path, on_disk: bool) -> None:
    import inspect

    if on_disk:
        entry = Cache(tmp_path, LIMIT).store("k", SOURCE, META)
    else:
        entry = Entry("k-m0", seal(SOURCE, META), META)
    assert inspect.getsource(module_of(entry).f) == SOURCE


def test_a_module_runs_once(tmp_path: Path) -> None:
    entry = Cache(tmp_path, LIMIT).store("k", "state = []\n", META)
    assert module_of(entry) is module_of(entry)


def test_a_module_that_fails_is_not_kept(tmp_path: Path) -> None:
    import sys

    entry = Cache(tmp_path, LIMIT).store("k", "raise ValueError('no')\n", META)
    with pytest.raises(ValueError, match="no"):
        module_of(entry)
    assert f"tgc_kernels.{entry.name}" not in sys.modules
