"""Which reshapes share memory: those that torch and numpy make without a copy.

An array that the traced function made is taken to lie in memory in the order of its axes; the strides of a view of
it follow from the movements that lead there.
"""

from __future__ import annotations

from collections.abc import Sequence

from tgc.ir.build import Builder
from tgc.ir.nodes import Broadcast, Flip, Movement, Node, Permute, Reshape, Slice
from tgc.ir.sizes import Dim, exact_quotient


def strides(root: Node, path: Sequence[Movement], b: Builder) -> tuple[Dim, ...] | None:
    """The strides of a view of `root`; None where a reshape on the path has to copy."""
    node, steps = root, contiguous(root.shape)
    for movement in path:
        after = b.view(node, movement)
        found = _moved(node.shape, steps, movement, after.shape)
        if found is None:
            return None
        node, steps = after, found
    return steps


def contiguous(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """The strides of an array whose axes follow each other in memory."""
    steps: list[Dim] = []
    step: Dim = 1
    for extent in reversed(shape):
        steps.append(step)
        step = step * extent
    return tuple(reversed(steps))


def _moved(
    shape: Sequence[Dim], steps: Sequence[Dim], movement: Movement, after: Sequence[Dim]
) -> tuple[Dim, ...] | None:
    """The strides after a movement; None where it copies."""
    if isinstance(movement, Permute):
        return tuple(steps[k] for k in movement.order)
    if isinstance(movement, Slice):
        return tuple(s * k for s, k in zip(steps, movement.step))
    if isinstance(movement, Flip):
        return tuple(-s if k in movement.axes else s for k, s in enumerate(steps))
    if isinstance(movement, Broadcast):
        moved: list[Dim] = [0] * len(after)
        for k, place in enumerate(movement.dims):
            moved[place] = steps[k] if shape[k] == after[place] else 0
        return tuple(moved)
    return _reshaped(shape, steps, after) if isinstance(movement, Reshape) else None


def _reshaped(
    shape: Sequence[Dim], steps: Sequence[Dim], after: Sequence[Dim]
) -> tuple[Dim, ...] | None:
    """Axes that follow each other in memory are one; each new axis must lie in one of them."""
    runs: list[tuple[Dim, Dim]] = []
    for extent, stride in zip(shape, steps):
        if extent == 1:
            continue
        if runs and runs[-1][1] == extent * stride:
            runs[-1] = (runs[-1][0] * extent, stride)
        else:
            runs.append((extent, stride))
    left: Dim = 1
    step: Dim = 1
    found: list[Dim] = []
    for extent in reversed(after):
        if extent != 1 and left == 1:
            if not runs:
                return None
            left, step = runs.pop()
        rest = 1 if extent == left else exact_quotient(left, extent)
        if rest is None:
            return None
        found.append(step)
        left, step = rest if extent != 1 else left, step * extent
    return tuple(reversed(found))
