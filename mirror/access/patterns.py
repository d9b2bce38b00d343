"""Which repositories of an upstream are given at all: `allow` and `deny`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

CACHED = 4096  # names of which the verdict is remembered


@dataclass(frozen=True, slots=True)
class Patterns:
    """Patterns of names, in which `*` stands for anything, also for slashes. `key` is where they stand.

    What `deny` fits is not given. Where there is an `allow`, neither is what that does not fit.
    """

    key: str
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def forbids(self, name: str) -> str | None:
        """Which key forbids this repository; None: none does. The key alone: patterns may tell names."""
        return _forbids(self, name)


@lru_cache(CACHED)
def _forbids(patterns: Patterns, name: str) -> str | None:
    if any(fits(pattern, name) for pattern in patterns.deny):
        return f"{patterns.key}.deny"
    if patterns.allow and not any(fits(pattern, name) for pattern in patterns.allow):
        return f"{patterns.key}.allow"
    return None


def fits(pattern: str, name: str) -> bool:
    """Whether the whole name is of this form; linear in its length for each `*`."""
    first, *parts = pattern.split("*")
    if not parts:
        return name == pattern
    if not name.startswith(first):
        return False
    return _fits_rest(parts, name[len(first) :])


def _fits_rest(parts: Sequence[str], rest: str) -> bool:
    *middle, last = parts
    for part in middle:
        _, found, rest = rest.partition(part) if part else ("", "", rest)
        if part and not found:
            return False
    return rest.endswith(last)
