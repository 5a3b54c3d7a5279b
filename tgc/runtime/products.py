"""Matrix products beside kernels: a library's, called by the team that runs kernels.

A library's product has threads of its own, which look for work for long after it: the kernel that follows shares its
processors with them. Here the team computes shares of a product, each by the library on one thread. Where a kernel
alone reads a product, row after row, some hundred rows are computed at a time and read while they lie in the cache:
the product is never in memory as a whole.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tgc.runtime.blas import library
from tgc.runtime.native import Module
from tgc.runtime.routine import NULL, Routine, integer
from tgc.runtime.team import team
from tgc.runtime.workers import threads

LEAST = 1 << 22
"""Multiplications from which a library uses threads: below, nothing of it is left running."""
UNIT = 32
"""Shares are multiples of so many rows or columns, which a library computes together."""
DEEPEST = 2048
"""Bytes of a row of the left factor. Beyond, the product is so much work that it is better done in few shares: each
makes a copy of the right factor."""
LOWEST, TALLEST, ROOM = 128, 512, 1 << 20
"""Rows, and bytes, that are computed before others read them: few enough to stay in a processor's cache, and enough for
the library's copy of the right factor to pay."""
PROGRAMS = 16
"""How many programs there should be where others read them."""

Array = np.ndarray[Any, Any]
Offsets: TypeAlias = "ctypes.Array[ctypes.c_int64]"


def matmul(a: Array, b: Array, *, out: Array) -> None:
    """`np.matmul(a, b, out=out)`."""
    shares = _shares(a, b, out)
    if shares is None:
        np.matmul(a, b, out=out)
    else:
        where = shares.__index__()
        _module(out.dtype)["product"](where, shares.programs, 0, where)


def _shares(a: Array, b: Array, out: Array) -> _Product | None:
    """A share for each thread: matrices of a stack, rows or columns. None where the library may as well do it alone."""
    left, right, into = _order(a), _order(b), _order(out)
    if left is None or right is None or into is None or into.turned != _BY_ROWS:
        return None
    if not a.dtype == b.dtype == out.dtype or not _multiplied(out.dtype) or threads() == 1:
        return None
    if out.size * a.shape[-1] < LEAST or np.may_share_memory(a, out) or np.may_share_memory(b, out):
        return None
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if out.shape != (*stack, a.shape[-2], b.shape[-1]) or a.shape[-1] != b.shape[-2]:
        return None  # it says what is wrong
    # Columns of a @ b are rows of b.T @ a.T. Turned matrices are the same memory, its lines called columns.
    axis = int(out.shape[-2] < out.shape[-1])
    (a, left), (b, right) = ((b, right), (a, left)) if axis else ((a, left), (b, right))
    m, pieces = out.shape[axis - 2], -(-threads() // math.prod(stack))
    height = min(m, -(-m // (pieces * UNIT)) * UNIT)
    if height >= math.prod(stack) * m:
        return None
    return _Product(
        (a, left),
        (b, right),
        stack,
        run="limited",
        columns=axis,
        a_step=a.strides[axis - 2],
        c=out,
        c_step=out.strides[axis - 2],
        ldc=into.far,
        m=m,
        n=out.shape[-1 - axis],
        k=a.shape[-1 - axis],
        height=height,
    )


def _multiplied(dtype: np.dtype[Any]) -> bool:
    """Whether there is a library for products of a type."""
    found = library()
    return found is not None and dtype in found.gemm


def panels(
    a: Array, b: Array, *, place: tuple[int, int], each: int, beside: int
) -> _Product | None:
    """A team for a kernel that reads a @ b: programs run after the rows they read. None where that does not pay.

    Args:
        place: how many arguments the kernel has, and which of them is the product.
        each: elements of the product that a program reads.
        beside: programs that read the same ones.
    """
    left, right = _order(a), _order(b)
    if left is None or right is None or not _multiplied(a.dtype):
        return None
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    (m, k), n, item = a.shape[-2:], b.shape[-1], a.itemsize
    rows = math.prod(stack) * m
    if rows * n * k < LEAST or k * item > DEEPEST:
        return None
    unit = each // math.gcd(each, n)
    height = min(TALLEST, ROOM // (n * item), rows // PROGRAMS) // unit * unit
    if height > m and m % unit == 0:
        height -= height % m
    if height < LOWEST:
        return None
    return _Product(
        (a, left),
        (b, right),
        stack,
        run="panels",
        a_step=a.strides[-2],
        c_step=n * item,
        ldc=n,
        m=m,
        n=n,
        k=k,
        height=height,
        count=place[0],
        slot=place[1],
        each=each,
        beside=beside,
    )


class _Product:
    """What native code is told of a product; in place of a team where rows are read as they are computed."""

    def __init__(
        self,
        a: tuple[Array, _Order],
        b: tuple[Array, _Order],
        stack: tuple[int, ...],
        run: str,
        c: Array | None = None,
        **values: int,
    ) -> None:
        # Columns of a @ b are rows of b.T @ a.T, so then `a` is on the right.
        height = min(values["height"], values["m"])
        lines, right = (values["n"], a) if values.get("columns") else (height, b)
        apart = right[1].far * right[0].itemsize if right[1].turned == _BY_ROWS else 0
        blas = library(lines, apart)
        assert blas is not None
        rows, dtype = math.prod(stack) * values["m"], a[0].dtype
        self.programs = -(-rows // values["height"])
        values |= {
            "run": _address(dtype, run),
            "team": team(),
            "users": ctypes.addressof(_users),
            "threads": blas.threads,
            "set_threads": blas.set_threads,
            "gemm": blas.gemm[dtype],
            "a_turned": a[1].turned,
            "lda": a[1].far,
            "b_turned": b[1].turned,
            "ldb": b[1].far,
            "rows": rows,
            "programs": self.programs,
        }
        self._held = [a[0], b[0]] if c is None else [a[0], b[0], c]
        tables = [_offsets(stack, x.shape[:-2], x.strides[:-2]) for x in self._held]
        for name, array, table in zip("abc", self._held, tables):
            values |= {name: array.ctypes.data, f"{name}_matrices": ctypes.addressof(table)}
        if blas.threads:
            _users[3] = blas.set_threads
        self._words = _Words(*[values.get(name, 0) for name in _WORDS])
        self._tables = tables

    def __index__(self) -> int:
        return ctypes.addressof(self._words)


@lru_cache(maxsize=64)
def _offsets(stack: tuple[int, ...], shape: tuple[int, ...], strides: tuple[int, ...]) -> Offsets:
    """Where each matrix lies in an array of them that is broadcast to a stack, in bytes."""
    places = np.zeros(1, np.int64)
    new = len(stack) - len(shape)
    for extent, own, stride in zip(stack, (1,) * new + shape, (0,) * new + strides):
        places = np.add.outer(places, np.arange(extent) * (stride if own > 1 else 0)).reshape(-1)
    return (ctypes.c_int64 * places.size)(*places.tolist())


_BY_ROWS, _BY_COLUMNS = ord("N"), ord("T")


class _Order(NamedTuple):
    """How a matrix lies: whether its rows or its columns are contiguous, and elements from one to the next."""

    turned: int
    far: int


def _order(matrix: Array) -> _Order | None:
    """None if it is no matrix or stack of them, neither rows nor columns are contiguous, or they lie backwards."""
    if matrix.ndim < 2:
        return None
    item, strides = matrix.itemsize, matrix.strides[-2:]
    for turned, (far, near), count in (
        (_BY_ROWS, strides, matrix.shape[-1]),
        (_BY_COLUMNS, strides[::-1], matrix.shape[-2]),
    ):
        if near == item and far % item == 0 and far // item >= max(1, count):
            return _Order(turned, far // item)
    return None


# --- the library's threads --------------------------------------------------------------------------------------------

_users = (ctypes.c_int64 * 4)()
"""Of a library whose number of threads is the process's: a lock, how many products are under way, how many threads
there were before them, and what sets that number."""


def _forget() -> None:
    """After a fork: the products that were under way are the parent's."""
    if _users[1] and _users[2]:
        ctypes.CFUNCTYPE(None, ctypes.c_int)(_users[3])(_users[2])
    _users[:3] = [0, 0, 0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


# --- native code ----------------------------------------------------------------------------------------------------

_POINTERS = (
    *("run", "team", "function", "arguments", "users", "threads", "set_threads", "gemm"),
    *("a", "b", "c", "a_matrices", "b_matrices", "c_matrices"),
)
_NUMBERS = (
    *("rows", "m", "n", "k", "columns", "height", "programs", "count", "slot", "each", "beside"),
    *("a_turned", "b_turned", "lda", "ldb", "ldc", "a_step", "c_step"),
)
_WORDS = (*_POINTERS, *_NUMBERS)
"""What lies where a product is described. Like a team it begins with what runs programs. There are `rows` in a stack of
matrices with `m` each; `a_matrices` tells where they lie behind `a`. Steps are in bytes."""
_Words = ctypes.c_int64 * len(_WORDS)
_GIVEN = "ptr %given"


@lru_cache(maxsize=4)
def _address(dtype: np.dtype[Any], run: str) -> int:
    return _module(dtype).address(run)


@lru_cache(maxsize=2)
def _module(dtype: np.dtype[Any]) -> Module:
    routines = (
        _users_change(),
        _rows(),
        _product(),
        _followed(dtype.itemsize),
        _limited(),
        _panels(),
    )
    scalar = {"float32": "float", "float64": "double"}[dtype.name]
    numbers = f"@one = private constant {scalar} 1.0\n@zero = private constant {scalar} 0.0\n"
    declared = "declare i64 @llvm.smin.i64(i64, i64)\n"
    return Module(numbers + declared + "\n".join(r.text() for r in routines))


def _place(f: Routine, name: str) -> str:
    return f.at(_GIVEN, 8 * _WORDS.index(name))


def _word(f: Routine, name: str) -> str:
    return f.read(_place(f, name), "ptr" if name in _POINTERS else "i64")


def _matrix(f: Routine, name: str, number: str) -> str:
    """The address of one matrix of a stack."""
    offset = f.element(_word(f, f"{name}_matrices"), number, "i64")
    return f.at(_word(f, name), offset)


def _function(f: Routine, name: str) -> str:
    return _word(f, name).split()[1]


def _rows() -> Routine:
    """`%height` rows from `%top` on, or columns, by the library on one thread, to where row 0 would be or to `c`."""
    f = Routine("void", "rows", _GIVEN, "i64 %top", "i64 %height", "ptr %to")
    before, own = f.variable("i32 0"), f.is_null(_word(f, "threads"))
    with f.when(own):
        f.write(before, f.call("i32", _function(f, "set_threads"), "i32 1"))
    by_columns = f.test("ne", _word(f, "columns"), integer(0))
    next_row, end = f.variable("i64 %top"), f.add("i64 %top", "i64 %height")
    with f.endless():
        row, m = f.read(next_row), _word(f, "m")
        with f.unless(f.test("slt", row, end)):
            with f.when(own):
                f.call("i32", _function(f, "set_threads"), f.read(before, "i32"))
            f.give()
        matrix = f.over(row, m)
        inside = f.subtract(row, f.times(matrix, m))
        some = f.call("i64", "@llvm.smin.i64", f.subtract(m, inside), f.subtract(end, row))
        _multiply(f, by_columns, matrix, row, inside, f.variable(some))
        f.write(next_row, f.add(row, some))
    return f


def _multiply(f: Routine, by_columns: str, matrix: str, row: str, inside: str, height: str) -> None:
    """Rows of one matrix, from the one `inside` on."""
    to = f.variable(f.at("ptr %to", f.times(row, _word(f, "c_step"))))
    with f.when(f.is_null("ptr %to")):
        own = _matrix(f, "c", matrix)
        f.write(to, f.at(own, f.times(inside, _word(f, "c_step"))))
    a = f.at(_matrix(f, "a", matrix), f.times(inside, _word(f, "a_step")))
    left = _place(f, "a_turned"), height, a, _place(f, "lda")
    right = (
        _place(f, "b_turned"),
        _place(f, "n"),
        _matrix(f, "b", matrix),
        _place(f, "ldb"),
    )

    def call(first: tuple[str, ...], second: tuple[str, ...]) -> None:
        turned, sizes, places, far = zip(first, second, strict=True)
        factors = places[0], far[0], places[1], far[1]
        numbers = *sizes, _place(f, "k"), "ptr @one", *factors, "ptr @zero"
        into = f.read(to, "ptr"), _place(f, "ldc")
        f.call("void", _function(f, "gemm"), *turned, *numbers, *into)

    # The library's matrices are columns of columns: rows of a @ b are columns of b.T @ a.T.
    with f.when(by_columns):
        call(left, right)
    with f.unless(by_columns):
        call(right, left)


@contextmanager
def _programs(f: Routine) -> Iterator[tuple[str, str]]:
    """For each program of a range, its first row and how many it has."""
    with f.each(f.subtract("i64 %last", "i64 %first")) as k:
        top = f.times(f.add("i64 %first", k), _word(f, "height"))
        rest = f.subtract(_word(f, "rows"), top)
        yield top, f.call("i64", "@llvm.smin.i64", rest, _word(f, "height"))


def _product() -> Routine:
    """Programs of a product that is wanted as a whole."""
    f = Routine("void", "product", _GIVEN, "i64 %first", "i64 %last", linkage="")
    with _programs(f) as (top, height):
        f.call("void", "@rows", _GIVEN, top, height, NULL)
    f.give()
    return f


def _followed(item: int) -> Routine:
    """A program computes rows in memory of its own, and runs the programs of a kernel that read them.

    The kernel finds the product where its rows would lie if all of them were there.
    """
    f = Routine("void", "followed", _GIVEN, "i64 %first", "i64 %last")
    n, count = _word(f, "n"), _word(f, "count")
    line = f.times(n, integer(item))
    size = f.times(_word(f, "height"), line)
    rows = f.api("PyMem_RawMalloc", f.add(size, f.times(count, integer(8))))
    own = f.at(rows, size)

    def program(row: str, less: str) -> str:
        """The first program that reads a row; the first that reads none before it where `less` rounds up."""
        number = f.over(f.add(f.times(row, n), less), _word(f, "each"))
        return f.times(number, _word(f, "beside"))

    with _programs(f) as (top, height):
        start = f.at(rows, f.subtract(integer(0), f.times(top, line)))
        f.call("void", "@rows", _GIVEN, top, height, start)
        with f.each(count) as k:
            f.write(f.beyond(own, k), f.element(_word(f, "arguments"), k, "i64"))
        f.write(f.beyond(own, _word(f, "slot")), start)
        low = program(top, integer(0))
        high = program(f.add(top, height), f.subtract(_word(f, "each"), integer(1)))
        f.call("void", _function(f, "function"), own, low, high)
    f.api("PyMem_RawFree", rows)
    f.give()
    return f


_CALL = _GIVEN, "ptr %function", "ptr %arguments", "i64 %count", "i64 %piece"


def _panels() -> Routine:
    """What a kernel's wrapper calls as the run of its team: its programs are those of the product, which it reads."""
    f = Routine("void", "panels", *_CALL, linkage="dso_local")
    for name in ("function", "arguments"):
        f.write(_place(f, name), f"ptr %{name}")
    f.call("void", "@limited", _GIVEN, "ptr @followed", _GIVEN, _word(f, "programs"), integer(0))
    f.give()
    return f


def _limited() -> Routine:
    """Run programs by the team; the library keeps to one thread meanwhile."""
    f = Routine("void", "limited", *_CALL, linkage="dso_local")
    f.call("void", "@users", _GIVEN, integer(1))
    team = _word(f, "team")
    alone = f.is_null(team)
    with f.when(alone):
        f.call("void", "%function", "ptr %arguments", integer(0), "i64 %count")
    with f.unless(alone):
        run = f.read(team, "ptr").split()[1]
        f.call("void", run, team, "ptr %function", "ptr %arguments", "i64 %count", "i64 %piece")
    f.call("void", "@users", _GIVEN, integer(-1))
    f.give()
    return f


def _users_change() -> Routine:
    """Add to the users of one thread, where that is the process's affair.

    The first keeps the number of threads there was, and the last restores it.
    """
    f = Routine("void", "users", _GIVEN, "i64 %more")
    with f.when(f.is_null(_word(f, "threads"))):
        f.give()
    users = _word(f, "users")
    count, kept = f.at(users, 8), f.at(users, 16)
    with f.endless():
        had = f.let("i64", f"atomicrmw xchg {users}, i64 1 acquire")
        with f.when(f.test("eq", had, integer(0))):
            before = f.read(count)
            after = f.add(before, "i64 %more")
            f.write(count, after)
            with f.when(f.test("eq", f.add(before, after), integer(1))):
                with f.when(f.test("eq", after, integer(1))):
                    number = f.call("i32", _function(f, "threads"))
                    f.write(kept, f.let("i64", f"sext {number} to i64"))
                    f.call("void", _function(f, "set_threads"), "i32 1")
                with f.when(f.test("eq", after, integer(0))):
                    number = f.let("i32", f"trunc {f.read(kept)} to i32")
                    f.call("void", _function(f, "set_threads"), number)
            f.do(f"store atomic i64 0, {users} release, align 8")
            f.give()
    return f
