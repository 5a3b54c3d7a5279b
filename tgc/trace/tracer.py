"""The value a traced function computes with: a graph node that behaves like an array.

Operators, methods and the protocols of torch and numpy all end in `operate` or in the name tables of `names.py`; what
an operation means is written elsewhere, once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from tgc.errors import MutationError, TraceError, UnsupportedOpError
from tgc.ir.dtypes import DType
from tgc.ir.nodes import Movement, Node
from tgc.trace.state import current

# Filled by names.py: operators by their graph name, and the entry points of the protocols.
OPERATORS: dict[str, Callable[..., Any]] = {}
PROTOCOLS: dict[str, Callable[..., Any]] = {}

BRANCH_HINT = "write tgc.where(condition, a, b) instead of a branch on it"
CONVERT_HINT = "compute with it as it is (tgc.sin for math.sin, tgc.where for a branch), convert after the call"
STACK_HINT = (
    "make an array of traced values with tgc.stack, or return it and convert it after the call"
)


def operate(name: str, *args: Any) -> Any:
    """Apply the operator `name` at the user's line."""
    return PROTOCOLS["call"](OPERATORS[name], args, {})


class Tracer:
    """One array of a traced function.

    Attributes:
        node: its node in the graph.
        container: whose rules it follows: "torch", "numpy", "spec", or "scalar" (weakly typed Python number).
        device: as torch spells it.
        base: the tracer whose memory this one shares, if it is a view; `views` are those that share this one's.
        path: the movements from the base to this view; None where there are none that lead to it.
        fresh: whether it is a copy, so that writes into it are its own although its node is an input.
    """

    __slots__ = ("__weakref__", "base", "container", "device", "fresh", "node", "path", "views")

    def __init__(self, node: Node, container: str, device: str = "cpu") -> None:
        self.node, self.container, self.device = node, container, device
        self.base: Tracer | None = None
        self.path: tuple[Movement, ...] | None = ()
        self.fresh = False
        self.views: list[weakref.ref[Tracer]] = []

    # --- what it is ---

    @property
    def ndim(self) -> int:
        return self.node.ndim

    @property
    def shape(self) -> Any:
        return PROTOCOLS["shape"](self.node.shape)

    @property
    def dtype(self) -> Any:
        return PROTOCOLS["dtype"](self)

    @property
    def kind(self) -> DType:
        """The element type as the compiler has it."""
        return self.node.dtype

    def __len__(self) -> int:
        if not self.node.shape:
            raise TypeError("len() of a 0-d tensor")
        return (
            current().sizes.fix(first)
            if not isinstance(first := self.node.shape[0], int)
            else first
        )

    def __iter__(self) -> Iterator[Any]:
        return iter(PROTOCOLS["iterate"](self))

    def __repr__(self) -> str:
        dims = ", ".join(map(str, self.node.shape))
        return f"<traced {self.container} {self.node.dtype.name}[{dims}]>"

    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        return PROTOCOLS["attribute"](self, name)

    # --- what exists only at run time ---

    def _refuse(self, what: str, hint: str) -> NoReturn:
        raise TraceError(
            f"{what} needs a value that exists only when the compiled function runs",
            line=current().error_line(),
            hint=hint,
        )

    def __bool__(self) -> bool:
        what = "a branch on a traced value (if, while, and, or, not, assert)"
        return bool(PROTOCOLS["known"](self, what, BRANCH_HINT))

    def __float__(self) -> float:
        return float(PROTOCOLS["known"](self, "float()", CONVERT_HINT))

    def __int__(self) -> int:
        return int(PROTOCOLS["known"](self, "int()", CONVERT_HINT))

    def __index__(self) -> int:
        return int(PROTOCOLS["known"](self, "use as a Python index or integer", CONVERT_HINT))

    def __complex__(self) -> complex:
        self._refuse("complex()", CONVERT_HINT)

    def __contains__(self, item: object) -> bool:
        self._refuse(
            "the operator `in`", "write tgc.any(x == value), and tgc.where for a branch on it"
        )

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("conversion to a numpy array", STACK_HINT)

    def __format__(self, spec: str) -> str:
        if spec:
            self._refuse(f"the format {spec!r}", "print it after the call")
        return repr(self)

    # --- protocols ---

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return PROTOCOLS["torch_function"](func, args, kwargs or {})

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return PROTOCOLS["array_ufunc"](ufunc, method, args, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return PROTOCOLS["array_function"](func, args, kwargs)

    # --- indexing ---

    def __getitem__(self, index: Any) -> Any:
        return operate("getitem", self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        operate("setitem", self, index, value)

    def __delitem__(self, index: Any) -> NoReturn:
        raise UnsupportedOpError("del x[...]", line=current().error_line())

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Tracer.__slots__:
            object.__setattr__(self, name, value)
            return
        raise MutationError(
            f"assignment to .{name} of a traced array",
            line=current().error_line(),
            hint="compute a new value and return it",
        )


_PLAIN = (list, tuple, dict, set, str, bytes, type(None))
"""What has no arithmetic with arrays: the operation says so, with the user's line, where Python would not."""


def _binary(
    name: str, refused: tuple[type, ...] = _PLAIN
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def answers(other: Any) -> bool:
        return PROTOCOLS["operand"](other) or isinstance(other, refused)

    def forward(self: Tracer, other: Any) -> Any:
        return operate(name, self, other) if answers(other) else NotImplemented

    def backward(self: Tracer, other: Any) -> Any:
        return operate(name, other, self) if answers(other) else NotImplemented

    return forward, backward


def _inplace(name: str) -> Callable[..., Any]:
    def update(self: Tracer, other: Any) -> Any:
        return operate("i" + name, self, other)

    return update


def _unary(name: str) -> Callable[..., Any]:
    return lambda self: operate(name, self)


ARITHMETIC = {
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "truediv": "div",
    "floordiv": "floordiv",
    "mod": "mod",
    "pow": "pow",
    "matmul": "matmul",
    "and": "and",
    "or": "or",
    "xor": "xor",
    "lshift": "lshift",
    "rshift": "rshift",
}
"""The operators of two operands, as Python and as the graph call them."""
for _python, _name in ARITHMETIC.items():
    _forward, _backward = _binary(_name)
    setattr(Tracer, f"__{_python}__", _forward)
    setattr(Tracer, f"__r{_python}__", _backward)
    setattr(Tracer, f"__i{_python}__", _inplace(_name))
for _name in ("lt", "le", "gt", "ge"):
    setattr(Tracer, f"__{_name}__", _binary(_name)[0])
for _name in ("eq", "ne"):  # anything may be asked whether it equals another
    setattr(Tracer, f"__{_name}__", _binary(_name, ())[0])
_divide, _divided = _binary("divmod")
setattr(Tracer, "__divmod__", _divide)  # noqa: B010
setattr(Tracer, "__rdivmod__", _divided)  # noqa: B010
for _python, _name in {"neg": "neg", "pos": "positive", "abs": "abs", "invert": "not"}.items():
    setattr(Tracer, f"__{_python}__", _unary(_name))
