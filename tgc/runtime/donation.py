"""Donated arguments: arrays whose memory a result takes, so that the caller's array holds it after the call.

What would make that wrong is refused before anything is written: memory that another argument shares, an array that
the kernels would see a copy of, and a tensor that autograd may still want.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tgc.errors import MutationError
from tgc.runtime.steps import Lines
from tgc.trace.abstract import is_torch, loaded_torch
from tgc.trace.state import calling_line

_FEW = 16  # pairs of arrays that are compared one by one


def check_donated(donated: Sequence[int], values: Sequence[Any], names: Sequence[str]) -> None:
    """What the types of inputs say of whether those numbered `donated` can be.

    Raises:
        MutationError: they cannot.
    """
    for i in donated:
        _check_kind(values[i], names[i])
    _check_gradients(values)


_OWNED, _WRITEABLE = 0x0004, 0x0400  # of an array's flags: see numpy's ndarraytypes.h


def keep_apart(
    body: Lines,
    places: Sequence[str],
    donated: Sequence[int],
    values: Sequence[Any],
    names: Sequence[str],
) -> None:
    """Lines that raise MutationError where a call donates memory that is read-only, or that another argument shares.

    `places` are the variables of the inputs; `values` are inputs like those of the calls in shapes and strides.
    """
    reach: list[tuple[int, int, int, bool]] = []
    for i, value in enumerate(values):
        span = _span(value)
        if span is not None:
            low, high = (end - _address(value) for end in span)
            reach.append((i, low, high, is_torch(value)))
    chosen = frozenset(donated)

    def check(*inputs: Any) -> None:
        spans = []
        for value, (i, low, high, tensor) in zip(inputs, reach):
            if tensor:
                address = value.data_ptr()
            else:
                address, read_only = value.__array_interface__["data"]
                if read_only and i in chosen:
                    raise _refused(f"{names[i]} is read-only", "donate a copy")
            spans.append((address + low, address + high, i))
        _check_apart(spans, chosen, names)

    thorough = f"{body.bind('check', check)}({', '.join(places[i] for i, *_ in reach)})"
    pairs = [
        (places[i], places[k])
        for at, (i, *_) in enumerate(reach)
        for k, *_ in reach[at + 1 :]
        if chosen & {i, k}
    ]
    if len(pairs) > _FEW or any(tensor for *_, tensor in reach):
        body.say(thorough)
        return
    # numpy compares two arrays in a fraction of what it takes to tell the address of one.
    body.names["meet"] = np.may_share_memory
    tests = [f"not {places[i]}.flags.writeable" for i, *_ in reach if i in chosen]
    tests += [f"meet({one}, {other})" for one, other in pairs]
    if not tests:
        return
    # Different arrays that own their memory are apart, which one number of each says.
    wanted = {i: _OWNED | (_WRITEABLE if i in chosen else 0) for i, *_ in reach}
    apart = [f"{places[i]}.flags.num & {flags} == {flags}" for i, flags in wanted.items()]
    apart += [f"{one} is not {other}" for one, other in pairs]
    body.say(f"if not ({' and '.join(apart)}) and ({' or '.join(tests)}):")
    body.say(f"    {thorough}")


def count_writes(
    body: Lines, places: Sequence[str], donated: Sequence[int], values: Sequence[Any]
) -> None:
    """Lines that tell autograd which tensors have been written to."""
    written = [places[i] for i in donated if is_torch(values[i])]
    if written:
        body.names["increment_version"] = loaded_torch().autograd.graph.increment_version
        body.say(f"increment_version([{', '.join(written)}])")


def _check_kind(value: Any, name: str) -> None:
    if is_torch(value):
        dense = value.is_contiguous() and not value.is_neg()
    else:
        dense = type(value) is np.ndarray and value.flags.c_contiguous and value.flags.aligned
    if not dense:
        raise _refused(
            f"{name} is not contiguous", "donate x.contiguous(), and use that afterwards"
        )


def _check_gradients(values: Sequence[Any]) -> None:
    torch = loaded_torch()
    if torch is None or not torch.is_grad_enabled():
        return
    if any(is_torch(v) and v.requires_grad for v in values):
        raise _refused(
            "an argument requires a gradient, which autograd would compute from memory that is gone",
            "call it under torch.no_grad(), as optimizers do, or detach the arguments",
        )


def _check_apart(
    spans: list[tuple[int, int, int]], donated: frozenset[int], names: Sequence[str]
) -> None:
    """Refuse donated memory that another argument reaches. Spans are start, end and number of an input."""
    spans.sort()
    last, last_donated = (0, 0), (0, 0)
    for start, end, i in spans:
        before = last if i in donated else last_donated
        if start < before[0]:
            first, second = names[before[1]], names[i]
            raise _refused(f"{first} and {second} share memory", "pass a copy of one of them")
        last = max(last, (end, i))
        if i in donated:
            last_donated = max(last_donated, (end, i))


def _address(value: Any) -> int:
    """The address of an array's first element."""
    found: int = value.data_ptr() if is_torch(value) else value.__array_interface__["data"][0]
    return found


def _span(value: Any) -> tuple[int, int] | None:
    """Where an array lies, from its first byte to behind its last; None for numbers and empty arrays."""
    if is_torch(value):
        if not value.numel():
            return None
        last = sum((n - 1) * s for n, s in zip(value.shape, value.stride()))
        start = value.data_ptr()
        return start, start + (last + 1) * value.element_size()
    if not isinstance(value, np.ndarray) or not value.size:
        return None
    return np.lib.array_utils.byte_bounds(value)


def _refused(what: str, hint: str) -> MutationError:
    return MutationError(f"a donated argument: {what}", line=calling_line(), hint=hint)
