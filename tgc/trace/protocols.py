"""How calls reach the tracer: attributes and methods, torch's and numpy's function protocols.

While a function is traced and torch is loaded, a torch function mode sees every torch call, also those without a
traced operand: real tensors (parameters, closures) are lifted to inputs where the graph has to follow their later
values, factories become constants, and what would freeze a value into the program is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import numpy as np

from tgc.errors import TraceError
from tgc.trace import create
from tgc.trace.abstract import is_torch, loaded_torch
from tgc.trace.core import call, is_operand, unsupported
from tgc.trace.indexing import iterate
from tgc.trace.mutation import assign, update
from tgc.trace.names import NUMPY, PROPERTIES, TORCH, TORCH_METHODS, method
from tgc.trace.spelling import Spelling, no_such
from tgc.trace.state import current
from tgc.trace.symbolic import SymbolicInt, SymbolicShape
from tgc.trace.tracer import ARITHMETIC, OPERATORS, PROTOCOLS, Tracer

# --- attributes -----------------------------------------------------------------------------------------------------


def attribute(x: Tracer, name: str) -> Any:
    """A method or property of an array, by the rules of its container.

    Raises:
        AttributeError: no array has such a thing.
        UnsupportedOpError: torch or numpy have it, tgc does not.
    """
    if name in PROPERTIES:
        return call(PROPERTIES[name], (x,), {})
    if name == "size" and x.container == "numpy":
        return create.numel(x)
    spelling = method(x.container, name)
    if spelling is not None:
        return lambda *args, **kwargs: spelling(x, *args, **kwargs)
    torch = loaded_torch()
    owners = [np.ndarray] if x.container == "numpy" or torch is None else [torch.Tensor]
    if not name.startswith("_") and any(hasattr(owner, name) for owner in owners):
        raise no_such(f"{owners[0].__module__}.{owners[0].__name__}.{name}")
    raise AttributeError(f"a traced array has no attribute {name!r}")


# --- numpy ----------------------------------------------------------------------------------------------------------


def array_ufunc(ufunc: Any, how: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """numpy's protocol for elementwise functions, operators of numpy arrays among them."""
    name = f"numpy.{ufunc.__name__}"
    if any(is_torch(a) for a in args):
        return NotImplemented
    if how == "reduce" and ufunc.__name__ in _REDUCTIONS:
        kwargs.setdefault("axis", 0)
        return NUMPY[_REDUCTIONS[ufunc.__name__]](*args, **kwargs)
    spelling = NUMPY.get(ufunc.__name__)
    if spelling is None or how != "__call__":
        raise no_such(name if how == "__call__" else f"{name}.{how}")
    out = kwargs.pop("out", None)
    result = spelling(*args, **kwargs)
    return result if out is None else _into(out[0], result)


_REDUCTIONS = {
    "add": "sum",
    "multiply": "prod",
    "maximum": "max",
    "minimum": "min",
    "logical_or": "any",
    "logical_and": "all",
}


def _into(out: Any, result: Tracer) -> Any:
    """The out= argument of numpy."""
    if isinstance(out, Tracer):
        return call(assign, (out, result), {})
    raise unsupported("out= with an array that is not traced")


def array_function(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """numpy's protocol for all other functions."""
    module = func.__module__.removeprefix("numpy").lstrip(".")
    path = func.__name__ if module in ("", "_core", "lib") else f"{module}.{func.__name__}"
    if path in ("shape", "ndim", "size"):
        return {"shape": lambda x: x.shape, "ndim": lambda x: x.ndim, "size": create.numel}[path](
            *args, **kwargs
        )
    spelling = NUMPY.get(path) or NUMPY.get(func.__name__)
    if spelling is None:
        raise no_such(f"numpy.{path}")
    return spelling(*args, **kwargs)


# --- torch ----------------------------------------------------------------------------------------------------------

_REFLECTED = {"__rdiv__": "div"} | {f"__r{python}__": name for python, name in ARITHMETIC.items()}
# Functions that tell about a tensor without its values.
_METADATA = frozenset(
    "size stride dim ndimension numel nelement is_floating_point is_complex is_contiguous element_size "
    "get_device is_signed storage_offset __len__ is_tensor __hash__ is_same_size __repr__ untyped_storage "
    "is_inference has_names type __get__ register_hook".split()
)
_READS = frozenset(
    "item tolist numpy __bool__ __float__ __int__ __index__ __array__ __contains__ equal allclose".split()
)
_RANDOM = frozenset(
    "rand randn randint randperm normal bernoulli rand_like randn_like randint_like multinomial poisson dropout "
    "feature_dropout alpha_dropout dropout1d dropout2d dropout3d rrelu uniform_ normal_ random_ exponential_ "
    "bernoulli_ cauchy_ geometric_ log_normal_".split()
)


@lru_cache(maxsize=1)
def _functions(torch: Any) -> dict[Any, Spelling]:
    """Every torch function of the table, by the object itself."""
    found: dict[Any, Spelling] = {}
    for name, spelling in TORCH_METHODS.items():
        found[getattr(torch.Tensor, name, None)] = spelling
    for name in dir(torch.Tensor):
        if name.endswith("_") and not name.endswith("__") and (inplace := method("torch", name)):
            found[getattr(torch.Tensor, name)] = inplace
    for name, operator in _REFLECTED.items():
        function = OPERATORS[operator]
        found[getattr(torch.Tensor, name, None)] = Spelling(
            f"torch.Tensor.{name}", lambda a, b, f=function: f(b, a)
        )
    found[torch.Tensor.__getitem__] = Spelling("indexing", OPERATORS["getitem"])
    found[torch.Tensor.__setitem__] = Spelling("indexing", OPERATORS["setitem"])
    for path, spelling in TORCH.items():
        owner: Any = torch
        for part in path.split("."):
            owner = getattr(owner, part, None)
        found[owner] = spelling
    found.pop(None, None)
    return found


def torch_function(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A torch call during a trace: with tracers, real tensors, symbolic sizes, or none of them."""
    trace, torch = current(), loaded_torch()
    values = list(_operands((*args, *kwargs.values())))
    traced = any(isinstance(v, Tracer) for v in values)
    if trace.depth and not traced:
        return func(*args, **kwargs)
    name = getattr(func, "__name__", str(func))
    spelling = _functions(torch).get(func)
    foreign = [v for v in values if is_torch(v) and not trace.owns(v)]
    if not traced and name in _RANDOM and _draws(name, kwargs):
        if spelling is None:
            raise unsupported(
                f"random numbers ({name}) inside a compiled function",
                hint="draw them outside and pass them",
            )
        return _spelt(spelling, args, kwargs)
    if traced or foreign or any(isinstance(v, SymbolicInt) for v in values):
        if not traced and (name in _METADATA or name == "__get__"):
            return _about(func, args, kwargs)
        if spelling is not None:
            return _spelt(spelling, args, kwargs)
        if not traced and name in _READS:
            raise TraceError(
                f"{name}() of a captured tensor would freeze its value into the program",
                line=trace.error_line(),
                hint="compute it outside, or pass it as an argument",
            )
        raise no_such(_path_of(func))
    if spelling is not None and not values and spelling.function in _FACTORIES:
        return spelling(*args, **kwargs)
    return _owned(func(*args, **kwargs))


_FACTORIES = {
    TORCH[name].function for name in ("zeros", "ones", "full", "arange", "linspace", "eye", "empty")
}


def _draws(name: str, kwargs: dict[str, Any]) -> bool:
    return "dropout" not in name or bool(kwargs.get("training", True))


def _operands(values: Any) -> Iterator[Any]:
    """Arrays and symbolic sizes among arguments and in their lists."""
    for value in values:
        if isinstance(value, Tracer | SymbolicInt) or is_torch(value):
            yield value
        elif isinstance(value, tuple | list):
            yield from _operands(value)
        elif isinstance(value, slice):
            yield from _operands((value.start, value.stop, value.step))


def _spelt(spelling: Spelling, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation of the table; `inplace=True` replaces the value of its first operand."""
    if kwargs.get("inplace") is True:
        return call(update(spelling.function), *spelling.bound(args, kwargs))
    return spelling(*args, **kwargs)


def _about(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a real tensor tells about itself; a property that is a tensor is an operation."""
    descriptor = getattr(func, "__self__", None)
    name = getattr(descriptor, "__name__", "")
    if name in ("T", "mT", "H", "mH", "data", "real"):
        if name not in PROPERTIES:
            raise no_such(f"torch.Tensor.{name}")
        return call(PROPERTIES[name], args[:1], {})
    return func(*args, **kwargs)


def _owned(result: Any) -> Any:
    """Tensors made from constants alone: the program's own."""
    for value in _operands([result]):
        if is_torch(value):
            current().own(value)
    return result


def _path_of(func: Any) -> str:
    """A torch function's name as users write it."""
    torch = loaded_torch()
    name = getattr(func, "__name__", str(func))
    if getattr(torch.nn.functional, name, None) is func:
        return f"torch.nn.functional.{name}"
    if getattr(torch.Tensor, name, None) is func:
        return f"torch.Tensor.{name}"
    for space in ("fft", "linalg", "special"):
        if name.startswith(f"{space}_"):  # torch.linalg.svd calls itself linalg_svd
            return f"torch.{space}.{name.removeprefix(space + '_')}"
    module = getattr(func, "__module__", None) or "torch"
    return (
        f"{module}.{name}" if module.startswith("torch") and "_C" not in module else f"torch.{name}"
    )


@lru_cache(maxsize=1)
def _mode_class(torch: Any) -> Callable[[], AbstractContextManager[Any]]:
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        """Every torch call of the traced function comes here first."""

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return torch_function(func, args, kwargs or {})

    return Mode


def interception() -> AbstractContextManager[Any]:
    """While entered, every torch call goes through `torch_function`."""
    torch = loaded_torch()
    return nullcontext() if torch is None else _mode_class(torch)()


PROTOCOLS.update(
    {
        "call": call,
        "shape": SymbolicShape,
        "dtype": create.dtype_of,
        "iterate": lambda x: call(iterate, (x,), {}),
        "attribute": attribute,
        "known": create.known,
        "operand": is_operand,
        "torch_function": torch_function,
        "array_ufunc": array_ufunc,
        "array_function": array_function,
    }
)
