"""What is done with scalar expressions over the operation table: pricing, rewriting, running.

sympy's answers become expressions (see ir/expressions.py) before anything uses them. Their variables are the operands
a, b, c of an operation and its output y.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgc.ir.expressions import Apply, Expression, Number, Variable, parse
from tgc.ir.ops import OPS

Array = NDArray[Any]


OPERANDS = ("a", "b", "c")


def apply(op: str, *args: Expression) -> Expression:
    """An operation; arithmetic on numbers and double negation are done now."""
    if op == "neg" and isinstance(args[0], Apply) and args[0].op == "neg":
        return args[0].args[0]
    if all(isinstance(a, Number) for a in args) and op in ("add", "sub", "mul", "div", "neg"):
        values = [a.value for a in args if isinstance(a, Number)]
        if op == "neg":
            return Number(-values[0])
        x, y = values
        return Number(
            {"add": x + y, "sub": x - y, "mul": x * y, "div": x / y if y else float("nan")}[op]
        )
    return Apply(op, args)


def subterms(term: Expression, seen: set[Expression] | None = None) -> Iterator[Expression]:
    """Each distinct subterm once, arguments first."""
    seen = set() if seen is None else seen
    if term in seen:
        return
    seen.add(term)
    if isinstance(term, Apply):
        for arg in term.args:
            yield from subterms(arg, seen)
    yield term


def cost(*terms: Expression) -> float:
    """The price of the distinct operations of some expressions; operands and the output `y` are free.

    Constants cost a little, so that of equal forms the shorter wins.
    """
    total, seen = 0.0, set[Expression]()
    for term in terms:
        for part in subterms(term, seen):
            if isinstance(part, Apply):
                total += OPS[part.op].cost if part.op != "neg" else 0.5
            elif isinstance(part, Number):
                total += 0.01
    return total


def uses(term: Expression, name: str) -> bool:
    """Whether an operand occurs in a term."""
    return any(isinstance(part, Variable) and part.name == name for part in subterms(term))


def replace(term: Expression, old: Expression, new: Expression) -> Expression:
    """The term with one subterm replaced wherever it occurs."""
    if term == old:
        return new
    if isinstance(term, Apply):
        return Apply(term.op, tuple(replace(a, old, new) for a in term.args))
    return term


def bind(term: Expression, values: Mapping[str, Expression]) -> Expression:
    """The term with operands replaced by terms."""
    if isinstance(term, Variable):
        return values.get(term.name, term)
    if isinstance(term, Apply):
        return apply(term.op, *(bind(a, values) for a in term.args))
    return term


# --- running --------------------------------------------------------------------------------------------------------


def run(term: Expression, operands: Mapping[str, Array]) -> Array:
    """Evaluate in numpy, rounding after each operation, in the dtype of the operands."""
    dtype = next(iter(operands.values())).dtype
    done: dict[Expression, Array] = {}
    for part in subterms(term):
        if isinstance(part, Variable):
            done[part] = operands[part.name]
        elif isinstance(part, Number):
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
    text = spec.expansion_for(np.dtype(dtype).name)
    if text is None:
        raise ValueError(f"{op} has neither a numpy name nor an expansion")
    return run(parse(text), dict(zip(OPERANDS, args)))


def runner(op: str, term: Expression) -> Callable[..., Array]:
    """A function of the operands of `op` that evaluates a term over them and the output `y`."""

    def call(*operands: Array) -> Array:
        env: dict[str, Array] = dict(zip(OPERANDS, operands))
        if uses(term, "y"):
            env["y"] = run_op(op, operands, operands[0].dtype)
        return np.broadcast_to(run(term, env), operands[0].shape)

    return call
