"""Hand-written Triton kernels and host functions for the tests of the interpreter, offline compiler and static model.

A real file, because Triton reads the source of what it compiles. Shaped like an emitted module: kernels, helpers that
kernels call, and plain host functions that launch them. Some are wrong on purpose and say so.
"""

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def scale(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """y = 2 x over a flat array."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    tl.store(y_ptr + i, 2.0 * x, mask=i < n)


@triton.jit
def scale_unmasked(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """Wrong: the last program runs past the end."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, 2.0 * tl.load(x_ptr + i))


@triton.jit
def everyone_stores_first(x_ptr, y_ptr, BLOCK: tl.constexpr):
    """Wrong: every program writes y[0], and reads x[0:BLOCK] again."""
    x = tl.load(x_ptr + tl.arange(0, BLOCK))
    tl.store(y_ptr, tl.sum(x, 0))


@triton.jit
def shift_in_place(x_ptr, n, BLOCK: tl.constexpr):
    """Wrong: reads what a neighbouring program writes."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i + 1, mask=i + 1 < n)
    tl.store(x_ptr + i, x, mask=i + 1 < n)


@triton.jit
def round_trip(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """y = x, cast to the element type of y."""
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    tl.store(y_ptr + i, x.to(y_ptr.dtype.element_ty), mask=i < n)


@triton.jit
def multiply_add(x_ptr, y_ptr, z_ptr, o_ptr, n, BLOCK: tl.constexpr):
    """o = x y + z in the type of the operands, two roundings."""
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    y = tl.load(y_ptr + i, mask=i < n)
    z = tl.load(z_ptr + i, mask=i < n)
    tl.store(o_ptr + i, x * y + z, mask=i < n)


@triton.jit
def fused_multiply_add(x_ptr, y_ptr, z_ptr, o_ptr, n, BLOCK: tl.constexpr):
    """o = x y + z, one rounding."""
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    y = tl.load(y_ptr + i, mask=i < n)
    z = tl.load(z_ptr + i, mask=i < n)
    tl.store(o_ptr + i, tl.fma(x, y, z), mask=i < n)


@triton.jit
def _nan_max(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def maxima(x_ptr, y_ptr, pair_ptr, folded_ptr, n, BLOCK: tl.constexpr):
    """pair = max(x, y) with NaN kept, then dropped; folded = max of x with NaN kept, then dropped."""
    i = tl.arange(0, BLOCK)
    m = i < n
    x = tl.load(x_ptr + i, mask=m, other=-float("inf"))
    y = tl.load(y_ptr + i, mask=m, other=-float("inf"))
    tl.store(pair_ptr + i, _nan_max(x, y), mask=m)
    tl.store(pair_ptr + n + i, tl.maximum(x, y), mask=m)
    tl.store(folded_ptr, tl.reduce(x, 0, _nan_max))
    tl.store(folded_ptr + 1, tl.max(x, 0))


@triton.jit
def _affine_compose(a, b, c, d):
    """(a, b) then (c, d), as maps x -> a x + b: associative, not commutative."""
    return c * a, c * b + d


@triton.jit
def affine_fold_and_scan(a_ptr, b_ptr, fold_ptr, scan_ptr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Compose the maps of each row: their product, and the running one (slope, then offset)."""
    r = tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    at = r[:, None] * BLOCK + c[None, :]
    a = tl.load(a_ptr + at)
    b = tl.load(b_ptr + at)
    slope, offset = tl.reduce((a, b), 1, _affine_compose)
    tl.store(fold_ptr + r, slope)
    tl.store(fold_ptr + ROWS + r, offset)
    slopes, offsets = tl.associative_scan((a, b), 1, _affine_compose)
    tl.store(scan_ptr + at, slopes)
    tl.store(scan_ptr + ROWS * BLOCK + at, offsets)


@triton.jit
def row_sums(x_ptr, y_ptr, columns, BLOCK: tl.constexpr):
    """y[r] = sum of row r, in a loop whose bound is known at run time only."""
    row = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        c = start + tl.arange(0, BLOCK)
        offset = row.to(tl.int64) * columns + start.to(tl.int64) + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + offset, mask=c < columns, other=0.0)
    tl.store(y_ptr + row, total.sum(0))


@triton.jit
def integer_division(a_ptr, b_ptr, q_ptr, r_ptr, n, BLOCK: tl.constexpr):
    """Quotient and remainder, truncated as in C."""
    i = tl.arange(0, BLOCK)
    a = tl.load(a_ptr + i, mask=i < n, other=1)
    b = tl.load(b_ptr + i, mask=i < n, other=1)
    tl.store(q_ptr + i, a // b, mask=i < n)
    tl.store(r_ptr + i, a % b, mask=i < n)


@triton.jit
def select_by_mask(keep_ptr, x_ptr, y_ptr, flag, factor, n, BLOCK: tl.constexpr):
    """y = factor x where keep (a bool tensor) or flag (a bool argument) holds, else 0."""
    i = tl.arange(0, BLOCK)
    keep = tl.load(keep_ptr + i, mask=i < n, other=False)
    x = tl.load(x_ptr + i, mask=i < n)
    tl.store(y_ptr + i, tl.where(keep | flag, factor * x, 0.0), mask=i < n)


@triton.jit
def gather(x_ptr, index_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """y = x[index]: an address computed from what another argument holds."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    index = tl.load(index_ptr + i, mask=i < n, other=0)
    tl.store(y_ptr + i, tl.load(x_ptr + index, mask=i < n), mask=i < n)


@triton.jit
def copy_full_blocks(x_ptr, y_ptr, BLOCK: tl.constexpr):
    """y = x, no mask."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i))


@triton.jit
def centred(x_ptr, y_ptr, BLOCK: tl.constexpr):
    """y = exp(x - mean x), holding the whole row in registers: a long row on few threads spills."""
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, libdevice.exp(x - tl.sum(x, 0) * (1.0 / BLOCK)))


@triton.jit
def staged_product(a_ptr, b_ptr, c_ptr, K, M: tl.constexpr, N: tl.constexpr, BK: tl.constexpr):
    """A blocked matrix product; its shared memory grows with the number of stages."""
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    k = tl.arange(0, BK)
    total = tl.zeros([M, N], tl.float32)
    for start in range(0, K, BK):
        a = tl.load(a_ptr + m[:, None] * K + (start + k)[None, :])
        b = tl.load(b_ptr + (start + k)[:, None] * N + n[None, :])
        total += tl.dot(a, b)
    tl.store(c_ptr + m[:, None] * N + n[None, :], total)


@triton.jit
def approximate_exp_of_fma(x_ptr, y_ptr, BLOCK: tl.constexpr):
    """tl.exp of an fma result: the TTIR shows it, whatever the PTX looks like."""
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, tl.exp(tl.fma(x, x, x)))


@triton.jit
def rejected_by_the_compiler(x_ptr, n):
    """Wrong: the loop changes the type of what it carries. The interpreter cannot see it."""
    total = 0
    for _ in range(n):
        total = total + 1.5
    tl.store(x_ptr, total)


def scaled(x: torch.Tensor, kernel=scale, block: int = 16) -> torch.Tensor:
    """A host function as an emitted module has them: allocates, then launches over a grid."""
    y = torch.empty_like(x)
    n = x.numel()
    kernel[(triton.cdiv(n, block),)](x, y, n, BLOCK=block, num_warps=4, enable_fp_fusion=False)
    return y


def scaled_twice(x: torch.Tensor) -> torch.Tensor:
    """Two launches, the second with a grid computed from the arguments."""
    y = scaled(x)
    z = torch.empty_like(x)
    scale[lambda meta: (triton.cdiv(y.numel(), meta["BLOCK"]),)](y, z, y.numel(), BLOCK=8)
    return z


def total(rows: torch.Tensor) -> torch.Tensor:
    """Sum of each row; the host function itself uses range, which kernels see differently."""
    sums = torch.stack([torch.zeros(()) for _ in range(rows.shape[0])])
    row_sums[(rows.shape[0],)](rows, sums, rows.shape[1], BLOCK=4)
    return sums
