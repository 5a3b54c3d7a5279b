"""The native engine's elementary functions: error, edge values, and that a loop of them is vectors without a call."""

from __future__ import annotations

import ctypes
import functools
import math
import re
from collections.abc import Callable
from fractions import Fraction

import mpmath
import numpy as np
import numpy.typing as npt
import pytest

from tests.ops.backends import by_kernel
from tgc.codegen.native import functions
from tgc.ir.dtypes import DType, float32, float64
from tgc.ir.ops import OPS
from tgc.ir.references import scalar_reference
from tgc.schedule.target import NATIVE

llvm = pytest.importorskip("llvmlite.binding")

Array = npt.NDArray[np.floating]
INF, NAN = math.inf, math.nan
LANES = {float32: 16, float64: 8}
BITS = {float32: np.uint32, float64: np.uint64}
# The bound each function is held to, in float32 and float64.
ULP = {
    "exp": 1.5,
    "exp2": 1.5,
    "expm1": 2.0,
    "log": 1.5,
    "log2": 2.5,
    "log10": 3.0,
    "log1p": 2.0,
    "sinh": 3.0,
    "cosh": 2.0,
    "tanh": 3.0,
    "sech2": 3.0,
    "sigmoid": 3.0,
    "softplus": 3.0,
    "erf": 2.5,
    "erfc": 4.0,
    "asinh": 2.5,
    "acosh": 2.5,
    "atanh": 2.5,
    "sin": 2.0,
    "cos": 2.0,
    "tan": 4.0,
    "asin": 3.0,
    "acos": 2.0,
    "atan": 3.0,
    "atan2": 3.0,
    "pow": 2.0,
    "cbrt": 2.0,
    "hypot": 1.5,
    "mod": 0.5,
    "floordiv": 2.0,  # three roundings of a quotient beyond the integers, as in numpy and torch
}
# Where the results are neither zero nor infinite: half of the samples are drawn here.
RANGE = {
    "exp": (-104.0, 89.0),
    "exp2": (-150.0, 128.0),
    "sech2": (-52.0, 52.0),
    "sigmoid": (-104.0, 20.0),
    "softplus": (-104.0, 20.0),
    "sinh": (-90.0, 90.0),
    "cosh": (-90.0, 90.0),
    "erfc": (-6.0, 10.1),
    "asin": (-1.0, 1.0),
    "acos": (-1.0, 1.0),
    "atanh": (-1.0, 1.0),
    "sin": (-1e5, 1e5),
    "cos": (-1e5, 1e5),
    "tan": (-1e3, 1e3),
}
ARITY = {name: OPS[name].arity for name in functions.FLOAT_FUNCTIONS}
ARITY |= {narrow: ARITY[op] for op, narrow in functions.NARROW.items()}


def loop(op: str, dtype: DType, lanes: int) -> str:
    """A module whose `run` applies the function over arrays, a vector at a time."""
    scalar = "float" if dtype is float32 else "double"
    vector = f"<{lanes} x {scalar}>" if lanes > 1 else scalar
    names = "pq"[: ARITY[op]]
    loads = "".join(
        f"  %g{p} = getelementptr {scalar}, ptr %{p}, i64 %i\n"
        f"  %x{p} = load {vector}, ptr %g{p}, align {dtype.itemsize}\n"
        for p in names
    )
    needed = [(op, dtype, lanes)]
    return f"""{chr(10).join(sorted(functions.declarations(needed)))}
{functions.definitions(needed)}
define void @run({", ".join(f"ptr noalias %{p}" for p in names)}, ptr noalias %o, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
{loads}  %r = call {vector} {functions.call_name(op, dtype, lanes)}({", ".join(f"{vector} %x{p}" for p in names)})
  %go = getelementptr {scalar}, ptr %o, i64 %i
  store {vector} %r, ptr %go, align {dtype.itemsize}
  %j = add i64 %i, {lanes}
  %more = icmp ult i64 %j, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}"""


@functools.cache
def compiled(op: str, dtype: DType, lanes: int) -> tuple[Callable[..., Array], str]:
    """The function over numpy arrays, and the assembly it became on this machine."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(loop(op, dtype, lanes))
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    assembly = machine.emit_assembly(module)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    signature = [ctypes.c_void_p] * (ARITY[op] + 1)
    run = ctypes.CFUNCTYPE(None, *signature, ctypes.c_int64)(engine.get_function_address("run"))

    def call(*operands: Array, engine: object = engine) -> Array:
        count = len(operands[0])
        padded = [np.append(x, np.ones(-count % lanes, x.dtype)) for x in operands]
        out = np.empty_like(padded[0])
        run(*(x.ctypes.data for x in padded), out.ctypes.data, len(out))
        return out[:count]

    return call, assembly


EDGES = (0.0, -0.0, INF, -INF, NAN, 1.0, -1.0, 2.0, 0.5, -0.5, 1.5, 2.5, 3.0, -3.0, 1e5, -1e10)


def samples(op: str, dtype: DType, count: int, seed: int = 0) -> Array:
    """Random bits over all exponents, the interesting range, the neighbourhood of 1 and of 0, and the edges."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype.name)
    low, high = RANGE.get(op, (-10.0, 10.0))
    widen = (
        8.0 if dtype is float64 and high > 50 else 2.7 if dtype is float64 and op == "erfc" else 1.0
    )
    info = np.finfo(kind)
    tiny = [info.tiny, info.smallest_subnormal, info.max, info.tiny * 0.9]
    edges = np.array([*EDGES, *tiny, *(-x for x in tiny)], kind)
    bits = rng.integers(0, 2 ** (8 * dtype.itemsize), count, dtype=BITS[dtype]).view(kind)
    drawn = (
        rng.uniform(low * widen, high * widen, 2 * count),
        1 + rng.normal(size=count // 2) * 10.0 ** rng.uniform(-8, 0, count // 2),
        rng.normal(size=count // 2) * 10.0 ** rng.uniform(-12, 1, count // 2),
    )
    return np.concatenate([edges, bits, *(x.astype(kind) for x in drawn)])


def operands(op: str, dtype: DType, count: int) -> list[Array]:
    """Samples for each operand; of two, every pair of edges too."""
    first = samples(op, dtype, count)
    if ARITY[op] == 1:
        return [first]
    second = np.random.default_rng(2).permutation(samples(op, dtype, count, seed=1))
    edges = first[: len(EDGES) + 8]
    pairs = np.array(np.meshgrid(edges, edges), first.dtype).reshape(2, -1)
    return [np.append(pairs[0], first), np.append(pairs[1], second)]


NUMPY = {name: spec.numpy for name, spec in OPS.items()}


def remainder(a: Array, b: Array) -> Array:
    """torch's: a zero has the sign of the dividend, where numpy's has that of the divisor."""
    r = np.fmod(a, b)
    return np.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)


def reference(op: str, values: list[Array]) -> Array:
    """The C library's, in a wider type: numpy's ufunc, or math where numpy has none."""
    with np.errstate(all="ignore"):
        if op == "mod":
            return remainder(*values)
        if op in ("sigmoid", "softplus", "sech2"):
            return scalar_reference(op)(*values)
        if NUMPY[op]:
            return np.asarray(getattr(np, str(NUMPY[op]))(*values))
        return np.vectorize(getattr(math, op), otypes=[float])(*values)


def disagreements(got: Array, want: Array) -> npt.NDArray[np.bool_]:
    """Where NaN, infinities or the sign of zero differ; `want` in the dtype of `got`."""
    nan = np.isnan(got) != np.isnan(want)
    infinite = (np.isinf(got) | np.isinf(want)) & ~np.isnan(want) & (got != want)
    zero = (got == 0) & (want == 0) & (np.signbit(got) != np.signbit(want))
    return nan | infinite | zero


def errors(got: Array, want: Array) -> Array:
    """Units in the last place of `got`'s dtype, denormals' unit the smallest denormal; 0 where not finite."""
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        finite = np.isfinite(got) & np.isfinite(rounded)
        unit = np.spacing(np.maximum(np.abs(rounded), np.finfo(got.dtype).tiny))
        return np.where(finite, np.abs(got.astype(want.dtype) - want) / unit.astype(want.dtype), 0)


def worst(op: str, dtype: DType, values: list[Array], got: Array, want: Array) -> float:
    with np.errstate(all="ignore"):
        differs = disagreements(got, want.astype(got.dtype))
    shown = [tuple(float(x[i]) for x in values) for i in np.flatnonzero(differs)[:5]]
    assert not shown, f"{op} of {dtype} at {shown}: {got[differs][:5]}, not {want[differs][:5]}"
    return float(np.max(errors(got, want)))


def test_every_function_has_a_bound_and_no_more() -> None:
    assert set(ULP) == functions.FLOAT_FUNCTIONS


@pytest.mark.parametrize("op", sorted(functions.FLOAT_FUNCTIONS))
def test_float32_is_within_its_bound(op: str) -> None:
    count = 150_000 if NUMPY[op] else 40_000
    values = operands(op, float32, count)
    got = compiled(op, float32, LANES[float32])[0](*values)
    with np.errstate(invalid="ignore"):  # signalling NaNs are among the samples
        wide = [x.astype(np.float64) for x in values]
    want = reference(op, wide)
    assert worst(op, float32, values, got, want) <= ULP[op]


def exact(op: str, *point: float) -> object:
    """The function at one point: by mpmath, or in rational arithmetic."""
    if op in ("mod", "floordiv"):
        a, b = Fraction(point[0]), Fraction(point[1])
        value = a % b if op == "mod" else Fraction(a // b)
        return mpmath.mpf(value.numerator) / value.denominator
    named: dict[str, Callable[..., object]] = {
        "pow": mpmath.power,
        "log2": lambda x: mpmath.log(x, 2),
        "exp2": lambda x: mpmath.power(2, x),
        "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
        "sech2": lambda x: mpmath.sech(x) ** 2,
        "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
        "cbrt": lambda x: mpmath.sign(x) * mpmath.cbrt(abs(x)),
    }
    apply = named.get(op) or getattr(mpmath, op)
    return apply(*(mpmath.mpf(x) for x in point))


@pytest.mark.parametrize("op", sorted(functions.FLOAT_FUNCTIONS))
def test_float64_is_within_its_bound(op: str) -> None:
    values = operands(op, float64, 1_000)
    got = compiled(op, float64, LANES[float64])[0](*values)
    want = reference(
        op, values
    )  # right within an ulp or two: decides what is NaN, infinite or zero
    assert worst(op, float64, values, got, want) < ULP[op] + 3.0
    # mpmath knows no signed zero: those and infinities were compared above.
    ordinary = np.all([np.isfinite(x) & (x != 0) for x in [got, *values]], axis=0)
    finite = np.flatnonzero(ordinary)
    with mpmath.workprec(240):
        for i in finite[:: max(1, len(finite) // 1500)]:
            truth = exact(op, *(float(x[i]) for x in values))
            unit = math.ulp(max(abs(float(got[i])), np.finfo(float).tiny))
            off = float(abs(mpmath.mpf(float(got[i])) - truth) / unit)
            assert off <= ULP[op], f"{op}({[float(x[i]) for x in values]}) is off by {off} ulp"


@pytest.mark.parametrize("dtype", [float32, float64], ids=repr)
@pytest.mark.parametrize("op", sorted(functions.FLOAT_FUNCTIONS))
def test_the_number_of_lanes_does_not_change_a_result(op: str, dtype: DType) -> None:
    values = operands(op, dtype, 200)
    ours = compiled(op, dtype, LANES[dtype])[0](*values)
    one = compiled(op, dtype, 1)[0](*values)
    np.testing.assert_array_equal(ours, one)


@pytest.mark.parametrize("dtype", [float32, float64], ids=repr)
@pytest.mark.parametrize("op", sorted(functions.FLOAT_FUNCTIONS))
def test_a_loop_is_vectors_and_calls_nothing(op: str, dtype: DType) -> None:
    assembly = compiled(op, dtype, LANES[dtype])[1]
    called = set(re.findall(r"(?:\bcall\w*\s+|\bbl\s+|\$)([A-Za-z_][\w.]*)", assembly))
    apart = {name for name in called if ".far" in name}
    assert called - apart == ({"fmod"} if op in ("mod", "floordiv") else set())
    run = assembly[assembly.index("\nrun:") :].split(".Lfunc_end")[0]
    assert re.search(r"%[xyz]mm\d|\bv\d+\.[24][sd]\b", run)
    assert not re.findall(r"^\s*v?(?:add|mul|div|sqrt)s[sd]\b.*", run, re.MULTILINE)


def test_each_definition_appears_once_and_in_one_order() -> None:
    needed = [("exp", float32, 16), ("tanh", float64, 1), ("exp", float32, 16)]
    text = functions.definitions(needed)
    assert text == functions.definitions(reversed(needed))
    assert re.findall(r"define .*?(@[\w.]+)", text) == ["@exp.v16f32", "@tanh.f64"]
    assert functions.call_name("tanh", float64, 1) == "@tanh.f64"
    assert all(line.startswith("declare ") for line in functions.declarations(needed))


def narrow_operands(op: str, dtype: DType) -> Array:
    """All that a narrow function may be given: see `signs.has_less_to_do`."""
    x = samples("exp" if op == "exp" else op, dtype, 100_000)
    if op == "exp":
        return -np.abs(x)
    with np.errstate(invalid="ignore"):
        fits = (x > 2.0**-125) & (x < 2.0**127) if op == "log" else np.abs(x) <= 2.0**16
    return x[fits]


@pytest.mark.parametrize("dtype", [float32, float64], ids=repr)
@pytest.mark.parametrize("op", sorted(functions.NARROW))
def test_narrow_functions_have_the_bits_of_the_whole_ones(op: str, dtype: DType) -> None:
    x = narrow_operands(op, dtype)
    assert len(x) > 10_000
    whole = compiled(op, dtype, LANES[dtype])[0](x)
    narrow = compiled(functions.NARROW[op], dtype, LANES[dtype])[0](x)
    np.testing.assert_array_equal(narrow, whole)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.int8, np.uint8])
def test_powers_of_integers(dtype: type) -> None:
    """Modulo the type; with a negative exponent 1 and -1 remain."""
    low = 0 if dtype is np.uint8 else -70
    bases, exponents = np.meshgrid(np.arange(low, 71), np.arange(low, 71))
    operands = (bases.astype(dtype), exponents.astype(dtype))
    got = by_kernel(NATIVE)("pow", operands)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, scalar_reference("pow")(*operands))
