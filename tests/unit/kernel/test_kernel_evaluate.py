"""The evaluator computes what the samples say, sees what goes wrong, and moves what is predicted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.kernel_builder import KernelBuilder, buffer
from tests.support.sample_plans import (
    SAMPLES,
    Array,
    cross_entropy,
    padded,
    silu_flat,
    softmax_looped,
)
from tgc.errors import VerifyError
from tgc.ir.dtypes import float32
from tgc.ir.sizes import Size, evaluate
from tgc.kernel.evaluate import evaluate_plan
from tgc.kernel.ir import Axis, Index, Kernel, Launch, Load, Plan, Store
from tgc.kernel.traffic import traffic

n = Size.symbol("n")
SIZES = [(0, 5), (1, 1), (3, 7), (4, 8), (23, 31), (40, 19)]


def sizes_of(rows: int, columns: int) -> dict[str, int]:
    return {"n": rows, "m": columns, "k": 6, "x_stride0": columns, "x_stride1": 1}


def wide(x: Array) -> Array:
    return x if x.dtype.kind in "iub" else x.astype(np.float64)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_samples_in_float64(name: str, rows: int, columns: int, rng: np.random.Generator) -> None:
    sample = SAMPLES[name]()
    inputs = sample.inputs(rng, sizes_of(rows, columns))
    result = evaluate_plan(sample.plan, inputs)
    for got, want in zip(result.outputs, sample.reference(*map(wide, inputs)), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got.astype(np.float64), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_traffic_is_as_predicted(
    name: str, rows: int, columns: int, rng: np.random.Generator
) -> None:
    sample, sizes = SAMPLES[name](), sizes_of(rows, columns)
    result = evaluate_plan(sample.plan, sample.inputs(rng, sizes))
    for kernel, moves in zip(sample.plan.kernels, result.moves, strict=True):
        predicted = traffic(kernel)
        for amounts, counted in ((predicted.reads, moves.reads), (predicted.writes, moves.writes)):
            item = {b.name: b.dtype.itemsize for b in kernel.buffers}
            assert set(counted) <= set(amounts)
            for name_, amount in amounts.items():
                assert evaluate(amount, sizes) == counted.get(name_, 0) * item[name_], name_


def test_rows_are_read_once_or_three_times() -> None:
    x = np.ones((5, 9), np.float32)
    looped = evaluate_plan(softmax_looped().plan, [x]).moves[0]
    assert looped.reads["x"] == 3 * x.size and looped.unique_reads["x"] == x.size
    loss = cross_entropy().plan
    moves = evaluate_plan(loss, [x, np.zeros(5, np.int64)]).moves[0]
    assert moves.reads == {"x": x.size + 5, "label": 5} and moves.unique_reads["x"] == x.size


def test_masked_lanes_touch_nothing() -> None:
    moves = evaluate_plan(padded().plan, [np.ones(7, np.float32)]).moves[0]
    assert moves.reads == {"x": 7} and not traffic(padded().plan.kernels[0]).exact


def test_flops_count_every_operation_and_fold() -> None:
    # neg 1, exp 8, add 1, div 4
    assert traffic(silu_flat().plan.kernels[0]).flops == 14 * n


def test_exact_values_have_their_own_types(rng: np.random.Generator) -> None:
    x = rng.standard_normal(50).astype(np.float32)
    (got,) = evaluate_plan(silu_flat().plan, [x], exact=True).outputs
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, x / (np.exp(-x) + np.float32(1)))


def with_kernel(plan: Plan, kernel: Kernel) -> Plan:
    return replace(plan, steps=(Launch(kernel),))


def test_a_load_outside_is_seen() -> None:
    plan = silu_flat().plan
    body = tuple(
        replace(s, index=Index((("i", 1),), 1)) if isinstance(s, Load) else s
        for s in plan.kernels[0].body
    )
    with pytest.raises(VerifyError, match=r"a load of x at 1\.\.4, which has 4 elements"):
        evaluate_plan(
            with_kernel(plan, replace(plan.kernels[0], body=body)), [np.zeros(4, np.float32)]
        )


def test_a_store_outside_is_seen() -> None:
    plan = silu_flat().plan
    body = tuple(
        replace(s, index=Index((("i", 2),))) if isinstance(s, Store) else s
        for s in plan.kernels[0].body
    )
    with pytest.raises(VerifyError, match="a store of y"):
        evaluate_plan(
            with_kernel(plan, replace(plan.kernels[0], body=body)), [np.zeros(4, np.float32)]
        )


def test_an_element_written_twice_is_seen() -> None:
    b = KernelBuilder(
        "k",
        [Axis("i", n, "grid", 4)],
        [buffer("x", float32, (n,)), buffer("y", float32, (n,), "out")],
    )
    x = b.load("x", ("i", 1))
    b.store("y", x, ("i", 1))
    b.store("y", x, ("i", 1))
    plan = with_kernel(silu_flat().plan, b.build(["n"]))
    with pytest.raises(VerifyError, match="an element of y is written twice"):
        evaluate_plan(plan, [np.zeros(4, np.float32)])


def test_an_element_never_written_is_seen() -> None:
    plan = silu_flat().plan
    kernel = replace(plan.kernels[0], body=plan.kernels[0].body[:-1])
    with pytest.raises(VerifyError, match="y: 4 elements never written"):
        evaluate_plan(with_kernel(plan, kernel), [np.zeros(4, np.float32)])


def test_reading_what_nobody_wrote_is_seen() -> None:
    plan = silu_flat().plan
    body = tuple(replace(s, buffer="y") if isinstance(s, Load) else s for s in plan.kernels[0].body)
    with pytest.raises(VerifyError, match="y is read where nothing was written"):
        evaluate_plan(
            with_kernel(plan, replace(plan.kernels[0], body=body)), [np.zeros(4, np.float32)]
        )
