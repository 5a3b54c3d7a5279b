"""How emitted lines are broken: at 100 columns, after the opening bracket and at commas."""

from __future__ import annotations

import re
from collections.abc import Iterable

LINE = 100


def define(name: str, params: list[str], lines: list[str]) -> str:
    """A function definition, long lines broken."""
    head = _break(f"def {name}(", params, "):", "")
    broken: list[str] = []
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())] + "    "
        broken += break_call(line.lstrip(), indent) if line.strip() else [""]
    return "\n".join([*head, *broken]) + "\n"


def mentions(lines: Iterable[str], name: str) -> bool:
    """Whether a name occurs in any of some lines."""
    pattern = re.compile(rf"\b{re.escape(name)}\b")
    return any(pattern.search(line) for line in lines)


def break_call(line: str, indent: str) -> list[str]:
    """A long call, broken after its opening parenthesis."""
    at = line.find("(") + 1
    if len(indent) + len(line) <= LINE or not _is_call(line, at):
        return [indent + line]
    return _break(line[:at], _top_level(line[at:-1]), ")", indent)


def _is_call(line: str, at: int) -> bool:
    """Whether the parenthesis before `at` closes at the line's very end."""
    if not at or line.startswith("#") or not line.endswith(")"):
        return False
    depth = 1
    for place, char in enumerate(line[at:], at):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return place == len(line) - 1
    return False


def _break(head: str, items: list[str], tail: str, indent: str) -> list[str]:
    whole = f"{indent}{head}{', '.join(items)}{tail}"
    if len(whole) <= LINE:
        return [whole]
    rows, row = [], ""
    for i, item in enumerate(items):
        item += "," if i + 1 < len(items) else ""
        if row and len(indent) + 5 + len(row) + len(item) > LINE:
            rows.append(row)
            row = ""
        row += f" {item}" if row else item
    return [indent + head, *(f"{indent}    {r}" for r in [*rows, row]), indent + tail]


def _top_level(text: str) -> list[str]:
    """Split at the commas outside of brackets."""
    items, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            items.append(text[start:at].strip())
            start = at + 1
    return [*items, text[start:].strip()]
