"""The threads that run the programs of a native kernel side by side.

They wait in native code without the interpreter lock: for a while they look for work again and again, since a thread
that sleeps takes longer to wake than most kernels take to run; then they sleep until a call is large enough to wake
them. The caller claims programs like everybody else and waits for nobody who has not begun, so a busy machine costs
speed alone. One call at a time has the team; another one meanwhile runs on its own thread.

`workers` is the same for functions that need the interpreter, such as the numpy engine's.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import threading
from collections.abc import Callable
from typing import Any

from tgc.runtime.interpreter import TABLE, addresses, entry
from tgc.runtime.objects import Source, fill, fill_table, load
from tgc.runtime.workers import threads
from tgc.settings import override

MOST = 256
SPINS = 8_000
"""How often a thread without work looks for some before it sleeps: 0.1 to 0.4 ms, by what a pause takes."""
WAKING = 4
"""Pieces of work for which one more sleeping thread is woken. One that is awake takes part from its first piece on."""

_members: list[threading.Thread] = []
_teams: dict[int, int] = {}
_UNASKED: tuple[Any, int] = object(), 0
_latest = _UNASKED  # the settings in force at the last call, and its team
_alive: list[ctypes.Array[ctypes.c_int64]] = []  # what those addresses are of
_starting = threading.Lock()
_engine: Any = None


def team() -> int:
    """Who may help with a kernel: the address native code wants, or 0 for nobody. Starts threads at the first use."""
    global _latest
    settings, found = _latest
    if settings is not override():
        wanted = threads()
        found = 0 if wanted == 1 else _teams.get(wanted) or _gather(wanted)
        _latest = override(), found
    return found


def _gather(wanted: int) -> int:
    """Start threads until there are `wanted` with the caller. What native code reads: `run`, and how many may help."""
    global _engine
    with _starting:
        if _engine is None:
            _engine = load(Source("team", _text))
            fill_table(_engine, "api", addresses())
            fill(_engine, "never", _held_lock())
            atexit.register(_dismiss)
        serve = ctypes.CFUNCTYPE(None, ctypes.c_int64)(_engine.get_function_address("serve"))
        locks = (ctypes.c_void_p * MOST).from_address(_engine.get_global_value_address("locks"))
        while len(_members) < min(wanted, MOST) - 1:
            index = len(_members)
            locks[index] = _held_lock()
            member = threading.Thread(target=serve, args=(index,), name="tgc native", daemon=True)
            try:
                member.start()
            except RuntimeError:  # no more threads, or the interpreter is shutting down
                break
            _members.append(member)
        run = _engine.get_function_address("run")
        known = (ctypes.c_int64 * 2)(run, min(wanted - 1, len(_members)))
        _alive.append(known)
        return _teams.setdefault(wanted, ctypes.addressof(known))


def _held_lock() -> int:
    """A lock of the interpreter's that native code can wait for."""
    allocate, acquire = (
        ctypes.pythonapi.PyThread_allocate_lock,
        ctypes.pythonapi.PyThread_acquire_lock,
    )
    allocate.restype, allocate.argtypes = ctypes.c_void_p, ()
    acquire.restype, acquire.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)
    lock: int = allocate()
    acquire(lock, 1)
    return lock


def _native(name: str) -> Callable[[], None]:
    return ctypes.CFUNCTYPE(None)(_engine.get_function_address(name))


def _dismiss() -> None:
    """Before the interpreter ends: nobody may run code that is about to be unloaded."""
    if _members:
        _native("stop")()
        for member in _members:
            member.join(1.0)


def _forget() -> None:
    """After a fork: the threads are the parent's, and one of its calls may have had the team."""
    global _starting, _latest
    _starting, _latest = threading.Lock(), _UNASKED
    _members.clear()
    _teams.clear()
    if _engine is not None:
        _native("reset")()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


# --- native code ----------------------------------------------------------------------------------------------------


def _text() -> str:
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        pause = "call void @llvm.x86.sse2.pause()"
        declared = "declare void @llvm.x86.sse2.pause()"
    elif machine in ("aarch64", "arm64"):
        pause = "call void @llvm.aarch64.hint(i32 1)"
        declared = "declare void @llvm.aarch64.hint(i32)"
    else:
        pause = declared = ""
    return f"{_TEAM}\ndefine void @pause() alwaysinline {{\n  {pause}\n  ret void\n}}\n{declared}\n"


_TEAM = f"""
; A call: its function takes the address of its arguments and a range of programs.
@function = global ptr null, align 64
@arguments = global ptr null
@count = global i64 0
@piece = global i64 0
@helpers = global i64 0

@busy = global i64 0, align 64      ; whether a call has the team
@ticket = global i64 0, align 64    ; odd while there is a call to join
@next = global [{MOST} x [8 x i64]] zeroinitializer, align 64    ; of each share, the first program not claimed
@active = global i64 0, align 64    ; threads that may be at it, the caller apart
@leaving = global i64 0, align 64

@asleep = global [{MOST} x i64] zeroinitializer, align 64
@locks = global [{MOST} x ptr] zeroinitializer, align 64
@never = global ptr null            ; a lock nobody releases: waiting for it with a limit is sleeping
{TABLE}
; Run pieces of one's own share, then of what others have left. Shares are the same for the same count, so that a
; thread finds in its cache what it wrote there in the call before.
define void @work(i64 %self) {{
  %function = load ptr, ptr @function
  %arguments = load ptr, ptr @arguments
  %count = load i64, ptr @count
  %piece = load i64, ptr @piece
  %helpers = load i64, ptr @helpers
  %members = add i64 %helpers, 1
  br label %share
share:
  %turn = phi i64 [ 0, %0 ], [ %turn.next, %empty ]
  %sum = add i64 %self, %turn
  %whose = urem i64 %sum, %members
  %next.at = getelementptr [8 x i64], ptr @next, i64 %whose
  %whose.next = add i64 %whose, 1
  %part = mul i64 %count, %whose.next
  %end = udiv i64 %part, %members
  br label %claim
claim:
  %low = atomicrmw add ptr %next.at, i64 %piece monotonic
  %some = icmp slt i64 %low, %end
  br i1 %some, label %take, label %empty
take:
  %full = add i64 %low, %piece
  %high = call i64 @llvm.smin.i64(i64 %full, i64 %end)
  call void %function(ptr %arguments, i64 %low, i64 %high)
  br label %claim
empty:
  %turn.next = add i64 %turn, 1
  %more = icmp slt i64 %turn.next, %members
  br i1 %more, label %share, label %none
none:
  ret void
}}

; Programs 0 to %count of a call, %worth of them being worth a thread's while; 0: each of them many times.
define void @run(ptr %team, ptr %function, ptr %arguments, i64 %count, i64 %worth) {{
  %helpers.at = getelementptr i64, ptr %team, i64 1
  %most = load i64, ptr %helpers.at
  %piece = call i64 @llvm.smax.i64(i64 %worth, i64 1)
  %large = icmp eq i64 %worth, 0
  %waking = select i1 %large, i64 1, i64 {WAKING}
  %pieces = sdiv i64 %count, %piece
  %others = sub i64 %pieces, 1
  %helpers = call i64 @llvm.smin.i64(i64 %most, i64 %others)
  %shared = icmp sgt i64 %helpers, 0
  br i1 %shared, label %ask, label %alone
ask:
  %had = atomicrmw xchg ptr @busy, i64 1 acq_rel
  %free = icmp eq i64 %had, 0
  br i1 %free, label %publish, label %alone
alone:
  call void %function(ptr %arguments, i64 0, i64 %count)
  ret void
publish:
  %members = add i64 %helpers, 1
  %eighths = shl i64 %members, 3
  %eighth = sdiv i64 %count, %eighths
  %larger = call i64 @llvm.smax.i64(i64 %eighth, i64 %piece)
  store ptr %function, ptr @function
  store ptr %arguments, ptr @arguments
  store i64 %count, ptr @count
  store i64 %larger, ptr @piece
  store i64 %helpers, ptr @helpers
  br label %share
share:
  %whose = phi i64 [ 0, %publish ], [ %whose.next, %share ]
  %part = mul i64 %count, %whose
  %start = udiv i64 %part, %members
  %next.at = getelementptr [8 x i64], ptr @next, i64 %whose
  store atomic i64 %start, ptr %next.at monotonic, align 8
  %whose.next = add i64 %whose, 1
  %further = icmp slt i64 %whose.next, %members
  br i1 %further, label %share, label %announce
announce:
  atomicrmw add ptr @ticket, i64 1 seq_cst
  %wakes = sdiv i64 %pieces, %waking
  %called = call i64 @llvm.smin.i64(i64 %helpers, i64 %wakes)
  br label %wake
wake:
  %index = phi i64 [ 0, %announce ], [ %index.next, %woken ]
  %more = icmp slt i64 %index, %called
  br i1 %more, label %look, label %begin
look:
  %asleep.at = getelementptr i64, ptr @asleep, i64 %index
  %asleep = load atomic i64, ptr %asleep.at seq_cst, align 8
  %sleeps = icmp ne i64 %asleep, 0
  br i1 %sleeps, label %call, label %woken
call:
  call void @call(i64 %index)
  br label %woken
woken:
  %index.next = add i64 %index, 1
  br label %wake
begin:
  call void @work(i64 0)
  atomicrmw add ptr @ticket, i64 1 seq_cst
  br label %wait
wait:
  %turns = phi i64 [ 0, %begin ], [ %turns.next, %again ]
  %active = load atomic i64, ptr @active seq_cst, align 8
  %alone.again = icmp eq i64 %active, 0
  br i1 %alone.again, label %done, label %linger
linger:
  %turns.next = add i64 %turns, 1
  %patient = icmp slt i64 %turns, {SPINS}
  br i1 %patient, label %spin, label %sleep
spin:
  call void @pause()
  br label %again
sleep:                                ; somebody else has the processor a thread of ours needs
  %acquire = load {entry("PyThread_acquire_lock_timed")}
  %never = load ptr, ptr @never
  %got = call i32 %acquire(ptr %never, i64 50, i32 0)
  br label %again
again:
  br label %wait
done:
  store atomic i64 0, ptr @busy release, align 8
  ret void
}}

; Wake a thread that sleeps, unless somebody else does.
define void @call(i64 %index) {{
  %asleep.at = getelementptr i64, ptr @asleep, i64 %index
  %slept = atomicrmw xchg ptr %asleep.at, i64 0 seq_cst
  %mine = icmp ne i64 %slept, 0
  br i1 %mine, label %release, label %done
release:
  %lock.at = getelementptr ptr, ptr @locks, i64 %index
  %lock = load ptr, ptr %lock.at
  %free = load {entry("PyThread_release_lock")}
  call void %free(ptr %lock)
  br label %done
done:
  ret void
}}

; What a thread of the team does until it is told to leave.
define void @serve(i64 %index) {{
entry:
  %asleep.at = getelementptr i64, ptr @asleep, i64 %index
  %lock.at = getelementptr ptr, ptr @locks, i64 %index
  br label %wait
wait:
  %seen = phi i64 [ 0, %entry ], [ %seen, %rest ], [ %now, %leave ], [ %seen, %stay ], [ %seen, %woken ]
  %turns = phi i64 [ 0, %entry ], [ %turns.next, %rest ], [ 0, %leave ], [ 0, %stay ], [ 0, %woken ]
  %ticket = load atomic i64, ptr @ticket acquire, align 8
  %same = icmp eq i64 %ticket, %seen
  %bit = and i64 %ticket, 1
  %closed = icmp eq i64 %bit, 0
  %nothing = or i1 %same, %closed
  br i1 %nothing, label %idle, label %join
join:
  atomicrmw add ptr @active, i64 1 seq_cst
  %now = load atomic i64, ptr @ticket seq_cst, align 8
  %now.bit = and i64 %now, 1
  %open = icmp eq i64 %now.bit, 1
  br i1 %open, label %enter, label %leave
enter:
  %helpers = load i64, ptr @helpers
  %wanted = icmp slt i64 %index, %helpers
  br i1 %wanted, label %help, label %leave
help:
  %self = add i64 %index, 1
  call void @work(i64 %self)
  br label %leave
leave:
  atomicrmw sub ptr @active, i64 1 release
  br label %wait
idle:
  %turns.next = add i64 %turns, 1
  %awake = icmp slt i64 %turns, {SPINS}
  br i1 %awake, label %rest, label %sleep
rest:
  call void @pause()
  br label %wait
sleep:
  atomicrmw xchg ptr %asleep.at, i64 1 seq_cst
  %last = load atomic i64, ptr @ticket seq_cst, align 8
  %leaving = load atomic i64, ptr @leaving seq_cst, align 8
  %told = icmp ne i64 %leaving, 0
  br i1 %told, label %gone, label %check
check:
  %last.same = icmp eq i64 %last, %seen
  %last.bit = and i64 %last, 1
  %last.closed = icmp eq i64 %last.bit, 0
  %calm = or i1 %last.same, %last.closed
  br i1 %calm, label %block, label %rouse
rouse:
  %slept = atomicrmw xchg ptr %asleep.at, i64 0 seq_cst
  %still = icmp ne i64 %slept, 0
  br i1 %still, label %stay, label %block   ; else somebody is about to release the lock
stay:
  br label %wait
block:
  %acquire = load {entry("PyThread_acquire_lock")}
  %lock = load ptr, ptr %lock.at
  %got = call i32 %acquire(ptr %lock, i32 1)
  %leaving.now = load atomic i64, ptr @leaving seq_cst, align 8
  %told.now = icmp ne i64 %leaving.now, 0
  br i1 %told.now, label %gone, label %woken
woken:
  br label %wait
gone:
  ret void
}}

define void @stop() {{
entry:
  store atomic i64 1, ptr @leaving seq_cst, align 8
  br label %each
each:
  %index = phi i64 [ 0, %entry ], [ %index.next, %each ]
  call void @call(i64 %index)
  %index.next = add i64 %index, 1
  %more = icmp slt i64 %index.next, {MOST}
  br i1 %more, label %each, label %done
done:
  ret void
}}

define void @reset() {{
  store i64 0, ptr @busy
  store i64 0, ptr @ticket
  store i64 0, ptr @active
  store [{MOST} x i64] zeroinitializer, ptr @asleep
  ret void
}}

declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
"""
