"""What a function sees besides its arguments: globals, closure cells, and attributes of what those hold.

Two uses. *Guards*: numbers, bools and strings that the function may read, and which functions and objects it names,
are part of its key, so that it is traced again when one has changed or a name was bound to another. *Captured arrays*:
a tensor that tracing lifted to an input is looked up again at each call, so that `w = w - step` on a global is seen.

Both are found by name, without running anything: the names in the function's code and, through functions it refers
to, in theirs.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache, partial
from types import CellType, CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import numpy as np

from tgc.runtime.watch import Watch

Get = Callable[[], Any]
Scalar = (bool, int, float, str, type(None))
_MOST_FUNCTIONS = 64
_DEPTH = 4
_LONG = 256
_AGAIN = "again"
_PLAIN = (*Scalar, list, tuple, dict, np.ndarray)
_OF_MODULES = frozenset(("training", "_parameters", "_buffers", "_modules"))


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


class Variable:
    """A global, in its namespace, or a closure cell: read by calling it, None if it is gone."""

    __slots__ = ("name", "space")

    def __init__(self, space: dict[str, Any] | CellType, name: str) -> None:
        self.space, self.name = space, name

    def __call__(self) -> Any:
        if isinstance(self.space, dict):
            return self.space.get(self.name)
        try:
            return self.space.cell_contents
        except ValueError:  # emptied
            return None

    def note(self, value: Any, watch: Watch) -> None:
        """Tell where a value was read."""
        place = watch.item if isinstance(self.space, dict) else watch.attribute
        place(self.space, self.name, value, array=is_array(value))


def _own(function: FunctionType) -> Iterator[tuple[Variable, Any]]:
    """Each global and closure cell a function's code names: how to read it, and what it holds now."""
    names = dict.fromkeys(name for code in _codes(function.__code__) for name in code.co_names)
    for name in names:
        if name in function.__globals__:
            yield Variable(function.__globals__, name), function.__globals__[name]
    for cell in function.__closure__ or ():
        try:
            yield Variable(cell, "cell_contents"), cell.cell_contents
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


def seen_by(function: object) -> list[tuple[Variable, Any]]:
    """Everything `function` and the user's functions it names can read; for a torch module, the module."""
    owner = getattr(function, "__self__", function)
    if _is_torch_module(owner):
        return [(Variable({"module": owner}, "module"), owner)]
    first = plain_function(function)
    queue: list[FunctionType] = [] if first is None else [first]
    done: set[int] = set()
    found: list[tuple[Variable, Any]] = []
    while queue and len(done) < _MOST_FUNCTIONS:
        here = queue.pop()
        if id(here) in done:
            continue
        done.add(id(here))
        for get, value in _own(here):
            found.append((get, value))
            inner = None if isinstance(value, type | ModuleType) else plain_function(value)
            if inner is not None and not _is_library(inner.__module__):
                queue.append(inner)
    return found


def _is_library(name: str | None) -> bool:
    top = (name or "").split(".")[0]
    return top in ("tgc", "numpy", "torch", "sympy") or top in sys.stdlib_module_names


class Guards:
    """What a trace of a function depends on besides the types of its arguments, as a key.

    From each global and cell the function names, and from each object among the arguments, a walk goes through
    containers, modules and those attributes that the code names. The key says which numbers, objects and functions it
    met, the types of arrays, and where two ways led to one thing.
    """

    def __init__(self, function: object) -> None:
        seen = seen_by(function)
        self._names = _all_names(function, seen)
        self.roots = [
            get
            for get, value in seen
            if not (isinstance(value, ModuleType) and _is_library(value.__name__))
        ]

    def __call__(
        self, holders: Sequence[object] = (), watch: Watch | None = None
    ) -> tuple[Hashable, ...]:
        """The key now.

        Args:
            holders: the arguments that are objects, whose identity the key need not say.
            watch: is told of each place the walk looks at.
        """
        walk = Walk(self._names, watch)
        found = []
        for get in self.roots:
            value = get()
            if watch is not None:
                get.note(value, watch)
            found.append(walk.value(value, _DEPTH))
        return (*found, *(walk.inside(holder, _DEPTH) for holder in holders))


class Walk:
    """One walk: `met` numbers the containers, objects and arrays in the order in which they were met."""

    def __init__(self, names: frozenset[str], watch: Watch | None) -> None:
        self._names, self._watch = names, watch
        self._met: dict[int, int] = {}

    def value(self, value: Any, depth: int) -> Any:
        """The key of something found at a place."""
        kind: Any = type(value)
        sort = _sort(kind)
        if sort is Scalar:
            return _number(value)
        if id(value) in self._met:
            return (_AGAIN, self._met[id(value)])
        if sort is np.ndarray:
            self._met[id(value)] = len(self._met)
            return type(value)
        if sort is object:
            return (Same(value), self.inside(value, depth))
        if value and len(value) <= _LONG and depth > 0:
            return self.inside(value, depth)
        if self._watch is not None:
            self._watch.container(value)
        return (Same(value), len(value)) if value else kind

    def inside(self, value: Any, depth: int) -> Any:
        """The key of what a container or an object holds."""
        self._met[id(value)] = len(self._met)
        if _is_torch_module(value):
            depth = max(depth, 2)  # however deep modules are in modules
        if depth == 0:
            return type(value)
        inner = _children(value, self._names)
        if self._watch is not None:
            _note(value, inner, self._watch)
        return (type(value), *[(key, self.value(v, depth - 1)) for key, v in inner])


def _note(holder: Any, inner: Sequence[tuple[Any, Any]], watch: Watch) -> None:
    """Tell where an object's or a container's parts were read."""
    if isinstance(holder, dict | list | tuple):
        watch.container(holder)
        for key, value in inner:
            watch.item(holder, key, value, array=is_array(value))
        return
    own = getattr(holder, "__dict__", None)
    if own is not None and not _is_of_library(holder):
        watch.container(own)
    for key, value in inner:
        if own is not None and key in own:
            watch.item(own, key, value, array=is_array(value))
        else:
            of_class = inspect.getattr_static(type(holder), key, None) is value
            watch.attribute(type(holder) if of_class else holder, key, value, array=is_array(value))


def is_array(value: object) -> bool:
    """Whether a value is an array or a tensor."""
    kind: Any = type(value)
    return _sort(kind) is np.ndarray


@lru_cache(maxsize=1024)
def _sort(kind: Any) -> Any:
    """What values of a type are: numbers (`Scalar`), arrays, containers (`list`), or objects."""
    if issubclass(kind, Scalar):
        return Scalar
    torch = sys.modules.get("torch")
    if issubclass(kind, np.ndarray | np.generic) or (torch and issubclass(kind, torch.Tensor)):
        return np.ndarray
    return list if issubclass(kind, list | tuple | dict) else object


def _number(value: Any) -> Hashable:
    """A value that is equal only to itself: 1, 1.0 and True differ, NaN equals NaN."""
    return (type(value), value.hex() if isinstance(value, float) else value)


def _all_names(function: object, seen: Sequence[tuple[Variable, Any]]) -> frozenset[str]:
    return _names(function).union(*(_names(value) for _, value in seen))


def _names(value: object) -> frozenset[str]:
    """The names in the code of a function or property."""
    if isinstance(value, property):
        value = value.fget
    function = None if isinstance(value, type | ModuleType) else plain_function(value)
    codes = () if function is None else _codes(function.__code__)
    return frozenset(name for code in codes for name in code.co_names)


@lru_cache(maxsize=1024)
def _attributes(kind: Any, names: frozenset[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    """The attributes of an object that code with these names reads, itself or in methods; and which its class holds."""
    todo = [*names, "forward", *([] if _is_torch(kind) else ["__call__"])]
    read, of_class = set(todo), []
    while todo:
        name = todo.pop()
        held = inspect.getattr_static(kind, name, None)
        new = _names(held) - read
        read |= new
        todo += new
        if isinstance(held, (*_PLAIN, MemberDescriptorType)) and held is not None:
            of_class.append(name)
    if _is_torch(kind):
        read |= _OF_MODULES
    return frozenset(read), tuple(sorted(of_class))


def _children(holder: Any, names: frozenset[str] | None) -> list[tuple[Any, Any]]:
    """What an object holds, under the keys that `_follow` takes; of attributes those that the code names."""
    if isinstance(holder, dict):
        return list(holder.items())
    if isinstance(holder, (list, tuple)):
        return list(enumerate(holder))
    if _is_of_library(holder) or isinstance(holder, FunctionType | CellType):
        return []
    own = getattr(holder, "__dict__", {})
    held = list(own.items())
    if names is None:
        return held
    if isinstance(holder, type | ModuleType):
        return [(name, value) for name, value in held if name in names]
    kind: Any = type(holder)
    read, of_class = _attributes(kind, names)
    return [(name, value) for name, value in held if name in read] + [
        (name, getattr(holder, name, None)) for name in of_class if name not in own
    ]


def _follow(get: Get, keys: tuple[Any, ...]) -> Any:
    """What is found from a root along keys, None where one is no longer there."""
    value = get()
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, (list, tuple)):
            value = value[key] if key < len(value) else None
        else:
            value = getattr(value, key, None)
    return value


def _is_of_library(value: object) -> bool:
    """Whether nothing in an object is looked at, for a library defines it; torch's modules are looked at."""
    if isinstance(value, ModuleType):
        return _is_library(value.__name__)
    if isinstance(value, type):
        return _is_library(value.__module__)
    top = type(value).__module__.split(".")[0]
    return top in ("tgc", "numpy", "torch", "sympy") and not _is_torch_module(value)


def _held_weakly(value: Any) -> Get:
    """How to get at a value without keeping it alive, where that is possible."""
    try:
        return weakref.ref(value)
    except TypeError:
        return partial(_constant, value)


class Same:
    """An object as a key, by identity; held weakly where that is possible, and once it is gone equal to nothing."""

    __slots__ = ("_get", "_hash")

    def __init__(self, value: object) -> None:
        self._hash = id(value)
        self._get = _held_weakly(value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Same) or other._hash != self._hash:
            return False
        value = self._get()
        return value is not None and other._get() is value

    def __hash__(self) -> int:
        return self._hash


def _is_torch_module(value: object) -> bool:
    kind: Any = type(value)
    return _is_torch(kind)


@lru_cache(maxsize=1024)
def _is_torch(kind: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(kind, torch.nn.Module)


# --- captured arrays ------------------------------------------------------------------------------


def getter_of(target: object, function: object, holders: Sequence[object] = ()) -> Get:
    """How to read a captured array again at a later call; the array itself where no name for it is found."""
    seen = seen_by(function)
    for get, value in seen:
        if value is target:
            return get
    roots: list[tuple[Get, Any]] = [(_held_weakly(holder), holder) for holder in holders]
    roots += seen
    for names in (_all_names(function, seen), None):  # what the code names is searched first
        met: set[int] = set()
        for root, value in roots:
            keys = _find(value, target, names, met, _DEPTH)
            if keys is not None:
                return partial(_follow, root, keys)
    return partial(_constant, target)


def _constant(value: Any) -> Any:
    return value


def _find(
    holder: Any, target: object, names: frozenset[str] | None, met: set[int], depth: int
) -> tuple[Any, ...] | None:
    """The keys to `target` from a list, dict, module or object that holds it."""
    if _is_torch_module(holder):
        depth = max(depth, 2)
    kind: Any = type(holder)
    if depth == 0 or _sort(kind) in (Scalar, np.ndarray):
        return None
    if id(holder) in met or (names is None and isinstance(holder, type | ModuleType)):
        return None
    met.add(id(holder))
    inner = _children(holder, names)
    for key, value in inner:
        if value is target:
            return (key,)
    for key, value in inner:
        found = _find(value, target, names, met, depth - 1)
        if found is not None:
            return (key, *found)
    return None
