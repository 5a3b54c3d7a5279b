"""The verifier accepts every sample and names what is wrong with each way of breaking one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.kernel_builder import KernelBuilder, buffer
from tests.support.sample_plans import SAMPLES, cross_entropy, full_sum, silu_flat, softmax_looped
from tgc.errors import VerifyError
from tgc.ir.dtypes import float32, float64, int64
from tgc.ir.sizes import Size
from tgc.kernel.ir import (
    Axis,
    Const,
    Gathered,
    Index,
    Kernel,
    Launch,
    Load,
    Loop,
    Op,
    Plan,
    Program,
    Reduce,
    Statement,
    Store,
)
from tgc.kernel.verify import verify, verify_kernel

n, m = Size.symbol("n"), Size.symbol("m")


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_sound(name: str) -> None:
    verify(SAMPLES[name]().plan)


def change(kernel: Kernel, edit: Callable[[Statement], Statement | None]) -> Kernel:
    """The kernel with each top-level statement edited; None drops it."""
    body = tuple(new for s in kernel.body if (new := edit(s)) is not None)
    return replace(kernel, body=body)


def silu() -> Kernel:
    return silu_flat().plan.kernels[0]


BROKEN: dict[str, tuple[Callable[[], Kernel], str]] = {
    "undefined operand": (
        lambda: change(silu(), lambda s: None if isinstance(s, Load) else s),
        "x is not defined here",
    ),
    "defined twice": (
        lambda: replace(silu(), body=(*silu().body[:1], *silu().body)),
        "x is defined twice",
    ),
    "wrong axes": (
        lambda: change(silu(), lambda s: replace(s, axes=()) if isinstance(s, Op) else s),
        r"axes \(\), but its operands have \('i',\)",
    ),
    "wrong dtype": (
        lambda: change(silu(), lambda s: replace(s, dtype=float64) if isinstance(s, Op) else s),
        "neg of f32 gives f32, not f64",
    ),
    "mixed dtypes": (
        lambda: change(
            silu(),
            lambda s: (
                replace(s, args=(s.args[0], Const(1, int64)))
                if isinstance(s, Op) and s.op == "add"
                else s
            ),
        ),
        "add: operands are f32, i64",
    ),
    "arity": (
        lambda: change(
            silu(),
            lambda s: replace(s, args=s.args * 2) if isinstance(s, Op) and s.op == "exp" else s,
        ),
        "exp takes 1 operands",
    ),
    "unknown operation": (
        lambda: change(silu(), lambda s: replace(s, op="frobnicate") if isinstance(s, Op) else s),
        "unknown operation frobnicate",
    ),
    "no such buffer": (
        lambda: change(silu(), lambda s: replace(s, buffer="z") if isinstance(s, Load) else s),
        "there is no buffer z",
    ),
    "store into an input": (
        lambda: change(silu(), lambda s: replace(s, buffer="x") if isinstance(s, Store) else s),
        "x is read only",
    ),
    "every program stores alike": (
        lambda: change(
            silu(), lambda s: replace(s, index=Index(), axes=("i",)) if isinstance(s, Store) else s
        ),
        "elements are written once per i",
    ),
    "half of the output": (
        lambda: replace(silu(), buffers=(silu().buffers[0], buffer("y", float32, (2 * n,), "out"))),
        r"n elements of y are written, it has 2\*n",
    ),
    "loop axis outside": (
        lambda: change(
            softmax_looped().plan.kernels[0],
            lambda s: (
                s.body[0] if isinstance(s, Loop) and s.folds and s.folds[0].monoid == "max" else s
            ),
        ),
        "axis c is not visible here",
    ),
    "fold of another axis": (
        lambda: change(
            softmax_looped().plan.kernels[0],
            lambda s: (
                replace(s, folds=tuple(replace(f, over=("r",)) for f in s.folds))
                if isinstance(s, Loop)
                else s
            ),
        ),
        "a fold of the loop over c that does not reduce it",
    ),
    "loop value used outside": (
        lambda: replace(
            full_sum().plan.kernels[0],
            body=(*full_sum().plan.kernels[0].body, Op("late", "neg", ("x",), float32, ("i",))),
        ),
        "x is not defined here",
    ),
    "program of a lane": (
        lambda: change(
            full_sum().plan.kernels[1],
            lambda s: replace(s, index=Index(((Program("p"), 1),))) if isinstance(s, Store) else s,
        ),
        "no programs lie along p",
    ),
    "float index": (
        lambda: change(
            cross_entropy().plan.kernels[0],
            lambda s: (
                replace(s, index=Index(((Gathered("row_max", 4), 1),)), axes=("r",))
                if isinstance(s, Load) and s.name == "picked"
                else s
            ),
        ),
        "the index row_max is f32, not an integer",
    ),
    "float mask": (
        lambda: _float_mask(),
        "the mask x is f32, not bool",
    ),
    "reduce over a grid axis": (lambda: _grid_fold(), r"cannot fold over \('i',\) here"),
    "unbound size": (lambda: replace(silu(), sizes=()), "the extent of i mentions n"),
    "lane with a block": (
        lambda: replace(silu(), axes=(Axis("i", n, "lane", n),)),
        "axis i: a lane axis and block n",
    ),
}


def _float_mask() -> Kernel:
    kernel = silu()
    masked = Load("x_2", "x", Index((("i", 1),)), float32, ("i",), mask="x")
    return replace(kernel, body=(*kernel.body[:1], masked, *kernel.body[1:]))


def _grid_fold() -> Kernel:
    kernel = silu()
    fold = Reduce("s", "sum", "x", ("i",), float32, ())
    return replace(kernel, body=(*kernel.body[:1], fold, *kernel.body[1:]))


@pytest.mark.parametrize("name", BROKEN)
def test_broken_kernels_are_named(name: str) -> None:
    make, message = BROKEN[name]
    with pytest.raises(VerifyError, match=message) as caught:
        verify_kernel(make(), "tiling")
    assert "after tiling" in str(caught.value) and f"kernel {make().name}" in str(caught.value)


def test_errors_show_the_statement_between_its_neighbours() -> None:
    make, _ = BROKEN["mixed dtypes"]
    with pytest.raises(VerifyError) as caught:
        verify_kernel(make())
    text = str(caught.value)
    assert "  > v3: f32[i] = add(v2, 1:i64)" in text
    assert "    v2: f32[i] = exp(v1)" in text and "    y: f32[i] = div(x, v3)" in text
    assert "model.py:12" in text


def test_every_program_along_an_axis_it_does_not_know() -> None:
    b = KernelBuilder(
        "k",
        [Axis("r", n, "grid", 4), Axis("c", m, "grid", 4)],
        [buffer("x", float32, (m,)), buffer("y", float32, (m,), "out")],
    )
    b.store("y", b.load("x", ("c", 1)), ("c", 1))
    with pytest.raises(VerifyError, match="every program along r writes the same elements"):
        verify_kernel(b.build(["n", "m"]))


def _plan() -> Plan:
    return full_sum().plan


PLANS: dict[str, tuple[Callable[[], Plan], str]] = {
    "read before written": (
        lambda: replace(_plan(), steps=_plan().steps[::-1]),
        "partial is read before it is written",
    ),
    "written twice": (
        lambda: replace(_plan(), steps=_plan().steps[:1] * 2),
        "partial is written twice",
    ),
    "never written": (
        lambda: replace(_plan(), steps=_plan().steps[:1]),
        "the output total is never written",
    ),
    "unbound sizes": (
        lambda: replace(_plan(), bindings=()),
        "the shape of partial has unbound sizes",
    ),
    "unknown output": (lambda: replace(_plan(), outputs=("z",)), "z is no buffer"),
    "another buffer of the name": (
        lambda: replace(
            _plan(), buffers=(*_plan().buffers[:2], buffer("partial", float32, (n,), "partial"))
        ),
        "partial is not the plan's buffer",
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_broken_plans_are_named(name: str) -> None:
    make, message = PLANS[name]
    with pytest.raises(VerifyError, match=message):
        verify(make())


def test_a_launch_takes_sizes_the_plan_binds() -> None:
    plan = silu_flat().plan
    kernel = replace(plan.kernels[0], sizes=("n", "q"))
    with pytest.raises(VerifyError, match="takes sizes the plan does not bind"):
        verify(replace(plan, steps=(Launch(kernel),)))
