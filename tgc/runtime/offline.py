"""Compiling one Triton kernel for a GPU that is not there.

Triton's compiler needs a driver only to launch. Everything before that (TTIR, TTGIR, LLVM IR, PTX or AMDGCN, and the
final binary, by the assemblers inside the wheel) runs on any machine. So `Lowered.asm`, `Lowered.resources` and the
tests can look at what a kernel becomes on an H100 from a laptop, and a kernel that the interpreter accepts but the
compiler rejects (a loop-carried value that changes its type, a branch whose sides differ) is found without a GPU.

What was measured, on Triton 3.6.0, 3.7.1, 3.8.0 and 3.9.0, and what the emitter relies on:

Division and roots
    - fp32 `x / y` is `div.full`; `tl.div_rn` (the same function as `tl.math.div_rn`) is `div.rn`. The flag of
      `tl.fdiv(x, y, ieee_rounding=True)` does nothing before 3.8 and breaks fp64 from then on: not used.
    - fp32 `tl.sqrt` and `libdevice.sqrt` are `sqrt.approx`; `tl.sqrt_rn` is `sqrt.rn`.
    - `tl.div_rn` and `tl.sqrt_rn` refuse fp64, where plain `x / y` is `div.rn.f64`, `tl.sqrt` `sqrt.rn.f64`.
    - `tl.rsqrt` and `libdevice.rsqrt` are `rsqrt.approx` (2 ulp). `libdevice.rsqrt_rn` is fp32 on NVIDIA only.
Elementary functions
    - fp32 `tl.exp` is `ex2.approx(x * log2 e)`; fp64 `tl.exp` is libdevice's. Write `libdevice.exp`.
    - `tl.log`, `log2`, `exp2`, `sin`, `cos`, `erf`, `floor` and `ceil` give the code of the libdevice function.
    - In `libdevice` for fp32 and fp64, on NVIDIA and AMD alike: exp expm1 exp2 exp10 log log1p log2 log10 sin cos
      tan sinh cosh tanh asin acos atan asinh acosh atanh erf erfc erfinv erfcx lgamma pow atan2 hypot fmod fma
      copysign nextafter trunc nearbyint round j0 j1 y0 y1 cyl_bessel_i0, and isnan isinf signbit, which return int32.
      `rint` is missing on AMD before 3.7; `nearbyint` is the same function.
    - On NVIDIA only: tgamma cbrt remainder fdim normcdf sqrt_rn div_rn rcp_rn rsqrt_rn.
    - No function of `libdevice` or `tl.math` takes fp16 or bf16.
    - A Python number beside an fp64 operand of a libdevice function becomes fp32, and the call is refused: write
      `tl.full([], 3.0, tl.float64)`.
    - Triton builds libdevice to flush denormals unless `enable_reflect_ftz=False` (NVIDIA). That touches
      `tl.floor`, `tl.ceil`, `tl.log`, `tl.sqrt` and `libdevice.fma` too. `tl.fma`, `tl.div_rn`, `tl.sqrt_rn` and
      `tl.abs` never flush. `launch_options` holds the switch.
NaN
    - `tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)` keeps NaN, in fp16, fp32 and fp64; without the
      argument, and in `tl.max` and `tl.min`, NaN is dropped. A reduction that keeps it is
      `tl.reduce(x, axis, combine)` with such a `combine` (bf16 is widened there, and refused before 3.9).
Integers and bools
    - `//` and `%` truncate as in C, for tensors and runtime scalars. Float `%` truncates too; float `//` does not
      compile.
    - A pointer to `i1` loads and stores bytes and yields `int1`. Through a pointer to `i8`, compare with 0.
    - An integer tensor times a Python float is fp32, also for int64; `int / int` is an fp32 `div.full`.
    - A Python integer beside an int32 operand must fit int32 (checked from 3.9): Philox constants need uint32.
    - A Python float argument of a launch arrives as fp32.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tgc.errors import BackendError, ResourceError

KINDS = ("ttir", "ttgir", "llir", "ptx", "sass", "amdgcn")
"""What `Binary.asm` can be asked for; which of them exist depends on the target."""

# Largest shared memory (LDS on AMD) one program may ask for, in bytes. CUDA C programming guide, "technical
# specifications per compute capability": maximum per thread block, opt-in; AMD: LDS per workgroup.
_NVIDIA_SHARED = {
    75: 65_536,
    80: 166_912,
    86: 101_376,
    87: 166_912,
    89: 101_376,
    90: 232_448,
    100: 232_448,
    103: 232_448,
    120: 101_376,
    121: 101_376,
}
_AMD_SHARED = {"gfx950": 163_840}
_AMD_SHARED_DEFAULT = 65_536
_ALIGNED_TO_16 = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class Target:
    """A GPU architecture, as Triton and the vendors name it."""

    name: str
    backend: str  # "cuda" or "hip"
    arch: int | str
    warp_size: int
    shared_limit: int  # bytes per program

    @staticmethod
    def parse(name: str) -> Target:
        """`"sm_90"`, `"sm_90a"` or `"gfx942"` -> Target. Raises BackendError for anything else."""
        if nvidia := re.fullmatch(r"sm_?(\d+)[af]?", name):
            arch = int(nvidia[1])
            if arch not in _NVIDIA_SHARED:
                known = ", ".join(f"sm_{n}" for n in _NVIDIA_SHARED)
                raise BackendError(f"unknown target {name!r}", hint=f"one of {known}")
            return Target(f"sm_{arch}", "cuda", arch, 32, _NVIDIA_SHARED[arch])
        if re.fullmatch(r"gfx[0-9a-f]+", name):
            # CDNA (gfx9..) runs 64 lanes a wave; RDNA (gfx10 to gfx12) 32.
            wave = 64 if name.startswith("gfx9") else 32
            return Target(name, "hip", name, wave, _AMD_SHARED.get(name, _AMD_SHARED_DEFAULT))
        raise BackendError(f"unknown target {name!r}", hint="write 'sm_90', 'gfx942', ...")


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes from the chip."""

    registers: int  # per thread (VGPRs on AMD)
    spill_bytes: int  # per thread, in local memory: STACK + LOCAL (scratch on AMD)
    shared_bytes: int  # per program
    num_warps: int


@dataclass(frozen=True)
class Binary:
    """One kernel compiled for one target, with every stage it went through."""

    name: str
    target: Target
    num_warps: int
    num_stages: int
    arguments: tuple[str, ...]  # runtime arguments in the order of the PTX parameters
    shared_bytes: int
    _stages: Mapping[str, Any] = field(repr=False)

    def kinds(self) -> tuple[str, ...]:
        """The values `asm` takes for this target."""
        final = ("ptx", "sass") if self.target.backend == "cuda" else ("amdgcn",)
        return ("ttir", "ttgir", "llir", *final)

    def asm(self, kind: str) -> str:
        """The text of one stage: "ttir", "ttgir", "llir", and "ptx", "sass" or "amdgcn".

        Raises:
            BackendError: the target has no such stage.
        """
        if kind not in self.kinds():
            raise BackendError(
                f"{self.target.name} has no {kind!r}", hint=f"one of {', '.join(self.kinds())}"
            )
        if kind == "sass":
            return self._sass
        return str(self._stages[kind])

    def resources(self) -> Resources:
        """Registers, spilled bytes, shared memory and warps.

        `spill_bytes` counts what ptxas reports as STACK and LOCAL. Spills show as STACK; so do the frames of
        functions that are not inlined (the slow path of fp64 `sin`), which is why it can exceed zero there.
        """
        registers, spilled = self._usage
        return Resources(registers, spilled, self.shared_bytes, self.num_warps)

    @cached_property
    def _sass(self) -> str:
        return _disassemble("nvdisasm", ["-c"], self._stages["cubin"])

    @cached_property
    def _usage(self) -> tuple[int, int]:
        if self.target.backend == "hip":
            assembly = str(self._stages["amdgcn"])
            return (
                _metadata(assembly, "vgpr_count"),
                _metadata(assembly, "private_segment_fixed_size"),
            )
        text = _disassemble("cuobjdump", ["--dump-resource-usage"], self._stages["cubin"])
        usage = re.search(rf"Function {re.escape(self.name)}:\s*(.*)", text)
        if usage is None:
            raise BackendError(f"cuobjdump says nothing of {self.name}:\n{text}")
        counts = {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", usage[1])}
        return counts["REG"], counts["STACK"] + counts["LOCAL"]


def launch_options(target: str) -> dict[str, bool]:
    """Options that every launch and every offline compile of an emitted kernel passes.

    `enable_fp_fusion=False` keeps `x * y + z` two roundings (fused ones are written `tl.fma`).
    `enable_reflect_ftz=False` keeps libdevice from flushing denormals; AMD has no such option, and Triton refuses
    options a backend does not know when it launches, so the dictionary depends on the target.
    """
    if Target.parse(target).backend == "cuda":
        return {"enable_fp_fusion": False, "enable_reflect_ftz": False}
    return {"enable_fp_fusion": False}


def compile_kernel(
    kernel: Any,
    signature: Mapping[str, str],
    *,
    target: str,
    constexprs: Mapping[str, Any] | None = None,
    aligned: Iterable[str] = (),
    num_warps: int = 4,
    num_stages: int = 3,
    flush_denormals: bool = False,
) -> Binary:
    """Compile one `@triton.jit` function for `target`; no GPU and no driver is needed.

    Args:
        kernel: the JITFunction, defined in a real file.
        signature: type of every runtime argument, e.g. `{"x": "*fp32", "n": "i32", "scale": "fp32"}`.
        target: "sm_80", "sm_90", "gfx942", ...
        constexprs: value of every `tl.constexpr` parameter, and of arguments specialised to a constant or None.
        aligned: arguments divisible by 16: pointers aligned to 16 bytes, sizes and strides that are multiples of 16.
            128-bit loads need both the pointers and the bound of the mask among them.
        num_warps: warps per program.
        num_stages: software pipelining depth of loops.
        flush_denormals: build libdevice with flush-to-zero, as Triton does by default (NVIDIA).

    Raises:
        BackendError: Triton is missing, the target is unknown, an argument has neither a type nor a value, or
            Triton rejects the kernel (its message is quoted).
        ResourceError: the kernel needs more shared memory than the target has. Triton itself does not look.
    """
    triton = _import_triton()
    where = Target.parse(target)
    constants = dict(constexprs or {})
    names: list[str] = list(kernel.arg_names)
    _check_arguments(names, signature, constants, aligned)
    gpu = triton.backends.compiler.GPUTarget(where.backend, where.arch, where.warp_size)
    source = triton.compiler.ASTSource(
        kernel,
        signature={n: "constexpr" if n in constants else signature[n] for n in names},
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(names.index(n),): _ALIGNED_TO_16 for n in aligned},
    )
    options: dict[str, Any] = {"num_warps": num_warps, "num_stages": num_stages}
    options.update(launch_options(target))
    if where.backend == "cuda":
        options["enable_reflect_ftz"] = flush_denormals
    try:
        compiled = triton.compile(source, target=gpu, options=options)
    except Exception as error:  # front end, passes and ptxas raise errors with no common base
        raise BackendError(
            f"Triton rejects kernel {kernel.__name__!r} for {target}: {error}"
        ) from error
    shared = int(compiled.metadata.shared)
    if shared > where.shared_limit:
        raise ResourceError(
            f"kernel {kernel.__name__!r} needs {shared} bytes of shared memory; "
            f"{where.name} has {where.shared_limit} per program",
            hint="smaller blocks or fewer stages",
        )
    return Binary(
        name=str(compiled.metadata.name),
        target=where,
        num_warps=int(compiled.metadata.num_warps),
        num_stages=num_stages,
        arguments=tuple(n for n in names if n not in constants),
        shared_bytes=shared,
        _stages=dict(compiled.asm),
    )


def _import_triton() -> Any:
    """Triton, with the modules used here loaded; imported late because it costs 0.15 s and is optional."""
    try:
        import triton
        import triton.backends.compiler
        import triton.compiler
    except ImportError as error:
        raise BackendError(
            "compiling Triton kernels needs the package triton, which is not installed",
            hint="pip install 'tgc[torch]' (Linux)",
        ) from error
    return triton


def _check_arguments(
    names: list[str],
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    aligned: Iterable[str],
) -> None:
    missing = [n for n in names if n not in signature and n not in constants]
    if missing:
        raise BackendError(f"arguments without a type or a value: {', '.join(missing)}")
    unknown = sorted({*signature, *constants, *aligned} - set(names))
    if unknown:
        raise BackendError(
            f"the kernel has no argument {', '.join(unknown)}", hint=f"it has {', '.join(names)}"
        )


def _disassemble(tool: str, flags: list[str], cubin: bytes) -> str:
    """Run one of the NVIDIA tools that come inside the Triton wheel over a cubin."""
    executable = Path(_import_triton().__file__).parent / "backends" / "nvidia" / "bin" / tool
    if not executable.exists():
        raise BackendError(f"this Triton has no {tool}: expected {executable}")
    handle, path = tempfile.mkstemp(suffix=".cubin")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(cubin)
        done = subprocess.run(
            [str(executable), *flags, path], capture_output=True, text=True, check=False
        )
    finally:
        os.unlink(path)
    if done.returncode != 0:
        raise BackendError(f"{tool} failed: {done.stderr.strip()}")
    return done.stdout


def _metadata(assembly: str, key: str) -> int:
    """One number of the metadata that closes an AMDGCN file."""
    found = re.search(rf"\.{key}:\s+(\d+)", assembly)
    if found is None:
        raise BackendError(f"no .{key} in the AMDGCN metadata")
    return int(found[1])
