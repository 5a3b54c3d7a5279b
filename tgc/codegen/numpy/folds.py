"""Folds as numpy calls: a sum of products by one pass of einsum or dot, what is slow in ufuncs by something faster."""

from __future__ import annotations

from tgc.codegen.numpy.constants import dtype_text
from tgc.codegen.numpy.indices import IndexArrays
from tgc.codegen.numpy.sight import Sight
from tgc.codegen.numpy.views import Layout, layout
from tgc.ir.nodes import identity
from tgc.kernel.ir import Const, Operand, Reduce

FOLDERS = {
    "sum": "np.add",
    "prod": "np.multiply",
    "max": "np.maximum",
    "min": "np.minimum",
    "any": "np.logical_or",
    "all": "np.logical_and",
}


class Folds:
    """The expressions of the folds in a block."""

    def __init__(self, sight: Sight, indices: IndexArrays) -> None:
        self.sight, self.indices = sight, indices

    def reduction(self, s: Reduce, *, out: str | None = None) -> str:
        """The expression that folds a block's value."""
        if s.name in self.sight.products:
            text = self._einsum(s)
            if out is not None and text.endswith(")") and ".dot(" in text:
                return f"{text[:-1]}, {out})"
            return text if out is None else f"{out}[...] = {text}"
        value = self.sight.operand(s.value)
        dims = layout(self._axes_of(s.value), self.sight.frame)
        missing = [a for a in s.over if a not in dims]
        if missing:
            dims = layout(tuple({*self._axes_of(s.value), *s.over}), self.sight.frame)
            value = f"np.broadcast_to({value}, ({self._shape(dims)}))"
        special = None if missing else self._special_fold(s, value, dims)
        if special is not None and special.startswith("sum_line") and out is not None:
            return f"{special[:-1]}, {out})"
        if special is not None:
            return special if out is None else f"{out}[...] = {special}"
        return self._reduce_call(s, value, dims, out)

    def _reduce_call(self, s: Reduce, value: str, dims: Layout, out: str | None) -> str:
        over = [i for i, a in enumerate(dims) if a in s.over]
        result = layout(s.axes, self.sight.frame)
        # In front of the axes that are kept the result has none of length 1 any more.
        kept = [i for i in range(len(dims)) if i not in over]
        over = sorted([*over, *kept[: max(0, len(kept) - len(result))]])
        options = []
        if len(dims) > 1 and not result:
            options.append("axis=None")
        elif len(dims) > 1:
            options.append(f"axis={over[0]}" if len(over) == 1 else f"axis={tuple(over)}")
        keep = bool(result) and len(result) > len(dims) - len(over)
        if keep:
            options.append("keepdims=True")
        if s.dtype.kind in ("int", "uint") and s.monoid in ("sum", "prod"):
            options.append(f"dtype={dtype_text(s.dtype)}")
        if s.monoid in ("max", "min") and any(self.sight.extent_of(a) == 0 for a in s.over):
            options.append(f"initial={self.identity(s)}")
        drop = len(dims) - len(result) if keep else 0
        if out is not None:
            options.append(f"out={out}[{'None, ' * drop}...]" if drop else f"out={out}")
        text = f"{FOLDERS[s.monoid]}.reduce({', '.join([value, *options])})"
        return text + f"[{', '.join('0' * drop)}]" if drop and out is None else text

    def _special_fold(self, s: Reduce, value: str, dims: Layout) -> str | None:
        """A fold for which there is something faster than the ufunc's own, for large arrays of floats."""
        over = [i for i, a in enumerate(dims) if a in s.over]
        plain = s.dtype.name in ("float32", "float64") and None not in dims
        if (
            not plain
            or isinstance(s.value, Const)
            or self.sight.live.values[s.value].dtype is not s.dtype
        ):
            return None
        result = layout(s.axes, self.sight.frame)
        if s.monoid == "sum" and over == [len(dims) - 1] and len(dims) <= 2:
            widen = "[:, None]" if len(result) == 2 else ""
            return f"sum_line({value})" if len(dims) == 1 else f"sum_rows({value}){widen}"
        if len(dims) != 2 or any(self.sight.extent_of(a) == 0 for a in s.over):
            return None
        if over == [0] and len(result) == 1:
            return f"fold_rows({FOLDERS[s.monoid]}, {value})"
        if over == [1] and len(result) == 2:
            return f"fold_columns({FOLDERS[s.monoid]}, {value})"
        return None

    def _einsum(self, s: Reduce) -> str:
        product = self.sight.products[s.name]
        args = product.args if product.op == "mul" else product.args * 2
        texts = [self.sight.operand(a) for a in args]
        dims = [layout(self._axes_of(a), self.sight.frame) for a in args]
        result = layout(s.axes, self.sight.frame)
        if not result and len(dims[0]) == 1 and dims[0] == dims[1]:
            return f"{texts[0]}.dot({texts[1]})"
        whole = max(dims, key=len)
        if len(whole) == 2 and None not in whole and s.over == whole[1:]:
            if all(d in (whole, whole[1:]) for d in dims):
                widen = "[:, None]" if len(result) == 2 else ""
                return f"np.vecdot({texts[0]}, {texts[1]}){widen}"
        letters = {a: chr(ord("a") + i) for i, a in enumerate(self.sight.frame)}
        if all(len(a) == 1 for a in self.sight.frame):
            letters = {a: a for a in self.sight.frame}
        inputs = ",".join(
            "".join(
                letters[self.sight.frame[len(self.sight.frame) - len(d) + i]] for i in range(len(d))
            )
            for d in dims
        )
        output = "".join(letters[a] for a in result if a is not None)
        widen = (
            f"[{', '.join('None' if a is None else ':' for a in result)}]" if None in result else ""
        )
        return f'np.einsum("{inputs}->{output}", {texts[0]}, {texts[1]}){widen}'

    def identity(self, s: Reduce) -> str:
        """The identity element of a fold, in its dtype."""
        if s.dtype.kind in ("int", "uint") and s.monoid in ("max", "min"):
            kind = dtype_text(s.dtype)
            return f"{kind}(np.iinfo({kind}).{'min' if s.monoid == 'max' else 'max'})"
        return self.sight.constants.name(Const(identity(s.monoid, s.dtype), s.dtype))

    def _axes_of(self, operand: Operand) -> tuple[str, ...]:
        return () if isinstance(operand, Const) else self.sight.live.values[operand].axes

    def _shape(self, dims: Layout) -> str:
        """The shape of a layout in this block."""
        texts = []
        for d in dims:
            low, high = ("0", "1") if d is None else self.indices.bounds(d)
            texts.append(high if low == "0" else f"{high} - {low}")
        return ", ".join(texts) + ","
