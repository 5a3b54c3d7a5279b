"""Every switch of tgc, in one frozen record.

| field | environment | meaning |
|---|---|---|
| `backend` | `TGC_BACKEND` | `native`, `numpy` or `triton`; default: by the device, and whether llvmlite is there |
| `cache_dir` | `TGC_CACHE_DIR` | where emitted sources are kept; default `$XDG_CACHE_HOME/tgc` |
| `cache_bytes` | `TGC_CACHE_BYTES` | size cap of that folder |
| `debug` | `TGC_DEBUG` | 1 logs each compilation, 2 also graphs, 3 also kernels, 4 also sources |
| `dump` | `TGC_DUMP` | a folder that receives every graph, kernel and source |
| `threads` | `TGC_THREADS` | threads a call on the CPU may use; default: the cores this process may run on |
| `keep_pages` | `TGC_KEEP_PAGES` | have the C allocator keep freed memory: process-wide and for good (glibc alone) |
| `verify` | `TGC_VERIFY` | verify graphs and kernels after every pass (on by default) |
| `disable` | `TGC_DISABLE` | run decorated functions as plain Python |

Settings say what a program means or where it runs; tuning choices (block sizes) are not settings.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any


def _flag(name: str, default: bool) -> bool:
    return os.environ.get(name, "1" if default else "0").lower() not in ("", "0", "false", "no")


def _cache_dir() -> str:
    given = os.environ.get("TGC_CACHE_DIR")
    if given:
        return given
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "tgc")


@dataclass(frozen=True)
class Settings:
    """One value per switch; the table above documents each."""

    backend: str | None
    cache_dir: str | os.PathLike[str]
    cache_bytes: int
    debug: int
    dump: str | os.PathLike[str] | None
    threads: int | None
    keep_pages: bool
    verify: bool
    disable: bool

    @staticmethod
    def from_environment() -> Settings:
        """Read the TGC_* variables once."""
        return Settings(
            backend=os.environ.get("TGC_BACKEND") or None,
            cache_dir=_cache_dir(),
            cache_bytes=int(os.environ.get("TGC_CACHE_BYTES", str(256 << 20))),
            debug=int(os.environ.get("TGC_DEBUG", "0")),
            dump=os.environ.get("TGC_DUMP") or None,
            threads=int(os.environ.get("TGC_THREADS", "0")) or None,
            keep_pages=_flag("TGC_KEEP_PAGES", False),
            verify=_flag("TGC_VERIFY", True),
            disable=_flag("TGC_DISABLE", False),
        )


def _keep_pages() -> None:
    """Tell glibc never to give pages back: fresh ones cost torch and numpy more than most operations on them do."""
    import ctypes

    process = ctypes.CDLL(None) if os.name == "posix" else None
    if not hasattr(process, "gnu_get_libc_version"):
        warnings.warn("keep_pages: only glibc's allocator has such a switch", stacklevel=3)
        return
    trim_threshold, mmap_max = -1, -4
    process.mallopt(trim_threshold, -1)  # type: ignore[union-attr]  # the heap never shrinks
    process.mallopt(mmap_max, 0)  # type: ignore[union-attr]  # and large blocks come from it too


_current: ContextVar[Settings | None] = ContextVar("tgc_settings", default=None)
_process = Settings.from_environment()
if _process.keep_pages:
    _keep_pages()


def current() -> Settings:
    """The settings in force in this context."""
    return _current.get() or _process


# The settings of the innermost `with settings(...)` block, or None outside of one: a cheap part of a call's key.
override = _current.get
# Puts them in force in a context that begins without.
adopt = _current.set


class _Changes(contextlib.ContextDecorator):
    """A class, not a generator: one that is collected would end the block, such as when the interpreter ends."""

    def __init__(self, changes: dict[str, Any]) -> None:
        self._changes = changes

    def _recreate_cm(self) -> _Changes:
        return _Changes(self._changes)

    def __enter__(self) -> Settings:
        self._token = _current.set(replace(current(), **self._changes))
        if self._changes.get("keep_pages"):
            _keep_pages()
        return current()

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def settings(**changes: Any) -> _Changes:
    """Change settings inside a `with` block.

    Raises:
        TypeError: on entering the block, for a name that is not a field of `Settings`.
    """
    return _Changes(changes)
