"""Memory that torch takes over from native code: tensors like any other, whose blocks come back in the end."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tgc
from tgc.runtime import arrays, blocks, memory, tensors

pytest.importorskip("llvmlite")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("small_heap")

N = memory.LEAST  # elements of float32: four times what is recycled
IDLE = blocks.STATE.index("idle")


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    tgc.jit(lambda x: x + 1, backend="native")(np.zeros(3))
    gc.collect()
    arrays.release()
    assert arrays.pool()[IDLE] == 0
    yield
    gc.collect()


def export(shape: Any, dtype: Any = np.float32) -> Any:
    make = tensors.exporter()
    assert make is not None
    return make(shape, dtype)


def tensor(shape: Any, dtype: Any = np.float32) -> Any:
    return tensors.taken_over()(export(shape, dtype))


def is_taken_again(where: int) -> bool:
    return where in [t.data_ptr() for t in [tensor(N) for _ in range(3)]]


DTYPES = [
    *(np.float32, np.float64, np.float16, np.bool_),
    *(np.int8, np.uint8, np.int16, np.int32, np.int64),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), 5, (0, 3), (2, 1, 3), (2, 3, 1, 5), (1, 2, 1, 3, 1), (3, N)])
def test_a_tensor_is_as_from_numpy(shape: Any, dtype: Any) -> None:
    ours, theirs = tensor(shape, dtype), torch.from_numpy(np.empty(shape, dtype))
    assert (ours.shape, ours.dtype, ours.device) == (theirs.shape, theirs.dtype, theirs.device)
    assert (ours.is_contiguous(), ours.requires_grad) == (True, False)
    assert ours.storage_offset() == 0 and ours._version == 0
    assert torch._C._dispatch_keys(ours) == torch._C._dispatch_keys(theirs)
    assert ours.untyped_storage().nbytes() == theirs.untyped_storage().nbytes()
    assert ours.data_ptr() % 64 == 0 or ours.ndim > 4
    ours.fill_(1)
    assert (ours.numpy() == np.ones(shape, dtype)).all()


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "view": lambda t: t[5:9],
    "chain": lambda t: t[1:].reshape(-1, 1).T[:, ::2][None].detach(),
    "numpy": lambda t: t.numpy(),
    "view of numpy": lambda t: t.numpy()[3:].view(np.int8),
    "memoryview": lambda t: memoryview(t.numpy())[2:],
    "storage": lambda t: t.untyped_storage(),
    "dlpack": lambda t: np.from_dlpack(t),
    "another tensor's capsule": lambda t: t.__dlpack__(),
    "set": lambda t: torch.empty(0).set_(t),
    "autograd": lambda t: (torch.ones(N, requires_grad=True) * t).grad_fn,
    "parameter": lambda t: torch.nn.Parameter(t),
    "container": lambda t: {"x": [t]},
}


@pytest.mark.parametrize("name", HOLDERS)
def test_memory_that_something_refers_to_stays(name: str) -> None:
    made = tensor(N)
    made.fill_(3)
    where = made.data_ptr()
    holder = HOLDERS[name](made)
    del made
    gc.collect()
    assert not is_taken_again(where)
    del holder
    gc.collect()
    assert is_taken_again(where)


def test_what_nobody_takes_over_comes_back() -> None:
    capsule = export(N)
    assert arrays.pool()[IDLE] == 0
    del capsule
    assert arrays.pool()[IDLE] == 4 * N
    capsule = export(N)
    made = tensors.taken_over()(capsule)
    del capsule
    assert arrays.pool()[IDLE] == 0
    with pytest.raises(RuntimeError):
        torch.add(made, torch.ones(3), out=made)
    del made
    assert arrays.pool()[IDLE] == 4 * N


def test_a_kernel_refuses_what_was_taken_over() -> None:
    module = tgc.runtime.native.Module(
        "define void @f(ptr noalias %a, i64 %first, i64 %last) nounwind {\n"
        "  store float 1.5, ptr %a\n  ret void\n}\n"
    )
    capsule = export(3)
    module["f"](capsule, 1, 1, 0)
    made = tensors.taken_over()(capsule)
    assert made[0] == 1.5
    with pytest.raises(ValueError, match="PyCapsule"):
        module["f"](capsule, 1, 1, 0)
    with pytest.raises(TypeError, match="expected an array"):
        module["f"](object(), 1, 1, 0)


@pytest.mark.parametrize("shape", [-1, (2, -3), 1 << 60, (1 << 62) - 1, (1 << 40, 1 << 40)])
def test_impossible_shapes_are_errors(shape: Any) -> None:
    with pytest.raises((ValueError, MemoryError, OSError, OverflowError)):
        export(shape)


def test_capsules_leave_nothing_behind() -> None:
    watched = [np.dtype(np.float32), np.float32, True]
    before = [sys.getrefcount(x) for x in watched]
    for _ in range(1000):
        tensor(3)
        tensor((2, N))
        export(N)
    assert [abs(sys.getrefcount(x) - b) < 100 for x, b in zip(watched, before)] == [True] * 3
    assert arrays.pool()[IDLE] <= 3 * 4 * 2 * N


def test_results_and_gradients_are_blocks_that_come_back() -> None:
    @tgc.jit(backend="native")
    def f(x: Any, y: Any) -> Any:
        return (x * y).sin(), x.sum()

    x, y = (torch.randn(N, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for _ in range(3):
        product, total = f(x, y)
        torch.testing.assert_close(product, (x * y).sin())
        torch.testing.assert_close(total, x.sum())
        (product.sum() + total).backward()
        torch.testing.assert_close(x.grad, (x * y).cos().detach() * y + 1)
        assert product.data_ptr() % 64 == x.grad.data_ptr() % 64 == 0
        x.grad = y.grad = None
        del product, total
    gc.collect()
    assert arrays.pool()[IDLE] >= 3 * 8 * N
    assert len({f(x, y)[0].data_ptr() for _ in range(5)}) == 1


def test_threads_end_tensors_of_others() -> None:
    """Tensors die in threads that did not make them, some in torch's own, without the interpreter lock."""
    wrong: list[str] = []
    mailbox: list[Any] = []

    def run(tag: int) -> None:
        rng = np.random.default_rng(tag)
        held: list[tuple[Any, float]] = []
        for turn in range(80):
            value = float(tag * 1000 + turn)
            weight = torch.ones((), requires_grad=True)
            made = tensor(N + int(rng.integers(3)))
            made.fill_(value)
            loss = (weight * made[::1000]).mean()
            held.append((made[:: int(rng.integers(1, 4))], value))
            del made
            loss.backward()
            if abs(float(weight.grad) - value) > 1e-3 * value:
                wrong.append(f"{tag}: {weight.grad}")
            if len(held) > 3:
                gone, known = held.pop(int(rng.integers(len(held))))
                if not (gone == known).all():
                    wrong.append(f"{tag}: {gone[0]} for {known}")
                mailbox.append(gone)
                if len(mailbox) > 5:
                    del mailbox[:3]

    threads = [threading.Thread(target=run, args=(k,)) for k in range(1, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    mailbox.clear()
    assert not wrong


def test_without_torchs_function_arrays_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it spoil what comes later: tensors may come before any native code."""
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "empty_for_torch", lambda: None)
        assert tensors.exporter() is None
        x = torch.randn(7, requires_grad=True)
        result = tgc.jit(lambda x: x * x, backend="native")(x)
        result.sum().backward()
        torch.testing.assert_close(x.grad, 2 * x.detach())
    assert tensors.exporter() is not None
