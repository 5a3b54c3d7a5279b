"""What a fold starts with, how it takes in a value, and LLVM's name for folding the lanes of a vector."""

from __future__ import annotations

from tgc.codegen.native.instructions import constant, instruction, order
from tgc.codegen.native.llvm import Function, Value
from tgc.ir.nodes import BASIC_MONOIDS
from tgc.kernel.ir import Reduce


def identity(fold: Reduce) -> Value:
    """What a fold of nothing is."""
    value = BASIC_MONOIDS[fold.monoid]
    if fold.dtype.kind in ("int", "uint") and fold.monoid in ("max", "min"):
        bits, signed = 8 * fold.dtype.itemsize, fold.dtype.kind == "int"
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        value = low if fold.monoid == "max" else high
    return constant(value, fold.dtype)


def merge(f: Function, fold: Reduce, old: Value, new: Value) -> Value:
    if fold.monoid in ("max", "min"):
        return Value(order(f, fold.name, fold.monoid, old, new), fold.dtype, old.lanes)
    op = {"sum": "add", "prod": "mul", "any": "or", "all": "and"}[fold.monoid]
    if fold.dtype.kind == "bool":
        op = {"add": "or", "mul": "and"}.get(op, op)
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
