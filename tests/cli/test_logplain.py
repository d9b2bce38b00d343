"""What stands in the way of a command, in words: each event that has a sentence has the fields for it."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

from mirror.logplain import SENTENCES, sentence

TOP = Path(__file__).resolve().parents[2]


def fields() -> dict[str, list[set[str]]]:
    """Of each event in the source, the names of its fields, wherever it is told."""
    found: dict[str, list[set[str]]] = {}
    for path in (TOP / "mirror").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                names = {keyword.arg for keyword in node.keywords if keyword.arg}
                found.setdefault(str(node.args[0].value), []).append(names)
    return found


@pytest.mark.parametrize("event", sorted(SENTENCES))
def test_each_sentence_is_of_what_the_event_says(event: str) -> None:
    wanted = {name for _, name, _, _ in string.Formatter().parse(SENTENCES[event]) if name}
    told = fields()[event]
    assert told
    assert all(wanted <= names for names in told), told


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            {"event": "eviction.failed", "what": "library/a", "reason": "Permission denied"},
            "warning: library/a could not be deleted: Permission denied",
        ),
        (
            {"event": "keeper.no_locks", "file": "/data/lock", "reason": "no locks"},
            "warning: keeper no locks (file /data/lock): no locks",
        ),
        ({"event": "A library's own words"}, "warning: A library's own words"),
        ({"event": "scrub.stays"}, "warning: scrub stays"),
    ],
)
def test_an_event_is_a_sentence(event: dict[str, str], text: str) -> None:
    assert sentence(None, "warning", {**event, "level": "warning"}) == text
