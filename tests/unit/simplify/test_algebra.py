"""Every algebraic rule keeps what its class promises, on every float16 and int8 value where that can be listed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.expression_graphs import expression_graph, operand_types
from tgc.ir import dtypes
from tgc.ir.build import Builder
from tgc.ir.dtypes import DType
from tgc.ir.evaluate import evaluate
from tgc.ir.expressions import parse, variables
from tgc.ir.nodes import Graph, Leaf
from tgc.ir.sizes import Size
from tgc.numerics.ulp import ulp_error
from tgc.simplify.algebra import RULES, is_lossless
from tgc.simplify.patterns import Rule
from tgc.simplify.run import simplify

TYPES: dict[str, DType] = {
    "float": dtypes.float16,
    "int": dtypes.int8,
    "uint": dtypes.uint8,
    "bool": dtypes.bool_,
}
SPECIAL = np.array(
    [0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 65504, -65504, 6e-8, -6e-8, 6.1e-5, 2, 0.5, 3, 1000],
    np.float16,
)
EVERY_HALF = np.arange(65536, dtype=np.uint16).view(np.float16)
CONSTANTS = (3.0, -3.0, 0.5, -0.1, 2.0)
SQRT = ("x^0.5", "x^-0.5")  # x ** 0.5 is sqrt(x) in torch and numpy: at -0 and -inf unlike pow


def values_of(dtype: DType) -> NDArray[np.generic]:
    if dtype.is_float:
        return EVERY_HALF
    if dtype is dtypes.bool_:
        return np.array([False, True])
    return np.arange(256, dtype=np.uint8).view(dtype.name)


def operands(types: list[DType], count: int = 60_000) -> list[NDArray[np.generic]]:
    """Every value of one operand; special values in every combination and random ones for several."""
    if len(types) == 1:
        return [values_of(types[0])]
    rng = np.random.default_rng(0)
    special = [
        SPECIAL if t.is_float else values_of(t)[:: max(1, len(values_of(t)) // 16)] for t in types
    ]
    grid = [g.ravel() for g in np.meshgrid(*special, indexing="ij")]
    drawn = [values_of(t)[rng.integers(0, len(values_of(t)), count)] for t in types]
    return [np.concatenate(pair) for pair in zip(grid, drawn)]


def cases(rule: Rule) -> list[tuple[Graph, Graph]]:
    """Pattern and replacement for each kind of operand and choice of constants the rule allows."""
    found = []
    for kind in rule.kinds:
        types = operand_types(rule.root, TYPES[kind], dtypes.float16)
        letters = [name for name in types if name.startswith("k")]
        for choice in itertools.product(CONSTANTS, repeat=len(letters)):
            constants = (
                dict(zip(letters, choice))
                if kind == "float"
                else {n: int(c) for n, c in zip(letters, choice)}
            )
            bound = {name: Builder().const(c, types[name]) for name, c in constants.items()}
            if kind == "uint" and any(c < 0 for c in constants.values()):
                continue
            if rule.where is None or rule.where(bound):
                model = TYPES[kind]
                found.append(
                    tuple(
                        expression_graph(text, types, constants, model)
                        for text in (rule.pattern, rule.replacement)
                    )
                )
    return found  # type: ignore[return-value]


def run(pattern: Graph, replacement: Graph) -> tuple[NDArray, NDArray, NDArray]:
    """The pattern's and the replacement's results in float16, and the pattern's in float64."""
    arrays = operands([leaf.dtype for leaf in pattern.inputs])
    want = evaluate(pattern, arrays, None)[0]
    got = evaluate(replacement, arrays, None)[0]
    return want, got, evaluate(pattern, arrays)[0]


def same_bits(a: NDArray, b: NDArray) -> NDArray:
    if a.dtype.kind != "f":
        return a == b
    return ((a == b) & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))


def named(exact: str) -> list[Rule]:
    return [rule for rule in RULES if rule.exact == exact and "stop" not in rule.name]


@pytest.mark.parametrize("rule", named("bits"), ids=lambda r: r.name)
def test_bits_rules_change_no_bit(rule: Rule) -> None:
    checked = cases(rule)
    assert checked
    for pattern, replacement in checked:
        want, got, _ = run(pattern, replacement)
        assert want.dtype == got.dtype
        assert same_bits(want, got).all()


@pytest.mark.parametrize("rule", named("rounding"), ids=lambda r: r.name)
def test_rounding_rules_are_as_accurate(rule: Rule) -> None:
    for pattern, replacement in cases(rule):
        want, got, truth = run(pattern, replacement)
        if want.dtype.kind != "f":
            assert (want == got).all()
            continue
        keep = np.ones(len(want), bool)
        if rule.name in SQRT:
            x = operands([leaf.dtype for leaf in pattern.inputs])[0]
            keep = ~((x == 0) & np.signbit(x)) & (x != -np.inf)
        before = ulp_error(want[keep], truth[keep])
        after = ulp_error(got[keep], truth[keep])
        assert np.all(after <= before + 2.5), rule.name


@pytest.mark.parametrize("rule", named("zeros"), ids=lambda r: r.name)
def test_zeros_rules_change_only_the_sign_of_zero(rule: Rule) -> None:
    changed = False
    for pattern, replacement in cases(rule):
        want, got, _ = run(pattern, replacement)
        assert np.all((want == got) | (np.isnan(want) & np.isnan(got)))
        changed |= not same_bits(want, got).all()
    assert changed, "this rule is exact to the bit: say so"


@pytest.mark.parametrize("rule", named("finite"), ids=lambda r: r.name)
def test_finite_rules_need_their_licence(rule: Rule) -> None:
    """They change NaN or infinity somewhere: otherwise they would belong to another class."""
    changed = False
    for pattern, replacement in cases(rule):
        want, got, _ = run(pattern, replacement)
        changed |= bool(np.any(np.isfinite(want) != np.isfinite(got)))
    assert changed


def graph_of(text: str, dtype: DType = dtypes.float32) -> Graph:
    return expression_graph(text, dict.fromkeys(variables(parse(text)), dtype))


def shown(graph: Graph) -> str:
    """Operations and constants of the result, for short comparisons."""

    def show(node) -> str:  # type: ignore[no-untyped-def]
        if isinstance(node, Leaf):
            return getattr(node.source, "name", None) or str(node.source.value)
        return f"{node.op}({', '.join(show(a) for a in node.args)})"

    return show(graph.outputs[0])


@pytest.mark.parametrize(
    "text",
    [
        "sub(a, a)",
        "mul(a, 0)",
        "div(a, a)",
        "log(exp(a))",
        "exp(log(a))",
        "sqrt(square(a))",
        "sub(0, a)",
    ],
)
def test_unlicensed_rewrites_wait_for_fast_math(text: str) -> None:
    graph = graph_of(text)
    strict = simplify(graph)
    arrays = [np.array([0.0, -0.0, 1.0, -2.0, np.inf, -np.inf, np.nan, 1e300])]
    assert same_bits(evaluate(graph, arrays)[0], evaluate(strict, arrays)[0]).all()
    assert shown(simplify(graph, fast_math=True)) != shown(strict)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("mul(a, div(1, b))", "mul(a, div(1.0, b))"),
        ("div(a, 8)", "mul(0.125, a)"),
        ("div(a, 3)", "div(a, 3.0)"),
        ("add(mul(-2, a), b)", "sub(b, mul(2.0, a))"),
        ("neg(mul(2, a))", "mul(-2.0, a)"),
        ("mul(0.5, mul(a, 4))", "mul(2.0, a)"),
        ("mul(mul(0.5, a), mul(2, b))", "mul(a, b)"),
        ("add(neg(a), b)", "sub(b, a)"),
        ("sub(a, -3)", "add(a, 3.0)"),
        ("pow(a, 2)", "square(a)"),
        ("pow(a, -1)", "div(1.0, a)"),
        ("where(lt(a, b), a, a)", "a"),
        ("mul(exp(2), a)", "mul(7.38905609893, a)"),
        ("add(a, a)", "mul(2.0, a)"),
    ],
)
def test_normal_forms(text: str, want: str) -> None:
    assert shown(simplify(graph_of(text))) == want


def test_constants_fold_in_their_own_dtype() -> None:
    g = Builder()
    wrapped = g.map("mul", g.const(100, "i8"), g.const(3, "i8"))
    third = g.map("div", g.const(1.0, "f16"), g.const(3.0, "f16"))
    over = g.map("mul", g.const(60000.0, "f16"), g.const(2.0, "f16"))
    graph = g.graph("f", (), (wrapped, third, over, g.cast(g.const(300, "i64"), "u8")))
    values = [leaf.source.value for leaf in simplify(graph).outputs]  # type: ignore[attr-defined]
    assert values == [44, float(np.float16(1) / np.float16(3)), float("inf"), 44]


def test_integer_division_by_zero_is_left_alone() -> None:
    g = Builder()
    graph = g.graph("f", (), (g.map("floordiv", g.const(1, "i64"), g.const(0, "i64")),))
    assert len(simplify(graph).nodes()) == 3


def test_sizes_stay_symbolic() -> None:
    g = Builder()
    n, m = g.sizes("n m")
    product = g.map("mul", g.const(n, "i64"), g.const(m, "i64"))
    graph = g.graph("f", (), (g.cast(g.map("add", product, g.const(2, "i64")), "f32"),))
    (leaf,) = simplify(graph).outputs
    assert isinstance(leaf, Leaf) and leaf.source.value == n * m + 2  # type: ignore[union-attr]
    assert isinstance(n, Size)


ALL_PAIRS = list(itertools.product(dtypes.DTYPES, repeat=2))


@pytest.mark.parametrize(("source", "target"), ALL_PAIRS, ids=lambda t: t.short)
def test_lossless_conversions_are_lossless(source: DType, target: DType) -> None:
    """Extreme values survive the way there and back exactly if the pair is called lossless."""
    import ml_dtypes

    kinds = {"bfloat16": ml_dtypes.bfloat16}
    a, b = (np.dtype(kinds.get(t.name, t.name)) for t in (source, target))
    if source.is_float:
        info = ml_dtypes.finfo(a)
        values = np.array([info.max, info.tiny, 1 + info.eps, info.smallest_subnormal]).astype(a)
    elif source is dtypes.bool_:
        values = np.array([False, True])
    else:
        info = np.iinfo(a)
        values = np.array([info.min, info.max, info.max - 1, 1], a)
    with np.errstate(all="ignore"):
        there = values.astype(b)
        kept = bool(np.all(there.astype(a) == values) and np.all((there > 0) == (values > 0)))
    assert not is_lossless(source, target) or kept
    if source.kind == target.kind == "float":
        assert is_lossless(source, target) == kept
