"""Scalar expressions over the operation table: what sympy's answers are turned into before anything uses them.

A term is an operand (`a`, `b`, `c`, or the output `y`), a number, or an operation of the table over terms. Terms are
written as nested calls, `div(1, add(1, exp(neg(a))))`, which is also the grammar of expansions and of edge policies
in the table. They can be priced, run in numpy at any precision, and printed as Python that builds nodes.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from tgc.ir.ops import OPS, OpSpec

Array = NDArray[Any]


@dataclass(frozen=True)
class Var:
    """An operand, or the output `y`."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Num:
    """A literal."""

    value: float

    def __str__(self) -> str:
        return str(int(self.value)) if self.value == int(self.value) else repr(self.value)


@dataclass(frozen=True)
class Apply:
    """A table operation over terms."""

    op: str
    args: tuple[Term, ...]

    def __str__(self) -> str:
        return f"{self.op}({', '.join(map(str, self.args))})"


Term = Union[Var, Num, Apply]

OPERANDS = ("a", "b", "c")


def apply(op: str, *args: Term) -> Term:
    """An operation; arithmetic on numbers is done now."""
    if all(isinstance(a, Num) for a in args) and op in ("add", "sub", "mul", "div", "neg"):
        values = [a.value for a in args if isinstance(a, Num)]
        if op == "neg":
            return Num(-values[0])
        x, y = values
        return Num({"add": x + y, "sub": x - y, "mul": x * y, "div": x / y if y else float("nan")}[op])
    return Apply(op, args)


@lru_cache(maxsize=None)
def parse(text: str) -> Term:
    """Read nested calls. Names `and`, `or`, `not` are Python's own, so they are read with a trailing underscore."""
    for word in ("and", "or", "not"):
        text = text.replace(f"{word}(", f"{word}_(")
    return _read(ast.parse(text, mode="eval").body)


def _read(tree: ast.expr) -> Term:
    if isinstance(tree, ast.Name):
        return Var(tree.id)
    if isinstance(tree, ast.Constant):
        return Num(float(tree.value))  # type: ignore[arg-type]
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        return apply("neg", _read(tree.operand))
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        op = tree.func.id.rstrip("_")
        if op not in OPS or len(tree.args) != OPS[op].arity:
            raise ValueError(f"no operation {op} of {len(tree.args)} operands")
        return apply(op, *(_read(a) for a in tree.args))
    raise ValueError(f"not a term: {ast.unparse(tree)}")


def subterms(term: Term, seen: set[Term] | None = None) -> Iterator[Term]:
    """Each distinct subterm once, arguments first."""
    seen = set() if seen is None else seen
    if term in seen:
        return
    seen.add(term)
    if isinstance(term, Apply):
        for arg in term.args:
            yield from subterms(arg, seen)
    yield term


def cost(term: Term) -> float:
    """The price of the distinct operations of a term; operands and the output `y` are free.

    Constants cost a little, so that of equal forms the shorter wins.
    """
    total = 0.0
    for part in subterms(term):
        if isinstance(part, Apply):
            total += OPS[part.op].cost if part.op != "neg" else 0.5
        elif isinstance(part, Num):
            total += 0.01
    return total


def uses(term: Term, name: str) -> bool:
    """Whether an operand occurs in a term."""
    return any(isinstance(part, Var) and part.name == name for part in subterms(term))


def replace(term: Term, old: Term, new: Term) -> Term:
    """The term with one subterm replaced wherever it occurs."""
    if term == old:
        return new
    if isinstance(term, Apply):
        return Apply(term.op, tuple(replace(a, old, new) for a in term.args))
    return term


def bind(term: Term, values: Mapping[str, Term]) -> Term:
    """The term with operands replaced by terms."""
    if isinstance(term, Var):
        return values.get(term.name, term)
    if isinstance(term, Apply):
        return Apply(term.op, tuple(bind(a, values) for a in term.args))
    return term


# --- running --------------------------------------------------------------------------------------------------------


def run(term: Term, operands: Mapping[str, Array]) -> Array:
    """Evaluate in numpy, rounding after each operation, in the dtype of the operands."""
    dtype = next(iter(operands.values())).dtype
    done: dict[Term, Array] = {}
    for part in subterms(term):
        if isinstance(part, Var):
            done[part] = operands[part.name]
        elif isinstance(part, Num):
            done[part] = np.asarray(part.value, dtype)
        else:
            done[part] = run_op(part.op, tuple(done[a] for a in part.args), dtype)
    return done[term]


def run_op(op: str, args: tuple[Array, ...], dtype: Any) -> Array:
    """One table operation in numpy: its ufunc, or its expansion."""
    spec = OPS[op]
    if spec.numpy is not None:
        function: Callable[..., Array] = getattr(np, spec.numpy)
        return np.asarray(function(*args))
    text = expansion(spec, dtype)
    if text is None:
        raise ValueError(f"{op} has neither a numpy name nor an expansion")
    return run(parse(text), dict(zip(OPERANDS, args)))


def expansion(spec: OpSpec, dtype: Any) -> str | None:
    """The expansion that serves a numpy dtype."""
    if spec.expansion64 is not None and np.dtype(dtype) == np.float64:
        return spec.expansion64
    return spec.expansion


def runner(op: str, term: Term) -> Callable[..., Array]:
    """A function of the operands of `op` that evaluates a term over them and the output `y`."""

    def call(*operands: Array) -> Array:
        env: dict[str, Array] = dict(zip(OPERANDS, operands))
        if uses(term, "y"):
            env["y"] = run_op(op, operands, operands[0].dtype)
        return np.broadcast_to(run(term, env), operands[0].shape)

    return call
