"""One partial of one operation under study: its equal forms, how accurate each is, and where it is hard.

sympy differentiates the formula, candidates.py offers equal forms, and those that agree with the plain derivative and
are numbers wherever any of them is go through the float32 stress gate against mpmath. Which of the sound forms is
used depends on the partials of other operations too (see derive.py), so that choice is not made here.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgc.calculus.candidates import candidates
from tgc.calculus.formulas import Reference, differentiate, edge_mask, symbols, tie_weight
from tgc.calculus.lower import QUOTIENTS, Lowering, NotLowered
from tgc.calculus.terms import OPERANDS, replace, runner
from tgc.ir.expressions import Apply, Expression, Number, Variable, parse
from tgc.ir.ops import OpSpec
from tgc.numerics import samples
from tgc.numerics.stress import Form, Score, Verdict, measure

COUNT = 300
"""Sample points per operand, landmarks aside."""

NEXT = 200
"""How many of them judge the next order of derivative."""

Operands = list[NDArray[np.floating[Any]]]
Named = tuple[str, Expression]


@dataclass(frozen=True)
class Candidate:
    """A form of a partial, its formula as sympy has it, and its error."""

    text: str
    term: Expression
    score: Score


@dataclass(frozen=True)
class Study:
    """A partial under study.

    Attributes:
        plain: sympy's derivative.
        candidates: equal forms; the order is that of their generators.
        operands: points at which the derivative of a form is tried.
        smooth: at which of them the derivative of the partial exists, and neither overflows float32.
    """

    spec: OpSpec
    k: int
    plain: str
    candidates: tuple[Candidate, ...]
    operands: Operands
    smooth: NDArray[np.bool_]


@dataclass(frozen=True)
class Partial:
    """One partial: the chosen form, the plain derivative it came from, its error, and all that was tried."""

    operand: str
    term: Expression
    plain: str
    worst: float
    verdict: Verdict


Partials = tuple[Partial | None, ...]


def study(spec: OpSpec, whole: Any, k: int) -> Study | None:
    """Study the partial by operand k; None if it is zero everywhere."""
    symbol = symbols()[k]
    plain = differentiate(whole, symbol)
    if plain == 0:
        return None
    reference = Reference(plain, spec.arity, at_tie=tie_weight(spec, k))
    generator = np.random.default_rng(zlib.crc32(spec.name.encode()))
    forms = lowered_forms(spec, plain, symbol, k)
    equal = [form for form in forms if _agrees(spec, form[1], reference, generator)]
    operands, want = gate_points(spec, reference, k, generator)
    found = []
    for text, term in fewest_nans(spec, equal):
        score = measure(Form(text, runner(spec.name, term), 0.0), operands, want)
        found.append(Candidate(text, term, score))
    some = next_points(spec, operands)
    smooth = _has_derivative(spec, plain, reference, k, some)
    return Study(spec, k, str(plain), tuple(found), some, smooth)


def with_edges(spec: OpSpec, k: int, term: Expression) -> Expression:
    """A form inside the edge policies of its operation."""
    for operand, condition, value in spec.edges:
        if operand == OPERANDS[k]:
            term = Apply("where", (parse(condition), Number(value), term))
    return term


def self_call(spec: OpSpec) -> Expression:
    """The operation over its own operands, which is its output y."""
    return Apply(spec.name, tuple(Variable(n) for n in OPERANDS[: spec.arity]))


def lowered_forms(spec: OpSpec, plain: Any, symbol: Any, k: int) -> list[Named]:
    """The candidate forms as expressions, without repeats, each with its formula as text."""
    tie = None if spec.ties is None else tie_weight(spec, k)
    found: dict[Expression, str] = {}
    for form in candidates(spec, plain, symbol):
        for quotient in QUOTIENTS:
            try:
                term = Lowering(at_tie=tie, unordered=spec.unordered, quotient=quotient)(form)
            except NotLowered:
                continue
            term = replace(term, self_call(spec), Variable("y"))
            found.setdefault(term, str(form).replace("op_", ""))
    return [(text, term) for term, text in found.items()]


def _agrees(spec: OpSpec, term: Expression, reference: Reference, rng: np.random.Generator) -> bool:
    """Whether a form equals the plain derivative at generic points, in float64."""
    spans = [(max(lo, -3.0), min(hi, 3.0)) for lo, hi in spec.domain]
    operands = [rng.uniform(lo, hi, 24) for lo, hi in spans]
    with np.errstate(all="ignore"):
        got = runner(spec.name, term)(*operands)
    for value, *place in zip(got, *operands):
        want = reference(*place)
        if want is None:
            continue
        if not abs(float(value) - float(want)) <= 1e-9 * max(abs(float(want)), 1e-9):
            return False
    return True


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


def gate_points(
    spec: OpSpec, reference: Reference, k: int, rng: np.random.Generator
) -> tuple[Operands, list[Any]]:
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


def next_points(spec: OpSpec, operands: Operands) -> Operands:
    """Some of the points of the gate, and landmarks anywhere: far out, where exponentials overflow."""
    every = samples.edges()
    every = every[np.isfinite(every)][:: spec.arity]
    landmarks = np.meshgrid(*([every] * spec.arity), indexing="ij")
    thin = operands[0].size // NEXT + 1
    return [np.concatenate([x[::thin], more.ravel()]) for x, more in zip(operands, landmarks)]


def _has_derivative(
    spec: OpSpec, plain: Any, first: Reference, k: int, operands: Operands
) -> NDArray[np.bool_]:
    """Where the partial has a derivative, and neither overflows float32."""
    second = Reference(differentiate(plain, symbols()[k]), spec.arity, at_tie=tie_weight(spec, k))
    limit = float(np.finfo(np.float32).max)

    def exists(*place: Any) -> bool:
        if not all(np.isfinite(place)):
            return False
        values = (first(*place), second(*place))
        return all(v is not None and abs(v) < limit for v in values)

    return np.array([exists(*place) for place in zip(*operands)], np.bool_)
