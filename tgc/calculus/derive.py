"""Derive the partials of every operation of the table, and write `derived.py`.

    python -m tgc.calculus.derive            rewrite tgc/calculus/derived.py
    python -m tgc.calculus.derive --check    exit 1 if it differs from what is derived now
    python -m tgc.calculus.derive --show op  print the forms considered and how they fared

For each operand of each operation, study.py finds equal forms of the derivative and measures their float32 error.
Of the sound ones the cheapest is kept, where the price counts what the next order of derivative will cost, and a
form whose own derivative is NaN where it should not be is as good as rejected. Since that derivative is made of the
partials of other operations, the choice is repeated until it no longer changes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tgc.calculus import emit
from tgc.calculus.closure import Terms, derivative
from tgc.calculus.formulas import formula
from tgc.calculus.study import (
    Candidate,
    Partial,
    Partials,
    Study,
    self_call,
    study,
    with_edges,
)
from tgc.calculus.terms import OPERANDS, cost, runner
from tgc.calculus.terms import replace as substitute
from tgc.errors import DerivativeError
from tgc.ir.expressions import Expression, Variable
from tgc.ir.ops import OPS, OpSpec
from tgc.numerics import samples
from tgc.numerics.stress import judge

NEXT_ORDER = 0.25
"""The weight of what the derivative of a form costs, against what the form costs."""

FINE = 1e6
"""The price of a NaN in the derivative of a form."""

REACH = 1e18
"""Operands up to this size must have a finite partial for an operation to count as having none that is infinite."""

ROUNDS = 8
"""The choice settles in three or four."""

STRUCTURAL = ("cast", "stop_gradient")
"""Operations the graph's own rules differentiate: their derivative depends on more than values."""


def derive() -> dict[str, Partials]:
    """The partials of every operation that has any, None for those that are zero.

    Raises:
        DerivativeError: no form of a partial passes the stress gate.
    """
    studies = {name: found for name, spec in OPS.items() if (found := _studies(spec)) is not None}
    table: dict[str, Partials] = {}
    for _ in range(ROUNDS):
        terms = {name: _terms(partials) for name, partials in table.items()}
        chosen = {name: _choose_all(OPS[name], found, terms) for name, found in studies.items()}
        if {name: _terms(partials) for name, partials in chosen.items()} == terms:
            return chosen
        table = chosen
    raise DerivativeError("the choice of forms does not settle")


def _studies(spec: OpSpec) -> tuple[Study | None, ...] | None:
    whole = formula(spec)
    if whole is None or spec.name in STRUCTURAL:
        return None
    found = tuple(study(spec, whole, k) for k in range(spec.arity))
    return found if any(found) else None


def _terms(partials: Partials) -> Terms:
    return [None if p is None else p.term for p in partials]


def _choose_all(spec: OpSpec, studies: Sequence[Study | None], terms: dict[str, Terms]) -> Partials:
    """The partials of one operation, given those of all others in the round before."""
    found: list[Partial | None] = []
    for each in studies:
        earlier = [p.term for p in found if p is not None]
        found.append(None if each is None else _choose(spec, each, terms, earlier))
    return tuple(found)


def _choose(
    spec: OpSpec, each: Study, terms: dict[str, Terms], earlier: list[Expression]
) -> Partial:
    priced = {}
    for candidate in each.candidates:
        form = replace(candidate.score.form, cost=_price(spec, each, candidate, terms, earlier))
        priced[form] = replace(candidate.score, form=form), candidate.term
    verdict = judge([score for score, _ in priced.values()])
    if verdict.chosen is None:
        tried = "\n".join(f"  {score}" for score in verdict.scores)
        raise DerivativeError(
            f"no form of d {spec.name} / d {OPERANDS[each.k]} passes the stress gate:\n{tried}"
        )
    score, term = priced[verdict.chosen]
    full = with_edges(spec, each.k, term)
    return Partial(OPERANDS[each.k], full, each.plain, score.worst, verdict)


def _price(
    spec: OpSpec,
    each: Study,
    candidate: Candidate,
    terms: dict[str, Terms],
    earlier: list[Expression],
) -> float:
    """The price of a form: its operations, beyond those of earlier partials; a share of those its own derivative adds;
    and a fine for each point where that derivative is NaN and should not be."""
    term = candidate.term
    total = cost(*earlier, term) - cost(*earlier)
    if not terms:
        return total  # the first round knows no partials yet
    own = {**terms, spec.name: [term]} if spec.arity == 1 else terms
    slope = derivative(term, OPERANDS[each.k], term, own.get)
    slope = substitute(slope, self_call(spec), Variable("y"))
    with np.errstate(all="ignore"):
        values = runner(spec.name, slope)(*each.operands)[each.smooth]
    added = cost(*earlier, term, slope) - cost(*earlier, term)
    return total + NEXT_ORDER * added + FINE * int(np.isnan(values).sum())


def finite_partials(spec: OpSpec, partials: Partials) -> bool:
    """Whether finite operands (up to REACH) always give finite partials: then a zero cotangent stays zero."""
    grid = [v for v in samples.edges(np.float64) if abs(v) <= REACH]
    grid += [s * 10.0**e for e in range(-18, 19, 2 * spec.arity) for s in (-1, 1)]
    operands = [x.ravel() for x in np.meshgrid(*([np.array(grid)] * spec.arity), indexing="ij")]
    runs: list[Callable[..., np.ndarray]] = [
        runner(spec.name, p.term) for p in partials if p is not None
    ]
    with np.errstate(all="ignore"):
        return all(bool(np.isfinite(run(*operands)).all()) for run in runs)


def generate() -> str:
    """The text of `derived.py`."""
    table = derive()
    finite = [name for name, partials in table.items() if finite_partials(OPS[name], partials)]
    return emit.module(table, finite)


def show(name: str) -> None:
    """Print every form of an operation's partials, in order of error."""
    for operand, partial in zip(OPERANDS, derive().get(name, ())):
        if partial is None:
            print(f"d/d{operand} = 0")
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
        print("up to date" if same else "derived.py differs: python -m tgc.calculus.derive")
        return 0 if same else 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
