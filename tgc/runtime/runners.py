"""Runners: a program prepared for one exact type of call, from the call's leaves to the user's result.

Everything that can be decided beforehand is: which leaves are inputs, which must be copied because they are not
contiguous, which host function serves these sizes, and how the results become the tree the user's function returns.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tgc import trees
from tgc.ir.nodes import Graph, Leaf, Node
from tgc.runtime import autograd, seeds
from tgc.runtime.program import Program, bind
from tgc.runtime.tensors import into_numpy, is_tensor, target_of

Runner = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True)
class Results:
    """How the user's result is made.

    Per leaf of `tree`: ("output", j) of the program, or input i as it came, ("input", i), or copied, ("copy", i).
    Per output of the program: whether it is a "torch" tensor, a "numpy" array or a "scalar", a Python number.
    """

    tree: trees.TreeDef
    leaves: tuple[tuple[str, int], ...]
    containers: tuple[str, ...]

    @property
    def is_single(self) -> bool:
        return self.tree == trees.LEAF and self.leaves == (("output", 0),)

    @property
    def is_flat(self) -> bool:
        """Whether the result is a tuple of the program's outputs, in order."""
        count = len(self.leaves)
        return self.tree == trees.flat(count) and self.leaves == tuple(
            ("output", j) for j in range(count)
        )


def separate(
    graph: Graph, tree: trees.TreeDef, containers: Sequence[str]
) -> tuple[tuple[Node, ...], Results]:
    """The outputs that must be computed, each once, and how the result is made of them and of inputs passed through.

    An input that is returned is the argument itself, as in the plain function.
    """
    same = {k for k, leaf in graph.aliases if graph.outputs[k] is leaf}
    computed: dict[tuple[Node, str], int] = {}
    leaves: list[tuple[str, int]] = []
    for k, node in enumerate(graph.outputs):
        if isinstance(node, Leaf) and node in graph.inputs:
            leaves.append(("input" if k in same else "copy", graph.inputs.index(node)))
        else:
            place = computed.setdefault((node, containers[k]), len(computed))
            leaves.append(("output", place))
    kinds = tuple(container for _, container in computed)
    return tuple(node for node, _ in computed), Results(tree, tuple(leaves), kinds)


def runner_of(
    program: Program,
    inputs: Sequence[int],
    results: Results,
    leaves: Sequence[Any],
    container: str,
    backend: str | None,
    *,
    draws: bool = False,
) -> Runner:
    """A runner for calls whose leaves are of exactly these types; `draws` if a seed is to be bound behind them."""
    values = [leaves[i] for i in inputs]
    pick = _picker(inputs, len(leaves))
    if draws:
        values.append(0)
        pick = _seeded(pick, seeds.of_torch if container == "torch" else seeds.of_numpy)
    if container == "torch":
        return _torch_runner(program, pick, results, values, backend)
    target = target_of(None, backend)
    into = [into_numpy(v) for v in values]
    if not program.outputs:
        return lambda leaves: _assemble(results, pick(leaves), ())
    host = program.value(target, bind(program.inputs, values)).run
    return _numpy_runner(host, pick, into, results)


def _picker(inputs: Sequence[int], count: int) -> Callable[[Sequence[Any]], Sequence[Any]]:
    if tuple(inputs) == tuple(range(count)):
        return lambda leaves: leaves
    if len(inputs) == 1:
        (only,) = inputs
        return lambda leaves: (leaves[only],)
    if not inputs:
        return lambda leaves: ()
    return operator.itemgetter(*inputs)


def _seeded(
    pick: Callable[[Sequence[Any]], Sequence[Any]], seed: Callable[[], int]
) -> Callable[[Sequence[Any]], Sequence[Any]]:
    return lambda leaves: (*pick(leaves), seed())


def _assemble(results: Results, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    leaves = []
    for kind, i in results.leaves:
        leaf = outputs[i] if kind == "output" else inputs[i]
        leaves.append(_copied(leaf) if kind == "copy" else leaf)
    return trees.unflatten(results.tree, leaves)


def _copied(value: Any) -> Any:
    """A copy of an array or a tensor; numbers have no identity."""
    if is_tensor(value):
        return value.clone()
    return value.copy() if isinstance(value, np.ndarray) else value


# --- numpy and Python numbers ---------------------------------------------------------------------


def _scalar(value: Any) -> Any:
    """A 0-d result as numpy gives it: a scalar."""
    return value if value.shape else value[()]


def _number(value: Any) -> Any:
    """A 0-d result as Python gives it: a number."""
    return value if value.shape else value.item()


def _numpy_runner(
    host: Callable[..., tuple[Any, ...]],
    pick: Callable[[Sequence[Any]], Sequence[Any]],
    into: Sequence[Callable[[Any], Any]],
    results: Results,
) -> Runner:
    finish = [_number if container == "scalar" else _scalar for container in results.containers]
    plain = all(convert is into_plain() for convert in into)
    if plain and results.is_single:
        (only,) = finish
        return lambda leaves: only(host(*pick(leaves))[0])
    if plain and results.is_flat:
        return lambda leaves: tuple([f(r) for f, r in zip(finish, host(*pick(leaves)))])

    def run(leaves: Sequence[Any]) -> Any:
        values = pick(leaves)
        outputs = host(*[convert(v) for convert, v in zip(into, values)])
        return _assemble(results, values, [f(r) for f, r in zip(finish, outputs)])

    return run


def into_plain() -> Callable[[Any], Any]:
    """The conversion that does nothing."""
    return into_numpy(np.zeros(1))


def _array(tensor: Any) -> Any:
    return _scalar(tensor.numpy(force=True))


def _item(tensor: Any) -> Any:
    return tensor.item()


def _itself(tensor: Any) -> Any:
    return tensor


# What else a function of tensors can return: arrays made of arrays, numbers made of numbers.
_FROM_TENSOR = {"torch": _itself, "numpy": _array, "scalar": _item, "spec": _itself}


# --- torch ----------------------------------------------------------------------------------------


def _torch_runner(
    program: Program,
    pick: Callable[[Sequence[Any]], Sequence[Any]],
    results: Results,
    values: Sequence[Any],
    backend: str | None,
) -> Runner:
    if not program.outputs:
        return lambda leaves: _assemble(results, pick(leaves), ())
    run = autograd.prepare(program, values, backend)
    if set(results.containers) != {"torch"}:
        finish = [_FROM_TENSOR[container] for container in results.containers]
        return lambda leaves: _assemble(
            results, given := pick(leaves), [f(r) for f, r in zip(finish, run(given))]
        )
    if results.is_single:
        return lambda leaves: run(pick(leaves))[0]
    if results.is_flat:
        return lambda leaves: tuple(run(pick(leaves)))
    return lambda leaves: _assemble(results, values := pick(leaves), run(values))
