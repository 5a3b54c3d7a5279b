"""The decorator, and the object it returns."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, overload

from tgc.errors import BackendError
from tgc.pipeline import Pipeline
from tgc.runtime import tensors
from tgc.runtime.dispatch import Dispatcher
from tgc.trace.abstract import is_torch
from tgc.trace.namespace import set_eager
from tgc.trace.run import trace

if TYPE_CHECKING:
    from tgc.lowered import Lowered

PRECISIONS = ("fused", "eager")
BACKENDS = ("numpy", "native", "triton")


class Compiled(Dispatcher):
    """A function that is traced at its first call for each kind of arguments and runs as fused kernels.

    It takes and returns what the plain function does: torch tensors, numpy arrays, Python numbers, and trees of them.
    torch autograd works through it, to any order.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        backend: str | None = None,
        precision: str = "fused",
        fast_math: bool = False,
        static_argnames: Sequence[str] = (),
        donate_argnames: Sequence[str] = (),
    ) -> None:
        if not callable(function):
            raise TypeError(f"tgc.jit takes a function, not {type(function).__name__}")
        if backend not in (None, *BACKENDS):
            raise _no_backend(backend)
        if precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
        self.pipeline = Pipeline(precision, fast_math)
        super().__init__(
            function,
            self.pipeline,
            backend=backend,
            static_argnames=_names(static_argnames, function),
            donate_argnames=_names(donate_argnames, function),
        )
        functools.update_wrapper(self, function, updated=())

    @overload
    def __get__(self, owner: None, kind: type) -> Compiled: ...

    @overload
    def __get__(self, owner: object, kind: type | None = None) -> Method: ...

    def __get__(self, owner: object, kind: type | None = None) -> Compiled | Method:
        return self if owner is None else Method(self, owner)

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Copies and pickles: its name where it is found by that, as functions are, else of what it was made."""
        name = vars(self).get("__qualname__", "")
        found: Any = sys.modules.get(self.__module__)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is self:
            return str(name)
        options: dict[str, Any] = {
            "backend": self.backend,
            "precision": self.pipeline.precision,
            "fast_math": self.pipeline.fast_math,
            "static_argnames": self.static_argnames,
            "donate_argnames": self.donate_argnames,
        }
        return functools.partial(type(self), **options), (self.function,)

    def __repr__(self) -> str:
        return f"<tgc.jit of {getattr(self, '__qualname__', self.function)}>"

    def lower(
        self,
        *args: Any,
        grad: bool = False,
        backend: str | None = None,
        target: str | None = None,
        **kwargs: Any,
    ) -> Lowered:
        """The function lowered for arguments like these, which may be `tgc.spec`s.

        Args:
            grad: lower the training pair: forward and backward.
            backend: "numpy", "native" or "triton"; default: by the target or the arguments.
            target: "numpy", or a GPU architecture such as "sm_90" or "gfx942"; no such GPU has to be there.
        """
        traced = trace(
            self.function,
            args,
            kwargs,
            static_argnames=self.static_argnames,
            donate_argnames=self.donate_argnames,
            derive=self.pipeline.derived,
        )
        values = [*traced.values, *traced.captured]
        where = _target(values, backend or (None if target else self.backend), target)
        numbers = tuple(a.name for a in traced.abstracts if a.container == "scalar")
        asked = tuple(i for i, a in enumerate(traced.abstracts) if a.requires_grad)
        # Imported here, as it imports the compiler, which a cached call does without.
        from tgc.lowered import lower_graph

        return lower_graph(
            self.pipeline,
            self.pipeline.derived(traced.graph),
            where,
            traced.hints,
            grad=grad,
            numbers=numbers,
            wrt=asked or None,
        )

    def explain(self, *args: Any, grad: bool = False, **kwargs: Any) -> str:
        """A report in plain text: kernels, bytes against the ideal, what is saved and why, the regime."""
        from tgc.report.explain import explain

        return explain(self.lower(*args, grad=grad, **kwargs))


class Method:
    """A compiled function bound to an object, as a method is."""

    def __init__(self, compiled: Compiled, owner: object) -> None:
        self.__func__, self.__self__ = compiled, owner
        self._call = MethodType(compiled, owner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Method, (self.__func__, self.__self__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """See `Compiled.lower`."""
        return self.__func__.lower(self.__self__, *args, **kwargs)

    def explain(self, *args: Any, **kwargs: Any) -> str:
        """See `Compiled.explain`."""
        return self.__func__.explain(self.__self__, *args, **kwargs)


@overload
def jit(function: Callable[..., Any]) -> Compiled: ...


@overload
def jit(
    *,
    backend: str | None = ...,
    precision: str = ...,
    fast_math: bool = ...,
    static_argnames: Sequence[str] = ...,
    donate_argnames: Sequence[str] = ...,
) -> Callable[[Callable[..., Any]], Compiled]: ...


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function of arrays; a decorator, with or without options.

    Args:
        backend: "numpy", "native" or "triton"; default: by the device of the arguments.
        precision: "fused" computes half types in float32 and rounds where the program has a visible result, and the
            native engine makes one operation of a * b + c; "eager" rounds after each operation, as torch does.
        fast_math: allow rewrites that change results for NaN, infinities and signed zeros.
        static_argnames: arguments whose values are part of the program; each value is compiled by itself.
        donate_argnames: arguments whose arrays are overwritten: each takes the first result of its shape and dtype that
            no earlier one took, and is returned in its place, so that `p = step(p, g)` updates p itself. An argument
            that shares memory with another, is not contiguous, or requires a gradient in grad mode, is refused.
    """
    if function is None:
        return functools.partial(Compiled, **options)
    return Compiled(function, **options)


def _names(given: Sequence[str], function: Callable[..., Any]) -> tuple[str, ...]:
    """Argument names as a tuple.

    Raises:
        ValueError: the function has no argument of such a name.
    """
    names = (given,) if isinstance(given, str) else tuple(given)
    known = inspect.signature(function).parameters if names else {}
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for name in names:
            if name not in known:
                raise ValueError(
                    f"the function has no argument {name!r}: it has {', '.join(known)}"
                )
    return names


set_eager(jit)  # tgc.exp(x) outside a trace is a compiled function of its own


def _target(values: Sequence[Any], backend: str | None, target: str | None) -> str:
    """The name of the target to lower for.

    Raises:
        BackendError: there is no such backend, or it does not serve the target asked for.
    """
    if backend not in (None, *BACKENDS):
        raise _no_backend(backend)
    if target is not None:
        if backend not in (None, target if target in BACKENDS else "triton"):
            raise BackendError(
                f"the {backend} backend does not emit for the target {target!r}",
                hint="give the target alone: it says which backend serves it",
            )
        return target
    real = [v for v in values if is_torch(v)]
    device = tensors.device_of(real)
    if device is not None and device.type == "cuda" and backend in (None, "triton"):
        return tensors.architecture(device)
    return "sm_90" if backend == "triton" else tensors.cpu_engine(backend)


def _no_backend(backend: object) -> BackendError:
    return BackendError(f"there is no backend {backend!r}", hint=" or ".join(BACKENDS))
