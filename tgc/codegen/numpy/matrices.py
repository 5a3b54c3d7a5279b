"""A contraction as one product of matrices, or of stacks of them: which axes are rows, columns, and summed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tgc.codegen.naming import size_text
from tgc.errors import BackendError
from tgc.ir.sizes import Dim, product, symbols
from tgc.kernel.ir import Matmul, Plan


class View(NamedTuple):
    """How an array is looked at: adjacent axes as one, where there is a `shape`; then the axes in another order."""

    shape: tuple[Dim, ...] | None
    places: tuple[int, ...]

    def text(self, array: str, sizes: Mapping[str, str]) -> str:
        """The expression."""
        if self.shape is not None:
            array = f"{array}.reshape({', '.join(size_text(d, sizes) for d in self.shape)})"
        if self.places == tuple(range(len(self.places))):
            return array
        return f"{array}.T" if self.places == (1, 0) else f"{array}.transpose{self.places}"


class Matrices(NamedTuple):
    """The product `first @ second` that a contraction is; of `b` and `a` if they are turned."""

    turned: bool
    first: View
    second: View
    out: View

    @property
    def is_stack(self) -> bool:
        """Whether there are several matrices."""
        return len(self.out.places) > 2

    @property
    def symbols(self) -> set[str]:
        """The sizes that the views speak of."""
        shapes = (view.shape or () for view in (self.first, self.second, self.out))
        return {name for shape in shapes for dim in shape for name in symbols(dim)}


def as_matrices(plan: Plan, step: Matmul) -> Matrices | None:
    """None if a contraction is no product of matrices, or only of copies in another order."""
    inputs, _, output = step.subscripts.replace(" ", "").partition("->")
    left, right = inputs.split(",")
    a, b, out = (plan.buffer(name) for name in (step.a, step.b, step.out))
    dims = dict(zip(left, a.shape)) | dict(zip(right, b.shape))
    for turned, (first, second) in enumerate([(left, right), (right, left)]):
        views = _views(first, second, output, dims)
        if views is not None and (views[2].shape is None or out.alias is None):
            return Matrices(bool(turned), *views)
    return None


def _views(
    left: str, right: str, output: str, dims: Mapping[str, Dim]
) -> tuple[View, View, View] | None:
    batch = [c for c in output if c in left and c in right]
    rows = "".join(c for c in output if c in left and c not in right)
    columns = "".join(c for c in output if c in right and c not in left)
    inner = "".join(c for c in left if c in right and c not in output)
    if not inner or set(left + right) != {*output, *inner}:
        return None
    if output != "".join([*batch, rows, columns]) or (batch and not (rows and columns)):
        return None
    first = _view(left, [*batch, rows, inner], dims)
    second = _view(right, [*batch, inner, columns], dims)
    out = _view(output, [*batch, rows, columns], dims)
    return None if first is None or second is None or out is None else (first, second, out)


def _view(have: str, groups: Sequence[str], dims: Mapping[str, Dim]) -> View | None:
    """Axes in the order of groups, each group as one; None if the axes of one do not lie side by side."""
    sizes, merged = dict(dims), have
    for group in groups:
        if len(group) > 1:
            if group not in merged:
                return None
            merged = merged.replace(group, group[0])
            sizes[group[0]] = product(tuple(dims[c] for c in group))
    want = "".join(group[:1] for group in groups)
    if sorted(merged) != sorted(want):
        raise BackendError(f"subscripts {have} do not hold {want}")
    shape = None if merged == have else tuple(sizes[c] for c in merged)
    return View(shape, tuple(merged.index(c) for c in want))
