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
        return tuple([c(r) for c, r in zip(self._out, results)])


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
    if target == "numpy":
        out = [out_of_numpy(dtype) for dtype in outputs]
        return Step(host, [into_numpy(v) for v in values], out)
    return OnDevice(host, [into_torch(v) for v in values], device)


class Call:
    """A program prepared for tensors of given sizes, of which those numbered `wrt` require a gradient."""

    def __init__(
        self, program: Program, values: Sequence[Any], wrt: tuple[int, ...], backend: str | None
    ) -> None:
        self.program, self.wrt, self.backend = program, wrt, backend
        self.device = device_of(values)
        self.target = target_of(self.device, backend)
        self.sizes = bind(program.inputs, values)
        self.pair: Pair = program.pair(self.target, wrt, self.sizes)
        self.count = len(program.outputs)
        self._values = [v.detach() if is_tensor(v) else v for v in values]
        self.forward = self._forward_step()
        self._values = []
        self.fixed = tuple(k for k, yes in enumerate(self.pair.depends) if not yes)
        self.plain_inputs = self._plain_inputs(values)
        self.saved_inputs = tuple(i for kind, i in self.pair.keeps if kind == "input")
        self.saved_tensors = tuple(i for i in self.saved_inputs if is_tensor(values[i]))
        self.saved_outputs = tuple(i for kind, i in self.pair.keeps if kind == "output")
        self.extras = 1 + max((i for kind, i in self.pair.keeps if kind == "saved"), default=-1)
        self._backwards: dict[Any, Run] = {}
        self.vjp = program.vjp(wrt)

    def _forward_step(self) -> Run:
        dtypes = [slot.dtype for slot in self.program.outputs]
        run = step_of(self.pair.forward, self._values, [], self.device, self.target)
        if self.target != "numpy":
            return run
        wrap = _saved_wrapper()
        outs = [out_of_numpy(d) for d in dtypes]
        extra = sum(1 for kind, _ in self.pair.keeps if kind == "saved")
        into = [into_numpy(v) for v in self._values]
        return Step(self.pair.forward, into, [*outs, *([wrap] * extra)])

    def _plain_inputs(self, values: Sequence[Any]) -> tuple[int, ...]:
        kept = {i for kind, i in self.pair.keeps if kind == "input"}
        return tuple(i for i, v in enumerate(values) if i not in kept and is_tensor(v))

    def backward(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Run the scheduled backward on the values of `pair.keeps`, in order."""
        key = tuple([v.stride() if is_tensor(v) else None for v in values])
        run = self._backwards.get(key)
        if run is None:
            slots = [self.program.inputs[i] for i in self.wrt]
            run = step_of(
                self.pair.backward, values, [s.dtype for s in slots], self.device, self.target
            )
            self._backwards[key] = run
        return run(values)

    def zeros(self, output: int) -> Any:
        """The cotangent of an output nobody used."""
        slot = self.program.outputs[output]
        shape = [evaluate(d, self.sizes) for d in slot.shape]
        return torch_module().zeros(shape, dtype=torch_dtype(slot.dtype), device=self.device)


def _saved_wrapper() -> Convert:
    """Wraps a saved value of any dtype."""
    wrap = out_of_numpy
    from tgc.runtime.tensors import dtype_of

    return lambda a: wrap(dtype_of(a))(a)


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
            outputs, extras = results[: call.count], results[call.count :]
            ctx.save_for_backward(
                *[values[i] for i in call.saved_tensors],
                *[outputs[i] for i in call.saved_outputs],
                *extras,
            )
            ctx.call = call
            ctx.others = [values[i] for i in call.plain_inputs]
            ctx.versions = [v._version for v in ctx.others]
            ctx.numbers = (
                None if len(call.saved_tensors) + len(ctx.others) == len(values) else values
            )
            if ctx.numbers is not None:
                ctx.numbers = tuple(None if is_tensor(v) else v for v in values)
            if call.fixed:
                ctx.mark_non_differentiable(*[outputs[i] for i in call.fixed])
            ctx.set_materialize_grads(False)
            return outputs

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            call: Call = ctx.call
            saved = ctx.saved_tensors
            grads: list[Any] = [None] * (1 + len(call.program.inputs))
            if all(c is None for c in cotangents):
                return tuple(grads)
            given = [
                call.zeros(k) if cotangents[k] is None else cotangents[k]
                for k in call.program.floats
            ]
            if torch.is_grad_enabled():
                results = run(call.vjp, [*_primals(ctx, saved), *given], call.backend)
                for position, i in enumerate(call.wrt):
                    if call.pair.results[i] is not None:
                        grads[1 + i] = results[position]
                return tuple(grads)
            results = call.backward(_kept(ctx, saved, given))
            for i, place in enumerate(call.pair.results):
                if place is not None:
                    grads[1 + i] = results[place]
            return tuple(grads)

    return Compiled


def _primals(ctx: Any, saved: Sequence[Any]) -> list[Any]:
    """All inputs of the program, from what was saved and what was only held."""
    call: Call = ctx.call
    for value, version in zip(ctx.others, ctx.versions):
        if value._version != version:
            raise _stale(f"{value.type()} {list(value.shape)}", version, value._version)
    values = list(ctx.numbers or [None] * len(call.program.inputs))
    for i, value in zip(call.plain_inputs, ctx.others):
        values[i] = value
    for i, value in zip(call.saved_tensors, saved):
        values[i] = value
    return values


def _kept(ctx: Any, saved: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
    """The arguments of the scheduled backward."""
    call: Call = ctx.call
    inputs = dict(zip(call.saved_tensors, saved))
    first = len(call.saved_tensors)
    outputs = dict(zip(call.saved_outputs, saved[first:]))
    extras = saved[first + len(call.saved_outputs) :]
    values: list[Any] = []
    for kind, i in call.pair.keeps:
        if kind == "input":
            values.append(inputs[i] if i in inputs else ctx.numbers[i])
        elif kind == "output":
            values.append(outputs[i])
        elif kind == "saved":
            values.append(extras[i])
        else:
            values.append(cotangents[i])
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
