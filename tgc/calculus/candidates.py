"""Equal forms of one derivative: what the stress gate chooses from.

Algebra offers many spellings of a derivative and says nothing about which of them floats can bear. The generators
here are general; none knows any operation by name, save that the logistic function and its relatives are worth
recognising. Each form is checked against the plain derivative by the caller, so a generator may be wrong at branch
points without harm.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from tgc.calculus.formulas import Reference, formula, opaque, symbols
from tgc.ir.ops import OPS, OpSpec

RECOGNISED = (
    "sigmoid",
    "softplus",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log1p",
    "sin",
    "cos",
    "sinh",
    "cosh",
    "tanh",
    "sech2",
    "erfc",
)
"""Unary operations a derivative may turn out to be, up to a factor."""


def candidates(spec: OpSpec, plain: Any, symbol: Any) -> list[Any]:
    """Equal forms of `plain`, the derivative of the operation by one operand; the plain one comes first."""
    import sympy

    found: dict[Any, None] = {}
    whole = formula(spec)
    if plain.is_number:
        return [plain]
    generators: list[Callable[[], Iterator[Any]]] = [
        lambda: iter([plain]),
        lambda: _algebra(plain),
        lambda: _from_output(whole, plain),
        lambda: _on_positives(whole, plain),
        lambda: _solved(whole, plain, symbol, spec),
        lambda: _recognised(spec, plain),
        lambda: _logistic(plain),
    ]
    for generate in generators:
        for form in _safely(generate):
            for variant in (form, *_safely(lambda form=form: _with_hypot(form))):  # type: ignore[misc]
                if not variant.has(sympy.I, sympy.zoo, sympy.nan):
                    found.setdefault(variant)
    return list(found)


@cache
def simplified(e: Any) -> Any:
    """sympy.simplify, which several generators ask for the same expression."""
    import sympy

    return sympy.simplify(e)


def _safely(generate: Callable[[], Iterator[Any]]) -> list[Any]:
    """What a generator yields; sympy's refusals end it, they do not end the derivation."""
    import sympy

    forms = []
    try:
        for form in generate():
            forms.append(form)
    except (NotImplementedError, ValueError, TypeError, sympy.PolynomialError):
        pass
    return forms


def _algebra(plain: Any) -> Iterator[Any]:
    """Factored, in exponentials, on one fraction; radicands factored."""
    import sympy

    a = symbols()[0]
    yield sympy.factor(plain)
    yield factor_radicands(plain)
    yield simplified(plain)
    yield sympy.powsimp(plain, force=True)
    in_exp = plain.rewrite(sympy.exp)
    for form in (
        sympy.factor(in_exp),
        simplified(in_exp),
        sympy.factor(simplified(in_exp)),
    ):
        yield form
        yield from _reflected(form, a)


def _reflected(form: Any, a: Any) -> Iterator[Any]:
    """An even function of a, taken at -|a|: exponentials of it cannot overflow."""
    import sympy

    if form.free_symbols == {a} and simplified(form - form.subs(a, -a)) == 0:
        yield form.subs(a, opaque("negabs")(a))
        yield sympy.factor(form.subs(a, -a)).subs(a, opaque("negabs")(a))


def factor_radicands(e: Any) -> Any:
    """sqrt(1 - a**2) as sqrt((1 - a)*(1 + a)), which keeps its digits near 1."""
    import sympy

    def is_root(p: Any) -> bool:
        return bool(p.is_Pow and p.args[1] in (sympy.S.Half, -sympy.S.Half) and p.args[0].is_Add)

    return e.replace(is_root, lambda p: sympy.Pow(sympy.factor(p.args[0]), p.args[1]))


def _from_output(whole: Any, plain: Any) -> Iterator[Any]:
    """In terms of the output y: by substitution, and as y times the logarithmic derivative."""
    import sympy

    y = symbols()[3]
    yield plain.subs(whole, y)
    yield simplified(plain).subs(whole, y)
    ratio = simplified(plain / whole)
    yield y * ratio
    yield y * sympy.powsimp(ratio.subs(whole, y))


def _on_positives(whole: Any, plain: Any) -> Iterator[Any]:
    """What is true of positive operands: it may hold for all."""
    import sympy

    y = symbols()[3]
    old = sorted(plain.free_symbols | whole.free_symbols, key=str)
    new = [sympy.Symbol(s.name, positive=True) for s in old]
    there, back = dict(zip(old, new)), dict(zip(new, old))
    positive, output = (simplified(e.xreplace(there)) for e in (plain, whole))
    yield positive.xreplace(back)
    yield positive.subs(output, y).xreplace(back)
    yield y * simplified(positive / output).xreplace(back)


def _solved(whole: Any, plain: Any, symbol: Any, spec: OpSpec) -> Iterator[Any]:
    """The operand eliminated: a = solve(f(a) = y)."""
    import sympy

    if spec.arity != 1 or whole.has(sympy.erf, sympy.erfc, sympy.sin, sympy.cos):
        return
    y = symbols()[3]
    for solution in sympy.solve(sympy.Eq(whole, y), symbol):
        form = simplified(plain.subs(symbol, solution))
        if not form.has(symbol):
            yield form
            yield sympy.factor(form)


def _logistic(plain: Any) -> Iterator[Any]:
    """Exponentials as quotients of the logistic function: exp(u) = s(u)/s(-u) and 1 + exp(u) = 1/s(-u)."""
    import sympy

    s = opaque("sigmoid")
    for form in (
        sympy.factor(plain.rewrite(sympy.exp)),
        sympy.factor(simplified(plain).rewrite(sympy.exp)),
    ):
        arguments = {e.args[0] for e in form.atoms(sympy.exp)}
        for argument in sorted(arguments, key=sympy.default_sort_key):
            e = sympy.exp(argument)
            yield form.subs(1 + e, 1 / s(-argument)).subs(e, s(argument) / s(-argument))


def _with_hypot(form: Any) -> Iterator[Any]:
    """u**2 + v**2 as hypot(u, v)**2, which does not overflow under a root."""
    import sympy

    def is_sum_of_squares(e: Any) -> bool:
        return bool(e.is_Add and len(e.args) == 2 and all(_root(p) is not None for p in e.args))

    def squared(e: Any) -> Any:
        roots = sorted(map(_root, e.args), key=sympy.default_sort_key, reverse=True)
        return opaque("hypot")(*roots) ** 2

    new = form.replace(is_sum_of_squares, squared)
    if new != form:
        yield new


def _root(e: Any) -> Any:
    """The square root of a perfect square or of 1, else None."""
    if e == 1:
        return e
    return e.args[0] if e.is_Pow and e.args[1] == 2 and e.args[0].is_Symbol else None


def _recognised(spec: OpSpec, plain: Any) -> Iterator[Any]:
    """k * op(argument) for a table operation, found by comparing values."""
    import sympy

    a, b = symbols()[:2]
    arguments = [a, -a] if spec.arity == 1 else [a, -a, b, -b, a - b, b - a]
    generator = random.Random(0)
    places = [[generator.uniform(0.1, 0.9) for _ in range(spec.arity)] for _ in range(6)]
    truth = Reference(plain, spec.arity)
    values = [truth(*place) for place in places]
    if any(v is None or v == 0 for v in values):
        return
    for name in RECOGNISED:
        inner = formula(OPS[name])
        for argument in arguments:
            guess = Reference(inner.subs(a, argument), spec.arity)
            shown = [guess(*place) for place in places]
            if any(v is None or v == 0 for v in shown):
                continue
            ratios = [v / s for v, s in zip(values, shown)]
            if all(abs(r - ratios[0]) < 1e-60 for r in ratios):
                factor = sympy.nsimplify(
                    sympy.Float(str(ratios[0]), 40), [sympy.log(2), sympy.pi], rational=None
                )
                yield factor * opaque(name)(argument)
