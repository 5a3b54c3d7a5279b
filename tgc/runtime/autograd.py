"""torch autograd over a `Program`, to any order.

One `torch.autograd.Function` serves every program. Its forward runs the forward of the training pair and keeps what
the backward wants. Its backward has two ways: under `create_graph` the cotangents are computed by the program
`vjp`, a pure function of primals and cotangents, through this same Function, so that every further order works;
otherwise the scheduled backward runs on the values kept.

Primals that only the first way needs are held beside torch's saved tensors, with the version they had: changing one
in place afterwards is an error only if a second derivative is then asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from tgc.ir.sizes import evaluate
from tgc.runtime.program import Pair, Program, bind
from tgc.runtime.tensors import (
    Convert,
    device_of,
    dtype_of,
    into_numpy,
    into_torch,
    is_tensor,
    out_of_numpy,
    target_of,
    torch_dtype,
    torch_module,
)
from tgc.settings import current

Run = Callable[[Sequence[Any]], tuple[Any, ...]]
_BOUND_LIMIT = 512


class Step:
    """A host function with the conversions of its arguments and results."""

    __slots__ = ("_host", "_into", "_out")

    def __init__(self, host: Any, into: Sequence[Convert], out: Sequence[Convert]) -> None:
        self._host, self._into, self._out = host, tuple(into), tuple(out)

    def __call__(self, values: Sequence[Any]) -> tuple[Any, ...]:
        results = self._host(*[c(v) for c, v in zip(self._into, values)])
        out = self._out
        if len(out) < len(results):  # what a forward saves follows its outputs
            out = self._out = (*out, *(out_of_numpy(dtype_of(r)) for r in results[len(out) :]))
        return tuple([c(r) for c, r in zip(out, results)])


class OnDevice:
    """A host function over torch tensors, run with their device as the current one."""

    __slots__ = ("_device", "_host", "_into")

    def __init__(self, host: Any, into: Sequence[Convert], device: Any) -> None:
        self._host, self._into, self._device = host, tuple(into), device

    def __call__(self, values: Sequence[Any]) -> tuple[Any, ...]:
        arguments = [c(v) for c, v in zip(self._into, values)]
        if self._device.type != "cuda":
            return tuple(self._host(*arguments))
        torch = torch_module()
        if torch.cuda.current_device() == self._device.index:
            return tuple(self._host(*arguments))
        with torch.cuda.device(self._device):
            return tuple(self._host(*arguments))


def step_of(
    host: Any, values: Sequence[Any], outputs: Sequence[Any], device: Any, target: str
) -> Run:
    """A host function prepared for values like these; `outputs` are the result dtypes."""
    if target in ("numpy", "native"):
        out = [out_of_numpy(dtype) for dtype in outputs]
        return Step(host, [into_numpy(v) for v in values], out)
    return OnDevice(host, [into_torch(v) for v in values], device)


class Call:
    """A program prepared for tensors of given sizes, of which those numbered `wrt` require a gradient.

    Attributes:
        tensors, outputs: inputs and outputs the backward reads, in the order torch saves them; after them come the
            values the forward saved.
        others: tensors among the inputs that only a further derivative reads.
        numbers: inputs that are Python numbers.
        order: the backward's arguments, as positions among saved values, cotangents and numbers.
        fixed: outputs without a derivative.
        targets: per result of the backward, the input it is the cotangent of.
    """

    def __init__(
        self, program: Program, values: Sequence[Any], wrt: tuple[int, ...], backend: str | None
    ) -> None:
        self.program, self.wrt, self.backend = program, wrt, backend
        self.device = device_of(values)
        self.target = target_of(self.device, backend)
        self.sizes = bind(program.inputs, values)
        self.pair: Pair = program.pair(self.target, wrt, self.sizes)
        self.vjp = program.vjp(wrt)
        self.count = len(program.outputs)
        self.size = len(program.inputs)
        self._keep(values)
        self.fixed = tuple(k for k, yes in enumerate(self.pair.depends) if not yes)
        found = [(place, i) for i, place in enumerate(self.pair.results) if place is not None]
        self.targets = tuple(i for _, i in sorted(found))
        dtypes = [slot.dtype for slot in program.outputs]
        self.forward = step_of(self.pair.forward, values, dtypes, self.device, self.target)
        self._backward: Run | None = None

    def _keep(self, values: Sequence[Any]) -> None:
        """Work out what is saved and where the backward finds it."""
        keeps = self.pair.keeps
        read = [i for kind, i in keeps if kind == "input"]
        self.tensors = tuple(i for i in read if is_tensor(values[i]))
        self.outputs = tuple(i for kind, i in keeps if kind == "output")
        self.others = tuple(
            i for i, v in enumerate(values) if is_tensor(v) and i not in self.tensors
        )
        self.numbers = tuple(i for i, v in enumerate(values) if not is_tensor(v))
        places = [("input", i) for i in self.tensors] + [("output", i) for i in self.outputs]
        places += [("saved", i) for i in range(sum(kind == "saved" for kind, _ in keeps))]
        places += [("cotangent", k) for k in range(len(self.program.floats))]
        places += [("input", i) for i in self.numbers]
        self.order = tuple(places.index((kind, i)) for kind, i in keeps)

    def backward(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Run the scheduled backward on the values of `pair.keeps`, in order."""
        if self._backward is None:
            dtypes = [self.program.inputs[i].dtype for i in self.targets]
            host = self.pair.backward
            self._backward = step_of(host, values, dtypes, self.device, self.target)
        return self._backward(values)

    def cotangent(self, output: int, given: Any) -> Any:
        """The cotangent of an output, contiguous; zeros if nobody used the output."""
        if given is not None:
            return given if given.is_contiguous() else given.contiguous()
        slot = self.program.outputs[output]
        shape = [evaluate(d, self.sizes) for d in slot.shape]
        return torch_module().zeros(shape, dtype=torch_dtype(slot.dtype), device=self.device)


def _stale(kind: str, expected: int, found: int) -> RuntimeError:
    return RuntimeError(
        "one of the variables needed for gradient computation has been modified by an inplace operation: "
        f"[{kind}] is at version {found}; expected version {expected} instead."
    )


@lru_cache(maxsize=1)
def function_class() -> Any:
    """The Function, made when torch is there."""
    import torch

    class Compiled(torch.autograd.Function):
        """Forward and backward of a `Call`; see the module."""

        @staticmethod
        def forward(ctx: Any, call: Call, *values: Any) -> Any:
            results = call.forward(values)
            outputs = results[: call.count]
            ctx.save_for_backward(
                *[values[i] for i in call.tensors],
                *[outputs[i] for i in call.outputs],
                *results[call.count :],
            )
            ctx.call = call
            if call.others:
                ctx.others = [values[i] for i in call.others]
                ctx.versions = [v._version for v in ctx.others]
            if call.numbers:
                ctx.numbers = [values[i] for i in call.numbers]
            if call.fixed:
                ctx.mark_non_differentiable(*[outputs[i] for i in call.fixed])
            ctx.set_materialize_grads(False)
            return outputs

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            call: Call = ctx.call
            saved = ctx.saved_tensors
            grads: list[Any] = [None] * (1 + call.size)
            if all(c is None for c in cotangents):
                return tuple(grads)
            given = [call.cotangent(k, cotangents[k]) for k in call.program.floats]
            if torch.is_grad_enabled():
                slopes = run(call.vjp, [*_primals(ctx, saved), *given], call.backend)
                for i, slope in zip(call.wrt, slopes):
                    grads[1 + i] = slope if i in call.targets else None
                return tuple(grads)
            values = [*saved, *given, *ctx.numbers] if call.numbers else [*saved, *given]
            slopes = call.backward([values[place] for place in call.order])
            for i, slope in zip(call.targets, slopes):
                grads[1 + i] = slope
            return tuple(grads)

    return Compiled


def _primals(ctx: Any, saved: Sequence[Any]) -> list[Any]:
    """All inputs of the program, from what was saved and what was only held."""
    call: Call = ctx.call
    values: list[Any] = [None] * call.size
    for i, value in zip(call.tensors, saved):
        values[i] = value
    if call.others:
        for i, value, version in zip(call.others, ctx.others, ctx.versions):
            if value._version != version:
                raise _stale(f"{value.type()} {list(value.shape)}", version, value._version)
            values[i] = value
    if call.numbers:
        for i, value in zip(call.numbers, ctx.numbers):
            values[i] = value
    return values


# --- running a program on tensors -----------------------------------------------------------------


def prepare(program: Program, values: Sequence[Any], backend: str | None) -> Run:
    """A callable for values of these sizes, strides, devices and requirements, in this grad mode."""
    torch = torch_module()
    device = device_of(values)
    if device is not None and device.type == "meta":
        return partial(_shapes, program)
    wrt: tuple[int, ...] = ()
    if torch.is_grad_enabled():
        wrt = tuple(i for i, v in enumerate(values) if is_tensor(v) and v.requires_grad)
    if wrt:
        call = Call(program, values, wrt, backend)
        apply = function_class().apply
        return lambda vs: apply(call, *vs)
    target = target_of(device, backend)
    value = program.value(target, bind(program.inputs, values))
    return step_of(value.run, values, [s.dtype for s in program.outputs], device, target)


def _shapes(program: Program, values: Sequence[Any]) -> tuple[Any, ...]:
    """Results without data, for arguments without data."""
    sizes, empty = bind(program.inputs, values), torch_module().empty
    return tuple(
        empty([evaluate(d, sizes) for d in o.shape], dtype=torch_dtype(o.dtype), device="meta")
        for o in program.outputs
    )


def run(program: Program, values: Sequence[Any], backend: str | None) -> tuple[Any, ...]:
    """The outputs of a program on tensors (and numbers), differentiable where the inputs ask for it."""
    types = [
        (v.shape, v.stride(), v.device, v.requires_grad) if is_tensor(v) else None for v in values
    ]
    key = (backend, torch_module().is_grad_enabled(), current(), *types)
    found = program.bound.get(key)
    if found is None:
        found = prepare(program, values, backend)
        if len(program.bound) >= _BOUND_LIMIT:
            program.bound.clear()
        program.bound[key] = found
    result: tuple[Any, ...] = found(values)
    return result
