"""Generated from the operation table: every operation, on every backend, against mpmath over its domain and against
torch at the edges; and every record has what its users need."""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.ops.backends import BACKENDS
from tests.support.torch_walker import torch_function
from tgc.calculus.formulas import Reference, formula
from tgc.codegen.numpy.functions import FUNCTIONS
from tgc.ir.dtypes import BY_NAME
from tgc.ir.expressions import operations, parse, variables
from tgc.ir.ops import OPS, OpSpec
from tgc.numerics.samples import points
from tgc.numerics.ulp import ulp_error

REAL = [n for n, s in OPS.items() if s.formula and s.result == "same" and n != "fma"]
FLOATS = [n for n, s in OPS.items() if "float" in s.accepts and n not in ("cast", "where")]
INTEGERS = [
    n
    for n, s in OPS.items()
    if "int" in s.accepts and s.result in ("same", "bool") and n != "where"
]

# Edge values where tgc differs from torch on purpose.
DIFFERENT = {
    "sign": "NaN stays NaN; torch gives 0",
    "fma": "no torch function",
    "cbrt": "no torch function",
    "sech2": "no torch function",
    "stop_gradient": "no torch function",
    "philox": "no torch function; tested in tests/unit/test_random.py",
    "normal": "no torch function; tested in tests/unit/test_random.py",
}


def pairs(names: list[str]) -> pytest.MarkDecorator:
    """Each operation on each backend that runs it."""
    found = [(b, n) for n in names for b in BACKENDS if BACKENDS[b].covers(n)]
    return pytest.mark.parametrize(("backend", "name"), found)


def run(backend: str, name: str, operands: tuple[NDArray[Any], ...]) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        return np.broadcast_to(BACKENDS[backend].run(name, operands), operands[-1].shape)


PRECISION = {"float32": 500, "float64": 2400}
"""Bits that exp(a) - 1 needs at the smallest a, and the remainder of the largest by the smallest number."""


@cache
def truth(name: str, kind: str) -> tuple[tuple[NDArray[Any], ...], list[Any]]:
    """Points of the domain and the true values there; places where it has none are left out.

    So are denormal operands, which hardware may flush, and -0.0, which mpmath does not have.
    """
    spec = OPS[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    operands = points(spec.domain, 300 if spec.arity == 1 else 150, rng, np.dtype(kind))
    value = Reference(formula(spec), spec.arity, precision=PRECISION[kind])
    tiny = np.finfo(kind).tiny
    plain = [np.where(x == 0, ~np.signbit(x), np.abs(x) >= tiny) for x in operands]
    places = np.flatnonzero(np.logical_and.reduce(plain))
    places = places[:: len(places) // (1500 if kind == "float32" else 400) + 1]
    want = [value(*(x[i] for x in operands)) for i in places]
    kept = [i for i, w in zip(places, want) if w is not None]
    return tuple(x[kept] for x in operands), [w for w in want if w is not None]


@pairs(REAL)
def test_float32_is_within_its_ulp_over_the_domain(backend: str, name: str) -> None:
    operands, want = truth(name, "float32")
    errors = ulp_error(run(backend, name, operands), want, flush=True)
    at = int(np.argmax(errors))
    assert errors[at] <= OPS[name].ulp + 0.01, (errors[at], [float(x[at]) for x in operands])


@pairs(REAL)
def test_float64_is_within_its_ulp_over_the_domain(backend: str, name: str) -> None:
    operands, want = truth(name, "float64")
    errors = ulp_error(run(backend, name, operands), want, flush=True)
    at = int(np.argmax(errors))
    assert errors[at] <= OPS[name].ulp + 0.01, (errors[at], [float(x[at]) for x in operands])


@pairs(["fma"])
def test_fma_is_within_two_roundings(backend: str, name: str) -> None:
    """Fused where the backend can, but a backend without it rounds the product too."""
    operands = tuple(points(OPS["fma"].domain, 400, np.random.default_rng(0)))
    a, b, c = (x.astype(np.float64) for x in operands)
    got = run(backend, name, operands)
    with np.errstate(all="ignore"):
        error = np.abs(got - (a * b + c))
        unit = np.spacing(np.maximum(np.abs(operands[0] * operands[1]), np.abs(got)))
    usual = np.isfinite(got) & np.isfinite(unit)
    assert usual.sum() > 1000
    assert (error[usual] <= unit[usual]).all()


@pairs([n for n in FLOATS if n not in DIFFERENT])
def test_edges_are_as_torch_has_them(backend: str, name: str) -> None:
    """NaN, infinities, both zeros, denormals and huge values, in every combination."""
    spec = OPS[name]
    rng = np.random.default_rng(0)
    operands = points(spec.domain, 0, rng, np.float32, special=True)
    got = run(backend, name, tuple(operands)).astype(np.float64)
    wide = [torch.tensor(x.astype(np.float64)) for x in operands]
    want = torch_function(name)(*wide).to(torch.float64).numpy()
    want = np.where(np.abs(want) < 2.0**-150, np.copysign(0.0, want), want)
    narrow = torch_function(name)(*[t.float() for t in wide]).to(torch.float64).numpy()
    errors = ulp_error(got.astype(np.float32), want, flush=True)
    # Near overflow, and where float32 rounding decides (1e30 % 3), torch in float32 is as good a witness.
    wrong = (errors > spec.ulp + 0.01) & ~np.isclose(got, narrow, rtol=1e-6, equal_nan=True)
    assert not wrong.any(), [
        ([float(x[i]) for x in operands], got[i], want[i]) for i in np.flatnonzero(wrong)[:5]
    ]


@pairs([n for n in INTEGERS if n not in DIFFERENT])
def test_integers_are_as_torch_has_them(backend: str, name: str) -> None:
    rng = np.random.default_rng(0)
    operands = [rng.integers(-9, 10, 200) for _ in OPS[name].domain]
    if name in ("floordiv", "mod", "pow"):
        operands[1] = np.abs(operands[1]) + 1
    got = run(backend, name, tuple(operands))
    want = torch_function(name)(*map(torch.tensor, operands)).numpy()
    if name == "not":
        want = ~operands[0]
    if name in ("and", "or"):
        want = (operands[0] & operands[1]) if name == "and" else (operands[0] | operands[1])
    assert np.array_equal(got, want)


@pairs([n for n, s in OPS.items() if s.commutes and "float" in s.accepts])
def test_commuting_operands_give_the_same_bits(backend: str, name: str) -> None:
    rng = np.random.default_rng(0)
    a, b = points(OPS[name].domain, 300, rng, np.float32, special=True)
    one, two = run(backend, name, (a, b)), run(backend, name, (b, a))
    same = (one == two) | (np.isnan(one.astype(float)) & np.isnan(two.astype(float)))
    assert same.all()


@pairs(["erf", "erfc"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_error_functions_beyond_their_domain(backend: str, name: str, dtype: type) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 30.0, -30.0, 1e30, -1e30], dtype)
    got = run(backend, name, (x,))
    want = torch_function(name)(torch.tensor(x)).numpy()
    assert np.array_equal(got, want, equal_nan=True)
    if name == "erf":
        assert np.signbit(got[4])


# --- records --------------------------------------------------------------------------------------------------------


def test_the_table_is_rich() -> None:
    assert len(REAL) >= 40


@pytest.mark.parametrize("spec", list(OPS.values()), ids=list(OPS))
def test_records_are_complete(spec: OpSpec) -> None:
    assert spec.arity == len(spec.domain)
    assert spec.formula is None or len(formula(spec).free_symbols) <= spec.arity
    assert spec.numpy is None or callable(FUNCTIONS.get(spec.numpy) or getattr(np, spec.numpy))
    structural = spec.name in ("cast", "where")
    assert structural or spec.numpy or spec.expansion, "nothing runs it in numpy"
    assert structural or spec.triton or spec.expansion, "nothing runs it in Triton"
    if spec.name not in (*DIFFERENT, "cast"):
        assert callable(torch_function(spec.name)), "no reference"


@pytest.mark.parametrize("name", [n for n, s in OPS.items() if s.formula])
def test_ties_are_declared_where_the_formula_is_not_smooth(name: str) -> None:
    import sympy

    assert formula(OPS[name]).has(sympy.Max, sympy.Min) == (OPS[name].ties is not None)


@pytest.mark.parametrize("name", [n for n, s in OPS.items() if s.expansion or s.expansion64])
def test_expansions_end_in_what_backends_have(name: str) -> None:
    """Of known operations and operands, with the right number of each, and without going round in circles."""
    spec = OPS[name]
    assert spec.expansion, "expansion64 alone leaves float32 without a form"
    for text in filter(None, (spec.expansion, spec.expansion64)):
        tree = parse(text)
        assert set(variables(tree)) <= set("abc"[: spec.arity])
        assert set(operations(tree)) <= OPS.keys() | BY_NAME.keys()
    for has in (lambda s: s.numpy, lambda s: s.triton):
        depth, pending = 0, {name}
        while pending:
            depth += 1
            assert depth < 10, f"{name} expands without end"
            lacking = {n for n in pending if not has(OPS[n]) and n not in ("where", "cast")}
            lacking |= {name} & pending if depth == 1 else set()
            texts = [t for n in lacking for t in (OPS[n].expansion, OPS[n].expansion64) if t]
            assert all(OPS[n].expansion for n in lacking), lacking
            pending = {o for t in texts for o in operations(parse(t)) if o in OPS}


@pytest.mark.parametrize(
    ("name", "operand", "condition"), [(n, e[0], e[1]) for n, s in OPS.items() for e in s.edges]
)
def test_edge_policies_are_about_their_operands(name: str, operand: str, condition: str) -> None:
    spec = OPS[name]
    names = "abc"[: spec.arity]
    assert operand in names and set(variables(parse(condition))) <= {*names, "y"}
    assert OPS[parse(condition).op].result == "bool" or parse(condition).op == "and"  # type: ignore[union-attr]
