"""The native engine: loops, vectors, memory, threads, object code."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tgc
from kernels import definitions
from tests.support import chain
from tgc.codegen.native.loops import PIECES, ROWS, pieces, rows_at_once, takes_vectors
from tgc.codegen.native.nest import For, Item, Keep, Recall, nest
from tgc.errors import BackendError
from tgc.kernel.ir import Kernel, Load
from tgc.lowered import Lowered
from tgc.runtime import native, objects

pytest.importorskip("llvmlite")

SIZES = (0, 1, 31, 32, 33, 1000, 16384, 16385, 70001)


def lowered(function: Callable[..., Any], *specs: str) -> Lowered:
    return tgc.jit(function).lower(*map(tgc.spec, specs), target="native")


def kernel_of(function: Callable[..., Any], *specs: str) -> Kernel:
    (view,) = lowered(function, *specs).kernels
    return view.kernel


def module_of(function: Callable[..., Any], *specs: str) -> native.Module:
    space: dict[str, Any] = {}
    exec(lowered(function, *specs).source, space)
    found = space["code"]
    assert isinstance(found, native.Module)
    return found


def loops(items: list[Item]) -> list[str]:
    """The axes of the loops, nested ones in brackets."""
    found = []
    for item in items:
        if isinstance(item, For):
            inner = loops(item.items)
            found.append(f"{item.axis}[{' '.join(inner)}]" if inner else item.axis)
    return found


def axpy(x: Any, y: Any) -> Any:
    return 2.0 * x + y


def softmax(x: Any) -> Any:
    e = tgc.exp(x - tgc.amax(x, axis=1, keepdims=True))
    return e / tgc.sum(e, axis=1, keepdims=True)


# --- loops ----------------------------------------------------------------------------------------


def test_rows_are_three_passes_and_what_is_dear_is_kept() -> None:
    items = nest(kernel_of(softmax, "f32[rows, cols]"))
    assert loops(items) == ["r[c c c]"]
    (rows,) = items
    assert isinstance(rows, For)
    _, sums, last = [i for i in rows.items if isinstance(i, For)]
    assert any(isinstance(i, Keep) for i in sums.items)
    assert any(isinstance(i, Recall) for i in last.items)
    assert not any(isinstance(i, Load) for i in last.items), "exp(x - max) comes from scratch"


def test_column_sums_go_along_the_rows() -> None:
    """Memory is read in its order, with an accumulator per column."""
    found = nest(lowered(lambda x: tgc.sum(x, axis=0), "f32[6400, 1000]").kernels[0].kernel)
    assert loops(found)[0] == "r[c]"


def pairs(x: Any, y: Any) -> Any:
    """A sum over y for each x of a function of their distance."""
    apart = x[:, None, :] - y[None, :, :]
    return tgc.sum(tgc.exp(-tgc.sum(apart * apart, axis=-1)), axis=-1)


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda x: tgc.sum(x, axis=0), ROWS),
        (lambda x: tgc.sum(tgc.exp(x), axis=0), 2),
        (lambda x: tgc.sum(tgc.erf(tgc.sin(x)), axis=0), 1),
        (lambda x: tgc.sum(x - tgc.mean(x, axis=1, keepdims=True), axis=0), 1),
    ],
)
def test_rows_share_the_turns_of_a_column_sum(function: Callable[..., Any], count: int) -> None:
    """Unless their code would be long, or a row has to be read before it can be added."""
    (rows, _) = nest(lowered(function, "f32[6400, 1000]").kernels[0].kernel)
    assert isinstance(rows, For)
    assert rows_at_once(rows) == count


@pytest.mark.parametrize("shape", [(17, 5), (40, 33), (8, 64), (1031, 3000), (3, 70001)])
@pytest.mark.parametrize("reduce", ["sum", "amax", "any"])
def test_column_folds_of_any_length(
    shape: tuple[int, int], reduce: str, rng: np.random.Generator
) -> None:
    x = rng.standard_normal(shape, dtype=np.float32)
    w, v = (rng.standard_normal(shape[k], dtype=np.float32) for k in (0, 1))

    def fold(x: Any, w: Any, v: Any) -> Any:
        y = x * w[:, None] + v
        return getattr(tgc, reduce)(y > 4 if reduce == "any" else y, axis=0)

    y = x.astype(np.float64) * w[:, None] + v
    wanted = getattr(np, reduce)(y > 4 if reduce == "any" else y, axis=0)
    ours = tgc.jit(fold, backend="native")(x, w, v)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-3)


def test_short_axes_are_written_out_and_strides_are_stepped_by_scalars() -> None:
    """Three coordinates are three values; vectors lie along x, whose loop is outside: y is read by the number."""
    first, *_ = lowered(pairs, "f32[n, 3]", "f32[m, 3]").kernels
    items = nest(first.kernel)
    assert loops(items) == ["r[c]"]
    (rows,) = items
    assert isinstance(rows, For) and takes_vectors(rows)
    assert not takes_vectors(nest(kernel_of(softmax, "f32[n, m]"))[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 1), (7, 40), (100, 33), (4000, 3)])
def test_sums_over_pairs(shape: tuple[int, int], rng: np.random.Generator) -> None:
    n, m = shape
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    want = np.exp(-np.sum((x[:, None] - y[None]) ** 2, axis=-1)).sum(axis=1)
    found = tgc.jit(pairs, backend="native")(x, y)
    np.testing.assert_allclose(found, want, rtol=1e-13)
    gradient = tgc.jit(tgc.grad(lambda x, y: tgc.sum(pairs(x, y))), backend="native")(x, y)
    pull = np.exp(-np.sum((x[:, None] - y[None]) ** 2, axis=-1))[..., None] * (x[:, None] - y[None])
    np.testing.assert_allclose(gradient, -2 * pull.sum(axis=1), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("reduce", ["sum", "prod", "amax", "amin", "any", "all"])
def test_folds_of_short_axes(reduce: str, rng: np.random.Generator) -> None:
    x = rng.integers(-3, 4, size=(50, 3)).astype(np.int32)
    f, want = getattr(tgc, reduce), getattr(np, reduce)
    x = x > 0 if reduce in ("any", "all") else x
    np.testing.assert_array_equal(
        tgc.jit(lambda x: f(x, axis=1), backend="native")(x), want(x, axis=1)
    )


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda x, y: tgc.sum(x), PIECES),
        (lambda x, y: tgc.sum(x * y), PIECES),
        (lambda x, y: tgc.amax(tgc.abs(x - y) + 1.0), 2),
        (lambda x, y: tgc.sum(tgc.exp(x)), 1),
    ],
)
def test_long_folds_are_read_in_pieces(function: Callable[..., Any], count: int) -> None:
    """Unless there is so much to do that chains of additions do not matter."""
    first = lowered(function, "f32[n]", "f32[n]").kernels[0].kernel
    (loop,) = (i for i in nest(first) if isinstance(i, For))
    assert pieces(loop) == count


@pytest.mark.parametrize("size", [1, 31, 127, 128, 129, 160, 255, 257, 1000, 8191, 8200, 70_001])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.bool_])
def test_folds_in_pieces_of_any_length(size: int, dtype: Any, rng: np.random.Generator) -> None:
    x = rng.integers(-9, 9, size=(3, size)).astype(dtype)

    def folds(x: Any) -> Any:
        return tgc.sum(x[0]), tgc.amax(x[1]), tgc.sum(x, axis=1), tgc.any(x[2] > 7)

    # Of small whole numbers every order of additions gives the same.
    want = x[0].sum(), x[1].max(), x.sum(axis=1), (x[2] > 7).any()
    for a, b in zip(tgc.jit(folds, backend="native")(x), want, strict=True):
        np.testing.assert_array_equal(a, b)
    if dtype == np.float32:
        x[1, size // 2] = np.nan
        assert np.isnan(tgc.jit(lambda x: tgc.amax(x[1]), backend="native")(x))


# --- vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [d.name for d in definitions.DEFINITIONS])
def test_loops_run_on_vectors_without_calls(name: str) -> None:
    definition = next(d for d in definitions.DEFINITIONS if d.name == name)
    assembly = module_of(definition.function, *definition.specs).assembly()
    kernel = assembly.split("_kernel", 1)[1].split(".call:")[0]
    wide = re.findall(r"%[xyz]mm\d+|\bv\d+\.4s", kernel)
    assert len(wide) > 20
    called = set(re.findall(r"\bcall\w*\s+\*?([\w.@]+)", kernel))
    assert not {c for c in called if re.match(r"(exp|log|tanh|erf|pow|sin|cos)f?\b", c)}, called


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the processors differ by their vectors")
@pytest.mark.parametrize("shape", [(5, 7), (33, 1024)])
def test_processors_with_shorter_vectors(
    shape: tuple[int, int], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is the same for all; half the width, as AVX2 has it, runs here too."""
    monkeypatch.setattr(objects, "_host", lambda: ("haswell", "+avx2,+fma"))
    space: dict[str, Any] = {}
    exec(lowered(softmax, "f32[rows, cols]").source, space)
    assembly = space["code"].assembly()
    assert "%ymm" in assembly and "%zmm" not in assembly
    x = 10 * rng.normal(size=shape).astype(np.float32)
    (found,) = space["softmax"](x)
    e = np.exp((x - x.max(axis=1, keepdims=True)).astype(np.float64))
    np.testing.assert_allclose(found, e / e.sum(axis=1, keepdims=True), rtol=3e-6)


def test_the_logistic_functions_of_opposite_numbers_share_their_parts() -> None:
    def one(x: Any) -> Any:
        return tgc.sigmoid(1.5 * x)

    def both(x: Any) -> Any:
        return tgc.sigmoid(1.5 * x) * (x + tgc.sigmoid(-1.5 * x))

    found = [module_of(f, "f32[n]").assembly() for f in (one, both)]
    divisions, fused = (
        [len(re.findall(pattern, text)) for text in found]
        for pattern in (r"\tv?f?div", r"\tv?fn?m")
    )
    assert divisions[0] == divisions[1] > 0
    assert fused[1] <= fused[0] + divisions[0]


@pytest.mark.parametrize("size", SIZES)
def test_every_tail(size: int, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, size)).astype(np.float32)
    np.testing.assert_array_equal(tgc.jit(axpy, backend="native")(x, y), 2 * x + y)


def test_no_place_or_thread_changes_how_often_a_sum_is_rounded(rng: np.random.Generator) -> None:
    """Vectors, what is left behind them, later programs and other threads give one result to the bit."""
    x, y = rng.normal(size=(2, 40_000)).astype(np.float32)
    f = tgc.jit(lambda x, y: tgc.sin(x) * y + x * 3.0 - x * y, backend="native")
    whole = f(x, y)
    exact = np.sin(x.astype(np.float64)) * y + x * 3.0 - x.astype(np.float64) * y
    np.testing.assert_allclose(whole, exact, rtol=1e-6, atol=1e-6)
    for size in (1, 7, 31, 32, 33, 4095, 4097, 20_000):
        np.testing.assert_array_equal(f(x[:size].copy(), y[:size].copy()), whole[:size])
    with tgc.settings(threads=1):
        np.testing.assert_array_equal(f(x, y), whole)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 64), (65, 33), (2, 40000), (300, 1024)])
def test_rows_of_any_length(shape: tuple[int, int], rng: np.random.Generator) -> None:
    x = 10 * rng.normal(size=shape).astype(np.float32)
    e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    want = e / e.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(tgc.jit(softmax, backend="native")(x), want, rtol=3e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "uint8", "int64", "bool"])
def test_narrow_and_integer_types(dtype: str, rng: np.random.Generator) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    x, y = (rng.integers(0, 2 if dtype == "bool" else 50, 77).astype(kind) for _ in range(2))
    f = lambda a, b: tgc.where(a > b, a, b)
    np.testing.assert_array_equal(tgc.jit(f, backend="native")(x, y), np.where(x > y, x, y))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("divisor", [2**0.5, -3.0, 0.1, 49.0, 1e10, 1.7e-30, 3e38, 1e-44, 0.0])
def test_division_by_a_constant(dtype: Any, divisor: float, rng: np.random.Generator) -> None:
    """To the bit, edge values too; by the last bit off where the result is nearly denormal."""
    info = np.finfo(dtype)
    edges = np.array([0.0, np.inf, np.nan, info.max, info.tiny, info.smallest_subnormal], dtype)
    bits = rng.integers(0, 256, 200_000 * info.bits // 8, np.uint8).view(dtype)
    x = np.concatenate([edges, -edges, bits, rng.normal(size=10**5).astype(dtype)])
    with np.errstate(all="ignore"):
        got = tgc.jit(lambda x: x / divisor, backend="native")(x)
        want = x / dtype(divisor)
        small = np.abs(want) < info.tiny * 2.0 ** (info.nmant + 2)
        near = np.abs(got - want) <= np.spacing(np.abs(want))
    np.testing.assert_array_equal(got[~small], want[~small])
    np.testing.assert_array_equal(np.signbit(got[x == 0]), np.signbit(want[x == 0]))
    assert np.all(near[small])


def test_bfloat16_rounds_to_even_and_keeps_nan() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    exact = np.array([1.0, 1.00390625, 1.01171875, 3.4e38, -0.0, 1e-40, np.inf, np.nan], "f4")
    x = np.tile(exact, 9)
    found = tgc.jit(lambda x: x.astype(bfloat16), backend="native")(x)
    np.testing.assert_array_equal(found.astype("f4"), x.astype(bfloat16).astype("f4"))


# --- memory and threads ---------------------------------------------------------------------------


def test_results_do_not_depend_on_threads(rng: np.random.Generator) -> None:
    x = rng.normal(size=1_500_000).astype(np.float32)
    f = tgc.jit(lambda x: (tgc.sum(tgc.sin(x)), tgc.tanh(x)), backend="native")
    with tgc.settings(threads=1):
        total, mapped = f(x)
    for threads in (2, 3):
        with tgc.settings(threads=threads):
            again, twice = f(x)
        assert total == again
        np.testing.assert_array_equal(mapped, twice)


def test_large_outputs_stream_and_are_right(rng: np.random.Generator) -> None:
    """Beyond the caches stores pass by them, where vectors start at multiples of 64 bytes."""
    module = module_of(axpy, "f32[n]", "f32[n]")
    streaming = native.Module(native.streaming_text(module.text)).assembly()
    assert "vmovntps" in streaming or "movntps" in streaming or "x86" not in streaming
    for shape in ((3_000_001,), (3001, 1001), (3008, 1024)):
        x, y = rng.normal(size=(2, *shape)).astype(np.float32)
        np.testing.assert_array_equal(tgc.jit(axpy, backend="native")(x, y), 2 * x + y)


def test_no_load_or_store_leaves_its_array(rng: np.random.Generator) -> None:
    """Arrays stand at the very end of readable memory: the next byte is a page that faults."""
    import mmap

    page = mmap.PAGESIZE
    libc = pytest.importorskip("ctypes").CDLL(None, use_errno=True)
    if not hasattr(libc, "mprotect"):
        pytest.skip("no mprotect")
    code = module_of(axpy, "f32[n]", "f32[n]")
    for size in (1, 5, 33, 1000):
        arrays = []
        for _ in range(3):
            memory = mmap.mmap(-1, 3 * page)
            whole = np.frombuffer(memory, np.float32)
            end = whole.ctypes.data + 2 * page
            assert libc.mprotect(_pointer(end), page, 0) == 0
            arrays.append(whole[2 * page // 4 - size : 2 * page // 4])
        x, y, out = arrays
        x[:], y[:] = rng.normal(size=(2, size))
        kernel = next(iter(code.kernels.values()))
        kernel(x, y, out, size, 1, 1, 0)
        np.testing.assert_array_equal(out, 2 * x + y)


def _pointer(address: int) -> Any:
    import ctypes

    return ctypes.c_void_p(address)


def test_arguments_may_have_any_name() -> None:
    f = tgc.jit(
        lambda first, last, begin, program: first * last + begin - program, backend="native"
    )
    one = np.ones(5)
    np.testing.assert_array_equal(f(one, 2 * one, 3 * one, 4 * one), one)


def test_a_line_may_hold_quotes() -> None:
    f = tgc.jit(lambda x: x + len("""abc""") * tgc.sin(x), backend="native")  # größer than """x"""
    x = np.arange(5.0)
    np.testing.assert_allclose(f(x), x + 3 * np.sin(x), rtol=1e-14)


# --- functions ------------------------------------------------------------------------------------


def test_a_kernel_refuses_what_is_no_array() -> None:
    module = module_of(axpy, "f32[n]", "f32[n]")
    (kernel,) = module.kernels.values()
    with pytest.raises(TypeError, match="number of arguments"):
        kernel(np.zeros(3, "f4"))
    with pytest.raises(TypeError, match="expected an array"):
        kernel([1.0], np.zeros(1, "f4"), np.zeros(1, "f4"), 1, 1, 1, 0)


def test_object_code_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tgc.settings(cache_dir=tmp_path):
        text = module_of(axpy, "f32[n]", "f32[n]").text
        assert list(tmp_path.rglob("*.o"))
        monkeypatch.setattr(objects, "_optimised", lambda text: pytest.fail("compiled again"))
        native.Module(text)
        (kept,) = tmp_path.rglob("*.o")
        kept.write_bytes(kept.read_bytes()[:-1] + b"x")
        with pytest.raises(pytest.fail.Exception):
            native.Module(text)


def test_assembly_can_be_looked_at() -> None:
    found = lowered(axpy, "f32[n]", "f32[n]")
    assert "@llvm.fma.v32f32" in found.asm("llvm") and "axpy_kernel" in found.asm("asm")
    with pytest.raises(BackendError, match="no 'ptx'"):
        found.asm("ptx")


def test_source_is_deterministic() -> None:
    one, two = (lowered(softmax, "f32[n, m]").source for _ in range(2))
    assert one == two


def test_what_it_cannot_do_runs_on_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    from tgc.codegen.native import instructions

    def refuse(*_: Any) -> None:
        raise BackendError("no such instruction")

    monkeypatch.setattr(instructions, "_instruction", refuse)
    f = tgc.jit(lambda x: x * 3 + 1)
    np.testing.assert_array_equal(f(np.arange(5.0)), np.arange(5.0) * 3 + 1)
    text = f.explain(np.arange(5.0))
    assert "for numpy" in text and "no such instruction" in text


def test_without_llvmlite_numpy_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "unavailable", lambda: "llvmlite is not installed")
    x = np.arange(4.0)
    np.testing.assert_array_equal(tgc.jit(lambda x: x + 1)(x), x + 1)
    with pytest.raises(BackendError, match="llvmlite is not installed"):
        tgc.jit(lambda x: x + 1, backend="native")(x)


def test_poisoned_outputs_are_written_whole(rng: np.random.Generator) -> None:
    plan = lowered(softmax, "f32[rows, cols]").plans[0]
    x = rng.normal(size=(9, 45)).astype(np.float32)
    (out,) = chain.Native(plan)(plan, [x])
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-6)
