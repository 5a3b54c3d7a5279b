"""What small calls do with arrays, in native code: compare their types with those of an earlier call, make new ones.

To ask three arrays for dtype, shape and strides takes Python longer than to add them. Native code reads the fields of
the array objects where the interface of C has them; that they are there is looked up before anything is believed.
The code comes with the first kernels that are loaded; until then, and where no native code can be made, Python asks.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tgc.runtime import blocks, memory
from tgc.runtime.blocks import state_of
from tgc.runtime.objects import builtin, fill_table, interpreter

_HEAD = object.__basicsize__
DATA, _NDIM, _SHAPE, _STRIDES, _DTYPE = _HEAD, _HEAD + 8, _HEAD + 16, _HEAD + 24, _HEAD + 40
CAPSULE = type(np._core._multiarray_umath._ARRAY_API)  # type: ignore[attr-defined]
_NEVER = 1 << 62
_ITEMS = tuple.__basicsize__
_BYTES = bytes.__basicsize__ - 1
_TYPES = (
    *(np.float32, np.float64, np.int64, np.int32, np.bool_),
    *(np.float16, np.int8, np.int16, np.uint8),
)
_CODES = {"f": 2, "i": 0, "u": 1, "b": 6}  # DLPack's, by numpy's kinds
_API = (
    *("Py_IncRef", "Py_DecRef", "PyObject_CallNoArgs", "PyObject_Vectorcall"),
    *("PyLong_AsLongLong", "PyErr_Clear", "PyMem_RawMalloc", "PyMem_RawFree"),
    *("PyCapsule_New", "PyCapsule_GetPointer", "PyCapsule_IsValid"),
)
_NUMPY = {"PyArray_NewFromDescr": 94, "PyArray_SetBaseObject": 282}
"""Where numpy's C functions are in their table: places never change."""
_LIBC = ("time", "mmap", "munmap", "madvise")
_THINGS = {"ndarray": np.ndarray, "int": int, "tuple": tuple, "True": True, "False": False}
_NAMES = (*_API, *_NUMPY, *_LIBC, *_THINGS, "types")

_attached = False
_alike = 0  # the address of the comparison, once there is one
_empty: Callable[..., np.ndarray[Any, Any]] | None = None
_for_torch: Callable[..., Any] | None = None
_evict = _pool = 0


def alike(
    values: Sequence[np.ndarray[Any, Any]], state: Sequence[tuple[Callable[[], Any], Any]] = ()
) -> Callable[..., bool] | None:
    """A function of as many objects: whether they are arrays of just these dtypes (by identity), shapes and strides.

    First it asks whether all is as it was: functions of nothing, and the objects that they are to return.
    """
    if not _alike:
        return None
    words = [len(values)]
    for value in values:
        words += [id(value.dtype), value.ndim, *value.shape, *value.strides]
    packed = struct.pack(f"{len(words)}q", *words)
    functions, results = zip(*state) if state else ((), ())
    owned = (packed, functions, results, [v.dtype for v in values])  # the last to keep them alive
    made: Callable[..., bool] = builtin("alike", _alike, owned)
    return made


def empty(*, small: bool = False) -> Callable[..., np.ndarray[Any, Any]]:
    """What emitted code makes its arrays with; `small`: none is as large as `memory.LEAST`."""
    return _empty or (np.empty if small else memory.empty)


def empty_for_torch() -> Callable[..., Any] | None:
    """The same for arrays that only kernels and `torch_of` see: it makes DLPack's capsules. None if it cannot."""
    return _for_torch


def attach(engine: Any) -> None:
    """Take the functions of `TEXT` into use, which an engine holds, if objects are as they expect."""
    global _attached, _alike, _empty, _for_torch, _evict, _pool
    _attached = True
    if not _as_expected():
        return
    numpy = _numpy_functions()
    fill_table(
        engine,
        "arrays.api",
        [
            *map(interpreter, _API),
            *[numpy[place] for place in _NUMPY.values()],
            *_libc(),
            *map(id, _THINGS.values()),
            *[word for kind in _TYPES for word in _entry(kind)],
            0,
        ],
    )
    fill_table(engine, "pool", [*_bounds().values()])
    _evict = engine.get_function_address("evict")
    _pool = engine.get_global_value_address("pool")
    _empty = builtin("empty", engine.get_function_address("empty"), memory.empty)
    _for_torch = builtin("empty", engine.get_function_address("dltensor.empty"), _dltensor)
    _alike = engine.get_function_address("alike")


def _entry(kind: Any) -> tuple[int, int, int]:
    """A type, its dtype, and what DLPack calls it: code, bits, and one lane."""
    dtype = np.dtype(kind)
    return id(kind), id(dtype), _CODES[dtype.kind] | dtype.itemsize << 11 | 1 << 16


def _libc() -> list[int]:
    """The addresses of libc's functions; zeros where there is no such libc."""
    if os.name != "posix":
        return [0] * len(_LIBC)
    libc = ctypes.CDLL(None)
    return [ctypes.cast(getattr(libc, name), ctypes.c_void_p).value or 0 for name in _LIBC]


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


def attached() -> bool:
    """Whether that has happened."""
    return _attached


def _as_expected() -> bool:
    """Whether the fields of objects are where native code reads them."""
    probe = np.zeros((2, 3, 5), np.float32)[:, ::-1]
    pair, text = (probe, 7), b"\x01\x02\x03\x04\x05\x06\x07\x08"

    def word(at: int) -> int:
        return ctypes.c_int64.from_address(at).value

    def words(at: int) -> tuple[int, ...]:
        return tuple((ctypes.c_int64 * 3).from_address(word(at)))

    here = id(probe)
    return (
        word(here + _HEAD - 8) == id(np.ndarray)
        and word(here + DATA) == probe.__array_interface__["data"][0]
        and ctypes.c_int.from_address(here + _NDIM).value == 3
        and words(here + _SHAPE) == probe.shape
        and words(here + _STRIDES) == probe.strides
        and word(here + _DTYPE) == id(probe.dtype)
        and (word(id(pair) + _HEAD), word(id(pair) + _ITEMS)) == (2, here)
        and word(id(text) + _BYTES) == int.from_bytes(text, "little")
    )


def _numpy_functions() -> Any:
    """The table of numpy's C functions, as modules in C import it."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    capsule = np._core._multiarray_umath._ARRAY_API  # type: ignore[attr-defined]
    return ctypes.cast(pointer(capsule, None), ctypes.POINTER(ctypes.c_void_p))


def _slot(name: str) -> str:
    """A place in the table."""
    return f"getelementptr (ptr, ptr @arrays.api, i64 {_NAMES.index(name)})"


def _get(name: str) -> str:
    """The operand of a `load` from the table."""
    return f"ptr, ptr {_slot(name)}"


TEXT = f"""
@arrays.api = global [{len(_NAMES) + 3 * len(_TYPES)} x ptr] zeroinitializer

; Whether functions return what they did and the arguments are arrays like those before. %self is a tuple: of words
; (how many arrays; then of each its dtype, number of dimensions, shape and strides), of functions, of their results.
define ptr @alike(ptr %self, ptr %arguments, i64 %count) {{
begin:
  %packed.at = getelementptr i8, ptr %self, i64 {_ITEMS}
  %packed = load ptr, ptr %packed.at
  %number.at = getelementptr i8, ptr %packed, i64 {_BYTES}
  %number = load i64, ptr %number.at
  %words = getelementptr i64, ptr %number.at, i64 1
  %ndarray = load {_get("ndarray")}
  %right = icmp eq i64 %count, %number
  br i1 %right, label %states, label %no
states:
  %functions.at = getelementptr i8, ptr %self, i64 {_ITEMS + 8}
  %functions = load ptr, ptr %functions.at
  %results.at = getelementptr i8, ptr %self, i64 {_ITEMS + 16}
  %results = load ptr, ptr %results.at
  %asked.at = getelementptr i8, ptr %functions, i64 {_HEAD}
  %asked = load i64, ptr %asked.at
  %ask = load {_get("PyObject_CallNoArgs")}
  %drop = load {_get("Py_DecRef")}
  %function.first = getelementptr i8, ptr %functions, i64 {_ITEMS}
  %result.first = getelementptr i8, ptr %results, i64 {_ITEMS}
  br label %state
state:
  %s = phi i64 [ 0, %states ], [ %s.next, %settled ]
  %open = icmp slt i64 %s, %asked
  br i1 %open, label %call, label %next
call:
  %function.at = getelementptr ptr, ptr %function.first, i64 %s
  %function = load ptr, ptr %function.at
  %now = call ptr %ask(ptr %function)
  %failed = icmp eq ptr %now, null
  br i1 %failed, label %error, label %settled
settled:
  call void %drop(ptr %now)  ; what it should be is held elsewhere
  %s.next = add i64 %s, 1
  %then.at = getelementptr ptr, ptr %result.first, i64 %s
  %then = load ptr, ptr %then.at
  %unchanged = icmp eq ptr %now, %then
  br i1 %unchanged, label %state, label %no
error:
  ret ptr null
next:
  %k = phi i64 [ 0, %state ], [ %k.next, %same ]
  %expected = phi ptr [ %words, %state ], [ %following, %same ]
  %more = icmp slt i64 %k, %count
  br i1 %more, label %kind, label %yes
kind:
  %object.at = getelementptr ptr, ptr %arguments, i64 %k
  %object = load ptr, ptr %object.at
  %kind.at = getelementptr i8, ptr %object, i64 {_HEAD - 8}
  %kind.here = load ptr, ptr %kind.at
  %array = icmp eq ptr %kind.here, %ndarray
  br i1 %array, label %type, label %no
type:
  %type.at = getelementptr i8, ptr %object, i64 {_DTYPE}
  %type.here = load i64, ptr %type.at
  %type.there = load i64, ptr %expected
  %type.same = icmp eq i64 %type.here, %type.there
  br i1 %type.same, label %ranks, label %no
ranks:
  %rank.at = getelementptr i8, ptr %object, i64 {_NDIM}
  %rank.int = load i32, ptr %rank.at
  %rank = sext i32 %rank.int to i64
  %rank.there.at = getelementptr i64, ptr %expected, i64 1
  %rank.there = load i64, ptr %rank.there.at
  %shape.there = getelementptr i64, ptr %expected, i64 2
  %strides.there = getelementptr i64, ptr %shape.there, i64 %rank
  %following = getelementptr i64, ptr %strides.there, i64 %rank
  %shape.at = getelementptr i8, ptr %object, i64 {_SHAPE}
  %shape = load ptr, ptr %shape.at
  %strides.at = getelementptr i8, ptr %object, i64 {_STRIDES}
  %strides = load ptr, ptr %strides.at
  %rank.same = icmp eq i64 %rank, %rank.there
  br i1 %rank.same, label %dim, label %no
dim:
  %d = phi i64 [ 0, %ranks ], [ %d.next, %stride ]
  %inside = icmp slt i64 %d, %rank
  br i1 %inside, label %extent, label %same
extent:
  %extent.at = getelementptr i64, ptr %shape, i64 %d
  %extent.here = load i64, ptr %extent.at
  %extent.there.at = getelementptr i64, ptr %shape.there, i64 %d
  %extent.there = load i64, ptr %extent.there.at
  %extent.same = icmp eq i64 %extent.here, %extent.there
  br i1 %extent.same, label %stride, label %no
stride:
  %d.next = add i64 %d, 1
  %stride.at = getelementptr i64, ptr %strides, i64 %d
  %stride.here = load i64, ptr %stride.at
  %stride.there.at = getelementptr i64, ptr %strides.there, i64 %d
  %stride.there = load i64, ptr %stride.there.at
  %stride.same = icmp eq i64 %stride.here, %stride.there
  br i1 %stride.same, label %dim, label %no
same:
  %k.next = add i64 %k, 1
  br label %next
yes:
  %true = load {_get("True")}
  br label %answer
no:
  %false = load {_get("False")}
  br label %answer
answer:
  %result = phi ptr [ %true, %yes ], [ %false, %no ]
  %keep = load {_get("Py_IncRef")}
  call void %keep(ptr %result)
  ret ptr %result
}}

; An array, or DLPack's capsule, of a shape, an integer or a tuple of a few, and of a dtype, one of the table's types;
; %self makes all others.
define internal ptr @make(ptr %self, ptr %arguments, i64 %count, i1 %for.torch) noinline {{
begin:
  %shape = alloca [4 x i64]
  %two = icmp eq i64 %count, 2
  br i1 %two, label %find, label %other
find:
  %given.at = getelementptr ptr, ptr %arguments, i64 1
  %given = load ptr, ptr %given.at
  br label %entry
entry:
  %at = phi ptr [ {_slot("types")}, %find ], [ %at.next, %differs ]
  %known = load ptr, ptr %at
  %known.same = icmp eq ptr %known, %given
  br i1 %known.same, label %found, label %differs
differs:
  %at.next = getelementptr ptr, ptr %at, i64 3
  %last = icmp eq ptr %known, null
  br i1 %last, label %other, label %entry
found:
  %dtype.at = getelementptr ptr, ptr %at, i64 1
  %dtype = load ptr, ptr %dtype.at
  %dlpack.at = getelementptr ptr, ptr %at, i64 2
  %dlpack = load i64, ptr %dlpack.at
  %bits = lshr i64 %dlpack, 8
  %bits.only = and i64 %bits, 255
  %item = lshr i64 %bits.only, 3
  %extents = load ptr, ptr %arguments
  %extents.kind.at = getelementptr i8, ptr %extents, i64 {_HEAD - 8}
  %extents.kind = load ptr, ptr %extents.kind.at
  %int = load {_get("int")}
  %one = icmp eq ptr %extents.kind, %int
  br i1 %one, label %take, label %maybe
maybe:
  %tuple = load {_get("tuple")}
  %several = icmp eq ptr %extents.kind, %tuple
  br i1 %several, label %sized, label %other
sized:
  %rank.at = getelementptr i8, ptr %extents, i64 {_HEAD}
  %rank.there = load i64, ptr %rank.at
  %few = icmp ule i64 %rank.there, 4
  br i1 %few, label %some, label %other
some:
  %items = getelementptr i8, ptr %extents, i64 {_ITEMS}
  br label %take
take:
  %rank = phi i64 [ 1, %found ], [ %rank.there, %some ]
  %objects = phi ptr [ %arguments, %found ], [ %items, %some ]
  %as.int = load {_get("PyLong_AsLongLong")}
  %rank.int = trunc i64 %rank to i32
  br label %next
next:
  %d = phi i64 [ 0, %take ], [ %d.next, %store ]
  %bytes = phi i64 [ %item, %take ], [ %bytes.next, %store ]
  %more = icmp slt i64 %d, %rank
  br i1 %more, label %extent, label %made
extent:
  %object.at = getelementptr ptr, ptr %objects, i64 %d
  %object = load ptr, ptr %object.at
  %object.kind.at = getelementptr i8, ptr %object, i64 {_HEAD - 8}
  %object.kind = load ptr, ptr %object.kind.at
  %plain = icmp eq ptr %object.kind, %int
  br i1 %plain, label %read, label %other
read:
  %value = call i64 %as.int(ptr %object)
  %product = call {{ i64, i1 }} @llvm.umul.with.overflow.i64(i64 %bytes, i64 %value)
  %bytes.next = extractvalue {{ i64, i1 }} %product, 0
  %too.many = extractvalue {{ i64, i1 }} %product, 1
  %negative = icmp slt i64 %value, 0
  %neither = or i1 %too.many, %negative
  br i1 %neither, label %wrong, label %store
store:
  %value.at = getelementptr i64, ptr %shape, i64 %d
  store i64 %value, ptr %value.at
  %d.next = add i64 %d, 1
  br label %next
made:
  br i1 %for.torch, label %allot, label %weigh
weigh:
  %least = load i64, {state_of("least")}
  %small = icmp ult i64 %bytes, %least
  br i1 %small, label %plainly, label %allot
plainly:
  %keep = load {_get("Py_IncRef")}
  call void %keep(ptr %dtype)
  %kind = load {_get("ndarray")}
  %new = load {_get("PyArray_NewFromDescr")}
  %array = call ptr %new(ptr %kind, ptr %dtype, i32 %rank.int, ptr %shape, ptr null, ptr null, i32 0, ptr null)
  ret ptr %array
allot:
  %block = call ptr @acquire(i64 %bytes)
  %none = icmp eq ptr %block, null
  br i1 %none, label %other, label %wrap
wrap:
  br i1 %for.torch, label %capsule, label %stand
stand:
  %standing = call ptr @on.block(ptr %block, ptr %dtype, i32 %rank.int, ptr %shape)
  ret ptr %standing
capsule:
  %tensor = call ptr @as.dltensor(ptr %block, i64 %dlpack, i32 %rank.int, ptr %shape)
  ret ptr %tensor
wrong:
  %clear = load {_get("PyErr_Clear")}
  call void %clear()
  br label %other
other:
  %call = load {_get("PyObject_Vectorcall")}
  %result = call ptr %call(ptr %self, ptr %arguments, i64 %count, ptr null)
  ret ptr %result
}}

define ptr @empty(ptr %self, ptr %arguments, i64 %count) {{
  %made = call ptr @make(ptr %self, ptr %arguments, i64 %count, i1 false)
  ret ptr %made
}}
define ptr @dltensor.empty(ptr %self, ptr %arguments, i64 %count) {{
  %made = call ptr @make(ptr %self, ptr %arguments, i64 %count, i1 true)
  ret ptr %made
}}

{blocks.text(_get)}
"""
