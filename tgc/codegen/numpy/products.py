"""Sums of products: a `sum` whose only operand is a product is one pass by einsum, not two."""

from __future__ import annotations

from tgc.codegen.numpy.liveness import Liveness, Value
from tgc.kernel.ir import Kernel, Op, Reduce
from tgc.kernel.walk import everything


def sums_of_products(kernel: Kernel, live: Liveness) -> dict[str, Op]:
    """For each sum that takes a product nobody else wants, that product; its operands now live to the sum."""
    found: dict[str, Op] = {}
    for s in (s for s in everything(kernel.body) if isinstance(s, Reduce)):
        product = _product(s, live)
        if product is None:
            continue
        found[s.name] = product
        for arg in product.args:
            assert isinstance(arg, str)
            value, number = live.values[arg], live.values[s.name].made
            value.last = max(value.last, number)
    return found


def _product(s: Reduce, live: Liveness) -> Op | None:
    if s.monoid != "sum" or not isinstance(s.value, str) or not s.dtype.is_float or s.dtype.is_half:
        return None
    value = live.values[s.value]
    if not isinstance(value.by, Op) or value.by.op not in ("mul", "square") or value.uses != 1:
        return None
    if s.value in live.direct or not set(s.over) <= set(value.axes):
        return None
    if any(not isinstance(a, str) or not live.values[a].axes for a in value.by.args):
        return None
    return value.by if _same_scope(value, live.values[s.name], live, s.name) else None


def _same_scope(product: Value, total: Value, live: Liveness, name: str) -> bool:
    """The product is made where it is summed: in the loop that folds it, or beside the reduction."""
    head = live.folds.get(name)
    return product.loops == (total.loops if head is None else (*total.loops, head))
