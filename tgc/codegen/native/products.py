"""Rows of a matrix product by a library, each followed by the kernel that reads them, as LLVM text.

A library's product has threads of its own, which look for work for long after it: the kernel that follows shares its
processors with them. And its product is in memory before anybody may read it. Here the team that runs kernels calls
the library for some hundred rows at a time, on one thread each, and reads them while they lie in the cache.
"""

from __future__ import annotations

from tgc.codegen.native.llvm import Function, register_type
from tgc.ir.dtypes import DType

FOLLOWED = (
    *("run", "team", "function", "arguments", "a", "b", "gemm", "threads", "set_threads", "users"),
    *("m", "n", "k", "a_step", "a_turned", "lda", "b_turned", "ldb"),
    *("height", "programs", "count", "slot", "each", "beside"),
)
"""What lies at the address that a kernel takes for its team: words. `a_step` is the bytes from a row to the next."""
POINTERS = FOLLOWED[:10]

ROW_MAJOR = 101
"""CBLAS_ORDER."""


def emit(dtype: DType) -> str:
    """A module of `run`.

    An address where `FOLLOWED` lies, the first word being `run`, stands for the team of a kernel that reads a product:
    its programs then run after the rows they read.
    """
    followed = Function()
    text = _followed(followed, dtype)
    return "\n\n".join([text, _RUN, *sorted(followed.declared)])


def _followed(f: Function, dtype: DType) -> str:
    """A program computes `%height` rows in memory of its own, and runs the programs of a kernel that read them.

    The kernel finds the product where its rows would lie if all of them were there.
    """
    for parameter in ("given", "first", "last"):
        f.fresh(parameter)
    for place, name in enumerate(FOLLOWED):
        kind = "ptr" if name in POINTERS else "i64"
        at = f.put(f"{name}.at", f"getelementptr i64, ptr %given, i64 {place}", once=True)
        f.fresh(name)
        f.do(f"%{name} = load {kind}, ptr {at}", once=True)
    turned = [f.put("order", f"trunc i64 %{x}_turned to i32", once=True) for x in "ab"]
    line = f.put("line", f"mul nsw i64 %n, {dtype.itemsize}", once=True)
    c = f.memory("rows", f.put("rows", f"mul nsw i64 %height, {line}", once=True))
    own = f.put("own", "alloca i64, i64 %count", once=True)
    scalar = register_type(dtype)
    with f.loop("program", "%first", "%last") as program:
        top = f.put("top", f"mul nsw i64 {program}, %height")
        rest = f.put("rest", f"sub nsw i64 %m, {top}")
        height = f.call("height", "i64", "llvm.smin.i64", f"i64 {rest}", "i64 %height")
        below = f.put("below", f"mul nsw i64 {top}, %a_step")
        a = f.put("a", f"getelementptr i8, ptr %a, i64 {below}")
        f.do(
            f"call void %gemm(i32 {ROW_MAJOR}, i32 {turned[0]}, i32 {turned[1]}, "
            f"i64 {height}, i64 %n, i64 %k, {scalar} 1.0, ptr {a}, i64 %lda, ptr %b, i64 %ldb, "
            f"{scalar} 0.0, ptr {c}, i64 %n)"
        )
        before = f.put("before", f"mul nsw i64 {top}, {line}")
        before = f.put("before", f"sub nsw i64 0, {before}")
        start = f.put("start", f"getelementptr i8, ptr {c}, i64 {before}")
        with f.loop("argument", "0", "%count") as k:
            source = f.put("source", f"getelementptr i64, ptr %arguments, i64 {k}")
            target = f.put("target", f"getelementptr i64, ptr {own}, i64 {k}")
            f.do(f"store i64 {f.put('word', f'load i64, ptr {source}')}, ptr {target}")
        f.do(f"store ptr {start}, ptr {f.put('slot', f'getelementptr i64, ptr {own}, i64 %slot')}")
        first = _program(f, top, "0")
        last = _program(f, f.put("bottom", f"add nsw i64 {top}, {height}"), "%each")
        f.do(f"call void %function(ptr {own}, i64 {first}, i64 {last})")
    return f.text("define internal void @followed(ptr %given, i64 %first, i64 %last) nounwind", [])


def _program(f: Function, row: str, each: str) -> str:
    """The first program that reads a row, or rather the first that reads none before it if `each` is what one reads."""
    element = f.put("element", f"mul nsw i64 {row}, %n")
    if each != "0":
        less = f.put("less", f"sub nsw i64 {each}, 1")
        element = f.put("up", f"add nsw i64 {element}, {less}")
    number = f.put("number", f"sdiv i64 {element}, %each")
    return f.put("program", f"mul nsw i64 {number}, %beside")


def _word(name: str) -> str:
    """The lines that read a word."""
    kind = "ptr" if name in POINTERS else "i64"
    return f"""  %{name}.at = getelementptr i64, ptr %given, i64 {FOLLOWED.index(name)}
  %{name} = load {kind}, ptr %{name}.at"""


_RUN = f"""
; What a kernel's wrapper calls as the run of its team. The library keeps to one thread meanwhile.
define dso_local void @run(ptr %given, ptr %function, ptr %arguments, i64 %count, i64 %piece) {{
{_word("programs")}
{_word("team")}
  %function.at = getelementptr i64, ptr %given, i64 {FOLLOWED.index("function")}
  store ptr %function, ptr %function.at
  %arguments.at = getelementptr i64, ptr %given, i64 {FOLLOWED.index("arguments")}
  store ptr %arguments, ptr %arguments.at
  call void @users(ptr %given, i64 1)
  %alone = icmp eq ptr %team, null
  br i1 %alone, label %one, label %several
one:
  call void @followed(ptr %given, i64 0, i64 %programs)
  br label %done
several:
  %run = load ptr, ptr %team
  call void %run(ptr %team, ptr @followed, ptr %given, i64 %programs, i64 1)
  br label %done
done:
  call void @users(ptr %given, i64 -1)
  ret void
}}

; Add to the users of one thread. The first one keeps the number of threads there was, and the last one restores it.
define internal void @users(ptr %given, i64 %more) nounwind {{
{_word("threads")}
{_word("set_threads")}
{_word("users")}
  %count.at = getelementptr i64, ptr %users, i64 1
  %kept.at = getelementptr i64, ptr %users, i64 2
  br label %look
look:
  %had = atomicrmw xchg ptr %users, i64 1 acquire
  %free = icmp eq i64 %had, 0
  br i1 %free, label %locked, label %look
locked:
  %before = load i64, ptr %count.at
  %after = add i64 %before, %more
  store i64 %after, ptr %count.at
  %sum = add i64 %before, %after
  %edge = icmp eq i64 %sum, 1
  br i1 %edge, label %change, label %unlock
change:
  %begins = icmp eq i64 %before, 0
  br i1 %begins, label %begin, label %end
begin:
  %number = call i32 %threads()
  %wide = sext i32 %number to i64
  store i64 %wide, ptr %kept.at
  call void %set_threads(i32 1)
  br label %unlock
end:
  %kept = load i64, ptr %kept.at
  %narrow = trunc i64 %kept to i32
  call void %set_threads(i32 %narrow)
  br label %unlock
unlock:
  store atomic i64 0, ptr %users release, align 8
  ret void
}}"""
