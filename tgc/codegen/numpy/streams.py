"""Random draws of the same numbers under one seed, which differ in their streams alone, are made together.

Most of a short draw is calls of numpy, of which several streams share all but a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeGuard

from tgc.ir.sizes import Size
from tgc.kernel.ir import Const, Kernel, Loop, Op, Statement

DRAWS = ("philox", "normal")
MOST = 4
"""Streams that are drawn at once: all lie in scratch then."""


def gather_streams(kernel: Kernel) -> Kernel:
    """The same kernel, draws that go together moved behind the first of them."""
    return replace(kernel, body=_gathered(kernel.body))


def _gathered(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    body = tuple(replace(s, body=_gathered(s.body)) if isinstance(s, Loop) else s for s in body)
    groups = _groups(body)
    later = {id(op) for ops in groups for op in ops[1:]}
    following = {id(ops[0]): ops[1:] for ops in groups}
    found: list[Statement] = []
    for s in body:
        if id(s) not in later:
            found += [s, *following.get(id(s), [])]
    return tuple(found)


def _groups(body: Sequence[Statement]) -> list[list[Op]]:
    """Draws of a body by what they have in common, few at a time."""
    found: list[list[Op]] = []
    for s in body:
        if not is_draw(s):
            continue
        group = next((ops for ops in found if len(ops) < MOST and _are_alike(ops[0], s)), None)
        if group is None:
            found.append([s])
        else:
            group.append(s)
    return found


def joint_draws(body: Sequence[Statement]) -> dict[str, list[Op]]:
    """The draws that are made with another, by the name of the first; the body is one that was gathered."""
    return {ops[0].name: ops for ops in _groups(body) if len(ops) > 1}


def is_draw(s: Statement) -> TypeGuard[Op]:
    """Whether a statement is a draw of a stream that is known."""
    if not isinstance(s, Op) or s.op not in DRAWS:
        return False
    stream = s.args[1]
    return isinstance(stream, Const) and not isinstance(stream.value, Size)


def _are_alike(a: Op, b: Op) -> bool:
    """Whether two draws differ in the stream alone."""
    return (a.op, a.args[0], a.args[2], a.axes) == (b.op, b.args[0], b.args[2], b.axes)
