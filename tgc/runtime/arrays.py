"""What small calls do with arrays, in native code: compare their types with those of an earlier call, make new ones.

To ask three arrays for dtype, shape and strides takes Python longer than to add them. Native code reads the fields of
the array objects. The code comes with the first kernels that are loaded; until then, and where no native code can be
made, Python asks.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tgc.runtime import blocks, memory, tensor_fields
from tgc.runtime.interpreter import TABLE_ELSEWHERE, Array, Bytes, Object, Tensor, Tuple
from tgc.runtime.objects import Source, builtin, fill_table
from tgc.runtime.routine import NULL, Routine, builtin_routine, giving, integer

_NEVER = 1 << 62
_TYPES = (
    *(np.float32, np.float64, np.int64, np.int32, np.bool_),
    *(np.float16, np.int8, np.int16, np.uint8),
)
_CODES = {"f": 2, "i": 0, "u": 1, "b": 6}  # DLPack's, by numpy's kinds

_attached = False
_alike = 0  # the address of the comparison, once there is one
_empty: Callable[..., np.ndarray[Any, Any]] | None = None
_for_torch: Callable[..., Any] | None = None
_evict = _pool = 0


def alike(
    values: Sequence[Any], state: Sequence[tuple[Callable[[], Any], Any]] = ()
) -> Callable[..., bool] | None:
    """A function of as many objects: whether they are arrays of just these dtypes (by identity), shapes and strides,
    or plain tensors (see `tensor_fields.py`) of just these classes, dtypes, shapes and strides.

    First it asks whether all is as it was: functions of nothing, and the objects that they are to return.
    """
    if not _alike:
        return None
    words = [len(values)]
    for value in values:
        if isinstance(value, np.ndarray):
            words += [id(np.ndarray), id(value.dtype), value.ndim, *value.shape, *value.strides]
        else:
            kind, shape = id(type(value)), value.shape
            words += [kind, tensor_fields.type_of(value), len(shape), *shape, *value.stride()]
    packed = struct.pack(f"{len(words)}q", *words)
    functions, results = zip(*state) if state else ((), ())
    alive = [(type(v), v.dtype) for v in values]
    owned = (packed, functions, results, alive)
    made: Callable[..., bool] = builtin("alike", _alike, owned)
    return made


def empty(*, small: bool = False) -> Callable[..., np.ndarray[Any, Any]]:
    """What emitted code makes its arrays with; `small`: none is as large as `memory.LEAST`."""
    return _empty or (np.empty if small else memory.empty)


def empty_for_torch() -> Callable[..., Any] | None:
    """The same for arrays that only kernels and `torch_of` see: it makes DLPack's capsules. None if it cannot."""
    return _for_torch


def attached() -> bool:
    """Whether an engine's functions are in use."""
    return _attached


def attach(engine: Any) -> None:
    """Take the functions of `SOURCE` into use, which an engine holds."""
    global _attached, _alike, _empty, _for_torch, _evict, _pool
    fill_table(engine, "types", [word for kind in _TYPES for word in _entry(kind)])
    fill_table(engine, "pool", [*_bounds().values()])
    _evict = engine.get_function_address("evict")
    _pool = engine.get_global_value_address("pool")
    _empty = builtin("empty", engine.get_function_address("empty"), memory.empty)
    _for_torch = builtin("empty", engine.get_function_address("empty.dltensor"), _dltensor)
    _alike = engine.get_function_address("alike")
    _attached = True


def _entry(kind: Any) -> tuple[int, int, int]:
    """A type, its dtype, and what DLPack calls it: code, bits, and one lane."""
    dtype = np.dtype(kind)
    return id(kind), id(dtype), _CODES[dtype.kind] | dtype.itemsize << 11 | 1 << 16


def _bounds() -> dict[str, int]:
    """The words of the pool's state: an empty list, and what bounds it."""
    state = dict.fromkeys(blocks.STATE, 0) | {"keep": memory.KEEP, "stale": round(memory.STALE)}
    state |= {"least": _NEVER, "huge": _NEVER}
    if os.name == "posix":
        state |= {"least": memory.LEAST, "flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
        if hasattr(mmap, "MADV_HUGEPAGE"):
            state["huge"] = memory.HUGE
    return state


def release(keep: int = 0) -> None:
    """Give idle memory back to the system: the oldest beyond `keep` bytes, and all that is stale."""
    if _pool:
        ctypes.CFUNCTYPE(None, ctypes.c_int64)(_evict)(keep)


def pool() -> Any:
    """The words of the pool's state, `blocks.STATE` names them; None where there is no pool."""
    return (ctypes.c_int64 * len(blocks.STATE)).from_address(_pool) if _pool else None


def _dltensor(shape: Any, dtype: Any) -> Any:
    """numpy's array as a capsule, for what native code does not make."""
    return memory.empty(shape, dtype).__dlpack__()


def _forget() -> None:
    """After a fork: a thread that is not here may have been at the list."""
    state = pool()
    if state is not None and state[0]:
        state[:4] = [0] * 4


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


# --- native code ----------------------------------------------------------------------------------------------------


def _text() -> str:
    empties = (_builtin_make("empty", "false"), _builtin_make("empty.dltensor", "true"))
    routines = (_alike_text(), giving("no", "False"), *empties, _make(), _known())
    data = f"""
@types = global [{3 * len(_TYPES)} x i64] zeroinitializer
declare {{ i64, i1 }} @llvm.smul.with.overflow.i64(i64, i64)
"""
    return TABLE_ELSEWHERE + data + "\n".join(r.text() for r in routines) + blocks.text()


SOURCE = Source("arrays", _text, plain=True)
"""What `attach` wants in an engine, beside a module that has the table of functions."""


def _expect(f: Routine, condition: str) -> None:
    """`if (!condition) return False`"""
    with f.unless(condition):
        f.give(f.call("ptr", "@no"))


def _alike_text() -> Routine:
    """Whether functions return what they did and the arguments are arrays and tensors like those before.

    %self is a tuple: of words (how many arguments; then of each its class, dtype, rank, shape and strides), of
    functions, of their results.
    """
    f = builtin_routine("alike")
    parts = f.at("ptr %self", Tuple.items.offset)
    words, functions, results = (f.element(parts, integer(k)) for k in range(3))
    _expect(f, f.test("eq", "i64 %count", f.get(Bytes.content, words)))

    first, then = (f.at(part, Tuple.items.offset) for part in (functions, results))
    with f.each(f.get(Tuple.length, functions)) as k:
        now = f.api("PyObject_CallNoArgs", f.element(first, k))
        with f.when(f.is_null(now)):
            f.give(NULL)
        f.api("Py_DecRef", now)  # what it should be is held elsewhere
        _expect(f, f.test("eq", now, f.element(then, k)))

    at = f.variable(f.at(words, Bytes.content.offset + 8))
    type_at, rank_at = (f.variable(integer(0)) for _ in range(2))
    shape_at, strides_at = (f.variable(NULL) for _ in range(2))
    with f.each("i64 %count") as k:
        thing, known = f.element("ptr %arguments", k), f.read(at, "ptr")
        _expect(f, f.test("eq", f.get(Object.kind, thing), f.element(known, integer(0))))
        with f.when(f.kind_is(thing, "ndarray")):
            f.write(type_at, f.let("i64", f"ptrtoint {f.get(Array.dtype, thing)} to i64"))
            f.write(rank_at, f.let("i64", f"sext {f.get(Array.rank, thing)} to i64"))
            f.write(shape_at, f.get(Array.shape, thing))
            f.write(strides_at, f.get(Array.strides, thing))
        with f.unless(f.kind_is(thing, "ndarray")):
            body = f.read(f.within(thing, Tensor.BODY), "ptr")
            _expect(f, f.test("eq", f.read(f.within(body, Tensor.KEYS)), f.word(Tensor.PLAIN)))
            _expect(f, f.is_null(f.read(f.within(body, Tensor.HISTORY), "ptr")))
            number = f.read(f.within(body, Tensor.TYPE), "i16")
            f.write(type_at, f.let("i64", f"zext {number} to i64"))
            rank = f.within(body, Tensor.RANK)
            f.write(rank_at, f.read(rank))
            f.write(shape_at, f.at(rank, 8))
            f.write(strides_at, f.within(body, Tensor.STRIDES))
        _expect(f, f.test("eq", f.read(type_at), f.element(known, integer(1), "i64")))
        rank = f.read(rank_at)
        _expect(f, f.test("eq", rank, f.element(known, integer(2), "i64")))
        shape, strides = f.read(shape_at, "ptr"), f.read(strides_at, "ptr")
        shape_known = f.beyond(known, integer(3))
        strides_known = f.beyond(shape_known, rank)
        with f.each(rank) as d:
            _expect(f, f.test("eq", f.element(shape, d, "i64"), f.element(shape_known, d, "i64")))
            _expect(
                f, f.test("eq", f.element(strides, d, "i64"), f.element(strides_known, d, "i64"))
            )
        f.write(at, f.beyond(strides_known, rank))
    yes = f.object("True")
    f.api("Py_IncRef", yes)
    f.give(yes)
    return f


def _builtin_make(name: str, for_torch: str) -> Routine:
    """`make` as a built-in function."""
    f = builtin_routine(name)
    f.give(f.call("ptr", "@make", "ptr %self", "ptr %arguments", "i64 %count", f"i1 {for_torch}"))
    return f


def _make() -> Routine:
    """A new array, or DLPack's capsule: of a shape, an int or a tuple of up to four, and of one of the known types.

    All else is left to %self, which takes the same arguments; so are the shapes that are errors.
    """
    f = Routine("ptr", "make", "ptr %self", "ptr %arguments", "i64 %count", "i1 %for.torch")

    def leave_unless(condition: str) -> None:
        with f.unless(condition):
            call = ("ptr %self", "ptr %arguments", "i64 %count", NULL)
            f.give(f.api("PyObject_Vectorcall", *call))

    leave_unless(f.test("eq", "i64 %count", integer(2)))
    extents, kind = (f.element("ptr %arguments", integer(k)) for k in range(2))
    entry = f.call("ptr", "@known", kind)
    leave_unless(f.test("ne", entry, NULL))
    dtype, dlpack = f.element(entry, integer(1)), f.element(entry, integer(2), "i64")

    rank_at, first_at = f.variable(integer(1)), f.variable("ptr %arguments")
    with f.unless(f.kind_is(extents, "int")):
        leave_unless(f.kind_is(extents, "tuple"))
        length = f.get(Tuple.length, extents)
        leave_unless(f.test("sle", length, integer(4)))
        f.write(rank_at, length)
        f.write(first_at, f.at(extents, Tuple.items.offset))
    rank, first = f.read(rank_at), f.read(first_at, "ptr")

    shape = f.room("[4 x i64]")
    bits = f.let("i64", f"lshr {dlpack}, 11")
    bytes_at = f.variable(f.let("i64", f"and {bits}, 31"))
    with f.each(rank) as d:
        extent = f.element(first, d)
        leave_unless(f.kind_is(extent, "int"))
        value = f.api("PyLong_AsLongLong", extent)  # -1 and an error if it is too large
        with f.when(f.test("slt", value, integer(0))):
            f.api("PyErr_Clear")
        pair = "{ i64, i1 }"
        product = f"{pair} @llvm.smul.with.overflow.i64({f.read(bytes_at)}, {value})"
        product = f.let(pair, f"call {product}")
        f.write(bytes_at, f.let("i64", f"extractvalue {product}, 0"))
        over = f.let("i1", f"extractvalue {product}, 1")
        leave_unless(f.test("eq", f.either(over, f.test("slt", value, integer(0))), "i1 false"))
        f.write(f.beyond(shape, d), value)
    nbytes, rank = f.read(bytes_at), f.let("i32", f"trunc {rank} to i32")

    with f.unless("i1 %for.torch"), f.when(f.test("ult", nbytes, blocks.pool(f, blocks.LEAST))):
        f.give(blocks.new_array(f, dtype, rank, shape, NULL, flags=0))
    block = f.call("ptr", "@acquire", nbytes)
    leave_unless(f.test("ne", block, NULL))
    with f.when("i1 %for.torch"):
        f.give(f.call("ptr", "@dltensor", block, dlpack, rank, shape))
    f.give(f.call("ptr", "@array", block, dtype, rank, shape))
    return f


def _known() -> Routine:
    """Where a type stands in the table of types, or null."""
    f = Routine("ptr", "known", "ptr %type")
    at = f.variable("ptr @types")
    with f.each(integer(len(_TYPES))):
        entry = f.read(at, "ptr")
        with f.when(f.test("eq", "ptr %type", f.element(entry, integer(0)))):
            f.give(entry)
        f.write(at, f.at(entry, 24))
    f.give(NULL)
    return f
