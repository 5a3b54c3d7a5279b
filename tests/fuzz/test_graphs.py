"""Random graphs through the whole chain: emitted numpy, interpreted Triton and torch.autograd against the evaluator.

The evaluator computes node by node in float64; torch runs the same nodes under its own autograd. `TGC_FUZZ=20` runs
twenty times as many examples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

pytest.importorskip("torch")

import torch

from tests.support import chain, torch_walker
from tests.support.chain import Array, Numpy, Results
from tests.support.random_graphs import Case, equal, graphs
from tgc.calculus.reverse import joint, vjp
from tgc.errors import UnsupportedOpError
from tgc.ir import dtypes
from tgc.ir.evaluate import evaluate
from tgc.ir.nodes import Fold, Graph, Map, Put
from tgc.ir.text import print_graph

SCALE = int(os.environ.get("TGC_FUZZ", "1"))
pytestmark = pytest.mark.timeout(600 * SCALE)  # a failure is made small before it is shown


def examples(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=count * SCALE, suppress_health_check=checks)


def attempted(
    run: Callable[[], Results | list[Array]], graph: Graph
) -> Results | list[Array] | None:
    """What `run` returns; None where the graph holds something that is known not to be compiled yet."""
    try:
        return run()
    except UnsupportedOpError:
        unfinished = any(
            isinstance(v, Put) or (isinstance(v, Fold) and v.mode == "scan") for v in graph.nodes()
        )
        assert unfinished, "a graph of supported operations was refused"
        hypothesis.event("refused: a scan or a scatter")
        return None


def shown(case: Case) -> Graph:
    """The graph; its text stands in the report of a failure, ready for test_found.py."""
    hypothesis.note(f"{print_graph(case.graph)}\nshapes: {[a.shape for a in case.arrays]}")
    return case.graph


def targets(graph: Graph) -> tuple[int, ...]:
    return tuple(range(len(graph.inputs)))


def reference(graph: Graph, arrays: Sequence[Array], seeds: Sequence[Array]) -> Results:
    """Outputs and cotangents by the evaluator, each node in float64 and rounded to its type."""
    found = evaluate(joint(graph, targets(graph)), [*arrays, *seeds], None)
    split = len(graph.outputs)
    return Results(found[:split], dict(enumerate(found[split:])))


def check(got: Results, want: Results, tolerance: float = 1e-9) -> None:
    assert equal(got.outputs, want.outputs, tolerance)
    for i, cotangent in want.cotangents.items():
        if i in got.cotangents:
            assert equal([got.cotangents[i]], [cotangent], tolerance), f"cotangent of input {i}"
        else:
            assert not cotangent.any(), f"input {i} has a derivative"


def by_autograd(graph: Graph, arrays: Sequence[Array], seeds: Sequence[Array]) -> dict[int, Array]:
    """Cotangents of the inputs by torch.autograd; of inputs without one, nothing."""
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    outputs = torch_walker.run(graph, leaves)
    return _cotangents(outputs, leaves, seeds)


def _cotangents(outputs: list, leaves: list, seeds: Sequence[Array]) -> dict[int, Array]:
    pairs = [(o, torch.tensor(s)) for o, s in zip(outputs, seeds) if o.requires_grad]
    if not pairs:
        return {}
    roots, given_seeds = zip(*pairs)
    found = torch.autograd.grad(roots, leaves, given_seeds, allow_unused=True)
    return {i: f.numpy() for i, f in enumerate(found) if f is not None}


def agrees_with_torch(got: Results, want: dict[int, Array]) -> None:
    """Equal wherever torch has a finite number (where it has none, as at sqrt(0)², a number will do)."""
    for i, cotangent in want.items():
        mine = got.cotangents.get(i, np.zeros_like(cotangent))
        here = np.isfinite(cotangent)
        assert equal([mine[here]], [cotangent[here]], 1e-8), f"cotangent of input {i}"


def through(
    case: Case, arrays: Sequence[Array], engine: type[chain.Engine], **options: Any
) -> None:
    """Outputs and first gradients by an engine, against the evaluator."""
    graph = shown(case)
    seeds = chain.seeds_for(graph, arrays, np.random.default_rng(0))
    got = attempted(
        lambda: chain.pair(graph, targets(graph), arrays, seeds, engine, **options),
        joint(graph, targets(graph)),
    )
    if isinstance(got, Results):
        check(got, reference(graph, arrays, seeds))


@examples(150)
@given(graphs())
def test_numpy_value_and_gradient(case: Case) -> None:
    through(case, case.arrays, Numpy)


@examples(100)
@given(graphs(size=9))
def test_numpy_beyond_a_block(case: Case) -> None:
    sizes = {"n": 11, "m": 19}
    through(case, chain.sizes_like(case.graph, case.arrays, sizes, np.random.default_rng(4)), Numpy)


@examples(60)
@given(graphs(size=10))
def test_native_value_and_gradient(case: Case) -> None:
    through(case, case.arrays, chain.Native)


@examples(40)
@given(graphs(size=9))
def test_native_beyond_a_vector(case: Case) -> None:
    sizes = {"n": 11, "m": 35}
    arrays = chain.sizes_like(case.graph, case.arrays, sizes, np.random.default_rng(4))
    through(case, arrays, chain.Native)


@examples(60)
@given(case=graphs(size=10))
def test_interpreted_triton_value_and_gradient(case: Case, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    through(case, case.arrays, chain.Triton, folder=tmp_path)


@examples(100)
@given(graphs(special=True, dtype=dtypes.float32))
def test_numpy_keeps_special_values(case: Case) -> None:
    """NaN, infinities and overflow come out where IEEE puts them."""
    # What an integer made of NaN is, nobody says.
    assume(not any(v.dtype.kind == "int" and v.args[0].dtype.is_float for v in casts(case.graph)))
    with np.errstate(all="ignore"):
        got = attempted(lambda: chain.value(shown(case), case.arrays, Numpy), case.graph)
        want = evaluate(case.graph, case.arrays, None)
    if isinstance(got, list):
        assert [g.dtype for g in got] == [w.dtype for w in want]
        assert equal(got, want, 1e-4)


def casts(graph: Graph) -> list[Map]:
    return [v for v in graph.nodes() if isinstance(v, Map) and v.op == "cast"]


@examples(100)
@given(graphs(smooth=True, size=8))
def test_first_gradient_as_torch_has_it(case: Case) -> None:
    graph = shown(case)
    seeds = chain.seeds_for(graph, case.arrays, np.random.default_rng(1))
    got = attempted(lambda: chain.pair(graph, targets(graph), case.arrays, seeds, Numpy), graph)
    assert isinstance(got, Results)
    agrees_with_torch(got, by_autograd(graph, case.arrays, seeds))


@examples(80)
@given(graphs(smooth=True, size=5))
def test_second_gradient_as_torch_has_it(case: Case) -> None:
    """The gradient's own training pair: its values, and its cotangents, against double backward."""
    rng = np.random.default_rng(2)
    first = vjp(shown(case), targets(case.graph))
    arrays = [*case.arrays, *chain.seeds_for(case.graph, case.arrays, rng)]
    seeds = chain.seeds_for(first, arrays, rng)
    got = attempted(lambda: chain.pair(first, targets(first), arrays, seeds, Numpy), first)
    assert isinstance(got, Results)
    check(got, reference(first, arrays, seeds), 1e-8)

    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    inputs, cotangents = leaves[: len(case.arrays)], leaves[len(case.arrays) :]
    outputs = torch_walker.run(case.graph, inputs)
    pairs = [(o, c) for o, c in zip(outputs, cotangents) if o.requires_grad]
    roots, given_seeds = zip(*pairs)
    found = torch.autograd.grad(roots, inputs, given_seeds, create_graph=True, allow_unused=True)
    kept = [(f, s) for f, s in zip(found, seeds) if f is not None]
    agrees_with_torch(got, _cotangents([f for f, _ in kept], leaves, [s for _, s in kept]))
