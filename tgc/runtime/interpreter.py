"""What native code knows of the interpreter, of numpy and of libc: where their functions are, and their structures.

Object code holds no address, so that it can be kept. It finds functions and objects through a table, `@api`, which is
filled when the code is loaded. The fields of objects are read in place, where the headers of C have them; that they
are there is looked up, on an example of each, before any native code is made.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

# --- structures -----------------------------------------------------------------------------------------------------


class Field(NamedTuple):
    """A field of a structure of C."""

    type: str  # LLVM's
    offset: int


_HEAD = object.__basicsize__


class Object:
    """CPython's PyObject."""

    kind = Field("ptr", _HEAD - 8)


class Tuple:
    """CPython's PyTupleObject."""

    length = Field("i64", _HEAD)
    items = Field("ptr", tuple.__basicsize__)  # the first; the others follow


class Bytes:
    """CPython's PyBytesObject."""

    content = Field("i64", bytes.__basicsize__ - 1)  # the first eight


class Array:
    """numpy's PyArrayObject."""

    data = Field("ptr", _HEAD)
    rank = Field("i32", _HEAD + 8)
    shape = Field("ptr", _HEAD + 16)
    strides = Field("ptr", _HEAD + 24)
    dtype = Field("ptr", _HEAD + 40)


class Tensor(IntEnum):
    """What is known of torch's objects: places in a table of words, offsets where nothing else is said."""

    CLASS = 0  # its own two, themselves
    PARAMETER = 1
    BODY = 2  # in the object: the TensorImpl, which holds what follows
    KEYS = 3
    PLAIN = 4  # the keys of plain tensors, themselves
    HISTORY = 5  # null, or what autograd knows
    RANK = 6  # before the extents
    STRIDES = 7
    OFFSET = 8
    TYPE = 9  # 16 bits
    STORAGE = 10
    DATA = 11  # in the storage


TENSOR_WORDS = (ctypes.c_int64 * len(Tensor))()
"""The table: zeros until `tensor_fields.py` has found all of it."""

_ARRAY = np.zeros((2, 3, 5), np.float32)[:, ::-1]
_PAIR = (_ARRAY, 7)
_TEXT = b"\x01\x02\x03\x04\x05\x06\x07\x08"

_EXAMPLES: tuple[tuple[object, Field, Callable[[int], bool]], ...] = (
    (_ARRAY, Object.kind, lambda there: there == id(np.ndarray)),
    (_PAIR, Tuple.length, lambda there: there == 2),
    (_PAIR, Tuple.items, lambda there: there == id(_ARRAY)),
    (_TEXT, Bytes.content, lambda there: there == int.from_bytes(_TEXT, "little")),
    (_ARRAY, Array.data, lambda there: there == _ARRAY.__array_interface__["data"][0]),
    (_ARRAY, Array.rank, lambda there: there == 3),
    (_ARRAY, Array.dtype, lambda there: there == id(_ARRAY.dtype)),
    (_ARRAY, Array.shape, lambda there: _words(there) == _ARRAY.shape),
    (_ARRAY, Array.strides, lambda there: _words(there) == _ARRAY.strides),
)
"""An object, one of its fields, and what must be there. Addresses are followed last, if all else is right."""


def _words(address: int) -> tuple[int, ...]:
    return tuple((ctypes.c_int64 * 3).from_address(address))


def is_laid_out_as_known() -> bool:
    """Whether the fields of objects are where native code reads them."""
    kinds = {"ptr": ctypes.c_int64, "i64": ctypes.c_int64, "i32": ctypes.c_int32}
    return all(
        right(kinds[field.type].from_address(id(thing) + field.offset).value)
        for thing, field, right in _EXAMPLES
    )


# --- functions and objects ------------------------------------------------------------------------------------------

_PYTHON = {
    "Py_IncRef": "void",
    "Py_DecRef": "void",
    "PyObject_CallNoArgs": "ptr",
    "PyObject_Vectorcall": "ptr",
    "PyObject_VectorcallMethod": "ptr",
    "PyObject_IsInstance": "i32",
    "PyLong_AsLongLong": "i64",
    "PyLong_FromLongLong": "ptr",
    "PyFloat_AsDouble": "double",
    "PyErr_SetString": "void",
    "PyErr_Clear": "void",
    "PyMem_RawMalloc": "ptr",
    "PyMem_RawFree": "void",
    "PyCapsule_New": "ptr",
    "PyCapsule_GetPointer": "ptr",
    "PyCapsule_IsValid": "i32",
    "PyEval_SaveThread": "ptr",
    "PyEval_RestoreThread": "void",
    "PyThread_acquire_lock": "i32",
    "PyThread_acquire_lock_timed": "i32",
    "PyThread_release_lock": "void",
}
_NUMPY = {"PyArray_NewFromDescr": "ptr", "PyArray_SetBaseObject": "i32"}
_PLACES = {"PyArray_NewFromDescr": 94, "PyArray_SetBaseObject": 282}
"""Where functions are in numpy's table: places never change."""
_LIBC = {"time": "i64", "mmap": "ptr", "munmap": "i32", "madvise": "i32"}
RESULTS = _PYTHON | _NUMPY | _LIBC
"""The functions that native code calls, and the types of their results."""

_NUMPY_TABLE: Any = np._core._multiarray_umath._ARRAY_API  # type: ignore[attr-defined]
OBJECTS: dict[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "int": int,
    "tuple": tuple,
    "ndarray": np.ndarray,
    "capsule": type(_NUMPY_TABLE),
    "TypeError": TypeError,
    "data_ptr": "data_ptr",
}
_ORDER = (*RESULTS, *OBJECTS, "tensors")

TABLE = f"@api = global [{len(_ORDER)} x ptr] zeroinitializer\n"
TABLE_ELSEWHERE = f"@api = external global [{len(_ORDER)} x ptr]\n"
"""The table in one module of an engine, and in the others that use it."""


def entry(name: str) -> str:
    """The operands of a `load` of a function or an object."""
    return f"ptr, ptr getelementptr (ptr, ptr @api, i64 {_ORDER.index(name)})"


@lru_cache(maxsize=1)
def addresses() -> tuple[int, ...]:
    """What the table is filled with."""
    python = [_address(getattr(ctypes.pythonapi, name)) for name in _PYTHON]
    objects = (*map(id, OBJECTS.values()), ctypes.addressof(TENSOR_WORDS))
    return (*python, *_numpy(), *_libc(), *objects)


def _address(found: Any) -> int:
    """Where a function of a library is."""
    return ctypes.c_void_p.from_address(ctypes.addressof(found)).value or 0


def _numpy() -> list[int]:
    """numpy's functions, found as modules in C find them."""
    content = ctypes.pythonapi.PyCapsule_GetPointer
    content.restype, content.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    table = ctypes.cast(content(_NUMPY_TABLE, None), ctypes.POINTER(ctypes.c_void_p))
    return [table[_PLACES[name]] or 0 for name in _NUMPY]


def _libc() -> list[int]:
    """libc's functions; zeros where there is no such libc."""
    if os.name != "posix":
        return [0] * len(_LIBC)
    libc = ctypes.CDLL(None)
    return [_address(getattr(libc, name)) for name in _LIBC]
