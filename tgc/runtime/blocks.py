"""The memory of results in native code: aligned for vectors, recycled where it is large, for numpy and for torch.

It is `memory.py` again where native code can be made, at a tenth of the time a call. A block is a head and what lies
behind it. Whoever owns a block has one capsule or one tensor of torch's for it, which gives it back when it dies:
arrays stand on the capsule, as do all views of them; for torch the capsule is DLPack's, which torch takes over, and
torch gives the block back from whatever thread, with the interpreter lock or without. So a lock of its own guards the
list of idle blocks, newest first; the oldest leave it when more than `keep` bytes are idle, and all that are stale.
"""

from __future__ import annotations

from collections.abc import Callable

HEAD = 192
"""Bytes before the memory of a block: DLPack's struct, four extents, then where the block starts, what it holds, the
next and the one before in the list, and when it was returned."""
START, SIZE, NEXT, BEFORE, WHEN = range(96, 136, 8)
STATE = ("lock", "newest", "oldest", "idle", "keep", "stale", "least", "huge", "flags")
"""Words that the code reads: the list; its bounds; from how many bytes on blocks are recycled, and get huge pages; the
flags of a mapping."""


def state_of(name: str) -> str:
    """The operand of a `load` or `store` of a word of the state."""
    return f"ptr getelementptr (i64, ptr @pool, i64 {STATE.index(name)})"


def _field(name: str, block: str, offset: int) -> str:
    return f"{name} = getelementptr i8, ptr {block}, i64 {offset}"


def text(get: Callable[[str], str]) -> str:
    """LLVM text: `@acquire(bytes)`, a block or null; `@recycle(block)`, a block's end; owners of them.

    `get` gives the operand of a `load` of a function of the interpreter, of libc or of numpy.
    """
    lock, newest, oldest, idle = (state_of(name) for name in STATE[:4])
    return f"""
@pool = global [{len(STATE)} x i64] zeroinitializer, align 64
@dltensor = constant [9 x i8] c"dltensor\\00"
@owner = constant [6 x i8] c"block\\00"

define internal void @enter() noinline {{
  br label %again
again:
  %had = atomicrmw xchg {lock}, i64 1 acquire
  %free = icmp eq i64 %had, 0
  br i1 %free, label %done, label %again
done:
  ret void
}}

; Take a block out of the list, which the caller has locked.
define internal void @unlink(ptr %block) noinline {{
  {_field("%size.at", "%block", SIZE)}
  {_field("%next.at", "%block", NEXT)}
  {_field("%before.at", "%block", BEFORE)}
  %size = load i64, ptr %size.at
  %next = load ptr, ptr %next.at
  %before = load ptr, ptr %before.at
  {_field("%before.next", "%before", NEXT)}
  {_field("%next.before", "%next", BEFORE)}
  %first = icmp eq ptr %before, null
  %here = select i1 %first, {newest}, ptr %before.next
  store ptr %next, ptr %here
  %last = icmp eq ptr %next, null
  %there = select i1 %last, {oldest}, ptr %next.before
  store ptr %before, ptr %there
  %idle = load i64, {idle}
  %less = sub i64 %idle, %size
  store i64 %less, {idle}
  ret void
}}

; Give back to the system what is idle beyond so many bytes, or stale.
define void @evict(i64 %keep) noinline {{
  %clock = load {get("time")}
  %now = call i64 %clock(ptr null)
  %stale = load i64, {state_of("stale")}
  %since = sub i64 %now, %stale
  %unmap = load {get("munmap")}
  br label %look
look:
  call void @enter()
  %last = load ptr, {oldest}
  %none = icmp eq ptr %last, null
  br i1 %none, label %leave, label %weigh
weigh:
  %idle = load i64, {idle}
  %much = icmp sgt i64 %idle, %keep
  {_field("%when.at", "%last", WHEN)}
  %when = load i64, ptr %when.at
  %old = icmp slt i64 %when, %since
  %goes = or i1 %much, %old
  br i1 %goes, label %release, label %leave
release:
  call void @unlink(ptr %last)
  store atomic i64 0, {lock} release, align 8
  {_field("%start.at", "%last", START)}
  {_field("%size.at", "%last", SIZE)}
  %start = load ptr, ptr %start.at
  %size = load i64, ptr %size.at
  %whole = add i64 %size, {HEAD}
  %done = call i32 %unmap(ptr %start, i64 %whole)
  br label %look
leave:
  store atomic i64 0, {lock} release, align 8
  ret void
}}

; The end of a block's use: the small go at once, the large into the list.
define void @recycle(ptr %block) noinline {{
  {_field("%size.at", "%block", SIZE)}
  %size = load i64, ptr %size.at
  %small = icmp eq i64 %size, 0
  br i1 %small, label %free, label %keep
free:
  {_field("%start.at", "%block", START)}
  %start = load ptr, ptr %start.at
  %release = load {get("PyMem_RawFree")}
  call void %release(ptr %start)
  ret void
keep:
  %clock = load {get("time")}
  %now = call i64 %clock(ptr null)
  {_field("%when.at", "%block", WHEN)}
  store i64 %now, ptr %when.at
  {_field("%next.at", "%block", NEXT)}
  {_field("%before.at", "%block", BEFORE)}
  store ptr null, ptr %before.at
  call void @enter()
  %second = load ptr, {newest}
  store ptr %second, ptr %next.at
  store ptr %block, {newest}
  {_field("%second.before", "%second", BEFORE)}
  %alone = icmp eq ptr %second, null
  %back = select i1 %alone, {oldest}, ptr %second.before
  store ptr %block, ptr %back
  %idle = load i64, {idle}
  %more = add i64 %idle, %size
  store i64 %more, {idle}
  store atomic i64 0, {lock} release, align 8
  %most = load i64, {state_of("keep")}
  call void @evict(i64 %most)
  ret void
}}

; An idle block that holds just so many bytes, or null.
define internal ptr @taken(i64 %size) noinline {{
  call void @enter()
  %first = load ptr, {newest}
  br label %look
look:
  %block = phi ptr [ %first, %0 ], [ %next, %other ]
  %none = icmp eq ptr %block, null
  br i1 %none, label %leave, label %compare
compare:
  {_field("%size.at", "%block", SIZE)}
  %holds = load i64, ptr %size.at
  %fits = icmp eq i64 %holds, %size
  br i1 %fits, label %take, label %other
other:
  {_field("%next.at", "%block", NEXT)}
  %next = load ptr, ptr %next.at
  br label %look
take:
  call void @unlink(ptr %block)
  br label %leave
leave:
  %found = phi ptr [ null, %look ], [ %block, %take ]
  store atomic i64 0, {lock} release, align 8
  ret ptr %found
}}

; A block for so many bytes, null where there is no memory. Large ones come in sizes that are at most an eighth apart.
define internal ptr @acquire(i64 %bytes) noinline {{
  %least = load i64, {state_of("least")}
  %small = icmp ult i64 %bytes, %least
  br i1 %small, label %allocate, label %classify
allocate:
  %claim = load {get("PyMem_RawMalloc")}
  %with.head = add i64 %bytes, {HEAD + 63}
  %raw = call ptr %claim(i64 %with.head)
  %failed = icmp eq ptr %raw, null
  br i1 %failed, label %nothing, label %align
align:
  %raw.bits = ptrtoint ptr %raw to i64
  %up = add i64 %raw.bits, 63
  %lined = and i64 %up, -64
  %block.small = inttoptr i64 %lined to ptr
  br label %note
classify:
  %zeros = call i64 @llvm.ctlz.i64(i64 %bytes, i1 true)
  %log = sub i64 60, %zeros             ; an eighth of the power of two at or below
  %eighth = shl i64 1, %log
  %step = call i64 @llvm.umax.i64(i64 %eighth, i64 65536)
  %step.less = sub i64 %step, 1
  %sum = add i64 %bytes, %step.less
  %mask = sub i64 0, %step
  %size = and i64 %sum, %mask
  %old = call ptr @taken(i64 %size)
  %missed = icmp eq ptr %old, null
  br i1 %missed, label %map, label %have
have:
  ret ptr %old
map:
  %most = load i64, {state_of("keep")}
  call void @evict(i64 %most)
  %whole = add i64 %size, {HEAD}
  %flags = load i64, {state_of("flags")}
  %flags.int = trunc i64 %flags to i32
  %mmap = load {get("mmap")}
  %new = call ptr %mmap(ptr null, i64 %whole, i32 3, i32 %flags.int, i32 -1, i64 0)
  %wrong = icmp eq ptr %new, inttoptr (i64 -1 to ptr)
  br i1 %wrong, label %nothing, label %advise
advise:
  %huge = load i64, {state_of("huge")}
  %is.huge = icmp uge i64 %size, %huge
  br i1 %is.huge, label %enlarge, label %note
enlarge:
  %madvise = load {get("madvise")}
  %advised = call i32 %madvise(ptr %new, i64 %whole, i32 14)
  br label %note
note:
  %start = phi ptr [ %raw, %align ], [ %new, %advise ], [ %new, %enlarge ]
  %block = phi ptr [ %block.small, %align ], [ %new, %advise ], [ %new, %enlarge ]
  %holds = phi i64 [ 0, %align ], [ %size, %advise ], [ %size, %enlarge ]
  {_field("%start.at", "%block", START)}
  store ptr %start, ptr %start.at
  {_field("%size.at", "%block", SIZE)}
  store i64 %holds, ptr %size.at
  ret ptr %block
nothing:
  ret ptr null
}}

; What becomes of a block when the capsule that owns it dies. DLPack's name is another once somebody has taken it over.
define internal void @end.owner(ptr %capsule) {{
  %pointer = load {get("PyCapsule_GetPointer")}
  %block = call ptr %pointer(ptr %capsule, ptr @owner)
  call void @recycle(ptr %block)
  ret void
}}
define internal void @end.dltensor(ptr %capsule) {{
  %valid = load {get("PyCapsule_IsValid")}
  %ours = call i32 %valid(ptr %capsule, ptr @dltensor)
  %still = icmp ne i32 %ours, 0
  br i1 %still, label %end, label %done
end:
  %pointer = load {get("PyCapsule_GetPointer")}
  %block = call ptr %pointer(ptr %capsule, ptr @dltensor)
  call void @recycle(ptr %block)
  br label %done
done:
  ret void
}}

; An array on a block.
define internal ptr @on.block(ptr %block, ptr %dtype, i32 %rank, ptr %shape) noinline {{
  %capsule.new = load {get("PyCapsule_New")}
  %capsule = call ptr %capsule.new(ptr %block, ptr @owner, ptr @end.owner)
  %no.capsule = icmp eq ptr %capsule, null
  br i1 %no.capsule, label %lost, label %array
lost:
  call void @recycle(ptr %block)
  ret ptr null
array:
  {_field("%data", "%block", HEAD)}
  %keep = load {get("Py_IncRef")}
  call void %keep(ptr %dtype)
  %kind = load {get("ndarray")}
  %new = load {get("PyArray_NewFromDescr")}
  %made = call ptr %new(ptr %kind, ptr %dtype, i32 %rank, ptr %shape, ptr null, ptr %data, i32 1281, ptr null)
  %no.array = icmp eq ptr %made, null
  br i1 %no.array, label %drop, label %own
drop:
  %release = load {get("Py_DecRef")}
  call void %release(ptr %capsule)
  ret ptr null
own:
  %set = load {get("PyArray_SetBaseObject")}
  %was.set = call i32 %set(ptr %made, ptr %capsule)
  ret ptr %made
}}

; DLPack's capsule over a block, of elements that %type says as DLPack writes them.
define internal ptr @as.dltensor(ptr %block, i64 %type, i32 %rank, ptr %shape) noinline {{
  {_field("%data", "%block", HEAD)}
  store ptr %data, ptr %block
  {_field("%device.at", "%block", 8)}
  store i64 1, ptr %device.at
  {_field("%rank.at", "%block", 16)}
  store i32 %rank, ptr %rank.at
  {_field("%type.at", "%block", 20)}
  %type.int = trunc i64 %type to i32
  store i32 %type.int, ptr %type.at
  {_field("%shape.at", "%block", 24)}
  {_field("%extents", "%block", 64)}
  store ptr %extents, ptr %shape.at
  call void @llvm.memcpy.p0.p0.i64(ptr %extents, ptr %shape, i64 32, i1 false)
  {_field("%strides.at", "%block", 32)}
  call void @llvm.memset.p0.i64(ptr %strides.at, i8 0, i64 24, i1 false)
  {_field("%deleter.at", "%block", 56)}
  store ptr @recycle, ptr %deleter.at
  %capsule.new = load {get("PyCapsule_New")}
  %capsule = call ptr %capsule.new(ptr %block, ptr @dltensor, ptr @end.dltensor)
  %no.capsule = icmp eq ptr %capsule, null
  br i1 %no.capsule, label %lost, label %done
lost:
  call void @recycle(ptr %block)
  br label %done
done:
  ret ptr %capsule
}}

declare i64 @llvm.ctlz.i64(i64, i1)
declare i64 @llvm.umax.i64(i64, i64)
declare {{ i64, i1 }} @llvm.umul.with.overflow.i64(i64, i64)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""
