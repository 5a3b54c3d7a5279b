"""Donated arguments: arrays whose memory a result takes, so that the caller's array holds it after the call.

What would make that wrong is refused before anything is written: memory that another argument shares, an array that
the kernels would see a copy of, and a tensor that autograd may still want.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tgc.errors import MutationError
from tgc.runtime.tensors import is_tensor, torch_module
from tgc.trace.state import calling_line

Call = Callable[..., Any]


def check_donated(donated: Sequence[int], values: Sequence[Any], names: Sequence[str]) -> None:
    """What the types of inputs say of whether those numbered `donated` can be.

    Raises:
        MutationError: they cannot.
    """
    for i in donated:
        _check_kind(values[i], names[i])
    _check_gradients(values)


def donating(
    run: Call, inputs: Sequence[int], donated: Sequence[int], names: Sequence[str]
) -> Call:
    """`run` for calls that donate those of its `inputs`, positions among the leaves, that are numbered `donated`.

    It raises MutationError where a call donates memory that is read-only, or shared with another argument.
    """
    chosen = frozenset(donated)

    def call(*leaves: Any) -> Any:
        given = [leaves[i] for i in inputs]
        _check_memory(given, chosen, names)
        result = run(*leaves)
        tensors = [given[i] for i in donated if is_tensor(given[i])]
        if tensors:
            torch_module().autograd.graph.increment_version(tensors)
        return result

    return call


def _check_kind(value: Any, name: str) -> None:
    if is_tensor(value):
        dense = value.is_contiguous() and not value.is_neg()
    else:
        dense = type(value) is np.ndarray and value.flags.c_contiguous and value.flags.aligned
    if not dense:
        raise _refused(
            f"{name} is not contiguous", "donate x.contiguous(), and use that afterwards"
        )


def _check_gradients(values: Sequence[Any]) -> None:
    torch = torch_module()
    if torch is None or not torch.is_grad_enabled():
        return
    if any(is_tensor(v) and v.requires_grad for v in values):
        raise _refused(
            "an argument requires a gradient, which autograd would compute from memory that is gone",
            "call it under torch.no_grad(), as optimizers do, or detach the arguments",
        )


def _check_memory(values: Sequence[Any], donated: frozenset[int], names: Sequence[str]) -> None:
    """Refuse donated memory that is read-only, or that another argument reaches."""
    spans = []
    for i, value in enumerate(values):
        span = _span(value)
        if span is not None:
            spans.append((*span, i))
            if i in donated and not is_tensor(value) and not value.flags.writeable:
                raise _refused(f"{names[i]} is read-only", "donate a copy")
    spans.sort()
    last, last_donated = (0, 0), (0, 0)
    for start, end, i in spans:
        before = last if i in donated else last_donated
        if start < before[0]:
            raise _refused(
                f"{names[before[1]]} and {names[i]} share memory", "pass a copy of one of them"
            )
        last = max(last, (end, i))
        if i in donated:
            last_donated = max(last_donated, (end, i))


def _span(value: Any) -> tuple[int, int] | None:
    """Where an array lies, from its first byte to behind its last; None for numbers and empty arrays."""
    if is_tensor(value):
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
