"""Values of what the mirror tells, as words; and how they are taken out of what may be of any shape. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LINE_LIMIT = 400  # characters of one value; names and digests are shorter, texts come from upstreams
ROWS_LIMIT = 200  # lines of one list

Facts = Mapping[str, Any]


def duration(seconds: float) -> str:
    """In words, two units at most: `500 ms`, `12 s`, `3 min 20 s`, `29 d 23 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "0 s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    left = int(min(seconds, 1e12))
    at = next(at for at, (_, size) in enumerate(units) if left >= size)
    name, size = units[at]
    whole, rest = divmod(left, size)
    next_name, next_size = units[at + 1] if at + 1 < len(units) else ("", 1)
    part = rest // next_size
    return f"{whole} {name} {part} {next_name}" if part and next_name else f"{whole} {name}"


def data(count: float) -> str:
    """Bytes: `512 bytes`, `1.2 KiB`, `30.0 MiB`."""
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def text_of(facts: Facts, key: str) -> str:
    value = facts.get(key)
    return value if isinstance(value, str) else ""


def number_of(facts: Facts, key: str) -> float | None:
    value = facts.get(key)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable and value is not None else None


def part_of(facts: Facts, key: str) -> Facts:
    value = facts.get(key)
    return value if isinstance(value, dict) else {}


def items_of(facts: Facts, key: str) -> list[Facts]:
    value = facts.get(key)
    return [item for item in first_of(value) if isinstance(item, dict)] if isinstance(value, list) else []


def first_of(items: list[Any]) -> list[Any]:
    return items[:ROWS_LIMIT]


def clean(text: str) -> str:
    """Without control characters: what upstreams say must not reach the terminal's own language."""
    return "".join(c if c.isprintable() else "?" for c in text[:LINE_LIMIT])
