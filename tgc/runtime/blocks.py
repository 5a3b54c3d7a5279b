"""The memory of results in native code: aligned for vectors, recycled where it is large, for numpy and for torch.

It is `memory.py` again where native code can be made, at a tenth of the time a call. A block is a head and what lies
behind it. Whoever owns a block has one capsule or one tensor of torch's for it, which gives it back when it dies:
arrays stand on the capsule, as do all views of them; for torch the capsule is DLPack's, which torch takes over, and
torch gives the block back from whatever thread, with the interpreter lock or without. So a lock of its own guards the
list of idle blocks, newest first; the oldest leave it when more than `keep` bytes are idle, and all that are stale.
"""

from __future__ import annotations

from tgc.runtime.interpreter import Field
from tgc.runtime.routine import NULL, Routine, integer


class Block:
    """The head of a block: DLPack's struct, four extents, then what we know of it."""

    data = Field("ptr", 0)
    device = Field("i64", 8)
    rank = Field("i32", 16)
    type = Field("i32", 20)
    shape = Field("ptr", 24)
    strides = Field("ptr", 32)
    offset = Field("i64", 40)
    context = Field("ptr", 48)
    deleter = Field("ptr", 56)
    extents = Field("i64", 64)
    start = Field("ptr", 96)  # where its memory starts, which is not its own where that is small
    size = Field("i64", 104)  # bytes behind the head; 0: too few to be recycled
    next = Field("ptr", 112)  # in the list, the one returned before
    before = Field("ptr", 120)
    when = Field("i64", 128)  # it was returned, in seconds


HEAD = 192
"""Bytes of the head: a multiple of 64."""

STATE = ("lock", "newest", "oldest", "idle", "keep", "stale", "least", "huge", "flags")
"""Words that the code reads: the list; its bounds; from how many bytes on blocks are recycled, and get huge pages; the
flags of a mapping."""
_POOL = "ptr @pool"
_LOCK, _NEWEST, _OLDEST, _IDLE, _KEEP, _STALE, LEAST, _HUGE, _FLAGS = (
    Field("ptr" if name in ("newest", "oldest") else "i64", 8 * k) for k, name in enumerate(STATE)
)


def text() -> str:
    """LLVM text: `@acquire(bytes)` gives a block or null, `@array` and `@dltensor` owners of one."""
    routines = (
        *(_lock(), _unlock(), _unlink(), _evict(), _recycle(), _taken(), _mapped(), _acquire()),
        *(_end_capsule(), _end_dltensor(), _array(), _dltensor()),
    )
    return _DATA + "\n".join(r.text() for r in routines)


_DATA = f"""
@pool = global [{len(STATE)} x i64] zeroinitializer, align 64
@name.block = constant [6 x i8] c"block\\00"
@name.dltensor = constant [9 x i8] c"dltensor\\00"
declare i64 @llvm.ctlz.i64(i64, i1)
declare i64 @llvm.umax.i64(i64, i64)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""


def pool(f: Routine, word: Field) -> str:
    """A word of the state."""
    return f.get(word, _POOL)


# --- the list -------------------------------------------------------------------------------------------------------


def _lock() -> Routine:
    """Who has it holds it for a few instructions and calls nothing, so others look again until it is free."""
    f = Routine("void", "lock")
    with f.endless():
        had = f.let("i64", f"atomicrmw xchg {_POOL}, i64 1 acquire")
        with f.when(f.test("eq", had, integer(0))):
            f.give()
    return f


def _unlock() -> Routine:
    f = Routine("void", "unlock")
    f.do(f"store atomic i64 0, {_POOL} release, align 8")
    f.give()
    return f


def _link(f: Routine, neighbour: str, towards: Field, end: Field, block: str) -> None:
    """`*(neighbour ? &neighbour->towards : &end) = block`"""
    here = f.at(neighbour, towards.offset)
    f.write(f.choose(f.is_null(neighbour), f.at(_POOL, end.offset), here), block)


def _unlink() -> Routine:
    """Take a block out of the list, which the caller has locked."""
    f, block = Routine("void", "unlink", "ptr %block"), "ptr %block"
    following, before = f.get(Block.next, block), f.get(Block.before, block)
    _link(f, before, Block.next, _NEWEST, following)
    _link(f, following, Block.before, _OLDEST, before)
    f.set(_IDLE, _POOL, f.subtract(pool(f, _IDLE), f.get(Block.size, block)))
    f.give()
    return f


def _evict() -> Routine:
    """Give back to the system what is idle beyond so many bytes, or stale: the oldest, one by one."""
    f = Routine("void", "evict", "i64 %keep", linkage="")
    since = f.subtract(f.api("time", NULL), pool(f, _STALE))
    with f.endless():
        f.call("void", "@lock")
        block = pool(f, _OLDEST)
        with f.when(f.is_null(block)):
            f.call("void", "@unlock")
            f.give()
        much = f.test("sgt", pool(f, _IDLE), "i64 %keep")
        with f.unless(f.either(much, f.test("slt", f.get(Block.when, block), since))):
            f.call("void", "@unlock")
            f.give()
        f.call("void", "@unlink", block)
        f.call("void", "@unlock")
        f.api("munmap", f.get(Block.start, block), f.add(f.get(Block.size, block), integer(HEAD)))
    return f


def _recycle() -> Routine:
    """The end of a block's use, in any thread: the small go at once, the large to the front of the list."""
    f, block = Routine("void", "recycle", "ptr %block", linkage=""), "ptr %block"
    size = f.get(Block.size, block)
    with f.when(f.test("eq", size, integer(0))):
        f.api("PyMem_RawFree", f.get(Block.start, block))
        f.give()
    f.set(Block.when, block, f.api("time", NULL))
    f.set(Block.before, block, NULL)
    f.call("void", "@lock")
    second = pool(f, _NEWEST)
    f.set(Block.next, block, second)
    f.set(_NEWEST, _POOL, block)
    _link(f, second, Block.before, _OLDEST, block)
    f.set(_IDLE, _POOL, f.add(pool(f, _IDLE), size))
    f.call("void", "@unlock")
    f.call("void", "@evict", pool(f, _KEEP))
    f.give()
    return f


def _taken() -> Routine:
    """An idle block of just so many bytes, or null."""
    f = Routine("ptr", "taken", "i64 %size")
    f.call("void", "@lock")
    at = f.variable(pool(f, _NEWEST))
    with f.endless():
        block = f.read(at, "ptr")
        with f.when(f.is_null(block)):
            f.call("void", "@unlock")
            f.give(NULL)
        with f.when(f.test("eq", f.get(Block.size, block), "i64 %size")):
            f.call("void", "@unlink", block)
            f.call("void", "@unlock")
            f.give(block)
        f.write(at, f.get(Block.next, block))
    return f


# --- new blocks -----------------------------------------------------------------------------------------------------


def _acquire() -> Routine:
    """A block for so many bytes, null where there is no memory. Large ones come in sizes at most an eighth apart."""
    f = Routine("ptr", "acquire", "i64 %bytes")
    with f.when(f.test("ult", "i64 %bytes", pool(f, LEAST))):
        start = f.api("PyMem_RawMalloc", f.add("i64 %bytes", integer(HEAD + 63)))
        with f.when(f.is_null(start)):
            f.give(NULL)
        bits = f.add(f.let("i64", f"ptrtoint {start} to i64"), integer(63))
        block = f.let("ptr", f"inttoptr {f.let('i64', f'and {bits}, -64')} to ptr")
        f.set(Block.start, block, start)
        f.set(Block.size, block, integer(0))
        f.give(block)
    log = f.subtract(integer(60), f.call("i64", "@llvm.ctlz.i64", "i64 %bytes", "i1 true"))
    eighth = f.let("i64", f"shl i64 1, {log.split()[1]}")  # of the power of two at or below
    step = f.call("i64", "@llvm.umax.i64", eighth, integer(1 << 16))
    up = f.add("i64 %bytes", f.subtract(step, integer(1)))
    size = f.let("i64", f"and {up}, {f.subtract(integer(0), step).split()[1]}")
    known = f.call("ptr", "@taken", size)
    with f.unless(f.is_null(known)):
        f.give(known)
    f.give(f.call("ptr", "@mapped", size))
    return f


def _mapped() -> Routine:
    """A new block of just so many bytes, or null."""
    f = Routine("ptr", "mapped", "i64 %size")
    f.call("void", "@evict", pool(f, _KEEP))
    whole = f.add("i64 %size", integer(HEAD))
    flags = f.let("i32", f"trunc {pool(f, _FLAGS)} to i32")
    block = f.api("mmap", NULL, whole, "i32 3", flags, "i32 -1", integer(0))
    with f.when(f.test("eq", block, "ptr inttoptr (i64 -1 to ptr)")):
        f.give(NULL)
    with f.when(f.test("uge", "i64 %size", pool(f, _HUGE))):
        f.api("madvise", block, whole, "i32 14")
    f.set(Block.start, block, block)
    f.set(Block.size, block, "i64 %size")
    f.give(block)
    return f


# --- owners ---------------------------------------------------------------------------------------------------------


def _capsule(f: Routine, block: str, name: str, end: str) -> str:
    """A new capsule that owns a block; without memory for it the block goes, and null is returned."""
    capsule = f.api("PyCapsule_New", block, name, end)
    with f.when(f.is_null(capsule)):
        f.call("void", "@recycle", block)
        f.give(NULL)
    return capsule


def _end_capsule() -> Routine:
    """What becomes of a block when the capsule that owns it dies."""
    f = Routine("void", "end.capsule", "ptr %capsule")
    block = f.api("PyCapsule_GetPointer", "ptr %capsule", "ptr @name.block")
    f.call("void", "@recycle", block)
    f.give()
    return f


def _end_dltensor() -> Routine:
    """The same for DLPack's, whose name is another once somebody has taken the block over."""
    f = Routine("void", "end.dltensor", "ptr %capsule")
    ours = f.api("PyCapsule_IsValid", "ptr %capsule", "ptr @name.dltensor")
    with f.when(f.test("ne", ours, "i32 0")):
        block = f.api("PyCapsule_GetPointer", "ptr %capsule", "ptr @name.dltensor")
        f.call("void", "@recycle", block)
    f.give()
    return f


def _array() -> Routine:
    """A new array on a block, which it owns from here on; null and an error, and the block is gone."""
    f = Routine("ptr", "array", "ptr %block", "ptr %dtype", "i32 %rank", "ptr %shape")
    capsule = _capsule(f, "ptr %block", "ptr @name.block", "ptr @end.capsule")
    data = f.at("ptr %block", HEAD)
    flags = 0x501  # C's order, aligned, writeable
    made = new_array(f, "ptr %dtype", "i32 %rank", "ptr %shape", data, flags=flags)
    with f.when(f.is_null(made)):
        f.api("Py_DecRef", capsule)
        f.give(NULL)
    f.api("PyArray_SetBaseObject", made, capsule)  # takes the reference over
    f.give(made)
    return f


def new_array(f: Routine, dtype: str, rank: str, shape: str, data: str, *, flags: int) -> str:
    """A new array, or null and an error; null data: numpy allocates."""
    f.api("Py_IncRef", dtype)  # for numpy, which takes it over even if it fails
    kind, layout = f.object("ndarray"), (rank, shape, NULL, data, f"i32 {flags}")
    return f.api("PyArray_NewFromDescr", kind, dtype, *layout, NULL)


def _dltensor() -> Routine:
    """DLPack's capsule over a block, which it owns from here on, of elements that %type says as DLPack writes them."""
    f = Routine("ptr", "dltensor", "ptr %block", "i64 %type", "i32 %rank", "ptr %shape")
    block = "ptr %block"
    extents = f.at(block, Block.extents.offset)
    f.call("void", "@llvm.memcpy.p0.p0.i64", extents, "ptr %shape", integer(32), "i1 false")
    fields = {
        Block.data: f.at(block, HEAD),
        Block.device: integer(1),  # the CPU, number 0
        Block.rank: "i32 %rank",
        Block.type: f.let("i32", "trunc i64 %type to i32"),
        Block.shape: extents,
        Block.strides: NULL,  # contiguous
        Block.offset: integer(0),
        Block.context: NULL,
        Block.deleter: "ptr @recycle",
    }
    for field, value in fields.items():
        f.set(field, block, value)
    f.give(_capsule(f, block, "ptr @name.dltensor", "ptr @end.dltensor"))
    return f
