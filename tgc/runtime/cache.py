"""Emitted source kept between processes.

One entry is one Python file: a header line with the length, a line of JSON that says how to call what follows, the
emitted module, and a footer with the SHA-256 of everything between. The header and the footer are checked before
anything is used; an entry that fails is ignored and written again. Entries are never changed in place: they are
written beside and moved, so that readers in other processes see all of one or nothing.

A key is derived from the traced graph before any derivation or scheduling (see `runtime/program.py`), and can have
several entries, one per regime of sizes: `<key>-0.py`, `<key>-1.py`, ... A folder that cannot be written, or that
somebody else could write to, is not used: entries then live in memory only, which is said once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tgc.settings import current

SCHEMA = 1
_MARK = f"# tgc cache, schema {SCHEMA}, length "
_FOOT = "# sha256 "
_META = "# meta: "
_STORES_PER_SWEEP = 16


@dataclass(frozen=True)
class Entry:
    """One emitted module: the file's whole `text`, what its metadata line says, and where it lies (None: memory)."""

    name: str
    text: str = field(repr=False)
    meta: Mapping[str, Any] = field(repr=False)
    path: Path | None = None


def seal(source: str, meta: Mapping[str, Any]) -> str:
    """The file's text: header, metadata, source, footer."""
    line = json.dumps(meta, sort_keys=True, separators=(",", ":"))
    body = f"{_META}{line}\n{source}"
    if not body.endswith("\n"):
        body += "\n"
    data = body.encode()
    return f"{_MARK}{len(data)}\n{body}{_FOOT}{hashlib.sha256(data).hexdigest()}\n"


def unseal(text: str) -> Mapping[str, Any] | None:
    """The metadata of a file's text, or None if it is cut short, altered or of another schema."""
    head, _, rest = text.partition("\n")
    if not head.startswith(_MARK) or not head[len(_MARK) :].isdecimal():
        return None
    data = rest.encode()
    length = int(head[len(_MARK) :])
    body, foot = data[:length], data[length:]
    if foot != f"{_FOOT}{hashlib.sha256(body).hexdigest()}\n".encode():
        return None
    first = body[: body.index(b"\n")].decode()
    if not first.startswith(_META):
        return None
    meta = json.loads(first[len(_META) :])
    return meta if isinstance(meta, dict) else None


class Cache:
    """The entries in one folder, or in memory where the folder cannot be used."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder / f"v{SCHEMA}"
        self.limit = limit
        self._memory: dict[str, list[Entry]] = {}
        self._lock = threading.Lock()
        self._stores = 0
        self._readable = _is_private(self.folder)
        self._writable = True

    def load(self, key: str) -> list[Entry]:
        """Every sound entry of `key`."""
        found = list(self._memory.get(key, ()))
        if not self._readable:  # it may have been made since
            self._readable = _is_private(self.folder)
        if self._readable:
            for number in range(1 << 16):
                path = self.folder / f"{key}-{number}.py"
                text = _read(path)
                if text is None:
                    break
                meta = unseal(text)
                if meta is not None:
                    found.append(Entry(path.stem, text, meta, path))
                    with contextlib.suppress(OSError):
                        os.utime(path)  # least recently used goes first
        return found

    def store(self, key: str, source: str, meta: Mapping[str, Any]) -> Entry:
        """Keep an emitted module. Never raises for the state of the disk."""
        text = seal(source, meta)
        if self._writable:
            try:
                self._open()
                path = self._write(key, text)
                self._sweep_sometimes()
                return Entry(path.stem, text, meta, path)
            except OSError as error:
                self._give_up(f"{error.strerror or error}: {self.folder}")
        with self._lock:
            entries = self._memory.setdefault(key, [])
            entry = Entry(f"{key}-m{len(entries)}", text, meta)
            entries.append(entry)
        return entry

    # --- object code ---

    def load_bytes(self, key: str) -> bytes | None:
        """What `store_bytes` kept for `key`, if it is whole."""
        if not self._readable:
            return None
        try:
            data = (self.folder / f"{key}-0.o").read_bytes()
        except OSError:
            return None
        body, digest = data[:-32], data[-32:]
        return body if hashlib.sha256(body).digest() == digest else None

    def store_bytes(self, key: str, data: bytes) -> None:
        """Keep bytes that can be made again: where the disk does not take them, they are not kept."""
        if not self._writable:
            return
        with contextlib.suppress(OSError):
            self._open()
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data + hashlib.sha256(data).digest())
                os.replace(name, self.folder / f"{key}-0.o")
            except OSError:
                os.unlink(name)
            self._sweep_sometimes()

    def _open(self) -> None:
        if self._readable:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(self.folder):
            raise OSError(None, "others may write to it, or it belongs to another user")
        self._readable = True

    def _give_up(self, reason: str) -> None:
        with self._lock:
            if not self._writable:
                return
            self._writable = False
        warnings.warn(
            f"tgc keeps compiled kernels in memory only: {reason} "
            "(set TGC_CACHE_DIR to a folder of your own)",
            RuntimeWarning,
            stacklevel=2,
        )

    def _write(self, key: str, text: str) -> Path:
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            for number in range(1 << 16):
                path = self.folder / f"{key}-{number}.py"
                present = _read(path)
                if present is None:
                    if _claim(name, path):
                        return path
                    present = _read(path)
                if present == text:
                    return path
                if present is None or unseal(present) is None:
                    os.replace(name, path)
                    return path
            raise OSError(None, "too many entries of one key")
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    # --- size ---

    def files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Each file of the folder with its status."""
        with contextlib.suppress(OSError), os.scandir(self.folder) as scan:
            for item in scan:
                with contextlib.suppress(FileNotFoundError):
                    if item.is_file(follow_symlinks=False):
                        yield Path(item.path), item.stat(follow_symlinks=False)

    def size(self) -> int:
        """Bytes in the folder."""
        return sum(status.st_size for _, status in self.files())

    def _sweep_sometimes(self) -> None:
        with self._lock:
            self._stores += 1
            due = self._stores % _STORES_PER_SWEEP == 1
        if due:
            self.sweep()

    def sweep(self) -> None:
        """Remove the keys used longest ago until the folder holds no more than `limit` bytes."""
        keys: dict[str, list[tuple[Path, os.stat_result]]] = {}
        for path, status in self.files():
            keys.setdefault(path.stem.rpartition("-")[0], []).append((path, status))
        total = sum(status.st_size for group in keys.values() for _, status in group)
        for group in sorted(keys.values(), key=lambda g: max(s.st_mtime_ns for _, s in g)):
            if total <= self.limit:
                return
            # Highest number first: a reader that meets a gap stops there.
            for path, status in sorted(group, key=lambda item: str(item[0]), reverse=True):
                with contextlib.suppress(OSError):
                    path.unlink()
                total -= status.st_size

    def clear(self) -> None:
        """Remove every entry."""
        for path, _ in self.files():
            with contextlib.suppress(OSError):
                path.unlink()
        with self._lock:
            self._memory.clear()


def _read(path: Path) -> str | None:
    """The text of a file; None if there is none, and "" where there is one that cannot be read as text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return ""


def _claim(temporary: str, path: Path) -> bool:
    """Give the file its name unless another process was faster."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        os.replace(temporary, path)
    return True


def _is_private(folder: Path) -> bool:
    """Whether the folder exists, is ours, and nobody else may write to it."""
    try:
        status = folder.stat()
    except OSError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        return False
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


# --- keys -----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def version() -> str:
    """A fingerprint of the installed compiler: names, sizes and times of its files.

    Reading and hashing a hundred files would cost more than a lookup may.
    """
    digest = hashlib.sha256()
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folders = [top]
    while folders:
        here = folders.pop()
        with os.scandir(here) as scan:
            files = sorted(scan, key=lambda file: file.name)
        for file in files:
            if file.name.endswith(".py"):
                status = file.stat()
                digest.update(
                    f"{file.path[len(top) :]} {status.st_size} {status.st_mtime_ns}\n".encode()
                )
            elif "." not in file.name and file.name != "__pycache__" and file.is_dir():
                folders.append(file.path)
    return digest.hexdigest()


def key_of(*parts: str) -> str:
    """The key of an entry from what its source depends on, besides the compiler itself."""
    digest = hashlib.sha256(f"{SCHEMA} {version()}".encode())
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:40]


_open: dict[tuple[str, int], Cache] = {}
_open_lock = threading.Lock()


def cache() -> Cache:
    """The cache of the settings in force."""
    settings = current()
    place = (os.fspath(settings.cache_dir), settings.cache_bytes)
    found = _open.get(place)
    if found is None:
        with _open_lock:
            found = _open.setdefault(place, Cache(Path(place[0]), place[1]))
    return found
