"""Products of matrices: sums of broadcast products, which the scheduler recognises as contractions."""

from __future__ import annotations

from typing import Any

from tgc.errors import DTypeError
from tgc.ir import dtypes
from tgc.ir.nodes import Node, Shape
from tgc.ir.sizes import Dim
from tgc.trace.core import (
    Operands,
    Value,
    array,
    arrays,
    broadcast_shape,
    builder,
    normal_axis,
    refuse_bool,
    show_shape,
    stand_in,
    stretch,
    unsupported,
    wrap,
)
from tgc.trace.elementwise import add, mul, sub, where
from tgc.trace.indexing import diagonal
from tgc.trace.joining import roll
from tgc.trace.movement import permute, reshape, transpose, unsqueeze
from tgc.trace.reductions import softmax, sum_
from tgc.trace.state import current, shape_error
from tgc.trace.tracer import Tracer


def _operands(a: Value, b: Value, name: str) -> tuple[Tracer, Tracer]:
    """Both factors in one type. torch wants them equal, numpy promotes."""
    a, b = array(a), array(b)
    group = Operands(stand_in(a), stand_in(b))
    if group.container in ("torch", "spec") and a.kind is not b.kind:
        raise DTypeError(
            f"{name}: expected both operands to have the same dtype, but got: {a.kind.name} != {b.kind.name}",
            line=current().error_line(),
            hint="convert one with .to(other.dtype)",
        )
    refuse_bool(a, name)
    cast = builder().cast
    return tuple(Tracer(cast(x.node, group.dtype), group.container, group.device) for x in (a, b))  # type: ignore[return-value]


def _contract(a: Node, b: Node, *axes: int) -> Node:
    """sum(a * b) over axes; bools combine as `any` of `and`."""
    monoid, op = ("any", "and") if a.dtype is dtypes.bool_ else ("sum", "mul")
    return builder().fold(monoid, builder().map(op, a, b), axes=axes)


def _same_inner(a: Dim, b: Dim, shapes: tuple[Shape, Shape], name: str) -> None:
    if not current().sizes.same(a, b):
        raise shape_error(
            f"{name}: mat1 and mat2 shapes cannot be multiplied ({show_shape(shapes[0])} and {show_shape(shapes[1])})",
            "the last dimension of the first must be the last but one of the second: transpose one with .mT",
        )


def matmul(a: Value, b: Value, name: str = "matmul") -> Tracer:
    """a @ b: vectors, matrices, and batches of matrices with broadcasting."""
    a, b = _operands(a, b, name)
    if a.ndim == 0 or b.ndim == 0:
        raise shape_error(f"{name}: both arguments need to be at least 1D")
    shapes = (a.node.shape, b.node.shape)
    _same_inner(shapes[0][-1], shapes[1][-2 if b.ndim > 1 else -1], shapes, name)
    if b.ndim == 1:
        return wrap(_contract(a.node, stretch(b.node, shapes[0]), a.ndim - 1), a, b)
    if a.ndim == 1:
        left = builder().broadcast(a.node, shape=shapes[1], dims=(b.ndim - 2,))
        return wrap(_contract(left, b.node, b.ndim - 2), a, b)
    batch = broadcast_shape([shapes[0][:-2], shapes[1][:-2]])
    rows, inner, columns = shapes[0][-2], shapes[0][-1], shapes[1][-1]
    whole = (*batch, rows, inner, columns)
    n = len(batch)
    left = stretch(a.node, (*batch, rows, inner))
    right = stretch(b.node, (*batch, inner, columns))
    left = builder().broadcast(left, shape=whole, dims=(*range(n), n, n + 1))
    right = builder().broadcast(right, shape=whole, dims=(*range(n), n + 1, n + 2))
    return wrap(_contract(left, right, n + 1), a, b)


def _of_rank(name: str, a: Value, rank_a: int, b: Value, rank_b: int) -> Tracer:
    a, b = array(a), array(b)
    if (a.ndim, b.ndim) != (rank_a, rank_b):
        raise shape_error(
            f"{name}: expected {rank_a}D and {rank_b}D, got {show_shape(a.node.shape)} and {show_shape(b.node.shape)}"
        )
    if rank_a == 3 and not current().sizes.same(a.node.shape[0], b.node.shape[0]):
        raise shape_error(
            f"{name}: batch sizes differ: {show_shape(a.node.shape)}, {show_shape(b.node.shape)}"
        )
    return matmul(a, b, name)


def mm(a: Value, b: Value) -> Tracer:
    return _of_rank("mm", a, 2, b, 2)


def bmm(a: Value, b: Value) -> Tracer:
    return _of_rank("bmm", a, 3, b, 3)


def mv(a: Value, b: Value) -> Tracer:
    return _of_rank("mv", a, 2, b, 1)


def dot(a: Value, b: Value) -> Tracer:
    """The inner product of two vectors."""
    return _of_rank("dot", a, 1, b, 1)


def numpy_dot(a: Value, b: Value) -> Tracer:
    """numpy's dot: a product with numbers, otherwise over the last axis of a and the last but one of b."""
    a, b = array(a), array(b)
    if a.ndim == 0 or b.ndim == 0:
        return mul(a, b)
    return matmul(a, b, "dot") if a.ndim == 1 or b.ndim <= 2 else tensordot(a, b, ([-1], [-2]))


def numpy_vdot(a: Value, b: Value) -> Tracer:
    """numpy's vdot: of all elements in order, whatever the shapes."""
    return dot(reshape(array(a), (-1,)), reshape(array(b), (-1,)))


def inner(a: Value, b: Value) -> Tracer:
    """Sums of products over the last axes."""
    a, b = array(a), array(b)
    return mul(a, b) if a.ndim == 0 or b.ndim == 0 else tensordot(a, b, ([-1], [-1]))


def outer(a: Value, b: Value) -> Tracer:
    return mul(unsqueeze(reshape(a, (-1,)), 1), reshape(b, (-1,)))


def linear(x: Value, weight: Value, bias: Value = None) -> Tracer:
    """x Wᵀ + b, with W of shape [out, in]."""
    x, weight = _operands(x, weight, "linear")
    if x.ndim == 0 or weight.ndim not in (1, 2):
        raise shape_error(f"linear: weight of shape {show_shape(weight.node.shape)}")
    _same_inner(
        x.node.shape[-1], weight.node.shape[-1], (x.node.shape, weight.node.shape), "linear"
    )
    if weight.ndim == 1:
        out = wrap(_contract(x.node, stretch(weight.node, x.node.shape), x.ndim - 1), x)
    else:
        whole = (*x.node.shape[:-1], *weight.node.shape)
        n = len(whole)
        left = builder().broadcast(x.node, shape=whole, dims=(*range(n - 2), n - 1))
        out = wrap(_contract(left, stretch(weight.node, whole), n - 1), x, weight)
    return out if bias is None else add(out, bias)


def addmm(x: Value, a: Value, b: Value, beta: Value = 1, alpha: Value = 1) -> Tracer:
    """beta x + alpha a b."""
    return _accumulated(x, mm(a, b), beta, alpha)


def addmv(x: Value, a: Value, b: Value, beta: Value = 1, alpha: Value = 1) -> Tracer:
    return _accumulated(x, mv(a, b), beta, alpha)


def addr(x: Value, a: Value, b: Value, beta: Value = 1, alpha: Value = 1) -> Tracer:
    return _accumulated(x, outer(a, b), beta, alpha)


def baddbmm(x: Value, a: Value, b: Value, beta: Value = 1, alpha: Value = 1) -> Tracer:
    return _accumulated(x, bmm(a, b), beta, alpha)


def _accumulated(x: Value, product: Tracer, beta: Value, alpha: Value) -> Tracer:
    product = product if alpha == 1 else mul(alpha, product)
    if isinstance(beta, int | float) and beta == 0:
        return product
    return add(x if beta == 1 else mul(beta, x), product)


def vecdot(a: Value, b: Value, axis: Any = -1) -> Tracer:
    """Sums of products over one axis of broadcast operands."""
    return sum_(mul(a, b), axis)


def tensordot(a: Value, b: Value, axes: Any = 2) -> Tracer:
    """Sums over the last `axes` of a and the first of b, or over listed pairs."""
    a, b = array(a), array(b)
    if isinstance(axes, int):
        axes = (range(a.ndim - axes, a.ndim), range(axes))
    over = [[s] if isinstance(s, int) else list(s) for s in axes]
    left, right = ([normal_axis(i, x.ndim) for i in s] for s, x in zip(over, (a, b)))
    letters = [chr(97 + i) for i in range(a.ndim)]
    others = [chr(97 + a.ndim + i) for i in range(b.ndim)]
    for i, j in zip(left, right):
        others[j] = letters[i]
    out = [c for i, c in enumerate(letters) if i not in left]
    out += [c for j, c in enumerate(others) if j not in right]
    return einsum(f"{''.join(letters)},{''.join(others)}->{''.join(out)}", a, b)


def kron(a: Value, b: Value) -> Tracer:
    """The Kronecker product."""
    a, b = array(a), array(b)
    ndim = max(a.ndim, b.ndim)
    sa, sb = ((1,) * (ndim - x.ndim) + x.node.shape for x in (a, b))
    left = wrap(builder().reshape(a.node, shape=tuple(d for s in sa for d in (s, 1))), a)
    right = wrap(builder().reshape(b.node, shape=tuple(d for s in sb for d in (1, s))), b)
    both = mul(left, right)
    return wrap(builder().reshape(both.node, shape=tuple(x * y for x, y in zip(sa, sb))), both)


def bilinear(a: Value, b: Value, weight: Value, bias: Value = None) -> Tracer:
    """Σ a_i W_kij b_j + bias_k."""
    out = einsum("...i,kij,...j->...k", a, weight, b)
    return out if bias is None else add(out, bias)


# --- einsum ---------------------------------------------------------------------------------------------------------


def einsum(equation: str, *operands: Value) -> Tracer:
    """Einstein summation, two operands at a time from the left."""
    given = (
        operands[0] if len(operands) == 1 and isinstance(operands[0], tuple | list) else operands
    )
    if not isinstance(equation, str):
        raise unsupported("einsum with lists of axes", hint='write it as einsum("ij,jk->ik", a, b)')
    values = arrays(given)
    terms, out = _parse(equation, values)
    value, names = _single(values[0], terms[0])
    for k in range(1, len(values)):
        other, more = _single(values[k], terms[k])
        later = set(out).union(*terms[k + 1 :])
        value, names = _pair(value, names, other, more, later)
    over = tuple(i for i, name in enumerate(names) if name not in out)
    if over:
        value = sum_(value, over)
        names = [name for name in names if name in out]
    return permute(value, [names.index(name) for name in out])


def _parse(equation: str, values: list[Tracer]) -> tuple[list[list[str]], list[str]]:
    """The axis names of each operand and of the result; those of an ellipsis are numbers from the right."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(values):
        raise shape_error(f"einsum: {len(inputs)} terms for {len(values)} operands")
    terms = [_names(term, x.ndim) for term, x in zip(inputs, values)]
    hidden = sorted({n for t in terms for n in t if n.isdecimal()}, key=int, reverse=True)
    if arrow:
        head, ellipsis, tail = right.partition("...")
        out = [*head, *(hidden if ellipsis else ()), *tail]
    else:
        count = [n for t in terms for n in t if not n.isdecimal()]
        out = hidden + sorted(n for n in set(count) if count.count(n) == 1)
    unknown = [n for n in out if not any(n in t for t in terms)]
    if unknown or len(set(out)) != len(out):
        raise shape_error(f"einsum: bad result term in '{equation}'")
    return terms, out


def _names(term: str, ndim: int) -> list[str]:
    head, ellipsis, tail = term.partition("...")
    hidden = ndim - len(head) - len(tail)
    if hidden < 0 or (hidden and not ellipsis):
        raise shape_error(f"einsum: term '{term}' for an operand of {ndim} dimensions")
    return [*head, *(str(i) for i in reversed(range(hidden))), *tail]


def _single(x: Tracer, names: list[str]) -> tuple[Tracer, list[str]]:
    """An operand without repeated names: repeats are diagonals."""
    for name in dict.fromkeys(names):
        while names.count(name) > 1:
            i = names.index(name)
            j = names.index(name, i + 1)
            x = diagonal(x, 0, i, j)
            names = [n for k, n in enumerate(names) if k not in (i, j)] + [name]
    return x, names


def _pair(
    a: Tracer, left: list[str], b: Tracer, right: list[str], later: set[str]
) -> tuple[Tracer, list[str]]:
    """Multiply two operands over the union of their axes and sum those that nothing later needs."""
    a, b = _operands(a, b, "einsum")
    names = left + [n for n in right if n not in left]
    extents = _extents(a, left) | {
        n: d for n, d in _extents(b, right).items() if n not in left or _wider(a, left, n, d)
    }
    whole = tuple(extents[n] for n in names)
    x, y = _placed(a, left, names, whole), _placed(b, right, names, whole)
    over = (i for i, n in enumerate(names) if n not in later)
    return wrap(_contract(x, y, *over), a, b), [n for n in names if n in later]


def _extents(x: Tracer, names: list[str]) -> dict[str, Dim]:
    return dict(zip(names, x.node.shape))


def _wider(a: Tracer, left: list[str], name: str, dim: Dim) -> bool:
    """Whether an axis both have takes its extent from the second operand."""
    mine, sizes = a.node.shape[left.index(name)], current().sizes
    if mine == dim or sizes.is_one(dim):
        return False
    if sizes.is_one(mine):
        return True
    if not sizes.same(mine, dim):
        raise shape_error(
            f"einsum: axis {name} has extents {sizes.hint(mine)} and {sizes.hint(dim)}"
        )
    return False


def _placed(x: Tracer, names: list[str], target: list[str], whole: Shape) -> Node:
    """An operand broadcast into the common axes."""
    order = sorted(range(x.ndim), key=lambda i: target.index(names[i]))
    node = builder().permute(x.node, order=tuple(order))
    dims = tuple(target.index(names[i]) for i in order)
    return builder().broadcast(node, shape=whole, dims=dims)


def scaled_dot_product_attention(
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Tracer:
    """softmax(q kᵀ scale + mask) v."""
    if dropout_p > 0 or enable_gqa:
        raise unsupported("scaled_dot_product_attention with dropout or enable_gqa")
    query, key, value = arrays([query, key, value])
    scores = matmul(query, transpose(key, -2, -1))
    if scale is None:
        size = builder().const(query.node.shape[-1], query.kind)
        scale = wrap(builder().map("rsqrt", size), query)
    scores = mul(scores, scale)
    if is_causal:
        shape = scores.node.shape
        b = builder()
        seen = b.map("le", b.iota(len(shape) - 1, shape), b.iota(len(shape) - 2, shape))
        scores = where(wrap(seen, scores), scores, float("-inf"))
    if attn_mask is not None:
        mask = array(attn_mask)
        masked = mask.kind is dtypes.bool_
        scores = where(mask, scores, float("-inf")) if masked else add(scores, mask)
    return matmul(softmax(scores, -1), value)


def cross(a: Value, b: Value, axis: Any = -1) -> Tracer:
    """The vector product along an axis of extent 3."""
    a, b = array(a), array(b)
    return sub(mul(roll(a, -1, axis), roll(b, -2, axis)), mul(roll(a, -2, axis), roll(b, -1, axis)))


def multi_dot(tensors: Any) -> Tracer:
    """A product of several matrices, from the left."""
    given = arrays(tensors)
    out = given[0]
    for x in given[1:]:
        out = matmul(out, x, "multi_dot")
    return out
