"""Random draws: each is a stream of its own, a pure function of the seed of the call and the index of an element.

Word i of a stream is word i & 3 of Philox 4x32-10's counter i >> 2, whose third word is the number of the stream (in
the order of the trace), whose fourth is the version of this table, 0, and whose key is the seed: every backend and
every tiling draws the same bits. The seed is an input of the graph, bound anew at each call: what is drawn is computed
again where the backward wants it, not stored.

| draws of | words of element i | value |
|---|---|---|
| uniform float32, float16, bfloat16 | i | the low 24, 11 or 8 bits, as a fraction |
| uniform float64 | 2i, 2i + 1 | 27 low bits of the first, then 26 of the second |
| normal float32 (others are rounded from it) | i and its neighbour in the pair | `NORMAL` in ir/expansions.py |
| normal float64 | 4i to 4i + 3 | Box and Muller's cosine of two uniform float64 |
| integers below n | i | the word times n, its high 32 bits |
"""

from __future__ import annotations

import math
from typing import Any

from tgc.ir import dtypes
from tgc.ir.dtypes import DType
from tgc.ir.nodes import Node, Shape
from tgc.ir.sizes import Dim, product
from tgc.trace.core import Value, array, builder, cast, dims_of, element_type, unsupported
from tgc.trace.create import place_of
from tgc.trace.elementwise import add, ge, lt, mul
from tgc.trace.promote import default_float
from tgc.trace.state import current, shape_error
from tgc.trace.symbolic import is_size
from tgc.trace.tracer import Tracer


class _Stream:
    """One draw of an array of `shape`."""

    def __init__(self, shape: Shape) -> None:
        self.shape, b = shape, builder()
        seed, number = current().draw()
        self.at = b.reshape(b.iota(0, (product(shape),)), shape=shape)
        self.number = b.const(number, dtypes.int64, shape)
        self.seed = b.broadcast(seed, shape=shape, dims=())

    def const(self, value: int) -> Node:
        return builder().const(value, dtypes.int64, self.shape)

    def words(self, per: int = 1, which: int = 0) -> Node:
        """Word `which` of the `per` words of each element, as an int32."""
        b, at = builder(), self.at
        if per > 1:
            at = b.map("add", b.map("mul", at, self.const(per)), self.const(which))
        return b.map("philox", at, self.number, self.seed)

    def low(self, bits: int, per: int = 1, which: int = 0) -> Node:
        """Some low bits of a word, as an int32."""
        word = self.words(per, which)
        return builder().map("and", word, builder().like(word, 2**bits - 1))

    def uniform(self, dtype: DType) -> Node:
        """In [0, 1), on a grid that `dtype` holds exactly."""
        if dtype is dtypes.float64:
            return self.double(2, 0)
        drawn = builder().cast(self.low(dtype.digits), dtypes.float32)
        return builder().cast(_times(drawn, 2.0**-dtype.digits), dtype)

    def double(self, per: int, which: int) -> Node:
        """A uniform float64 of two words."""
        b = builder()
        high = b.cast(self.low(27, per, which), dtypes.float64)
        low = b.cast(self.low(26, per, which + 1), dtypes.float64)
        return b.map("add", _times(high, 2.0**-27), _times(low, 2.0**-53))

    def normal(self, dtype: DType) -> Node:
        b = builder()
        if dtype is not dtypes.float64:
            return b.cast(b.map("normal", self.at, self.number, self.seed), dtype)
        first = self.double(4, 0)  # 1 - u is in (0, 1]
        log = b.map("log", b.map("sub", b.like(first, 1.0), first))
        radius = b.map("sqrt", _times(log, -2.0))
        return b.map("mul", radius, b.map("cos", _times(self.double(4, 2), math.tau)))

    def below(self, count: Dim) -> Node:
        """Integers in [0, count)."""
        b = builder()
        word = b.map("and", b.cast(self.words(), dtypes.int64), self.const(2**32 - 1))
        scaled = b.map("mul", word, b.const(count, dtypes.int64, self.shape))
        return b.map("floordiv", scaled, self.const(2**32))


def _times(x: Node, factor: float) -> Node:
    return builder().map("mul", x, builder().like(x, factor))


# --- arrays from nothing --------------------------------------------------------------------------------------------


class Draws:
    """The functions that draw arrays, under the rules of one container."""

    def __init__(self, container: str) -> None:
        self.container = container

    def _float(self, dtype: object) -> DType:
        found = default_float(self.container) if dtype is None else element_type(dtype)
        if not found.is_float:
            raise unsupported(f"random {found.name}", hint="randint draws integers")
        return found

    def _wrap(self, node: Node, device: object) -> Tracer:
        return Tracer(node, self.container, place_of(device, self.container))

    def rand(
        self, shape: Any = (), dtype: object = None, device: object = None, generator: Any = None
    ) -> Tracer:
        """Uniform in [0, 1)."""
        return self._wrap(_stream(dims_of(shape), generator).uniform(self._float(dtype)), device)

    def randn(
        self, shape: Any = (), dtype: object = None, device: object = None, generator: Any = None
    ) -> Tracer:
        """Normal, of mean 0 and variance 1."""
        return self._wrap(_stream(dims_of(shape), generator).normal(self._float(dtype)), device)

    def randint(
        self,
        low: Any,
        high: Any = None,
        shape: Any = None,
        dtype: object = None,
        device: object = None,
        generator: Any = None,
    ) -> Tracer:
        """Integers from `low` (or 0) up to, not including, `high`."""
        if shape is None and high is not None and not is_size(high):
            low, high, shape = 0, low, high
        elif high is None:
            low, high = 0, low
        return _integers(
            low, high, dims_of(() if shape is None else shape), self._wrap, dtype, device, generator
        )


def _stream(shape: Shape, generator: Any = None) -> _Stream:
    if generator is not None:
        raise unsupported(
            "a random generator inside a compiled function",
            hint="torch.manual_seed or tgc.manual_seed fix what is drawn",
        )
    return _Stream(shape)


def _integers(
    low: Any, high: Any, shape: Shape, wrap: Any, dtype: object, device: object, generator: Any
) -> Tracer:
    if not (isinstance(low, int) and isinstance(high, int)):
        raise unsupported("randint between traced numbers", hint="make them static")
    if not 0 < high - low <= 2**31:
        raise shape_error(f"randint expects 0 < high - low <= 2**31, got low={low}, high={high}")
    drawn = wrap(_stream(shape, generator).below(high - low), device)
    kind = dtypes.int64 if dtype is None else element_type(dtype)
    return cast(drawn if low == 0 else add(drawn, low), kind)


# --- arrays like others ---------------------------------------------------------------------------------------------


def _like(x: Value, dtype: object) -> tuple[Tracer, DType]:
    x = array(x)
    kind = x.kind if dtype is None else element_type(dtype)
    if not kind.is_float:
        raise unsupported(f"random {kind.name}", hint="dtype=torch.float32")
    return x, kind


def rand_like(x: Value, dtype: object = None, device: object = None) -> Tracer:
    """Uniform in [0, 1), in x's shape."""
    x, kind = _like(x, dtype)
    return Tracer(_Stream(x.node.shape).uniform(kind), x.container, x.device)


def randn_like(x: Value, dtype: object = None, device: object = None) -> Tracer:
    """Normal, of mean 0 and variance 1, in x's shape."""
    x, kind = _like(x, dtype)
    return Tracer(_Stream(x.node.shape).normal(kind), x.container, x.device)


def uniform(x: Value, low: Value = 0.0, high: Value = 1.0, generator: Any = None) -> Tracer:
    """Uniform between two numbers, in x's shape: x.uniform_()."""
    _refuse(generator)
    if (low, high) == (0.0, 1.0):
        return rand_like(x)
    return add(mul(rand_like(x), high - low), low)  # type: ignore[operator]


def normal(x: Value, mean: Value = 0.0, std: Value = 1.0, generator: Any = None) -> Tracer:
    """Normal, in x's shape: x.normal_()."""
    _refuse(generator)
    return add(mul(randn_like(x), std), mean)


def bernoulli(x: Value, p: Value = None, generator: Any = None) -> Tracer:
    """1 with probability p (or x itself), else 0, in x's shape and type."""
    _refuse(generator)
    x = array(x)
    chance = x if p is None else p
    kind = x.kind.compute if x.kind.is_float else dtypes.float32
    drawn = Tracer(_Stream(x.node.shape).uniform(kind), x.container, x.device)
    return cast(lt(drawn, chance), x.kind)


def dropout(x: Value, p: Value = 0.5, train: bool = True) -> Tracer:
    """Zero with probability p, else divided by 1 - p; the identity outside training."""
    return _dropped(array(x), p, train, array(x).node.shape)


def feature_dropout(x: Value, p: Value = 0.5, train: bool = True) -> Tracer:
    """Whole channels (axis 1) dropped."""
    x = array(x)
    if x.ndim < 2:
        raise shape_error("Feature dropout requires at least 2 dimensions in the input")
    return _dropped(x, p, train, (*x.node.shape[:2], *(1,) * (x.ndim - 2)))


def dropout1d(x: Value, p: Value = 0.5, train: bool = True) -> Tracer:
    """Channels of [N, C, L] or [C, L] dropped."""
    return _channels_dropped(array(x), p, train, 3)


def dropout3d(x: Value, p: Value = 0.5, train: bool = True) -> Tracer:
    """Channels of [N, C, D, H, W] or [C, D, H, W] dropped."""
    return _channels_dropped(array(x), p, train, 5)


def _channels_dropped(x: Tracer, p: Value, train: bool, batched: int) -> Tracer:
    if x.ndim not in (batched, batched - 1):
        raise shape_error(f"expected {batched - 1} or {batched} dimensions, got {x.ndim}")
    channels = x.ndim - batched + 2
    return _dropped(x, p, train, (*x.node.shape[:channels], *(1,) * (x.ndim - channels)))


def _dropped(x: Tracer, p: Value, train: bool, shape: Shape) -> Tracer:
    if not train or (isinstance(p, int | float) and p == 0):
        return x
    if isinstance(p, int | float) and not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    stream, b = _Stream(shape), builder()
    if isinstance(p, int | float):
        drawn = Tracer(stream.low(24), x.container, x.device)
        kept = ge(drawn, round(p * 2**24))
        scale: Value = 0.0 if p == 1 else 1 / (1 - p)
    else:
        kept = ge(Tracer(stream.uniform(dtypes.float32), x.container, x.device), p)
        scale = 1 / (1 - p)  # type: ignore[operator]
    mask = Tracer(b.cast(kept.node, x.kind), x.container, x.device)
    return mul(x, mul(mask, scale))


def _refuse(generator: Any) -> None:
    if generator is not None:
        _stream((), generator)
