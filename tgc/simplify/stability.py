"""The stability rules: forms that lose digits, overflow or underflow, and the forms that do not.

They run before differentiation, so that derivatives are taken of the good form, and after it, because derivatives
bring new bad ones (s * (1 - s), 1 - y * y). Every replacement is as differentiable as the pattern: an `abs` or `where`
appears only where both sides are the same analytic function, or only in the condition. The tests measure each rule
in float32 against mpmath.

Rules see their operands in normal form (see `algebra`), so exp(x) - 1 inside a pattern is already expm1(x).
"""

from __future__ import annotations

from tgc.ir.nodes import Broadcast, Fold, Input, Leaf, Map, Node, View
from tgc.simplify.patterns import Rule
from tgc.simplify.rewriter import Procedure, Rewriter

LN2 = 0.6931471805599453

RULES: tuple[Rule, ...] = (
    # exponentials and logarithms near their zeros
    Rule("expm1", "sub(exp(a), 1)", "expm1(a)", "rounding"),
    Rule("-expm1", "sub(1, exp(a))", "neg(expm1(a))", "rounding"),
    Rule("expm1+1", "add(expm1(a), 1)", "exp(a)", "rounding"),
    Rule("log1p", "log(add(1, a))", "log1p(a)", "rounding"),
    Rule("log1p of negative", "log(sub(1, a))", "log1p(neg(a))", "rounding"),
    Rule(
        "log(1-exp)",
        "log(neg(expm1(a)))",
        f"where(gt(a, {-LN2}), add(log(mul(2, sinh(mul(-0.5, a)))), mul(0.5, a)), log1p(neg(exp(a))))",
        "rounding",
    ),
    # softplus
    Rule("softplus", "log(add(1, exp(a)))", "softplus(a)", "rounding"),
    Rule("softplus from log1p", "log1p(exp(a))", "softplus(a)", "rounding"),
    Rule("exp(-softplus)", "exp(neg(softplus(a)))", "sigmoid(neg(a))", "rounding"),
    Rule("1-exp(-softplus)", "expm1(neg(softplus(a)))", "neg(sigmoid(a))", "rounding"),
    Rule("softplus(-x)+x", "add(softplus(neg(a)), a)", "softplus(a)", "rounding"),
    # sigmoid
    Rule("sigmoid", "div(1, add(1, exp(a)))", "sigmoid(neg(a))", "rounding"),
    Rule("sigmoid from exp", "div(exp(a), add(1, exp(a)))", "sigmoid(a)", "rounding"),
    Rule("1-sigmoid", "sub(1, sigmoid(a))", "sigmoid(neg(a))", "rounding"),
    Rule("log sigmoid", "log(sigmoid(a))", "neg(softplus(neg(a)))", "rounding"),
    Rule("log(1-sigmoid)", "log1p(neg(sigmoid(a)))", "neg(softplus(a))", "rounding"),
    Rule(
        "sigmoid' from exp",
        "div(exp(a), square(add(1, exp(a))))",
        "mul(sigmoid(a), sigmoid(neg(a)))",
        "rounding",
    ),
    Rule(
        "sigmoid' from output",
        "sub(sigmoid(a), square(sigmoid(a)))",
        "mul(sigmoid(a), sigmoid(neg(a)))",
        "rounding",
    ),
    # tanh
    Rule("tanh", "div(sub(exp(a), exp(neg(a))), add(exp(a), exp(neg(a))))", "tanh(a)", "rounding"),
    Rule("tanh from sinh", "div(sinh(a), cosh(a))", "tanh(a)", "rounding"),
    Rule("tanh from exp", "div(expm1(a), add(1, exp(a)))", "tanh(mul(0.5, a))", "rounding"),
    Rule("tanh from expm1", "div(expm1(a), add(2, expm1(a)))", "tanh(mul(0.5, a))", "rounding"),
    Rule("tanh from sigmoid", "sub(mul(2, sigmoid(a)), 1)", "tanh(mul(0.5, a))", "rounding"),
    Rule(
        "tanh'",
        "sub(1, square(tanh(a)))",
        "mul(4, mul(sigmoid(mul(2, a)), sigmoid(mul(-2, a))))",
        "rounding",
    ),
    Rule("1-tanh", "sub(1, tanh(a))", "mul(2, sigmoid(mul(-2, a)))", "rounding"),
    Rule("1+tanh", "add(1, tanh(a))", "mul(2, sigmoid(mul(2, a)))", "rounding"),
    # differences of near equals
    Rule("1-cos", "sub(1, cos(a))", "mul(2, square(sin(mul(0.5, a))))", "rounding"),
    Rule("cos-1", "sub(cos(a), 1)", "mul(-2, square(sin(mul(0.5, a))))", "rounding"),
    Rule("1-sin^2", "sub(1, square(sin(a)))", "square(cos(a))", "rounding"),
    Rule("1-cos^2", "sub(1, square(cos(a)))", "square(sin(a))", "rounding"),
    # not 1 + erf(x) -> erfc(-x): it keeps digits in the far left tail of gelu, at several times the cost on a CPU
    Rule("1-erf", "sub(1, erf(a))", "erfc(a)", "rounding"),
    Rule("1-erfc", "sub(1, erfc(a))", "erf(a)", "rounding"),
    Rule("cosh^2-1", "sub(square(cosh(a)), 1)", "square(sinh(a))", "rounding"),
    Rule(
        "sqrt(x^2+1)-1",
        "sub(sqrt(add(1, square(a))), 1)",
        "where(lt(abs(a), 1), mul(a, div(a, add(hypot(a, 1), 1))), sub(hypot(a, 1), 1))",
        "rounding",
    ),
    Rule(
        "log cosh",
        "log(cosh(a))",
        "where(lt(abs(a), 1), log1p(mul(2, square(sinh(mul(0.5, a))))),"
        f" sub(add(abs(a), log1p(exp(mul(-2, abs(a))))), {LN2}))",
        "rounding",
    ),
)


# --- exponentials summed over axes ------------------------------------------------------------


def _exponent(node: Node) -> Node | None:
    return node.args[0] if isinstance(node, Map) and node.op == "exp" else None


def _sum_of_exp(node: Node) -> tuple[Fold, Node] | None:
    """The fold and the exponent of sum(exp(x))."""
    if (
        not isinstance(node, Fold)
        or node.monoid != "sum"
        or node.mode != "reduce"
        or not node.dtype.is_float
    ):
        return None
    exponent = _exponent(node.args[0])
    return None if exponent is None else (node, exponent)


def _repeated(node: Node) -> tuple[Node, tuple[int, ...]] | None:
    """The source of a broadcast, and the axes along which it repeats."""
    if not isinstance(node, View) or not isinstance(node.movement, Broadcast):
        return None
    source, dims = node.args[0], node.movement.dims
    if any(source.shape[k] != node.shape[d] for k, d in enumerate(dims)):
        return None
    return source, tuple(i for i in range(node.ndim) if i not in dims)


_THROUGH = frozenset(
    {"where", "stop_gradient", "cast", "maximum", "clamp_min", "clamp_max", "minimum"}
)


ITSELF = frozenset({"where", "stop_gradient"})
"""Operations that leave a finite maximum what it is."""


def is_shifted(x: Node, axes: tuple[int, ...], through: frozenset[str] = _THROUGH) -> bool:
    """x is y - (something made of the maximum of y over `axes`, by operations of `through`)."""
    if not isinstance(x, Map) or x.op != "sub":
        return False
    pending, seen = [x.args[1]], 0
    while pending and seen < 32:
        node, seen = pending.pop(), seen + 1
        if isinstance(node, Fold) and node.monoid == "max" and node.args[0] is x.args[0]:
            return set(axes) <= set(node.axes)
        if isinstance(node, View) or (isinstance(node, Map) and node.op in through):
            pending.extend(node.args)
    return False


def guarded_maximum(rewriter: Rewriter, x: Node, axes: tuple[int, ...]) -> Node:
    """The maximum over `axes` where it is finite, else 0; no gradient passes, since the shift cancels."""
    builder = rewriter.graph.builder
    maximum = rewriter.settle(builder.fold("max", x, axes=axes))
    finite = rewriter.map(
        "where", rewriter.map("isfinite", maximum), maximum, builder.like(maximum, 0)
    )
    return rewriter.map("stop_gradient", finite)


def _shifted(rewriter: Rewriter, x: Node, maximum: Node, axes: tuple[int, ...]) -> Node:
    dims = tuple(i for i in range(x.ndim) if i not in axes)
    return rewriter.map("sub", x, rewriter.view(maximum, Broadcast(x.shape, dims)))


def log_sum_exp(rewriter: Rewriter, node: Node) -> Node | None:
    """log(sum(exp(x))): shifted by the maximum, which no exponential then exceeds."""
    found = _sum_of_exp(node.args[0])
    if found is None or is_shifted(found[1], found[0].axes):
        return None
    fold, x = found
    maximum = guarded_maximum(rewriter, x, fold.axes)
    total = rewriter.fold(fold, rewriter.map("exp", _shifted(rewriter, x, maximum, fold.axes)))
    return rewriter.map("add", maximum, rewriter.map("log", total))


def _softmax_parts(node: Node) -> tuple[Fold, Node, Node] | None:
    """The fold, exponent and repeated sum of exp(x) / sum(exp(x))."""
    if not isinstance(node, Map) or node.op != "div":
        return None
    exponent, repeated = _exponent(node.args[0]), _repeated(node.args[1])
    if exponent is None or repeated is None:
        return None
    found = _sum_of_exp(repeated[0])
    if found is None or found[1] is not exponent or found[0].axes != repeated[1]:
        return None
    return found[0], exponent, repeated[0]


def softmax(rewriter: Rewriter, node: Node) -> Node | None:
    """exp(x) / sum(exp(x)): both shifted by the maximum."""
    parts = _softmax_parts(node)
    if parts is None or is_shifted(parts[1], parts[0].axes):
        return None
    fold, x, _ = parts
    shifted = _shifted(rewriter, x, guarded_maximum(rewriter, x, fold.axes), fold.axes)
    numerator = rewriter.map("exp", shifted)
    total = rewriter.fold(fold, numerator)
    movement = node.args[1].movement  # type: ignore[attr-defined]
    return rewriter.map("div", numerator, rewriter.view(total, movement))


def log_softmax(rewriter: Rewriter, node: Node) -> Node | None:
    """log(exp(x) / sum(exp(x))) is x - log(sum(exp(x)))."""
    parts = _softmax_parts(node.args[0])
    if parts is None:
        return None
    _, x, total = parts
    movement = node.args[0].args[1].movement  # type: ignore[attr-defined]
    return rewriter.map("sub", x, rewriter.view(rewriter.map("log", total), movement))


# --- shifts that cancel -----------------------------------------------------------------------


def _shift(x: Node, axes: tuple[int, ...]) -> tuple[Node, View] | None:
    """a and [m] where x is a - [m] with m constant along `axes`, and open to differentiation."""
    if not isinstance(x, Map) or x.op != "sub":
        return None
    repeated = _repeated(x.args[1])
    if repeated is None or not set(axes) <= set(repeated[1]):
        return None
    assert isinstance(x.args[1], View)
    return None if _is_stopped(repeated[0]) else (x.args[0], x.args[1])


def _is_stopped(node: Node) -> bool:
    """No derivative passes: a stop, a constant, or what is made of them."""
    if isinstance(node, Leaf):
        return not isinstance(node.source, Input)
    if isinstance(node, Map) and node.op == "stop_gradient":
        return True
    return not node.dtype.is_float or (
        isinstance(node, (Map, View)) and all(_is_stopped(arg) for arg in node.args)
    )


def _stopped(rewriter: Rewriter, a: Node, shift: View) -> Node:
    """a - [m] with no derivative through m."""
    small = rewriter.map("stop_gradient", shift.args[0])
    return rewriter.map("sub", a, rewriter.view(small, shift.movement))


def shift_of_softmax(rewriter: Rewriter, node: Node) -> Node | None:
    """exp(a - [m]) / sum(exp(a - [m])) does not depend on m: its derivative by m, which is zero, is not computed."""
    parts = _softmax_parts(node)
    found = None if parts is None else _shift(parts[1], parts[0].axes)
    if parts is None or found is None:
        return None
    numerator = rewriter.map("exp", _stopped(rewriter, *found))
    total = rewriter.view(rewriter.fold(parts[0], numerator), node.args[1].movement)  # type: ignore[attr-defined]
    return rewriter.map("div", numerator, total)


def shift_of_log_sum(rewriter: Rewriter, node: Node) -> Node | None:
    """m + log(sum(exp(a - [m]))), and a - [m] - [log(sum(exp(a - [m])))], do not depend on m either."""
    assert isinstance(node, Map)
    pairs = (node.args,) if node.op == "sub" else (node.args, node.args[::-1])
    for other, logarithm in pairs:
        found = _log_sum(logarithm, node.op)
        shift = None if found is None else _shift(found[1], found[0].axes)
        if found is None or shift is None:
            continue
        fold, x = found
        if node.op == "sub" and other is x:
            inner = _stopped(rewriter, *shift)
            total = rewriter.map("log", rewriter.fold(fold, rewriter.map("exp", inner)))
            return rewriter.map("sub", inner, rewriter.view(total, logarithm.movement))  # type: ignore[attr-defined]
        if node.op == "add" and _is_shift(other, shift[1], fold):
            inner = _stopped(rewriter, *shift)
            total = rewriter.map("log", rewriter.fold(fold, rewriter.map("exp", inner)))
            return rewriter.map("add", rewriter.map("stop_gradient", other), total)
    return None


def _log_sum(node: Node, op: str) -> tuple[Fold, Node] | None:
    """The fold and the exponent of log(sum(exp(x))), which in a difference is broadcast."""
    if op == "sub":
        repeated = _repeated(node)
        node = node if repeated is None else repeated[0]
    return _sum_of_exp(node.args[0]) if isinstance(node, Map) and node.op == "log" else None


def _is_shift(node: Node, shift: View, fold: Fold) -> bool:
    """node, which has the fold's shape, is what `shift` repeats."""
    assert isinstance(shift.movement, Broadcast)
    kept = tuple(i for i in range(shift.ndim) if i not in fold.axes)
    source, dims = node, kept
    if isinstance(node, View) and isinstance(node.movement, Broadcast):
        source, dims = node.args[0], tuple(kept[d] for d in node.movement.dims)
    return source is shift.args[0] and dims == shift.movement.dims


PROCEDURES: tuple[Procedure, ...] = (
    Procedure("logsumexp", ("log",), "rounding", log_sum_exp),
    Procedure("softmax", ("div",), "rounding", softmax),
    Procedure("log softmax", ("log",), "rounding", log_softmax),
)

BEFORE_DERIVATIVES: tuple[Procedure, ...] = (
    Procedure("shift of a softmax", ("div",), "bits", shift_of_softmax),
    Procedure("shift of a log of a sum", ("add", "sub"), "bits", shift_of_log_sum),
)
"""Rewrites that change no value, only what is left to differentiate."""
