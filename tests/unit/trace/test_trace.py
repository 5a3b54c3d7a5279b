"""The trace itself: inputs and their names, sizes and assumptions, captures, gradients, results."""

from __future__ import annotations

import threading
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.support.tracing import check, run
from tgc import trees
from tgc.errors import ShapeError, TraceError
from tgc.ir.nodes import Leaf
from tgc.trace.abstract import Abstract, spec
from tgc.trace.guards import bind, hold
from tgc.trace.run import Traced, trace

torch = pytest.importorskip("torch")
F = torch.nn.functional


def dims(traced: Traced) -> list[tuple[str, ...]]:
    return [tuple(map(str, a.shape)) for a in traced.abstracts]


# --- inputs ---------------------------------------------------------------------------------------


@dataclass
class Layer:
    weight: Any
    name: str


Pair = namedtuple("Pair", ["first", "second"])


def test_inputs_are_the_array_leaves_in_order() -> None:
    def f(x: Any, params: Any, *rest: Any, scale: Any = 2.0, flag: bool = True) -> Any:
        return x * params["w"] + params["b"][0].weight + rest[0] + scale

    one = torch.ones(3)
    params = {"w": one, "b": [Layer(torch.ones(3), "a"), Pair(1.5, None)]}
    traced = trace(f, (one, params, torch.ones(3)), {"scale": 3, "flag": False})
    names = [a.name for a in traced.abstracts]
    assert names == ["x", "params_w", "params_b_0_weight", "params_b_1_first", "rest_0", "scale"]
    leaves, _ = trees.flatten(((one, params, torch.ones(3)), {"scale": 3, "flag": False}))
    assert [leaves[p] is v for p, v in zip(traced.places, traced.values)] == [True] * 4 + [
        False,
        True,
    ]
    assert [a.container for a in traced.abstracts] == ["torch"] * 3 + ["scalar", "torch", "scalar"]
    assert traced.graph.name == "f"


def test_static_arguments_are_seen_as_they_are() -> None:
    def f(x: Any, n: int, mode: str) -> Any:
        return sum(x * i for i in range(n)) if mode == "sum" else x

    traced = trace(f, (torch.ones(3), 3, "sum"), static_argnames=("n",))
    assert [a.name for a in traced.abstracts] == ["x"]
    np.testing.assert_array_equal(run(traced)[0], [3, 3, 3])


def test_numbers_are_weakly_typed_inputs() -> None:
    traced = trace(lambda x, lr: x * lr, (torch.ones(3), 0.1))
    assert traced.abstracts[1] == Abstract("lr", traced.abstracts[1].dtype, (), "scalar")
    assert traced.abstracts[1].dtype.name == "float64"
    assert traced.graph.outputs[0].dtype.name == "float32"
    check(lambda x, n: x / n + n, torch.arange(3), 4)
    check(lambda x, lr: x - lr * lr, np.float32([1, 2]), 0.5)
    traced = trace(lambda n: n / 2, (3,))
    assert (traced.out_containers, traced.graph.outputs[0].dtype.name) == (("scalar",), "float64")


def test_specs_have_their_own_symbols() -> None:
    traced = trace(lambda x, w: x @ w, (spec("bf16[4096,n]"), spec("bf16[n,n_out]")))
    assert dims(traced) == [("4096", "n"), ("n", "n_out")]
    assert [str(d) for d in traced.graph.outputs[0].shape] == ["4096", "n_out"]
    assert set(traced.hints) == {"n", "n_out"}
    assert trace(lambda n: n + 1, (spec("f32[n]"),)).abstracts[0].name != "n"
    assert spec("f32[]").dims == () and repr(spec(" i64[ 3, k ]")) == 'spec("i64[3,k]")'
    assert spec("f32[2]") == spec("float32[2,]") and hash(spec("f32[2]")) == hash(spec("f32[2]"))


def test_input_names_are_unique_identifiers() -> None:
    held = torch.ones(3)

    def f(held_: Any, n: Any) -> Any:
        return held_["a b"] + held_["a_b"] + n + held

    one = torch.ones(3)
    traced = trace(f, ({"a b": one, "a_b": one * 2}, one * 3))
    names = [a.name for a in traced.abstracts]
    assert len(set(names)) == 4 and all(n.isidentifier() for n in names)
    assert not set(names) & set(traced.hints)


# --- sizes ----------------------------------------------------------------------------------------


def test_equal_extents_share_a_symbol_and_small_ones_are_numbers() -> None:
    args = (torch.ones(5, 7, 1), torch.ones(7, 0), torch.ones(5, 5))
    traced = trace(lambda x, y, z: (x, y, z), args)
    assert dims(traced) == [("n", "m", "1"), ("m", "0"), ("n", "n")]
    assert traced.hints == {"n": 5, "m": 7}
    assert bind(traced.abstracts, [(8, 9, 1), (9, 0), (8, 8)]) == {"n": 8, "m": 9}
    assert bind(traced.abstracts, [(8, 8, 1), (8, 0), (8, 8)]) == {"n": 8, "m": 8}
    for wrong in (
        [(8, 9, 2), (9, 0), (8, 8)],
        [(8, 9, 1), (9, 1), (8, 8)],
        [(8, 9, 1), (9, 0), (8, 7)],
    ):
        assert bind(traced.abstracts, wrong) is None
    assert bind(traced.abstracts, [(1, 9, 1), (9, 0), (1, 1)]) is None


def traced_for(function: Any, shape: tuple[int, ...], *others: tuple[int, ...]) -> Traced:
    traced = trace(function, (torch.ones(shape),))
    for other in others:
        sizes = bind(traced.abstracts, [other])
        assert sizes is not None and hold(traced.assumptions, sizes), (other, traced.assumptions)
    return traced


def refused(traced: Traced, *shapes: tuple[int, ...]) -> None:
    for shape in shapes:
        sizes = bind(traced.abstracts, [shape])
        assert sizes is None or not hold(traced.assumptions, sizes), shape


def test_arithmetic_of_sizes_assumes_nothing() -> None:
    def f(x: Any) -> Any:
        n, m = x.shape
        assert n > 0 and m != 1 and n + m >= 4 and len(x.shape) == 2 and x.ndim == 2
        return x.reshape(n * m) * (n * m - 1) / n + x.size(1) ** 0.5 + x.numel() // 2 + n % 2

    traced = traced_for(f, (3, 4), (30, 2), (5, 5))
    assert traced.assumptions == ()
    check(f, torch.randn(3, 4, dtype=torch.float64))


def test_looking_at_a_size_is_an_assumption() -> None:
    def f(x: Any) -> Any:
        return x.sum() if x.shape[0] > 10 else x.mean()

    traced = traced_for(f, (3, 4), (9, 4), (10, 2))
    refused(traced, (11, 4))
    assert [str(s) + r + str(v) for s, r, v in traced.assumptions] == ["n<=10"]
    traced = traced_for(lambda x: [x * i for i in range(x.shape[1])], (3, 4), (7, 4))
    refused(traced, (3, 5))
    traced = traced_for(lambda x: x if x.shape[0] % 2 else -x, (3, 4), (5, 4), (7, 8))
    refused(traced, (4, 4))
    traced = traced_for(lambda x: x * len(x), (3, 4), (3, 9))
    refused(traced, (4, 4))
    traced = traced_for(lambda x: x if x.shape[0] < 2.5 * x.shape[1] else -x, (3, 4), (3, 4))


def test_slices_assume_where_they_are_clamped() -> None:
    traced = traced_for(lambda x: x[2:5], (9,), (5,), (6,))
    refused(traced, (4,))
    traced = traced_for(lambda x: x[2:5], (4,), (4,), (2,))
    refused(traced, (6,))
    traced = traced_for(lambda x: x[-3], (9,), (3,))
    refused(traced, (2,))
    assert traced_for(lambda x: x[-1] + x[0] + x[1], (9,), (2,)).assumptions == ()


def test_sizes_that_must_be_equal_become_one() -> None:
    def f(x: Any, y: Any) -> Any:
        return x[1:] + y

    traced = trace(f, (torch.ones(5), torch.ones(4)))
    assert bind(traced.abstracts, [(8,), (7,)]) is not None
    assert bind(traced.abstracts, [(8,), (8,)]) is None
    check(f, torch.randn(5), torch.randn(4))
    traced = trace(lambda x: x.view(4, -1), (torch.ones(12, 3),))
    assert dims(traced)[0][1] == "k" or traced.abstracts[0].shape[0] == 12
    assert bind(traced.abstracts, [(12, 3)]) is not None


def test_a_derived_extent_of_one_broadcasts() -> None:
    def f(x: Any, y: Any) -> Any:
        return x[1:] + y

    traced = check(f, torch.randn(2), torch.randn(4))
    assert traced.abstracts[0].shape == (2,)


@pytest.mark.parametrize("shape", [(8, 6), (3, 10)])
def test_halves_of_an_axis(shape: tuple[int, int]) -> None:
    def rotate(x: Any) -> Any:
        d = x.shape[-1]
        first, second = x[..., : d // 2], x[..., d // 2 :]
        return torch.cat([-second, first], -1) + first.repeat(1, 2)

    check(rotate, torch.randn(shape))


def test_heads_of_attention() -> None:
    def f(x: Any) -> Any:
        b, t, c = x.shape
        q = x.view(b, t, 4, c // 4).transpose(1, 2)
        scores = q @ q.transpose(-2, -1) * (1.0 / (c // 4) ** 0.5)
        return (scores.softmax(-1) @ q).transpose(1, 2).contiguous().view(b, t, c)

    check(f, torch.randn(2, 5, 12))


def test_symbolic_sizes_print_and_hash() -> None:
    seen: list[str] = []

    def f(x: Any) -> Any:
        n = x.shape[0]
        seen.append(f"{n} {n * 2 + 1} {x.shape.numel()}")
        return x * {3: 2.0}[n] + divmod(n, 2)[1] + max(n, 2) + abs(-n) + (7 - n) + 2**n + 10 // n

    check(f, torch.randn(3, 4))
    assert seen[-1] == "n 2*n + 1 m*n"


def test_unrolling_a_short_axis_fixes_it() -> None:
    def f(x: Any) -> Any:
        q, k, v = x
        return q @ k.T @ v

    traced = check(f, torch.randn(3, 4, 4))
    assert hold(traced.assumptions, {"n": 3, "m": 4})
    assert not hold(traced.assumptions, {"n": 4, "m": 4})


# --- captures -------------------------------------------------------------------------------------

GLOBAL_WEIGHT = torch.arange(3.0)


class Affine(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(4, 3)
        self.gain = torch.nn.Parameter(torch.ones(3))
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x: Any) -> Any:
        return self.inner(x) * self.gain + self.shift


def test_modules_are_captured_parameter_by_parameter() -> None:
    module = Affine()
    traced = check(lambda x: module(x), torch.randn(2, 4))
    assert [a.name for a in traced.abstracts] == [
        "x",
        "module_inner_weight",
        "module_inner_bias",
        "module_gain",
        "module_shift",
    ]
    assert traced.captured[0] is module.inner.weight
    assert [a.requires_grad for a in traced.abstracts] == [False, True, True, True, False]
    assert traced.out_requires_grad == (True,)
    check(module, torch.randn(2, 4))


def test_captures_are_named_and_unique() -> None:
    local = torch.ones(3)
    array = np.ones(3)
    traced = trace(lambda x: x + local * GLOBAL_WEIGHT + local, (torch.ones(3),))
    assert [a.name for a in traced.abstracts[1:]] == ["local", "GLOBAL_WEIGHT"]
    traced = trace(lambda x: x + array + np.ones(3) + np.float64(2), (np.ones(3),))
    assert [a.name for a in traced.abstracts[1:]] == ["array", "captured_1"]


def test_operations_on_captured_tensors_alone_are_traced() -> None:
    weight = torch.nn.Parameter(torch.ones(3))

    def f(x: Any) -> Any:
        scaled = weight * 2
        return x + torch.exp(scaled) + F.relu(weight) + (1 - weight) + weight[0] + weight.shape[0]

    traced = check(f, torch.randn(3))
    assert traced.captured == (weight,) or traced.captured[0] is weight
    assert len(traced.captured) == 1


def test_an_argument_met_as_a_capture_is_the_argument() -> None:
    weight = torch.ones(3)
    traced = trace(lambda w: w + weight, (weight,))
    assert len(traced.abstracts) == 1


def test_captured_results_are_outputs() -> None:
    weight = torch.ones(3)
    traced = trace(lambda x: (x + 1, weight), (torch.ones(3),))
    assert traced.graph.outputs[1] is traced.graph.inputs[1]


# --- results --------------------------------------------------------------------------------------


def test_results_keep_their_structure() -> None:
    def f(x: Any) -> Any:
        return {"a": [x + 1, None], "b": Pair(2, "text"), "c": x.shape[0]}

    traced = trace(f, (torch.ones(3),))
    assert trees.unflatten(traced.out_tree, ["y"]) == {
        "a": ["y", None],
        "b": Pair(2, "text"),
        "c": 3,
    }
    assert traced.out_containers == ("torch",)
    assert trace(lambda x: 3, (torch.ones(3),)).graph.outputs == ()


def test_containers_follow_the_arguments() -> None:
    assert trace(lambda x: np.exp(x) + 1, (np.ones(3),)).out_containers == ("numpy",)
    assert trace(lambda x: x * 2, (spec("f32[n]"),)).out_containers == ("spec",)
    assert trace(lambda x: torch.ones(2), (3.0,)).out_containers == ("torch",)


def test_aliases_name_the_viewed_input() -> None:
    traced = trace(lambda x, y: (x, x.T, x + y, y[0]), (torch.ones(3, 3), torch.ones(3, 3)))
    x, y = traced.graph.inputs
    assert traced.graph.aliases == ((0, x), (1, x), (3, y))


def test_nodes_are_named_after_local_variables() -> None:
    def f(x: Any) -> Any:
        shifted = x - x.mean()
        result = shifted * 2
        return result

    traced = trace(f, (torch.ones(3),))
    assert traced.graph.builder.names[traced.graph.outputs[0]] == "result"
    assert "shifted" in traced.graph.builder.names.values()
    assert {n.line.text for n in traced.graph.nodes() if not isinstance(n, Leaf) and n.line} == {
        "shifted = x - x.mean()",
        "result = shifted * 2",
    }


# --- gradients and modes --------------------------------------------------------------------------


def leaf(*shape: int) -> Any:
    return torch.ones(shape, requires_grad=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2,
        lambda x: x.detach() * 2,
        lambda x: x * x.detach(),
        lambda x: x.floor(),
        lambda x: (x > 0, x.argmax(), x.long()),
        lambda x: (x.max(0).values, x.max(0).indices),
        lambda x: torch.ones(3) + 1,
        lambda x: x.data,
    ],
)
def test_requires_grad_is_torchs(function: Any) -> None:
    flat, _ = trees.flatten(function(leaf(3)))
    expected = [e for v in flat for e in (v if isinstance(v, tuple) else (v,))]
    traced = trace(function, (leaf(3),))
    assert list(traced.out_requires_grad) == [v.requires_grad for v in expected]


def test_no_grad_inside_detaches() -> None:
    def f(x: Any) -> Any:
        with torch.no_grad():
            frozen = x * 2
        return frozen, frozen * x, x.requires_grad, frozen.requires_grad

    traced = trace(f, (leaf(3),))
    assert traced.out_requires_grad == (False, True)
    assert trees.unflatten(traced.out_tree, [0, 1]) == (0, 1, True, False)


def test_under_no_grad_nothing_requires_a_gradient() -> None:
    with torch.no_grad():
        traced = trace(lambda x: x * 2, (leaf(3),))
    assert traced.out_requires_grad == (False,)
    assert all(getattr(n, "op", "") != "stop_gradient" for n in traced.graph.nodes())


# --- writes into temporaries ----------------------------------------------------------------------


def accumulate(x: Any) -> Any:
    out = torch.zeros(3)
    out += x
    out.mul_(2).add_(1)
    return out


def assign(x: Any) -> Any:
    z = x.clone()
    z[0] = 5.0
    z[1:, ::2] = x[1:, 1::2]
    z[:, -1] += 1
    z[x > 1] = 0.0
    return z


def overwrite(x: Any) -> Any:
    z = torch.zeros_like(x)
    z[...] = x
    z[None, 0, 1:3] = 7
    return z.clamp_(max=3).relu_()


def overwrite_every_other(x: Any) -> Any:
    z = x.clone()
    z[::2] *= 2
    return z


def test_temporaries_may_be_written() -> None:
    check(accumulate, torch.randn(3))
    check(assign, torch.randn(3, 4))
    check(overwrite, torch.randn(3, 4))
    check(overwrite_every_other, torch.randn(5))
    check(overwrite_every_other, torch.randn(0))
    check(lambda x: F.relu(x * 1, inplace=True), torch.randn(3))
    check(lambda x: (x * 1).copy_(x[0]), torch.randn(3, 4))
    check(lambda x: torch.empty_like(x).fill_(2).zero_(), torch.randn(3))


def through_views(x: Any) -> Any:
    z = torch.zeros(4, 3)
    row, columns = z[1], z.T
    row += x
    columns[2].mul_(3).sub_(1)
    z.view(-1)[0] = 9
    z[2:, 1:][0, 0] += 4
    kept = row.clone()
    z.zero_()
    return z + 1, row, columns, kept, columns[0]


def test_views_see_what_is_written_through_others() -> None:
    check(through_views, torch.randn(3))

    def swap(x: Any) -> Any:
        z = x * 1
        first = z[0].clone()
        z[0], z[1] = z[1], first
        return z

    check(swap, torch.randn(2, 3))


def numpy_assign(x: np.ndarray[Any, Any]) -> Any:
    z = np.zeros_like(x)
    z[1:] = x[:-1]
    z[::-2] = 2
    total = x.sum()
    total += 1
    return z, total


def test_numpy_temporaries_may_be_written() -> None:
    check(numpy_assign, np.arange(6.0))


# --- state ----------------------------------------------------------------------------------------


def test_threads_trace_apart() -> None:
    found: dict[int, list[float]] = {}

    def work(number: int) -> None:
        for _ in range(5):
            traced = trace(lambda x: torch.exp(x) * number + x.sum(), (torch.ones(3 + number),))
            found[number] = [float(v) for v in run(traced)[0]]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, values in found.items():
        assert values == pytest.approx([np.e * number + 3 + number] * (3 + number))


def test_a_leaked_tracer_cannot_be_used() -> None:
    leaked: list[Any] = []
    trace(lambda x: leaked.append(x), (torch.ones(3),))
    with pytest.raises(TraceError, match="after the function returned"):
        leaked[0] + 1


def test_a_symbol_may_come_with_a_typical_extent() -> None:
    traced = trace(lambda x, y: x + y, (spec("f32[n=1000000]"), spec("f32[n]")), {})
    assert traced.hints == {"n": 1000000}
    with pytest.raises(ShapeError, match="n=x"):
        spec("f32[n=x]")
