"""Comparing and making arrays in native code: as Python would, and without a trace in reference counts."""

from __future__ import annotations

import gc
import sys
from typing import Any

import numpy as np
import pytest

import tgc
from tgc.runtime import arrays, interpreter, memory, native

pytest.importorskip("llvmlite")


@pytest.fixture(autouse=True, scope="module")
def attached() -> None:
    tgc.jit(lambda x: x + 1, backend="native")(np.zeros(3))
    assert arrays.attached()


SHAPES = [(), (0,), (1,), (3,), (2, 3), (4, 1, 2), (2, 1, 3, 1, 2)]
LAYOUTS = {
    "plain": lambda a: a,
    "transposed": lambda a: a.T,
    "backwards": lambda a: a[::-1] if a.ndim else a,
    "broadcast": lambda a: np.broadcast_to(a, (2, *a.shape)),
    "fortran": np.asfortranarray,
    "swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "wider": lambda a: a.astype(np.float64),
    "other bits": lambda a: a.view(np.int32),
    "recarray": lambda a: a.view(np.recarray),
    "masked": np.ma.masked_array,
    "list": lambda a: a.tolist(),
    "none": lambda a: None,
}
ALL = [make(np.zeros(s, np.float32)) for s in SHAPES for make in LAYOUTS.values()]


def same(a: Any, b: Any) -> bool:
    """What the comparison must say, in Python."""
    return (
        type(a) is type(b) is np.ndarray
        and a.dtype is b.dtype
        and (a.shape, a.strides) == (b.shape, b.strides)
    )


@pytest.mark.parametrize("place", [0, 1])
def test_arrays_are_told_apart_as_python_does(place: int) -> None:
    other = np.ones((2, 2))
    found = set()
    for one in ALL:
        if type(one) is not np.ndarray:
            continue
        check = arrays.alike([other, one] if place else [one, other])
        assert check is not None
        for two in ALL:
            answer = check(other, two) if place else check(two, other)
            assert answer is same(one, two), (one, two)
            found.add(answer)
    assert found == {True, False}


def test_an_equal_dtype_is_not_the_same() -> None:
    known = np.dtype(np.float32, metadata={"a": 1})
    array = np.zeros(3, known)
    check = arrays.alike([array])
    assert check is not None and check(array) and array.dtype == np.zeros(3, np.float32).dtype
    assert not check(np.zeros(3, np.float32))


def test_another_number_of_arguments_is_refused() -> None:
    array = np.zeros(3)
    check = arrays.alike([array, array])
    assert check is not None and check(array, array)
    assert not (check() or check(array) or check(array, array, array))


def test_it_asks_whether_all_is_as_it_was() -> None:
    array, results = np.zeros(3), [1.5, "text"]
    asked: list[int] = []

    def at(k: int) -> Any:
        asked.append(k)
        return results[k]

    state = [(lambda: at(0), results[0]), (lambda: at(1), results[1])]
    check = arrays.alike([array], state)
    alone = arrays.alike([], state)
    assert check is not None and alone is not None
    assert check(array) and alone() and asked == [0, 1, 0, 1]
    assert not check(None) and not alone(array)
    results[1] = "".join(["te", "xt"])  # equal, and another
    assert not check(array) and not alone()
    asked.clear()
    results[0] = None
    assert not check(array) and asked == [0]
    results.clear()
    with pytest.raises(IndexError):
        check(array)


DTYPES = [np.float32, np.float64, np.float16, np.bool_, np.int8, np.uint8, np.int64]
OTHERS = [np.uint16, np.dtype(np.float32), ">f4", object, np.complex64, "U3"]


@pytest.mark.parametrize("dtype", [*DTYPES, *OTHERS], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, 0, 7, [2, 3], (np.int32(2), 3)], ids=str)
def test_it_looks_like_np_empty(shape: Any, dtype: Any) -> None:
    ours, theirs = arrays.empty()(shape, dtype), np.empty(shape, dtype)
    assert type(ours) is np.ndarray
    assert (ours.shape, ours.dtype, ours.strides) == (theirs.shape, theirs.dtype, theirs.strides)
    assert str(ours.flags) == str(theirs.flags)
    ours[...] = 1
    assert (ours == np.ones(shape, dtype)).all()


@pytest.mark.parametrize("given", [(-1, np.float32), ((2, -3), np.float32)], ids=str)
def test_its_errors_are_numpys(given: Any) -> None:
    with pytest.raises(ValueError) as theirs:
        np.empty(*given)
    with pytest.raises(ValueError) as ours:
        arrays.empty()(*given)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    "shape", [1 << 62, (1 << 61) - 1, (1 << 40, 1 << 40), (1 << 70, 2)], ids=str
)
def test_what_is_too_large_is_an_error(shape: Any) -> None:
    with pytest.raises((ValueError, MemoryError, OverflowError)):
        arrays.empty()(shape, np.float64)
    assert arrays.empty()(3, np.float64).size == 3


def test_nothing_is_held_or_lost() -> None:
    array = np.zeros(3, np.float32)
    watched = [array.dtype, np.float32, array, np.ndarray, (2, 3)]
    check = arrays.alike([array], [(lambda: watched[-1], watched[-1])])
    empty = arrays.empty()
    assert check is not None

    def counts() -> list[int]:
        gc.collect()
        return [sys.getrefcount(x) for x in watched]

    before = counts()
    for _ in range(1000):
        check(array)
        check(None)
        empty(3, np.float32)
        empty(watched[-1], np.float32)
        with pytest.raises(ValueError):
            empty(-1, np.float32)
    assert [abs(a - b) < 100 for a, b in zip(counts(), before)] == [True] * len(watched)


def test_before_there_is_native_code_python_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_alike", 0), ("_empty", None), ("_pool", 0)):
        monkeypatch.setattr(arrays, name, value)
    assert arrays.alike([np.zeros(3)]) is None
    assert arrays.empty(small=True) is np.empty and arrays.empty() is memory.empty
    assert arrays.pool() is None


@pytest.mark.parametrize("k", range(7))  # not those that are followed
def test_unknown_objects_are_left_to_numpy(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field elsewhere than known is noticed, and then there is no native engine."""
    assert interpreter.is_laid_out_as_known() and native.unavailable.__wrapped__() is None
    examples = list(interpreter._EXAMPLES)
    thing, field, right = examples[k]
    examples[k] = thing, interpreter.Field("i32", field.offset + 4), right
    monkeypatch.setattr(interpreter, "_EXAMPLES", examples)
    assert not interpreter.is_laid_out_as_known()
    assert "laid out" in native.unavailable.__wrapped__()
