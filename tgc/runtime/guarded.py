"""Guarded calls: whether a call is of the type another was prepared for, asked as cheaply as can be.

Most calls are like the one before. For each prepared call a function is written that takes its arguments apart,
compares the types of the leaves one by one with those it was made for, and runs; it stops at the first difference.
A dispatcher keeps the last few of them and tries them before it makes a key. Such a guard may refuse a call that the
key would have found, never the other way round: everything in the key is asked here, or by identity where the key
has equality.

What is asked, in this order: the structure of the arguments; the settings in force, which are others while something
is traced, and torch's modes; each leaf; last what the function sees besides (see `watch.py`).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tgc.runtime.arrays import alike
from tgc.runtime.captures import Get
from tgc.runtime.steps import Lines, function, leaf_names, tuple_text
from tgc.runtime.tensor_fields import plain
from tgc.runtime.tensors import dual_level, torch_mode
from tgc.runtime.watch import Watch
from tgc.settings import override
from tgc.trace.abstract import is_torch
from tgc.trees import TreeDef

Guarded = Callable[[tuple[Any, ...], dict[str, Any]], Any]
State = tuple[Callable[[], Any], Any]
"""A function, and the very object that it returned."""
MISS = object()


@dataclass(frozen=True)
class Prepared:
    """A call that was prepared, as its guard needs it.

    Attributes:
        args, kwargs: the structures of the arguments.
        leaves: the leaves of both, then the captured arrays.
        static: which leaves belong to arguments that are given by value.
        captured: how each captured array is read; None for one that another trace captured.
        watch: what the function saw besides.
        run: the body of the runner, over the variables of the leaves.
        gone: is called when an object among the arguments is no more.
    """

    args: TreeDef
    kwargs: TreeDef | None
    leaves: Sequence[Any]
    static: frozenset[int]
    captured: Sequence[Get | None]
    watch: Watch
    run: Lines
    gone: Callable[[Any], None]


def guarded(call: Prepared) -> Guarded | None:
    """The guarded call; None if it holds something that cannot be compared cheaply."""
    body = Lines()
    body.names |= call.run.names  # first: later names are numbered from there
    body.names["miss"] = MISS
    state: list[State] = [(override, override())]
    if any(is_torch(leaf) for leaf in call.leaves):
        state += _torch_mode()
    names = leaf_names(len(call.leaves))
    _open(body, "args", call.args, 0, [] if call.kwargs else ["not kwargs"])
    if call.kwargs:
        _open(body, "kwargs", call.kwargs, call.args.leaves, [])
    given = len(names) - len(call.captured)
    try:
        _leaves(body, names[:given], call.leaves[:given], call, state)
        same = call.watch.check()
        if same is not None:
            body.names["same"] = same
            _refuse(body, ["same()"])
        taken = [(names[given + k], get) for k, get in enumerate(call.captured) if get is not None]
        for name, get in taken:
            body.say(f"{name} = {body.bind('read', get)}()")
        _leaves(body, [n for n, _ in taken], [call.leaves[int(n[1:])] for n, _ in taken], call, [])
    except _Unguarded:
        return None
    body.lines += call.run.lines
    made: Guarded = function("call", "args, kwargs", body.lines, body.names)
    return made


def _refuse(body: Lines, tests: Sequence[str]) -> None:
    """Lines that leave unless all tests hold."""
    if tests:
        body.say(f"if not ({' and '.join(tests)}):")
        body.say("    return miss")


# --- structure ------------------------------------------------------------------------------------


def _open(body: Lines, value: str, definition: TreeDef, leaf: int, tests: Sequence[str]) -> None:
    """Lines that take a value apart into variables for its leaves, which are numbered from `leaf`."""
    kind, children = definition.kind, []
    for k, child in enumerate(definition.children):
        children.append((child, f"x{leaf}" if child.kind == "leaf" else f"{value}_{k}", leaf))
        leaf += child.leaves
    if value not in ("args", "kwargs"):
        tests = [*tests, _is_a(body, value, definition)]
    if kind in ("tuple", "list"):
        tests = [*tests, f"len({value}) == {len(children)}"]
    elif kind == "dict":
        tests = [*tests, f"tuple({value}) == {body.bind('keys', definition.keys)}"]
    _refuse(body, tests)
    names = [name for _, name, _ in children]
    if kind == "dataclass":
        for field, name in zip(definition.keys, names):
            body.say(f"{name} = {value}.{field}")
    elif names:
        items = f"{value}.values()" if kind == "dict" else value
        body.say(f"{tuple_text(names)} = {items}")
    for child, name, first in children:
        if child.kind != "leaf":
            _open(body, name, child, first, [])


def _is_a(body: Lines, value: str, definition: TreeDef) -> str:
    """The test of a value's own kind."""
    if definition.kind == "none":
        return f"{value} is None"
    if definition.container is not None:
        return f"{value}.__class__ is {body.bind('container', definition.container)}"
    return f"{value}.__class__ is {definition.kind}"


# --- leaves ---------------------------------------------------------------------------------------


class _Unguarded(Exception):
    """A leaf that cannot be compared cheaply."""


def _leaves(
    body: Lines,
    names: Sequence[str],
    leaves: Sequence[Any],
    call: Prepared,
    state: Sequence[State],
) -> None:
    """Lines that compare the state of things, then leaves, with those the call was prepared for."""
    tests: list[str] = []
    tensors, arrays = [], []
    for name, leaf in zip(names, leaves):
        static = int(name[1:]) in call.static
        if is_torch(leaf) and not static:
            tensors.append((name, leaf))
        elif isinstance(leaf, np.ndarray) and not static:
            arrays.append((name, leaf))
        else:
            tests += _plain(body, name, leaf, call, static)
    forward_mode = [(level, level()) for level in [dual_level()]] if tensors else []
    slowly = [*_arrays(body, arrays, [*state, *forward_mode]), *_tensors(body, tensors)]
    quickly = _natively(body, [*arrays, *tensors], state) if tensors else None
    if quickly is not None:  # it refuses tensors with a history, and with it those with tangents
        slowly = [f"({quickly} or {' and '.join(slowly)})"]
    _refuse(body, [*slowly, *tests])


def _natively(body: Lines, named: Sequence[tuple[str, Any]], state: Sequence[State]) -> str | None:
    """The test of the state and of arrays and tensors, if native code knows all of them."""
    values = [value for _, value in named]
    if not all(type(value) is np.ndarray or (is_torch(value) and plain(value)) for value in values):
        return None
    check = alike(values, state)
    if check is None:
        return None
    return f"{body.bind('alike', check)}({', '.join(name for name, _ in named)})"


def _arrays(body: Lines, arrays: Sequence[tuple[str, Any]], state: Sequence[State]) -> list[str]:
    """The tests of the state and of arrays: all at once where there is native code for it, else one by one."""
    exact = [(name, value) for name, value in arrays if type(value) is np.ndarray]
    check = alike([value for _, value in exact], state) if exact or state else None
    if check is None:
        exact = []
        tests = [f"{body.bind('now', now)}() is {body.bind('then', then)}" for now, then in state]
    else:
        tests = [f"{body.bind('alike', check)}({', '.join(name for name, _ in exact)})"]
    done = {name for name, _ in exact}
    for name, value in arrays:
        if name not in done:
            # Along one axis the shape is the size, of which numpy makes no tuple; the strides tell how many axes.
            shape = "size ==" if value.ndim == 1 else "shape =="
            tests += _equal(body, name, value, ("dtype is", shape, "strides =="))
    return tests


def _equal(body: Lines, name: str, leaf: Any, attributes: Sequence[str]) -> list[str]:
    """The tests that a leaf has the class of another, and its attributes."""
    tests = [f"{name}.__class__ is {body.bind('kind', leaf.__class__)}"]
    for attribute in attributes:
        short = attribute.split()[0]
        tests.append(f"{name}.{attribute} {body.bind(short, getattr(leaf, short))}")
    return tests


def _plain(body: Lines, name: str, leaf: Any, call: Prepared, static: bool) -> list[str]:
    """The tests of a leaf that is no array: numbers by type, other values by value, objects by identity."""
    kind = leaf.__class__
    if kind in (float, int) and not static:
        return [f"{name}.__class__ is {kind.__name__}"]
    if isinstance(leaf, np.generic) and not static:
        return _equal(body, name, leaf, ("dtype is",))
    if leaf is None or kind is bool:
        return [f"{name} is {leaf}"]
    if kind in (int, str, bytes):
        return [f"{name}.__class__ is {kind.__name__}", f"{name} == {body.bind('was', leaf)}"]
    if kind is float:
        return [f"{name}.__class__ is float", f"{name}.hex() == {body.bind('was', leaf.hex())}"]
    try:
        reference = weakref.ref(leaf, call.gone)
    except TypeError:
        raise _Unguarded from None
    tests = [f"{name} is {body.bind('object', reference)}()"]
    mode = getattr(leaf, "training", None)  # of a torch module
    return tests if mode is None else [*tests, f"{name}.training == {body.bind('mode', mode)}"]


# --- torch ----------------------------------------------------------------------------------------


def _torch_mode() -> list[State]:
    """torch's global state."""
    torch = sys.modules["torch"]
    any_autocast = getattr(torch._C, "_is_any_autocast_enabled", None)
    if any_autocast is None or any_autocast():
        mode = torch_mode()
        return [(lambda: torch_mode() == mode, True)]
    now = [torch.is_grad_enabled, torch.get_default_dtype, any_autocast]
    if functorch := getattr(torch._C, "_are_functorch_transforms_active", None):
        now.append(functorch)
    return [(function, function()) for function in now]


def _tensors(body: Lines, tensors: Sequence[tuple[str, Any]]) -> list[str]:
    """The tests of tensors: all at once where torch has a function for it, else one attribute after the other."""
    if not tensors:
        return []
    names, values = [name for name, _ in tensors], [value for _, value in tensors]
    check = _check_of(values)
    if check is not None:
        return [f"{body.bind('alike', check)}({', '.join(names)})"]
    keys = getattr(sys.modules["torch"]._C, "_dispatch_keys", None)
    if keys is None:
        raise _Unguarded
    found = []
    for name, value in tensors:
        found += _equal(
            body, name, value, ("dtype is", "shape ==", "device ==", "requires_grad is")
        )
        found.append(f"{name}.stride() == {body.bind('strides', value.stride())}")
        found.append(f"{body.bind('keys_of', keys)}({name}) == {body.bind('keys', keys(value))}")
    return found


def _check_of(values: Sequence[Any]) -> Callable[..., bool] | None:
    """torch's own comparison of tensors by class, dispatch keys, dtype, device, sizes, strides and requires_grad.

    It refuses one tensor in two places, and there is none if the values are such.
    """
    make = _tensor_guards()
    found: Callable[..., bool] | None = make(values) if make is not None else None
    return found if found is not None and found(*values) else None


@lru_cache(maxsize=1)
def _tensor_guards() -> Callable[[Sequence[Any]], Callable[..., bool]] | None:
    """How to make such a comparison, if this torch has it and it sees what it should. It is no public interface."""
    torch = sys.modules["torch"]

    def make(values: Sequence[Any]) -> Callable[..., bool]:
        check: Callable[..., bool] = guards.TensorGuards(
            *values,
            dynamic_dims_sizes=[list(v.shape) for v in values],
            dynamic_dims_strides=[list(v.stride()) for v in values],
        ).check
        return check

    try:
        guards = torch._C._dynamo.guards
        one = torch.zeros((2, 2))
        same = make([one])
        others = (
            torch.zeros((2, 3)),
            torch.zeros((2, 2, 1)),
            torch.zeros((2, 4))[:, :2],
            one.double(),
            one.to("meta"),
            one.clone().requires_grad_(),
            torch.nn.Parameter(one, requires_grad=False),
            torch._neg_view(one),
            one.to_sparse(),
        )
        sound = same(one) and same(torch.ones((2, 2))) and not any(map(same, others))
    except (AttributeError, TypeError, SystemError, RuntimeError):
        return None
    return make if sound else None
