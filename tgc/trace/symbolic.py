"""Sizes as the user's Python sees them: integers that stay symbolic in arithmetic.

`x.shape[0] * 2 + 1` is again symbolic. Comparing, converting to `int` or iterating a `range` decides by the extent at
this call and records an assumption, unless the answer is the same for all sizes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeGuard

import numpy as np

from tgc.ir.sizes import Dim, Size, product
from tgc.trace.abstract import loaded_torch
from tgc.trace.state import current
from tgc.trace.tracer import Tracer, operate


def _arithmetic(
    name: str, of_sizes: Callable[[Dim, Dim], Dim]
) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    """An operator and its reflection: a size of two integers, else a scalar of the trace."""

    def forward(self: SymbolicInt, other: Any) -> Any:
        if is_size(other):
            return symbolic(of_sizes(self.size, dim_of(other)))
        return _scalar(name, self, other)

    def backward(self: SymbolicInt, other: Any) -> Any:
        if is_size(other):
            return symbolic(of_sizes(dim_of(other), self.size))
        return _scalar(name, other, self)

    return forward, backward


def _of_bits(
    name: str, of_integers: Callable[[int, int], int]
) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    """An operator on bits, which are looked at; one size by a known number of bits remains a size."""

    def forward(self: SymbolicInt, other: Any) -> Any:
        if not is_size(other):
            return _scalar(name, self, other)
        if name in ("lshift", "rshift"):
            power = 1 << int(other)
            return self * power if name == "lshift" else self // power
        return of_integers(int(self), int(other))

    def backward(self: SymbolicInt, other: Any) -> Any:
        return of_integers(int(other), int(self)) if is_size(other) else _scalar(name, other, self)

    return forward, backward


class SymbolicInt:
    """An integer known at call time; `size` is its polynomial in the size symbols."""

    size: Size

    # --- looking at the value: by the extent at this call, under an assumption ---

    def __index__(self) -> int:
        return current().sizes.fix(self.size)

    def __int__(self) -> int:
        return current().sizes.fix(self.size)

    def __float__(self) -> float:
        return float(current().sizes.fix(self.size))

    def __bool__(self) -> bool:
        return current().sizes.decide(self.size, "!=", 0)

    def __hash__(self) -> int:
        return hash(current().sizes.fix(self.size))

    def __repr__(self) -> str:
        return str(self.size)

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(int(self), spec) if spec else str(self)

    # numpy has Python's integers beside its own scalars, arrays of int64 in lists and alone.

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, Tracer) for x in inputs):
            return NotImplemented
        numbers = [int(x) if isinstance(x, SymbolicInt) else x for x in inputs]
        return getattr(ufunc, method)(*numbers, **kwargs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(int(self), dtype)

    # --- comparisons ---

    def _compare(self, relation: str, other: Any) -> Any:
        if is_size(other):
            return current().sizes.decide(self.size, relation, dim_of(other))
        if isinstance(other, float):
            return current().sizes.decide(self.size, *_integral(relation, other))
        return NotImplemented

    def __eq__(self, other: object) -> Any:
        if isinstance(other, float) and not other.is_integer():
            return False
        return self._compare("==", other)

    def __ne__(self, other: object) -> Any:
        if isinstance(other, float) and not other.is_integer():
            return True
        return self._compare("!=", other)

    def __lt__(self, other: Any) -> Any:
        return self._compare("<", other)

    def __le__(self, other: Any) -> Any:
        return self._compare("<=", other)

    def __gt__(self, other: Any) -> Any:
        return self._compare(">", other)

    def __ge__(self, other: Any) -> Any:
        return self._compare(">=", other)

    # --- arithmetic ---

    __add__, __radd__ = _arithmetic("add", operator.add)
    __sub__, __rsub__ = _arithmetic("sub", operator.sub)
    __floordiv__, __rfloordiv__ = _arithmetic("floordiv", lambda a, b: a // _nonzero(b))
    __mod__, __rmod__ = _arithmetic("mod", lambda a, b: a % _nonzero(b))
    _times, __rmul__ = _arithmetic("mul", operator.mul)

    __and__, __rand__ = _of_bits("and", operator.and_)
    __or__, __ror__ = _of_bits("or", operator.or_)
    __xor__, __rxor__ = _of_bits("xor", operator.xor)
    __lshift__, __rlshift__ = _of_bits("lshift", operator.lshift)
    __rshift__, __rrshift__ = _of_bits("rshift", operator.rshift)

    def __invert__(self) -> Any:
        return -self - 1

    def __mul__(self, other: Any) -> Any:
        return other * int(self) if isinstance(other, tuple | list) else self._times(other)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __truediv__(self, other: Any) -> Any:
        return _scalar("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _scalar("div", other, self)

    def __pow__(self, other: Any, modulo: None = None) -> Any:
        if isinstance(other, int) and other >= 0:
            return symbolic(product([self.size] * other))
        return _scalar("pow", self, other)

    def __rpow__(self, other: Any) -> Any:
        return _scalar("pow", other, self)

    def __neg__(self) -> Any:
        return symbolic(-self.size)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self if self >= 0 else -self


class _SizeOnly(SymbolicInt):
    """Where torch is not loaded."""

    def __init__(self, size: Size) -> None:
        self.size = size


@lru_cache(maxsize=1)
def _torch_class(torch: Any) -> type:
    """A SymbolicInt that torch's argument parsers accept where an integer is asked for."""

    class TorchSymbolicInt(SymbolicInt, torch.SymInt):
        def __init__(self, size: Size) -> None:
            self.size = size

        __hash__ = SymbolicInt.__hash__

    return TorchSymbolicInt


def symbolic(size: Dim) -> Any:
    """A size for the user: an `int` where it is one, else a `SymbolicInt`."""
    if isinstance(size, int):
        return size
    torch = loaded_torch()
    return _SizeOnly(size) if torch is None else _torch_class(torch)(size)


def is_size(value: object) -> TypeGuard[Any]:
    """Whether a value is an integer, symbolic or not."""
    return isinstance(value, SymbolicInt | int)


def dim_of(value: Any) -> Dim:
    """The size behind an integer of the user."""
    if isinstance(value, SymbolicInt):
        return value.size
    return value if type(value) is int or isinstance(value, Size) else value.__index__()


def _nonzero(size: Dim) -> Dim:
    if size == 0:
        raise ZeroDivisionError("integer division or modulo by zero")
    return size


def _integral(relation: str, bound: float) -> tuple[str, int]:
    """The same comparison of an integer with an integer bound."""
    floor = int(bound // 1)
    if floor == bound:
        return relation, floor
    return {"<": ("<=", floor), "<=": ("<=", floor), ">": (">", floor), ">=": (">", floor)}[
        relation
    ]


def _scalar(operation: str, a: Any, b: Any) -> Any:
    """Arithmetic with floats and tracers: a weakly typed scalar of the trace."""
    if all(isinstance(x, SymbolicInt | int | float | Tracer) for x in (a, b)):
        return operate(operation, a, b)
    return NotImplemented


class SymbolicShape(tuple[Any, ...]):
    """What `x.shape` gives: integers and symbolic integers, with torch.Size's `numel`."""

    def __new__(cls, dims: Iterable[Dim]) -> SymbolicShape:
        return super().__new__(cls, [symbolic(d) for d in dims])

    def numel(self) -> Any:
        return symbolic(product([dim_of(d) for d in self]))

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return SymbolicShape(dim_of(d) for d in found) if isinstance(index, slice) else found
