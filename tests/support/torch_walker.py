"""A graph run node by node in torch, so that torch.autograd says what its derivatives are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tgc.ir.evaluate import bind_sizes
from tgc.ir.nodes import (
    Broadcast,
    Const,
    Flip,
    Fold,
    Graph,
    Iota,
    Leaf,
    Map,
    Node,
    Pad,
    Permute,
    Reshape,
    Slice,
    Take,
    View,
)
from tgc.ir.ops import OPS
from tgc.ir.sizes import Size, evaluate

NAMES = {
    "relu": torch.nn.functional.relu,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "sech2": lambda x: 1 - torch.tanh(x) ** 2,
    "fma": lambda a, b, c: a * b + c,
    "clamp_min": lambda a, b: torch.clamp(a, min=b),
    "clamp_max": lambda a, b: torch.clamp(a, max=b),
    "not": torch.logical_not,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "cbrt": lambda x: torch.sign(x) * torch.abs(x) ** (1 / 3),
    "stop_gradient": torch.Tensor.detach,
}


def torch_function(op: str) -> Callable[..., torch.Tensor]:
    """What torch calls an operation of the table."""
    if op in NAMES:
        return NAMES[op]
    found: object = torch
    for part in (OPS[op].torch or op).split("."):
        found = getattr(found, part)
    return found  # type: ignore[return-value]


def run(graph: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs of a graph of basic folds, views and single takes."""
    binding = bind_sizes(graph.inputs, [tuple(x.shape) for x in inputs])
    done: dict[Node, torch.Tensor] = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes():
        if node not in done:
            done[node] = _node(node, [done[a] for a in node.args], binding)
    return [done[o] for o in graph.outputs]


def _node(node: Node, args: list[torch.Tensor], binding: dict[str, int]) -> torch.Tensor:
    shape = tuple(evaluate(d, binding) for d in node.shape)
    dtype = getattr(torch, node.dtype.name)
    if isinstance(node, Leaf):
        return _leaf(node, shape, dtype, binding)
    if isinstance(node, Map):
        return args[0].to(dtype) if node.op == "cast" else torch_function(node.op)(*args)
    if isinstance(node, View):
        return _view(node, args[0], shape, binding)
    if isinstance(node, Fold):
        return _fold(node, args[0])
    assert isinstance(node, Take)
    return torch.take_along_dim(args[0], args[1], node.axis)


def _leaf(
    node: Leaf, shape: tuple[int, ...], dtype: torch.dtype, binding: dict[str, int]
) -> torch.Tensor:
    if isinstance(node.source, Iota):
        view = [-1 if k == node.source.axis else 1 for k in range(len(shape))]
        return torch.arange(shape[node.source.axis], dtype=dtype).view(view).expand(shape)
    assert isinstance(node.source, Const)
    value = node.source.value
    return torch.full(
        shape, evaluate(value, binding) if isinstance(value, Size) else value, dtype=dtype
    )


def _view(
    node: View, x: torch.Tensor, shape: tuple[int, ...], binding: dict[str, int]
) -> torch.Tensor:
    movement = node.movement
    if isinstance(movement, Broadcast):
        sizes = [1] * len(shape)
        for k, d in enumerate(movement.dims):
            sizes[d] = x.shape[k]
        return x.reshape(sizes).expand(shape)
    if isinstance(movement, Permute):
        return x.permute(movement.order)
    if isinstance(movement, Reshape):
        return x.reshape(shape)
    if isinstance(movement, Flip):
        return x.flip(movement.axes)
    if isinstance(movement, Slice):
        places = zip(movement.start, movement.stop, movement.step)
        return x[tuple(slice(evaluate(a, binding), evaluate(b, binding), s) for a, b, s in places)]
    assert isinstance(movement, Pad)
    result = torch.zeros(shape, dtype=x.dtype)
    places = zip(movement.before, x.shape, movement.interior)
    inside = tuple(
        slice(evaluate(b, binding), evaluate(b, binding) + max(n + (n - 1) * i, 0), i + 1)
        for b, n, i in places
    )
    return result.index_put(
        tuple(torch.meshgrid(*[torch.arange(n)[s] for n, s in zip(shape, inside)], indexing="ij")),
        x,
    )


def _fold(node: Fold, x: torch.Tensor) -> torch.Tensor:
    if node.mode == "scan":
        (axis,) = node.axes
        return x.flip(axis).cumsum(axis).flip(axis) if node.reverse else x.cumsum(axis)
    if node.monoid == "prod":
        for axis in reversed(node.axes):
            x = x.prod(axis)
        return x
    functions = {"sum": torch.sum, "max": torch.amax, "min": torch.amin}
    return functions[str(node.monoid)](x, node.axes)
