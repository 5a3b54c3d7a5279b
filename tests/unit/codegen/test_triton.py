"""Emitted Triton computes what the kernel IR means, moves what it predicts, and touches nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")

import torch

from tests.support import emitted, sample_plans
from tests.support.kernel_builder import KernelBuilder, buffer
from tests.support.sample_plans import SAMPLES, Sample, _plan, k, m, n
from tgc.codegen.triton import emit
from tgc.ir.dtypes import (
    DType,
    bool_,
    float32,
    float64,
    int32,
    int64,
    uint8,
)
from tgc.ir.sizes import Dim, evaluate
from tgc.kernel.evaluate import evaluate_plan
from tgc.kernel.ir import Axis, Gathered, Index, Launch, Plan, Program, Quotient, Remainder
from tgc.kernel.traffic import traffic

SIZES = [
    {"n": 0, "m": 0, "k": 0},
    {"n": 1, "m": 1, "k": 1},
    {"n": 7, "m": 11, "k": 5},
    {"n": 37, "m": 19, "k": 3},
    {"n": 32, "m": 16, "k": 2},
]


def sizes_of(sample: Sample, sizes: dict[str, int]) -> dict[str, int]:
    """The sizes a plan binds; a contiguous array's strides follow from its shape."""
    found = {b.name: sizes.get(b.name, 0) for b in sample.plan.bindings}
    for binding in sample.plan.bindings:
        if binding.stride:
            shape = sample.plan.buffer(binding.buffer).shape
            found[binding.name] = int(
                np.prod([evaluate(d, sizes) for d in shape[binding.dim + 1 :]])
            )
    return found


def compare(outputs: Sequence[Any], expected: Sequence[Any], plan: Plan) -> None:
    for name, found, wanted in zip(plan.outputs, outputs, expected, strict=True):
        dtype = plan.buffer(name).dtype
        assert found.dtype is getattr(torch, dtype.name)
        value = found.double().numpy() if dtype.is_float else found.numpy()
        tolerance = {2: 1e-2, 4: 3e-6, 8: 1e-14}[dtype.itemsize] if dtype.is_float else 0.0
        np.testing.assert_allclose(
            value, wanted.astype(value.dtype), tolerance, tolerance, err_msg=name
        )


@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: f"n{s['n']}m{s['m']}")
@pytest.mark.parametrize("name", SAMPLES)
def test_samples_compute_and_move_what_the_ir_says(
    name: str, sizes: dict[str, int], tmp_path: Path, rng: np.random.Generator
) -> None:
    """Outputs start as NaN, a lane out of bounds raises, and loads and stores are counted lane by lane."""
    sample = SAMPLES[name]()
    if name == "cross_entropy" and sizes["m"] == 0:
        pytest.skip("there is no label to gather")
    inputs = sample.inputs(rng, sizes)
    expected = evaluate_plan(sample.plan, inputs).outputs
    outputs, trace = emitted.call(emitted.load([sample.plan], tmp_path), sample.plan, inputs)
    compare(outputs, expected, sample.plan)

    bound = sizes_of(sample, sizes)
    launched = {launch.kernel: launch for launch in trace.launches}
    for kernel in sample.plan.kernels:
        predicted = traffic(kernel)
        if kernel.name not in launched:
            moved = [*predicted.reads.values(), *predicted.writes.values()]
            assert all(evaluate(size, bound) == 0 for size in moved)
            continue
        launch = launched[kernel.name]
        for b in kernel.buffers:
            tensor = launch.tensors.get(f"{b.name}_ptr")
            if tensor is None or tensor.numel() == 0:
                continue
            accesses = launch.of(tensor)
            assert accesses.bytes_loaded == evaluate(predicted.reads.get(b.name, 0), bound), b.name
            assert accesses.bytes_stored == evaluate(predicted.writes.get(b.name, 0), bound), b.name
            assert accesses.races == accesses.write_conflicts == 0


def test_every_sample_agrees_with_plain_numpy(tmp_path: Path, rng: np.random.Generator) -> None:
    sizes = {"n": 13, "m": 9, "k": 4}
    for name, make in SAMPLES.items():
        sample = make()
        inputs = sample.inputs(rng, sizes)
        wide = [x.astype(np.float64) if x.dtype.kind in "fV" else x for x in inputs]
        with np.errstate(all="ignore"):
            expected = sample.reference(*wide) if name != "no_rows" else (np.zeros(0),)
        outputs, _ = emitted.call(emitted.load([sample.plan], tmp_path), sample.plan, inputs)
        compare(outputs, expected, sample.plan)


# --- folds ----------------------------------------------------------------------------------------------------------


def row_fold(monoid: str, dtype: DType, *, looped: bool) -> Plan:
    """y[r] = fold of x[r, :], in one tile or in a loop."""
    buffers = (buffer("x", dtype, (n, m)), buffer("y", dtype, (n,), "out"))
    last = Axis("c", m, "loop", 8) if looped else Axis("c", m, "lane")
    b = KernelBuilder("fold_kernel", [Axis("r", n, "grid", 2), last], buffers)
    if looped:
        b.loop("c")
        x = b.load("x", ("r", m), ("c", 1), name="x")
        (y,) = b.end((monoid, x, "c", "folded"))
    else:
        y = b.reduce(monoid, b.load("x", ("r", m), ("c", 1), name="x"), "c", name="folded")
    b.store("y", y, ("r", 1))
    return _plan("fold", "x", "y", buffers, (Launch(b.build(["n", "m"])),))


FOLDS = [
    *((monoid, dtype) for monoid in ("sum", "prod", "max", "min") for dtype in (float32, float64)),
    *((monoid, dtype) for monoid in ("sum", "prod", "max", "min") for dtype in (int64, int32)),
    *((monoid, bool_) for monoid in ("any", "all")),
    ("max", uint8),
]


@pytest.mark.parametrize("looped", [False, True], ids=["lanes", "loop"])
@pytest.mark.parametrize(("monoid", "dtype"), FOLDS, ids=lambda v: getattr(v, "name", v))
def test_folds(
    monoid: str, dtype: DType, looped: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Lanes beyond the end must not count: for `min` they would be 0 below every positive element."""
    plan = row_fold(monoid, dtype, looped=looped)
    x = rng.integers(1, 4, (3, 11)).astype(dtype.name)
    if dtype is bool_:
        x = rng.integers(0, 2, (3, 11)).astype(bool)
        x[0], x[1] = True, False
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [x])
    fold = {
        "sum": np.sum,
        "prod": np.prod,
        "max": np.max,
        "min": np.min,
        "any": np.any,
        "all": np.all,
    }
    np.testing.assert_array_equal(outputs[0].numpy(), fold[monoid](x, axis=1))
    # An empty row has the identity, where torch and numpy raise for max and min.
    empty, _ = emitted.call(emitted.load([plan], tmp_path), plan, [x[:, :0].copy()])
    wanted = evaluate_plan(plan, [x[:, :0]], exact=True).outputs[0]
    if dtype.is_float or monoid not in ("max", "min"):
        np.testing.assert_array_equal(empty[0].numpy(), wanted)


@pytest.mark.parametrize("looped", [False, True], ids=["lanes", "loop"])
@pytest.mark.parametrize("monoid", ["max", "min"])
def test_nan_stays_in_maxima(monoid: str, looped: bool, tmp_path: Path) -> None:
    x = np.arange(33, dtype=np.float32).reshape(3, 11)
    x[1, 4] = np.nan
    plan = row_fold(monoid, float32, looped=looped)
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [x])
    np.testing.assert_array_equal(outputs[0].numpy(), getattr(np, monoid)(x, axis=1))


def test_an_infinity_beside_missing_lanes(tmp_path: Path) -> None:
    """0 * inf in a lane that does not exist must not reach the sum: w is infinite where dy is masked."""
    buffers = (
        buffer("x", float32, (n, m)),
        buffer("w", float32, (m,)),
        buffer("y", float32, (m,), "out"),
    )
    b = KernelBuilder("weighted", [Axis("r", n, "loop", 4), Axis("c", m, "lane")], buffers)
    w = b.load("w", ("c", 1), name="w")
    b.loop("r")
    x = b.load("x", ("r", m), ("c", 1), name="x")
    (y,) = b.end(("sum", b.op("mul", x, w), "r", "y"))
    b.store("y", y, ("c", 1))
    plan = _plan("weighted_sum", "x w", "y", buffers, (Launch(b.build(["n", "m"])),))
    x, w_ = np.ones((3, 3), np.float32), np.array([1, np.inf, 2], np.float32)
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [x, w_])
    np.testing.assert_array_equal(outputs[0].numpy(), [3, np.inf, 6])


def test_a_fold_of_what_lacks_the_axis(tmp_path: Path) -> None:
    """The sum of a row's weight over its columns is columns times the weight."""
    buffers = (
        buffer("x", float32, (n, m)),
        buffer("w", float32, (n,)),
        buffer("y", float32, (n,), "out"),
    )
    b = KernelBuilder("spread", [Axis("r", n, "grid", 2), Axis("c", m, "lane")], buffers)
    w = b.load("w", ("r", 1), name="w")
    x = b.load("x", ("r", m), ("c", 1), name="x")
    both = b.op("add", b.reduce("sum", x, "c"), b.reduce("sum", w, "c"))
    b.store("y", both, ("r", 1))
    plan = _plan("spread_sum", "x w", "y", buffers, (Launch(b.build(["n", "m"])),))
    x_, w_ = np.ones((3, 5), np.float32), np.arange(3, dtype=np.float32)
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [x_, w_])
    np.testing.assert_array_equal(outputs[0].numpy(), 5 + 5 * w_)


# --- indices --------------------------------------------------------------------------------------------------------


def test_three_grid_axes_and_quotients(tmp_path: Path, rng: np.random.Generator) -> None:
    """A grid of three axes is folded into one; quotients and remainders of sums fall to the floor."""
    buffers = (
        buffer("x", float32, (n, m, k)),
        buffer("z", float32, (5,)),
        buffer("y", float32, (n, m, k), "out"),
    )
    axes = [Axis("a", n, "grid", 1), Axis("b", m, "grid", 2), Axis("c", k, "grid", 4)]
    builder = KernelBuilder("cube", axes, buffers)
    at: tuple[Any, ...] = (("a", m * k), ("b", k), ("c", 1))
    x = builder.load("x", *at, name="x")
    shifted = Index((("c", 1),), offset=-3)
    z = builder.load("z", (Remainder(shifted, 5), 1), name="z")
    q = builder.op("cast", builder.iota((Quotient(shifted, 2), 1), name="q"), dtype=float32)
    builder.store("y", builder.op("add", builder.op("mul", x, z), q), *at)
    plan = _plan("cubed", "x z", "y", buffers, (Launch(builder.build(["n", "m", "k"])),))
    x_, z_ = rng.standard_normal((3, 5, 7)).astype("f4"), np.arange(5, dtype="f4")
    outputs, trace = emitted.call(emitted.load([plan], tmp_path), plan, [x_, z_])
    c = np.arange(7)
    np.testing.assert_allclose(outputs[0].numpy(), x_ * z_[(c - 3) % 5] + (c - 3) // 2, rtol=1e-6)
    assert trace.launches[0].grid == (3 * 3 * 2, 1, 1)


def test_gather_is_masked_by_a_condition_of_another_axis_set(tmp_path: Path) -> None:
    """A load addressed by rows and masked by rows and columns is a tile of both."""
    buffers = (
        buffer("x", float32, (n,)),
        buffer("keep", bool_, (n, m)),
        buffer("index", int64, (n,)),
        buffer("y", float32, (n, m), "out"),
    )
    b = KernelBuilder("pick", [Axis("r", n, "grid", 2), Axis("c", m, "grid", 4)], buffers)
    keep = b.load("keep", ("r", m), ("c", 1), name="keep")
    index = b.load("index", ("r", 1), name="index")
    b.store("y", b.load("x", (Gathered(index, n), 1), mask=keep, fill=-1.0), ("r", m), ("c", 1))
    plan = _plan("picked", "x keep index", "y", buffers, (Launch(b.build(["n", "m"])),))
    x, index_ = np.arange(3, dtype="f4"), np.array([2, 0, 1])
    keep_ = np.arange(15).reshape(3, 5) % 2 == 0
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [x, keep_, index_])
    np.testing.assert_array_equal(outputs[0].numpy(), np.where(keep_, x[index_][:, None], -1))


def test_numbers_of_programs_are_positions(tmp_path: Path) -> None:
    """Per-tile partial sums over a grid axis, stored at the number of the program."""
    tiles = Axis("i", n, "grid", 8)
    buffers = (buffer("x", float32, (n,)), buffer("y", float32, (tiles.programs,), "out"))
    b = KernelBuilder("tile_sum", [tiles], buffers)
    b.store("y", b.reduce("sum", b.load("x", ("i", 1), name="x"), "i"), (Program("i"), 1))
    plan = _plan("tile_sums", "x", "y", buffers, (Launch(b.build(["n"])),))
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [np.ones(19, "f4")])
    np.testing.assert_array_equal(outputs[0].numpy(), [8, 8, 3])


# --- types and constants --------------------------------------------------------------------------------------------


def map_plan(dtype: DType, body: Any, extent: Dim = n, out: DType | None = None) -> Plan:
    """y = body(builder, x) over a flat array."""
    buffers = (buffer("x", dtype, (extent,)), buffer("y", out or dtype, (extent,), "out"))
    b = KernelBuilder("map_kernel", [Axis("i", extent, "grid", 16)], buffers)
    b.store("y", body(b, b.load("x", ("i", 1), name="x")), ("i", 1))
    return _plan("mapped", "x", "y", buffers, (Launch(b.build(["n"])),))


@pytest.mark.parametrize("op", ["add", "mul", "maximum", "pow", "atan2", "where", "fma"])
def test_float64_constants_keep_their_digits(op: str, tmp_path: Path) -> None:
    """0.1 through float32 would be off by 1.5e-9, in operators and in function arguments alike."""

    def body(b: KernelBuilder, x: str) -> str:
        if op == "where":
            return b.op("where", b.op("gt", x, 1.5), x, 0.1)
        return b.op(op, x, 0.1, 0.3) if op == "fma" else b.op(op, x, 0.1)

    plan = map_plan(float64, body)
    x = np.array([0.05, 0.5, 2.0])
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [x])
    expected = {
        "add": x + 0.1, "mul": x * 0.1, "maximum": np.maximum(x, 0.1), "pow": x**0.1,
        "atan2": np.arctan2(x, 0.1), "where": np.where(x > 1.5, x, 0.1), "fma": x * 0.1 + 0.3,
    }  # fmt: skip
    np.testing.assert_allclose(outputs[0].numpy(), expected[op], rtol=4e-16)


@pytest.mark.parametrize(
    "value", [1e-40, -0.0, 1e30, float("inf"), float("-inf"), float("nan"), 0.1]
)
def test_float32_constants(value: float, tmp_path: Path) -> None:
    """Denormal and signed-zero literals, bare in an operator and as an argument of a function."""
    plan = map_plan(float32, lambda b, x: b.op("copysign", b.op("mul", x, value), value))
    sums = map_plan(float32, lambda b, x: b.op("minimum", b.op("add", x, value), value))
    for made, reference in (
        (plan, lambda x, v: np.copysign(x * v, v)),
        (sums, lambda x, v: np.minimum(x + v, v)),
    ):
        x = np.array([1.0, 3.0], np.float32)
        outputs, _ = emitted.call(emitted.load([made], tmp_path), made, [x])
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(outputs[0].numpy(), reference(x, np.float32(value)))


def test_constants_alone_have_their_type(tmp_path: Path) -> None:
    """where(x > 0, 2**40, 3) in int64 and a stored constant: no operand says the type."""
    plan = map_plan(
        float32,
        lambda b, x: b.op("where", b.op("gt", x, 0.0), 2**40, 3, dtype=int64),
        out=int64,
    )
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [np.array([1.0, -1.0], "f4")])
    np.testing.assert_array_equal(outputs[0].numpy(), [2**40, 3])


def test_numbers_passed_by_value_keep_float64(tmp_path: Path) -> None:
    buffers = (
        buffer("x", float64, (n,)),
        buffer("scale", float64, (), "scalar"),
        buffer("shift", int64, (), "scalar"),
        buffer("y", float64, (n,), "out"),
    )
    b = KernelBuilder("affine_kernel", [Axis("i", n, "grid", 16)], buffers)
    shift = b.op("cast", b.load("shift", name="shift"), dtype=float64)
    x = b.load("x", ("i", 1), name="x")
    b.store("y", b.op("add", b.op("mul", x, b.load("scale", name="scale")), shift), ("i", 1))
    plan = _plan("affine", "x scale shift", "y", buffers, (Launch(b.build(["n"])),))
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [np.array([1.0, 3.0]), 0.1, 2])
    np.testing.assert_allclose(outputs[0].numpy(), [0.1 + 2, 0.1 * 3 + 2], rtol=1e-16)


@pytest.mark.parametrize(
    "op", ["lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor", "maximum", "minimum"]
)
def test_bools_are_ordered_false_before_true(op: str, tmp_path: Path) -> None:
    """int1 is signed in Triton: True would be -1."""
    buffers = (
        buffer("a", bool_, (n,)), buffer("b", bool_, (n,)), buffer("y", bool_, (n,), "out"),
    )  # fmt: skip
    builder = KernelBuilder("bools", [Axis("i", n, "grid", 4)], buffers)
    a, b = builder.load("a", ("i", 1), name="a"), builder.load("b", ("i", 1), name="b")
    builder.store("y", builder.op(op, a, b), ("i", 1))
    plan = _plan("logic", "a b", "y", buffers, (Launch(builder.build(["n"])),))
    left, right = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [left, right])
    reference = {
        "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
        "eq": np.equal, "ne": np.not_equal, "and": np.logical_and, "or": np.logical_or,
        "xor": np.logical_xor, "maximum": np.maximum, "minimum": np.minimum,
    }  # fmt: skip
    np.testing.assert_array_equal(outputs[0].numpy(), reference[op](left, right))


@pytest.mark.parametrize("dtype", [int64, int32, float32, float64], ids=lambda d: d.name)
@pytest.mark.parametrize("op", ["floordiv", "mod", "pow"])
def test_division_rounds_down(op: str, dtype: DType, tmp_path: Path) -> None:
    """As torch and numpy have it; Triton's own operators round to zero."""
    buffers = (buffer("a", dtype, (n,)), buffer("b", dtype, (n,)), buffer("y", dtype, (n,), "out"))
    builder = KernelBuilder("divide", [Axis("i", n, "grid", 16)], buffers)
    a, b = builder.load("a", ("i", 1), name="a"), builder.load("b", ("i", 1), name="b")
    builder.store("y", builder.op(op, a, b), ("i", 1))
    plan = _plan("divided", "a b", "y", buffers, (Launch(builder.build(["n"])),))
    left = np.array([7, -7, 7, -7, 6, -6, 0, 1, 2]).astype(dtype.name)
    right = np.array([2, 2, -2, -2, 3, 3, 5, 9, 9]).astype(dtype.name)
    if op == "pow":
        right = np.abs(right)
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [left, right])
    reference = {"floordiv": np.floor_divide, "mod": np.remainder, "pow": np.power}[op]
    np.testing.assert_allclose(outputs[0].numpy(), reference(left, right), rtol=1e-6)


# --- loops ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 19, 20, 21, 50])
def test_a_program_stops_where_the_next_begins(size: int, tmp_path: Path) -> None:
    """Twenty elements a program in tiles of eight: the third tile of each is cut at four."""
    plan = sample_plans.full_sum(8, 20).plan
    x = np.arange(size, dtype="f4")
    outputs, trace = emitted.call(emitted.load([plan], tmp_path), plan, [x])
    assert outputs[0].item() == float((x * x).sum())
    assert trace.launches[0].of(trace.launches[0].tensors["x_ptr"]).read_once


def test_what_does_not_change_in_a_loop_stays_outside(tmp_path: Path) -> None:
    """Although it is used once, and inside."""
    buffers = (
        buffer("x", float32, (n, m)),
        buffer("w", float32, (n,)),
        buffer("y", float32, (n, m), "out"),
    )
    b = KernelBuilder("k", [Axis("r", n, "grid", 1), Axis("c", m, "loop", 8)], buffers)
    w = b.op("exp", b.load("w", ("r", 1), name="w"))
    b.loop("c")
    x = b.load("x", ("r", m), ("c", 1), name="x")
    b.store("y", b.op("mul", x, w), ("r", m), ("c", 1))
    b.end()
    plan = _plan("scaled", "x w", "y", buffers, (Launch(b.build(["n", "m"])),))
    source = emit([plan])
    assert source.index("libdevice.exp(w)") < source.index("for c_first in")
    x_, w_ = np.ones((3, 11), "f4"), np.arange(3, dtype="f4")
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [x_, w_])
    np.testing.assert_allclose(outputs[0].numpy(), x_ * np.exp(w_)[:, None], rtol=1e-6)
