"""Functions in LLVM text that are no kernels, written as one writes C: fields, calls, conditions, loops.

A `Routine` collects the lines of one function. Operands carry their type, as in "i64 %size" or "ptr null". A variable
that changes is memory of the function's frame. References are counted as the interpreter's own functions do: what a
routine is given it borrows, and what it returns it hands over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tgc.runtime.interpreter import RESULTS, Field, Object, Tensor, entry

NULL = "ptr null"


def integer(value: int) -> str:
    """A constant of 64 bits."""
    return f"i64 {value}"


def _value(operand: str) -> str:
    """An operand without its type."""
    return operand.partition(" ")[2]


def _type(operand: str) -> str:
    return operand.partition(" ")[0]


class Routine:
    """A function `result name(parameters)`; others may call it unless it is internal."""

    def __init__(self, result: str, name: str, *parameters: str, linkage: str = "internal") -> None:
        start = " ".join(filter(None, ("define", linkage, result)))
        self._head = f"{start} @{name}({', '.join(parameters)}) {{"
        self._frame: list[str] = []
        self._lines: list[str] = []
        self._used: Counter[str] = Counter()

    def text(self) -> str:
        """The whole function."""
        lines = [*self._frame, "  br label %begin", "begin:", *self._lines]
        return "\n".join([self._head, *lines, "}\n"])

    # --- values ---

    def let(self, type: str, instruction: str, stem: str = "v") -> str:
        """The result of an instruction."""
        name = self._fresh(stem)
        self.do(f"{name} = {instruction}")
        return f"{type} {name}"

    def do(self, instruction: str) -> None:
        self._lines.append(f"  {instruction}")

    def at(self, place: str, offset: int | str) -> str:
        """The address so many bytes behind another."""
        offset = offset if isinstance(offset, str) else integer(offset)
        return self.let("ptr", f"getelementptr i8, {place}, {offset}", "at")

    def element(self, first: str, index: str, type: str = "ptr") -> str:
        """`first[index]`, of 64 bits each."""
        return self.let(type, f"load {type}, {self.beyond(first, index)}", "element")

    def beyond(self, first: str, index: str) -> str:
        """`&first[index]`, of 64 bits each."""
        return self.let("ptr", f"getelementptr i64, {first}, {index}", "at")

    def get(self, field: Field, place: str) -> str:
        """`place->field`"""
        where = self.at(place, field.offset)
        return self.let(field.type, f"load {field.type}, {where}", "field")

    def set(self, field: Field, place: str, value: str) -> None:
        """`place->field = value`"""
        self.do(f"store {value}, {self.at(place, field.offset)}")

    def add(self, a: str, b: str) -> str:
        """`a + b`"""
        return self.let(_type(a), f"add {a}, {_value(b)}", "sum")

    def subtract(self, a: str, b: str) -> str:
        """`a - b`"""
        return self.let(_type(a), f"sub {a}, {_value(b)}", "difference")

    def times(self, a: str, b: str) -> str:
        """`a * b`"""
        return self.let(_type(a), f"mul {a}, {_value(b)}", "product")

    def over(self, a: str, b: str) -> str:
        """`a / b`, towards 0."""
        return self.let(_type(a), f"sdiv {a}, {_value(b)}", "quotient")

    def test(self, how: str, a: str, b: str) -> str:
        """A comparison by one of LLVM's predicates: "eq", "ne", "slt", "ult", ..."""
        return self.let("i1", f"icmp {how} {a}, {_value(b)}", how)

    def is_null(self, pointer: str) -> str:
        return self.test("eq", pointer, NULL)

    def both(self, a: str, b: str) -> str:
        return self.let("i1", f"and {a}, {_value(b)}", "both")

    def either(self, a: str, b: str) -> str:
        return self.let("i1", f"or {a}, {_value(b)}", "either")

    def choose(self, condition: str, a: str, b: str) -> str:
        """`condition ? a : b`"""
        return self.let(_type(a), f"select {condition}, {a}, {b}", "chosen")

    # --- torch's objects: see `interpreter.Tensor` ---

    def is_tensor(self, thing: str) -> str:
        """Whether an object is of one of torch's own classes, and where these have their fields is known."""
        kind, words = self.get(Object.kind, thing), self.object("tensors")
        classes = (self.element(words, integer(k)) for k in (Tensor.CLASS, Tensor.PARAMETER))
        return self.either(*(self.test("eq", kind, known) for known in classes))

    def word(self, word: Tensor) -> str:
        """A word of the table."""
        return self.element(self.object("tensors"), integer(word), "i64")

    def within(self, place: str, word: Tensor) -> str:
        """The address of the field that a word gives the offset of."""
        return self.let("ptr", f"getelementptr i8, {place}, {self.word(word)}", "at")

    # --- variables ---

    def variable(self, value: str) -> str:
        """The address of a variable that begins with a value."""
        where = self.room(_type(value))
        self.write(where, value)
        return where

    def room(self, type: str) -> str:
        """The address of memory in the frame."""
        name = self._fresh("var")
        self._frame.append(f"  {name} = alloca {type}")
        return f"ptr {name}"

    def read(self, variable: str, type: str = "i64") -> str:
        return self.let(type, f"load {type}, {variable}", "now")

    def write(self, variable: str, value: str) -> None:
        self.do(f"store {value}, {variable}")

    # --- calls ---

    def call(self, result: str, function: str, *operands: str) -> str:
        """A call of another routine ("@name") or intrinsic."""
        text = f"call {result} {function}({', '.join(operands)})"
        if result == "void":
            self.do(text)
            return ""
        return self.let(result, text, "result")

    def api(self, name: str, *operands: str) -> str:
        """A call of a function of the interpreter, of numpy or of libc."""
        function = self.let("ptr", f"load {entry(name)}", name)
        return self.call(RESULTS[name], _value(function), *operands)

    def object(self, name: str) -> str:
        """One of the objects in the table, borrowed."""
        return self.let("ptr", f"load {entry(name)}", name)

    def kind_is(self, thing: str, name: str) -> str:
        """Whether an object is of just a type."""
        return self.test("eq", self.get(Object.kind, thing), self.object(name))

    # --- control ---

    def give(self, value: str = "void") -> None:
        """`return value`"""
        self.do(f"ret {value}")

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """`if (condition) { ... }`"""
        then, after = self._fresh("then"), self._fresh("after")
        self.do(f"br {condition}, label {then}, label {after}")
        with self._until(then, after):
            yield

    @contextmanager
    def unless(self, condition: str) -> Iterator[None]:
        """`if (!condition) { ... }`"""
        then, after = self._fresh("else"), self._fresh("after")
        self.do(f"br {condition}, label {after}, label {then}")
        with self._until(then, after):
            yield

    @contextmanager
    def _until(self, then: str, after: str) -> Iterator[None]:
        self._label(then)
        yield
        if not self._lines[-1].startswith("  ret "):
            self.do(f"br label {after}")
        self._label(after)

    @contextmanager
    def endless(self) -> Iterator[None]:
        """`for (;;) { ... }`, which a return ends, and with it the function."""
        head = self._fresh("again")
        self.do(f"br label {head}")
        self._label(head)
        yield
        self.do(f"br label {head}")

    @contextmanager
    def each(self, count: str) -> Iterator[str]:
        """`for (k = 0; k < count; k++) { ... }`"""
        counter = self.variable(integer(0))
        head, body, done = (self._fresh(part) for part in ("next", "body", "done"))
        self.do(f"br label {head}")
        self._label(head)
        k = self.read(counter)
        self.do(f"br {self.test('slt', k, count)}, label {body}, label {done}")
        self._label(body)
        yield k
        self.write(counter, self.add(k, integer(1)))
        self.do(f"br label {head}")
        self._label(done)

    def _fresh(self, stem: str) -> str:
        self._used[stem] += 1
        return f"%{stem}.{self._used[stem]}"

    def _label(self, name: str) -> None:
        self._lines.append(f"{name[1:]}:")


def builtin_routine(name: str) -> Routine:
    """`PyObject *name(PyObject *self, PyObject **arguments, Py_ssize_t count)`: see `objects.builtin`."""
    return Routine("ptr", name, "ptr %self", "ptr %arguments", "i64 %count", linkage="")


def giving(name: str, thing: str) -> Routine:
    """`PyObject *name(void)`: one of the objects in the table."""
    f = Routine("ptr", name)
    found = f.object(thing)
    f.api("Py_IncRef", found)
    f.give(found)
    return f
