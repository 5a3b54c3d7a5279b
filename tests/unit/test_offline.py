"""Kernels compile for GPUs that are not there, with resources read off the binary."""

from __future__ import annotations

import builtins
import sys

import pytest

from tgc.errors import BackendError, ResourceError
from tgc.runtime.offline import Resources, Target, compile_kernel, launch_options

pytest.importorskip("triton")
pytest.importorskip("torch")
from tests.support import triton_kernels as kernels

SCALE = {"x_ptr": "*fp32", "y_ptr": "*fp32", "n": "i32"}
ROW = {"x_ptr": "*fp32", "y_ptr": "*fp32"}


@pytest.mark.parametrize(
    "target", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "gfx942", "gfx1100"]
)
def test_every_stage_exists(target: str) -> None:
    binary = compile_kernel(kernels.scale, SCALE, target=target, constexprs={"BLOCK": 128})
    assert "tt.load" in binary.asm("ttir")
    assert "blocked" in binary.asm("ttgir")
    assert "define" in binary.asm("llir")
    if target.startswith("sm"):
        assert f".target {target}" in binary.asm("ptx")
        assert "EXIT" in binary.asm("sass") and "STG" in binary.asm("sass")
        absent = "amdgcn"
    else:
        assert target in binary.asm("amdgcn")
        absent = "sass"
    with pytest.raises(BackendError, match=absent):
        binary.asm(absent)
    used = binary.resources()
    assert 0 < used.registers <= 255
    assert used.spill_bytes == 0
    assert used.num_warps == 4


def test_resources_are_those_of_the_binary() -> None:
    eight = compile_kernel(
        kernels.scale, SCALE, target="sm_90", constexprs={"BLOCK": 4096}, num_warps=8
    ).resources()
    one = compile_kernel(
        kernels.scale, SCALE, target="sm_90", constexprs={"BLOCK": 4096}, num_warps=1
    ).resources()
    assert (eight.num_warps, one.num_warps) == (8, 1)
    assert one.registers > eight.registers  # 128 elements a thread against 16


def test_spills_are_seen() -> None:
    def spilled(block: int) -> int:
        binary = compile_kernel(
            kernels.centred, ROW, target="sm_90", constexprs={"BLOCK": block}, num_warps=1
        )
        return binary.resources().spill_bytes

    assert spilled(1024) == 0
    assert spilled(8192) > 0  # 256 values a thread, of 255 registers


def test_shared_memory_is_held_to_the_limit_of_the_target() -> None:
    signature = {"a_ptr": "*fp16", "b_ptr": "*fp16", "c_ptr": "*fp32", "K": "i32"}
    names = ("a_ptr", "b_ptr", "c_ptr", "K")

    def build(target: str) -> Resources:
        return compile_kernel(
            kernels.staged_product,
            signature,
            target=target,
            constexprs={"M": 128, "N": 128, "BK": 64},
            aligned=names,
            num_warps=8,
            num_stages=5,
        ).resources()

    assert 101_376 < build("sm_80").shared_bytes <= 166_912
    with pytest.raises(ResourceError, match="shared memory"):
        build("sm_89")


def test_products_and_sums_are_not_fused() -> None:
    signature = {**dict.fromkeys(("x_ptr", "y_ptr", "z_ptr", "o_ptr"), "*fp32"), "n": "i32"}
    apart = compile_kernel(
        kernels.multiply_add, signature, target="sm_90", constexprs={"BLOCK": 128}
    )
    fused = compile_kernel(
        kernels.fused_multiply_add, signature, target="sm_90", constexprs={"BLOCK": 128}
    )
    assert "FFMA" not in apart.asm("sass") and "FMUL" in apart.asm("sass")
    assert "FFMA" in fused.asm("sass")


def test_denormals_survive_libdevice_unless_asked() -> None:
    def ptx(flush: bool) -> str:
        return compile_kernel(
            kernels.centred,
            ROW,
            target="sm_90",
            constexprs={"BLOCK": 128},
            flush_denormals=flush,
        ).asm("ptx")

    assert "fma.rn.ftz.f32" in ptx(True)
    assert "fma.rn.ftz.f32" not in ptx(False)


def test_launch_options_fit_the_backend() -> None:
    """Triton refuses a launch with an option its backend lacks, so they must be fields of its options."""
    from triton.backends.amd.compiler import HIPOptions
    from triton.backends.nvidia.compiler import CUDAOptions

    assert set(launch_options("sm_90")) <= set(CUDAOptions.__dataclass_fields__)
    assert set(launch_options("gfx942")) <= set(HIPOptions.__dataclass_fields__)
    assert launch_options("sm_90")["enable_fp_fusion"] is False
    assert launch_options("gfx942")["enable_fp_fusion"] is False


def test_arguments_are_listed_in_order_without_constants() -> None:
    binary = compile_kernel(
        kernels.scale,
        {"x_ptr": "*fp32", "y_ptr": "*fp32"},
        target="sm_90",
        constexprs={"n": 64, "BLOCK": 64},
    )
    assert binary.arguments == ("x_ptr", "y_ptr")


def test_what_the_compiler_rejects_is_reported_with_its_reason() -> None:
    with pytest.raises(BackendError, match="rejected_by_the_compiler.*sm_90"):
        compile_kernel(
            kernels.rejected_by_the_compiler, {"x_ptr": "*fp32", "n": "i32"}, target="sm_90"
        )


@pytest.mark.parametrize(
    ("signature", "constexprs", "aligned", "message"),
    [
        ({"x_ptr": "*fp32"}, {"BLOCK": 8}, (), "y_ptr, n"),
        ({**SCALE, "m": "i32"}, {"BLOCK": 8}, (), "no argument m"),
        (SCALE, {"BLOCK": 8}, ("z_ptr",), "no argument z_ptr"),
    ],
)
def test_wrong_arguments_are_named(signature, constexprs, aligned, message) -> None:
    with pytest.raises(BackendError, match=message):
        compile_kernel(
            kernels.scale, signature, target="sm_90", constexprs=constexprs, aligned=aligned
        )


def test_targets() -> None:
    assert Target.parse("sm_90a") == Target.parse("sm_90")
    assert Target.parse("gfx942").warp_size == 64
    assert Target.parse("gfx1201").warp_size == 32
    for wrong in ("sm_12", "hopper", "gfx"):
        with pytest.raises(BackendError, match="unknown target"):
            Target.parse(wrong)


def test_without_triton_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refusing(name, *args, **kwargs):
        if name.split(".")[0] == "triton":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.split(".")[0] == "triton"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(BackendError, match=r"tgc\[torch\]"):
        compile_kernel(kernels.scale, SCALE, target="sm_90", constexprs={"BLOCK": 8})
