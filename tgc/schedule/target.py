"""What the scheduler must know of a machine: how large a tile is, and how much of a row one program may hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A backend and its tile sizes, in elements.

    Attributes:
        name: "numpy", "native", or the GPU architecture ("sm_90", "gfx942").
        backend: "numpy", "native" or "triton".
        flat: block of a one-dimensional map.
        tile: elements a program works on at once.
        row: longest extent a program holds whole (a longer one is looped over).
        whole: largest tensor whose full reduction may be followed by its use in one program.
        programs: at most so many partial results per reduction; a function of the sizes, never of the chip, so that
            the bits of a result do not depend on it.
        contracts: a product and a sum are one operation, which rounds once.
        split: fewest elements of a split axis per program: each program writes as many partial results as one element
            has, so these must be few beside what is read.
        unroll: rows so short are written out by the backend, for their exact length.
        call: elements from which a call on arrays costs as much as the work in it, where a program is a sequence of
            such calls that leave their results in scratch arrays; 1 where it is compiled code.
        power_of_two: whether the lanes of a tile are a power of two.
        offset_bits: width of an offset within a buffer.
        picks: whether one element of a row that a program holds in registers is picked from it; where the row is in a
            cache, reading it again is cheaper.
    """

    name: str
    backend: str
    flat: int
    tile: int
    row: int
    whole: int
    programs: int
    split: int = 1
    unroll: int = 0
    contracts: bool = False
    call: int = 1
    power_of_two: bool = False
    offset_bits: int = 64
    picks: bool = False


NUMPY = Target(
    "numpy",
    "numpy",
    flat=1 << 17,
    tile=1 << 17,
    row=1 << 20,
    whole=1 << 17,
    programs=64,
    split=8,
    unroll=4,
    call=1 << 10,
)

NATIVE = Target(
    "native",
    "native",
    flat=1 << 12,
    tile=1 << 13,
    row=1 << 17,
    whole=1 << 13,
    programs=64,
    split=16,
    unroll=8,
    contracts=True,
)


def triton(architecture: str) -> Target:
    """The Triton backend for `architecture`, such as "sm_90"."""
    return Target(
        architecture,
        "triton",
        flat=1 << 10,
        tile=1 << 11,
        row=1 << 14,
        whole=1 << 14,
        programs=256,
        power_of_two=True,
        offset_bits=32,
        picks=True,
    )
