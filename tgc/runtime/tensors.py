"""Arguments as they come and results as they go: numpy arrays, torch tensors, Python numbers.

The numpy backend works on torch CPU tensors through views that share their memory; results are allocated by numpy
(whose large arrays get huge pages, torch's do not) and wrapped without a copy. bfloat16, which numpy lacks, crosses
as int16 bits and is seen by numpy as `ml_dtypes.bfloat16`.

torch is never imported here: where a tensor arrives, its module is already loaded.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from tgc.errors import BackendError, DeviceError, DTypeError, UnsupportedOpError
from tgc.ir.dtypes import BY_NAME, DType
from tgc.ir.nodes import Shape
from tgc.runtime.arrays import empty_for_torch
from tgc.runtime.steps import AS_IT_IS, Convert
from tgc.runtime.tensor_fields import readable
from tgc.settings import current
from tgc.trace.abstract import is_torch
from tgc.trace.state import calling_line

NUMBERS = (bool, int, float)


def container_of(values: Sequence[Any]) -> str:
    """ "torch" if any value is a tensor, else "numpy" if any is an array, else "python"."""
    if any(is_torch(v) for v in values):
        return "torch"
    return "numpy" if any(isinstance(v, np.ndarray | np.generic) for v in values) else "python"


def device_of(values: Sequence[Any]) -> Any:
    """The torch device all tensors lie on; None without tensors. 0-d CPU tensors go with any device, as in torch.

    Raises:
        DeviceError: tensors on two devices.
    """
    devices = []
    for value in values:
        if is_torch(value) and value.device not in devices:
            devices.append(value.device)
    if len(devices) > 1:
        wide = {v.device for v in values if is_torch(v) and (v.ndim or v.device.type != "cpu")}
        devices = [d for d in devices if d in wide]
    if len(devices) > 1:
        raise DeviceError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{devices[0]} and {devices[1]}!",
            line=calling_line(),
            hint="move the arguments to one device with .to(device) before the call",
        )
    return devices[0] if devices else None


def torch_mode() -> tuple[Any, ...]:
    """What of torch's global state a compiled call depends on."""
    torch = sys.modules["torch"]
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch._C._are_functorch_transforms_active(),
        dual_level()(),
    )


@lru_cache(maxsize=1)
def dual_level() -> Callable[[], int]:
    """What tells the level of torch's forward mode, -1 where it is off: only inside one have tensors tangents."""
    return partial(getattr, sys.modules["torch"].autograd.forward_ad, "_current_level")


# --- targets --------------------------------------------------------------------------------------


def interpreted() -> bool:
    """Whether Triton kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def architecture(device: Any) -> str:
    """The name of a GPU's architecture: "sm_90", "gfx942"."""
    torch = sys.modules["torch"]
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def target_of(device: Any, backend: str | None) -> str:
    """The name of the target that serves arguments on `device` (None: numpy arrays), under the settings.

    Raises:
        BackendError: the backend asked for cannot run there.
    """
    backend = backend or current().backend
    kind = "cpu" if device is None else device.type
    if kind in ("cpu", "meta"):
        if backend in (None, "numpy", "native"):
            return cpu_engine(backend)
        return _triton_without_gpu(kind, backend)
    if backend not in (None, "triton"):
        raise BackendError(
            f"the {backend} backend does not run on {device}",
            hint="move the arguments to the CPU, or leave the backend open",
        )
    if kind != "cuda":
        raise BackendError(f"there is no backend for {device}", hint="tgc runs on cpu and cuda")
    return architecture(device)


def cpu_engine(backend: str | None) -> str:
    """The engine for the CPU: native code where it can be made, else numpy.

    Raises:
        BackendError: the native engine was asked for and cannot run here.
    """
    if backend == "numpy":
        return "numpy"
    from tgc.runtime.native import unavailable

    reason = unavailable()
    if reason is None:
        return "native"
    if backend == "native":
        raise BackendError(
            f"the native backend cannot run here: {reason}",
            hint="leave the backend open: numpy runs then",
        )
    return "numpy"


def _triton_without_gpu(kind: str, backend: str) -> str:
    if backend != "triton":
        raise BackendError(f"there is no backend {backend!r}", hint="numpy, native or triton")
    if interpreted() and kind == "cpu":
        return "sm_90"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        raise BackendError(
            "the triton backend was asked for, but the arguments are not on the GPU",
            hint="move them with .to('cuda'), or leave the backend open",
        )
    raise BackendError(
        "the triton backend was asked for, but there is no GPU",
        hint="unset TGC_BACKEND to run on numpy; f.lower(..., target='sm_90') shows the kernels without a GPU",
    )


# --- dtypes ---------------------------------------------------------------------------------------


def dtype_of(value: Any) -> DType:
    """The element type of an array or tensor.

    Raises:
        DTypeError: tgc has no such type.
    """
    name = str(value.dtype).removeprefix("torch.")
    found = BY_NAME.get(name)
    if found is None or (isinstance(value, np.ndarray) and not value.dtype.isnative):
        raise DTypeError(
            f"an argument has dtype {name}, which tgc does not compile",
            line=calling_line(),
            hint="float64, float32, float16, bfloat16, int8 to int64, uint8 and bool (in native byte order) are",
        )
    return found


def torch_dtype(dtype: DType) -> Any:
    """torch's name for an element type."""
    return getattr(sys.modules["torch"], dtype.name)


def _ml_bfloat16() -> Any:
    try:
        import ml_dtypes
    except ImportError:
        raise BackendError(
            "bfloat16 on the CPU needs the package ml_dtypes, which is not installed",
            hint="pip install ml_dtypes, or use float32",
        ) from None
    return np.dtype(ml_dtypes.bfloat16)


# --- conversions ----------------------------------------------------------------------------------

_ADDRESSES = 16  # of one argument that are remembered
_CONTIGUOUS = Convert("ascontiguousarray({})", (("ascontiguousarray", np.ascontiguousarray),))


def takes(target: str) -> str:
    """What the host functions of a target take for a tensor: an "array" over its memory, or the "tensor" itself."""
    return "array" if target in ("numpy", "native") else "tensor"


def into_host(value: Any, target: str, *, address: bool = False) -> Convert:
    """How a value like this one is handed to a host function; it is copied only if it is not contiguous.

    Args:
        address: the function takes the address of a tensor's memory.

    Raises:
        UnsupportedOpError: a sparse tensor, a masked array.
    """
    if not is_torch(value):
        return _array_into_host(value)
    check_dense(value)
    dtype_of(value)
    resolved = "{}.resolve_neg()" if value.is_neg() else "{}"
    first = f"{resolved}.contiguous()" if value.is_neg() or not value.is_contiguous() else ""
    if takes(target) == "tensor":
        return Convert("{}", first=first)
    if address:
        return Convert(_address(), first=first)
    return replace(_array_over(dtype_of(value), tuple(value.shape)), first=first)


def any_into_host(
    dtype: DType, shape: tuple[int, ...], target: str, *, address: bool = False
) -> Convert:
    """How a contiguous tensor of this type, of whatever history, is handed to a host function; see `into_host`."""
    if takes(target) == "tensor":
        return AS_IT_IS
    return Convert(_address()) if address else _array_over(dtype, shape)


def _address() -> str:
    """How a kernel is handed a contiguous tensor's memory: it reads the address itself, or torch is asked."""
    return "{}" if readable() else "{}.data_ptr()"


def _array_over(dtype: DType, shape: tuple[int, ...]) -> Convert:
    """An array over a contiguous CPU tensor's memory by its address, for a fifth of what torch takes to make one.

    It is for the time of a call, which holds the tensor.
    """
    kind = _ml_bfloat16() if dtype.name == "bfloat16" else np.dtype(dtype.name)
    return Convert("over_{0}[{0}.data_ptr()]", (("over_{}", _Over(kind, shape)),))


class _Over(dict[int, Any]):
    """Arrays of one type by the address of their memory, which is not theirs: small calls see few addresses."""

    def __init__(self, dtype: Any, shape: tuple[int, ...]) -> None:
        self._dtype, self._shape = dtype, shape
        self._memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address

    def __missing__(self, address: int) -> Any:
        if len(self) >= _ADDRESSES:
            self.clear()
        made = self[address] = np.ndarray(self._shape, self._dtype, self._memory(address))
        return made


def _array_into_host(value: Any) -> Convert:
    if isinstance(value, np.ndarray):
        masked = sys.modules.get("numpy.ma")  # asking numpy for it would import it, which is slow
        if masked is not None and isinstance(value, masked.MaskedArray):
            raise UnsupportedOpError(
                "masked arrays are not compiled",
                hint="pass the data and the mask, and use tgc.where",
            )
        dtype_of(value)
        plain = value.flags.c_contiguous and value.flags.aligned
        return AS_IT_IS if plain and type(value) is np.ndarray else _CONTIGUOUS
    if isinstance(value, np.generic):
        return Convert("asarray({})", (("asarray", np.asarray),))
    return AS_IT_IS


def check_dense(value: Any) -> None:
    """Raises UnsupportedOpError for a tensor that is not one strided block of memory, unless it is to have none."""
    torch = sys.modules["torch"]
    if value.layout != torch.strided:
        raise UnsupportedOpError(
            f"an argument has layout {value.layout}", hint="convert it with .to_dense()"
        )
    if not _has_memory(value):
        raise UnsupportedOpError(
            f"an argument, a {type(value).__name__}, has no memory of its own to compute on",
            line=calling_line(),
            hint="pass the tensors that it stands for, or tensors on the device meta for shapes alone",
        )


def _has_memory(value: Any) -> bool:
    """False for what stands for other tensors, as those of a FakeTensorMode do, on whatever device it says it is."""
    if value.device.type == "meta" or not value.numel():
        return True
    try:
        return bool(value.untyped_storage().device == value.device and value.data_ptr())
    except RuntimeError:  # one of torch.func's, which are refused with their transforms
        return True


def out_of_host(dtype: DType, shape: Shape, target: str, *, exports: bool = False) -> Convert:
    """How a result of a host function, or a capsule of DLPack's that it exports, becomes a tensor, sharing memory."""
    if takes(target) == "tensor":
        return AS_IT_IS
    if exports:
        return Convert("taken_over({})", (("taken_over", taken_over()),))
    if dtype.name == "bfloat16":
        return Convert("wrap_bits({})", (("wrap_bits", _wrap_bits),))
    names = ("from_numpy", sys.modules["torch"].from_numpy), ("asarray", np.asarray)
    # A result of no rank may be a numpy scalar.
    return Convert("from_numpy({})" if shape else "from_numpy(asarray({}))", names)


def exporter() -> Callable[..., Any] | None:
    """What allocates memory that torch takes over, if native code (once there is some) and this torch can. It costs
    less than sharing an array's."""
    make = empty_for_torch()
    return make if make is not None and _takes_over(make) else None


@lru_cache(maxsize=1)
def _takes_over(make: Callable[..., Any]) -> bool:
    """Whether torch makes of a capsule what it should."""
    take = getattr(sys.modules["torch"]._C, "_from_dlpack", None)
    if take is None:
        return False
    one = take(make((2, 3), np.bool_))
    plain = one.is_contiguous() and not one.requires_grad and one.device.type == "cpu"
    same = (tuple(one.shape), one.dtype) == ((2, 3), sys.modules["torch"].bool)
    return plain and same


def taken_over() -> Callable[[Any], Any]:
    """torch's function that makes a tensor of a capsule."""
    function: Callable[[Any], Any] = sys.modules["torch"]._C._from_dlpack
    return function


def wrap(array: Any) -> Any:
    """A numpy result of any dtype as a tensor, sharing memory."""
    if array.dtype.kind == "V":  # bfloat16, of a package of its own
        return _wrap_bits(array)
    return sys.modules["torch"].from_numpy(np.asarray(array))


def _wrap_bits(array: Any) -> Any:
    torch = sys.modules["torch"]
    return torch.from_numpy(np.asarray(array).view(np.int16)).view(torch.bfloat16)
