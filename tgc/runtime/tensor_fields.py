"""Where torch keeps what small calls ask of tensors, so that native code reads it in place.

To ask three tensors for type, shape, strides and address takes torch longer than to add them. torch promises no layout
of its objects, so none is written down here. It is found: values of an example are looked for in its memory, and what
was found must be right for others. Where anything fails nothing is read, and torch is asked.

Only the plainest tensors are told apart this way: of torch's own two classes, dense, in the CPU's memory, marked by no
mode, of at most five dimensions, and without a history, so that they are no views and require no gradient.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tgc.runtime.interpreter import TENSOR_WORDS, Tensor

_MOST_DIMENSIONS = 5  # torch keeps the extents of more elsewhere
_OBJECT_BYTES, _STORAGE_BYTES = 192, 32  # as far as fields are looked for


@lru_cache(maxsize=1)
def readable() -> bool:
    """Whether native code reads the fields of plain tensors; the first call finds them. torch has been imported."""
    try:
        with sys.modules["torch"].inference_mode(False):
            found = _found()
            if found is None or not _holds(found):
                return False
    except (AttributeError, TypeError, RuntimeError, ValueError):
        return False
    TENSOR_WORDS[:] = [found[word] for word in Tensor]
    return True


def plain(value: Any) -> bool:
    """Whether native code can compare others with this tensor."""
    return readable() and value.ndim <= _MOST_DIMENSIONS and _is_plain(value, _known())


def type_of(value: Any) -> int:
    """torch's number of a plain tensor's dtype."""
    return _type(value, _known())


Found = dict[Tensor, int]


def _known() -> Found:
    return dict(zip(Tensor, TENSOR_WORDS))


def _word(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


def _body(value: Any, found: Found) -> int:
    return _word(id(value) + found[Tensor.BODY])


def _is_plain(value: Any, found: Found) -> bool:
    if id(type(value)) not in (found[Tensor.CLASS], found[Tensor.PARAMETER]):
        return False
    body = _body(value, found)
    keys, history = _word(body + found[Tensor.KEYS]), _word(body + found[Tensor.HISTORY])
    return keys == found[Tensor.PLAIN] and not history


def _type(value: Any, found: Found) -> int:
    number = ctypes.c_uint16.from_address(_body(value, found) + found[Tensor.TYPE])
    return number.value


# --- finding --------------------------------------------------------------------------------------------------------


def _place(start: int, words: Sequence[int], limit: int) -> int:
    """How far behind an address these words are.

    Raises:
        ValueError: they are not.
    """
    for offset in range(0, limit, 8):
        if all(_word(start + offset + 8 * k) == word for k, word in enumerate(words)):
            return offset
    raise ValueError("not found")


def _found() -> Found | None:
    """Where the fields of an example are, or None."""
    torch = sys.modules["torch"]
    shape, strides, offset, elements = (5, 3, 7), (211, 17, 2), 13, 105
    base = torch.empty(1000)
    view = base.as_strided(shape, strides, offset)
    body, storage = view._cdata, view.untyped_storage()
    keys = ctypes.c_int64(torch._C._dispatch_keys(view).raw_repr()).value
    rank = _place(body, (len(shape), *shape), _OBJECT_BYTES)
    first = _place(body, (offset, elements), _OBJECT_BYTES)
    leaf = torch.zeros(1, requires_grad=True)
    histories = [
        place
        for place in range(0, rank, 8)
        if _word(body + place) and _word(leaf._cdata + place) and not _word(base._cdata + place)
    ]
    if len(histories) != 1:
        return None
    return {
        Tensor.CLASS: id(torch.Tensor),
        Tensor.PARAMETER: id(torch.nn.Parameter),
        Tensor.BODY: _place(id(view), (body,), torch.Tensor.__basicsize__),
        Tensor.KEYS: _place(body, (keys,), _OBJECT_BYTES),
        Tensor.PLAIN: keys,
        Tensor.HISTORY: histories[0],
        Tensor.RANK: rank,
        Tensor.STRIDES: _place(body, strides, _OBJECT_BYTES),
        Tensor.OFFSET: first,
        Tensor.TYPE: first + 16,
        Tensor.STORAGE: _place(body, (storage._cdata,), _OBJECT_BYTES),
        Tensor.DATA: _place(storage._cdata, (storage.data_ptr(),), _STORAGE_BYTES),
    }


def _holds(found: Found) -> bool:
    """Whether what was found is right for other tensors."""
    torch = sys.modules["torch"]
    names = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool")
    dtypes = [getattr(torch, name) for name in names]
    tensors = [torch.zeros(s, dtype=d) for d in dtypes for s in ((), (0,), (4,), (2, 1, 3, 5, 2))]
    tensors.append(torch.from_numpy(np.ones((3, 4)).T))
    tensors.append(torch.nn.Parameter(torch.ones(2), requires_grad=False))
    with torch.inference_mode():
        others = [torch.zeros(2)]
    one = torch.zeros((2, 2))
    others += [one[0], one.clone().requires_grad_(), torch._neg_view(one), one.to_sparse()]
    others += [one.to("meta"), torch.empty_strided((2, 2), (1, 2)).unbind()[0]]
    numbers = {(str(t.dtype), _type(t, found)) for t in tensors}
    return (
        all(_is_plain(t, found) and _is_read(t, found) for t in tensors)
        and not any(_is_plain(t, found) for t in others)
        and len(numbers) == len(dict(numbers)) == len({number for _, number in numbers})
    )


def _is_read(value: Any, found: Found) -> bool:
    """Whether shape, strides, offset and address of a tensor are where they should be."""
    body = _body(value, found)
    words = {
        Tensor.RANK: (value.ndim, *value.shape),
        Tensor.STRIDES: value.stride(),
        Tensor.OFFSET: (value.storage_offset(),),
    }
    address = _word(_word(body + found[Tensor.STORAGE]) + found[Tensor.DATA])
    return address == value.data_ptr() and all(
        _word(body + found[word] + 8 * k) == right
        for word, rights in words.items()
        for k, right in enumerate(rights)
    )
