"""Object code in memory: loaded wherever there is room for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("llvmlite")

IN_PIECES = """
import ctypes
import numpy as np
import tgc

tgc.jit(lambda x: x + 1, backend="native")(np.zeros(3))  # libraries take their places
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, *[ctypes.c_size_t] * 2, *[ctypes.c_int] * 2, ctypes.c_long)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
PAGE, FAR = 4096, 16 << 30

def reserve(size):
    return libc.mmap(None, size, 0, 0x4022, -1, 0)  # private, anonymous, without memory behind it

def fill(size):
    while True:
        where = reserve(size)
        if where < wall:
            libc.munmap(where, size)
            return

pages = [reserve(PAGE) for _ in range(1000)]
wall = reserve(FAR)
for page in pages[::2]:
    libc.munmap(page, PAGE)
size = 1 << 30
while size > PAGE:  # above the wall only single pages are free
    fill(size)
    size //= 2
x = np.linspace(-1, 1, 1000)
y = tgc.jit(lambda x: tgc.exp(tgc.sin(x)) * tgc.erf(x), backend="native")(x)
z = tgc.jit(lambda x: tgc.exp(tgc.sin(x)) * tgc.erf(x), backend="numpy")(x)
np.testing.assert_allclose(y, z, rtol=1e-12)
print("good")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="numbers of Linux")
def test_code_loads_where_the_address_space_is_in_pieces() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_PIECES], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr
