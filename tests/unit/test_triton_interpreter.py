"""The interpreter that the tests of emitted kernels trust: values against torch, traces against known answers.

The kernels are in tests/support/triton_kernels.py; those that are wrong on purpose must be caught.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tgc.runtime.offline import compile_kernel

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.language.extra import libdevice  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from tests.support import libdevice_on_cpu  # noqa: E402
from tests.support import triton_kernels as kernels  # noqa: E402
from tests.support.triton_interpreter import OutOfBounds, interpreting  # noqa: E402

SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 3e38, -3e38, math.inf, -math.inf, math.nan]


def values(rng: np.random.Generator, n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Ordinary values of many magnitudes, then the special ones."""
    ordinary = rng.standard_normal(n - len(SPECIAL)) * 10.0 ** rng.integers(-3, 4, n - len(SPECIAL))
    return torch.tensor([*ordinary, *SPECIAL], dtype=torch.float64).to(dtype)


def bits(x: torch.Tensor) -> torch.Tensor:
    """Bits with every NaN alike."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return torch.where(x.isnan(), torch.full_like(x, math.nan), x).view(integer)


# --- launching --------------------------------------------------------------------------------------------------


def test_host_functions_run_and_read_and_write_once(rng: np.random.Generator) -> None:
    x = values(rng, 50)
    with interpreting() as trace:
        y = kernels.scaled(x)
    assert torch.equal(bits(y), bits(2.0 * x))
    report = trace.report(x=x, y=y)
    assert report["x"].read_once and report["x"].bytes_loaded == 200
    assert report["y"].written_once and report["y"].bytes_stored == 200
    assert report["x"].store_lanes == report["y"].load_lanes == 0
    assert trace.launches[0].grid == (4, 1, 1)
    assert trace.out_of_bounds_lanes == 0


def test_a_host_function_may_launch_several_kernels(rng: np.random.Generator) -> None:
    x = values(rng, 40)
    with interpreting() as trace:
        z = kernels.scaled_twice(x)
    assert torch.equal(bits(z), bits(4.0 * x))
    assert trace.kernels == ["scale", "scale"]
    assert trace.of(x).read_once and trace.of(z).written_once
    between = trace.launches[0].tensors["y_ptr"]
    assert trace.of(between).read_once and trace.of(between).written_once
    assert trace.launches[1].of(between).read_once
    assert trace.launches[1].of(x).load_lanes == 0


def test_numpy_arrays_may_be_passed() -> None:
    x, y = np.arange(10, dtype=np.float32), np.zeros(10, np.float32)
    with interpreting() as trace:
        kernels.scale[(2,)](x, y, 10, BLOCK=8)
    assert np.array_equal(y, 2 * x)
    assert trace.of(x).read_once and trace.of(y).written_once


def test_loops_with_runtime_bounds(rng: np.random.Generator) -> None:
    """The kernel takes `.to` of its loop variable, a tensor on the GPU; the host function uses range itself."""
    rows = torch.tensor(rng.standard_normal((3, 10)), dtype=torch.float32)
    with interpreting() as trace:
        sums = kernels.total(rows)
    torch.testing.assert_close(sums, rows.sum(1))
    assert trace.of(rows).read_once and trace.of(sums).written_once


def test_an_empty_grid_runs_nothing() -> None:
    x = torch.empty(0)
    with interpreting() as trace:
        kernels.scaled(x)
    assert trace.launches[0].events == []


def test_unknown_launch_options_are_refused() -> None:
    x = torch.zeros(8)
    with interpreting(), pytest.raises(TypeError, match="num_wraps"):
        kernels.scale[(1,)](x, x, 8, BLOCK=8, num_wraps=4)
    with interpreting(), pytest.raises(TypeError, match="BLOCK"):
        kernels.scale[(1,)](x, x, 8)


def test_arguments_are_typed_as_a_launch_types_them() -> None:
    """A bool argument is int1; a Python float is fp32, also beside fp64 data."""
    keep = torch.tensor([True, False, True, False])
    x = torch.ones(4, dtype=torch.float64)
    y = torch.zeros(4, dtype=torch.float64)
    with interpreting() as trace:
        kernels.select_by_mask[(1,)](keep, x, y, False, 0.1, 4, BLOCK=4)
    tenth = float(np.float32(0.1))
    assert y.tolist() == [tenth, 0.0, tenth, 0.0]
    assert trace.of(keep).read_once and trace.of(keep).bytes_loaded == 4
    with interpreting():
        kernels.select_by_mask[(1,)](keep, x, y, True, 2.0, 4, BLOCK=4)
    assert y.tolist() == [2.0] * 4


# --- what is caught ---------------------------------------------------------------------------------------------


def test_out_of_bounds_is_caught() -> None:
    x = torch.zeros(50)
    with interpreting(), pytest.raises(OutOfBounds, match=r"program \(3, 0, 0\).*x_ptr.*50"):
        kernels.scaled(x, kernel=kernels.scale_unmasked)


def test_out_of_bounds_lanes_are_counted_and_left_undone() -> None:
    whole = torch.arange(64.0)
    x, y = whole[:50], torch.zeros(64)
    with interpreting(strict=False) as trace:
        kernels.scale_unmasked[(4,)](x, y[:50], 50, BLOCK=16)
    assert trace.out_of_bounds_lanes == 14 + 14
    assert torch.equal(y[50:], torch.zeros(14)), "the memory behind a view is not written"
    assert torch.equal(y[:50], 2.0 * x)


def test_write_conflicts_and_repeated_reads_are_seen() -> None:
    x, y = torch.arange(8.0), torch.zeros(1)
    with interpreting() as trace:
        kernels.everyone_stores_first[(3,)](x, y, BLOCK=8)
    assert y.item() == 28.0
    assert trace.of(y).write_conflicts == 2 and not trace.of(y).written_once
    assert (trace.of(x).load_lanes, trace.of(x).unique_loads) == (24, 8)
    assert not trace.of(x).read_once


def test_races_between_programs_are_seen() -> None:
    x = torch.arange(12.0)
    with interpreting() as trace:
        kernels.shift_in_place[(3,)](x, 12, BLOCK=4)
    assert trace.of(x).races == 2  # elements 4 and 8, each read by the program before its writer
    assert trace.of(x).write_conflicts == 0
    with interpreting() as trace:
        kernels.scale[(3,)](x, x, 12, BLOCK=4)
    assert trace.of(x).races == 0, "reading and writing an element in one program is none"


def test_views_have_elements_of_their_own() -> None:
    whole = torch.arange(12.0).reshape(6, 2)
    column, y = whole[:, 0], torch.zeros(11)
    with interpreting() as trace:
        kernels.scale[(1,)](column, y, 11, BLOCK=16)
    assert trace.of(column).elements == 6
    assert trace.of(column).read_once and trace.of(column).stray_lanes == 5
    assert trace.of(whole[:, :1].expand(6, 3)).elements == 6


# --- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("target", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_casts_round_as_torch_does(source, target, rng: np.random.Generator) -> None:
    x = values(rng, 500, source)
    if source == torch.float32:  # ties, on both sides of even
        x[:4] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20])
    y = torch.zeros(500, dtype=target)
    with interpreting():
        kernels.round_trip[(1,)](x, y, 500, BLOCK=512)
    assert torch.equal(bits(y), bits(x.to(target)))


def test_integers_become_bf16_correctly() -> None:
    x = torch.tensor([0, 1, 257, 259, -1000, 2**24 + 1], dtype=torch.int32)
    y = torch.zeros(6, dtype=torch.bfloat16)
    with interpreting():
        kernels.round_trip[(1,)](x, y, 6, BLOCK=8)
    assert torch.equal(y, x.to(torch.bfloat16))


def test_floats_become_integers_by_truncation_and_saturation() -> None:
    x = torch.tensor(
        [1.9, -1.9, 2.0**31, -(2.0**31), 3e9, -3e9, math.inf, -math.inf, math.nan, 0.5]
    )
    y = torch.zeros(10, dtype=torch.int32)
    with interpreting():
        kernels.round_trip[(1,)](x, y, 10, BLOCK=16)
    top, bottom = 2**31 - 1, -(2**31)
    assert y.tolist() == [1, -1, top, bottom, top, bottom, top, bottom, 0, 0]


def test_bf16_arithmetic_rounds_each_operation(rng: np.random.Generator) -> None:
    x, y, z = (torch.tensor(rng.standard_normal(64)).to(torch.bfloat16) for _ in range(3))
    out = torch.zeros(64, dtype=torch.bfloat16)
    with interpreting():
        kernels.multiply_add[(1,)](x, y, z, out, 64, BLOCK=64)
    assert torch.equal(out, x * y + z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fma_rounds_once(dtype: torch.dtype, rng: np.random.Generator) -> None:
    x = torch.tensor(rng.standard_normal(64), dtype=dtype)
    y = torch.tensor(rng.standard_normal(64), dtype=dtype)
    z = -(x * y)  # what is left is the rounding error of the product, exactly
    fused, apart = torch.zeros(64, dtype=dtype), torch.zeros(64, dtype=dtype)
    with interpreting():
        kernels.fused_multiply_add[(1,)](x, y, z, fused, 64, BLOCK=64)
        kernels.multiply_add[(1,)](x, y, z, apart, 64, BLOCK=64)
    exact = [
        float(Fraction(a) * Fraction(b) + Fraction(c))
        for a, b, c in zip(x.tolist(), y.tolist(), z.tolist())
    ]
    assert fused.tolist() == exact
    assert apart.tolist() == [0.0] * 64
    assert any(exact)


def test_fma_is_not_rounded_twice() -> None:
    """A sum below a tie of fp32 by less than fp64 can see: rounded to fp64 first, it would hit the tie."""
    step = 2.0**-23
    x, y, z = (np.array([v], np.float32) for v in (1 + step, 2.0**-24 * (1 - step), 1 + step))
    # x y = 2^-24 - 2^-70, so x y + z lies just below the middle of 1 + step and 1 + 2 step.
    assert libdevice_on_cpu.fused_multiply_add(x, y, z)[0] == np.float32(1 + step)
    by_fp64 = (x.astype(np.float64) * y.astype(np.float64) + z.astype(np.float64)).astype(
        np.float32
    )
    assert by_fp64[0] == np.float32(1 + 2 * step)


def test_maximum_propagates_nan_only_where_asked() -> None:
    nan = math.nan
    x = torch.tensor([1.0, nan, 2.0, nan])
    y = torch.tensor([3.0, 1.0, nan, nan])
    pair, folded = torch.zeros(2, 4), torch.zeros(2)
    with interpreting():
        kernels.maxima[(1,)](x, y, pair, folded, 4, BLOCK=4)
    assert str(pair.tolist()) == str([[3.0, nan, nan, nan], [3.0, 1.0, 2.0, nan]])
    assert torch.equal(bits(pair[0]), bits(torch.maximum(x, y)))
    assert torch.equal(bits(pair[1]), bits(torch.fmax(x, y)))
    assert math.isnan(folded[0]) and folded[1] == 2.0
    assert torch.equal(bits(folded[0]), bits(x.max()))


def test_any_associative_combine_folds_and_scans(rng: np.random.Generator) -> None:
    """Composition of affine maps does not commute, so the order of the operands is tested too."""
    a, b = (torch.tensor(rng.standard_normal((2, 16)), dtype=torch.float32) for _ in range(2))
    fold, scan = torch.zeros(2, 2), torch.zeros(2, 2, 16)
    with interpreting():
        kernels.affine_fold_and_scan[(1,)](a, b, fold, scan, ROWS=2, BLOCK=16)
    for row in range(2):
        slope, offset = 1.0, 0.0
        for i in range(16):
            slope, offset = float(a[row, i]) * slope, float(a[row, i]) * offset + float(b[row, i])
            assert scan[0, row, i].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)
            assert scan[1, row, i].item() == pytest.approx(offset, rel=1e-4, abs=1e-4)
        assert fold[0, row].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)
        assert fold[1, row].item() == pytest.approx(offset, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integer_division_truncates(dtype: torch.dtype) -> None:
    a = torch.tensor([7, -7, 7, -7, 6, -6, 0, 2**31 - 1], dtype=dtype)
    b = torch.tensor([2, 2, -2, -2, 3, 3, 5, -1], dtype=dtype)
    q, r = torch.zeros_like(a), torch.zeros_like(a)
    with interpreting():
        kernels.integer_division[(1,)](a, b, q, r, 8, BLOCK=8)
    assert torch.equal(q, torch.div(a, b, rounding_mode="trunc"))
    assert torch.equal(r, torch.fmod(a, b))


# --- libdevice --------------------------------------------------------------------------------------------------

UNARY = {
    **{name: getattr(torch, name) for name in "exp exp2 expm1 log log2 log10 log1p".split()},
    **{name: getattr(torch, name) for name in "sin cos tan sinh cosh tanh asin acos atan".split()},
    **{name: getattr(torch, name) for name in "asinh acosh atanh erf erfc erfinv lgamma".split()},
    **{name: getattr(torch, name) for name in "sqrt rsqrt floor ceil trunc abs".split()},
    "rint": torch.round,
    "nearbyint": torch.round,
    "erfcx": torch.special.erfcx,
    "j0": torch.special.bessel_j0,
    "cyl_bessel_i0": torch.special.i0,
    "normcdf": torch.special.ndtr,
}
BINARY = {
    "pow": torch.pow,
    "atan2": torch.atan2,
    "fmod": torch.fmod,
    "hypot": torch.hypot,
    "copysign": torch.copysign,
    "nextafter": torch.nextafter,
    "div_rn": torch.div,
}
PREDICATES = {"isnan": torch.isnan, "isinf": torch.isinf, "signbit": torch.signbit}
SOURCE = """
@triton.jit
def {name}_kernel(x_ptr, y_ptr, o_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    y = tl.load(y_ptr + i)
    tl.store(o_ptr + i, {call})
"""


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A kernel for every libdevice function tested, in a real file."""
    calls = {name: f"libdevice.{name}(x)" for name in [*UNARY, *PREDICATES, "round", "tgamma"]}
    calls |= {name: f"libdevice.{name}(x, y)" for name in BINARY}
    calls |= {"mixed": "libdevice.pow(x, 3.0)", "absent": "libdevice.byte_perm(x, x, x)"}
    calls |= {"cube": "libdevice.pow(x, 3)", "member": "tl.where(x > 0, x, y)"}
    header = (
        "import triton\nimport triton.language as tl\nfrom triton.language.extra import libdevice\n"
    )
    path: Path = tmp_path_factory.mktemp("forms") / "libdevice_forms.py"
    path.write_text(header + "".join(SOURCE.format(name=n, call=c) for n, c in calls.items()))
    spec = importlib.util.spec_from_file_location("libdevice_forms", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["libdevice_forms"] = module
    spec.loader.exec_module(module)
    return module


def evaluate(
    module: ModuleType, name: str, x: torch.Tensor, y: torch.Tensor, out=None
) -> torch.Tensor:
    out = torch.zeros_like(x) if out is None else out
    with interpreting():
        getattr(module, f"{name}_kernel")[(1,)](x, y, out, BLOCK=x.numel())
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_libdevice_agrees_with_torch(forms, name: str, dtype, rng: np.random.Generator) -> None:
    x, y = values(rng, 128, dtype), values(rng, 128, dtype).flip(0)
    found = evaluate(forms, name, x, y)
    reference = (
        UNARY[name](x.double())
        if name in UNARY
        else BINARY[name](*((x, y) if name == "nextafter" else (x.double(), y.double())))
    )
    expected = reference.to(dtype)
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(
        found, expected, rtol=4 * ulp, atol=torch.finfo(dtype).tiny, equal_nan=True
    )
    assert bool(torch.isfinite(expected).any()), "the domain must be met"


@pytest.mark.parametrize("name", PREDICATES)
def test_libdevice_predicates(forms, name: str, rng: np.random.Generator) -> None:
    x = values(rng, 32)
    found = evaluate(forms, name, x, x, torch.zeros(32, dtype=torch.int32))
    assert torch.equal(found.bool(), PREDICATES[name](x)) and 0 < found.bool().sum() < 32


def test_libdevice_rounds_halves_away_from_zero(forms) -> None:
    x = torch.tensor([0.5, -0.5, 1.5, 2.5, -2.5, 0.49999997, 8388609.0, math.inf])
    found = evaluate(forms, "round", x, x)
    assert found.tolist() == [1.0, -1.0, 2.0, 3.0, -3.0, 0.0, 8388609.0, math.inf]


def test_libdevice_gamma(forms) -> None:
    x = torch.tensor([1.0, 5.0, 0.5, -0.5, 40.0, -1.0, 0.0, math.nan])
    found = evaluate(forms, "tgamma", x, x)
    root = math.sqrt(math.pi)
    expected = torch.tensor([1.0, 24.0, root, -2 * root, math.inf, math.nan, math.inf, math.nan])
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-6, atol=0)


def test_what_libdevice_refuses_is_refused(forms, rng: np.random.Generator) -> None:
    x = torch.ones(4, dtype=torch.float64)
    assert evaluate(forms, "cube", 2 * x, x).tolist() == [8.0] * 4
    with pytest.raises(TypeError, match="pow"):  # a Python float is fp32, and x is fp64
        evaluate(forms, "mixed", x, x)
    assert evaluate(forms, "mixed", 2 * x.float(), x.float()).tolist() == [8.0] * 4
    for half in (torch.float16, torch.bfloat16):
        with pytest.raises(TypeError, match="exp"):
            evaluate(forms, "exp", x.to(half), x.to(half))
    with pytest.raises(TypeError, match="byte_perm"):
        evaluate(forms, "absent", x, x)


# --- leaving no trace -------------------------------------------------------------------------------------------


def snapshot() -> dict[str, object]:
    owners = {
        "tl": tl,
        "core": tl.core,
        "math": tl.math,
        "standard": tl.standard,
        "libdevice": libdevice,
    }
    owners |= {"tensor": tl.tensor, "dtype": tl.dtype, "jit": JITFunction, "kernels": kernels}
    return {f"{n}.{k}": v for n, o in owners.items() for k, v in vars(o).items()}


def test_everything_patched_is_restored_and_compiling_works() -> None:
    before = snapshot()
    signature = {"x_ptr": "*fp32", "y_ptr": "*fp32", "columns": "i32"}

    def build(block: int) -> None:
        compile_kernel(kernels.row_sums, signature, target="sm_90", constexprs={"BLOCK": block})

    with interpreting():
        kernels.total(torch.ones(2, 5))
        build(64)  # between launches too
        kernels.total(torch.ones(2, 5))
        with pytest.raises(OutOfBounds):
            kernels.scaled(torch.ones(3), kernel=kernels.scale_unmasked)
    after = snapshot()
    assert [k for k in after if after[k] is not before.get(k)] == []
    assert before.keys() == after.keys()
    build(128)
    with pytest.raises(Exception, match="driver|CUDA|GPU|device"):
        kernels.scaled(torch.ones(3))
    with interpreting():  # and once more, as nothing stale is left
        assert kernels.total(torch.ones(2, 5)).tolist() == [5.0, 5.0]
