"""What a fold starts with, how it takes in a value, and LLVM's name for folding the lanes of a vector."""

from __future__ import annotations

from tgc.codegen.native.instructions import constant, instruction
from tgc.codegen.native.llvm import Function, Value
from tgc.ir.nodes import combination, identity
from tgc.kernel.ir import Reduce


def start(fold: Reduce) -> Value:
    """What a fold of nothing is."""
    return constant(identity(fold.monoid, fold.dtype), fold.dtype)


def merge(f: Function, fold: Reduce, old: Value, new: Value) -> Value:
    op = combination(fold.monoid, fold.dtype)
    return instruction(f, fold.name, op, [old, new], fold.dtype)


def reduction(fold: Reduce) -> str:
    """The name of LLVM's reduction over the lanes of a vector."""
    if fold.monoid in ("any", "all"):
        return "or" if fold.monoid == "any" else "and"
    if fold.monoid in ("max", "min"):
        if fold.dtype.is_float:
            return f"f{fold.monoid}imum"
        if fold.dtype.kind == "bool":
            return "or" if fold.monoid == "max" else "and"
        return f"{'s' if fold.dtype.kind == 'int' else 'u'}{fold.monoid}"
    word = "add" if fold.monoid == "sum" else "mul"
    return f"f{word}" if fold.dtype.is_float else word
