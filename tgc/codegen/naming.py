"""Names and size expressions in emitted Python: shared by the emitters, so that their output reads alike."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence

from tgc.errors import Line
from tgc.ir.sizes import Atom, Dim, PowerOfTwo, Size
from tgc.kernel.ir import Plan

RESERVED = frozenset(keyword.kwlist) | frozenset(keyword.softkwlist) | frozenset(dir(builtins))


def identifier(text: str) -> str:
    """`text` made a Python identifier: other characters become underscores, keywords get one behind."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    if not name or name[0].isdigit():
        name = "_" + name
    return name + "_" if name in RESERVED else name


def cited(line: Line | None) -> str:
    """A line of the user's source: where it is and what it says."""
    if line is None:
        return "a line tgc does not know"
    return f"{line}: {line.text.strip()}" if line.text else str(line)


class Names:
    """The names of one scope: each given out once, as asked for where possible, else numbered."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)

    def new(self, text: str) -> str:
        """A name not given out before."""
        base = identifier(text)
        name, number = base, 1
        while name in self.taken:
            name, number = f"{base}_{number}", number + 1
        self.taken.add(name)
        return name

    def child(self) -> Names:
        """A scope in which the names of this one are taken."""
        return Names(self.taken)


def size_text(dim: Dim, names: Mapping[str, str] | None = None) -> str:
    """A size as a Python expression; `names` renames its symbols.

    Divisions are Python's, which round down: `-(-n // 64)` rounds up.
    """
    if isinstance(dim, int):
        return str(dim)
    (first, coefficient), *rest = dim.terms
    if not rest and coefficient == 1 and len(first) == 1:
        return _atom_text(first[0], names or {})
    text = ""
    for monomial, coefficient in _positive_first(dim):
        body = " * ".join(_factor_text(atom, names or {}) for atom in monomial)
        if not body:
            body = str(abs(coefficient))
        elif abs(coefficient) != 1:
            body = f"{abs(coefficient)} * {body}"
        if not text:
            text = f"-{body}" if coefficient < 0 else body
        else:
            text += f" - {body}" if coefficient < 0 else f" + {body}"
    return text


def size_operand(dim: Dim, names: Mapping[str, str] | None = None) -> str:
    """The same, in parentheses unless it binds tighter than any operator around it."""
    text = size_text(dim, names)
    return text if text.isidentifier() or text.isdigit() else f"({text})"


def _positive_first(size: Size) -> list[tuple[tuple[Atom, ...], int]]:
    """The terms, a positive one in front: `n - 1` rather than `-1 + n`."""
    return (
        sorted(size.terms, key=lambda term: term[1] < 0)
        if size.terms[0][1] < 0
        else list(size.terms)
    )


def _atom_text(atom: Atom, names: Mapping[str, str]) -> str:
    if isinstance(atom, str):
        return names.get(atom, atom)
    if isinstance(atom, PowerOfTwo):
        return f"1 << ({size_text(atom.value - 1, names)}).bit_length()"
    divisor = size_operand(atom.denominator, names)
    rounded_up = atom.numerator - atom.denominator + 1
    if _length(rounded_up) < _length(atom.numerator):
        return f"-(-{size_operand(rounded_up, names)} // {divisor})"
    return f"{size_operand(atom.numerator, names)} // {divisor}"


def _length(dim: Dim) -> int:
    return 1 if isinstance(dim, int) else len(dim.terms)


def _factor_text(atom: Atom, names: Mapping[str, str]) -> str:
    text = _atom_text(atom, names)
    return text if isinstance(atom, str) or text.startswith("-(") else f"({text})"


def module_title(plans: Sequence[Plan], width: int) -> str:
    """The functions of an emitted module and the formula of the first result, on one line of a docstring."""
    names = ", ".join(plan.name for plan in plans)
    formulas = [line for plan in plans for kernel in plan.kernels for line in kernel.formula]
    wanted = [line for line in formulas if line.startswith(f"{plans[0].outputs[0]} = ")]
    title = ": ".join([names, *(wanted or formulas)[:1]])
    title = title.replace("\\", "/").replace('"', "'")
    return title if len(title) <= width else title[: width - 3] + "..."


def written_back(plan: Plan, names: Mapping[str, str], copy: str) -> list[str]:
    """The lines that copy results into donated inputs, by a template, where no kernel stored them there."""
    return [
        copy.format(names[given], names[output])
        for given, output in plan.writes
        if plan.buffer(output).alias != given
    ]


def returned(plan: Plan, names: Mapping[str, str], copy: str) -> list[str]:
    """What a host function returns: every result an array of its own, though it equal an input or another result."""
    written = {output: given for given, output in plan.writes}
    seen = set(plan.inputs)
    texts = []
    for name in plan.outputs:
        if name in written:
            texts.append(names[written[name]])
            continue
        again = name in seen and plan.buffer(name).role != "scalar"
        texts.append(f"{names[name]}.{copy}()" if again else names[name])
        seen.add(name)
    return texts
