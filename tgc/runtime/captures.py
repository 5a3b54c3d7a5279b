"""What a function sees besides its arguments: globals, closure cells, and attributes of what those hold.

Two uses. *Guards*: numbers, bools and strings that the function may read, and which functions and objects it names,
are part of its key, so that it is traced again when one has changed or a name was bound to another. *Captured arrays*:
a tensor that tracing lifted to an input is looked up again at each call, so that `w = w - step` on a global is seen.

Both are found by name, without running anything: the names in the function's code and, through functions it refers
to, in theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

from tgc.trace.abstract import container_of

Get = Callable[[], Any]
Scalar = (bool, int, float, str, type(None))
_MOST_FUNCTIONS = 64
_DEPTH = 4


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _own(function: FunctionType) -> Iterator[tuple[Get, Any]]:
    """Each global and closure cell a function's code names: how to read it, and what it holds now."""
    names = dict.fromkeys(name for code in _codes(function.__code__) for name in code.co_names)
    for name in names:
        if name in function.__globals__:
            yield partial(function.__globals__.get, name), function.__globals__[name]
    for cell in function.__closure__ or ():
        try:
            yield partial(getattr, cell, "cell_contents", None), cell.cell_contents
        except ValueError:  # not filled yet
            continue


def plain_function(value: object) -> FunctionType | None:
    """The Python function behind a value, if there is one: methods, wrapped and partial functions included."""
    for _ in range(8):
        if isinstance(value, FunctionType):
            return value
        inner = getattr(value, "__wrapped__", None) or getattr(value, "__func__", None)
        if inner is None and isinstance(value, partial):
            inner = value.func
        if inner is None:
            return None
        value = inner
    return None


def seen_by(function: object) -> list[tuple[Get, Any]]:
    """Everything `function` and the user's functions it names can read."""
    first = plain_function(function)
    queue: list[FunctionType] = [] if first is None else [first]
    done: set[int] = set()
    found: list[tuple[Get, Any]] = []
    while queue and len(done) < _MOST_FUNCTIONS:
        here = queue.pop()
        if id(here) in done:
            continue
        done.add(id(here))
        for get, value in _own(here):
            found.append((get, value))
            inner = None if isinstance(value, type | ModuleType) else plain_function(value)
            if inner is not None and not _is_library(inner):
                queue.append(inner)
    return found


def _is_library(function: FunctionType) -> bool:
    top = (function.__module__ or "").split(".")[0]
    return top in ("tgc", "numpy", "torch", "sympy") or top in sys.stdlib_module_names


def guards_of(function: object) -> list[Get]:
    """Getters of the values a trace of `function` depends on."""
    found: list[Get] = []
    seen = seen_by(function)
    names = _names(function).union(*(_names(value) for _, value in seen))
    for get, value in seen:
        if isinstance(value, type | ModuleType):
            continue
        found.append(partial(_typed, get))
        if _is_torch_module(value):
            for part in value.modules():
                read = {"training", *_names(type(part).forward)}
                found += [partial(_parts, part), *_numbers_of(part, read)]
        else:
            found += _numbers_of(value, names)
    return found


def _names(value: object) -> frozenset[str]:
    """The names in the code of a function."""
    function = None if isinstance(value, type | ModuleType) else plain_function(value)
    codes = () if function is None else _codes(function.__code__)
    return frozenset(name for code in codes for name in code.co_names)


def _parts(module: Any) -> tuple[Any, ...]:
    return tuple(module._modules.values())


def _numbers_of(holder: object, names: Collection[str]) -> list[Get]:
    """Guards of those attributes of an object that are numbers and that the code names."""
    held = getattr(holder, "__dict__", None)
    if not isinstance(held, dict) or isinstance(holder, FunctionType):
        return []
    return [
        partial(_typed, partial(held.get, name))
        for name, value in held.items()
        if name in names and isinstance(value, Scalar)
    ]


class Same:
    """An object as a key, by identity."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


def _typed(get: Get) -> Any:
    """A value that is equal only to itself: 1, 1.0 and True differ, NaN equals NaN; of an array the type alone."""
    value = get()
    if type(value) is float:
        return value.hex()
    if isinstance(value, Scalar):
        return (type(value), value)
    return type(value) if container_of(value) is not None else Same(value)


def _is_torch_module(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


# --- captured arrays ------------------------------------------------------------------------------


def getter_of(target: object, function: object, holders: Sequence[object] = ()) -> Get:
    """How to read a captured array again at a later call; the array itself where no name for it is found."""
    seen = seen_by(function)
    for get, value in seen:
        if value is target:
            return get
    for holder in [*holders, *(value for _, value in seen)]:
        found = _inside(holder, target, _DEPTH)
        if found is not None:
            return found
    return partial(_constant, target)


def _constant(value: Any) -> Any:
    return value


def _inside(holder: object, target: object, depth: int) -> Get | None:
    """A getter of `target` from a list, dict, module or object that holds it."""
    if depth == 0 or isinstance(holder, (*Scalar, type, ModuleType, FunctionType, CellType)):
        return None
    items = _items(holder)
    for get, value in items:
        if value is target:
            return get
    for _, value in items:
        if isinstance(value, list | dict) or _is_torch_module(value):
            found = _inside(value, target, depth - 1)
            if found is not None:
                return found
    return None


def _items(holder: object) -> list[tuple[Get, Any]]:
    if isinstance(holder, list | tuple):
        return [(partial(holder.__getitem__, i), v) for i, v in enumerate(holder)]
    if isinstance(holder, dict):
        return [(partial(holder.get, k), v) for k, v in holder.items()]
    inner = getattr(holder, "__dict__", None)
    return (
        []
        if not isinstance(inner, dict)
        else [(partial(inner.get, k), v) for k, v in inner.items()]
    )
