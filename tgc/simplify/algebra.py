"""Algebra that IEEE arithmetic allows: identities, signs, constants, selection, casts.

Nothing here assumes that values are finite unless its class says so. In particular x - x, 0 * x and x / x stay as
they are: they are NaN for some x. Which class each identity belongs to is checked on every float16 value in the
tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tgc.ir.dtypes import DType, bool_, float32
from tgc.ir.evaluate import round_float
from tgc.ir.nodes import Broadcast, Const, Leaf, Map, Node, View
from tgc.ir.ops import OPS
from tgc.ir.references import scalar_reference
from tgc.ir.sizes import Size
from tgc.simplify.patterns import Rule, constant, to_twelve_digits
from tgc.simplify.rewriter import Procedure, Rewriter

INTEGERS = ("int", "uint")
NUMBERS = ("float", "int", "uint")
LOGICAL = ("bool",)
ALL = ("float", "int", "uint", "bool")


def _negative(bound: Mapping[str, Node]) -> bool:
    value = constant(bound["k"])
    return value is not None and value < 0


def is_no_shift(bound: Mapping[str, Node]) -> bool:
    """y in x - y is no value of a row: a softmax of -x, shifted by its maximum, keeps its form."""
    y = bound.get("b")
    return not isinstance(y, View) or not isinstance(y.movement, Broadcast)


def _product_is_normal(bound: Mapping[str, Node]) -> bool:
    """k1 * k2 is finite and no constant of it underflows, so that one multiplication serves as well as two."""
    a, b, dtype = constant(bound["k1"]), constant(bound["k2"]), bound["k1"].dtype
    if a is None or b is None or not dtype.is_float:
        return not dtype.is_float
    return all(dtype.tiny <= abs(value) <= dtype.largest for value in (a, b, a * b))


def _product_is_one(bound: Mapping[str, Node]) -> bool:
    """|k1 * k2| == 1: the product of the other factors is then as large as the whole."""
    a, b = constant(bound["k1"]), constant(bound["k2"])
    return a is not None and b is not None and abs(a * b) == 1


RULES: tuple[Rule, ...] = (
    # neutral elements
    Rule("x*1", "mul(a, 1)", "a", "bits", kinds=NUMBERS),
    Rule("x/1", "div(a, 1)", "a", "bits"),
    Rule("x-0", "sub(a, 0)", "a", "bits", kinds=NUMBERS),
    Rule("x+-0", "add(a, -0.0)", "a", "bits"),
    Rule("x+0 of integers", "add(a, 0)", "a", "bits", kinds=INTEGERS),
    Rule("x*0 of integers", "mul(a, 0)", "0", "bits", kinds=INTEGERS),
    Rule("x//1 of integers", "floordiv(a, 1)", "a", "bits", kinds=INTEGERS),
    Rule("x+0", "add(a, 0)", "a", "zeros"),
    Rule("0-x", "sub(0, a)", "neg(a)", "zeros"),
    Rule("0-x of integers", "sub(0, a)", "neg(a)", "bits", kinds=INTEGERS),
    # signs
    Rule("x*-1", "mul(a, -1)", "neg(a)", "bits", kinds=("float", "int")),
    Rule("x/-1", "div(a, -1)", "neg(a)", "bits"),
    Rule("--x", "neg(neg(a))", "a", "bits", kinds=NUMBERS),
    Rule("|-x|", "abs(neg(a))", "abs(a)", "bits"),
    Rule("|x|^2", "square(abs(a))", "square(a)", "bits"),
    Rule("(-x)^2", "square(neg(a))", "square(a)", "bits", kinds=NUMBERS),
    Rule("||x||", "abs(abs(a))", "abs(a)", "bits", kinds=NUMBERS),
    Rule("|x^2|", "abs(square(a))", "square(a)", "bits"),
    Rule("k*-x", "mul(k, neg(a))", "mul(neg(k), a)", "bits"),
    Rule("-(k*x)", "neg(mul(k, a))", "mul(neg(k), a)", "bits"),
    Rule("-(k/x)", "neg(div(k, a))", "div(neg(k), a)", "bits"),
    Rule("-(x/k)", "neg(div(a, k))", "div(a, neg(k))", "bits"),
    Rule("-x*y", "mul(neg(a), b)", "neg(mul(a, b))", "bits"),
    Rule("-x/k", "div(neg(a), k)", "div(a, neg(k))", "bits"),
    Rule("-x/y", "div(neg(a), b)", "neg(div(a, b))", "bits"),
    Rule("x/-y", "div(a, neg(b))", "neg(div(a, b))", "bits"),
    Rule("x+-y", "add(a, neg(b))", "sub(a, b)", "bits", kinds=NUMBERS),
    Rule("x--y", "sub(a, neg(b))", "add(a, b)", "bits", kinds=NUMBERS),
    Rule("-x-y", "sub(neg(a), b)", "neg(add(a, b))", "regroup", is_no_shift, NUMBERS),
    Rule("x+-k", "add(a, k)", "sub(a, neg(k))", "bits", _negative),
    Rule("x--k", "sub(a, k)", "add(a, neg(k))", "bits", _negative),
    Rule("-(x-y)", "neg(sub(a, b))", "sub(b, a)", "zeros"),
    # repeated operands and powers; torch and numpy define x**0.5 as sqrt(x), and multiply for small powers
    Rule("x+x", "add(a, a)", "mul(2, a)", "bits"),
    Rule("x*x", "mul(a, a)", "square(a)", "bits", kinds=NUMBERS),
    Rule("x^0", "pow(a, 0)", "1", "bits", kinds=NUMBERS),
    Rule("x^1", "pow(a, 1)", "a", "bits", kinds=NUMBERS),
    Rule("x^2", "pow(a, 2)", "square(a)", "rounding", kinds=NUMBERS),
    Rule("x^3", "pow(a, 3)", "mul(square(a), a)", "rounding", kinds=NUMBERS),
    Rule("x^4", "pow(a, 4)", "square(square(a))", "rounding", kinds=NUMBERS),
    Rule("x^-1", "pow(a, -1)", "div(1, a)", "rounding"),
    Rule("x^-2", "pow(a, -2)", "square(div(1, a))", "rounding"),
    Rule("x^0.5", "pow(a, 0.5)", "sqrt(a)", "rounding"),
    Rule("x^-0.5", "pow(a, -0.5)", "rsqrt(a)", "rounding"),
    Rule("reciprocal", "reciprocal(a)", "div(1, a)", "bits"),
    Rule(
        "k1*(k2*x)",
        "mul(k1, mul(k2, a))",
        "mul(mul(k1, k2), a)",
        "rounding",
        _product_is_normal,
        NUMBERS,
    ),
    Rule(
        "(k1*x)*(k2*y)",
        "mul(mul(k1, a), mul(k2, b))",
        "mul(mul(k1, k2), mul(a, b))",
        "rounding",
        _product_is_one,
        NUMBERS,
    ),
    Rule(
        "(x+k1)+k2 of integers",
        "add(k1, add(k2, a))",
        "add(add(k1, k2), a)",
        "bits",
        kinds=INTEGERS,
    ),
    # selection
    Rule("where same", "where(a, b, b)", "b", "bits", kinds=ALL),
    Rule("where not", "where(not(a), b, c)", "where(a, c, b)", "bits", kinds=ALL),
    Rule("where in where", "where(a, where(a, b, c), d)", "where(a, b, d)", "bits", kinds=ALL),
    Rule("where else where", "where(a, b, where(a, c, d))", "where(a, b, d)", "bits", kinds=ALL),
    Rule(
        "sum of masked",
        "add(where(a, b, 0), where(a, c, 0))",
        "where(a, add(b, c), 0)",
        "bits",
        kinds=ALL,
    ),
    Rule(
        "sum of masked else",
        "add(where(a, 0, b), where(a, 0, c))",
        "where(a, 0, add(b, c))",
        "bits",
        kinds=ALL,
    ),
    Rule(
        "sum of branches",
        "add(where(a, b, 0), where(a, 0, c))",
        "where(a, b, c)",
        "regroup",  # a chosen -0.0 stays one
        kinds=ALL,
    ),
    Rule("max same", "maximum(a, a)", "a", "bits", kinds=ALL),
    Rule("min same", "minimum(a, a)", "a", "bits", kinds=ALL),
    Rule("relu of relu", "relu(relu(a))", "relu(a)", "bits", kinds=NUMBERS),
    Rule("stop of stop", "stop_gradient(stop_gradient(a))", "stop_gradient(a)", "bits", kinds=ALL),
    # logic
    Rule("not not", "not(not(a))", "a", "bits", kinds=("int", "uint", "bool")),
    Rule("not equal", "not(eq(a, b))", "ne(a, b)", "bits", kinds=LOGICAL),
    Rule("not unequal", "not(ne(a, b))", "eq(a, b)", "bits", kinds=LOGICAL),
    Rule("and same", "and(a, a)", "a", "bits", kinds=("int", "uint", "bool")),
    Rule("or same", "or(a, a)", "a", "bits", kinds=("int", "uint", "bool")),
    Rule("and true", "and(a, 1)", "a", "bits", kinds=LOGICAL),
    Rule("and false", "and(a, 0)", "0", "bits", kinds=LOGICAL),
    Rule("or true", "or(a, 1)", "1", "bits", kinds=LOGICAL),
    Rule("or false", "or(a, 0)", "a", "bits", kinds=LOGICAL),
    # only under licence
    Rule("x-x", "sub(a, a)", "0", "finite"),
    Rule("x-x of integers", "sub(a, a)", "0", "bits", kinds=INTEGERS),
    Rule("x*0", "mul(a, 0)", "0", "finite"),
    Rule("x/x", "div(a, a)", "1", "finite"),
    Rule("log exp", "log(exp(a))", "a", "finite"),
    Rule("exp log", "exp(log(a))", "a", "finite"),
    Rule("sqrt of square", "sqrt(square(a))", "abs(a)", "finite"),
    Rule("square of sqrt", "square(sqrt(a))", "a", "finite"),
    Rule("x*(1/y)", "mul(a, div(1, b))", "div(a, b)", "finite"),
)


# --- constants --------------------------------------------------------------------------------------------------------


def fold_constants(rewriter: Rewriter, node: Node) -> Node | None:
    """An operation on constants, computed in float64; integers wrap, half types round, and float32 does at its end."""
    assert isinstance(node, Map)
    values = [constant(arg) for arg in node.args]
    if not values or any(value is None for value in values):
        return _fold_sizes(rewriter, node)
    if node.op == "stop_gradient":
        return node.args[0]
    if node.op == "cast":
        return rewriter.like(node, _converted(values[0], node.dtype))
    operands = [_operand(value, arg.dtype) for value, arg in zip(values, node.args, strict=True)]
    if node.op in ("floordiv", "mod") and not node.dtype.is_float and operands[1] == 0:
        return None
    with np.errstate(all="ignore"):
        result = scalar_reference(node.op)(*operands).item()
    return rewriter.like(node, _folded(result, node.dtype))


def _operand(value: object, dtype: DType) -> np.ndarray[tuple[()], np.dtype[np.generic]]:
    return np.array(_folded(value, dtype), np.float64 if dtype.is_float else dtype.name)


def _folded(value: object, dtype: DType) -> float | int | bool:
    return to_twelve_digits(value) if dtype is float32 else _converted(value, dtype)  # type: ignore[arg-type]


def _converted(value: object, dtype: DType) -> float | int | bool:
    """A Python number rounded or wrapped to `dtype`."""
    number: float = value  # type: ignore[assignment]
    if dtype.is_float:
        array = np.array(float(number))
        with np.errstate(all="ignore"):
            return float(array if dtype.name == "float64" else round_float(array, dtype))
    if dtype is bool_:
        return bool(number)
    if isinstance(number, float) and not math.isfinite(number):
        number = 0
    return int(np.array(int(number) & ((1 << 64) - 1), np.uint64).astype(dtype.name))


_SIZE_OPERATIONS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
}


def _fold_sizes(rewriter: Rewriter, node: Map) -> Node | None:
    """Integer arithmetic on sizes stays symbolic; a size converted to another type is a constant of that type."""
    values = []
    for arg in node.args:
        if not (isinstance(arg, Leaf) and isinstance(arg.source, Const)):
            return None
        values.append(arg.source.value)
    if (
        node.op == "cast"
        and isinstance(values[0], Size)
        and node.dtype.name in ("int64", "float64", "float32")
    ):
        if node.args[0].dtype.kind == "int":
            return rewriter.like(node, values[0])  # type: ignore[arg-type]
    if node.op not in _SIZE_OPERATIONS or node.dtype.name != "int64":
        return None
    if node.op == "floordiv" and not isinstance(values[1], int):
        return None
    return rewriter.like(node, _SIZE_OPERATIONS[node.op](*values))


def order_operands(rewriter: Rewriter, node: Node) -> Node | None:
    """One order for operands that commute: constants last in sums, first in products, else by age."""
    assert isinstance(node, Map)
    a, b = node.args
    first, second = _rank(a, node.op), _rank(b, node.op)
    return rewriter.map(node.op, b, a) if second < first else None


def _rank(node: Node, op: str) -> tuple[int, int]:
    if isinstance(node, Leaf) and isinstance(node.source, Const):
        return (0 if op == "mul" else 2, node.id)
    return (1, node.id)


def divide_by_power_of_two(rewriter: Rewriter, node: Node) -> Node | None:
    """x / 2^k is x * 2^-k to the bit where 2^-k is normal."""
    divisor = constant(node.args[1])
    if (
        divisor is None
        or not divisor
        or not math.isfinite(divisor)
        or abs(math.frexp(divisor)[0]) != 0.5
    ):
        return None
    inverse, dtype = 1 / divisor, node.dtype
    if not dtype.tiny <= abs(inverse) <= dtype.largest or abs(divisor) == 1:
        return None
    return rewriter.map("mul", rewriter.like(node, inverse), node.args[0])


def constant_condition(rewriter: Rewriter, node: Node) -> Node | None:
    """`where` of a constant condition."""
    value = constant(node.args[0])
    return None if value is None else node.args[1 if value else 2]


# --- casts ------------------------------------------------------------------------------------------------------------


def is_lossless(source: DType, target: DType) -> bool:
    """Every value of `source` is a value of `target`."""
    if source is target or source.kind == "bool":
        return True
    if target.kind == "bool":
        return False
    if source.is_float:
        return (
            target.is_float
            and source.digits <= target.digits
            and source.exponents <= target.exponents
        )
    bits = source.itemsize * 8 - (source.kind == "int")
    if target.is_float:
        return bits <= target.digits
    if target.kind == "uint":
        return source.kind == "uint" and target.itemsize >= source.itemsize
    return bits <= target.itemsize * 8 - 1


def join_casts(rewriter: Rewriter, node: Node) -> Node | None:
    """A conversion on top of a lossless one goes straight to its type."""
    inner = node.args[0]
    if not (isinstance(inner, Map) and inner.op == "cast"):
        return None
    source = inner.args[0]
    return rewriter.cast(source, node.dtype) if is_lossless(source.dtype, inner.dtype) else None


_FOLDABLE = tuple(name for name in OPS if name != "where")
_COMMUTATIVE = ("add", "mul", "eq", "ne", "and", "or", "xor", "hypot", "logaddexp")

PROCEDURES: tuple[Procedure, ...] = (
    Procedure("constants", _FOLDABLE, "rounding", fold_constants),
    Procedure("constant condition", ("where",), "bits", constant_condition),
    Procedure("operand order", _COMMUTATIVE, "bits", order_operands),
    Procedure("x/2^k", ("div",), "bits", divide_by_power_of_two),
    Procedure("cast of cast", ("cast",), "bits", join_casts),
)
