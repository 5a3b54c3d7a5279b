"""Reads back what text.py prints. Errors name the line and what was expected there."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from tgc.errors import Line, TgcError
from tgc.ir.dtypes import BY_NAME, DType
from tgc.ir.sizes import Dim, Size, power_of_two
from tgc.kernel.ir import (
    Axis,
    Binding,
    Buffer,
    Const,
    Gathered,
    Guard,
    Index,
    Iota,
    Kernel,
    Launch,
    Load,
    Loop,
    Matmul,
    Op,
    Operand,
    Plan,
    Program,
    Quotient,
    Reduce,
    Remainder,
    Statement,
    Step,
    Store,
    Term,
)

ROLES = ("in", "out", "partial", "scratch", "scalar")
KINDS = ("grid", "lane", "loop")
_TOKEN = re.compile(
    r'\s*("(?:[^"\\]|\\.)*"|-?(?:\d+\.\d*(?:e[-+]?\d+)?|\d+e[-+]?\d+|inf\b)|\d+|[A-Za-z_]\w*|->|<=|//|[^\s\w])'
)


class TextError(TgcError):
    """Text that is no kernel: says where and what was expected."""


def parse_plan(text: str) -> Plan:
    """The plan whose text this is.

    Raises:
        TextError: it is none.
    """
    lines = _Lines(text)
    words = _Words(lines.take())
    words.expect("plan")
    name = words.name()
    inputs = words.names("(", ")")
    words.expect("->")
    outputs = words.names("(", ")")
    buffers: list[Buffer] = []
    bindings: list[Binding] = []
    guards: list[Guard] = []
    writes: list[tuple[str, str]] = []
    steps: list[Step] = []
    while lines.depth() == 1:
        word = lines.peek()
        if word in ROLES:
            buffers.append(_buffer(_Words(lines.take())))
        elif word == "size":
            bindings.append(_binding(_Words(lines.take())))
        elif word == "write":
            writes.append(_write(_Words(lines.take())))
        elif word == "guard":
            guards.append(_guard(_Words(lines.take())))
        elif word == "matmul":
            steps.append(_matmul(_Words(lines.take())))
        else:
            steps.append(Launch(_kernel(lines, buffers, 1)))
    return Plan(
        name,
        inputs,
        outputs,
        tuple(buffers),
        tuple(bindings),
        tuple(steps),
        tuple(guards),
        tuple(writes),
    )


def parse_kernel(text: str) -> Kernel:
    """The kernel whose text this is.

    Raises:
        TextError: it is none.
    """
    lines, buffers = _Lines(text), []
    while lines.peek() in ROLES:
        buffers.append(_buffer(_Words(lines.take())))
    return _kernel(lines, buffers, 0)


# --- lines and words ------------------------------------------------------------------------------


class _Lines:
    def __init__(self, text: str) -> None:
        self.rows = [(i + 1, row) for i, row in enumerate(text.splitlines()) if row.strip()]
        self.at = 0

    def depth(self) -> int:
        """The indentation of the next line, -1 at the end."""
        if self.at == len(self.rows):
            return -1
        row = self.rows[self.at][1]
        return (len(row) - len(row.lstrip())) // 2

    def peek(self) -> str:
        """The first word of the next line."""
        if self.at == len(self.rows):
            return ""
        return self.rows[self.at][1].split()[0]

    def take(self) -> tuple[int, str]:
        if self.at == len(self.rows):
            raise TextError("the text ends too early")
        self.at += 1
        return self.rows[self.at - 1]


@dataclass
class _Words:
    """The tokens of one line."""

    row: tuple[int, str]
    tokens: list[str] = field(default_factory=list)
    at: int = 0

    def __post_init__(self) -> None:
        text, self.comment = _split_comment(self.row[1])
        self.tokens = _TOKEN.findall(text)

    def error(self, wanted: str) -> TextError:
        found = self.tokens[self.at] if self.at < len(self.tokens) else "the end of the line"
        return TextError(
            f"line {self.row[0]}: expected {wanted}, found {found}\n    {self.row[1].strip()}"
        )

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        if self.at == len(self.tokens):
            raise self.error("more")
        self.at += 1
        return self.tokens[self.at - 1]

    def accept(self, token: str) -> bool:
        found = self.peek() == token
        self.at += found
        return found

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise self.error(repr(token))

    def name(self) -> str:
        if not self.peek().isidentifier():
            raise self.error("a name")
        return self.take()

    def names(self, opening: str, closing: str) -> tuple[str, ...]:
        self.expect(opening)
        found: list[str] = []
        while not self.accept(closing):
            found.append(self.name())
            if self.peek() != closing:
                self.expect(",")
        return tuple(found)

    def integer(self) -> int:
        sign = -1 if self.accept("-") else 1
        if not self.peek().isdigit():
            raise self.error("an integer")
        return sign * int(self.take())

    def dtype(self) -> DType:
        if self.peek() not in BY_NAME:
            raise self.error("a dtype")
        return BY_NAME[self.take()]

    # --- sizes ---

    def size(self) -> Dim:
        total = -self.product() if self.accept("-") else self.product()
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            total = total + sign * self.product()
        return total

    def product(self) -> Dim:
        value = self.factor()
        while self.peek() in ("*", "//"):
            value = value * self.factor() if self.take() == "*" else value // self.factor()
        return value

    def factor(self) -> Dim:
        if self.accept("("):
            value = self.size()
            self.expect(")")
            return value
        if self.peek().isdigit() or self.peek() == "-":
            return self.integer()
        name = self.name()
        if name == "pow2" and self.peek() == "(":
            return power_of_two(self.factor())
        return Size.symbol(name)

    def dims(self) -> tuple[Dim, ...]:
        self.expect("[")
        found: list[Dim] = []
        while not self.accept("]"):
            found.append(self.size())
            if self.peek() != "]":
                self.expect(",")
        return tuple(found)

    # --- indices and operands ---

    def index(self) -> Index:
        self.expect("[")
        terms: list[tuple[Term, Dim]] = []
        offset: Dim = 0
        while self.peek() not in ("]", ";"):
            term, coefficient = self.term(), 1
            if self.accept("*"):
                coefficient = self.factor()  # type: ignore[assignment]
            terms.append((term, coefficient))
            if not self.accept("+"):
                break
        if self.accept(";"):
            offset = self.size()
        self.expect("]")
        return Index(tuple(terms), offset)

    def term(self) -> Term:
        if not self.accept("@"):
            return self.name()
        kind = self.name()
        self.expect("(")
        term: Term
        if kind == "program":
            term = Program(self.name())
        elif kind == "value":
            name = self.name()
            self.expect(",")
            term = Gathered(name, self.size())
        elif kind in ("quotient", "remainder"):
            index = self.index()
            self.expect(",")
            divisor = self.size()
            term = Quotient(index, divisor) if kind == "quotient" else Remainder(index, divisor)
        else:
            raise self.error("program, value, quotient or remainder")
        self.expect(")")
        return term

    def number(self) -> bool | int | float:
        token = self.take()
        sign = -1 if token == "-" else 1
        token = self.take() if token == "-" else token
        if token in ("True", "False"):
            return token == "True"
        try:
            return sign * int(token)
        except ValueError:
            pass
        try:
            return sign * float(token)
        except ValueError:
            raise self.error("a number") from None

    def operand(self) -> Operand:
        if self.peek().isidentifier() and self.peek() not in ("True", "False", "nan", "inf"):
            return self.name()
        value: bool | int | float | Dim
        if self.accept("{"):
            value = self.size()
            self.expect("}")
        else:
            value = self.number()
        self.expect(":")
        return Const(value, self.dtype())

    def line(self) -> Line | None:
        return None if self.comment is None else Line(*json.loads(self.comment))


def _split_comment(row: str) -> tuple[str, str | None]:
    """The statement, and the source line behind `  # ["`."""
    text, mark, rest = row.partition('  # ["')
    return (text, '["' + rest) if mark else (row, None)


# --- plans ----------------------------------------------------------------------------------------


def _buffer(words: _Words) -> Buffer:
    role, name = words.take(), words.name()
    words.expect(":")
    dtype, shape = words.dtype(), words.dims()
    words.expect("strides")
    strides = words.dims()
    alias = words.name() if words.accept("in") else None
    return Buffer(name, dtype, shape, strides, role, alias)


def _write(words: _Words) -> tuple[str, str]:
    words.expect("write")
    given = words.name()
    words.expect("=")
    return given, words.name()


def _binding(words: _Words) -> Binding:
    words.expect("size")
    name = words.name()
    words.expect("=")
    buffer = words.name()
    words.expect(".")
    kind = words.name()
    words.expect("[")
    return Binding(name, buffer, words.integer(), stride=kind == "stride")


def _guard(words: _Words) -> Guard:
    words.expect("guard")
    low = None
    if words.peek() != "(":
        low = words.integer()
        words.expect("<=")
    words.expect("(")
    size = words.size()
    words.expect(")")
    return Guard(size, low, words.integer() if words.accept("<=") else None)


def _matmul(words: _Words) -> Matmul:
    words.expect("matmul")
    subscripts = json.loads(words.take())
    a, b = words.name(), words.name()
    words.expect("->")
    out = words.name()
    words.expect("in")
    return Matmul(subscripts, a, b, out, words.dtype())


# --- kernels --------------------------------------------------------------------------------------


def _kernel(lines: _Lines, known: list[Buffer], depth: int) -> Kernel:
    words = _Words(lines.take())
    words.expect("kernel")
    name, sizes = words.name(), words.names("(", ")")
    formula: list[str] = []
    while lines.peek() == "#":
        formula.append(lines.take()[1].strip()[2:])
    axes: list[Axis] = []
    while lines.peek() in KINDS and ":" in lines.rows[lines.at][1]:
        axes.append(_axis(_Words(lines.take())))
    used = lines.take()[1].split()[1:]
    own = {b.name: b for b in known}
    while lines.depth() == depth + 1 and lines.peek() in ROLES:
        made = _buffer(_Words(lines.take()))
        own[made.name] = made
    body = _body(lines, depth + 1)
    buffers = tuple(own[b] for b in used)
    return Kernel(name, tuple(axes), buffers, sizes, body, tuple(formula))


def _axis(words: _Words) -> Axis:
    kind, name = words.take(), words.name()
    words.expect(":")
    extent = words.factor()
    block = words.factor() if words.accept("block") else None
    return Axis(name, extent, kind, block, words.factor() if words.accept("split") else None)


def _body(lines: _Lines, depth: int) -> tuple[Statement, ...]:
    found: list[Statement] = []
    while lines.depth() == depth:
        words = _Words(lines.take())
        if len(words.tokens) == 2 and words.accept("loop"):
            axis, body = words.name(), _body(lines, depth + 1)
            folds: list[Reduce] = []
            while lines.depth() == depth and lines.peek() == "fold":
                inner = _Words(lines.take())
                inner.expect("fold")
                fold = _statement(inner)
                assert isinstance(fold, Reduce)
                folds.append(fold)
            found.append(Loop(axis, body, tuple(folds)))
        else:
            found.append(_statement(words))
    return tuple(found)


def _statement(words: _Words) -> Statement:
    if words.peek() == "store" and words.tokens[words.at + 1] != ":":
        words.expect("store")
        buffer, index = words.name(), words.index()
        words.expect("over")
        axes = words.names("(", ")")
        words.expect("=")
        return Store(buffer, index, words.operand(), axes)
    name = words.name()
    words.expect(":")
    dtype, axes = words.dtype(), words.names("[", "]")
    words.expect("=")
    word = words.name()
    if word == "load":
        buffer, index, mask, fill = words.name(), words.index(), None, 0.0
        if words.accept("if"):
            mask = words.name()
            words.expect("else")
            fill = words.number()
        return Load(name, buffer, index, dtype, axes, mask, fill)
    if word == "iota":
        return Iota(name, words.index(), dtype, axes)
    if word == "fold":
        monoid = words.name()
        words.expect("(")
        value = words.operand()
        words.expect(")")
        words.expect("over")
        return Reduce(name, monoid, value, words.names("(", ")"), dtype, axes, words.line())
    words.expect("(")
    args: list[Operand] = []
    while not words.accept(")"):
        args.append(words.operand())
        if words.peek() != ")":
            words.expect(",")
    return Op(name, word, tuple(args), dtype, axes, words.line())
