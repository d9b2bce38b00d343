"""A tree of folders out of a flat list of keys in order, as object stores have it.

A listing costs a request for each thousand keys, whatever they are. So what is not wanted is passed over only
where that saves a request: when a page of the listing ends inside it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from mirror.drivers.base import WALK_BATCH, Entry
from mirror.drivers.patterns import ANY, FOLDERS, parse

BEHIND = "~"  # sorts behind all names that a path can have


@dataclass(frozen=True, slots=True)
class Page:
    """Files in the order of their paths' bytes; `more`: others follow."""

    entries: Sequence[Entry]
    more: bool


# The files whose paths begin with the first and sort behind the second ("": all).
List = Callable[[str, str], AsyncGenerator[Page, None]]


async def walk(pages: List, path: str, leaves: Collection[str]) -> AsyncGenerator[list[Entry], None]:
    """As StorageDriver.walk."""
    prefix, after, last = f"{path}/" if path else "", "", ""
    while after is not None:
        inside: str | None = None
        async with aclosing(pages(prefix, after)) as listing:
            async for page in listing:
                found, inside = [], None
                for entry in page.entries:
                    inside = _leaf(entry.path, len(prefix), leaves)
                    if inside is None:
                        found.append(entry)
                    elif inside != last:
                        last = inside
                        found.append(Entry(inside, 0, 0.0, is_folder=True))
                for batch in _batches(found):
                    yield batch
                if inside is not None and page.more:
                    break
                inside = None
        if inside is None:
            return
        after = f"{inside}/{BEHIND}"


async def find(pages: List, path: str, patterns: Sequence[str]) -> AsyncGenerator[list[Entry], None]:
    """As StorageDriver.find."""
    wanted = parse(patterns)
    folder = f"{path}/" if path else ""
    for prefix in _prefixes(patterns):
        async with aclosing(pages(folder + prefix, "")) as listing:
            async for page in listing:
                found = [entry for entry in page.entries if wanted.fits(entry.path[len(folder) :])]
                for batch in _batches(found):
                    yield batch


def _leaf(path: str, start: int, leaves: Collection[str]) -> str | None:
    """The first folder on the way to `path`, behind `start`, whose name is a leaf's."""
    if not leaves:
        return None
    parts = path[start:].split("/")
    for number, part in enumerate(parts[:-1], 1):
        if part in leaves:
            return path[:start] + "/".join(parts[:number])
    return None


def _prefixes(patterns: Sequence[str]) -> list[str]:
    """With one of these begins all that fits a pattern; none of them begins with another."""
    found: list[str] = []
    for prefix in sorted(_prefix(pattern) for pattern in patterns):
        if not found or not prefix.startswith(found[-1]):
            found.append(prefix)
    return found


def _prefix(pattern: str) -> str:
    parts = pattern.split("/")
    literal = next((n for n, part in enumerate(parts) if part in (ANY, FOLDERS)), len(parts))
    return "/".join(parts[:literal]) + ("/" if 0 < literal < len(parts) else "")


def _batches(entries: list[Entry]) -> Iterator[list[Entry]]:
    """At least one, which may be empty, so that whoever waits sees that something goes on."""
    for start in range(0, max(len(entries), 1), WALK_BATCH):
        yield entries[start : start + WALK_BATCH]
