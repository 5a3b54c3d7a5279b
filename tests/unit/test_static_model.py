"""Load widths, bytes and approximate instructions, read off the PTX of kernels with known answers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.static_model import (
    Access,
    Traffic,
    accesses,
    has_approximate_math,
    threads_per_program,
    traffic,
)
from tgc.errors import BackendError
from tgc.runtime.offline import Binary, compile_kernel

pytest.importorskip("triton")
pytest.importorskip("torch")
from tests.support import triton_kernels as kernels

FLAT = {"x_ptr": "*fp32", "y_ptr": "*fp32", "n": "i32"}
BLOCK = 1024  # 8 elements a thread: two 128-bit loads


def build(kernel, signature, aligned=(), num_warps=4, **constexprs) -> Binary:
    return compile_kernel(
        kernel,
        signature,
        target="sm_90",
        constexprs=constexprs,
        aligned=aligned,
        num_warps=num_warps,
    )


def widths(entries: tuple[Access, ...]) -> list[int]:
    return [entry.bytes for entry in entries]


def test_aligned_flat_map_uses_128_bit_accesses() -> None:
    binary = build(kernels.scale, FLAT, ("x_ptr", "y_ptr", "n"), BLOCK=BLOCK)
    found = accesses(binary.asm("ptx"), binary.arguments)
    assert found == {
        "x_ptr": (Access("load", 16, True, False),) * 2,
        "y_ptr": (Access("store", 16, True, False),) * 2,
    }


@pytest.mark.parametrize("aligned", [(), ("x_ptr", "y_ptr"), ("n",)])
def test_unaligned_flat_map_does_not(aligned: tuple[str, ...]) -> None:
    """Pointers and the bound of the mask must all be divisible by 16."""
    binary = build(kernels.scale, FLAT, aligned, BLOCK=BLOCK)
    found = accesses(binary.asm("ptx"), binary.arguments)
    assert widths(found["x_ptr"]) == widths(found["y_ptr"]) == [4] * 8


def test_full_blocks_are_not_predicated() -> None:
    pointers = {"x_ptr": "*fp32", "y_ptr": "*fp32"}
    binary = build(kernels.copy_full_blocks, pointers, ("x_ptr", "y_ptr"), BLOCK=BLOCK)
    found = accesses(binary.asm("ptx"), binary.arguments)
    assert not any(entry.predicated for entries in found.values() for entry in entries)
    assert widths(found["x_ptr"]) == [16, 16]


@pytest.mark.parametrize("element", ["fp16", "fp32", "fp64", "i8"])
@pytest.mark.parametrize("num_warps", [1, 4])
def test_bytes_per_program_are_the_elements_of_the_block(element: str, num_warps: int) -> None:
    pointers = {"x_ptr": f"*{element}", "y_ptr": f"*{element}"}
    binary = build(kernels.copy_full_blocks, pointers, ("x_ptr", "y_ptr"), num_warps, BLOCK=BLOCK)
    size = {"fp16": 2, "fp32": 4, "fp64": 8, "i8": 1}[element]
    assert threads_per_program(binary.asm("ptx")) == 32 * num_warps
    assert traffic(binary.asm("ptx"), binary.arguments) == {
        "x_ptr": Traffic(load=BLOCK * size),
        "y_ptr": Traffic(store=BLOCK * size),
    }


def test_accesses_in_loops_are_told_apart() -> None:
    signature = {"x_ptr": "*fp32", "y_ptr": "*fp32", "columns": "i32"}
    binary = build(kernels.row_sums, signature, BLOCK=256)
    moved = traffic(binary.asm("ptx"), binary.arguments)
    assert moved["x_ptr"].load == 0
    # The loop may be rotated and unrolled, but a turn loads whole blocks.
    assert moved["x_ptr"].loop_load > 0 and moved["x_ptr"].loop_load % (256 * 4) == 0
    assert moved["y_ptr"].loop_store == 0 and moved["y_ptr"].store > 0


def test_a_gathered_access_belongs_to_the_tensor_gathered_from() -> None:
    signature = {"x_ptr": "*fp64", "index_ptr": "*i64", "y_ptr": "*fp64", "n": "i32"}
    binary = build(kernels.gather, signature, BLOCK=128)
    found = accesses(binary.asm("ptx"), binary.arguments)
    assert [len(found[name]) for name in ("x_ptr", "index_ptr", "y_ptr")] == [1, 1, 1]


def test_async_copies_count_as_loads() -> None:
    signature = {"a_ptr": "*fp16", "b_ptr": "*fp16", "c_ptr": "*fp32", "K": "i32"}
    sizes = {"M": 64, "N": 64, "BK": 32}
    binary = build(kernels.staged_product, signature, ("a_ptr", "b_ptr", "c_ptr", "K"), **sizes)
    assert "cp.async" in binary.asm("ptx")
    moved = traffic(binary.asm("ptx"), binary.arguments)
    assert moved["a_ptr"].loop_load == 64 * 32 * 2
    assert moved["b_ptr"].loop_load == 32 * 64 * 2
    assert moved["c_ptr"].store == 64 * 64 * 4


def test_text_that_is_no_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="entry"):
        accesses("// nothing here")


# --- approximate arithmetic -------------------------------------------------------------------------------------

APPROXIMATE = {
    "x / y": "div.full",
    "1.0 / x": "div.full",
    "tl.exp(x)": "ex2.approx",
    "tl.sigmoid(x)": "ex2.approx",
    "tl.sqrt(x)": "sqrt.approx",
    "libdevice.sqrt(x)": "sqrt.approx",
    "libdevice.fast_expf(x)": "ex2.approx",
    "libdevice.fast_sinf(x)": "sin.approx",
    "libdevice.fast_cosf(x)": "cos.approx",
    "libdevice.fast_logf(x)": "lg2.approx",
    "libdevice.fast_dividef(x, y)": "div.",
    "libdevice.asin(x) + tl.sqrt(x)": "sqrt",
}
PRECISE = [
    "tl.div_rn(x, y)",
    "tl.math.div_rn(x, y)",
    "tl.div_rn(1.0, x)",
    "tl.sqrt_rn(x)",
    "tl.fma(x, y, z)",
    "tl.log(x)",
    "tl.exp2(x)",
    "tl.sin(x)",
    "tl.erf(x)",
    "libdevice.pow(x, y)",
    "libdevice.atan2(x, y)",
    "libdevice.hypot(x, y)",
    "libdevice.fmod(x, y)",
    "libdevice.exp(2.0 * x)",
    *(
        f"libdevice.{name}(x)"
        for name in (
            "exp exp2 exp10 expm1 log log2 log10 log1p sin cos tan sinh cosh tanh asin acos atan "
            "asinh acosh atanh erf erfc erfinv erfcx lgamma tgamma cbrt rsqrt normcdf cyl_bessel_i0"
        ).split()
    ),
]
EXPLAINED_BY_TTIR = ("sinh", "cosh", "tgamma", "erfcx", "asin", "acos", "asinh", "acosh", "hypot")
EXPLAINED_BY_TTIR += ("fmod", "remainder", "cbrt", "erfinv", "normcdfinv")

HEADER = """import triton
import triton.language as tl
from triton.language.extra import libdevice
"""
KERNEL = """

@triton.jit
def kernel_{index}(x_ptr, y_ptr, z_ptr, o_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    y = tl.load(y_ptr + i)
    z = tl.load(z_ptr + i)
    tl.store(o_ptr + i, {expression})
"""
EXPRESSIONS = [*APPROXIMATE, *PRECISE]


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """One kernel for each expression, in a real file, as Triton needs it."""
    path: Path = tmp_path_factory.mktemp("forms") / "math_forms.py"
    rows = (KERNEL.format(index=i, expression=e) for i, e in enumerate(EXPRESSIONS))
    path.write_text(HEADER + "".join(rows))
    spec = importlib.util.spec_from_file_location("math_forms", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["math_forms"] = module
    spec.loader.exec_module(module)
    return module


def form(module: ModuleType, expression: str, element: str, flush: bool = False) -> Binary:
    return compile_kernel(
        getattr(module, f"kernel_{EXPRESSIONS.index(expression)}"),
        dict.fromkeys(("x_ptr", "y_ptr", "z_ptr", "o_ptr"), f"*{element}"),
        target="sm_90",
        constexprs={"BLOCK": 128},
        flush_denormals=flush,
    )


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("expression", APPROXIMATE)
def test_approximate_forms_are_reported(forms: ModuleType, expression: str, flush: bool) -> None:
    binary = form(forms, expression, "fp32", flush)
    found = has_approximate_math(binary.asm("ptx"), binary.asm("ttir"))
    assert any(APPROXIMATE[expression] in text for text in found), found
    assert has_approximate_math(binary.asm("ptx")), "the PTX alone must give it away too"


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("expression", PRECISE)
def test_precise_forms_are_not(forms: ModuleType, expression: str, flush: bool) -> None:
    binary = form(forms, expression, "fp32", flush)
    assert has_approximate_math(binary.asm("ptx"), binary.asm("ttir")) == ()
    if not any(f".{name}(" in expression for name in EXPLAINED_BY_TTIR):
        assert has_approximate_math(binary.asm("ptx")) == ()


@pytest.mark.parametrize("expression", ["x / y", "tl.exp(x)", "tl.sqrt(x)", "1.0 / x"])
def test_the_same_forms_are_precise_in_fp64(forms: ModuleType, expression: str) -> None:
    binary = form(forms, expression, "fp64")
    assert has_approximate_math(binary.asm("ptx"), binary.asm("ttir")) == ()


@pytest.mark.parametrize("expression", ["tl.div_rn(x, y)", "tl.sqrt_rn(x)"])
def test_rounded_forms_refuse_fp64(forms: ModuleType, expression: str) -> None:
    """What the emitter relies on when it writes `x / y` and `tl.sqrt` in fp64."""
    with pytest.raises(BackendError, match="fp64"):
        form(forms, expression, "fp64")


def test_ttir_shows_what_ptx_hides() -> None:
    binary = build(kernels.approximate_exp_of_fma, {"x_ptr": "*fp32", "y_ptr": "*fp32"}, BLOCK=128)
    found = has_approximate_math(binary.asm("ptx"), binary.asm("ttir"))
    assert any("math.exp" in text for text in found)
