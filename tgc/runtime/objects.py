"""LLVM text becomes object code in memory; the object code lies in the cache.

Its key there is what the text is made of, by which compiler, for which processor and interpreter: object code holds no
address, so that it can be kept, and where it is found no text is made.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tgc.runtime.cache import cache, key_of

_loading = threading.Lock()
_METH_FASTCALL = 0x80


class Source(NamedTuple):
    """A module: `text` makes its text of nothing but `identity` and the interpreter.

    `plain`: it has no loops worth optimising, which would take longer than to write a kernel.
    """

    identity: str
    text: Callable[[], str]
    plain: bool = False


def load(*modules: Source) -> Any:
    """The execution engine that holds the functions and variables of modules: one engine costs more than a module."""
    import llvmlite.binding as llvm

    with _loading:
        codes = [_object_code(module) for module in modules]
        llvm.initialize_native_target()
        machine = llvm.Target.from_default_triple().create_target_machine(opt=0, jit=True)
        nothing = llvm.parse_assembly("")
        # One piece of memory for all sections: where the address space is in use they would else come to lie further
        # apart than 32 bits reach, at which LLVM aborts.
        engine = llvm.create_mcjit_compiler(nothing, machine, use_lmm=True)
        engine.remove_module(nothing)  # or that is compiled, which takes longer than all the rest
        for code in codes:
            engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        _keep(engine)
        return engine


def fill(engine: Any, name: str, value: int) -> None:
    """Set a variable of 64 bits."""
    ctypes.c_void_p.from_address(engine.get_global_value_address(name)).value = value


def fill_table(engine: Any, name: str, values: Sequence[int]) -> None:
    """Set a variable of as many times 64 bits."""
    words = (ctypes.c_void_p * len(values))(*values)
    ctypes.memmove(engine.get_global_value_address(name), words, ctypes.sizeof(words))


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def builtin(name: str, address: int, owner: object = None) -> Any:
    """The built-in function at an address, `PyObject *(owner, PyObject **arguments, Py_ssize_t count)`."""
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype = ctypes.py_object
    make.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    return make(_method(name, address), owner, None)


@lru_cache(maxsize=4096)
def _method(name: str, address: int) -> int:
    method = _MethodDef(name.encode(), address, _METH_FASTCALL, None)
    _keep(method)
    return ctypes.addressof(method)


def _keep(thing: object) -> None:
    """Keep something for good: native code may be called from anywhere, also while the interpreter ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def assembly(text: str) -> str:
    """What the processor runs, as text."""
    return _machine().emit_assembly(_optimised(text))  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def features() -> Any:
    """What the processor has, by LLVM's names."""
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_features()


@lru_cache(maxsize=1)
def _host() -> tuple[str, str]:
    """The processor's name and features, as LLVM writes them."""
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_name(), features().flatten()


def _machine(opt: int = 2) -> Any:
    """What writes code for this processor."""
    return _machine_for(*_host(), opt)


@lru_cache(maxsize=2)
def _machine_for(cpu: str, features: str, opt: int) -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu,
        features=features,
        opt=opt,
        jit=True,
        reloc="pic",
        codemodel="small",
    )


def _optimised(text: str) -> Any:
    """The module with its functions inlined and its variables in registers.

    Loops are vectors already, so the standard pipelines would spend ten times as long to find nothing.
    """
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(text)
    builder = llvm.create_pass_builder(_machine(), llvm.create_pipeline_tuning_options())
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_new_gvn_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.run(module, builder)
    return module


def _object_code(module: Source) -> bytes:
    """The object code of a module, from the cache where it has been compiled before."""
    import llvmlite.binding as llvm

    made_for = f"{_host()} {llvm.llvm_version_info} {sys.version}"
    key = key_of("object", made_for, str(module.plain), module.identity)
    found = cache().load_bytes(key)
    if found is None:
        machine, text = _machine(0 if module.plain else 2), module.text()
        found = machine.emit_object(llvm.parse_assembly(text) if module.plain else _optimised(text))
        cache().store_bytes(key, found)
    return found
