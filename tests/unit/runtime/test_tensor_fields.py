"""Tensors read in place by native code: told apart as torch tells them apart, and found where torch says they are."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tgc
from tgc.runtime import arrays, native, tensor_fields
from tgc.runtime.interpreter import TENSOR_WORDS, Tensor

torch = pytest.importorskip("torch")
pytest.importorskip("llvmlite")

WHERE = (
    "define i64 @f(ptr %a, i64 %first, i64 %last) nounwind {\n"
    "  %address = ptrtoint ptr %a to i64\n  ret i64 %address\n}\n"
)


class Sub(torch.Tensor):  # type: ignore[misc, name-defined]
    pass


def of_inference(t: Any) -> Any:
    with torch.inference_mode():
        return t.clone()


SHAPES = [(), (0,), (3,), (2, 3), (4, 1, 2), (2, 1, 3, 1, 2)]
KINDS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda t: t,
    "parameter": lambda t: torch.nn.Parameter(t.clone(), requires_grad=False),
    "view": lambda t: t.view(t.shape),
    "further on": lambda t: torch.stack([t, t])[1],
    "transposed": lambda t: torch.empty_strided(t.shape, t.stride()[::-1]).copy_(t),
    "broadcast": lambda t: t.expand(2, *t.shape),
    "wider": lambda t: t.double(),
    "as bits": lambda t: t.view(torch.int32),
    "bool": lambda t: t.bool(),
    "requires grad": lambda t: t.clone().requires_grad_(),
    "with a graph": lambda t: t.clone().requires_grad_() * 2,
    "trained": lambda t: torch.nn.Parameter(t.clone()),
    "subclass": lambda t: t.as_subclass(Sub),
    "negated": torch._neg_view,
    "inference": of_inference,
    "lazily copied": torch._lazy_clone,
    "array": lambda t: t.numpy(),
    "none": lambda t: None,
}
NO_MEMORY: dict[str, Callable[[Any], Any]] = {
    "sparse": lambda t: t.to_sparse(),
    "functional": torch._to_functional_tensor,
    "batched": lambda t: torch._C._functorch._add_batch_dim(t, 0, 1),
}
ALL = {
    (name, shape): make(torch.zeros(shape))
    for shape in SHAPES
    for name, make in KINDS.items()
    if (name, shape) != ("further on", ())
}


@pytest.fixture(scope="module")
def where() -> Any:
    """A kernel that returns the address it is given."""
    tgc.jit(lambda x: x + 1, backend="native")(np.zeros(3))
    assert tensor_fields.readable() and arrays.attached()
    kernel = native.Module(WHERE)["f"]
    return lambda thing: kernel(thing, 1, 1, 0)


def plain(t: Any) -> bool:
    """What is compared in place, as torch says it."""
    return (
        type(t) in (torch.Tensor, torch.nn.Parameter)
        and t.layout is torch.strided
        and t.device.type == "cpu"
        and not (t.requires_grad or t._is_view() or t.is_neg() or t.is_inference())
    )


def test_tensors_are_told_apart_as_torch_does(where: Any) -> None:
    other = np.ones((2, 2))
    found = []
    for one in ALL.values():
        if not isinstance(one, torch.Tensor):
            continue
        assert tensor_fields.plain(one) == plain(one)
        if not plain(one):
            continue
        check = arrays.alike([other, one])
        assert check is not None and check(other, one)
        for name, two in ALL.items():
            same = type(one) is type(two) and plain(two)
            same = same and (one.dtype, one.shape) == (two.dtype, two.shape)
            same = same and one.stride() == two.stride()
            assert check(other, two) is same, (name, one)
            found.append(same)
    assert len(found) > 1000 and sum(found) > 50


@pytest.mark.parametrize("name", NO_MEMORY)
def test_what_has_no_memory_is_no_plain_tensor(name: str, where: Any) -> None:
    base = torch.ones(2, 2)
    check, other = arrays.alike([base]), NO_MEMORY[name](base)
    assert check is not None and not check(other) and not tensor_fields.plain(other)
    if name == "functional":  # torch itself says null
        assert where(other) == other.data_ptr() == 0
        return
    with pytest.raises(RuntimeError):
        where(other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its scripts
def test_what_has_a_tangent_is_no_plain_tensor(where: Any) -> None:
    forward_ad = torch.autograd.forward_ad
    base = torch.ones(3)
    check = arrays.alike([base])
    assert check is not None and check(torch.zeros(3))
    with forward_ad.dual_level():
        for dual in (forward_ad.make_dual(base, base), forward_ad.make_dual(base, base) * 2):
            assert not check(dual) and not tensor_fields.plain(dual)
            assert where(dual) == dual.data_ptr()
        assert check(torch.zeros(3))


def test_more_dimensions_than_are_kept_inside() -> None:
    many = torch.zeros((1,) * 6)
    assert not tensor_fields.plain(many) and tensor_fields.plain(many[0].clone())
    f = tgc.jit(lambda x: x + 1, backend="native")
    assert f(many).shape == f(many).shape == many.shape


def test_kernels_find_the_memory_of_tensors(where: Any) -> None:
    for name, value in ALL.items():
        if isinstance(value, torch.Tensor) and name[0] != "negated":
            assert where(value) == value.data_ptr(), name


def test_an_offset_is_seen(where: Any) -> None:
    base = torch.arange(6, dtype=torch.int16)
    assert where(base[2:]) == where(base) + 4 == base.data_ptr() + 4
    base.set_(base.untyped_storage(), 3, (3,))
    assert where(base) == base.data_ptr()


def test_memory_that_torch_replaces_is_followed(where: Any) -> None:
    x = torch.zeros(3)
    check = arrays.alike([x])
    assert check is not None and where(x) == x.data_ptr() and check(x)
    x.data = torch.ones(3)
    assert where(x) == x.data_ptr() and check(x)
    x.resize_(3000)
    assert where(x) == x.data_ptr() and not check(x)


def test_nothing_is_held_or_lost(where: Any) -> None:
    x = torch.zeros(3)
    watched = [x, x.dtype, torch.Tensor, x[1:], "data_ptr"]
    check = arrays.alike([x])
    assert check is not None

    def counts() -> list[int]:
        gc.collect()
        return [sys.getrefcount(w) for w in watched]

    before = counts()
    for _ in range(1000):
        assert check(x) and not check(watched[3]) and where(x) and where(watched[3])
    assert [abs(a - b) < 100 for a, b in zip(counts(), before)] == [True] * len(watched)


FOLLOWED = (Tensor.BODY, Tensor.STORAGE, Tensor.DATA)


@pytest.mark.parametrize("word", [w for w in Tensor if w not in FOLLOWED])
def test_what_is_elsewhere_is_noticed(word: Tensor) -> None:
    """A field that is not where it was found, and nothing is read."""
    found = tensor_fields._found()
    assert found is not None and tensor_fields._holds(found)
    assert list(TENSOR_WORDS) == [found[word] for word in Tensor]
    assert not tensor_fields._holds(found | {word: found[word] + 8})


def test_without_the_fields_torch_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ValueError("not found")

    words = list(TENSOR_WORDS)
    monkeypatch.setattr(tensor_fields, "_found", broken)
    tensor_fields.readable.cache_clear()
    try:
        TENSOR_WORDS[:] = [0] * len(words)
        assert not tensor_fields.readable() and not tensor_fields.plain(torch.zeros(3))
        f = tgc.jit(lambda x, y: x * y + 1, backend="native")
        for k in range(3):
            x = torch.full((5,), float(k), requires_grad=k == 2)
            torch.testing.assert_close(f(x, x), x * x + 1)
        f(x, x).sum().backward()
        torch.testing.assert_close(x.grad, 2 * x.detach())
        with pytest.raises(TypeError, match="expected an array"):
            native.Module(WHERE)["f"](x, 1, 1, 0)
    finally:
        TENSOR_WORDS[:] = words
        tensor_fields.readable.cache_clear()


def test_a_lazy_copy_is_made_before_it_is_written_to() -> None:
    f = tgc.jit(lambda x: x + 1, donate_argnames=("x",), backend="native")
    base = torch.zeros(5)
    for _ in range(3):
        copy = torch._lazy_clone(base)
        f(copy)
        assert copy.tolist() == [1.0] * 5 and base.tolist() == [0.0] * 5
