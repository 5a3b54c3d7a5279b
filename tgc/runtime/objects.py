"""LLVM text becomes object code in memory; the object code lies in the cache.

Its key there is the text, the processor and the LLVM version: object code holds no address, so that it can be kept.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tgc.runtime.cache import cache

_loading = threading.Lock()
_METH_FASTCALL = 0x80


def load(text: str, *plain: str) -> Any:
    """The execution engine that holds the functions and variables of modules: one engine costs more than a module.

    The text of those in `plain` has no loops worth optimising, which would take longer than to write a kernel.
    """
    import llvmlite.binding as llvm

    with _loading:
        codes = [_object_code(text), *[_object_code(other, plain=True) for other in plain]]
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


def interpreter(name: str) -> int:
    """The address of a function of the interpreter."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


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


def _object_code(text: str, *, plain: bool = False) -> bytes:
    """The object code of a module, from the cache where it has been compiled before."""
    import llvmlite.binding as llvm

    key = hashlib.sha256(
        f"{_host()} {llvm.llvm_version_info} {plain}\n{text}".encode()
    ).hexdigest()[:40]
    found = cache().load_bytes(key)
    if found is None:
        machine = _machine(0 if plain else 2)
        found = machine.emit_object(llvm.parse_assembly(text) if plain else _optimised(text))
        cache().store_bytes(key, found)
    return found
