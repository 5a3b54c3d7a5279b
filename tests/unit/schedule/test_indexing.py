"""Index arithmetic against plain integers: every movement, pushed backward, reads what numpy moves."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tgc.ir.nodes import Broadcast, Flip, Movement, Pad, Permute, Reshape, Slice
from tgc.ir.sizes import Dim, Size, evaluate, floordiv, nonnegative
from tgc.kernel.ir import Index, Quotient, Remainder
from tgc.schedule import indexing as ix

SIZES = {"n": 3, "m": 4, "k": 5}
N, M, K = (Size.symbol(s) for s in SIZES)


def at(index: Index, point: dict[str, int]) -> int:
    """The value of an index at a point of the axes."""
    total = evaluate(index.offset, SIZES)
    for term, coefficient in index.terms:
        if isinstance(term, str):
            value = point[term]
        elif isinstance(term, Quotient):
            value = at(term.index, point) // evaluate(term.divisor, SIZES)
        else:
            assert isinstance(term, Remainder)
            value = at(term.index, point) % evaluate(term.divisor, SIZES)
        total += evaluate(coefficient, SIZES) * value
    return total


def moved(x: np.ndarray, movement: Movement) -> np.ndarray:
    """What numpy makes of a movement."""
    size = lambda dims: tuple(evaluate(d, SIZES) for d in dims)
    if isinstance(movement, Broadcast):
        shape = [1] * len(movement.shape)
        for d, extent in zip(movement.dims, x.shape, strict=True):
            shape[d] = extent
        return np.broadcast_to(x.reshape(shape), size(movement.shape))
    if isinstance(movement, Permute):
        return x.transpose(movement.order)
    if isinstance(movement, Reshape):
        return x.reshape(size(movement.shape))
    if isinstance(movement, Flip):
        return np.flip(x, movement.axes)
    if isinstance(movement, Slice):
        cuts = zip(size(movement.start), size(movement.stop), movement.step, strict=True)
        return x[tuple(slice(*c) for c in cuts)]
    out = x
    for axis, interior in enumerate(movement.interior):
        for _ in range(interior):
            parts = (
                np.insert(out, range(1, out.shape[axis]), 0, axis=axis) if interior == 1 else out
            )
            out = parts
    return np.pad(out, list(zip(size(movement.before), size(movement.after), strict=True)))


MOVEMENTS: list[tuple[tuple[Dim, ...], Movement]] = [
    ((N, M), Broadcast((K, N, M), (1, 2))),
    ((N, 1), Broadcast((N, M), (0, 1))),
    ((N, M, K), Permute((2, 0, 1))),
    ((N, M), Reshape((N * M,))),
    ((N * M,), Reshape((N, M))),
    ((N, M, K), Reshape((N, M * K))),
    ((N, M * K), Reshape((N * M, K))),
    ((N * M, K), Reshape((N, 1, M * K))),
    ((N, M), Reshape((M, N))),
    ((N, M), Slice((1, 0), (N, M), (1, 2))),
    ((N, M), Pad((1, 0), (0, 2), (0, 0))),
    ((N, M), Pad((0, 1), (0, 0), (1, 0))),
    ((N, M), Flip((0, 1))),
]


def test_movements_read_what_numpy_moves() -> None:
    for shape, movement in MOVEMENTS:
        x = np.arange(1, 1 + np.prod([evaluate(d, SIZES) for d in shape]))
        x = x.reshape([evaluate(d, SIZES) for d in shape])
        want = moved(x, movement)
        extents = {f"a{k}": d for k, d in enumerate(_result(movement, shape))}
        index = tuple(ix.axis(a) if d != 1 else ix.ZERO for a, d in extents.items())
        inner, conditions = ix.pull(movement, index, shape, extents)
        for point in itertools.product(*(range(d) for d in want.shape)):
            axes = dict(zip(extents, point, strict=True))
            inside = all(
                evaluate(c.low, SIZES) <= at(c.index, axes) < evaluate(c.high, SIZES)
                and (at(c.index, axes) - evaluate(c.low, SIZES)) % c.step == 0
                for c in conditions
            )
            got = x[tuple(at(i, axes) for i in inner)] if inside else 0
            assert got == want[point], (movement, point)


def _result(movement: Movement, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    from tgc.ir.build import moved_shape

    return moved_shape(shape, movement)


def test_matched_splits_and_merges_need_no_division() -> None:
    extents = {"r": N, "c": M * K}
    (i, j, k), _ = ix.pull(Reshape((N, M * K)), (ix.axis("r"), ix.axis("c")), (N, M, K), extents)
    flat = ix.add(ix.add(ix.scale(i, M * K), ix.scale(j, K)), k)
    assert flat == ix.add(ix.scale(ix.axis("r"), M * K), ix.axis("c"))


dims = st.sampled_from([2, 3, N, M, N * M, M * K, N * M * K])


@given(st.lists(st.tuples(st.sampled_from(["r", "c"]), dims), max_size=3), st.integers(0, 9), dims)
def test_division_and_remainder(terms: list[tuple[str, Dim]], offset: int, divisor: Dim) -> None:
    extents = {"r": N * 2, "c": M}
    index = ix.shift(ix.ZERO, offset)
    for axis, coefficient in terms:
        index = ix.add(index, ix.scale(ix.axis(axis), coefficient))
    q, r = ix.quotient(index, divisor, extents), ix.remainder(index, divisor, extents)
    joined = ix.add(ix.scale(q, divisor), r)
    d = evaluate(divisor, SIZES)
    for point in itertools.product(range(2 * SIZES["n"]), range(SIZES["m"])):
        axes = dict(zip(("r", "c"), point, strict=True))
        value = at(index, axes)
        assert (at(q, axes), at(r, axes), at(joined, axes)) == (value // d, value % d, value)
        assert not ix.within(index, divisor, extents) or value < d


def test_a_quotient_of_a_negative_number_is_not_known_to_be_positive() -> None:
    """It is in the index of an array rolled backwards."""
    assert nonnegative(floordiv(N + 3, M) * N, 2)
    assert not nonnegative(floordiv(-1, N) * N + 1, 2)
    assert not nonnegative(floordiv(N, floordiv(-1, M)), 2)
    assert nonnegative(floordiv(N - 2, 3), 2) and not nonnegative(floordiv(N - 2, 3), 1)
    assert not ix.within(ix.shift(ix.axis("i"), floordiv(-1, N) * N + 1), 2 * N, {"i": N})
