"""Emitted numpy modules compute what the kernel evaluator computes, at sizes around blocks' edges.

Fresh memory is poisoned: `np.empty` returns NaN (or a large integer), so that what is never written shows.
"""

from __future__ import annotations

import ast
import cProfile
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.kernel_builder import KernelBuilder, buffer
from tests.support.sample_plans import (
    SAMPLES,
    Array,
    Sample,
    bias_tanh,
    cross_entropy,
    cross_entropy_backward,
    fused_multiply,
    layer_norm_backward,
    matmul_bias_relu,
    padded,
    renamed,
    silu_flat,
    softmax_persistent,
    strided,
)
from tgc.codegen.numpy import PRIMITIVES, SMALL, emit
from tgc.ir.build import result_dtype
from tgc.ir.dtypes import BY_NAME, DType, bool_, float16, float32, float64, int32, int64, uint8
from tgc.ir.ops import OPS
from tgc.ir.sizes import Size
from tgc.kernel.evaluate import evaluate_plan
from tgc.kernel.ir import Axis, Binding, Gathered, Kernel, Launch, Matmul, Plan
from tgc.runtime.workers import parallel
from tgc.settings import settings

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "numpy"
SIZES = [(0, 5), (1, 1), (3, 7), (4, 8), (5, 9), (23, 31), (40, 19)]
n, m = Size.symbol("n"), Size.symbol("m")


def _poison(shape: Any, dtype: Any = np.float64) -> Array:
    kind = np.dtype(dtype)
    return np.full(shape, np.nan if kind.kind not in "iub" else 1, kind)


def _one_by_one(function: Callable[..., None], programs: int, _grain: int, *shared: object) -> None:
    """Every program a range of its own, in an order no loop has."""
    for k in reversed(range(programs)):
        function(*shared, k, k + 1)


def load(source: str, *, poisoned: bool = True) -> types.ModuleType:
    """The module of some emitted source; fresh memory in it is poison, and programs run one by one."""
    module = types.ModuleType("emitted")
    exec(compile(source, "emitted", "exec"), module.__dict__)
    if poisoned:
        fake = types.SimpleNamespace(
            **{name: getattr(np, name) for name in dir(np) if not name.startswith("__")}
        )
        fake.empty = _poison
        module.np = fake  # type: ignore[attr-defined]
        module.empty = _poison  # type: ignore[attr-defined]
        module.parallel = _one_by_one  # type: ignore[attr-defined]
    return module


def host(plan: Plan) -> Callable[..., tuple[Array, ...]]:
    function: Callable[..., tuple[Array, ...]] = getattr(load(emit([plan])), plan.name)
    return function


def sizes_of(rows: int, columns: int) -> dict[str, int]:
    return {"n": rows, "m": columns, "k": 6, "x_stride0": columns, "x_stride1": 1}


def check(plan: Plan, inputs: list[Array], rtol: float = 2e-6) -> tuple[Array, ...]:
    """Run a plan both ways and compare; the results."""
    kept = [x.copy() for x in inputs]
    got = host(plan)(*inputs)
    want = evaluate_plan(plan, inputs).outputs
    for name, g, w in zip(plan.outputs, got, want, strict=True):
        dtype = plan.buffer(name).dtype
        assert g.dtype.name == dtype.name and g.shape == w.shape
        tolerance = max(rtol, 2**-7 if dtype.is_half else 0)
        np.testing.assert_allclose(
            g.astype(w.dtype), w, rtol=tolerance, atol=tolerance, err_msg=name
        )
    for before, after in zip(kept, inputs, strict=True):
        np.testing.assert_array_equal(before, after)
    return got


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_samples(name: str, rows: int, columns: int, rng: np.random.Generator) -> None:
    sample = SAMPLES[name]()
    check(sample.plan, sample.inputs(rng, sizes_of(rows, columns)), rtol=1e-5)


@pytest.mark.parametrize(
    "make", [silu_flat, bias_tanh, softmax_persistent, layer_norm_backward, cross_entropy]
)
@pytest.mark.parametrize("blocks", [(1, 1), (2, 3), (64, 64)], ids=str)
def test_results_hardly_depend_on_blocks(
    make: Callable[..., Sample], blocks: tuple[int, int], rng: np.random.Generator
) -> None:
    count = {silu_flat: 1, softmax_persistent: 1, cross_entropy: 1}.get(make, 2)
    sample = make(*blocks[:count])
    check(sample.plan, sample.inputs(rng, sizes_of(13, 17)), rtol=1e-5)


def test_same_bits_every_time(rng: np.random.Generator) -> None:
    sample = layer_norm_backward()
    inputs = sample.inputs(rng, sizes_of(40, 19))
    run = host(sample.plan)
    for a, b in zip(run(*inputs), run(*inputs), strict=True):
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


def test_same_bytes_every_time() -> None:
    plans = [renamed(make().plan, f"{name}_plan") for name, make in SAMPLES.items()]
    again = [renamed(make().plan, f"{name}_plan") for name, make in SAMPLES.items()]
    assert emit(plans) == emit(again)


def test_several_plans_share_a_module(rng: np.random.Generator) -> None:
    samples = {name: make() for name, make in SAMPLES.items()}
    module = load(emit([renamed(s.plan, f"{name}_plan") for name, s in samples.items()]))
    for name, s in samples.items():
        inputs = s.inputs(rng, sizes_of(5, 9))
        for got, want in zip(
            getattr(module, f"{name}_plan")(*inputs), evaluate_plan(s.plan, inputs).outputs
        ):
            np.testing.assert_allclose(got.astype(want.dtype), want, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", SAMPLES)
def test_sources_are_tidy(name: str) -> None:
    """They need numpy alone (and take memory and threads from tgc), lines stay short, every name given is used."""
    plan = SAMPLES[name]().plan
    source = emit([plan])
    tree = ast.parse(source)
    imported = {a.name for x in ast.walk(tree) if isinstance(x, ast.Import) for a in x.names}
    imported |= {x.module or "" for x in ast.walk(tree) if isinstance(x, ast.ImportFrom)}
    has_bf16 = any(b.dtype.name == "bfloat16" for b in plan.buffers)
    imported -= {"functools", "tgc.runtime.memory", "tgc.runtime.quiet", "tgc.runtime.workers"}
    assert imported == {"numpy", *(["ml_dtypes"] if has_bf16 else [])}
    assert max(map(len, source.splitlines())) <= 100
    read = {x.id for x in ast.walk(tree) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Load)}
    written = {
        x.id for x in ast.walk(tree) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)
    }
    assert written <= read


@pytest.mark.parametrize("make", [silu_flat, layer_norm_backward])
def test_sources_run_where_tgc_is_not(
    make: Callable[..., Sample], monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    sample = make()
    source = emit([sample.plan])
    for name in ("tgc.runtime.memory", "tgc.runtime.quiet", "tgc.runtime.workers"):
        monkeypatch.setitem(sys.modules, name, None)  # import raises ImportError
    module = load(source, poisoned=False)
    assert module.empty is np.empty and module.parallel.__module__ == "emitted"
    inputs = sample.inputs(rng, sizes_of(40, 19))
    got = getattr(module, sample.plan.name)(*inputs)
    for g, want in zip(got, evaluate_plan(sample.plan, inputs).outputs, strict=True):
        np.testing.assert_allclose(g, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLES)
def test_threads_change_no_bit(name: str, rng: np.random.Generator) -> None:
    sample = SAMPLES[name]()
    module = load(emit([sample.plan]), poisoned=False)
    module.parallel = lambda f, count, _, *shared: parallel(f, count, 1, *shared)  # type: ignore[attr-defined]
    inputs = sample.inputs(rng, sizes_of(61, 43))
    results = []
    for count in (1, 2, 3):
        with settings(threads=count):
            results.append(getattr(module, sample.plan.name)(*inputs))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


GOLDENS: dict[str, Callable[[], Sample]] = {
    "softmax": lambda: softmax_persistent(64),
    "layer_norm_backward": lambda: layer_norm_backward(64, 1024, 256),
    "cross_entropy_backward": lambda: cross_entropy_backward(64, 1024),
    "linear_relu": lambda: matmul_bias_relu(64),
    "padded": lambda: padded(65536),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name: str, golden: Callable[[Path, str], None]) -> None:
    golden(GOLDEN / f"{name}.py.txt", emit([GOLDENS[name]().plan]))


# --- memory -----------------------------------------------------------------------------------------


def test_strided_inputs_need_no_copy(rng: np.random.Generator) -> None:
    wide = rng.standard_normal((24, 30)).astype(np.float32)
    run = host(strided().plan)
    for x in (wide[::2, 1::3], wide.T, wide[3:9, 4:20], np.broadcast_to(wide[:1], (24, 30))):
        np.testing.assert_array_equal(run(x)[0], np.float32(3) * x - np.float32(1))


def test_a_chain_allocates_no_full_temporary(rng: np.random.Generator) -> None:
    """Peak memory of a long chain over a large array: the output and a few blocks."""
    import tracemalloc

    b = _chain(["exp", "sin", "tanh", "cos", "exp"], block=4096)
    module = load(emit([b]), poisoned=False)
    module.empty = np.empty  # type: ignore[attr-defined]  # which tracemalloc sees
    run = getattr(module, b.name)
    x = rng.standard_normal(1 << 20).astype(np.float32)
    run(x[:10])
    tracemalloc.start()
    (y,) = run(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < y.nbytes + 4 * 4096 * 4


def _chain(ops: list[str], block: int) -> Plan:
    """x passed through `ops`, each result added to the one before: two values live at a time."""
    buffers = (buffer("x", float32, (n,)), buffer("y", float32, (n,), "out"))
    b = KernelBuilder("chain_kernel", [Axis("i", n, "grid", block)], buffers)
    value = b.load("x", ("i", 1), name="x")
    for op in ops:
        value = b.op("add", b.op(op, value), value)
    b.store("y", value, ("i", 1))
    return plan_of(b.build(["n"]), ["x"], ["y"], [Binding("n", "x", 0)])


def plan_of(kernel: Kernel, inputs: list[str], outputs: list[str], bindings: list[Binding]) -> Plan:
    return Plan(
        "run", tuple(inputs), tuple(outputs), kernel.buffers, tuple(bindings), (Launch(kernel),)
    )


def test_calls_from_many_threads(rng: np.random.Generator) -> None:
    plan = _chain(["exp", "sin", "tanh"], block=64)
    run = getattr(load(emit([plan]), poisoned=False), plan.name)
    inputs = [rng.standard_normal(5000).astype(np.float32) for _ in range(8)]
    want = [run(x)[0] for x in inputs]
    wrong: list[int] = []

    def work(which: int) -> None:
        wrong.extend(
            which for _ in range(50) if not np.array_equal(run(inputs[which])[0], want[which])
        )

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


# --- operations and types -----------------------------------------------------------------------------


def _operation(op: str, dtype: DType, block: int = 4) -> Plan:
    spec = OPS[op]
    names = ["a", "b", "c"][: spec.arity]
    types_ = [bool_ if op == "where" and i == 0 else dtype for i in range(spec.arity)]
    result = float32 if spec.result == "cast" else result_dtype(spec, dtype)
    buffers = (
        *(buffer(x, t, (n,)) for x, t in zip(names, types_)),
        buffer("y", result, (n,), "out"),
    )
    b = KernelBuilder("op_kernel", [Axis("i", n, "grid", block)], buffers)
    args = [b.load(x, ("i", 1), name=x) for x in names]
    b.store("y", b.op(op, *args, dtype=result), ("i", 1))
    return plan_of(b.build(["n"]), names, ["y"], [Binding("n", names[0], 0)])


TYPES = (float64, float32, int64, int32, uint8, bool_)
DEFINED = [(op, t) for op in sorted(PRIMITIVES) for t in TYPES if t.kind in OPS[op].accepts]


@pytest.mark.parametrize(("op", "dtype"), DEFINED, ids=str)
def test_every_primitive_in_every_type(op: str, dtype: DType, rng: np.random.Generator) -> None:
    plan = _operation(op, dtype)
    inputs = []
    for name in plan.inputs:
        kind = plan.buffer(name).dtype
        whole = rng.integers(1, 2 if kind is bool_ else 5, 11)
        values = rng.uniform(0.1, 0.9, 11) if kind.is_float else whole
        inputs.append((values + (1 if op == "acosh" else 0)).astype(kind.name))
    if dtype is bool_ or op == "where":
        inputs[0] = rng.integers(0, 2, 11).astype(inputs[0].dtype)
    check(plan, inputs)
    check(_operation(op, dtype, SMALL), inputs)  # the same in one block


FOLDS = [(f, t) for f in ("sum", "prod", "max", "min") for t in TYPES if t is not bool_]


@pytest.mark.parametrize(("monoid", "dtype"), [*FOLDS, ("any", bool_), ("all", bool_)], ids=str)
@pytest.mark.parametrize("kind", ["lane", "loop"])
def test_every_fold_in_every_type(
    monoid: str, dtype: DType, kind: str, rng: np.random.Generator
) -> None:
    buffers = (buffer("x", dtype, (n, m)), buffer("y", dtype, (n,), "out"))
    block = None if kind == "lane" else 4
    b = KernelBuilder("fold_kernel", [Axis("r", n, "grid", 4), Axis("c", m, kind, block)], buffers)
    if kind == "lane":
        y = b.reduce(monoid, b.load("x", ("r", m), ("c", 1)), "c")
    else:
        b.loop("c")
        (y,) = b.end((monoid, b.load("x", ("r", m), ("c", 1)), "c", "y"))
    b.store("y", y, ("r", 1))
    plan = plan_of(b.build(["n", "m"]), ["x"], ["y"], [Binding("n", "x", 0), Binding("m", "x", 1)])
    high = {"bool": 2, "uint8": 3}.get(dtype.name, 5)
    for shape in ((1, 1), (9, 13)):
        check(plan, [rng.integers(0, high, shape).astype(dtype.name)])


@pytest.mark.parametrize("fixed", [0, 1, 5])
def test_folds_of_fixed_extents(fixed: int, rng: np.random.Generator) -> None:
    """Extent 0 gives the identity element, extent 1 the value itself."""
    buffers = (
        buffer("x", float32, (n, fixed)),
        *(buffer(y, float32, (n,), "out") for y in ("s", "h")),
    )
    b = KernelBuilder("fold_kernel", [Axis("r", n, "grid", 4), Axis("c", fixed, "lane")], buffers)
    x = b.load("x", ("r", fixed), ("c", 1))
    b.store("s", b.reduce("sum", x, "c"), ("r", 1))
    b.store("h", b.reduce("max", x, "c"), ("r", 1))
    plan = plan_of(b.build(["n"]), ["x"], ["s", "h"], [Binding("n", "x", 0)])
    check(plan, [rng.standard_normal((9, fixed)).astype(np.float32)])


def test_what_is_computed_twice_is_computed_once(rng: np.random.Generator) -> None:
    outs = ["y0", "y1", "y2"]
    buffers = (buffer("x", float32, (n,)), *(buffer(y, float32, (n,), "out") for y in outs))
    b = KernelBuilder("kernel", [Axis("i", n, "grid", 4)], buffers)
    x = b.load("x", ("i", 1))
    b.store("y0", b.op("exp", b.op("mul", x, 0.0)), ("i", 1))
    b.store("y1", b.op("exp", b.op("mul", x, 0.0)), ("i", 1))
    b.store("y2", b.op("div", 1.0, b.op("mul", x, -0.0)), ("i", 1))  # not the same zero
    plan = plan_of(b.build(["n"]), ["x"], outs, [Binding("n", "x", 0)])
    source = emit([plan])
    assert (source.count("np.exp("), source.count("np.multiply(")) == (1, 2)
    check(plan, [rng.random(9).astype(np.float32)])


def test_selection_by_bits_keeps_every_bit() -> None:
    """Also of NaN, infinities and zeros."""
    buffers = (
        buffer("c", bool_, (n,)),
        *(buffer(x, float32, (n,)) for x in ("a", "b")),
        *(buffer(y, float32, (n,), "out") for y in ("y0", "y1", "y2")),
    )
    kernel = KernelBuilder("select_kernel", [Axis("i", n, "grid", 4)], buffers)
    c, a, b = (kernel.load(x, ("i", 1)) for x in ("c", "a", "b"))
    kernel.store("y0", kernel.op("where", c, a, b), ("i", 1))
    kernel.store("y1", kernel.op("where", c, kernel.op("neg", a), 0.0), ("i", 1))
    kernel.store("y2", kernel.op("where", c, -0.0, kernel.op("neg", b)), ("i", 1))
    plan = plan_of(kernel.build(["n"]), ["c", "a", "b"], ["y0", "y1", "y2"], [Binding("n", "c", 0)])
    values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.5, -3e-45, 3e38, 1.0], np.float32)
    for condition in (values > 0, values < 0, values == values, values != values):
        got = host(plan)(condition, values, values[::-1].copy())
        other, zero = values[::-1], np.float32(0.0)
        chosen = [(values, other), (-values, zero), (-zero, -other)]
        want = [np.where(condition, yes, no) for yes, no in chosen]
        for g, w in zip(got, want, strict=True):
            np.testing.assert_array_equal(g.view(np.int32), w.view(np.int32))


def test_constants_are_exact() -> None:
    values = [
        0.1,
        -0.0,
        float("inf"),
        float("-inf"),
        float("nan"),
        1e-45,
        3.4028234663852886e38,
        1 / 3,
        1e-7,
    ]
    outs = [f"y{i}" for i in range(len(values))]
    buffers = (buffer("x", float32, (n,)), *(buffer(y, float32, (n,), "out") for y in outs))
    b = KernelBuilder("constants_kernel", [Axis("i", n, "grid", 4)], buffers)
    x = b.load("x", ("i", 1))
    for y, value in zip(outs, values):
        b.store(y, b.op("mul", x, value), ("i", 1))
    run = host(plan_of(b.build(["n"]), ["x"], outs, [Binding("n", "x", 0)]))
    for got, value in zip(run(np.ones(3, np.float32)), values, strict=True):
        want = np.full(3, value, np.float32)
        np.testing.assert_array_equal(
            got.view(np.int32)[want == want], want.view(np.int32)[want == want]
        )
        assert np.isnan(got).all() == np.isnan(value)


def test_special_values_raise_no_warning() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e38, -1e38, 1e-45], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (y,) = host(silu_flat().plan)(x)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(y, x / (np.exp(-x) + np.float32(1)))


def test_a_condition_chooses_to_the_bit(rng: np.random.Generator) -> None:
    """where between two computed values, kept and dropped in either order, and a NaN in the untaken branch."""
    buffers = (
        buffer("x", float32, (n,)),
        buffer("y", float32, (n,), "out"),
        buffer("z", float32, (n,), "out"),
    )
    b = KernelBuilder("where_kernel", [Axis("i", n, "grid", 4)], buffers)
    x = b.load("x", ("i", 1))
    root, double = b.op("sqrt", x), b.op("add", x, x)
    positive = b.op("gt", x, 0.0)
    b.store("y", b.op("where", positive, root, double), ("i", 1))
    b.store("z", b.op("where", positive, double, root), ("i", 1))
    plan = plan_of(b.build(["n"]), ["x"], ["y", "z"], [Binding("n", "x", 0)])
    x_ = rng.standard_normal(11).astype(np.float32)
    with np.errstate(all="ignore"):
        root_, double_ = np.sqrt(x_), x_ + x_
    y, z = host(plan)(x_)
    np.testing.assert_array_equal(y, np.where(x_ > 0, root_, double_))
    np.testing.assert_array_equal(z, np.where(x_ > 0, double_, root_))


# --- gathers and products -----------------------------------------------------------------------------


def test_embedding_rows(rng: np.random.Generator) -> None:
    buffers = (
        buffer("w", float32, (m, 6)),
        buffer("index", int64, (n,)),
        buffer("y", float32, (n, 6), "out"),
    )
    b = KernelBuilder("embedding_kernel", [Axis("r", n, "grid", 4), Axis("c", 6, "lane")], buffers)
    row = b.load("index", ("r", 1))
    b.store("y", b.op("mul", b.load("w", (Gathered(row, m), 6), ("c", 1)), 2.0), ("r", 6), ("c", 1))
    plan = plan_of(
        b.build(["n", "m"]), ["w", "index"], ["y"], [Binding("n", "index", 0), Binding("m", "w", 0)]
    )
    w, index = rng.standard_normal((9, 6)).astype(np.float32), rng.integers(0, 9, 14)
    (y,) = check(plan, [w, index])
    np.testing.assert_array_equal(y, 2 * w[index])


def test_labels_outside_are_an_error(rng: np.random.Generator) -> None:
    with pytest.raises(IndexError):
        host(cross_entropy().plan)(np.ones((3, 4), np.float32), np.array([0, 4, 1]))


def test_masked_gathers_stay_inside(rng: np.random.Generator) -> None:
    """Labels where the mask is false (ignore_index) may be anything: they are replaced before they are positions."""
    buffers = (
        buffer("x", float32, (n, m)),
        buffer("label", int64, (n,)),
        buffer("y", float32, (n,), "out"),
    )
    b = KernelBuilder("pick_kernel", [Axis("r", n, "grid", 4)], buffers)
    label = b.load("label", ("r", 1))
    there = b.op("ne", label, -100)
    place = b.op("where", there, label, 0)
    picked = b.load("x", ("r", m), (Gathered(place, m), 1), mask=there, fill=0.5)
    b.store("y", b.op("neg", picked), ("r", 1))
    plan = plan_of(
        b.build(["n", "m"]), ["x", "label"], ["y"], [Binding("n", "x", 0), Binding("m", "x", 1)]
    )
    label_ = rng.integers(0, 7, 11)
    label_[::3] = -100
    (y,) = check(plan, [rng.standard_normal((11, 7)).astype(np.float32), label_])
    assert (y[::3] == -0.5).all()


def _box(kernel_axes: list[Axis], *, scale: float) -> Plan:
    """y = scale * pad(x, 2 rows in front and 1 behind, 3 columns in front), by one mask over both axes."""
    rows, columns = n + 3, m + 3
    buffers = (buffer("x", float32, (n, m)), buffer("y", float32, (rows, columns), "out"))
    b = KernelBuilder("pad_kernel", kernel_axes, buffers)
    r, c = b.iota(("r", 1), name="row"), b.iota(("c", 1), name="column")
    inside = b.op("and", b.op("ge", r, 2), b.op("le", r, n + 1))
    inside = b.op("and", inside, b.op("gt", c, 2))
    x = b.load("x", ("r", m), ("c", 1), offset=-2 * m - 3, mask=inside, fill=-1.0)
    kept = b.op("where", inside, x, -1.0)
    b.store("y", b.op("mul", kept, scale), ("r", columns), ("c", 1))
    return plan_of(b.build(["n", "m"]), ["x"], ["y"], [Binding("n", "x", 0), Binding("m", "x", 1)])


@pytest.mark.parametrize("kind", ["grid", "lane"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (13, 5)], ids=str)
def test_padding_is_a_slice(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> None:
    axes = [Axis("r", n + 3, "grid", 4), Axis("c", m + 3, kind, None if kind == "lane" else 3)]
    plan = _box(axes, scale=2.0)
    x = rng.standard_normal(shape).astype(np.float32)
    (y,) = check(plan, [x])
    np.testing.assert_array_equal(y, 2 * np.pad(x, ((2, 1), (3, 0)), constant_values=-1))
    source = emit([plan])
    assert not any(word in source for word in ("take", "arange", "copyto", "bool_"))


def test_a_mask_that_is_no_box_still_holds(rng: np.random.Generator) -> None:
    """Either end of a vector: the load goes by index arrays, clipped."""
    buffers = (buffer("x", float32, (n,)), buffer("y", float32, (n + 4,), "out"))
    b = KernelBuilder("ends_kernel", [Axis("i", n + 4, "grid", 4)], buffers)
    i = b.iota(("i", 1))
    inside = b.op("and", b.op("lt", i, n), b.op("or", b.op("lt", i, 3), b.op("ge", i, n - 2)))
    b.store("y", b.op("neg", b.load("x", ("i", 1), mask=inside, fill=9.0)), ("i", 1))
    plan = plan_of(b.build(["n"]), ["x"], ["y"], [Binding("n", "x", 0)])
    check(plan, [rng.standard_normal(11).astype(np.float32)])


@pytest.mark.parametrize(
    "subscripts",
    ["ij,jk->ik", "ij,kj->ik", "ji,jk->ik", "ij,jk->ki", "bij,bjk->bik", "bij,bkj->bik", "ij,j->i", "i,i->", "i,ij->j",
     "bij,jk->bik", "jk,bij->bik", "jbi,jk->bik", "ijb,ijk->bk", "blij,bljk->blik", "bij,jkl->bikl", "ijl,kjl->ik",
     "bij,jlk->blik", "bi,bi->b", "ijk,jkl->il", "i,j->ij", "bij,bjk->bki"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [float32, float64, int64, float16, BY_NAME["bfloat16"]], ids=str)
def test_library_products(subscripts: str, dtype: DType, rng: np.random.Generator) -> None:
    extent = {"b": 2, "i": 3, "j": 4, "k": 5, "l": 6}
    left, right, out = subscripts.replace("->", ",").split(",")
    shapes = [tuple(extent[c] for c in part) for part in (left, right, out)]
    buffers = (
        buffer("a", dtype, shapes[0]),
        buffer("b", dtype, shapes[1]),
        buffer("y", dtype, shapes[2], "out"),
    )
    steps = (Matmul(subscripts, "a", "b", "y", dtype.compute),)
    plan = Plan("product", ("a", "b"), ("y",), buffers, (), steps)
    a, b = (np.asarray(rng.integers(-4, 5, s)) for s in shapes[:2])
    kind = evaluate_plan(plan, [a, b], exact=True).outputs[0].dtype
    (got,) = host(plan)(a.astype(kind), b.astype(kind))
    np.testing.assert_array_equal(got.astype(np.float64), np.einsum(subscripts, a, b))


def test_numbers_passed_by_value(rng: np.random.Generator) -> None:
    buffers = (
        buffer("x", float32, (n,)),
        buffer("rate", float32, (), "scalar"),
        buffer("y", float32, (n,), "out"),
    )
    b = KernelBuilder("step_kernel", [Axis("i", n, "grid", 4)], buffers)
    b.store("y", b.op("mul", b.load("x", ("i", 1)), b.load("rate")), ("i", 1))
    plan = plan_of(b.build(["n"]), ["x", "rate"], ["y"], [Binding("n", "x", 0)])
    x = rng.standard_normal(9).astype(np.float32)
    (y,) = host(plan)(x, 0.1)
    np.testing.assert_array_equal(y, x * np.float32(0.1))


# --- time ---------------------------------------------------------------------------------------------


def test_emission_is_quick() -> None:
    """A forward and a backward take some thousand calls of functions, whatever the machine is doing."""
    plans = [
        renamed(softmax_persistent().plan, "forward"),
        renamed(layer_norm_backward().plan, "backward"),
    ]
    profile = cProfile.Profile(builtins=False)
    profile.runcall(emit, plans)
    assert 0 < sum(entry.callcount for entry in profile.getstats()) < 10_000


def test_a_small_call_costs_little(rng: np.random.Generator) -> None:
    """a*b + c on 16 elements: at most 5 times the two numpy operations, the best of many."""
    run = load(emit([fused_multiply(65536).plan]), poisoned=False).multiply_add
    x = rng.standard_normal(16).astype(np.float32)

    def best(call: Callable[[], object]) -> float:
        times = []
        for _ in range(30):
            start = time.perf_counter()
            for _ in range(300):
                call()
            times.append(time.perf_counter() - start)
        return min(times)

    assert best(lambda: run(x, x, x)) < 5 * best(lambda: x * x + x)
