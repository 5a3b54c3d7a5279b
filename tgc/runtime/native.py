"""LLVM text becomes functions Python can call.

Each kernel of a module gets a wrapper with the calling convention of built-in functions, in LLVM as well: it reads
the addresses of arrays out of the array objects, torch's tensors and DLPack's capsules, integers and floats out of
Python numbers, releases the interpreter lock where there is more than one program, hands the programs to a team of
threads if it is given one, and costs a tenth of a ctypes call. What a wrapper needs of the interpreter it finds in
variables that are filled when the code is loaded.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from tgc.runtime import arrays
from tgc.runtime.interpreter import TABLE, Array, Tensor, addresses, is_laid_out_as_known
from tgc.runtime.objects import Source, assembly, builtin, features, fill_table, load
from tgc.runtime.routine import NULL, Routine, builtin_routine, giving, integer

Kernel = Callable[..., None]

_DEFINE = re.compile(r"^define (void|i64) @([\w.]+)\((.*?)\)", re.MULTILINE)
_first = threading.Lock()  # who loads the code of `arrays`
_STREAMS = re.compile(r"align \d+ ; streams align (\d+)$", re.MULTILINE)


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
    return None if is_laid_out_as_known() else "objects are laid out in an unknown way"


class Module:
    """The kernels of one LLVM text: `module["name"](buffers..., sizes..., programs, piece, team)`.

    `piece` programs are worth the while of a thread of the team; `team` is what `tgc.runtime.team.team` gives, or 0 for
    the calling thread alone. `streaming` gives the same kernel with stores that pass by the caches, compiled at the
    first use.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.kernels, self._engine = _load(text)
        self._streaming: dict[str, Kernel] | None = None
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Kernel:
        return self.kernels[name]

    def streaming(self, name: str) -> Kernel:
        """The kernel for outputs larger than the caches. Their rows must start at multiples of 64 bytes."""
        with self._lock:
            if self._streaming is None:
                self._streaming, _ = _load(streaming_text(self.text))
        return self._streaming[name]

    def address(self, name: str) -> int:
        """Where a function is that is no kernel."""
        found: int = self._engine.get_function_address(name)
        return found

    def assembly(self) -> str:
        """What the processor runs, as text."""
        return assembly(_with_wrappers(self.text))


def streaming_text(text: str) -> str:
    """The same module, its marked stores non-temporal."""
    changed = _STREAMS.sub(r"align \1, !nontemporal !0", text)
    return changed + "\n!0 = !{i32 1}\n" if changed != text else text


# --- wrappers -------------------------------------------------------------------------------------------------------


def _with_wrappers(text: str) -> str:
    routines = [giving("none", "None"), _complain(), _pointer()]
    for result, name, parameters in _DEFINE.findall(text):
        kinds = [p.split()[0] for p in parameters.split(", ")][:-2]
        routines += [_wrapper(result, name, kinds), _range(result, name, kinds)]
    return "\n".join([TABLE, _DATA, text, *(r.text() for r in routines)])


_DATA = """
@wrong.count = constant [26 x i8] c"wrong number of arguments\\00"
@wrong.type = constant [31 x i8] c"expected an array or a pointer\\00"
@name.dltensor = constant [9 x i8] c"dltensor\\00"
"""


def _complain() -> Routine:
    """Raise a TypeError."""
    f = Routine("ptr", "complain", "ptr %message")
    f.api("PyErr_SetString", f.object("TypeError"), "ptr %message")
    f.give(NULL)
    return f


def _pointer() -> Routine:
    """Where the memory of an array, of a tensor, of DLPack's or at an address is; false and an error for all else."""
    f, thing = Routine("i1", "pointer", "ptr %object", "ptr %result"), "ptr %object"

    def give(pointer: str) -> None:
        f.write("ptr %result", pointer)
        f.give("i1 true")

    with f.when(f.kind_is(thing, "ndarray")):
        give(f.get(Array.data, thing))
    with f.when(f.kind_is(thing, "int")):
        give(f.let("ptr", f"inttoptr {f.api('PyLong_AsLongLong', thing)} to ptr"))
    with f.when(f.kind_is(thing, "capsule")):
        tensor = f.api("PyCapsule_GetPointer", thing, "ptr @name.dltensor")
        with f.when(f.is_null(tensor)):  # somebody has taken it over
            f.give("i1 false")
        give(f.read(tensor, "ptr"))
    with f.when(f.is_tensor(thing)):
        body = f.read(f.within(thing, Tensor.BODY), "ptr")
        dense = f.test("eq", f.read(f.within(body, Tensor.KEYS)), f.word(Tensor.PLAIN))
        first = f.test("eq", f.read(f.within(body, Tensor.OFFSET)), integer(0))
        with f.when(f.both(dense, first)):
            storage = f.read(f.within(body, Tensor.STORAGE), "ptr")
            give(f.read(f.within(storage, Tensor.DATA), "ptr"))
    subclass = f.api("PyObject_IsInstance", thing, f.object("ndarray"))
    with f.when(f.test("eq", subclass, "i32 1")):
        give(f.get(Array.data, thing))
    with f.unless(f.test("eq", f.word(Tensor.CLASS), integer(0))):
        other = f.api(
            "PyObject_IsInstance", thing, f.let("ptr", f"inttoptr {f.word(Tensor.CLASS)} to ptr")
        )
        with f.when(
            f.test("eq", other, "i32 1")
        ):  # a view, a subclass, of inference mode: torch knows
            arguments = f.variable(thing)
            asked = f.object("data_ptr"), arguments, integer(1), NULL
            address = f.api("PyObject_VectorcallMethod", *asked)
            with f.when(f.is_null(address)):
                f.give("i1 false")
            value = f.api("PyLong_AsLongLong", address)
            f.api("Py_DecRef", address)
            give(f.let("ptr", f"inttoptr {value} to ptr"))
    f.call("ptr", "@complain", "ptr @wrong.type")
    f.give("i1 false")
    return f


def _wrapper(result: str, name: str, kinds: Sequence[str]) -> Routine:
    """The kernel as a built-in function, of its own parameters of these kinds, then programs, piece and team.

    The kernel's own last parameters are the first program and the one after the last. Of a kernel that has a result
    it is that, or of those of the team's calls one that is not 0.
    """
    f = builtin_routine(f"{name}.call")

    def give(value: str) -> None:
        none = result == "void"
        f.give(f.call("ptr", "@none") if none else f.api("PyLong_FromLongLong", value))

    with f.unless(f.test("eq", "i64 %count", integer(len(kinds) + 3))):
        f.give(f.call("ptr", "@complain", "ptr @wrong.count"))
    values = [
        _converted(f, kind, f.element("ptr %arguments", integer(k)))
        for k, kind in enumerate([*kinds, "i64", "i64", "i64"])
    ]
    *own, programs, piece, team = values
    every = (*own, integer(0), programs)
    with f.unless(f.test("sgt", programs, integer(1))):
        give(f.call(result, f"@{name}", *every))
    state = f.api("PyEval_SaveThread")
    with f.when(f.test("eq", team, integer(0))):
        value = f.call(result, f"@{name}", *every)
        f.api("PyEval_RestoreThread", state)
        give(value)
    found = f.variable(integer(0))
    given = f.room(f"[{len(own) + 1} x i64]")
    for k, value in enumerate([*own, found]):
        f.write(f.at(given, 8 * k), value)
    team = f.let("ptr", f"inttoptr {team} to ptr")
    run = f.read(team, "ptr").split()[1]
    f.call("void", run, team, f"ptr @{name}.range", given, programs, piece)
    f.api("PyEval_RestoreThread", state)
    give(f.read(found))
    return f


def _converted(f: Routine, kind: str, thing: str) -> str:
    """An argument as the kernel takes it. Numbers are of the right type: the host function sees to it."""
    if kind != "ptr":
        return f.api("PyFloat_AsDouble" if kind == "double" else "PyLong_AsLongLong", thing)
    result = f.room("ptr")
    with f.unless(f.call("i1", "@pointer", thing, result)):
        f.give(NULL)
    return f.read(result, "ptr")


def _range(result: str, name: str, kinds: Sequence[str]) -> Routine:
    """The kernel as a team calls it: the address of the arguments and of a result, and a range of programs."""
    f = Routine("void", f"{name}.range", "ptr %given", "i64 %first", "i64 %last")
    given = [f.read(f.at("ptr %given", 8 * k), kind) for k, kind in enumerate(kinds)]
    value = f.call(result, f"@{name}", *given, "i64 %first", "i64 %last")
    if result != "void":
        with f.when(f.test("ne", value, integer(0))):
            f.do(
                f"store atomic {value}, {f.element('ptr %given', integer(len(kinds)))} monotonic, align 8"
            )
    f.give()
    return f


def _load(text: str) -> tuple[dict[str, Kernel], Any]:
    """The kernels of a module by name, and the engine that holds them."""
    source = Source(text, lambda: _with_wrappers(text))
    with _first:
        if arrays.attached():
            engine = load(source)
        else:
            engine = load(source, arrays.SOURCE)
            arrays.attach(engine)
    fill_table(engine, "api", addresses())
    names = [name for _, name, _ in _DEFINE.findall(text)]
    calls = {name: builtin(name, engine.get_function_address(f"{name}.call")) for name in names}
    return calls, engine
