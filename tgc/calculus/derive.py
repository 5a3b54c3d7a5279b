"""Derive the partials of every operation of the table, and write `derived.py`.

    python -m tgc.calculus.derive            rewrite tgc/calculus/derived.py
    python -m tgc.calculus.derive --check    exit 1 if it differs from what is derived now
    python -m tgc.calculus.derive --show op  print the forms considered and how they fared

For each operand of each operation, sympy differentiates the formula; candidates.py offers equal forms; those that
agree with the plain derivative go through the float32 stress gate against mpmath; the cheapest sound one is kept,
where the price counts what the next order of derivative will cost. Then the table's edge policies are put around it.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tgc.calculus import emit
from tgc.calculus.candidates import candidates
from tgc.calculus.closure import Terms, Unknown, derivative
from tgc.calculus.formulas import Reference, differentiate, edge_mask, formula, symbols, tie_weight
from tgc.calculus.lower import QUOTIENTS, Lowering, NotLowered
from tgc.calculus.terms import OPERANDS, cost, replace, runner
from tgc.errors import DerivativeError
from tgc.ir.expressions import Apply, Expression, Number, Variable, parse
from tgc.ir.ops import OPS, OpSpec
from tgc.numerics import samples
from tgc.numerics.stress import Form, Verdict, gate

Named = tuple[str, Expression]

COUNT = 300
"""Sample points per operand of the gate, landmarks aside."""

NEXT_ORDER = 0.25
"""The weight of what the derivative of a form costs, against what the form costs."""

FINE = 1e6
"""The price of a NaN in the derivative of a form."""

REACH = 1e18
"""Operands up to this size must have a finite partial for an operation to count as having none that is infinite."""

STRUCTURAL = ("cast", "stop_gradient")
"""Operations the graph's own rules differentiate: their derivative depends on more than values."""


@dataclass(frozen=True)
class Partial:
    """One partial: the chosen form, the plain derivative it came from, its error, and all that was tried."""

    operand: str
    term: Expression
    plain: str
    worst: float
    verdict: Verdict | None


class Table:
    """Partials, derived on demand: judging a form needs those of the operations it is made of."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Partial | None, ...] | None] = {}
        self._pending: set[str] = set()

    def __getitem__(self, name: str) -> tuple[Partial | None, ...] | None:
        """The partials of an operation by each operand; None for zero, or where all are.

        Raises:
            DerivativeError: no form of a partial passes the gate.
        """
        if name not in self._found:
            self._pending.add(name)
            self._found[name] = self._derive(OPS[name])
            self._pending.remove(name)
        return self._found[name]

    def terms(self, name: str) -> Terms | None:
        """The forms alone.

        Raises:
            Unknown: they are being derived.
        """
        if name in self._pending:
            raise Unknown(name)
        partials = self[name]
        return None if partials is None else [p.term if p else None for p in partials]

    def _derive(self, spec: OpSpec) -> tuple[Partial | None, ...] | None:
        whole = formula(spec)
        if whole is None or spec.name in STRUCTURAL:
            return None
        found: list[Partial | None] = []
        for k in range(spec.arity):
            found.append(self._partial(spec, whole, k, [p.term for p in found if p is not None]))
        return tuple(found) if any(p is not None for p in found) else None

    def _partial(
        self, spec: OpSpec, whole: Any, k: int, earlier: list[Expression]
    ) -> Partial | None:
        symbol = symbols()[k]
        plain = differentiate(whole, symbol)
        if plain == 0:
            return None
        forms = lowered_forms(spec, plain, symbol, k)
        verdict, term = None, forms[0][1]
        if len(forms) > 1 or isinstance(term, Apply):
            verdict, term = self._through_gate(spec, plain, forms, k, earlier)
        scores = verdict.scores if verdict else ()
        worst = next((s.worst for s in scores if verdict and s.form is verdict.chosen), 0.0)
        for operand, condition, value in spec.edges:
            if operand == OPERANDS[k]:
                term = Apply("where", (parse(condition), Number(value), term))
        return Partial(OPERANDS[k], term, str(plain), worst, verdict)

    def _through_gate(
        self, spec: OpSpec, plain: Any, forms: list[Named], k: int, earlier: list[Expression]
    ) -> tuple[Verdict, Expression]:
        reference = Reference(plain, spec.arity, at_tie=tie_weight(spec, k))
        generator = np.random.default_rng(zlib.crc32(spec.name.encode()))
        equal = [(text, t) for text, t in forms if _agrees(spec, t, reference, generator)]
        operands, want = gate_points(spec, reference, k, generator)
        sound = fewest_nans(spec, equal)
        price = self._pricing(spec, plain, k, earlier, [x[:: len(x) // 200 + 1] for x in operands])
        terms = {Form(text, runner(spec.name, t), price(t)): t for text, t in sound}
        verdict = gate(list(terms), operands, want)
        if verdict.chosen is None:
            tried = "\n".join(f"  {s}" for s in verdict.scores)
            raise DerivativeError(
                f"no form of d {spec.name} / d {OPERANDS[k]} passes the stress gate:\n{tried}"
            )
        return verdict, terms[verdict.chosen]

    def _pricing(
        self, spec: OpSpec, plain: Any, k: int, earlier: list[Expression], operands: list[Any]
    ) -> Callable[[Expression], float]:
        """The price of a form: its operations, beyond those of earlier partials; a share of those its own derivative
        adds; and a prohibitive fine for each point where that derivative is NaN and should not be."""
        smooth = _has_second(spec, plain, k, operands)
        itself = self_call(spec)

        def price(term: Expression) -> float:
            partials = self._with_own(spec, k, term)
            total = cost(*earlier, term) - cost(*earlier)
            try:
                slope = derivative(term, OPERANDS[k], term, partials)
                slope = replace(slope, itself, Variable("y"))
            except Unknown:
                return total
            with np.errstate(all="ignore"):
                nans = int(np.isnan(runner(spec.name, slope)(*operands)[smooth]).sum())
            return total + NEXT_ORDER * (cost(term, slope) - cost(term)) + nans * FINE

        return price

    def _with_own(self, spec: OpSpec, k: int, term: Expression) -> Callable[[str], Terms | None]:
        """Partials of the table, with those of the operation itself as if the form had been chosen."""

        def partials(name: str) -> Terms | None:
            if name != spec.name:
                return self.terms(name)
            if spec.arity > 1:
                raise Unknown(name)
            return [term]

        return partials


def _has_second(spec: OpSpec, plain: Any, k: int, operands: list[Any]) -> Any:
    """Where the second derivative exists and neither it nor the first overflows float32."""
    second = Reference(differentiate(plain, symbols()[k]), spec.arity, at_tie=tie_weight(spec, k))
    first = Reference(plain, spec.arity, at_tie=tie_weight(spec, k))
    limit = float(np.finfo(np.float32).max)

    def exists(*place: float) -> bool:
        values = (first(*place), second(*place))
        return all(v is not None and abs(v) < limit for v in values)

    return np.array([exists(*place) for place in zip(*operands)], bool)


def self_call(spec: OpSpec) -> Expression:
    """The operation over its own operands, which is its output y."""
    return Apply(spec.name, tuple(Variable(n) for n in OPERANDS[: spec.arity]))


def lowered_forms(spec: OpSpec, plain: Any, symbol: Any, k: int) -> list[Named]:
    """The candidate forms as expressions, without repeats, each with its formula as text."""
    tie = None if spec.ties is None else tie_weight(spec, k)
    itself = self_call(spec)
    found: dict[Expression, str] = {}
    for form in candidates(spec, plain, symbol):
        for quotient in QUOTIENTS:
            try:
                term = Lowering(at_tie=tie, unordered=spec.unordered, quotient=quotient)(form)
            except NotLowered:
                continue
            found.setdefault(replace(term, itself, Variable("y")), str(form).replace("op_", ""))
    return [(text, term) for term, text in found.items()]


def fewest_nans(spec: OpSpec, forms: list[Named]) -> list[Named]:
    """Those forms that give a number wherever any of them does: at 0, b*a**(b - 1) has a value and b*y/a has none.

    Places where the operation itself is NaN do not count.
    """
    every = samples.edges()
    operands = [x.ravel() for x in np.meshgrid(*([every] * spec.arity), indexing="ij")]
    with np.errstate(all="ignore"):
        defined = ~np.isnan(runner(spec.name, Variable("y"))(*operands))
        nans = [int(np.isnan(runner(spec.name, t)(*operands)[defined]).sum()) for _, t in forms]
    return [form for form, count in zip(forms, nans) if count == min(nans)]


def _agrees(spec: OpSpec, term: Expression, reference: Reference, rng: np.random.Generator) -> bool:
    """Whether a form equals the plain derivative at generic points, in float64."""
    spans = [(max(lo, -3.0), min(hi, 3.0)) for lo, hi in spec.domain]
    operands = [rng.uniform(lo, hi, 24) for lo, hi in spans]
    with np.errstate(all="ignore"):
        got = runner(spec.name, term)(*operands)
    for value, *place in zip(got, *operands):
        want = reference(*place)
        if want is not None and not abs(float(value) - float(want)) <= 1e-9 * max(
            abs(float(want)), 1e-9
        ):
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
        value = runner(spec.name, Variable("y"))(*operands)
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
            bool(np.isfinite(runner(spec.name, p.term)(*operands)).all())
            for p in partials
            if p is not None
        )


def generate() -> str:
    """The text of `derived.py`."""
    table = Table()
    found = {name: partials for name in OPS if (partials := table[name]) is not None}
    finite = [name for name, partials in found.items() if finite_partials(OPS[name], partials)]
    return emit.module(found, finite)


def show(name: str) -> None:
    """Print every form of an operation's partials, in order of error."""
    for operand, partial in zip(OPERANDS, Table()[name] or ()):
        if partial is None or partial.verdict is None:
            print(f"d/d{operand} = {emit.infix(partial.term) if partial else 0}")
            continue
        print(f"d/d{operand} = {partial.plain}   chosen: {emit.infix(partial.term)}")
        for score in partial.verdict.scores:
            mark = "*" if score.form is partial.verdict.chosen else " "
            print(f"  {mark} price {score.form.cost:8.2f}  {score}")


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
        print(
            "derived.py is up to date"
            if same
            else "derived.py differs: python -m tgc.calculus.derive"
        )
        return 0 if same else 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
