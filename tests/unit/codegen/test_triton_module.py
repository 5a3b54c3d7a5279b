"""Emitted modules as files: their text, their imports, their launches."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")

from tests.support import emitted, sample_plans
from tests.support.kernel_builder import KernelBuilder, buffer
from tests.support.sample_plans import SAMPLES, _plan, m, n, renamed
from tgc.codegen.triton import emit, launches
from tgc.codegen.triton.indices import non_negative, upper_bound
from tgc.codegen.triton.parameters import Parameters, geometry
from tgc.codegen.triton.prelude import lanes, warps
from tgc.errors import VerifyError
from tgc.ir.dtypes import float32
from tgc.ir.sizes import Size, cdiv
from tgc.kernel.ir import INT32_ELEMENTS, Axis, Guard, Index, Launch, Plan, Program, Quotient

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "triton"


@pytest.mark.parametrize("name", ["silu_flat", "softmax_looped", "layer_norm_backward"])
def test_golden(name: str, golden: Any) -> None:
    golden(GOLDEN / f"{name}.py.txt", emit([SAMPLES[name]().plan]))


@pytest.mark.parametrize("name", SAMPLES)
def test_text_is_deterministic_narrow_and_compiles(name: str) -> None:
    first, second = (emit([SAMPLES[name]().plan]) for _ in range(2))
    assert first == second
    assert max(map(len, first.splitlines())) <= 100
    assert not any(line != line.rstrip() for line in first.splitlines())
    compile(first, name, "exec")


def test_line_numbers_do_not_depend_on_the_header() -> None:
    """Triton's cache key has the line number of a kernel."""
    plan = sample_plans.softmax_persistent().plan
    kernel = plan.kernels[0]
    longer = replace(kernel, formula=("y = " + "x + " * 60 + "x",))
    other = renamed(replace(plan, steps=(Launch(longer),)), "a_function_with_a_much_longer_name")

    def line(source: str) -> int:
        return source.splitlines().index("@triton.jit")

    assert line(emit([plan])) == line(emit([other])) == line(emit([plan, other]))


def test_equal_kernels_are_emitted_once_and_others_renamed(tmp_path: Path) -> None:
    first = sample_plans.silu_flat(16).plan
    other = renamed(sample_plans.silu_flat(32).plan, "silu_wide")
    again = renamed(first, "silu_again")
    source = emit([first, other, again])
    assert source.count("def silu_kernel(") == source.count("def silu_kernel_2(") == 1
    module = emitted.load_text(source, tmp_path)
    x = np.arange(40, dtype="f4")
    for plan in (first, other, again):
        outputs, _ = emitted.call(module, plan, [x])
        np.testing.assert_allclose(outputs[0].numpy(), x / (1 + np.exp(-x)), rtol=1e-6)


def test_imports_without_triton(tmp_path: Path) -> None:
    """The file imports; a call says what is missing."""
    path = tmp_path / "emitted_alone.py"
    path.write_text(emit([sample_plans.softmax_persistent().plan, sample_plans.fixed_rows(3).plan]))
    code = (
        "import sys\n"
        "for name in ('triton', 'tgc', 'sympy'): sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import emitted_alone, torch\n"
        "for function in (emitted_alone.softmax, emitted_alone.row_mean):\n"
        "    try: function(torch.zeros(3, 4))\n"
        "    except ImportError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["Triton is not installed: pip install triton"] * 2


class Recorder:
    """Stands in for a kernel; remembers how it was launched."""

    def __init__(self) -> None:
        self.grid: tuple[int, ...] = ()
        self.args: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **options: Any) -> None:
            self.grid, self.args, self.options = grid, args, options

        return launch


@pytest.mark.parametrize("name", SAMPLES)
def test_launches_agree_with_the_host_code(
    name: str, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grid, sizes, blocks and warps described for a plan are those its host function passes."""
    sample = SAMPLES[name]()
    sizes = {"n": 48, "m": 1, "k": 5}
    module = emitted.load([sample.plan], tmp_path)
    names = {kernel.name: getattr(module, kernel.name).arg_names for kernel in sample.plan.kernels}
    recorders = {kernel: Recorder() for kernel in names}
    for kernel, recorder in recorders.items():
        monkeypatch.setattr(module, kernel, recorder)
    inputs = [emitted.to_torch(x) for x in sample.inputs(rng, sizes)]
    getattr(module, sample.plan.name)(*inputs)
    if any(binding.stride for binding in sample.plan.bindings):
        sizes |= {"x_stride0": inputs[0].stride(0), "x_stride1": inputs[0].stride(1)}
    for launch in launches(sample.plan, sizes):
        recorder = recorders[launch.kernel_name]
        if launch.grid == 0:
            assert recorder.grid == ()
            continue
        assert recorder.grid == (launch.grid,)
        passed = dict(zip(names[launch.kernel_name], recorder.args)) | recorder.options
        assert passed["num_warps"] == launch.num_warps
        assert passed["enable_fp_fusion"] is passed["enable_reflect_ftz"] is False
        for parameter, value in launch.constexprs.items():
            assert passed[parameter] == value
        for parameter, kind in launch.signature.items():
            value = passed[parameter]
            if kind.startswith("*"):
                dtypes = {"float32": "fp32", "int64": "i64", "bfloat16": "bf16", "bool": "i1"}
                assert kind == "*" + dtypes[str(value.dtype).removeprefix("torch.")]
            else:
                assert (value % 16 == 0) == (parameter in launch.divisible_by_16)
        assert {*launch.signature, *launch.constexprs} == set(names[launch.kernel_name])


def test_large_sizes_are_int64_arguments() -> None:
    (launch,) = launches(sample_plans.silu_flat(1024).plan, {"n": 2**31})
    assert launch.signature["n"] == "i64" and launch.grid == 2**21
    (launch,) = launches(sample_plans.silu_flat(1024).plan, {"n": 2**31 - 1})
    assert launch.signature["n"] == "i32" and launch.divisible_by_16 == ("x_ptr", "y_ptr")


# --- names ----------------------------------------------------------------------------------------------------------


def test_names_that_mean_something_else(tmp_path: Path) -> None:
    """A user's `tl`, `lambda`, `n` or `BLOCK_i` must not hide ours."""
    buffers = (
        buffer("tl", float32, (n,)),
        buffer("n", float32, (n,)),
        buffer("lambda", float32, (n,)),
        buffer("torch", float32, (n,), "out"),
    )
    b = KernelBuilder("triton_kernel", [Axis("i", n, "grid", 16)], buffers)
    left = b.op("exp", b.load("tl", ("i", 1), name="tl"), name="libdevice")
    right = b.op(
        "mul", b.load("n", ("i", 1), name="i_mask"), b.load("lambda", ("i", 1), name="mask")
    )
    b.store("torch", b.op("maximum", left, right, name="nan_max"), ("i", 1))
    plan = _plan("names", "tl n lambda", "torch", buffers, (Launch(b.build(["n"])),))
    x = np.arange(5, dtype="f4")
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [x, x, x])
    np.testing.assert_allclose(outputs[0].numpy(), np.maximum(np.exp(x), x * x), rtol=1e-6)


def test_outputs_may_repeat_and_be_inputs(tmp_path: Path) -> None:
    plan = replace(sample_plans.silu_flat().plan, outputs=("y", "x", "y"))
    x = np.arange(5, dtype="f4")
    outputs, _ = emitted.call(emitted.load([plan], tmp_path), plan, [x])
    assert outputs[0].data_ptr() != outputs[2].data_ptr()  # each result is an array of its own
    np.testing.assert_array_equal(outputs[0].numpy(), outputs[2].numpy())
    np.testing.assert_array_equal(outputs[1].numpy(), x)


def test_inputs_in_other_layouts_are_made_contiguous(tmp_path: Path) -> None:
    import torch

    plan = sample_plans.bias_tanh().plan
    x = np.arange(35, dtype="f4").reshape(5, 7) / 35
    module = emitted.load([plan], tmp_path)
    from tests.support.triton_interpreter import interpreting

    with interpreting():
        (y,) = module.bias_tanh(torch.from_numpy(x).T, torch.zeros(5))
    np.testing.assert_allclose(y.numpy(), np.tanh(x.T), rtol=1e-6)


def test_upper_guards_are_asserted(tmp_path: Path) -> None:
    plan = replace(sample_plans.silu_flat().plan, guards=(Guard(n, 4, 16),))
    module = emitted.load([plan], tmp_path)
    for size in (3, 16):  # below its regime a plan is only not the best
        ((out,), _) = emitted.call(module, plan, [np.zeros(size, "f4")])
        np.testing.assert_array_equal(out.numpy(), np.zeros(size))
    with pytest.raises(AssertionError):
        emitted.call(module, plan, [np.zeros(17, "f4")])


def test_einsum_steps(tmp_path: Path, rng: np.random.Generator) -> None:
    """A product that is no plain matrix product, in a wider type than its operands."""
    from tgc.ir.dtypes import bfloat16
    from tgc.kernel.ir import Matmul

    buffers = (
        buffer("a", bfloat16, (n, m)),
        buffer("b", bfloat16, (n, m)),
        buffer("y", bfloat16, (m, n), "out"),
    )
    plan = _plan("outer", "a b", "y", buffers, (Matmul("ij,ij->ji", "a", "b", "y", float32),))
    a, b = (rng.standard_normal((3, 4)).astype("f4") for _ in range(2))
    import torch

    module = emitted.load([plan], tmp_path)
    left, right = torch.from_numpy(a).bfloat16(), torch.from_numpy(b).bfloat16()
    (y,) = module.outer(left, right)
    assert y.is_contiguous()
    assert torch.equal(y, (left.float() * right.float()).T.bfloat16())


# --- geometry, bounds, widths ---------------------------------------------------------------------------------------


def test_lanes_and_warps() -> None:
    assert [lanes(i) for i in (0, 1, 2, 3, 1000, 1024, 1025)] == [1, 1, 2, 4, 1024, 1024, 2048]
    assert [warps(2**i) for i in (0, 7, 9, 10, 12, 13, 14)] == [1, 1, 2, 4, 16, 32, 32]


def test_geometry() -> None:
    def lies(axis: Axis) -> tuple[int | None, bool, bool]:
        found = geometry(axis)
        return found.block, found.tiled, found.masked

    assert lies(Axis("r", n, "grid", 1)) == (1, False, False)
    assert lies(Axis("r", n, "grid", 4)) == (4, True, True)
    assert lies(Axis("r", 16 * n, "grid", 16)) == (16, True, False)
    assert lies(Axis("r", 100, "grid", 1024)) == (128, True, True)
    assert lies(Axis("r", 64, "grid", 1024)) == (64, True, False)
    assert lies(Axis("c", n, "lane")) == (None, True, True)
    assert lies(Axis("c", 1, "lane")) == (1, False, False)
    assert lies(Axis("c", 0, "lane")) == (1, True, True)
    with pytest.raises(VerifyError, match="power of two"):
        geometry(Axis("r", n, "grid", 12))


def test_upper_bounds_follow_from_guards() -> None:
    guards = (Guard(n * m, high=1000), Guard(m, high=50))
    assert upper_bound(7, guards) == 7
    assert upper_bound(n * m, guards) == 1000
    assert upper_bound(n, guards) == 1000, (
        "sizes are positive, so a factor is no larger than the product"
    )
    assert upper_bound(m, guards) == 50
    assert upper_bound(2 * n * m + m - n, guards) == 2050
    assert upper_bound(n * n, guards) == float("inf")
    assert upper_bound(cdiv(n, 8) * m, guards) == pytest.approx(1000 / 8 + 50 * 7 / 8)


def test_sign_of_indices() -> None:
    assert non_negative(Index((("i", n),), offset=3))
    assert not non_negative(Index((("i", 1),), offset=-3))
    assert not non_negative(Index((("i", -1),), offset=n))
    assert not non_negative(Index(((Quotient(Index((("i", 1),), offset=-1), 2), 1),)))


def test_offsets_are_wide_unless_guards_say_otherwise() -> None:
    def wide(plan: Plan) -> set[Any]:
        return set(Parameters(plan.kernels[0], plan.guards).wide)

    small = (Guard(n * m, high=INT32_ELEMENTS),)
    large = (Guard(n * m, high=INT32_ELEMENTS + 1),)
    softmax = sample_plans.softmax_persistent().plan
    assert wide(softmax) == {"r"}, "a row fits in 32 bits, the offset of a row may not"
    assert wide(replace(softmax, guards=small)) == set()
    assert wide(replace(softmax, guards=large)) == {"r"}
    assert wide(sample_plans.bias_tanh().plan) == {"r", "c"}
    assert wide(sample_plans.silu_flat().plan) == {"i"}
    looped = sample_plans.softmax_looped().plan
    assert wide(looped) == {"r"}, "a loop counts in the type of its bound"
    split = sample_plans.layer_norm_backward().plan
    assert wide(split) == {"r", Program("r")}
    assert wide(replace(split, guards=small)) == set()
    assert "int64" not in emit([replace(split, guards=small)])


def test_sizes_too_large_to_multiply_are_arguments() -> None:
    """n * m - 1 in 32 bits would wrap before it meets a 64-bit coordinate."""
    plan = sample_plans.flipped().plan
    unguarded = Parameters(plan.kernels[0], ())
    assert dict(unguarded.sizes)["x_offset"] == n * m - 1
    guarded = Parameters(plan.kernels[0], (Guard(n * m, high=INT32_ELEMENTS),))
    assert [name for name, _ in guarded.sizes] == ["n", "m"]


def test_a_flat_extent_is_one_argument() -> None:
    """Divisibility of a product by 16 is known of an argument, not of what a kernel multiplies."""
    total = Size.symbol("rows") * Size.symbol("cols")
    buffers = (buffer("x", float32, (total,)), buffer("y", float32, (total,), "out"))
    b = KernelBuilder("flat", [Axis("i", total, "grid", 1024)], buffers)
    b.store("y", b.op("exp", b.load("x", ("i", 1), name="x")), ("i", 1))
    parameters = Parameters(b.build(["rows", "cols"]))
    assert parameters.sizes == (("n_i", total),)
