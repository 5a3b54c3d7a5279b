"""Trees: taken apart and put together again, they are what they were."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from tgc import trees

Point = namedtuple("Point", ["x", "y"])


@dataclass
class Config:
    rate: Any
    shape: Any


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(children),
        st.lists(children).map(tuple),
        st.dictionaries(st.text(max_size=3), children),
        st.tuples(children, children).map(lambda t: Point(*t)),
        st.tuples(children, children).map(lambda t: Config(*t)),
    )


TREES = st.recursive(st.one_of(st.integers(), st.none(), st.text(max_size=2)), containers)


@hypothesis.given(TREES)
def test_round_trip(tree: Any) -> None:
    leaves, definition = trees.flatten(tree)
    assert definition.leaves == len(leaves) == len(trees.paths(definition, "x"))
    assert trees.unflatten(definition, leaves) == tree
    again, same = trees.flatten(trees.unflatten(definition, leaves))
    assert (again, same) == (leaves, definition)
    assert hash(same) == hash(definition)


@hypothesis.given(TREES)
def test_leaves_may_become_constants(tree: Any) -> None:
    leaves, definition = trees.flatten(tree)
    fixed = trees.with_parts(definition, [trees.constant(leaf) for leaf in leaves])
    assert fixed.leaves == 0
    assert trees.unflatten(fixed, []) == tree
    assert trees.with_parts(definition, [trees.LEAF] * len(leaves)) == definition


def test_structure_distinguishes() -> None:
    kinds = [
        (1, 2),
        [1, 2],
        {"a": 1, "b": 2},
        {"b": 1, "a": 2},
        Point(1, 2),
        Config(1, 2),
        (1, None, 2),
        ((1, 2),),
    ]
    kinds.append(OrderedDict(a=1, b=2))
    assert len({trees.flatten(k)[1] for k in kinds}) == len(kinds)


def test_flat_tuples_share_one_definition() -> None:
    assert trees.flatten((1, 2))[1] is trees.flatten((3, "a"))[1]
    assert trees.flatten(((1, 2),))[1].children[0] == trees.flat(2)


def test_paths_are_names() -> None:
    tree = {"w": [1, 2], "p": Point(3, {"q": 4})}
    _, definition = trees.flatten(tree)
    assert trees.paths(definition, "x") == ["x_w_0", "x_w_1", "x_p_x", "x_p_y_q"]


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_leaves_must_fit(count: int) -> None:
    definition = trees.flatten((1, 2))[1]
    with pytest.raises(ValueError, match="leaves"):
        trees.unflatten(definition, range(count))


def test_definitions_print() -> None:
    assert str(trees.flatten({"a": (1, None)})[1]) == "dict(a: tuple(0: *, 1: none))"
