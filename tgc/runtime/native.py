"""LLVM text becomes functions Python can call.

Each kernel of a module gets a wrapper with the calling convention of built-in functions, in LLVM as well: it reads
the addresses of arrays out of the array objects and DLPack's capsules, integers and floats out of Python numbers,
releases the interpreter lock where there is more than one program, hands the programs to a team of threads if it is
given one, and costs a tenth of a ctypes call. What a wrapper needs of the interpreter it finds in variables that are
filled when the code is loaded.
"""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from tgc.runtime import arrays
from tgc.runtime.objects import assembly, builtin, features, fill, interpreter, load

Kernel = Callable[..., None]

_DEFINE = re.compile(r"^define void @([\w.]+)\((.*?)\)", re.MULTILINE)
_STREAMS = re.compile(r"align \d+ ; streams align (\d+)$", re.MULTILINE)
_API = (
    "PyLong_AsLongLong",
    "PyFloat_AsDouble",
    "PyEval_SaveThread",
    "PyEval_RestoreThread",
    "PyErr_SetString",
    "PyObject_IsInstance",
    "Py_IncRef",
    "PyCapsule_GetPointer",
)


@lru_cache(maxsize=1)
def unavailable() -> str | None:
    """Why native code cannot be made here, or None."""
    try:
        import llvmlite.binding as llvm
    except ImportError:
        return 'llvmlite is not installed (pip install "tgc[cpu]")'
    # As the manual of free-threaded CPython says; sysconfig takes milliseconds to know the same.
    if sys.implementation.name != "cpython" or "free-threading" in sys.version:
        return "it knows the array objects of CPython with the interpreter lock alone"
    if llvm.get_process_triple().startswith("x86_64") and not features()["fma"]:
        return "the processor has no fused multiply-add, on which its functions rest"
    probe = np.arange(3.0)
    found = ctypes.c_void_p.from_address(id(probe) + object.__basicsize__).value
    return (
        None
        if found == probe.__array_interface__["data"][0]
        else "arrays are laid out in an unknown way"
    )


class Module:
    """The kernels of one LLVM text: `module["name"](buffers..., sizes..., programs, piece, team)`.

    `piece` programs are worth the while of a thread of the team; `team` is what `tgc.runtime.team.team` gives, or 0 for
    the calling thread alone. `streaming` gives the same kernel with stores that pass by the caches, compiled at the
    first use.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.kernels = _load(text)
        self._streaming: dict[str, Kernel] | None = None
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Kernel:
        return self.kernels[name]

    def streaming(self, name: str) -> Kernel:
        """The kernel for outputs larger than the caches. Their rows must start at multiples of 64 bytes."""
        with self._lock:
            if self._streaming is None:
                self._streaming = _load(streaming_text(self.text))
        return self._streaming[name]

    def assembly(self) -> str:
        """What the processor runs, as text."""
        return assembly(_with_wrappers(self.text))


def streaming_text(text: str) -> str:
    """The same module, its marked stores non-temporal."""
    changed = _STREAMS.sub(r"align \1, !nontemporal !0", text)
    return changed + "\n!0 = !{i32 1}\n" if changed != text else text


# --- wrappers -------------------------------------------------------------------------------------------------------


def _with_wrappers(text: str) -> str:
    names = [*_API, "None", "int", "ndarray", "TypeError", "capsule"]
    slots = "\n".join(f"@api.{name} = global ptr null" for name in names)
    wrappers = [_wrapper(name, parameters) for name, parameters in _DEFINE.findall(text)]
    messages = [
        _message("count", "wrong number of arguments"),
        _message("type", "expected an array or a pointer"),
        _message("name", "dltensor").replace("wrong.", ""),
    ]
    return "\n".join([slots, *messages, text, _POINTER_OF, *wrappers])


def _message(name: str, text: str) -> str:
    return f'@wrong.{name} = constant [{len(text) + 1} x i8] c"{text}\\00"'


_POINTER_OF = f"""
define internal i1 @pointer.of(ptr %object, ptr %result) noinline {{
  %type.at = getelementptr i8, ptr %object, i64 {object.__basicsize__ - 8}
  %type = load ptr, ptr %type.at
  %ndarray = load ptr, ptr @api.ndarray
  %exact = icmp eq ptr %type, %ndarray
  br i1 %exact, label %array, label %other
array:
  %data.at = getelementptr i8, ptr %object, i64 {object.__basicsize__}
  %data = load ptr, ptr %data.at
  store ptr %data, ptr %result
  ret i1 true
other:
  %int = load ptr, ptr @api.int
  %number = icmp eq ptr %type, %int
  br i1 %number, label %pointer, label %capsules
pointer:
  %as.int = load ptr, ptr @api.PyLong_AsLongLong
  %value = call i64 %as.int(ptr %object)
  %address = inttoptr i64 %value to ptr
  store ptr %address, ptr %result
  ret i1 true
capsules:
  %capsule = load ptr, ptr @api.capsule
  %dlpack = icmp eq ptr %type, %capsule
  br i1 %dlpack, label %tensor, label %maybe
tensor:
  %content = load ptr, ptr @api.PyCapsule_GetPointer
  %dltensor = call ptr %content(ptr %object, ptr @name)
  %taken = icmp eq ptr %dltensor, null
  br i1 %taken, label %failed, label %untaken
untaken:
  %data.there = load ptr, ptr %dltensor
  store ptr %data.there, ptr %result
  ret i1 true
failed:
  ret i1 false
maybe:
  %isinstance = load ptr, ptr @api.PyObject_IsInstance
  %found = call i32 %isinstance(ptr %object, ptr %ndarray)
  %subclass = icmp eq i32 %found, 1
  br i1 %subclass, label %array, label %neither
neither:
  %set = load ptr, ptr @api.PyErr_SetString
  %kind = load ptr, ptr @api.TypeError
  call void %set(ptr %kind, ptr @wrong.type)
  ret i1 false
}}
"""


def _wrapper(name: str, parameters: str) -> str:
    """`PyObject *name.call(self, arguments, count)`, and the kernel as a team calls it.

    The kernel's own last parameters are the first program and the one after the last; the wrapper's are programs, piece
    and team.
    """
    given = [p.split()[0] for p in parameters.split(", ")][:-2]
    kinds = [*given, "i64", "i64", "i64"]
    lines = [
        f"define ptr @{name}.call(ptr %self, ptr %arguments, i64 %count) {{",
        *(f"  %slot.{k} = alloca ptr" for k, kind in enumerate(kinds) if kind == "ptr"),
        f"  %given = alloca [{len(given)} x i64]",
        f"  %right = icmp eq i64 %count, {len(kinds)}",
        "  br i1 %right, label %take.0, label %wrong",
        "wrong:",
        "  %set = load ptr, ptr @api.PyErr_SetString",
        "  %kind = load ptr, ptr @api.TypeError",
        "  call void %set(ptr %kind, ptr @wrong.count)",
        "  ret ptr null",
        "failed:",
        "  ret ptr null",
        "take.0:",
        "  %as.int = load ptr, ptr @api.PyLong_AsLongLong",
        "  %as.float = load ptr, ptr @api.PyFloat_AsDouble",
    ]
    for k, kind in enumerate(kinds):
        lines += [
            f"  %at.{k} = getelementptr ptr, ptr %arguments, i64 {k}",
            f"  %object.{k} = load ptr, ptr %at.{k}",
        ]
        if kind == "ptr":
            lines += [
                f"  %fine.{k} = call i1 @pointer.of(ptr %object.{k}, ptr %slot.{k})",
                f"  br i1 %fine.{k}, label %take.{k + 1}, label %failed",
                f"take.{k + 1}:",
                f"  %value.{k} = load ptr, ptr %slot.{k}",
            ]
        else:
            convert = "as.float" if kind == "double" else "as.int"
            lines.append(f"  %value.{k} = call {kind} %{convert}(ptr %object.{k})")
            lines += [f"  br label %take.{k + 1}", f"take.{k + 1}:"]
    programs, piece, team = (f"%value.{len(given) + k}" for k in range(3))
    passed = ", ".join(f"{kind} %value.{k}" for k, kind in enumerate(given))
    stored = [
        line
        for k, kind in enumerate(given)
        for line in (
            f"  %given.{k} = getelementptr i64, ptr %given, i64 {k}",
            f"  store {kind} %value.{k}, ptr %given.{k}",
        )
    ]
    lines += [
        f"  %long = icmp sgt i64 {programs}, 1",
        "  br i1 %long, label %free, label %held",
        "held:",
        f"  call void @{name}({passed}, i64 0, i64 {programs})",
        "  br label %done",
        "free:",
        "  %save = load ptr, ptr @api.PyEval_SaveThread",
        "  %state = call ptr %save()",
        f"  %alone = icmp eq i64 {team}, 0",
        "  br i1 %alone, label %one, label %several",
        "one:",
        f"  call void @{name}({passed}, i64 0, i64 {programs})",
        "  br label %back",
        "several:",
        *stored,
        f"  %team = inttoptr i64 {team} to ptr",
        "  %run = load ptr, ptr %team",
        f"  call void %run(ptr %team, ptr @{name}.range, ptr %given, i64 {programs}, i64 {piece})",
        "  br label %back",
        "back:",
        "  %restore = load ptr, ptr @api.PyEval_RestoreThread",
        "  call void %restore(ptr %state)",
        "  br label %done",
        "done:",
        "  %none = load ptr, ptr @api.None",
        "  %keep = load ptr, ptr @api.Py_IncRef",
        "  call void %keep(ptr %none)",
        "  ret ptr %none",
        "}",
        f"define internal void @{name}.range(ptr %given, i64 %first, i64 %last) {{",
    ]
    for k, kind in enumerate(given):
        lines.append(f"  %given.{k} = getelementptr i64, ptr %given, i64 {k}")
        lines.append(f"  %value.{k} = load {kind}, ptr %given.{k}")
    lines += [f"  call void @{name}({passed}, i64 %first, i64 %last)", "  ret void", "}"]
    return "\n".join(lines)


def _load(text: str) -> dict[str, Kernel]:
    wrapped = _with_wrappers(text)
    if arrays.attached():
        engine = load(wrapped)
    else:
        engine = load(wrapped, arrays.TEXT)
        arrays.attach(engine)
    for name in _API:
        fill(engine, f"api.{name}", interpreter(name))
    for thing in (None, int, np.ndarray, TypeError):
        fill(engine, f"api.{getattr(thing, '__name__', thing)}", id(thing))
    fill(engine, "api.capsule", id(arrays.CAPSULE))
    names = [name for name, _ in _DEFINE.findall(text)]
    return {name: builtin(name, engine.get_function_address(f"{name}.call")) for name in names}
