"""The error classes users see.

Each names the user's source line, says what was wrong and what to write instead. There are few of them: a class
exists only where a caller could want to catch it apart from the others.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A place in the user's source: the innermost frame outside tgc when a node was made."""

    file: str
    number: int
    text: str = ""

    def __str__(self) -> str:
        name = self.file.rsplit("/", 1)[-1]
        return f"{name}:{self.number}"


class TgcError(Exception):
    """Base of every error tgc raises on purpose.

    Args:
        message: what was wrong.
        line: the user's source line, if known.
        hint: what to write instead.
    """

    def __init__(self, message: str, *, line: Line | None = None, hint: str | None = None) -> None:
        self.message, self.line, self.hint = message, line, hint
        parts = [message]
        if line is not None:
            parts.append(
                f"  at {line.file}:{line.number}" + (f"\n    {line.text}" if line.text else "")
            )
        if hint:
            parts.append(f"  hint: {hint}")
        super().__init__("\n".join(parts))


class TraceError(TgcError):
    """The user's Python needs a value that exists only at run time (a data-dependent branch, `float(x)`)."""


class UnsupportedOpError(TgcError, NotImplementedError):
    """The function uses an operation, or a form of one, that tgc does not compile."""


class ShapeError(TgcError, ValueError):
    """Shapes, axes or sizes do not fit together."""


class DTypeError(TgcError, TypeError):
    """An operand has a type the operation is not defined for."""


class DeviceError(TgcError, RuntimeError):
    """Operands live on different devices."""


class MutationError(UnsupportedOpError):
    """The function writes in place where tgc does not allow it."""


class DerivativeError(TgcError):
    """A derivative was asked for that does not exist or cannot be derived."""


class BackendError(TgcError, RuntimeError):
    """A backend is missing or cannot run a kernel."""


class ResourceError(BackendError):
    """A compiled kernel exceeds what the target has (shared memory, registers)."""


class VerifyError(TgcError, AssertionError):
    """An internal invariant of a graph or a kernel does not hold: a bug in tgc, named with the pass that broke it."""
