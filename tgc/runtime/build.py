"""Emitted text becomes a Python module.

The text that was checked is what is compiled: the file is not read a second time. Modules carry their path (or, for
entries in memory, a loader that returns the text), so that tracebacks, `inspect.getsource` and Triton, which reads
the source of its kernels, find it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tgc.runtime.cache import Entry

_PACKAGE = "tgc_kernels"
_modules: dict[str, ModuleType] = {}
_lock = threading.Lock()


class _Text:
    """What `linecache` asks for a module's source."""

    def __init__(self, text: str) -> None:
        self._text = text

    def get_source(self, _name: str) -> str:
        return self._text


def module_of(entry: Entry) -> ModuleType:
    """The module of an entry, executed once per process."""
    place = str(entry.path) if entry.path is not None else f"tgc-memory-{entry.name}.py"
    module = _modules.get(place)
    if module is not None and module.__dict__["__text__"] == entry.text:
        return module
    with _lock:
        return _execute(entry, place)


def _execute(entry: Entry, place: str) -> ModuleType:
    name = f"{_PACKAGE}.{entry.name}"
    module = ModuleType(name)
    module.__file__ = place
    module.__dict__["__loader__"] = _Text(entry.text)
    module.__dict__["__text__"] = entry.text
    code = compile(entry.text, place, "exec", dont_inherit=True)
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    _modules[place] = module
    return module


def function_of(entry: Entry, name: str) -> Callable[..., tuple[Any, ...]]:
    """The host function `name` of an entry's module."""
    function: Callable[..., tuple[Any, ...]] = getattr(module_of(entry), name)
    return function
