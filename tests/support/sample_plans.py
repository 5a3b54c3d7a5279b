"""Plans written by hand, one for each thing a backend must render, with what they compute in plain numpy.

Each sample is a function of its block sizes, so that a test can make every array larger than a block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.kernel_builder import KernelBuilder, buffer
from tgc.errors import Line
from tgc.ir.dtypes import bfloat16, bool_, float32, int64
from tgc.ir.sizes import Dim, Size, cdiv
from tgc.kernel.ir import (
    Axis,
    Binding,
    Buffer,
    Gathered,
    Index,
    Launch,
    Matmul,
    Plan,
    Program,
    Quotient,
    Remainder,
)

Array = NDArray[Any]
n, m, k = (Size.symbol(s) for s in "nmk")
ROWS, COLS = 4, 8  # small, so that tests go beyond a block cheaply


@dataclass(frozen=True)
class Sample:
    """A plan, and what it computes, from float64 (or int) inputs."""

    plan: Plan
    reference: Callable[..., tuple[Array, ...]]

    def inputs(self, rng: np.random.Generator, sizes: Mapping[str, int]) -> list[Array]:
        """Random inputs: normal floats; integers below the size `m` (labels)."""
        from tgc.ir.sizes import evaluate

        made: list[Array] = []
        for name in self.plan.inputs:
            b = self.plan.buffer(name)
            shape = tuple(evaluate(d, sizes) for d in b.shape)
            if b.dtype is int64:
                made.append(rng.integers(0, max(sizes.get("m", 1), 1), shape))
            elif b.dtype is bfloat16:
                import ml_dtypes

                made.append(rng.standard_normal(shape).astype(ml_dtypes.bfloat16))
            else:
                made.append(rng.standard_normal(shape).astype(b.dtype.name))
        return made


def _plan(
    name: str,
    inputs: str,
    outputs: str,
    buffers: tuple[Buffer, ...],
    steps: tuple[Any, ...],
    **fields: Any,
) -> Plan:
    """Sizes are bound to the first input dimension that is just that symbol."""
    bindings: list[Binding] = []
    for b in buffers:
        if b.role == "in":
            for i, d in enumerate(b.shape):
                if (
                    isinstance(d, Size)
                    and str(d).isidentifier()
                    and str(d) not in {x.name for x in bindings}
                ):
                    bindings.append(Binding(str(d), b.name, i))
    fields = {"bindings": tuple(bindings)} | fields
    return Plan(name, tuple(inputs.split()), tuple(outputs.split()), buffers, steps=steps, **fields)


def silu_flat(block: int = 16) -> Sample:
    """(1) A chain of maps over one flat axis."""
    buffers = (buffer("x", float32, (n,)), buffer("y", float32, (n,), "out"))
    b = KernelBuilder("silu_kernel", [Axis("i", n, "grid", block)], buffers)
    b.line = Line("/home/user/model.py", 12, "return x * torch.sigmoid(x)")
    x = b.load("x", ("i", 1), name="x")
    s = b.op("add", b.op("exp", b.op("neg", x)), 1.0)
    b.store("y", b.op("div", x, s, name="y"), ("i", 1))
    kernel = b.build(["n"], "y = x * sigmoid(x)")
    return Sample(
        _plan("silu", "x", "y", buffers, (Launch(kernel),)), lambda x: (x / (1 + np.exp(-x)),)
    )


def bias_tanh(rows: int = ROWS, cols: int = COLS) -> Sample:
    """(2) A two-dimensional map with a row vector broadcast."""
    buffers = (
        buffer("x", float32, (n, m)),
        buffer("b", float32, (m,)),
        buffer("y", float32, (n, m), "out"),
    )
    b = KernelBuilder(
        "bias_tanh_kernel", [Axis("r", n, "grid", rows), Axis("c", m, "grid", cols)], buffers
    )
    x = b.load("x", ("r", m), ("c", 1), name="x")
    bias = b.load("b", ("c", 1), name="b")
    b.store("y", b.op("tanh", b.op("add", x, bias)), ("r", m), ("c", 1))
    kernel = b.build(["n", "m"], "y = tanh(x + b)")
    return Sample(
        _plan("bias_tanh", "x b", "y", buffers, (Launch(kernel),)), lambda x, b: (np.tanh(x + b),)
    )


def _softmax(x: Array) -> tuple[Array, ...]:
    e = np.exp(x - x.max(axis=1, keepdims=True)) if x.size else x
    return (e / e.sum(axis=1, keepdims=True),)


def softmax_persistent(rows: int = ROWS) -> Sample:
    """(3) Rows that fit a tile: two reductions over a lane axis."""
    buffers = (buffer("x", float32, (n, m)), buffer("y", float32, (n, m), "out"))
    b = KernelBuilder("softmax_kernel", [Axis("r", n, "grid", rows), Axis("c", m, "lane")], buffers)
    b.line = Line("/home/user/model.py", 20, "return torch.softmax(x, dim=-1)")
    x = b.load("x", ("r", m), ("c", 1), name="x")
    e = b.op("exp", b.op("sub", x, b.reduce("max", x, "c", name="row_max")), name="e")
    b.store("y", b.op("div", e, b.reduce("sum", e, "c", name="row_sum")), ("r", m), ("c", 1))
    kernel = b.build(["n", "m"], "y[r, c] = exp(x[r, c] - max_c x) / sum_c exp(x - max_c x)")
    return Sample(_plan("softmax", "x", "y", buffers, (Launch(kernel),)), _softmax)


def softmax_looped(rows: int = ROWS, cols: int = COLS) -> Sample:
    """(4) Rows that do not fit: three loops, two of which fold."""
    buffers = (buffer("x", float32, (n, m)), buffer("y", float32, (n, m), "out"))
    axes = [Axis("r", n, "grid", rows), Axis("c", m, "loop", cols)]
    b = KernelBuilder("softmax_kernel", axes, buffers)
    b.loop("c")
    x0 = b.load("x", ("r", m), ("c", 1))
    (row_max,) = b.end(("max", x0, "c", "row_max"))
    b.loop("c")
    e0 = b.op("exp", b.op("sub", b.load("x", ("r", m), ("c", 1)), row_max))
    (row_sum,) = b.end(("sum", e0, "c", "row_sum"))
    b.loop("c")
    e1 = b.op("exp", b.op("sub", b.load("x", ("r", m), ("c", 1)), row_max))
    b.store("y", b.op("div", e1, row_sum), ("r", m), ("c", 1))
    b.end()
    kernel = b.build(["n", "m"], "y[r, c] = exp(x[r, c] - max_c x) / sum_c exp(x - max_c x)")
    return Sample(_plan("softmax_looped", "x", "y", buffers, (Launch(kernel),)), _softmax)


def layer_norm_backward(rows: int = ROWS, split: int = 3 * ROWS, cols: int = COLS) -> Sample:
    """(5) Rows looped inside split programs; column folds staged in partial buffers; a finishing kernel."""
    programs = cdiv(n, split)
    buffers = (
        buffer("x", float32, (n, m)),
        buffer("w", float32, (m,)),
        buffer("mean", float32, (n,)),
        buffer("rstd", float32, (n,)),
        buffer("dy", float32, (n, m)),
        buffer("dx", float32, (n, m), "out"),
        buffer("dw", float32, (m,), "out"),
        buffer("db", float32, (m,), "out"),
        buffer("dw_partial", float32, (programs, m), "partial"),
        buffer("db_partial", float32, (programs, m), "partial"),
    )
    first = tuple(x for x in buffers if x.name not in ("dw", "db"))
    b = KernelBuilder(
        "layer_norm_backward_kernel",
        [Axis("r", n, "loop", rows, split), Axis("c", m, "lane")],
        first,
    )
    w = b.load("w", ("c", 1), name="w")
    b.loop("r")
    x = b.load("x", ("r", m), ("c", 1), name="x")
    dy = b.load("dy", ("r", m), ("c", 1), name="dy")
    rstd = b.load("rstd", ("r", 1), name="rstd")
    x_hat = b.op("mul", b.op("sub", x, b.load("mean", ("r", 1), name="mean")), rstd, name="x_hat")
    wdy = b.op("mul", w, dy, name="wdy")
    c1 = b.op("div", b.reduce("sum", b.op("mul", x_hat, wdy), "c"), m, name="c1")
    c2 = b.op("div", b.reduce("sum", wdy, "c"), m, name="c2")
    inner = b.op("sub", b.op("sub", wdy, b.op("mul", x_hat, c1)), c2)
    b.store("dx", b.op("mul", inner, rstd), ("r", m), ("c", 1))
    dw, db = b.end(("sum", b.op("mul", dy, x_hat), "r", "dw_sum"), ("sum", dy, "r", "db_sum"))
    b.store("dw_partial", dw, (Program("r"), m), ("c", 1))
    b.store("db_partial", db, (Program("r"), m), ("c", 1))
    main = b.build(
        ["n", "m"], "dx = (w dy - x_hat mean(x_hat w dy) - mean(w dy)) rstd", "dw = sum_r dy x_hat"
    )

    last = tuple(x for x in buffers if x.name in ("dw", "db", "dw_partial", "db_partial"))
    b = KernelBuilder(
        "layer_norm_backward_finish",
        [Axis("p", programs, "loop", 4), Axis("c", m, "grid", cols)],
        last,
    )
    b.loop("p")
    dw = b.load("dw_partial", ("p", m), ("c", 1))
    db = b.load("db_partial", ("p", m), ("c", 1))
    dw, db = b.end(("sum", dw, "p", "dw"), ("sum", db, "p", "db"))
    b.store("dw", dw, ("c", 1))
    b.store("db", db, ("c", 1))
    finish = b.build(["n", "m"], "dw = sum_p dw_partial", "db = sum_p db_partial")

    def reference(x: Array, w: Array, mean: Array, rstd: Array, dy: Array) -> tuple[Array, ...]:
        x_hat = (x - mean[:, None]) * rstd[:, None]
        wdy = w * dy
        c1, c2 = (x_hat * wdy).mean(1, keepdims=True), wdy.mean(1, keepdims=True)
        return (wdy - x_hat * c1 - c2) * rstd[:, None], (dy * x_hat).sum(0), dy.sum(0)

    plan = _plan(
        "layer_norm_backward",
        "x w mean rstd dy",
        "dx dw db",
        buffers,
        (Launch(main), Launch(finish)),
    )
    return Sample(plan, reference)


def full_sum(block: int = 8, split: int = 24) -> Sample:
    """(6) A fold of everything in two deterministic stages."""
    programs = cdiv(n, split)
    buffers = (
        buffer("x", float32, (n,)),
        buffer("total", float32, (), "out"),
        buffer("partial", float32, (programs,), "partial"),
    )
    b = KernelBuilder("sum_kernel", [Axis("i", n, "loop", block, split)], (buffers[0], buffers[2]))
    b.loop("i")
    x = b.load("x", ("i", 1), name="x")
    (s,) = b.end(("sum", b.op("mul", x, x), "i", "s"))
    b.store("partial", s, (Program("i"), 1))
    main = b.build(["n"], "partial = sum of x**2 over a program's elements")
    b = KernelBuilder("sum_finish", [Axis("p", programs, "lane")], (buffers[1], buffers[2]))
    b.store("total", b.reduce("sum", b.load("partial", ("p", 1)), "p"))
    finish = b.build(["n"], "total = sum of partial")
    plan = _plan("sum_of_squares", "x", "total", buffers, (Launch(main), Launch(finish)))
    return Sample(plan, lambda x: (np.asarray((x * x).sum()),))


def column_sum(rows: int = ROWS, cols: int = COLS) -> Sample:
    """(7) A fold over the slow axis."""
    buffers = (buffer("x", float32, (n, m)), buffer("y", float32, (m,), "out"))
    axes = [Axis("r", n, "loop", rows), Axis("c", m, "grid", cols)]
    b = KernelBuilder("column_sum_kernel", axes, buffers)
    b.loop("r")
    (y,) = b.end(("sum", b.load("x", ("r", m), ("c", 1), name="x"), "r", "y"))
    b.store("y", y, ("c", 1))
    kernel = b.build(["n", "m"], "y[c] = sum_r x[r, c]")
    return Sample(_plan("column_sum", "x", "y", buffers, (Launch(kernel),)), lambda x: (x.sum(0),))


def cross_entropy(rows: int = ROWS) -> Sample:
    """(8) A load whose index holds a value: one logit per row."""
    buffers = (
        buffer("x", float32, (n, m)),
        buffer("label", int64, (n,)),
        buffer("loss", float32, (n,), "out"),
        buffer("lse", float32, (n,), "out"),
    )
    b = KernelBuilder(
        "cross_entropy_kernel", [Axis("r", n, "grid", rows), Axis("c", m, "lane")], buffers
    )
    x = b.load("x", ("r", m), ("c", 1), name="x")
    label = b.load("label", ("r", 1), name="label")
    row_max = b.reduce("max", x, "c", name="row_max")
    total = b.reduce("sum", b.op("exp", b.op("sub", x, row_max)), "c", name="total")
    lse = b.op("add", b.op("log", total), row_max, name="lse")
    picked = b.load("x", ("r", m), (Gathered(label, m), 1), name="picked")
    b.store("loss", b.op("sub", lse, picked), ("r", 1))
    b.store("lse", lse, ("r", 1))
    kernel = b.build(["n", "m"], "loss[r] = log(sum_c exp(x[r, c])) - x[r, label[r]]")

    def reference(x: Array, label: Array) -> tuple[Array, ...]:
        lse = np.log(np.exp(x).sum(1))
        return lse - x[np.arange(len(x)), label], lse

    return Sample(
        _plan("cross_entropy", "x label", "loss lse", buffers, (Launch(kernel),)), reference
    )


def cross_entropy_backward(rows: int = ROWS, cols: int = COLS) -> Sample:
    """(8) Its gradient: the one-hot row is a comparison with an iota."""
    buffers = (
        buffer("x", float32, (n, m)),
        buffer("label", int64, (n,)),
        buffer("lse", float32, (n,)),
        buffer("dloss", float32, (n,)),
        buffer("dx", float32, (n, m), "out"),
    )
    b = KernelBuilder(
        "cross_entropy_backward_kernel",
        [Axis("r", n, "grid", rows), Axis("c", m, "grid", cols)],
        buffers,
    )
    x = b.load("x", ("r", m), ("c", 1), name="x")
    p = b.op("exp", b.op("sub", x, b.load("lse", ("r", 1), name="lse")), name="p")
    hit = b.op(
        "eq", b.iota(("c", 1), name="column"), b.load("label", ("r", 1), name="label"), name="hit"
    )
    dloss = b.load("dloss", ("r", 1), name="dloss")
    dx = b.op("mul", b.op("where", hit, b.op("sub", p, 1.0), p), dloss)
    b.store("dx", dx, ("r", m), ("c", 1))
    kernel = b.build(["n", "m"], "dx[r, c] = (exp(x[r, c] - lse[r]) - (c == label[r])) dloss[r]")

    def reference(x: Array, label: Array, lse: Array, dloss: Array) -> tuple[Array, ...]:
        p = np.exp(x - lse[:, None])
        p[np.arange(len(x)), label] -= 1
        return (p * dloss[:, None],)

    plan = _plan("cross_entropy_backward", "x label lse dloss", "dx", buffers, (Launch(kernel),))
    return Sample(plan, reference)


def padded(block: int = 8) -> Sample:
    """(9) A masked load with a fill: two in front, three behind."""
    buffers = (buffer("x", float32, (n,)), buffer("y", float32, (n + 5,), "out"))
    b = KernelBuilder("pad_kernel", [Axis("i", n + 5, "grid", block)], buffers)
    i = b.iota(("i", 1), name="i_")
    inside = b.op("and", b.op("ge", i, 2), b.op("lt", i, n + 2), name="inside")
    x = b.load("x", ("i", 1), offset=-2, mask=inside, fill=7.0, name="x")
    b.store("y", b.op("mul", x, 2.0), ("i", 1))
    kernel = b.build(["n"], "y = 2 pad(x, (2, 3), value=7)")
    return Sample(
        _plan("padded", "x", "y", buffers, (Launch(kernel),)),
        lambda x: (2 * np.pad(x, (2, 3), constant_values=7.0),),
    )


def flipped(rows: int = ROWS, cols: int = COLS) -> Sample:
    """(9) Negative coefficients."""
    buffers = (buffer("x", float32, (n, m)), buffer("y", float32, (n, m), "out"))
    b = KernelBuilder(
        "flip_kernel", [Axis("r", n, "grid", rows), Axis("c", m, "grid", cols)], buffers
    )
    x = b.load("x", ("r", -m), ("c", -1), offset=n * m - 1, name="x")
    b.store("y", b.op("exp", b.op("neg", x)), ("r", m), ("c", 1))
    kernel = b.build(["n", "m"], "y = exp(-flip(x))")
    return Sample(
        _plan("flipped", "x", "y", buffers, (Launch(kernel),)), lambda x: (np.exp(-x[::-1, ::-1]),)
    )


def transposed(rows: int = ROWS, cols: int = COLS) -> Sample:
    """Reads column by column what it writes row by row, and skips every other element of a third operand."""
    buffers = (
        buffer("x", float32, (m, n)),
        buffer("z", float32, (2 * n, m + 3)),
        buffer("y", float32, (n, m), "out"),
    )
    b = KernelBuilder(
        "transpose_kernel", [Axis("r", n, "grid", rows), Axis("c", m, "grid", cols)], buffers
    )
    x = b.load("x", ("r", 1), ("c", n), name="x")
    z = b.load("z", ("r", 2 * m + 6), ("c", 1), offset=m + 5, name="z")
    b.store("y", b.op("exp", b.op("sub", x, z)), ("r", m), ("c", 1))
    kernel = b.build(["n", "m"], "y = exp(x.T - z[1::2, 2:m + 2])")
    plan = _plan("transposed", "x z", "y", buffers, (Launch(kernel),))
    return Sample(plan, lambda x, z: (np.exp(x.T - z[1::2, 2 : 2 + x.shape[0]]),))


def matmul_bias_relu(rows: int = ROWS) -> Sample:
    """(10) A library product and the kernel that finishes it."""
    buffers = (
        buffer("x", float32, (n, k)),
        buffer("w", float32, (m, k)),
        buffer("b", float32, (m,)),
        buffer("h", float32, (n, m), "scratch"),
        buffer("y", float32, (n, m), "out"),
    )
    b = KernelBuilder(
        "bias_relu_kernel", [Axis("r", n, "grid", rows), Axis("c", m, "lane")], buffers[2:]
    )
    h = b.load("h", ("r", m), ("c", 1), name="h")
    b.store(
        "y",
        b.op("clamp_min", b.op("add", h, b.load("b", ("c", 1), name="b")), 0.0),
        ("r", m),
        ("c", 1),
    )
    kernel = b.build(["n", "m"], "y = relu(h + b)")
    steps = (Matmul("ij,kj->ik", "x", "w", "h", float32), Launch(kernel))
    plan = _plan("linear_relu", "x w b", "y", buffers, steps)
    return Sample(plan, lambda x, w, b: (np.maximum(x @ w.T + b, 0),))


def strided(rows: int = ROWS, cols: int = COLS) -> Sample:
    """(11) An input with strides of its own, known at call time."""
    s0, s1 = Size.symbol("x_stride0"), Size.symbol("x_stride1")
    buffers = (Buffer("x", float32, (n, m), (s0, s1), "in"), buffer("y", float32, (n, m), "out"))
    b = KernelBuilder(
        "scale_kernel", [Axis("r", n, "grid", rows), Axis("c", m, "grid", cols)], buffers
    )
    x = b.load("x", ("r", s0), ("c", s1), name="x")
    b.store("y", b.op("sub", b.op("mul", x, 3.0), 1.0), ("r", m), ("c", 1))
    kernel = b.build(["n", "m", "x_stride0", "x_stride1"], "y = 3 x - 1")
    bindings = (
        Binding("n", "x", 0),
        Binding("m", "x", 1),
        Binding("x_stride0", "x", 0, stride=True),
        Binding("x_stride1", "x", 1, stride=True),
    )
    plan = _plan("scaled", "x", "y", buffers, (Launch(kernel),), bindings=bindings)
    return Sample(plan, lambda x: (3 * x - 1,))


def fixed_rows(extent: Dim, rows: int = ROWS) -> Sample:
    """(11) A row fold where the number of rows is fixed: 0, 1 or more."""
    buffers = (buffer("x", float32, (extent, m)), buffer("y", float32, (extent,), "out"))
    b = KernelBuilder(
        "mean_kernel", [Axis("r", extent, "grid", rows), Axis("c", m, "lane")], buffers
    )
    x = b.load("x", ("r", m), ("c", 1), name="x")
    b.store("y", b.op("div", b.reduce("sum", x, "c"), m), ("r", 1))
    kernel = b.build(["m"], "y = mean(x, dim=1)")
    plan = _plan("row_mean", "x", "y", buffers, (Launch(kernel),))
    return Sample(plan, lambda x: (x.mean(1),))


def bf16_exp(block: int = 16) -> Sample:
    """(12) Half-precision memory, float32 arithmetic."""
    buffers = (buffer("x", bfloat16, (n,)), buffer("y", bfloat16, (n,), "out"))
    b = KernelBuilder("exp_kernel", [Axis("i", n, "grid", block)], buffers)
    x = b.op("cast", b.load("x", ("i", 1), name="x"), dtype=float32, name="x32")
    y = b.op("exp", b.op("mul", x, 0.5))
    b.store("y", b.op("cast", y, dtype=bfloat16), ("i", 1))
    kernel = b.build(["n"], "y = exp(x / 2)")
    return Sample(
        _plan("half_exp", "x", "y", buffers, (Launch(kernel),)), lambda x: (np.exp(x * 0.5),)
    )


def repeated(block: int = 8) -> Sample:
    """Quotient and remainder of an index: each element twice, times a short cycle."""
    buffers = (
        buffer("x", float32, (n,)),
        buffer("z", float32, (3,)),
        buffer("y", float32, (2 * n,), "out"),
        buffer("odd", bool_, (2 * n,), "out"),
    )
    b = KernelBuilder("repeat_kernel", [Axis("i", 2 * n, "grid", block)], buffers)
    i = Index((("i", 1),))
    x = b.load("x", (Quotient(i, 2), 1), name="x")
    z = b.load("z", (Remainder(i, 3), 1), name="z")
    b.store("y", b.op("mul", x, z), ("i", 1))
    b.store("odd", b.op("eq", b.iota((Remainder(i, 2), 1)), 1), ("i", 1))
    kernel = b.build(["n"], "y = repeat_interleave(x, 2) * z[i % 3]")

    def reference(x: Array, z: Array) -> tuple[Array, ...]:
        i = np.arange(2 * len(x))
        return np.repeat(x, 2) * z[i % 3], i % 2 == 1

    return Sample(_plan("repeated", "x z", "y odd", buffers, (Launch(kernel),)), reference)


def fused_multiply(block: int = 65536) -> Sample:
    """a*b + c: the call whose overhead is measured."""
    names = ("a", "b", "c")
    buffers = (*(buffer(x, float32, (n,)) for x in names), buffer("y", float32, (n,), "out"))
    b = KernelBuilder("multiply_add_kernel", [Axis("i", n, "grid", block)], buffers)
    x, y, z = (b.load(name, ("i", 1), name=name) for name in names)
    b.store("y", b.op("add", b.op("mul", x, y), z), ("i", 1))
    kernel = b.build(["n"], "y = a * b + c")
    return Sample(
        _plan("multiply_add", "a b c", "y", buffers, (Launch(kernel),)),
        lambda a, b, c: (a * b + c,),
    )


SAMPLES: dict[str, Callable[[], Sample]] = {
    "silu_flat": silu_flat,
    "bias_tanh": bias_tanh,
    "softmax_persistent": softmax_persistent,
    "softmax_looped": softmax_looped,
    "layer_norm_backward": layer_norm_backward,
    "full_sum": full_sum,
    "column_sum": column_sum,
    "cross_entropy": cross_entropy,
    "cross_entropy_backward": cross_entropy_backward,
    "padded": padded,
    "flipped": flipped,
    "transposed": transposed,
    "matmul_bias_relu": matmul_bias_relu,
    "strided": strided,
    "no_rows": lambda: fixed_rows(0),
    "one_row": lambda: fixed_rows(1),
    "bf16_exp": bf16_exp,
    "repeated": repeated,
    "fused_multiply": lambda: fused_multiply(16),
}


def renamed(plan: Plan, name: str) -> Plan:
    """The same plan under another name, for modules that hold several."""
    return replace(plan, name=name)
