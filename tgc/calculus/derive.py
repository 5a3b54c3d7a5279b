"""Derive the partials of every operation of the table, and write `derived.py`.

    python -m tgc.calculus.derive            rewrite tgc/calculus/derived.py
    python -m tgc.calculus.derive --check    exit 1 if it differs from what is derived now
    python -m tgc.calculus.derive --show op  print the forms considered and how they fared

For each operand of each operation, sympy differentiates the formula; candidates.py offers equal forms; those that
agree with the plain derivative go through the float32 stress gate against mpmath; the cheapest sound one is kept.
Then the table's edge policies are put around it.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tgc.calculus import emit
from tgc.calculus.candidates import candidates
from tgc.calculus.formulas import Reference, differentiate, edge_mask, formula, symbols, tie_weight
from tgc.calculus.lower import Lowering, NotLowered
from tgc.calculus.terms import OPERANDS, Apply, Num, Term, Var, cost, parse, replace, runner
from tgc.errors import DerivativeError
from tgc.ir.ops import OPS, OpSpec
from tgc.numerics import samples
from tgc.numerics.stress import Form, Verdict, gate

COUNT = 300
"""Sample points per operand of the gate, landmarks aside."""

REACH = 1e18
"""Operands up to this size must have a finite partial for an operation to count as having none that is infinite."""

STRUCTURAL = ("cast", "stop_gradient")
"""Operations the graph's own rules differentiate: their derivative depends on more than values."""


@dataclass(frozen=True)
class Partial:
    """One partial: the chosen term, the plain derivative it came from, its error, and all that was tried."""

    operand: str
    term: Term
    plain: str
    worst: float
    verdict: Verdict | None


def derive(spec: OpSpec) -> tuple[Partial | None, ...] | None:
    """The partials of an operation by each operand; None for a derivative that is zero (or for no formula).

    Raises:
        DerivativeError: no form of a partial passes the gate.
    """
    whole = formula(spec)
    if whole is None or spec.name in STRUCTURAL:
        return None
    found = tuple(_partial(spec, whole, k) for k in range(spec.arity))
    return found if any(p is not None for p in found) else None


def _partial(spec: OpSpec, whole: Any, k: int) -> Partial | None:
    symbol = symbols()[k]
    plain = differentiate(whole, symbol)
    if plain == 0:
        return None
    forms = lowered_forms(spec, plain, symbol, k)
    if len(forms) == 1 and not isinstance(forms[0][1], Apply):
        verdict, term = None, forms[0][1]
    else:
        verdict, term = _through_gate(spec, plain, forms, k)
    worst = next((s.worst for s in verdict.scores if s.form is verdict.chosen), 0.0) if verdict else 0.0
    for operand, condition, value in spec.edges:
        if operand == OPERANDS[k]:
            term = Apply("where", (parse(condition), Num(value), term))
    return Partial(OPERANDS[k], term, str(plain), worst, verdict)


def lowered_forms(spec: OpSpec, plain: Any, symbol: Any, k: int) -> list[tuple[str, Term]]:
    """The candidate forms as terms, without repeats, each with its formula as text."""
    tie = None if spec.ties is None else tie_weight(spec, k)
    self_call = Apply(spec.name, tuple(Var(n) for n in OPERANDS[: spec.arity]))
    found: dict[Term, str] = {}
    for form in candidates(spec, plain, symbol):
        for nested in (False, True):
            try:
                term = Lowering(at_tie=tie, unordered=spec.unordered, nested=nested)(form)
            except NotLowered:
                continue
            found.setdefault(replace(term, self_call, Var("y")), str(form).replace("op_", ""))
    return [(text, term) for term, text in found.items()]


def _through_gate(
    spec: OpSpec, plain: Any, forms: list[tuple[str, Term]], k: int
) -> tuple[Verdict, Term]:
    reference = Reference(plain, spec.arity, at_tie=0.5 if spec.ties is None else tie_weight(spec, k))
    generator = np.random.default_rng(zlib.crc32(spec.name.encode()))
    equal = [(text, t) for text, t in forms if _agrees(spec, t, reference, generator)]
    operands, want = gate_points(spec, reference, k, generator)
    terms = {Form(text, runner(spec.name, t), cost(t)): t for text, t in fewest_nans(spec, equal)}
    verdict = gate(list(terms), operands, want)
    if verdict.chosen is None:
        tried = "\n".join(f"  {s}" for s in verdict.scores)
        raise DerivativeError(f"no form of d {spec.name} / d {OPERANDS[k]} passes the stress gate:\n{tried}")
    return verdict, terms[verdict.chosen]


def fewest_nans(spec: OpSpec, forms: list[tuple[str, Term]]) -> list[tuple[str, Term]]:
    """Those forms that give a number wherever any of them does: at 0, b*a**(b - 1) has a value and b*y/a has none.

    Places where the operation itself is NaN do not count.
    """
    every = samples.edges()
    operands = [x.ravel() for x in np.meshgrid(*([every] * spec.arity), indexing="ij")]
    with np.errstate(all="ignore"):
        defined = ~np.isnan(runner(spec.name, Var("y"))(*operands))
        nans = [int(np.isnan(runner(spec.name, t)(*operands)[defined]).sum()) for _, t in forms]
    return [form for form, count in zip(forms, nans) if count == min(nans)]


def _agrees(spec: OpSpec, term: Term, reference: Reference, rng: np.random.Generator) -> bool:
    """Whether a form equals the plain derivative at generic points, in float64."""
    spans = [(max(lo, -3.0), min(hi, 3.0)) for lo, hi in spec.domain]
    operands = [rng.uniform(lo, hi, 24) for lo, hi in spans]
    with np.errstate(all="ignore"):
        got = runner(spec.name, term)(*operands)
    for value, *place in zip(got, *operands):
        want = reference(*place)
        if want is not None and not abs(float(value) - float(want)) <= 1e-9 * max(abs(float(want)), 1e-9):
            return False
    return True


def gate_points(
    spec: OpSpec, reference: Reference, k: int, rng: np.random.Generator
) -> tuple[list[Any], list[Any]]:
    """float32 operands over the domain, and the true partial there.

    Left out are poles, places where an edge policy decides, where the operation itself overflows, negative zeros,
    which the reference cannot tell from zero, and denormal operands, whose products have few digits to be right in.
    """
    operands = samples.points(spec.domain, COUNT, rng)
    if spec.arity == 1:
        operands = [np.concatenate([operands[0], np.array([np.inf, -np.inf], np.float32)])]
    with np.errstate(all="ignore"):
        value = runner(spec.name, Var("y"))(*operands)
    infinite = np.isinf(operands[0]) if spec.arity == 1 else np.zeros(len(value), bool)
    keep = np.isfinite(value) | infinite
    for x in operands:
        keep &= np.where(x == 0, ~np.signbit(x), np.abs(x) >= np.finfo(np.float32).tiny)
    for operand, condition, _ in spec.edges:
        if operand == OPERANDS[k]:
            keep &= ~edge_mask(spec, condition, operands)
    want: list[Any] = []
    kept: list[int] = []
    for i in np.flatnonzero(keep):
        place = [x[i] for x in operands]
        truth = reference.limit(int(np.sign(place[0]))) if infinite[i] else reference(*place)
        if truth is not None:
            kept.append(int(i))
            want.append(truth)
    return [x[kept] for x in operands], want


def finite_partials(spec: OpSpec, partials: Sequence[Partial | None]) -> bool:
    """Whether finite operands (up to REACH) always give finite partials: then a zero cotangent stays zero."""
    grid = [v for v in samples.edges(np.float64) if abs(v) <= REACH]
    grid += [s * 10.0**e for e in range(-18, 19, 2 * spec.arity) for s in (-1, 1)]
    operands = [x.ravel() for x in np.meshgrid(*([np.array(grid)] * spec.arity), indexing="ij")]
    with np.errstate(all="ignore"):
        return all(
            bool(np.isfinite(runner(spec.name, p.term)(*operands)).all()) for p in partials if p is not None
        )


def derive_table() -> dict[str, tuple[Partial | None, ...]]:
    """The partials of every operation that has any."""
    found = {name: derive(spec) for name, spec in OPS.items()}
    return {name: partials for name, partials in found.items() if partials is not None}


def generate() -> str:
    """The text of `derived.py`."""
    table = derive_table()
    finite = [name for name, partials in table.items() if finite_partials(OPS[name], partials)]
    return emit.module(table, finite)


def show(name: str) -> None:
    """Print every form of an operation's partials, in order of error."""
    for partial in derive(OPS[name]) or ():
        if partial is None or partial.verdict is None:
            print(f"d/d{partial.operand if partial else '?'}: {partial.term if partial else 0}")
            continue
        print(f"d/d{partial.operand}: {partial.plain}   chosen: {partial.term}")
        for score in partial.verdict.scores:
            mark = "*" if score.form is partial.verdict.chosen else " "
            print(f"  {mark} cost {score.form.cost:6.2f}  {score}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tgc.calculus.derive", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--show", metavar="op", help="print the forms considered for one operation")
    options = parser.parse_args(arguments)
    if options.show:
        show(options.show)
        return 0
    path = Path(__file__).with_name("derived.py")
    text = generate()
    same = path.exists() and path.read_text(encoding="utf-8") == text
    if options.check:
        print("derived.py is up to date" if same else "derived.py differs: python -m tgc.calculus.derive")
        return 0 if same else 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
