"""Kernels and plans print and parse back, to the letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.kernel_builder import KernelBuilder, buffer
from tests.support.sample_plans import SAMPLES
from tgc.errors import Line
from tgc.ir.dtypes import DTYPES, float32, int64
from tgc.ir.sizes import Dim, Size, cdiv
from tgc.kernel.ir import (
    Axis,
    Const,
    Gathered,
    Guard,
    Index,
    Iota,
    Kernel,
    Load,
    Op,
    Plan,
    Program,
    Quotient,
    Reduce,
    Remainder,
    Store,
)
from tgc.kernel.parse import TextError, parse_kernel, parse_plan
from tgc.kernel.text import print_kernel, print_plan

n, m = Size.symbol("n"), Size.symbol("m")


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_plans_read_back(name: str) -> None:
    plan = SAMPLES[name]().plan
    assert parse_plan(print_plan(plan)) == plan
    for kernel in plan.kernels:
        assert parse_kernel(print_kernel(kernel)) == kernel


sizes = st.recursive(
    st.one_of(st.integers(-9, 9), st.sampled_from([n, m])),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] * p[1]),
        st.tuples(inner, st.sampled_from([2, 3, n])).map(lambda p: cdiv(p[0], p[1])),
    ),
    max_leaves=5,
)
nonzero = sizes.filter(lambda d: d != 0)
positive = st.sampled_from([1, 2, 7, n, m, n * m, n + 3])


def indices(depth: int = 1) -> st.SearchStrategy[Index]:
    plain = st.one_of(
        st.sampled_from(["i", "j"]),
        st.builds(Program, st.sampled_from(["i", "j"])),
        st.builds(Gathered, st.just("label"), sizes),
    )
    if depth:
        inner = indices(depth - 1)
        plain = st.one_of(
            plain, st.builds(Quotient, inner, positive), st.builds(Remainder, inner, positive)
        )
    terms = st.lists(st.tuples(plain, nonzero), max_size=3).map(tuple)
    return st.builds(Index, terms, sizes)


axes = st.sampled_from([(), ("i",), ("j",), ("i", "j")])
kinds = st.sampled_from(DTYPES)
safe_names = st.sampled_from(["x", "y_1", "value", "e"])
floats = st.floats(allow_nan=False)
numbers = st.one_of(
    st.integers(-(2**63), 2**63),
    floats,
    st.booleans(),
    sizes.filter(lambda d: isinstance(d, Size)),
)
operands = st.one_of(safe_names, st.builds(Const, numbers, kinds))
lines = st.one_of(
    st.none(), st.builds(Line, st.text(max_size=8), st.integers(0, 999), st.text(max_size=12))
)
statements = st.one_of(
    st.builds(Load, safe_names, st.just("x"), indices(), kinds, axes),
    st.builds(Load, safe_names, st.just("x"), indices(), kinds, axes, st.just("inside"), floats),
    st.builds(Iota, safe_names, indices(), kinds, axes),
    st.builds(
        Op,
        safe_names,
        st.sampled_from(["add", "exp", "where"]),
        st.lists(operands, max_size=3).map(tuple),
        kinds,
        axes,
        lines,
    ),
    st.builds(
        Reduce, safe_names, st.sampled_from(["sum", "max"]), operands, axes, kinds, axes, lines
    ),
    st.builds(Store, st.just("x"), indices(), operands, axes),
)


@given(st.lists(statements, max_size=4), positive, positive)
def test_any_kernel_reads_back(body: list[Op], extent: Dim, split: Dim) -> None:
    kernel = Kernel(
        "kernel",
        (Axis("i", extent, "loop", 4, split), Axis("j", extent, "lane")),
        (buffer("x", float32, (n, m), "out"),),
        ("n", "m"),
        tuple(body),
        ("y = x", "a formula with # in it"),
    )
    text = print_kernel(kernel)
    assert parse_kernel(text) == kernel, text


@given(sizes, st.one_of(st.none(), st.integers(-5, 5)), st.one_of(st.none(), st.integers(-5, 5)))
def test_guards_read_back(size: Dim, low: int | None, high: int | None) -> None:
    x = buffer("x", int64, (n,))
    plan = Plan("f", ("x",), ("x",), (x,), (), (), (Guard(size, low, high),))
    assert parse_plan(print_plan(plan)) == plan


def test_nested_loops_read_back() -> None:
    b = KernelBuilder(
        "k",
        [Axis("i", n, "loop", 4), Axis("j", m, "loop", 8)],
        [buffer("x", float32, (n, m)), buffer("y", float32, (), "out")],
    )
    b.loop("i")
    b.loop("j")
    (row,) = b.end(("sum", b.load("x", ("i", m), ("j", 1)), "j", "row"))
    (total,) = b.end(("max", row, "i", "total"))
    b.store("y", total)
    kernel = b.build(["n", "m"])
    assert parse_kernel(print_kernel(kernel)) == kernel


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("sub(x_, 1.0:f32)", "sub(x_, 1.0)", "line 8: expected ':', found \\)"),
        ("grid i: (n) block 4", "grid i: (n block 4", "line 5: expected '\\)', found block"),
        ("f32[i] = load", "f31[i] = load", "line 7: expected a dtype, found f31"),
        ("store y[i]", "store y[i", "line 9: expected ']', found over"),
        ("kernel k(n)", "kernal k(n)", "line 3: expected 'kernel', found kernal"),
    ],
)
def test_errors_say_where_and_what(before: str, after: str, message: str) -> None:
    b = KernelBuilder(
        "k",
        [Axis("i", n, "grid", 4)],
        [buffer("x", float32, (n,)), buffer("y", float32, (n,), "out")],
    )
    x = b.load("x", ("i", 1), name="x_")
    b.store("y", b.op("sub", x, 1.0), ("i", 1))
    text = print_kernel(b.build(["n"], "y = x - 1"))
    assert before in text, text
    with pytest.raises(TextError, match=message):
        parse_kernel(text.replace(before, after))
