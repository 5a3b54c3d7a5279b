"""Runners: a program prepared for one exact type of call, from the call's leaves to the user's result.

Everything that can be decided beforehand is: which leaves are inputs, which must be copied because they are not
contiguous, which host function serves these sizes, and how the results become the tree the user's function returns.
What is left is a function of a few lines, written out for this call (see `steps.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tgc import trees
from tgc.ir.nodes import Graph, Leaf, Node
from tgc.runtime import autograd, seeds
from tgc.runtime.donation import count_writes, keep_apart
from tgc.runtime.program import Program, bind, known
from tgc.runtime.steps import AS_IT_IS, Convert, Lines, function, leaf_names
from tgc.runtime.tensors import into_host, target_of
from tgc.trace.abstract import is_torch


@dataclass(frozen=True)
class Runner:
    """A function of the leaves of a call, and its body, which a guarded call holds instead of calling it."""

    leaves: int
    body: Lines

    @cached_property
    def run(self) -> Callable[..., Any]:
        """The function by itself."""
        # The function may have come to capture more arrays since.
        head = ", ".join([*leaf_names(self.leaves), "*_"])
        made: Callable[..., Any] = function("run", head, self.body.lines, self.body.names)
        return made


@dataclass(frozen=True)
class Results:
    """How the user's result is made.

    Per leaf of `tree`: ("output", j) of the program, or input i as it came, ("input", i), or copied, ("copy", i).
    Per output of the program: whether it is a "torch" tensor, a "numpy" array or a "scalar", a Python number.
    `donated`: the inputs that hold an output after the call.
    """

    tree: trees.TreeDef
    leaves: tuple[tuple[str, int], ...]
    containers: tuple[str, ...]
    donated: tuple[int, ...] = ()


def separate(
    graph: Graph, tree: trees.TreeDef, containers: Sequence[str]
) -> tuple[tuple[Node, ...], Results]:
    """The outputs that must be computed, each once, and how the result is made of them and of inputs passed through.

    An input that is returned is the argument itself, as in the plain function; so is a donated one, in the place of
    the output it receives.
    """
    same = {k for k, leaf in graph.aliases if graph.outputs[k] is leaf}
    written = {value: ("input", graph.inputs.index(leaf)) for leaf, value in graph.writes}
    computed: dict[tuple[Node, str], int] = {}
    leaves: list[tuple[str, int]] = []
    for k, node in enumerate(graph.outputs):
        if isinstance(node, Leaf) and node in graph.inputs:
            leaves.append(("input" if k in same else "copy", graph.inputs.index(node)))
        else:
            place = computed.setdefault((node, containers[k]), len(computed))
            leaves.append(written.get(node) or ("output", place))
    kinds = tuple(container for _, container in computed)
    donated = tuple(graph.inputs.index(leaf) for leaf, _ in graph.writes)
    return tuple(node for node, _ in computed), Results(tree, tuple(leaves), kinds, donated)


def runner_of(
    program: Program,
    inputs: Sequence[int],
    results: Results,
    leaves: Sequence[Any],
    container: str,
    backend: str | None,
    *,
    names: Sequence[str] = (),
    draws: bool = False,
) -> Runner:
    """The runner of calls with as many leaves as these, all of exactly these types.

    Args:
        names: of the inputs, for errors.
        draws: a seed is bound behind the inputs.
    """
    body = Lines()
    parameters = leaf_names(len(leaves))
    values = [leaves[i] for i in inputs]
    places = [parameters[i] for i in inputs]
    if results.donated:
        keep_apart(body, places, results.donated, values, names)
    if draws:
        values.append(0)
        places.append("seed")
        body.names["drawn"] = seeds.of_torch if container == "torch" else seeds.of_numpy
        body.say("seed = drawn()")
    outputs = [f"r{j}" for j in range(len(program.outputs))]
    if container != "torch":
        target = target_of(None, backend)
        given = [body.convert(into_host(v, target), place) for v, place in zip(values, places)]
        finish = [
            _FROM_ARRAY.get(kind, _SCALAR) if not slot.shape else AS_IT_IS
            for kind, slot in zip(results.containers, program.outputs)
        ]
        if outputs:
            sizes = bind(program.inputs, values)
            host = program.value(target, sizes).run
            told = known(host, program, sizes, len(values))
            body.call(host, given, outputs, told.told, small=told.small)
    elif outputs:
        outputs = autograd.write_call(body, program, values, places, backend)
        finish = [_FROM_TENSOR[kind] for kind in results.containers]
    if results.donated:
        count_writes(body, places, results.donated, values)
    shown = []
    for kind, i in results.leaves:
        if kind == "output":
            shown.append(body.convert(finish[i], outputs[i]))
        else:
            shown.append(body.convert(_COPY if kind == "copy" else AS_IT_IS, places[i]))
    body.say(f"return {body.tree(results.tree, shown)}")
    return Runner(len(leaves), body)


def _copied(value: Any) -> Any:
    """A copy of an array or a tensor; numbers have no identity."""
    if is_torch(value):
        return value.clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def _array(tensor: Any) -> Any:
    """A tensor as numpy gives results: a 0-d one as a scalar."""
    array = tensor.numpy(force=True)
    return array if array.shape else array[()]


_COPY = Convert("copied({})", (("copied", _copied),))
# A 0-d result as numpy gives it, a scalar, and as Python gives it, a number.
_SCALAR = Convert("{}[()]")
_FROM_ARRAY = {"scalar": Convert("{}.item()")}
# What else a function of tensors can return: arrays made of arrays, numbers made of numbers.
_FROM_TENSOR = {
    "torch": AS_IT_IS,
    "numpy": Convert("array({})", (("array", _array),)),
    "scalar": Convert("{}.item()"),
    "spec": AS_IT_IS,
}
