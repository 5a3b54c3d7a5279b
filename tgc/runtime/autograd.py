"""torch autograd over a `Program`, to any order.

One `torch.autograd.Function` serves every program. Its forward runs the forward of the training pair and keeps what
the backward wants. Its backward has two ways: under `create_graph` the cotangents are computed by the program
`vjp`, a pure function of primals and cotangents, through this same Function, so that every further order works;
otherwise the scheduled backward runs on the values kept.

Both are written out for the types of one call (see `steps.py`): of its arguments they touch those that are saved or
read. Primals that only a further derivative needs are held beside torch's saved tensors, with the version they had:
changing one in place afterwards is an error only if a second derivative is then asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from tgc.errors import UnsupportedOpError
from tgc.ir.sizes import evaluate
from tgc.runtime.program import Known, Pair, Program, Slot, bind, known
from tgc.runtime.steps import AS_IT_IS, Lines, function, tuple_text
from tgc.runtime.tensors import (
    any_into_host,
    device_of,
    dtype_of,
    dual_level,
    exporter,
    into_host,
    out_of_host,
    taken_over,
    takes,
    target_of,
    torch_dtype,
    wrap,
)
from tgc.settings import current
from tgc.trace.abstract import is_torch, loaded_torch
from tgc.trace.state import calling_line

Run = Callable[..., tuple[Any, ...]]
_BOUND_LIMIT = 512


class OnDevice:
    """A host function over torch tensors, run with their device as the current one."""

    __slots__ = ("_device", "_host")

    def __init__(self, host: Any, device: Any) -> None:
        self._host, self._device = host, device

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        torch = loaded_torch()
        if torch.cuda.current_device() == self._device.index:
            return tuple(self._host(*arguments))
        with torch.cuda.device(self._device):
            return tuple(self._host(*arguments))


def _placed(host: Any, device: Any) -> Any:
    """A host function that runs on a device, whichever is the current one."""
    return OnDevice(host, device) if device is not None and device.type == "cuda" else host


def _known(host: Any, program: Program, sizes: Mapping[str, int], count: int) -> Known:
    """What a host function can be told whose results become tensors."""
    return known(host, program, sizes, count, exported=exporter())


class Call:
    """A program prepared for tensors of given sizes, of which those numbered `wrt` require a gradient.

    Attributes:
        tensors, outputs: inputs and outputs the backward reads, in the order torch saves them; after them come the
            values the forward saved.
        others: tensors among the inputs that only a further derivative reads.
        numbers: inputs that are Python numbers.
        fixed: outputs without a derivative.
        targets: per result of the backward, the input it is the cotangent of.
        forward: `(ctx, *values)` -> outputs.
        backward: `(ctx, *cotangents)` -> one cotangent for the call and for each input; made when it is first asked
            for.
    """

    backward: Run

    def __init__(
        self, program: Program, values: Sequence[Any], wrt: tuple[int, ...], backend: str | None
    ) -> None:
        self.program, self.wrt, self.backend = program, wrt, backend
        self.device = device_of(values)
        self.target = target_of(self.device, backend)
        self.sizes = bind(program.inputs, values)
        self.pair: Pair = program.pair(self.target, wrt, self.sizes)
        self.vjp = program.vjp(wrt)
        self.size = len(program.inputs)
        keeps = self.pair.keeps
        read = [i for kind, i in keeps if kind == "input"]
        self.tensors = tuple(i for i in read if is_torch(values[i]))
        self.outputs = tuple(i for kind, i in keeps if kind == "output")
        self.saved = sum(kind == "saved" for kind, _ in keeps)
        self.others = tuple(
            i for i, v in enumerate(values) if is_torch(v) and i not in self.tensors
        )
        self.numbers = tuple(i for i, v in enumerate(values) if not is_torch(v))
        self.fixed = tuple(k for k, yes in enumerate(self.pair.depends) if not yes)
        found = [(place, i) for i, place in enumerate(self.pair.results) if place is not None]
        self.targets = tuple(i for _, i in sorted(found))
        self.into = tuple(
            [into_host(v, self.target, address=address) for address in (False, True)]
            for v in values
        )
        self.forward = self._forward()
        self.backward = self._first_backward

    def _forward(self) -> Run:
        body = Lines()
        body.names["call"] = self
        inputs = [f"v{i}" for i in range(self.size)]
        outputs = [f"o{k}" for k in range(len(self.program.outputs))]
        saved = [f"s{i}" for i in range(self.saved)]
        host = self.pair.forward
        told = _known(host, self.program, self.sizes, self.size)
        given = [body.convert(c[a], v) for c, a, v in zip(self.into, told.addresses, inputs)]
        body.call(_placed(host, self.device), given, outputs + saved, told.told, small=told.small)
        for name, slot in zip(outputs, self.program.outputs):
            how = out_of_host(slot.dtype, slot.shape, self.target, exports=told.exports)
            if how is not AS_IT_IS:
                body.say(f"{name} = {body.convert(how, name)}")
        if saved and takes(self.target) == "array":
            body.names["wrap"] = taken_over() if told.exports else wrap
            saved = [f"wrap({name})" for name in saved]
        kept = [inputs[i] for i in self.tensors] + [outputs[k] for k in self.outputs] + saved
        body.say("ctx.call = call")
        if kept:
            body.say(f"ctx.save_for_backward({', '.join(kept)})")
        if self.others:
            body.say(f"ctx.others = [{', '.join(inputs[i] for i in self.others)}]")
            versions = ", ".join(f"{inputs[i]}._version" for i in self.others)
            body.say(f"ctx.versions = [{versions}]")
        if self.numbers:
            body.say(f"ctx.numbers = [{', '.join(inputs[i] for i in self.numbers)}]")
        if self.fixed:
            fixed = ", ".join(outputs[k] for k in self.fixed)
            body.say(f"ctx.mark_non_differentiable({fixed})")
        body.say("ctx.set_materialize_grads(False)")
        body.say(f"return ({', '.join(outputs)},)")
        made: Run = function("forward", ", ".join(["ctx", *inputs]), body.lines, body.names)
        return made

    def _first_backward(self, ctx: Any, *cotangents: Any) -> Any:
        """Write the backward, and run it."""
        kept = ctx.saved_tensors if self.saved else ()
        self.backward = self._backward(kept[len(kept) - self.saved :])
        return self.backward(ctx, *cotangents)

    def _backward(self, saved_values: Sequence[Any]) -> Run:
        body = Lines()
        body.names |= {
            "differentiable": partial(_differentiable, self),
            "grad_enabled": loaded_torch().is_grad_enabled,
            "cotangent": self.cotangent,
        }
        cotangents = [f"d{k}" for k in range(len(self.program.outputs))]
        floats = [cotangents[k] for k in self.program.floats]
        nothing = " and ".join(f"{d} is None" for d in floats) or "True"
        body.say(f"if {nothing}:")
        body.say(f"    return {', '.join(['None'] * (1 + self.size))}")
        for k, name in zip(self.program.floats, floats):
            missing = f"{name} is None or " if len(floats) > 1 else ""
            body.say(f"if {missing}not {name}.is_contiguous() or {name}.is_neg():")
            body.say(f"    {name} = cotangent({k}, {name})")
        body.say("if grad_enabled():")
        body.say(f"    return differentiable(ctx, {', '.join(floats)})")
        saved = [f"t{i}" for i in self.tensors] + [f"o{k}" for k in self.outputs]
        saved += [f"s{i}" for i in range(self.saved)]
        if saved:
            body.say(f"({', '.join(saved)},) = ctx.saved_tensors")
        keeps, host = self.pair.keeps, self.pair.backward
        assert host is not None, "an output has a derivative"
        told = _known(host, self.program, self.sizes, len(keeps))
        types = [Slot(dtype_of(v), tuple(v.shape)) for v in saved_values]
        given = [self._argument(body, *keep, a, types) for keep, a in zip(keeps, told.addresses)]
        results = [f"r{j}" for j in range(len(self.targets))]
        body.call(_placed(host, self.device), given, results, told.told, small=told.small)
        grads = ["None"] * (1 + self.size)
        for i, result in zip(self.targets, results):
            slot = self.program.inputs[i]
            how = out_of_host(slot.dtype, slot.shape, self.target, exports=told.exports)
            grads[1 + i] = body.convert(how, result)
        body.say(f"return {', '.join(grads)}")
        made: Run = function("backward", ", ".join(["ctx", *cotangents]), body.lines, body.names)
        return made

    def _argument(
        self, body: Lines, kind: str, i: int, address: bool, saved: Sequence[Slot]
    ) -> str:
        """The expression of an argument of the host's backward; `saved` are the types of the values saved."""
        if kind == "input" and i in self.numbers:
            body.say(f"n{i} = ctx.numbers[{self.numbers.index(i)}]")
            return body.convert(self.into[i][False], f"n{i}")
        if kind == "input":
            return body.convert(self.into[i][address], f"t{i}")
        if kind == "saved":
            slot, variable = saved[i], f"s{i}"
        else:
            k = i if kind == "output" else self.program.floats[i]
            slot, variable = self.program.outputs[k], f"o{k}" if kind == "output" else f"d{k}"
        how = any_into_host(slot.dtype, self._shape(slot), self.target, address=address)
        return body.convert(how, variable)

    def _shape(self, slot: Slot) -> tuple[int, ...]:
        return tuple(evaluate(d, self.sizes) for d in slot.shape)

    def cotangent(self, output: int, given: Any) -> Any:
        """The cotangent of an output, contiguous; zeros if nobody used the output."""
        if given is not None:
            return given.resolve_neg().contiguous()
        slot = self.program.outputs[output]
        dtype = torch_dtype(slot.dtype)
        return loaded_torch().zeros(self._shape(slot), dtype=dtype, device=self.device)


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
            return call.forward(ctx, *values)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            return ctx.call.backward(ctx, *cotangents)

    return Compiled


def _differentiable(call: Call, ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
    """The backward as a function that can be differentiated in its turn."""
    slopes = run(call.vjp, [*_primals(ctx, ctx.saved_tensors), *cotangents], call.backend)
    grads: list[Any] = [None] * (1 + call.size)
    for i, slope in zip(call.wrt, slopes):
        grads[1 + i] = slope if i in call.targets else None
    return tuple(grads)


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


def write_call(
    body: Lines, program: Program, values: Sequence[Any], places: Sequence[str], backend: str | None
) -> list[str]:
    """Lines that run a program on variables that hold tensors and numbers like these, and its results' expressions.

    They are for these sizes, strides, devices and requirements, in this grad mode.
    """
    torch = loaded_torch()
    if torch._C._are_functorch_transforms_active():
        raise UnsupportedOpError(
            "torch.func's transforms do not see into a compiled function",
            line=calling_line(),
            hint="tgc.grad, tgc.vjp and tgc.jvp do; torch.autograd works through it to any order",
        )
    if dual_level()() >= 0:
        body.say(f"{body.bind('refuse', _refuse_duals)}({', '.join(places)})")
    device = device_of(values)
    results = [f"r{j}" for j in range(len(program.outputs))]
    if device is not None and device.type == "meta":
        body.call(partial(_shapes, program), places, results)
        return results
    wrt: tuple[int, ...] = ()
    if torch.is_grad_enabled():
        wrt = tuple(i for i, v in enumerate(values) if is_torch(v) and v.requires_grad)
    if wrt:
        # What `Function.apply` adds to this are torch's functorch transforms, which were refused.
        apply = super(torch.autograd.Function, function_class()).apply
        call = body.bind("call", Call(program, values, wrt, backend))
        body.call(apply, [call, *places], results)
        return results
    target = target_of(device, backend)
    sizes = bind(program.inputs, values)
    host = program.value(target, sizes).run
    told = _known(host, program, sizes, len(values))
    into = [into_host(v, target, address=a) for v, a in zip(values, told.addresses)]
    given = [body.convert(c, place) for c, place in zip(into, places)]
    body.call(_placed(host, device), given, results, told.told, small=told.small)
    out = [
        out_of_host(slot.dtype, slot.shape, target, exports=told.exports)
        for slot in program.outputs
    ]
    for how, result in zip(out, results):
        if how is not AS_IT_IS:  # once, though the function return it in several places
            body.say(f"{result} = {body.convert(how, result)}")
    return results


def _refuse_duals(*values: Any) -> None:
    """Raises UnsupportedOpError for a tensor with a tangent, which would be lost."""
    tangent_of = loaded_torch().autograd.forward_ad.unpack_dual
    if any(is_torch(v) and tangent_of(v).tangent is not None for v in values):
        raise UnsupportedOpError(
            "torch's forward mode does not see into a compiled function",
            line=calling_line(),
            hint="tgc.jvp does",
        )


def _shapes(program: Program, *values: Any) -> tuple[Any, ...]:
    """Results without data, for arguments without data."""
    sizes, empty = bind(program.inputs, values), loaded_torch().empty
    return tuple(
        empty([evaluate(d, sizes) for d in o.shape], dtype=torch_dtype(o.dtype), device="meta")
        for o in program.outputs
    )


def run(program: Program, values: Sequence[Any], backend: str | None) -> tuple[Any, ...]:
    """The outputs of a program on tensors (and numbers), differentiable where the inputs ask for it."""
    types = [
        (v.shape, v.stride(), v.device, v.requires_grad, v.is_neg()) if is_torch(v) else None
        for v in values
    ]
    key = (backend, loaded_torch().is_grad_enabled(), dual_level()(), current(), *types)
    found = program.bound.get(key)
    if found is None:
        body, names = Lines(), [f"v{i}" for i in range(len(values))]
        results = write_call(body, program, values, names, backend)
        body.say(f"return {tuple_text(results)}")
        found = function("step", ", ".join(names), body.lines, body.names)
        if len(program.bound) >= _BOUND_LIMIT:
            program.bound.clear()
        program.bound[key] = found
    result: tuple[Any, ...] = found(*values)
    return result
