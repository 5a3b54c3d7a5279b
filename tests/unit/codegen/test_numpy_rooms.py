"""Scratch that stays from call to call: how much of it, and that no two calls have the same."""

from __future__ import annotations

import inspect
import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.kernel_builder import KernelBuilder, buffer
from tests.support.sample_plans import layer_norm_backward
from tgc.codegen.numpy import emit
from tgc.codegen.numpy.rooms import ROOM, ROOMS
from tgc.ir.dtypes import float32
from tgc.ir.sizes import Size
from tgc.kernel.ir import Axis, Binding, Launch, Plan

Array = Any
n = Size.symbol("n")
LONG = ROOM // 4  # elements of float32 that fill a room of one array


def plan(kind: str = "grid") -> Plan:
    """x * tanh(sin(x)) + sin(x), with one scratch array beside the output; blocks are longer than a room."""
    buffers = (buffer("x", float32, (n,)), buffer("y", float32, (n,), "out"))
    axis = Axis("i", n, kind, 4 * LONG if kind == "grid" else None)
    b = KernelBuilder("run_kernel", [axis], buffers)
    x = b.load("x", ("i", 1), name="x")
    inner = b.op("sin", x)
    b.store("y", b.op("add", b.op("mul", x, b.op("tanh", inner)), inner), ("i", 1))
    kernel = b.build(["n"])
    return Plan("run", ("x",), ("y",), kernel.buffers, (Binding("n", "x", 0),), (Launch(kernel),))


def module(which: Plan) -> Any:
    made = types.ModuleType("emitted")
    exec(compile(emit([which]), "emitted", "exec"), made.__dict__)
    return made


def kept(made: Any) -> dict[Any, Any]:
    """The rooms that a module's kernel keeps."""
    found: dict[Any, Any] = inspect.signature(made.run_kernel).parameters["kept"].default
    return found


def expected(x: Array) -> Array:
    return x * np.tanh(np.sin(x)) + np.sin(x)


@pytest.fixture(params=["grid", "lane"])
def emitted(request: pytest.FixtureRequest) -> Any:
    return module(plan(request.param))


def test_a_room_stays_and_is_taken_again(emitted: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal(100).astype(np.float32)
    first = emitted.run(x)[0]
    (room,) = kept(emitted).values()
    again = emitted.run(2 * x)[0]
    assert [t is s for t, s in zip(kept(emitted)[100], room)] == [True]
    np.testing.assert_array_equal(first, expected(x))
    np.testing.assert_array_equal(again, expected(2 * x))


def test_few_rooms_stay_and_none_that_is_large(emitted: Any) -> None:
    sizes = [*range(1, 3 * ROOMS), LONG, LONG + 1]
    for size in sizes:
        emitted.run(np.ones(size, np.float32))
        rooms = kept(emitted)
        assert len(rooms) <= ROOMS
        assert (size in rooms) == (size <= LONG)
        assert all(sum(t.nbytes for t in room) <= ROOM for room in rooms.values())


def test_a_call_within_a_call_has_a_room_of_its_own(emitted: Any, rng: np.random.Generator) -> None:
    """As of a handler of signals, which may run between any two operations."""
    x, other = rng.standard_normal((2, 50)).astype(np.float32)
    emitted.run(x)
    inside: list[Array] = []
    tanh = np.tanh

    def interrupted(*args: Array) -> Array:
        if not inside:
            inside.append(None)
            inside.append(emitted.run(other)[0])
        return tanh(*args)

    emitted.np = types.SimpleNamespace(**{k: getattr(np, k) for k in dir(np) if k[0] != "_"})
    emitted.np.tanh = interrupted
    np.testing.assert_array_equal(emitted.run(x)[0], expected(x))
    np.testing.assert_array_equal(inside[1], expected(other))


def test_an_error_loses_the_room_alone(emitted: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal(20).astype(np.float32)
    emitted.run(x)
    with pytest.raises(TypeError):
        emitted.run(x.astype(complex))
    assert kept(emitted) == {}
    np.testing.assert_array_equal(emitted.run(x)[0], expected(x))


def test_threads_in_one_function_at_one_size(rng: np.random.Generator) -> None:
    run: Callable[[Array], tuple[Array]] = module(plan()).run
    inputs = rng.standard_normal((6, 3000)).astype(np.float32)
    wanted, wrong = [run(x)[0] for x in inputs], []

    def work(k: int) -> None:
        wrong.extend(k for _ in range(100) if not np.array_equal(run(inputs[k])[0], wanted[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(inputs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_programs_make_their_own() -> None:
    """Each thread one as large as a block; none stays."""
    source = emit([layer_norm_backward().plan])
    assert "_room(" in source
    assert "kept" not in source
