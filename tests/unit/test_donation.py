"""Donated arguments: results in their memory, on both backends; hazards end in a copy, and misuse in an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tgc
from tests.support import chain
from tgc.errors import MutationError, UnsupportedOpError, VerifyError
from tgc.ir.nodes import Graph
from tgc.kernel.evaluate import evaluate_plan
from tgc.kernel.ir import Plan
from tgc.kernel.parse import parse_plan
from tgc.kernel.text import print_plan
from tgc.kernel.verify import verify
from tgc.pipeline import Pipeline
from tgc.schedule.target import Target
from tgc.trace.run import trace

N, M = 6, 5


def arrays(count: int, shape: tuple[int, ...] = (N, M)) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.uniform(0.5, 2.0, shape) for _ in range(count)]


def adamw(p: Any, m: Any, v: Any, g: Any) -> Any:
    m = 0.9 * m + 0.1 * g
    v = 0.99 * v + 0.01 * g * g
    return p - 0.1 * (m / (tgc.sqrt(v) + 1e-8) + 0.01 * p), m, v


def momentum(p: Any, m: Any, g: Any) -> Any:
    m = 0.9 * m + g
    return p - 0.1 * m, m


# (function, how many arguments are donated, how many there are, whether kernels may store in all of them)
CASES: dict[str, tuple[Callable[..., Any], int, int, bool]] = {
    "adamw": (adamw, 3, 4, True),
    "momentum": (momentum, 2, 3, True),
    "a single operation": (lambda p, g: p + g, 1, 2, True),
    "not read": (lambda p, g: g * 2 + 1, 1, 2, True),
    "selected": (lambda p, g: tgc.where(g > 1, p, g), 1, 2, True),
    "selected the other way": (lambda p, g: tgc.where(p > 1, g, p), 1, 2, True),
    "exchanged": (lambda p, q: (q * 2, p * 3), 2, 2, False),
    "exchanged, both in each": (lambda p, q: (p - q, p * q), 2, 2, True),
    "a row broadcast": (lambda p, g: p + p[:1] * g, 1, 2, False),
    "flipped": (lambda p, g: tgc.flip(p, (0,)) * g, 1, 2, False),
    "shifted": (lambda p, g: tgc.concat([p[1:], g[:1]]) * 2, 1, 2, False),
    "a fold": (lambda p, g: p / p.sum(-1, keepdims=True) + g, 1, 2, False),
    "normalised by all": (lambda p, g: p / tgc.sqrt((p * p).sum()) + g, 1, 2, True),
    "a fold of the old": (lambda p, g: (p - g, (p * g).sum()), 1, 2, False),
    "the old one too": (lambda p, g: (p - g, tgc.reshape(p, (-1,))), 1, 2, False),
    "twice": (lambda p, g: (p - g, p - g), 1, 2, True),
    "as it came": (lambda p, g: (p, p * g), 1, 2, True),
}


def traced(case: str) -> tuple[Any, list[np.ndarray], Callable[..., Any], int]:
    function, donated, count, _ = CASES[case]
    names = ("a", "b", "c", "d")[:count]
    call = eval(f"lambda {', '.join(names)}: f({', '.join(names)})", {"f": function})
    values = arrays(count)
    return trace(call, values, donate_argnames=names[:donated]), values, call, donated


def plan_of(graph: Graph, hints: dict[str, int], target: Target) -> Plan:
    plan = Pipeline().plan(graph, target, hints)
    verify(plan)
    assert parse_plan(print_plan(plan)) == plan
    return plan


def flat(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", ["numpy", "native", "triton"])
def test_results_take_the_memory_of_donated_arguments(
    backend: str, case: str, tmp_path: Path
) -> None:
    found, values, call, _ = traced(case)
    want = flat(tgc.jit(call)(*[v.copy() for v in values]))
    kinds: dict[str, Any] = {
        "numpy": chain.Numpy,
        "native": chain.Native,
        "triton": chain.Triton,
    }
    kind = kinds[backend]
    plan = plan_of(found.graph, found.hints, kind.target)
    assert all(plan.buffer(o).alias == g for g, o in plan.writes) == CASES[case][3]
    given = [v.copy() for v in values]
    if backend != "triton":
        module = kind(plan).module
        got = list(getattr(module, plan.name)(*given))
        kept = [g for g in given if any(g is r for r in got)]
        assert len(kept) == len(plan.writes)
    else:
        pytest.importorskip("triton")
        got = chain.Triton(plan, folder=tmp_path)(plan, given)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_the_caller_holds_the_result(kind: str, case: str) -> None:
    function, donated, count, _ = CASES[case]
    _, values, call, _ = traced(case)
    want = flat(tgc.jit(call)(*[v.copy() for v in values]))
    compiled = tgc.jit(call, donate_argnames=("a", "b", "c", "d")[:donated])
    copies = [v.copy() for v in values]
    given = [torch.from_numpy(c) for c in copies] if kind == "torch" else copies
    got = flat(compiled(*given))
    held = [g for g in given if any(g is r for r in got)]
    assert len(held) == donated
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-12)
    for value, copy in zip(values[donated:], copies[donated:]):
        np.testing.assert_array_equal(value, copy)
    if kind == "torch" and case == "adamw":
        assert [g._version for g in given] == [1, 1, 1, 0]


def test_large_arrays_in_blocks_and_rows() -> None:
    for shape in ((200_000,), (300, 1000), (3, 70_000)):
        values = arrays(4, shape)
        want = adamw(*values)
        step = tgc.jit(adamw, donate_argnames=("p", "m", "v"))
        given = [v.copy() for v in values]
        for got, expected, memory in zip(step(*given), want, given):
            assert got is memory
            np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_trees_are_donated_leaf_by_leaf() -> None:
    @tgc.jit(donate_argnames=("state",))
    def step(state: Any, g: Any) -> Any:
        count = state["count"] + 1
        return {"count": count, "p": [p - g[k] / count for k, p in enumerate(state["p"])]}

    p, g = arrays(2, (4,)), arrays(2, (4,))
    state = {"count": 0, "p": [x.copy() for x in p]}
    memory = state["p"]
    for k in range(3):
        state = step(state, g)
        assert state["count"] == k + 1 and all(a is b for a, b in zip(state["p"], memory))
    np.testing.assert_allclose(memory[0], p[0] - g[0] * (1 + 1 / 2 + 1 / 3))


def test_a_step_is_one_kernel_that_moves_each_array_once() -> None:
    found = trace(adamw, arrays(4), donate_argnames=("p", "m", "v"))
    plan = plan_of(found.graph, found.hints, chain.TINY)
    assert len(plan.kernels) == 1
    (moves,) = evaluate_plan(plan, arrays(4)).moves
    assert sum(moves.reads.values()) == 4 * N * M and sum(moves.writes.values()) == 3 * N * M


# --- refusals -------------------------------------------------------------------------------------------------------


@tgc.jit(donate_argnames="p")
def descend(p: Any, g: Any) -> Any:
    return p - g


def test_shared_memory_is_refused() -> None:
    base = np.arange(10.0)
    t = torch.arange(10.0)
    for p, g in ((base, base), (base[:5], base[4:9]), (t, t), (t[:5], t[4:9])):
        with pytest.raises(MutationError, match="share memory") as caught:
            descend(p, g)
        assert caught.value.line is not None and caught.value.line.file == __file__
    np.testing.assert_array_equal(base, np.arange(10.0))
    assert descend(base[:5], base[5:]) is not None  # apart
    np.testing.assert_array_equal(base[:5], -5.0)


def test_each_call_of_arrays_with_memory_of_their_own_is_checked() -> None:
    """They need no comparison, but the same array twice, a view beside it, or one made read-only do."""
    p, g = np.arange(6.0), np.ones(6)
    for _ in range(3):
        descend(p, g)
    np.testing.assert_array_equal(p, np.arange(6.0) - 3)
    for other in (p, p[:], p[::-1][::-1]):
        with pytest.raises(MutationError, match="share memory"):
            descend(p, other)
    p.flags.writeable = False
    with pytest.raises(MutationError, match="read-only"):
        descend(p, g)
    np.testing.assert_array_equal(p, np.arange(6.0) - 3)


def test_arrays_the_kernels_would_copy_are_refused() -> None:
    read_only = np.ones(4)
    read_only.flags.writeable = False
    for p, match in (
        (np.ones((4, 4)).T[:, :2], "contiguous"),
        (torch.ones(4, 4).T[:, :2], "contiguous"),
        (read_only, "read-only"),
    ):
        with pytest.raises(MutationError, match=match):
            descend(p, np.ones(p.shape) if isinstance(p, np.ndarray) else torch.ones(p.shape))


def test_gradients_are_refused_outside_no_grad() -> None:
    p, g = torch.ones(3, requires_grad=True), torch.ones(3)
    for values in ((p, g), (torch.ones(3), torch.ones(3, requires_grad=True))):
        with pytest.raises(MutationError, match="no_grad"):
            descend(*values)
    with torch.no_grad():
        assert descend(p, g) is p
    assert p.requires_grad and p.is_leaf and (p == 0).all()


def test_autograd_sees_the_change() -> None:
    w = torch.ones(3, requires_grad=True)
    loss = (w * w).sum()
    with torch.no_grad():
        descend(w, torch.ones(3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_memory_that_no_result_takes_is_refused() -> None:
    for function in (
        lambda p, g: (p - g).sum(),
        lambda p, g: (p - g).astype(np.float32),
        lambda p, g: g,
    ):
        with pytest.raises(MutationError, match="no result takes the memory"):
            tgc.jit(function, donate_argnames=("p",))(np.ones(3), np.ones(3))


def test_a_swap_is_refused() -> None:
    def swap(p: Any, q: Any) -> Any:
        return q * 1.0, p - 1

    with pytest.raises(UnsupportedOpError, match="unchanged"):
        tgc.jit(swap, donate_argnames=("p", "q"))(np.ones(3), np.ones(3))


def test_the_verifier_knows_what_may_be_overwritten() -> None:
    found, *_ = traced("flipped")
    plan = plan_of(found.graph, found.hints, chain.TINY)

    def aliased(buffer: Any) -> Any:
        return replace(buffer, alias="a") if buffer.name == plan.outputs[0] else buffer

    (step,) = plan.steps
    kernel = replace(step.kernel, buffers=tuple(map(aliased, step.kernel.buffers)))  # type: ignore[union-attr]
    wrong = replace(
        plan, buffers=tuple(map(aliased, plan.buffers)), steps=(replace(step, kernel=kernel),)
    )
    with pytest.raises(VerifyError, match="overwrites"):
        verify(wrong)


@pytest.mark.parametrize("option", ["donate_argnames", "static_argnames"])
def test_a_name_the_function_does_not_have(option: str) -> None:
    with pytest.raises(ValueError, match="no argument 'q': it has p"):
        tgc.jit(lambda p: p * 2, **{option: ("q",)})
