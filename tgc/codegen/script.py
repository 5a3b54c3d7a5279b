"""The part of an emitted module that runs when the file is run: each host function once, on random arguments.

It is the same for every backend but for how an array is made, so it stands beside the backends rather than in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tgc.codegen.naming import identifier, size_text
from tgc.ir.dtypes import DType
from tgc.ir.sizes import symbols
from tgc.kernel.ir import Buffer, Plan

DEVICE = 'torch.device("cuda")'


def script(plans: Sequence[Plan], sizes: Mapping[str, int], backend: str) -> str:
    """An `if __name__ == "__main__":` block for a module of `plans`, at example `sizes`.

    What one function returns is passed on to the next by name: a backward gets what its forward saved.
    """
    used = sorted({s for plan in plans for b in _inputs(plan) for d in b.shape for s in symbols(d)})
    lines = [f"{identifier(name)} = {sizes[name]}" for name in used]
    if backend != "triton":
        lines.append("random = np.random.default_rng(0)")
    else:
        lines.append("random = torch.Generator().manual_seed(0)")
    known: set[str] = set()
    for plan in plans:
        for buffer in _inputs(plan):
            if buffer.name not in known:
                lines.append(f"{identifier(buffer.name)} = {_sample(buffer, backend, used)}")
        known |= set(plan.inputs) | set(plan.outputs)
        names = [identifier(name) for name in plan.outputs]
        arguments = ", ".join(identifier(name) for name in plan.inputs)
        lines.append(
            f"{', '.join(names)}{',' if len(names) == 1 else ''} = {plan.name}({arguments})"
        )
        for name in dict.fromkeys(names):
            lines.append(
                f'print("{plan.name}:", "{name}", {name}.dtype, tuple({name}.shape), {_mean(name, backend)})'
            )
    return "\n".join(["", "", 'if __name__ == "__main__":', *(f"    {line}" for line in lines), ""])


def _inputs(plan: Plan) -> list[Buffer]:
    return [plan.buffer(name) for name in plan.inputs]


def _mean(name: str, backend: str) -> str:
    return f"{name}.mean()" if backend != "triton" else f"{name}.double().mean().item()"


def _sample(buffer: Buffer, backend: str, used: Sequence[str]) -> str:
    """Normal floats; integers below every size, so that they can serve as labels."""
    if buffer.role == "scalar":
        return "0.5"
    shape = ", ".join(size_text(d) for d in buffer.shape)
    shape = f"({shape},)" if len(buffer.shape) == 1 else f"({shape})"
    below = (
        f"min({', '.join(map(identifier, used))})"
        if len(used) > 1
        else (identifier(used[0]) if used else "2")
    )
    if buffer.dtype.kind == "bool":
        below = "2"
    if backend != "triton":
        text = (
            f"random.standard_normal({shape})"
            if buffer.dtype.is_float
            else f"random.integers(0, {below}, {shape})"
        )
        return f"{text}.astype({_numpy_type(buffer.dtype)})"
    if buffer.dtype.is_float:
        return f"torch.randn({shape}, generator=random).to({DEVICE}, torch.{buffer.dtype.name})"
    return f"torch.randint(0, {below}, {shape}, generator=random).to({DEVICE}, torch.{buffer.dtype.name})"


def _numpy_type(dtype: DType) -> str:
    return (
        "bfloat16"
        if dtype.name == "bfloat16"
        else f"np.{dtype.name if dtype.kind != 'bool' else 'bool_'}"
    )
