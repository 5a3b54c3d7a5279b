"""Fewer and cheaper calls for the same value: each operation of numpy is a pass over its operands.

| written | becomes |
|---|---|
| x * (1 / y), where nobody else wants 1 / y | x / y, rounded once |
| s * (t * x), where x has more axes than s and t | (s * t) * x, one long product |
| c + exp(x), where there is exp(-x) | c + 1 / exp(-x), at a third of the price |

As `regroup` in `simplify.patterns` these round elsewhere. The last one loses the exponentials too small for their
type, which a constant of ordinary size does not feel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tgc.ir.sizes import Size
from tgc.kernel.ir import Const, Kernel, Loop, Op, Operand, Statement, Store
from tgc.kernel.walk import everything, reads

ORDINARY = 2.0**-20
"""Constants from here on."""


def reduce_strength(kernel: Kernel) -> Kernel:
    """The same kernel by fewer or cheaper operations."""
    flat = [s for s in everything(kernel.body) if not isinstance(s, Loop)]
    uses = Counter(name for s in flat for name in reads(s))
    axes = {s.name: s.axes for s in flat if not isinstance(s, Store)}
    return replace(kernel, body=_Walk(uses, axes, _only_added(flat)).body(kernel.body))


def _only_added(flat: Sequence[Statement]) -> frozenset[str]:
    """The values that are read by nothing but additions of ordinary constants."""
    added: set[str] = set()
    others: set[str] = set()
    for s in flat:
        to_constant = isinstance(s, Op) and s.op == "add" and any(map(_is_ordinary, s.args))
        (added if to_constant else others).update(reads(s))
    return frozenset(added - others)


def _is_ordinary(a: Operand) -> bool:
    return isinstance(a, Const) and not isinstance(a.value, Size) and abs(a.value) >= ORDINARY


@dataclass
class _Walk:
    """One walk over a body and the loops in it; `made` holds the operations of the body it is in."""

    uses: Counter[str]
    axes: dict[str, tuple[str, ...]]
    added: frozenset[str]
    made: dict[str, Op] = field(default_factory=dict)
    later: list[Op] = field(default_factory=list)
    dropped: set[int] = field(default_factory=set)

    def body(self, body: tuple[Statement, ...]) -> tuple[Statement, ...]:
        found: list[Statement] = []
        self.later = [s for s in body if isinstance(s, Op) and s.op == "exp"]
        for s in body:
            if id(s) in self.dropped:
                continue
            if isinstance(s, Loop):
                inside = _Walk(self.uses, self.axes, self.added)
                found.append(replace(s, body=inside.body(s.body)))
            elif isinstance(s, Op) and s.dtype.name in ("float32", "float64"):
                found += (ops := self._op(s))
                self.made.update({op.name: op for op in ops})
            else:
                found.append(s)
        return tuple(s for s in found if id(s) not in self.dropped)

    def _op(self, s: Op) -> list[Op]:
        """The operations that an operation becomes."""
        if s.op == "mul":
            return self._quotient(s) or self._long_product(s) or [s]
        return self._inverse_exponential(s) or [s]

    def _quotient(self, s: Op) -> list[Op] | None:
        for x, other in (s.args, s.args[::-1]):
            inverse = self._alone(other, "div", s)
            if inverse is not None and _is_one(inverse.args[0]):
                self.dropped.add(id(inverse))
                return [replace(s, op="div", args=(x, inverse.args[1]))]
        return None

    def _long_product(self, s: Op) -> list[Op] | None:
        for first, other in (s.args, s.args[::-1]):
            inner = self._alone(other, "mul", s)
            for second, x in (inner.args, inner.args[::-1]) if inner is not None else ():
                short = {*self._axes_of(first), *self._axes_of(second)}
                axes = tuple(a for a in s.axes if a in short)
                if inner is not None and len(axes) < len(s.axes):
                    self.dropped.add(id(inner))
                    factor = replace(inner, args=(first, second), axes=axes)
                    self.axes[factor.name] = axes
                    return [factor, replace(s, args=(x, factor.name))]
        return None

    def _inverse_exponential(self, s: Op) -> list[Op] | None:
        """An exponential by the opposite one, of which the one of what is no negation comes first."""
        if s.op != "exp" or s.name not in self.added:
            return None
        one, found = Const(1.0, s.dtype), list[Op]()
        known = [o for o in self.made.values() if o.op == "exp" and self._are_opposite(o, s)]
        others = known or [o for o in self.later if o.name not in self.made and self._negates(s, o)]
        if not others or others[0].axes != s.axes:
            return None
        if not known:
            self.dropped.add(id(others[0]))
            found = [replace(others[0])]
        self._forget(s.args[0])
        return [*found, replace(s, op="div", args=(one, others[0].name))]

    def _forget(self, a: Operand) -> None:
        """One use less of an operand."""
        assert isinstance(a, str)
        self.uses[a] -= 1
        if not self.uses[a] and a in self.made:
            self.dropped.add(id(self.made[a]))

    def _are_opposite(self, a: Op, b: Op) -> bool:
        """Whether the operands are multiples of one value by opposite numbers."""
        (one, factor), (other, opposite) = (self._multiple(o.args[0]) for o in (a, b))
        return one == other and factor == -opposite

    def _multiple(self, a: Operand) -> tuple[Operand, float]:
        """What an operand is a multiple of, and how much of it."""
        made = self.made.get(a) if isinstance(a, str) else None
        if made is not None and made.op == "neg":
            return made.args[0], -1.0
        if made is not None and made.op == "mul":
            for factor, x in (made.args, made.args[::-1]):
                if isinstance(factor, Const) and not isinstance(factor.value, Size):
                    return x, float(factor.value)
        return a, 1.0

    def _negates(self, a: Op, b: Op) -> bool:
        """Whether the operand of one is that of the other, negated."""
        negated = self.made.get(str(a.args[0]))
        return negated is not None and negated.op == "neg" and negated.args == b.args

    def _alone(self, a: Operand, op: str, reader: Op) -> Op | None:
        """The operation that made an operand as long as what reads it, if nothing else reads it."""
        found = self.made.get(a) if isinstance(a, str) else None
        if found is None or found.op != op or found.axes != reader.axes:
            return None
        return found if found.dtype is reader.dtype and self.uses[found.name] == 1 else None

    def _axes_of(self, a: Operand) -> tuple[str, ...]:
        return self.axes[a] if isinstance(a, str) else ()


def _is_one(a: Operand) -> bool:
    return isinstance(a, Const) and not isinstance(a.value, Size) and a.value == 1
