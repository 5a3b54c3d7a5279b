"""Calling compiled functions: what is traced again and what is not, keys, containers, errors, the disk cache."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tgc

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).name
SCALE = 2.0


def fused(a: Any, b: Any, c: Any) -> Any:
    return a * b + c


# --- counts ---------------------------------------------------------------------------------------


def test_fifty_sizes_are_one_trace_and_one_source() -> None:
    f = tgc.jit(fused)
    for n in range(2, 52):
        x = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(f(x, x, x), x * x + x)
    assert f.stats().traces == 1
    assert f.stats().sources == 1


def test_sizes_on_both_sides_of_a_block_are_one_trace() -> None:
    f = tgc.jit(lambda x: tgc.sum(tgc.exp(x), axis=-1))
    for n in (2, 1000, 70_000, 3):
        x = np.linspace(-1, 1, 4 * n).reshape(4, n)
        np.testing.assert_allclose(f(x), np.exp(x).sum(-1))
    assert f.stats().traces == 1
    assert 1 <= f.stats().sources <= 3


def test_zero_and_one_are_sizes_of_their_own() -> None:
    f = tgc.jit(fused)
    for n in (0, 1, 2, 3):
        x = np.arange(n, dtype=np.float64)
        np.testing.assert_array_equal(f(x, x, x), x * x + x)
    assert f.stats().traces == 3


def test_equal_extents_by_accident_do_not_bind() -> None:
    f = tgc.jit(lambda x, y: x[:, None] * y[None, :])
    for n, m in ((3, 3), (3, 4), (5, 5), (7, 2)):
        x, y = np.arange(n) + 1.0, np.arange(m) + 1.0
        np.testing.assert_array_equal(f(x, y), np.outer(x, y))
    assert f.stats().traces == 2


def test_dtypes_and_ranks_are_traced_apart() -> None:
    f = tgc.jit(lambda x: x * 2)
    for x in (np.ones(3, np.float32), np.ones(3), np.ones((3, 3)), np.ones(3, np.int64)):
        assert f(x).dtype == (x * 2).dtype
    assert f.stats().traces == 4


def test_a_size_the_function_looks_at_is_a_guard() -> None:
    def f(x: Any) -> Any:
        return x * 2 if x.shape[0] > 10 else x * 3

    compiled = tgc.jit(f)
    for n in (4, 20, 5, 30, 10, 11):
        np.testing.assert_array_equal(compiled(np.ones(n)), f(np.ones(n)))
    assert compiled.stats().traces == 2


def test_python_numbers_are_inputs() -> None:
    f = tgc.jit(lambda x, rate: x * rate)
    for rate in (0.1, 0.2, -0.0, float("inf")):
        np.testing.assert_array_equal(f(np.ones(3), rate), np.ones(3) * rate)
    assert f.stats().traces == 1


# --- what else belongs to the key -----------------------------------------------------------------


def test_a_global_number_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    f = tgc.jit(lambda x: x * SCALE)
    assert f(np.ones(2))[0] == 2
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 5.0)
    assert f(np.ones(2))[0] == 5
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 5)
    assert f(np.ones(2, np.int64)).dtype == np.int64


def test_an_argument_returned_behind_other_results_is_itself() -> None:
    f = tgc.jit(lambda x, y: (x, y.argmax(-1), y.copy(), y))
    x, y = np.ones(3), np.eye(2)
    same, at, copy, last = f(x, y)
    assert same is x and last is y and copy is not y
    np.testing.assert_array_equal(at, [0, 1])


def test_the_mean_of_the_sums_of_no_rows_is_nan() -> None:
    f = tgc.jit(lambda x: x.sum(-1).mean())
    with np.errstate(invalid="ignore", divide="ignore"):
        assert np.isnan(f(np.ones((0, 3))))


def test_static_arguments() -> None:
    @tgc.jit(static_argnames=("power", "negate"))
    def f(x: Any, power: int, *, negate: bool = False) -> Any:
        for _ in range(power - 1):
            x = x * x
        return -x if negate else x

    x = np.full(3, 2.0)
    assert f(x, 1)[0] == 2 and f(x, 2)[0] == 4 and f(x, power=3)[0] == 16
    assert f(x, 2, negate=True)[0] == -4
    assert f(x, 2)[0] == 4


def test_booleans_and_strings_are_static() -> None:
    f = tgc.jit(lambda x, flag, mode: x * (2 if flag else 3) + (mode == "up"))
    x = np.zeros(2) + 1
    assert [f(x, b, m)[0] for b in (True, False) for m in ("up", "down")] == [3, 2, 4, 3]


# --- containers -----------------------------------------------------------------------------------

Point = namedtuple("Point", "x y")


@dataclass
class State:
    value: Any
    slope: Any


def test_trees_in_and_out() -> None:
    @tgc.jit
    def f(point: Point, table: dict[str, Any], items: list[Any]) -> Any:
        return {
            "sum": point.x + point.y,
            "state": State(table["a"] * 2, None),
            "pair": (items[0], [items[1] * 2]),
        }

    one = np.ones(3)
    out = f(Point(one, 2 * one), {"a": one}, [one, 5.0])
    assert out["sum"][0] == 3
    assert isinstance(out["state"], State) and out["state"].slope is None
    assert out["pair"][0] is one
    assert isinstance(out["pair"], tuple) and isinstance(out["pair"][1], list)
    assert out["pair"][1][0] == 10


def test_keywords_and_defaults() -> None:
    @tgc.jit
    def f(x: Any, y: Any = 2.0, *, z: Any = None) -> Any:
        out = x * y
        return out if z is None else out + z

    x = np.ones(2)
    assert f(x)[0] == 2 and f(x, 3.0)[0] == 3 and f(x, y=4.0)[0] == 4
    assert f(y=4.0, x=x)[0] == 4 and f(x, z=np.ones(2))[0] == 3


def test_results_are_of_the_kind_of_the_arguments() -> None:
    total = tgc.jit(lambda x: tgc.sum(x * x))
    assert isinstance(total(np.ones(3, np.float32)), np.float32)
    assert type(tgc.jit(lambda x: x * x)(3.0)) is float
    assert type(tgc.jit(lambda x: x * x)(3)) is int
    assert isinstance(total(np.ones((2, 2))), np.float64)


def test_results_of_torch_tensors_are_tensors() -> None:
    torch = pytest.importorskip("torch")
    total = tgc.jit(lambda x: tgc.sum(x * x))(torch.ones(3))
    assert isinstance(total, torch.Tensor) and total.shape == ()
    assert isinstance(tgc.jit(fused)(torch.ones(2), 2.0, 1), torch.Tensor)


def test_arrays_of_any_stride() -> None:
    f = tgc.jit(lambda x: tgc.exp(x) + 1)
    base = np.arange(24.0).reshape(4, 6) / 10
    unaligned = np.frombuffer(b"\0" + base.tobytes(), np.uint8)[1:].view(np.float64)
    for x in (base.T, base[::2], base[:, ::-1], np.broadcast_to(base[0], (3, 6)), unaligned):
        np.testing.assert_allclose(f(x), np.exp(x) + 1)


def test_arguments_are_not_changed() -> None:
    x = np.arange(5.0)
    y = tgc.jit(lambda x: (x + 1) * 2)(x)
    np.testing.assert_array_equal(x, np.arange(5.0))
    y[:] = 0
    np.testing.assert_array_equal(x, np.arange(5.0))


def test_read_only_arguments() -> None:
    x = np.arange(5.0)
    x.flags.writeable = False
    np.testing.assert_array_equal(tgc.jit(lambda x: x * 2)(x), x * 2)


def test_a_constant_result() -> None:
    assert tgc.jit(lambda x: (x, 3, None, "text"))(2.0) == (2.0, 3, None, "text")


# --- the decorator --------------------------------------------------------------------------------


def test_the_decorator_keeps_what_the_function_says_of_itself() -> None:
    import inspect

    def f(x: Any, y: int = 3) -> Any:
        """What f does."""
        return x * y

    for compiled in (tgc.jit(f), tgc.jit(precision="eager")(f)):
        assert compiled.__name__ == "f" and compiled.__doc__ == "What f does."
        assert compiled.__wrapped__ is f
        assert str(inspect.signature(compiled)) == str(inspect.signature(f))
    assert "f" in repr(tgc.jit(f))


def test_methods() -> None:
    class Line:
        def __init__(self, slope: float) -> None:
            self.slope = slope

        @tgc.jit
        def at(self, x: Any) -> Any:
            return self.slope * x

    one, two = Line(1.0), Line(2.0)
    x = np.ones(3)
    assert [one.at(x)[0], two.at(x)[0], Line.at(two, x)[0]] == [1, 2, 2]
    assert "at" in one.at.lower(x).source


@tgc.jit
def doubled(x: Any) -> Any:
    return x * 2


class Scaled:
    def __init__(self, factor: float) -> None:
        self.factor, self.apply = factor, tgc.jit(self.plain, donate_argnames="x")

    def plain(self, x: Any) -> Any:
        return x * self.factor

    @tgc.jit
    def compiled(self, x: Any) -> Any:
        return x * self.factor


def test_copies_and_pickles() -> None:
    """A compiled function is found by its name, as functions are; one in a copied object belongs to the copy."""
    x = np.ones(3)
    for again in (copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))):
        assert again(doubled) is doubled and again(Scaled.compiled) is Scaled.compiled
    first = Scaled(3.0)
    second = copy.deepcopy(first)
    second.factor = 5.0
    assert (first.apply(x.copy())[0], second.apply(x.copy())[0]) == (3, 5)
    assert second.apply.donate_argnames == ("x",) and second.apply is not first.apply
    assert copy.deepcopy(second.compiled)(x)[0] == 5
    assert copy.deepcopy(tgc.grad(lambda x: (x * x).sum()))(x)[0] == 2
    assert pickle.loads(pickle.dumps(second.compiled))(x)[0] == 5
    alone = pickle.loads(pickle.dumps(tgc.jit(np.sin, backend="numpy")))
    assert alone.backend == "numpy" and alone(x)[0] == np.sin(1.0)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(tgc.jit(lambda x: x))


def test_a_copied_module_has_its_own_parameters() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(3, 1)
    compiled = tgc.jit(net)
    twin = copy.deepcopy(compiled)
    with torch.no_grad():
        net.weight.zero_(), net.bias.zero_()
    assert compiled(torch.ones(3)) == 0 and twin(torch.ones(3)) != 0


def test_compiled_functions_call_each_other() -> None:
    inner = tgc.jit(lambda x: tgc.exp(x))
    outer = tgc.jit(lambda x: inner(x) * 2)
    np.testing.assert_allclose(outer(np.ones(3)), 2 * np.exp(np.ones(3)))
    assert inner.stats().traces == 0, "it was traced into the caller"
    assert tgc.jit(inner)(np.ones(3)).shape == (3,)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="precision"):
        tgc.jit(precision="double")(fused)
    with pytest.raises(TypeError):
        tgc.jit(fast=True)(fused)  # type: ignore[call-overload]


def test_disable_runs_plain_python() -> None:
    f = tgc.jit(lambda x: "ran" if isinstance(x, np.ndarray) else "traced")
    with tgc.settings(disable=True):
        assert f(np.ones(3)) == "ran"


def test_missing_names_say_so() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_operation'"):
        tgc.no_such_operation  # noqa: B018
    assert {"jit", "grad", "exp", "sum"} <= set(dir(tgc))


# --- errors ---------------------------------------------------------------------------------------


def unchanged(f: Any) -> bool:
    return bool(f.stats() == tgc.jit(lambda x: x).stats())


def files() -> set[str]:
    folder = Path(os.environ["TGC_CACHE_DIR"])
    return {str(p) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: np.linalg.svd(x), tgc.errors.UnsupportedOpError),
        (lambda x: x + tgc.sum(x, axis=0)[:1] @ x, tgc.errors.ShapeError),
        (lambda x: tgc.sin(x > 0) & x, tgc.errors.DTypeError),
        (lambda x: x if x[0, 0] > 0 else -x, tgc.errors.TraceError),
        (lambda x: float(x[0, 0]) * x, tgc.errors.TraceError),
    ],
    ids=["unsupported", "shape", "dtype", "branch", "float"],
)
def test_errors_name_the_line_and_leave_nothing(function: Any, kind: type[Exception]) -> None:
    before, f = files(), tgc.jit(function)
    for _ in range(2):
        with pytest.raises(kind) as caught:
            f(np.ones((3, 4)))
        assert f"{HERE}:" in str(caught.value)
    assert unchanged(f) and files() == before


def test_a_branch_on_data_offers_where() -> None:
    with pytest.raises(tgc.errors.TraceError, match=r"tgc\.where"):
        tgc.jit(lambda x: x if x.sum() > 0 else -x)(np.ones(3))


def test_a_dtype_that_is_not_compiled() -> None:
    for x in (np.ones(3, complex), np.array(["a"]), np.ones(3, ">f4")):
        with pytest.raises(tgc.errors.DTypeError):
            tgc.jit(lambda x: x)(x)


def test_masked_arrays_are_refused() -> None:
    with pytest.raises(tgc.errors.UnsupportedOpError, match="masked"):
        tgc.jit(lambda x: x * 2)(np.ma.masked_array(np.ones(3), [True, False, True]))


def test_the_triton_backend_without_a_gpu() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for backend, message in (("triton", "no GPU"), ("vulkan", "no backend 'vulkan'")):
        f = tgc.jit(lambda x: x * 2)
        with tgc.settings(backend=backend), pytest.raises(tgc.errors.BackendError, match=message):
            f(np.ones(3))
        assert f(np.ones(3))[0] == 2, "and the setting is over"


def test_an_error_of_the_users_own_passes() -> None:
    def f(x: Any) -> Any:
        raise KeyError("mine")

    compiled = tgc.jit(f)
    with pytest.raises(KeyError, match="mine"):
        compiled(np.ones(3))
    assert unchanged(compiled)


# --- threads, the cache ---------------------------------------------------------------------------


def test_eight_threads_call_at_once() -> None:
    f = tgc.jit(lambda x: tgc.tanh(x) * tgc.exp(-x * x))
    start, failures = threading.Barrier(8), []

    def work(k: int) -> None:
        rng = np.random.default_rng(k)
        start.wait()
        for _ in range(50):
            x = rng.normal(size=10 + k)
            if not np.allclose(f(x), np.tanh(x) * np.exp(-x * x)):
                failures.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures and f.stats().traces == 1 and f.stats().sources == 1


PROGRAM = """
import numpy as np, tgc
@tgc.jit
def f(x):
    return tgc.tanh(x) * 2
print(f(np.ones(3)))
from tgc import pipeline
import sys
print("tgc.schedule.run" in sys.modules)
"""


def run_program(folder: Path) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TGC_CACHE_DIR": str(folder)}
    program = folder / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_another_process_finds_the_kernels(tmp_path: Path) -> None:
    first, second = run_program(tmp_path), run_program(tmp_path)
    assert first[0] == second[0]
    assert [first[1], second[1]] == ["True", "False"], "the second schedules nothing"


def test_a_damaged_cache_is_compiled_over(tmp_path: Path) -> None:
    first = run_program(tmp_path)
    for path in tmp_path.rglob("*-0.py"):
        path.write_text(path.read_text().replace("tanh", "sinh"))
    assert run_program(tmp_path)[0] == first[0]
    assert run_program(tmp_path)[1] == "False", "and written again"


def test_a_copy_is_a_copy_and_an_argument_is_itself() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones(3)
    same, copied = tgc.jit(lambda x: (x, x.clone()))(x)
    assert same is x and copied is not x
    copied.zero_()
    assert x[0] == 1


def test_numbers_and_arrays_beside_tensors_come_back_as_such() -> None:
    torch = pytest.importorskip("torch")
    f = tgc.jit(lambda x, rate, table: (x * rate, rate * 2, table + 1))
    scaled, number, array = f(torch.ones(3), 0.5, np.zeros(2))
    assert isinstance(scaled, torch.Tensor) and number == 1.0 and type(number) is float
    assert isinstance(array, np.ndarray) and array[0] == 1


def test_equal_results_are_not_one_array() -> None:
    torch = pytest.importorskip("torch")
    for make in (np.ones, torch.ones):
        first, second = tgc.jit(lambda x: (x * 2, x + x))(make(3))
        first += 1
        assert first.tolist() == [3.0] * 3 and second.tolist() == [2.0] * 3


def test_a_constant_beyond_float32_is_infinite_without_a_warning() -> None:
    x = np.ones(2, np.float32)
    assert tgc.jit(lambda x: x / 1e300)(x).tolist() == [0.0, 0.0]
    assert tgc.jit(lambda x: tgc.minimum(x * 1e38, -1e39))(x).tolist() == [-np.inf] * 2


def test_a_result_equal_to_an_argument_is_not_the_argument() -> None:
    torch = pytest.importorskip("torch")
    for make in (np.ones, torch.ones):
        x = make(3)
        y = tgc.jit(lambda x: x * 1)(x)
        y += 1
        assert x.tolist() == [1.0] * 3 and y.tolist() == [2.0] * 3
