"""Matrix products as LLVM text, for the threads that run kernels.

A library's product has threads of its own, which look for work for long after it: the kernel that follows shares its
processors with them. And its product is in memory before anybody may read it.

The right factor is copied once, into panels as wide as a tile of results. Of the left one each program copies the block
it needs. So a tile, which stays in registers, reads both in order. Sums run along the depth in pieces of fixed length:
which program computes an element does not show in its bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tgc.codegen.native.instructions import spread
from tgc.codegen.native.llvm import Function, Value, register_type, splat, suffix, vector
from tgc.ir import dtypes
from tgc.ir.dtypes import DType

DEPTH_BYTES = 1024
"""Of a piece of the sum: a panel of the right factor, so deep, stays in the first cache while rows go by."""
STRIP = 16
"""Rows of the right factor that are copied together, of all panels: memory is read in order. No fewer than lanes."""


@dataclass(frozen=True)
class Shape:
    """What products of one type are made of: vectors, and tiles of `rows` rows and two vectors."""

    dtype: DType
    vector_bytes: int
    rows: int

    @property
    def scalar(self) -> str:
        return register_type(self.dtype)

    @property
    def lanes(self) -> int:
        return self.vector_bytes // self.dtype.itemsize

    @property
    def columns(self) -> int:
        return 2 * self.lanes

    @property
    def depth(self) -> int:
        return DEPTH_BYTES // self.dtype.itemsize

    @property
    def pitch(self) -> int:
        """Elements from one row of a block to the next: no power of two, or all would share one set of the cache."""
        return self.depth + self.lanes


def emit(shape: Shape, left_by_rows: bool, right_by_rows: bool) -> str:
    """A module of two kernels, `panels`, which copies the right factor, and `product`; and of `run`.

    An address where `FOLLOWED` lies, the first word being `run`, stands for the team of a kernel that reads a product:
    its programs then run after the rows they read.

    Args:
        left_by_rows: the rows of the left factor are contiguous, else its columns.
        right_by_rows: the same of the right one.
    """
    functions = [Function() for _ in range(5)]
    panels, tile, part, product, followed = functions
    parts = [
        _panels(panels, shape, right_by_rows),
        _tile(tile, shape, left_by_rows),
        _part(part, shape, left_by_rows),
        _product(product, shape),
        _followed(followed, shape),
        _RUN,
    ]
    declared = set[str]().union(*(f.declared for f in functions))
    return "\n\n".join([*parts, *sorted(declared)])


def _kernel(name: str, given: str) -> str:
    return f"define void @{name}({given}, i64 %first, i64 %last) nounwind"


def _parameters(f: Function, text: str) -> str:
    """The parameters of a function in the making, whose names nothing else in it may have."""
    for parameter in text.split(", "):
        f.fresh(parameter.rpartition("%")[2])
    return text


# --- small things ---------------------------------------------------------------------------------------------------


def _at(f: Function, shape: Shape, base: str, *products: tuple[str, str | int]) -> str:
    """The address of an element, whose index is a sum of products."""
    for index, factor in products:
        place = index if factor == 1 else f.put("place", f"mul nsw i64 {index}, {factor}")
        base = f.put("at", f"getelementptr {shape.scalar}, ptr {base}, i64 {place}")
    return base


def _add(f: Function, stem: str, a: str, b: str | int) -> str:
    return f.put(stem, f"add nsw i64 {a}, {b}")


def _less(f: Function, stem: str, a: str, b: str | int) -> str:
    return f.put(stem, f"sub nsw i64 {a}, {b}")


def _smaller(f: Function, stem: str, a: str, b: str | int) -> str:
    return f.call(stem, "i64", "llvm.smin.i64", f"i64 {a}", f"i64 {b}")


def _first(f: Function, count: str, lanes: int) -> str:
    """The mask of the first so many lanes."""
    short = f.put("short", f"trunc i64 {count} to i32")
    limit = spread(f, Value(short, dtypes.int32), lanes)
    return f.put("mask", f"icmp slt {limit.type} <{_numbers(range(lanes))}>, {limit.text}")


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(f"i32 {value}" for value in values)


def _load(f: Function, shape: Shape, lanes: int, at: str, mask: str) -> str:
    """A vector of which only some lanes are there, zeros elsewhere."""
    kind, bits = vector(shape.scalar, lanes), vector("i1", lanes)
    name = f"llvm.masked.load.{suffix(shape.scalar, lanes)}.p0"
    f.declared.add(f"declare {kind} @{name}(ptr, i32, {bits}, {kind})")
    operands = f"ptr {at}, i32 {shape.dtype.itemsize}, {bits} {mask}, {kind} zeroinitializer"
    return f.put("value", f"call {kind} @{name}({operands})")


def _store(f: Function, shape: Shape, lanes: int, value: str, at: str) -> None:
    kind = vector(shape.scalar, lanes)
    f.do(f"store {kind} {value}, ptr {at}, align {shape.dtype.itemsize}")


# --- factors --------------------------------------------------------------------------------------------------------


def _panels(f: Function, shape: Shape, by_rows: bool) -> str:
    """A program copies a strip of the right factor or, where columns are contiguous, a panel."""
    width = shape.columns
    given = _parameters(f, "ptr noalias %b, ptr noalias %packed, i64 %n, i64 %k, i64 %stride")
    deep = _deep(f)
    with f.loop("program", "%first", "%last") as program:
        if by_rows:
            top = f.put("top", f"mul nsw i64 {program}, {STRIP}")
            depth = _smaller(f, "depth", _less(f, "rest", "%k", top), STRIP)
            with f.loop("column", "0", "%n", width) as column:
                source = _at(f, shape, "%b", (top, "%stride"), (column, 1))
                to = _at(f, shape, "%packed", (column, deep), (top, width))
                left = _less(f, "left", "%n", column)
                _copy(f, shape, width, source, "%stride", left, to, depth)
        else:
            column = f.put("column", f"mul nsw i64 {program}, {width}")
            source = _at(f, shape, "%b", (column, "%stride"))
            to = _at(f, shape, "%packed", (column, deep))
            _turn(f, shape, source, "%stride", _less(f, "left", "%n", column), to)
    return f.text(_kernel("panels", given), [])


def _deep(f: Function) -> str:
    """The depth of a panel in memory: squares are turned whole."""
    return f.put("deep", f"and i64 {_add(f, 'up', '%k', STRIP - 1)}, {-STRIP}")


def _copy(
    f: Function, shape: Shape, width: int, source: str, stride: str, left: str, to: str, depth: str
) -> None:
    """`width` neighbours, of which `left` are there, of a row of the source; behind them those of the next."""
    mask = _first(f, left, width)
    with f.loop("row", "0", depth) as row:
        value = _load(f, shape, width, _at(f, shape, source, (row, stride)), mask)
        _store(f, shape, width, value, _at(f, shape, to, (row, width)))


def _turn(f: Function, shape: Shape, source: str, stride: str, left: str, to: str) -> None:
    """A panel from contiguous columns, of which `left` are there: squares of them are turned in registers."""
    lanes = shape.lanes
    kind, bits = vector(shape.scalar, lanes), vector("i1", lanes)
    with f.loop("row", "0", "%k", lanes) as row:
        mask = _first(f, _less(f, "rest", "%k", row), lanes)
        with f.loop("square", "0", str(shape.columns), lanes) as square:
            vectors = []
            for k in range(lanes):
                column = _add(f, "column", square, k)
                there = f.put("there", f"icmp slt i64 {column}, {left}")
                some = f.put("some", f"select i1 {there}, {bits} {mask}, {bits} zeroinitializer")
                at = _at(f, shape, source, (column, stride), (row, 1))
                vectors.append(_load(f, shape, lanes, at, some))
            for k, value in enumerate(_turned(f, kind, vectors, 16 // shape.dtype.itemsize)):
                here = _at(f, shape, to, (_add(f, "here", row, k), shape.columns), (square, 1))
                _store(f, shape, lanes, value, here)


def _turned(f: Function, kind: str, rows: list[str], block: int) -> list[str]:
    """The columns of a square of vectors, by shuffles that processors have: within blocks of 16 bytes, then of them."""
    lanes, apart = len(rows), 1
    while apart < lanes:
        orders = _mixed(lanes, apart, block)
        for i in (i for i in range(lanes) if not i & apart):
            pair = f"{kind} {rows[i]}, {kind} {rows[i | apart]}"
            rows[i], rows[i | apart] = (
                f.put("turn", f"shufflevector {pair}, <{lanes} x i32> <{_numbers(order)}>")
                for order in orders
            )
        apart *= 2
    if block < 4:
        return rows
    return [rows[i ^ 3 if i % 4 in (1, 2) else i] for i in range(lanes)]


def _mixed(lanes: int, apart: int, block: int) -> tuple[list[int], list[int]]:
    """Where the elements of two vectors go that are mixed from two, `apart` at a time."""
    if apart >= block:
        blocks = [range(start, start + block) for start in range(0, 2 * lanes, block)]
        return [k for b in blocks[::2] for k in b], [k for b in blocks[1::2] for k in b]
    low = [
        start + group + k + other
        for start in range(0, lanes, block)
        for group in range(0, block // 2, apart)
        for other in (0, lanes)
        for k in range(apart)
    ]
    return low, [k + block // 2 for k in low]


# --- results --------------------------------------------------------------------------------------------------------


def _tile(f: Function, shape: Shape, by_rows: bool) -> str:
    """The sums of a tile along a piece of the depth; those of `more` pieces are added to what is there."""
    rows, lanes, width, align = shape.rows, shape.lanes, shape.columns, shape.dtype.itemsize
    kind, wide, bits = (
        vector(shape.scalar, lanes),
        vector(shape.scalar, width),
        vector("i1", width),
    )
    given = _parameters(
        f, "ptr %a, ptr %b, i64 %depth, ptr %c, i64 %pitch, i64 %rows, i64 %columns, i1 %more"
    )
    fma = f"llvm.fma.{suffix(shape.scalar, lanes)}"
    f.declared |= {
        f"declare {kind} @{fma}({kind}, {kind}, {kind})",
        "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)",
    }
    sums = [[f.put("sum", f"alloca {kind}", once=True) for _ in range(2)] for _ in range(rows)]
    for r, pair in enumerate(sums):
        for half, pointer in enumerate(pair):
            f.do(f"store {kind} {splat('0.0', shape.scalar, lanes)}, ptr {pointer}")
            line = _at(f, shape, "%c", ("%pitch", r), (str(half * lanes), 1))
            f.do(f"call void @llvm.prefetch.p0(ptr {line}, i32 1, i32 3, i32 1)")
    with f.loop("depth", "0", "%depth") as k:
        row = _at(f, shape, "%b", (k, width))
        right = [
            f.put("b", f"load {kind}, ptr {at}, align {align}")
            for at in (row, _at(f, shape, row, (str(lanes), 1)))
        ]
        column = _at(f, shape, "%a", (k, 1 if by_rows else rows))
        for r, pair in enumerate(sums):
            at = _at(f, shape, column, (str(r * shape.pitch if by_rows else r), 1))
            one = f.put("a", f"load {shape.scalar}, ptr {at}, align {align}")
            left = spread(f, Value(one, shape.dtype), lanes).text
            for pointer, b in zip(pair, right, strict=True):
                old = f.put("old", f"load {kind}, ptr {pointer}")
                call = f"call {kind} @{fma}({kind} {left}, {kind} {b}, {kind} {old})"
                f.do(f"store {kind} {f.put('new', call)}, ptr {pointer}")
    mask = _first(f, "%columns", width)
    known = f.put("known", f"select i1 %more, {bits} {mask}, {bits} zeroinitializer")
    store = f"llvm.masked.store.{suffix(shape.scalar, width)}.p0"
    f.declared.add(f"declare void @{store}({wide}, ptr, i32, {bits})")
    for r, pair in enumerate(sums):
        with f.when(f.put("there", f"icmp slt i64 {r}, %rows"), "row"):
            halves = ", ".join(f"{kind} {f.put('half', f'load {kind}, ptr {p}')}" for p in pair)
            both = f"<{width} x i32> <{_numbers(list(range(width)))}>"
            total = f.put("total", f"shufflevector {halves}, {both}")
            at = _at(f, shape, "%c", ("%pitch", r))
            before = _load(f, shape, width, at, known)
            total = f.put("total", f"fadd {wide} {before}, {total}")
            f.do(f"call void @{store}({wide} {total}, ptr {at}, i32 {align}, {bits} {mask})")
    return f.text(f"define internal void @tile({given}) noinline nounwind", [])


def _part(f: Function, shape: Shape, by_rows: bool) -> str:
    """`%height` rows from `%top` on of the panels from `%start` to `%stop`; `%block` is room for the rows."""
    given = _parameters(
        f,
        "ptr noalias %a, ptr noalias %packed, ptr noalias %c, i64 %n, i64 %k, i64 %stride, "
        "ptr noalias %block, i64 %top, i64 %height, i64 %start, i64 %stop",
    )
    deep = _deep(f)
    with f.loop("piece", "0", "%k", shape.depth) as low:
        depth = _smaller(f, "depth", _less(f, "rest", "%k", low), shape.depth)
        copied = _copied_rows if by_rows else _copied_columns
        copied(f, shape, ("%top", "%height"), (low, depth))
        more = f.put("more", f"icmp sgt i64 {low}, 0")
        with f.loop("panel", "%start", "%stop") as panel:
            column = f.put("column", f"mul nsw i64 {panel}, {shape.columns}")
            b = _at(f, shape, "%packed", (column, deep), (low, shape.columns))
            columns = _less(f, "columns", "%n", column)
            with f.loop("row", "0", "%height", shape.rows) as row:
                a = _at(f, shape, "%block", (row, shape.pitch))
                line, left = _add(f, "line", "%top", row), _less(f, "left", "%height", row)
                c = _at(f, shape, "%c", (line, "%n"), (column, 1))
                f.do(
                    f"call void @tile(ptr {a}, ptr {b}, i64 {depth}, ptr {c}, i64 %n, "
                    f"i64 {left}, i64 {columns}, i1 {more})"
                )
    return f.text(f"define internal void @part({given}) noinline nounwind", [])


def _room(f: Function, shape: Shape) -> str:
    """Memory for the left factor's elements of `%height` rows."""
    up = f.put("up", f"add nsw i64 %height, {shape.rows}", once=True)
    size = f.put("size", f"mul nsw i64 {up}, {shape.pitch * shape.dtype.itemsize}", once=True)
    return f.memory("block", size)


def _product(f: Function, shape: Shape) -> str:
    """A program computes `%height` rows of `%width` panels."""
    given = _parameters(
        f,
        "ptr noalias %a, ptr noalias %packed, ptr noalias %c, "
        "i64 %m, i64 %n, i64 %k, i64 %stride, i64 %height, i64 %width",
    )
    block = _room(f, shape)
    panels = f.put("panels", f"sdiv i64 {_add(f, 'up', '%n', shape.columns - 1)}, {shape.columns}")
    up = _add(f, "up", panels, _less(f, "less", "%width", 1))
    beside = f.put("beside", f"sdiv i64 {up}, %width")
    with f.loop("program", "%first", "%last") as program:
        number = f.put("number", f"sdiv i64 {program}, {beside}")
        top = f.put("top", f"mul nsw i64 {number}, %height")
        height = _smaller(f, "height", _less(f, "rest", "%m", top), "%height")
        start = f.put("start", f"srem i64 {program}, {beside}")
        start = f.put("start", f"mul nsw i64 {start}, %width")
        stop = _smaller(f, "stop", _add(f, "stop", start, "%width"), panels)
        f.do(
            f"call void @part(ptr %a, ptr %packed, ptr %c, i64 %n, i64 %k, i64 %stride, "
            f"ptr {block}, i64 {top}, i64 {height}, i64 {start}, i64 {stop})"
        )
    return f.text(_kernel("product", given), [])


def _followed(f: Function, shape: Shape) -> str:
    """A program computes `%height` rows in memory of its own, and runs the programs of a kernel that read them.

    The kernel finds the product where its rows would lie if all of them were there.
    """
    _parameters(f, "ptr %given, i64 %first, i64 %last")
    for place, name in enumerate(FOLLOWED):
        kind = "ptr" if name in POINTERS else "i64"
        at = f.put(f"{name}.at", f"getelementptr i64, ptr %given, i64 {place}", once=True)
        f.fresh(name)
        f.do(f"%{name} = load {kind}, ptr {at}", once=True)
    block = _room(f, shape)
    line = f.put("line", f"mul nsw i64 %n, {shape.dtype.itemsize}", once=True)
    c = f.memory("rows", f.put("rows", f"mul nsw i64 %height, {line}", once=True))
    own = f.put("own", "alloca i64, i64 %count", once=True)
    panels = f.put("panels", f"sdiv i64 {_add(f, 'up', '%n', shape.columns - 1)}, {shape.columns}")
    with f.loop("program", "%first", "%last") as program:
        top = f.put("top", f"mul nsw i64 {program}, %height")
        height = _smaller(f, "height", _less(f, "rest", "%m", top), "%height")
        before = f.put("before", f"mul nsw i64 {top}, {line}")
        start = f.put("start", f"getelementptr i8, ptr {c}, i64 {_less(f, 'back', '0', before)}")
        f.do(
            f"call void @part(ptr %a, ptr %packed, ptr {start}, i64 %n, i64 %k, i64 %stride, "
            f"ptr {block}, i64 {top}, i64 {height}, i64 0, i64 {panels})"
        )
        with f.loop("argument", "0", "%count") as k:
            source = f.put("source", f"getelementptr i64, ptr %arguments, i64 {k}")
            target = f.put("target", f"getelementptr i64, ptr {own}, i64 {k}")
            f.do(f"store i64 {f.put('word', f'load i64, ptr {source}')}, ptr {target}")
        f.do(f"store ptr {start}, ptr {f.put('slot', f'getelementptr i64, ptr {own}, i64 %slot')}")
        ends = []
        for row in (top, _add(f, "bottom", top, height)):
            element = f.put("element", f"mul nsw i64 {row}, %n")
            up = element if row == top else _add(f, "up", element, _less(f, "less", "%each", 1))
            number = f.put("number", f"sdiv i64 {up}, %each")
            ends.append(f.put("program", f"mul nsw i64 {number}, %beside"))
        f.do(f"call void %function(ptr {own}, i64 {ends[0]}, i64 {ends[1]})")
    return f.text("define internal void @followed(ptr %given, i64 %first, i64 %last) nounwind", [])


FOLLOWED = (
    *("run", "team", "function", "arguments", "a", "packed"),
    *("m", "n", "k", "stride", "height", "programs", "count", "slot", "each", "beside"),
)
"""What lies at the address that a kernel takes for its team: words."""
POINTERS = FOLLOWED[:6]

_RUN = f"""
; What a kernel's wrapper calls as the run of its team.
define dso_local void @run(ptr %given, ptr %function, ptr %arguments, i64 %count, i64 %piece) {{
  %function.at = getelementptr i64, ptr %given, i64 {FOLLOWED.index("function")}
  store ptr %function, ptr %function.at
  %arguments.at = getelementptr i64, ptr %given, i64 {FOLLOWED.index("arguments")}
  store ptr %arguments, ptr %arguments.at
  %programs.at = getelementptr i64, ptr %given, i64 {FOLLOWED.index("programs")}
  %programs = load i64, ptr %programs.at
  %team.at = getelementptr i64, ptr %given, i64 {FOLLOWED.index("team")}
  %team = load ptr, ptr %team.at
  %alone = icmp eq ptr %team, null
  br i1 %alone, label %one, label %several
one:
  call void @followed(ptr %given, i64 0, i64 %programs)
  ret void
several:
  %run = load ptr, ptr %team
  call void %run(ptr %team, ptr @followed, ptr %given, i64 %programs, i64 1)
  ret void
}}"""


def _copied_rows(f: Function, shape: Shape, rows: tuple[str, str], piece: tuple[str, str]) -> None:
    """A piece of each row, one below the other. `rows` and `piece`: the first, and how many.

    What fills up the last tile is zeros: anything else might be slow to compute with.
    """
    (top, height), (low, depth), lanes = rows, piece, shape.lanes
    up = _add(f, "up", height, shape.rows - 1)
    whole = _less(f, "whole", up, f.put("over", f"srem i64 {up}, {shape.rows}"))
    with f.loop("row", "0", whole) as row:
        there = f.put("there", f"icmp slt i64 {row}, {height}")
        source = _at(f, shape, "%a", (_add(f, "line", top, row), "%stride"), (low, 1))
        to = _at(f, shape, "%block", (row, shape.pitch))
        with f.loop("column", "0", depth, lanes) as column:
            left = _less(f, "left", depth, column)
            left = f.put("left", f"select i1 {there}, i64 {left}, i64 0")
            mask = _first(f, left, lanes)
            value = _load(f, shape, lanes, _at(f, shape, source, (column, 1)), mask)
            _store(f, shape, lanes, value, _at(f, shape, to, (column, 1)))


def _copied_columns(
    f: Function, shape: Shape, rows: tuple[str, str], piece: tuple[str, str]
) -> None:
    """Of each tile one column behind the other, a strip of columns of all tiles at a time."""
    (top, height), (low, depth) = rows, piece
    with f.loop("strip", "0", depth, STRIP) as start:
        count = _smaller(f, "count", _less(f, "rest", depth, start), STRIP)
        column = _add(f, "column", low, start)
        with f.loop("tile", "0", height, shape.rows) as row:
            source = _at(f, shape, "%a", (column, "%stride"), (_add(f, "line", top, row), 1))
            to = _at(f, shape, "%block", (row, shape.pitch), (start, shape.rows))
            left = _less(f, "left", height, row)
            _copy(f, shape, shape.rows, source, "%stride", left, to, count)
