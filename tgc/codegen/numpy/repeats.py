"""Remove statements that compute what another has computed: numpy does each anew, as a compiler of loops would not."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from tgc.kernel.ir import Iota, Kernel, Loop, Op, Reduce, Statement
from tgc.schedule.tiling import renamed

Key: TypeAlias = tuple[str, str, str, tuple[str, ...]]


def remove_repeats(kernel: Kernel) -> Kernel:
    """The same kernel, each operation on the same values done once per scope."""
    return replace(kernel, body=_body(kernel.body, {}, {}))


def _body(
    body: tuple[Statement, ...], seen: dict[Key, str], names: dict[str, str]
) -> tuple[Statement, ...]:
    found: list[Statement] = []
    for s in body:
        if isinstance(s, Loop):
            inner = _body(s.body, dict(seen), names)
            folds = tuple(f for f in (renamed(f, names) for f in s.folds) if isinstance(f, Reduce))
            found.append(Loop(s.axis, inner, folds))
            continue
        s = renamed(s, names)
        if isinstance(s, Op | Iota):
            # As text, since 0.0 and -0.0 are equal.
            what = (s.op, repr(s.args)) if isinstance(s, Op) else ("", repr(s.index))
            key = (*what, s.dtype.name, s.axes)
            if key in seen:
                names[s.name] = seen[key]
                continue
            seen[key] = s.name
        found.append(s)
    return tuple(found)
