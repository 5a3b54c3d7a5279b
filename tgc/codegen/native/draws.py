"""The random words of the native engine: Philox 4x32-10 (Salmon et al., 2011).

A counter gives four words, and neighbours in memory mostly want the four of one counter: where the lanes at hand do,
a counter is computed once for four of them.
"""

from __future__ import annotations

from tgc.codegen.native.vectors import Code, Value

ROUNDS = 10
FACTORS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF
SHARING = 8
"""Lanes from which they share counters."""


def philox_words(at: Value, stream: Value, seed: Value) -> list[Value]:
    """For each lane the four words of the counter at >> 2, as int32."""
    code = at.code
    if code.lanes < SHARING:
        return _each_its_own(at, stream, seed)
    base, *first = (v.lane(0) for v in (at, stream, seed))
    expected = code.spread(base & -4) + code.numbers([4 * place for place in _quarters(code)])
    apart = (
        ((at & -4) ^ expected) | (stream ^ code.spread(first[0])) | (seed ^ code.spread(first[1]))
    )
    return _for_four_lanes(at, stream, seed, apart)


def philox_words_of_a_run(at: Value, stream: Value, seed: Value) -> list[Value]:
    """The same where `at` counts up by one and the others are the same in all lanes."""
    if at.code.lanes < SHARING:
        return _each_its_own(at, stream, seed)
    return _for_four_lanes(at, stream, seed, at.lane(0) & 3)


def _quarters(code: Code) -> list[int]:
    return [lane // 4 for lane in range(code.lanes)]


def _for_four_lanes(at: Value, stream: Value, seed: Value, apart: Value) -> list[Value]:
    """One counter for four lanes, or where a bit of `apart` is set each lane its own."""
    code = at.code
    quarter = code.over(code.format, code.lanes // 4)
    base, *first = (v.lane(0) for v in (at, stream, seed))
    blocks = quarter.spread(base.signed_shift(2)) + quarter.numbers(range(quarter.lanes))
    words = _rounds(blocks, *(quarter.spread(v) for v in first))
    near = [w.to_single().shuffled(_quarters(code)) for w in words]
    operands = [at, stream, seed]
    return code.otherwise(apart.differs(0), near, "philox_words.apart", operands, _each_its_own)


def _each_its_own(at: Value, stream: Value, seed: Value) -> list[Value]:
    return [w.to_single() for w in _rounds(at.signed_shift(2), stream, seed)]


def _rounds(block: Value, stream: Value, seed: Value) -> list[Value]:
    """The four words of each counter, in the low halves of 64 bits; the high halves are anything."""
    x, y, key = [block, stream], [block >> 32, stream >> 32], [seed, seed >> 32]
    for _ in range(ROUNDS):
        a, b = ((word & LOW) * factor for word, factor in zip(x, FACTORS, strict=True))
        x = [(b >> 32) ^ y[0] ^ key[0], (a >> 32) ^ y[1] ^ key[1]]
        y = [b, a]
        key = [k + step for k, step in zip(key, KEY_STEPS, strict=True)]
    return [x[0], y[0], x[1], y[1]]


def philox_word(at: Value, *words: Value) -> Value:
    """Of four words the one at & 3."""
    place = at.to_single()
    odd, upper = (place & 1).differs(0), (place & 2).differs(0)
    return upper.where(odd.where(words[3], words[2]), odd.where(words[1], words[0]))
