"""What emitted kernels become on a GPU: compiled without one, read off registers, PTX and TTIR."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from tests.support import emitted, sample_plans
from tests.support.kernel_builder import KernelBuilder, buffer
from tests.support.sample_plans import Sample, _plan, n
from tests.support.static_model import Access, accesses, has_approximate_math
from tgc.codegen.triton import PRIMITIVES
from tgc.errors import BackendError
from tgc.ir.build import result_dtype
from tgc.ir.dtypes import DType, bool_, float16, float32, float64, int32, int64, uint8
from tgc.ir.ops import OPS
from tgc.kernel.ir import Axis, Launch, Plan

ROWS = {"n": 4096, "m": 1024, "k": 64}
ODD = 2**20 + 3

# A sample with blocks as on a GPU, sizes, and the buffers whose rows are aligned: those move 128 bits at a time.
CASES: dict[str, tuple[Sample, Mapping[str, int], str]] = {
    "silu": (sample_plans.silu_flat(1024), {"n": 2**20}, "x y"),
    "bias_tanh": (sample_plans.bias_tanh(4, 256), ROWS, "x y"),
    "softmax": (sample_plans.softmax_persistent(1), ROWS, "x y"),
    "softmax_16k": (sample_plans.softmax_persistent(1), ROWS | {"m": 16384}, "x y"),
    "softmax_looped": (sample_plans.softmax_looped(1, 2048), ROWS | {"m": 65536}, "x y"),
    "layer_norm_backward": (
        sample_plans.layer_norm_backward(1, 16, 128), ROWS, "x w dy dx dw_partial db_partial",
    ),
    "layer_norm_backward_8k": (
        sample_plans.layer_norm_backward(1, 16, 128), ROWS | {"m": 8192}, "x w dy dx",
    ),
    "sum_of_squares": (sample_plans.full_sum(2048, 2**17), {"n": 2**24}, "x"),
    "column_sum": (sample_plans.column_sum(32, 64), ROWS, "x"),
    "cross_entropy": (sample_plans.cross_entropy(1), ROWS, ""),
    "cross_entropy_backward": (sample_plans.cross_entropy_backward(4, 256), ROWS, "x dx"),
    "padded": (sample_plans.padded(1024), {"n": 4096}, ""),
    "flipped": (sample_plans.flipped(4, 256), ROWS, "y"),
    "transposed": (sample_plans.transposed(32, 32), ROWS, "x y"),
    "linear_relu": (sample_plans.matmul_bias_relu(1), ROWS, "h y"),
    "strided": (
        sample_plans.strided(4, 256), ROWS | {"x_stride0": 2048, "x_stride1": 1}, "x y",
    ),
    "half_exp": (sample_plans.bf16_exp(1024), {"n": 2**20}, "x y"),
    "repeated": (sample_plans.repeated(1024), {"n": 4096}, ""),
}  # fmt: skip


def moves(binary: Any) -> dict[str, tuple[Access, ...]]:
    return accesses(binary.asm("ptx"), binary.arguments)


@pytest.mark.parametrize("name", CASES)
def test_kernels_on_an_h100(name: str, tmp_path: Path) -> None:
    """No spills, 128-bit accesses where rows are aligned, no approximate arithmetic."""
    sample, sizes, aligned = CASES[name]
    for binary in emitted.compile_plan(sample.plan, tmp_path, sizes):
        assert binary.resources().spill_bytes == 0
        assert not has_approximate_math(binary.asm("ptx"), binary.asm("ttir"))
        found = moves(binary)
        for buffer_name in aligned.split():
            assert all(a.bytes == 16 for a in found.get(f"{buffer_name}_ptr", ())), buffer_name


@pytest.mark.parametrize("name", ["silu", "softmax_looped", "layer_norm_backward", "half_exp"])
def test_kernels_on_an_mi300(name: str, tmp_path: Path) -> None:
    sample, sizes, _ = CASES[name]
    for binary in emitted.compile_plan(sample.plan, tmp_path, sizes, "gfx942"):
        assert binary.resources().spill_bytes == 0


@pytest.mark.parametrize("sample", [sample_plans.silu_flat(1024), sample_plans.bf16_exp(1024)])
def test_full_tiles_of_odd_sizes_move_128_bits(sample: Sample, tmp_path: Path) -> None:
    """The mask's bound is not divisible by 16: only the path without a mask can be wide."""
    (binary,) = emitted.compile_plan(sample.plan, tmp_path, {"n": ODD})
    for pointer in ("x_ptr", "y_ptr"):
        full = [a for a in moves(binary)[pointer] if not a.predicated]
        assert full and all(a.bytes == 16 for a in full)


def test_guards_narrow_the_arithmetic(tmp_path: Path) -> None:
    """In 32 bits the same kernel takes fewer registers."""
    from dataclasses import replace

    from tgc.kernel.ir import INT32_ELEMENTS, Guard

    plan = sample_plans.transposed(32, 32).plan
    guards = tuple(
        Guard(size, high=INT32_ELEMENTS) for b in plan.buffers for size in [b.shape[0] * b.shape[1]]
    )
    (wide,) = emitted.compile_plan(plan, tmp_path, ROWS)
    (narrow,) = emitted.compile_plan(replace(plan, guards=guards), tmp_path, ROWS)
    assert "i64" in wide.asm("ttir") and "i64" not in narrow.asm("ttir").replace(": i64", "")


# --- operations -----------------------------------------------------------------------------------------------------


def operation_plan(op: str, dtype: DType) -> Plan:
    """y = op(a, ...) over flat arrays."""
    spec = OPS[op]
    names = "abc"[: spec.arity]
    kinds = [bool_ if op == "where" and i == 0 else dtype for i in range(spec.arity)]
    out = float16 if op == "cast" else result_dtype(spec, dtype)
    buffers = (
        *(buffer(name, kind, (n,)) for name, kind in zip(names, kinds)),
        buffer("y", out, (n,), "out"),
    )
    b = KernelBuilder(f"{op}_kernel", [Axis("i", n, "grid", 256)], buffers)
    operands = [b.load(name, ("i", 1), name=name) for name in names]
    b.store("y", b.op(op, *operands, dtype=out if op == "cast" else None), ("i", 1))
    kernel = b.build(["n"], f"y = {op}")
    return _plan(f"{op}_map", " ".join(names), "y", buffers, (Launch(kernel),))


def operations(kind: str) -> list[str]:
    return sorted(op for op in PRIMITIVES if kind in OPS[op].accepts)


# The slow path of range reduction keeps 2/pi on the stack: no spill.
HAS_STACK_FRAME = {"sin", "cos", "tan"}


@pytest.mark.parametrize("dtype", [float32, float64], ids=lambda d: d.name)
@pytest.mark.parametrize("op", operations("float"))
def test_operations_are_precise(op: str, dtype: DType, tmp_path: Path) -> None:
    """Division, roots and exponentials as IEEE or libdevice have them; nothing in float64 narrows to float32."""
    plan = operation_plan(op, dtype)
    (binary,) = emitted.compile_plan(plan, tmp_path, {"n": 4096})
    assert not has_approximate_math(binary.asm("ptx"), binary.asm("ttir"))
    if op not in HAS_STACK_FRAME:
        assert binary.resources().spill_bytes == 0
    if dtype is float64 and op != "cast":
        assert "f32" not in binary.asm("ttir")


@pytest.mark.parametrize("dtype", [int64, int32, uint8, bool_], ids=lambda d: d.name)
def test_integer_operations_compile(dtype: DType, tmp_path: Path) -> None:
    for op in operations(dtype.kind):
        for binary in emitted.compile_plan(operation_plan(op, dtype), tmp_path, {"n": 4096}):
            assert binary.resources().spill_bytes == 0


def test_float64_numbers_travel_as_float64(tmp_path: Path) -> None:
    buffers = (
        buffer("x", float64, (n,)),
        buffer("scale", float64, (), "scalar"),
        buffer("y", float64, (n,), "out"),
    )
    b = KernelBuilder("scale_kernel", [Axis("i", n, "grid", 256)], buffers)
    b.store(
        "y", b.op("mul", b.load("x", ("i", 1), name="x"), b.load("scale", name="scale")), ("i", 1)
    )
    plan = _plan("scaled", "x scale", "y", buffers, (Launch(b.build(["n"])),))
    (binary,) = emitted.compile_plan(plan, tmp_path, {"n": 4096})
    assert "%scale: f64" in binary.asm("ttir") and "f32" not in binary.asm("ttir")
    module = emitted.load([plan], tmp_path)
    declared = {p.name: p.annotation_type for p in module.scale_kernel.params}
    assert declared["scale"] == "fp64", "the launcher would pass a Python float as fp32"


@pytest.mark.parametrize("dtype", [float32, float64, int64], ids=lambda d: d.name)
def test_a_choice_between_constants_has_their_type(dtype: DType, tmp_path: Path) -> None:
    buffers = (buffer("x", float32, (n,)), buffer("y", dtype, (n,), "out"))
    b = KernelBuilder("choose_kernel", [Axis("i", n, "grid", 256)], buffers)
    positive = b.op("gt", b.load("x", ("i", 1), name="x"), 0.0)
    b.store("y", b.op("where", positive, 1.0, 0.0, dtype=dtype), ("i", 1))
    plan = _plan("choose", "x", "y", buffers, (Launch(b.build(["n"])),))
    (binary,) = emitted.compile_plan(plan, tmp_path, {"n": 4096})
    select = next(line for line in binary.asm("ttir").splitlines() if "arith.select" in line)
    assert {"float32": "xf32", "float64": "xf64", "int64": "xi64"}[dtype.name] in select


def test_an_operation_without_a_spelling_is_refused() -> None:
    assert "softplus" not in PRIMITIVES
    from tgc.codegen.triton import emit

    with pytest.raises(BackendError, match="no softplus"):
        emit([operation_plan("softplus", float32)])
