"""Pytrees: nested tuples, lists, dicts, namedtuples, dataclasses and None, taken apart into leaves and put together.

Arguments and results of compiled functions are trees. A flat tuple of arrays, which most calls pass, costs one pass
over it and a cached definition.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TreeDef:
    """The structure of a tree, hashable.

    Attributes:
        kind: "leaf", "none", "const", "tuple", "list", "dict", "namedtuple" or "dataclass".
        container: the class to build, for the last three.
        keys: dict keys or field names, in order.
        children: one definition per element.
        leaves: how many leaves the tree has.
        value: of a "const": an object that belongs to the structure and is no leaf.
    """

    kind: str
    container: type | None = None
    keys: tuple[Any, ...] = ()
    children: tuple[TreeDef, ...] = ()
    leaves: int = 0
    value: Any = None

    def __str__(self) -> str:
        if not self.children:
            return {"leaf": "*", "const": repr(self.value)}.get(self.kind, self.kind)
        names = self.keys or range(len(self.children))
        return f"{self.kind}({', '.join(f'{k}: {c}' for k, c in zip(names, self.children))})"


LEAF = TreeDef("leaf", leaves=1)
NONE = TreeDef("none")
_FLAT: dict[int, TreeDef] = {}
_BRANCHES = (tuple, list, dict, OrderedDict, type(None))


def flat(count: int) -> TreeDef:
    """The definition of a tuple of `count` leaves."""
    found = _FLAT.get(count)
    if found is None:
        found = _FLAT[count] = TreeDef("tuple", children=(LEAF,) * count, leaves=count)
    return found


def constant(value: object) -> TreeDef:
    """A part of the structure that is no leaf and is given back as it is."""
    return TreeDef("const", value=value)


def is_branch(value: object) -> bool:
    """Whether a value is taken apart rather than being a leaf."""
    kind = type(value)
    if kind in _BRANCHES:
        return True
    if isinstance(value, tuple):
        return hasattr(kind, "_fields") and hasattr(kind, "_make")
    return dataclasses.is_dataclass(kind) and not getattr(kind, "__tree_leaf__", False)


def flatten(tree: object) -> tuple[list[Any], TreeDef]:
    """The leaves of `tree`, from left to right, and its structure."""
    if type(tree) is tuple and not any(is_branch(item) for item in tree):
        return list(tree), flat(len(tree))
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves)


def _flatten(tree: object, leaves: list[Any]) -> TreeDef:
    if tree is None:
        return NONE
    if not is_branch(tree):
        leaves.append(tree)
        return LEAF
    kind, container, keys, items = _open(tree)
    children = tuple(_flatten(item, leaves) for item in items)
    return TreeDef(kind, container, keys, children, sum(c.leaves for c in children))


def _open(tree: Any) -> tuple[str, type | None, tuple[Any, ...], Iterable[Any]]:
    container = type(tree)
    if container is tuple or container is list:
        return container.__name__, None, (), tree
    if isinstance(tree, dict):
        return "dict", container, tuple(tree), tree.values()
    if isinstance(tree, tuple):
        return "namedtuple", container, tuple(container._fields), tree
    names = tuple(f.name for f in dataclasses.fields(tree) if f.init)
    return "dataclass", container, names, [getattr(tree, name) for name in names]


def unflatten(definition: TreeDef, leaves: Iterable[Any]) -> Any:
    """The tree of `definition` with the given leaves.

    Raises:
        ValueError: there are too few or too many leaves.
    """
    rest = iter(leaves)
    tree = _build(definition, rest)
    for _ in rest:
        raise ValueError(f"more than {definition.leaves} leaves for {definition}")
    return tree


def _build(definition: TreeDef, rest: Iterator[Any]) -> Any:
    if definition.kind == "leaf":
        try:
            return next(rest)
        except StopIteration:
            raise ValueError(f"too few leaves for a tree of {definition.leaves}") from None
    if definition.kind in ("none", "const"):
        return definition.value
    items = [_build(child, rest) for child in definition.children]
    container = definition.container
    if container is None:
        return tuple(items) if definition.kind == "tuple" else items
    if definition.kind == "dict":
        return container(zip(definition.keys, items))
    if definition.kind == "namedtuple":
        return container._make(items)  # type: ignore[attr-defined]
    return container(**dict(zip(definition.keys, items)))


def with_parts(definition: TreeDef, parts: Iterable[TreeDef]) -> TreeDef:
    """The structure with its leaves replaced, in order, by other structures."""
    return _with(definition, iter(parts))


def _with(definition: TreeDef, parts: Iterator[TreeDef]) -> TreeDef:
    if definition.kind == "leaf":
        return next(parts)
    if not definition.children:
        return definition
    children = tuple(_with(child, parts) for child in definition.children)
    count = sum(c.leaves for c in children)
    if definition.kind == "tuple" and count == len(children) and children == (LEAF,) * count:
        return flat(count)
    return dataclasses.replace(definition, children=children, leaves=count)


def paths(definition: TreeDef, prefix: str = "") -> list[str]:
    """A name for each leaf: the keys and positions that lead to it, joined by underscores."""
    if definition.kind == "leaf":
        return [prefix]
    names = definition.keys or tuple(range(len(definition.children)))
    join = f"{prefix}_" if prefix else ""
    return [p for k, child in zip(names, definition.children) for p in paths(child, f"{join}{k}")]
