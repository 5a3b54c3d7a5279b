"""Blocks of settings."""

from __future__ import annotations

import gc
from contextvars import copy_context

import pytest

import tgc
from tgc.settings import current


def entered() -> tuple[int | None, int | None]:
    tgc.settings(threads=3).__enter__()
    gc.collect()
    return current().threads, tgc.settings(debug=0).__enter__().threads


def test_a_block_lasts_although_nobody_holds_it() -> None:
    before = current()
    assert copy_context().run(entered) == (3, 3)
    assert current() is before


def test_blocks_end_in_turn() -> None:
    before = current()
    with tgc.settings(threads=3) as outer:
        with pytest.raises(ValueError, match="over"), tgc.settings(debug=2):
            assert current().threads == 3 and current().debug == 2
            raise ValueError("over")
        assert current() == outer
    assert current() is before


@tgc.settings(threads=5)
def decorated(depth: int) -> int | None:
    return decorated(depth - 1) if depth else current().threads


def test_a_function_may_have_settings() -> None:
    before = current()
    assert decorated(2) == 5
    assert current() is before


def test_names_are_checked() -> None:
    with pytest.raises(TypeError, match="colour"), tgc.settings(colour=1):
        pass
