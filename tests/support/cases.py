"""Small graphs that between them need every shape a kernel can take, with the inputs to run them on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tgc.ir import dtypes as d
from tgc.ir.build import Builder
from tgc.ir.nodes import Graph, Node
from tgc.ir.sizes import Size

N, M, K = (Size.symbol(s) for s in ("n", "m", "k"))


def _rows(g: Builder, v: Node, like: Node) -> Node:
    return g.broadcast(v, shape=like.shape, dims=(0,))


def silu() -> Graph:
    g = Builder()
    x = g.input("x", d.float32, (N, M))
    return g.graph(
        "silu", (x,), (g.map("div", x, g.map("add", g.like(x, 1), g.map("exp", g.map("neg", x)))),)
    )


def affine() -> Graph:
    """A row vector and a column vector broadcast over a matrix."""
    g = Builder()
    x, s, b = (
        g.input(*a)
        for a in (("x", d.float32, (N, M)), ("s", d.float32, (N,)), ("b", d.float32, (M,)))
    )
    y = g.map("add", g.map("mul", x, _rows(g, s, x)), g.broadcast(b, shape=(N, M), dims=(1,)))
    return g.graph("affine", (x, s, b), (y,))


def _softmax(g: Builder, x: Node) -> Node:
    e = g.map("exp", g.map("sub", x, _rows(g, g.fold("max", x, axes=(1,)), x)))
    return g.map("div", e, _rows(g, g.fold("sum", e, axes=(1,)), x))


def softmax() -> Graph:
    g = Builder()
    x = g.input("x", d.float32, (N, M))
    return g.graph("softmax", (x,), (_softmax(g, x),))


def softmax_twice() -> Graph:
    g = Builder()
    x = g.input("x", d.float32, (N, M))
    return g.graph("softmax_twice", (x,), (_softmax(g, _softmax(g, x)),))


def softmax_vector() -> Graph:
    """One row: small enough for a program, or a fold in two stages and its use."""
    g = Builder()
    x = g.input("x", d.float32, (N,))
    everywhere = lambda v: g.broadcast(v, shape=(N,), dims=())
    e = g.map("exp", g.map("sub", x, everywhere(g.fold("max", x, axes=(0,)))))
    return g.graph(
        "softmax_vector", (x,), (g.map("div", e, everywhere(g.fold("sum", e, axes=(0,)))),)
    )


def total_and_map() -> Graph:
    g = Builder()
    x = g.input("x", d.float32, (N, M))
    y = g.map("mul", x, x)
    return g.graph(
        "total_and_map",
        (x,),
        (y, g.map("mul", g.fold("sum", y, axes=(0, 1)), g.const(0.5, d.float32))),
    )


def column_sums() -> Graph:
    g = Builder()
    x = g.input("x", d.float32, (N, M))
    return g.graph("column_sums", (x,), (g.fold("sum", x, axes=(0,)), g.fold("max", x, axes=(0,))))


def batch_norm() -> Graph:
    """Column statistics and their use."""
    g = Builder()
    x = g.input("x", d.float32, (N, M))
    mean = g.map("div", g.fold("sum", x, axes=(0,)), g.cast(g.const(N, d.int64, (M,)), d.float32))
    return g.graph(
        "batch_norm", (x,), (g.map("sub", x, g.broadcast(mean, shape=(N, M), dims=(1,))),)
    )


def layer_norm_backward() -> Graph:
    g = Builder()
    x, w, dy, mean, rstd = (
        g.input(*a)
        for a in (
            ("x", d.float32, (N, M)),
            ("w", d.float32, (M,)),
            ("dy", d.float32, (N, M)),
            ("mean", d.float32, (N,)),
            ("rstd", d.float32, (N,)),
        )
    )
    xhat = g.map("mul", g.map("sub", x, _rows(g, mean, x)), _rows(g, rstd, x))
    dxhat = g.map("mul", dy, g.broadcast(w, shape=(N, M), dims=(1,)))
    c1 = g.fold("sum", dxhat, axes=(1,))
    c2 = g.fold("sum", g.map("mul", dxhat, xhat), axes=(1,))
    inner = g.map("sub", g.map("sub", dxhat, _rows(g, c1, x)), g.map("mul", xhat, _rows(g, c2, x)))
    dx = g.map("mul", inner, _rows(g, rstd, x))
    dw, db = g.fold("sum", g.map("mul", dy, xhat), axes=(0,)), g.fold("sum", dy, axes=(0,))
    return g.graph("layer_norm_backward", (x, w, dy, mean, rstd), (dx, dw, db))


def cross_entropy() -> Graph:
    g = Builder()
    x, t = g.input("x", d.float32, (N, M)), g.input("t", d.int64, (N,))
    m = g.fold("max", x, axes=(1,))
    lse = g.map(
        "add",
        g.map("log", g.fold("sum", g.map("exp", g.map("sub", x, _rows(g, m, x))), axes=(1,))),
        m,
    )
    picked = g.reshape(g.take(x, g.reshape(t, shape=(N, 1)), axis=1), shape=(N,))
    return g.graph("cross_entropy", (x, t), (g.fold("sum", g.map("sub", lse, picked), axes=(0,)),))


def regression() -> Graph:
    """A matrix times a vector, a loss and its gradient: x is read once."""
    g = Builder()
    x, w, y = (
        g.input(*a)
        for a in (("x", d.float32, (N, M)), ("w", d.float32, (M,)), ("y", d.float32, (N,)))
    )
    r = g.map(
        "sub", g.fold("sum", g.map("mul", x, g.broadcast(w, shape=(N, M), dims=(1,))), axes=(1,)), y
    )
    loss = g.fold("sum", g.map("mul", r, r), axes=(0,))
    return g.graph(
        "regression", (x, w, y), (loss, g.fold("sum", g.map("mul", _rows(g, r, x), x), axes=(0,)))
    )


def linear_tanh() -> Graph:
    g = Builder()
    x, w, b = (
        g.input(*a)
        for a in (("x", d.float32, (N, M)), ("w", d.float32, (K, M)), ("b", d.float32, (K,)))
    )
    cube = (N, K, M)
    times = g.map(
        "mul", g.broadcast(x, shape=cube, dims=(0, 2)), g.broadcast(w, shape=cube, dims=(1, 2))
    )
    z = g.map("add", g.fold("sum", times, axes=(2,)), g.broadcast(b, shape=(N, K), dims=(1,)))
    return g.graph("linear_tanh", (x, w, b), (g.map("tanh", z),))


def product() -> Graph:
    """A contraction and nothing else."""
    g = Builder()
    x, w = g.input("x", d.float32, (N, M)), g.input("w", d.float32, (M, K))
    cube = (N, M, K)
    times = g.map(
        "mul", g.broadcast(x, shape=cube, dims=(0, 1)), g.broadcast(w, shape=cube, dims=(1, 2))
    )
    return g.graph("product", (x, w), (g.fold("sum", times, axes=(1,)),))


def repeated_product() -> Graph:
    """A sum of products along which a third dimension only repeats."""
    g = Builder()
    x, w = g.input("x", d.float32, (N, M)), g.input("w", d.float32, (N,))
    y = g.input("y", d.float32, (K,))
    cube = (N, M, K)
    times = g.map(
        "mul", g.broadcast(x, shape=cube, dims=(0, 1)), g.broadcast(w, shape=cube, dims=(0,))
    )
    total = g.fold("sum", times, axes=(0,))
    return g.graph(
        "repeated_product",
        (x, w, y),
        (g.map("add", total, g.broadcast(y, shape=(M, K), dims=(1,))),),
    )


def movements() -> Graph:
    """Slices, pads, flips, permutations and reshapes before a map."""
    g = Builder()
    x = g.input("x", d.float32, (N, M))
    t = g.permute(x, order=(1, 0))
    f = g.flip(g.map("exp", x), axes=(0, 1))
    p = g.pad(g.slice(x, start=(1, 0), stop=(N, M), step=(1, 1)), before=(1, 0), after=(0, 0))
    r = g.reshape(g.reshape(t, shape=(N * M,)), shape=(N, M))
    total = g.map("add", g.map("add", f, p), r)
    return g.graph("movements", (x,), (total, g.map("neg", t), g.reshape(x, shape=(N * M,))))


def flat_gather() -> Graph:
    """A gather from a matrix made flat, in reverse."""
    g = Builder()
    x = g.input("x", d.float32, (N, M))
    size = N * M
    index = g.map("sub", g.const(size - 1, d.int64, (size,)), g.iota(0, (size,)))
    y = g.take(g.map("neg", g.reshape(x, shape=(size,))), index, axis=0)
    return g.graph("flat_gather", (x,), (y, g.map("exp", x)))


def concatenate() -> Graph:
    g = Builder()
    x, y = g.input("x", d.float32, (N,)), g.input("y", d.float32, (M,))
    size = N + M
    first = g.map("lt", g.iota(0, (size,)), g.const(N, d.int64, (size,)))
    parts = g.pad(x, before=(0,), after=(M,)), g.pad(y, before=(N,), after=(0,))
    return g.graph("concatenate", (x, y), (g.map("where", first, *parts),))


def three_axes() -> Graph:
    """A fold over the middle axis, and one over the outer two."""
    g = Builder()
    x = g.input("x", d.float32, (N, M, K))
    return g.graph("three_axes", (x,), (g.fold("sum", x, axes=(1,)), g.fold("sum", x, axes=(0, 1))))


def outer_fold() -> Graph:
    """Statistics over the first and last of three axes, used in place."""
    g = Builder()
    x = g.input("x", d.float32, (N, M, K))
    s = g.broadcast(g.fold("max", x, axes=(0, 2)), shape=x.shape, dims=(1,))
    return g.graph(
        "outer_fold", (x,), (g.map("sub", x, s), g.fold("sum", g.map("sub", x, s), axes=(0, 1, 2)))
    )


def sum_of_column_minima() -> Graph:
    """The shares of the largest of each row may not join the kernel on whose minima their total rests."""
    g = Builder()
    x, y = (g.input(name, d.float32, (N, M)) for name in "xy")
    high, low = g.fold("max", x, axes=(1,)), g.fold("min", y, axes=(0,))
    total = g.broadcast(g.fold("sum", low, axes=(0,)), shape=high.shape, dims=())
    ties = g.map("eq", y, g.broadcast(low, shape=y.shape, dims=(1,)))
    ones = g.cast(g.map("or", ties, g.map("ne", y, y)), d.float32)
    return g.graph(
        "sum_of_column_minima",
        (x, y),
        (g.map("add", high, total), ties, g.fold("sum", ones, axes=(0,))),
    )


CASES: tuple[Callable[[], Graph], ...] = (
    silu,
    affine,
    softmax,
    softmax_twice,
    softmax_vector,
    total_and_map,
    column_sums,
    batch_norm,
    layer_norm_backward,
    cross_entropy,
    regression,
    linear_tanh,
    product,
    repeated_product,
    movements,
    concatenate,
    flat_gather,
    three_axes,
    outer_fold,
    sum_of_column_minima,
)


def arrays(graph: Graph, sizes: dict[str, int], rng: np.random.Generator) -> list[np.ndarray]:
    """Random inputs: floats normal, integers valid as labels below `m`."""
    from tgc.ir.sizes import evaluate

    out = []
    for leaf in graph.inputs:
        shape = tuple(evaluate(s, sizes) for s in leaf.shape)
        if leaf.dtype.is_float:
            out.append(rng.standard_normal(shape).astype(leaf.dtype.name))
        else:
            out.append(rng.integers(0, max(1, sizes["m"]), shape).astype(leaf.dtype.name))
    return out
