"""How few kernels the gallery becomes and how little they move, for an H100 that need not be there.

The ideal is that every input is read once and every output written once. `kernel.reads` is predicted traffic in bytes
(tests/unit/test_gallery_accesses.py holds the prediction against what interpreted kernels do).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

import tgc
from kernels.definitions import DEFINITIONS
from tgc.lowered import KernelView, Lowered

ROWS = [(4096, 1024), (32768, 1024), (4096, 16384), (512, 16384)]
BY_NAME = {definition.name: definition for definition in DEFINITIONS}
MAPS = ("gelu", "gelu_tanh", "swiglu", "softmax")
NORMS = ("layer_norm", "rms_norm")


@cache
def lowered(name: str, dtype: str, rows: int, columns: int) -> Lowered:
    """The training pair of a gallery function at fixed sizes, for sm_90."""
    sizes = {"rows": rows, "cols": columns, "n": rows * columns}
    specs = []
    for text in BY_NAME[name].specs:
        kind, shape = text.rstrip("]").split("[")
        extents = ", ".join(str(sizes[s.strip()]) for s in shape.split(","))
        specs.append(tgc.spec(f"{dtype if kind == 'f32' else kind}[{extents}]"))
    return tgc.jit(BY_NAME[name].function).lower(*specs, grad=True, target="sm_90")


def size(kernel: KernelView, buffer: str) -> int:
    """Bytes of a buffer of fixed shape."""
    found = kernel.kernel.buffer(buffer)
    total = found.dtype.itemsize
    for extent in found.shape:
        assert isinstance(extent, int)
        total *= extent
    return total


everything = pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [(d.name, dtype, shape) for d in DEFINITIONS for dtype in ("f32", "bf16") for shape in ROWS],
    ids=lambda v: "x".join(map(str, v)) if isinstance(v, tuple) else v,
)


@everything
def test_one_kernel_forward_and_one_backward(name: str, dtype: str, shape: tuple[int, int]) -> None:
    """Beside them only kernels that finish folds: they read nothing of a matrix, only partial results."""
    pair = lowered(name, dtype, *shape)
    for half in (pair.forward, pair.backward):
        passes = [k for k in half.kernels if reads_data(k, shape)]
        assert len(passes) == 1, [k.name for k in half.kernels]
    if name in MAPS:
        assert len(pair.kernels) == 2
    elif name in NORMS:
        assert len(pair.forward.kernels) == 1 and len(pair.backward.kernels) == 2
    else:
        assert len(pair.forward.kernels) == 2 and len(pair.backward.kernels) == 1


def reads_data(kernel: KernelView, shape: tuple[int, int]) -> bool:
    """Whether a kernel reads anything of a matrix of inputs or cotangents."""
    return any(elements(kernel, name) == shape[0] * shape[1] for name in kernel.reads)


def elements(kernel: KernelView, buffer: str) -> int:
    return size(kernel, buffer) // kernel.kernel.buffer(buffer).dtype.itemsize


@everything
def test_data_is_read_once_and_written_once(name: str, dtype: str, shape: tuple[int, int]) -> None:
    """By the kernel that passes over it: every matrix once, whole; what is written, once everywhere."""
    for kernel in lowered(name, dtype, *shape).kernels:
        matrices = [b for b in kernel.reads if elements(kernel, b) == shape[0] * shape[1]]
        for buffer in matrices:
            assert kernel.reads[buffer] == size(kernel, buffer), (kernel.name, buffer)
        for buffer, written in kernel.writes.items():
            if kernel.kernel.buffer(buffer).role == "out":
                assert written == size(kernel, buffer), (kernel.name, buffer)


@everything
def test_what_is_kept_is_small(name: str, dtype: str, shape: tuple[int, int]) -> None:
    """Beyond inputs and outputs, a few float32 statistics of a row."""
    assert lowered(name, dtype, *shape).cost().saved_bytes <= 3 * 4 * shape[0]


@pytest.mark.parametrize("name", [d.name for d in DEFINITIONS])
def test_traffic_is_close_to_the_ideal(name: str) -> None:
    """Operands shared by several programs, partial results and statistics cost little beside the data."""
    pair = lowered(name, "f32", 4096, 1024)
    cost = pair.cost()
    assert pair.ideal_bytes <= cost.bytes <= 1.35 * pair.ideal_bytes


def logistic(x: Any, w: Any, y: Any) -> Any:
    """Logistic regression as one writes it down."""
    z = x @ w
    return tgc.mean(tgc.log(1.0 + tgc.exp(z)) - y * z)


@pytest.mark.parametrize("target", ["sm_90", "numpy"])
@pytest.mark.parametrize("columns", [64, 1024, 16384])
def test_value_and_gradient_of_a_regression_read_the_data_once(target: str, columns: int) -> None:
    """A product with a vector is a fold of rows, and the gradient a fold of columns, of the same data."""
    specs = [tgc.spec(f"f32[4096, {columns}]"), tgc.spec(f"f32[{columns}]"), tgc.spec("f32[4096]")]
    found = tgc.value_and_grad(logistic, argnums=1).lower(*specs, target=target)
    reads = [k.reads["x"] for k in found.kernels if "x" in k.reads]
    assert reads == [4096 * columns * 4]


SPILLS = pytest.mark.xfail(
    reason="x, g, weight and the partial sums of a 16K row are more than 1024 threads hold in registers",
    strict=True,
)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(d.name, shape, marks=[SPILLS] if d.name in NORMS and shape[1] == 16384 else [])
        for d in DEFINITIONS
        for shape in [(4096, 1024), (4096, 16384)]
    ],
    ids=str,
)
def test_kernels_on_an_h100(name: str, shape: tuple[int, int]) -> None:
    """No spills, 128-bit accesses to the data (its rows are aligned), no approximate arithmetic."""
    pytest.importorskip("triton")
    from tests.support.static_model import accesses, has_approximate_math

    pair = lowered(name, "f32", *shape)
    for kernel in pair.kernels:
        binary = pair._binaries[kernel.name]
        assert binary.resources().spill_bytes == 0, kernel.name
        assert not has_approximate_math(binary.asm("ptx"), binary.asm("ttir")), kernel.name
        moves = accesses(binary.asm("ptx"), binary.arguments)
        for buffer in (*kernel.reads, *kernel.writes):
            whole = kernel.reads.get(buffer, kernel.writes.get(buffer)) == size(kernel, buffer)
            if whole and elements(kernel, buffer) == shape[0] * shape[1]:
                found = moves[f"{buffer}_ptr"]
                assert found and all(a.bytes == 16 for a in found), (kernel.name, buffer)
