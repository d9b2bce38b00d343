"""Folders out of a list of keys: what a walk and a search give is what they give of true folders."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from hypothesis import given
from hypothesis import strategies as st

from mirror.drivers import flat
from mirror.drivers.base import Entry
from mirror.drivers.flat import Page
from mirror.drivers.inmemory import InMemoryDriver

NAMES = st.sampled_from(["a", "a-b", "a.b", "b", "_l", "_l-", "_m", "link", "z"])
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
PATTERNS = ["*", "*/*", "a/*/link", "**/_l/*/link", "**/_m/link", "a/b", "a-b/*/*", "**/link", "_l/_m/link"]


def fits(path: str, chosen: set[str]) -> bool:
    """Whether the path can stand beside those: no file is where another's folder is."""
    return not any(f"{path}/".startswith(f"{each}/") or f"{each}/".startswith(f"{path}/") for each in chosen)


class Bucket:
    """Keys in pages of a size; `pages` counts the requests."""

    def __init__(self, paths: set[str], size: int) -> None:
        self.paths = sorted(paths)
        self.size = size
        self.requests = 0

    async def pages(self, prefix: str, after: str) -> AsyncGenerator[Page, None]:
        keys = [path for path in self.paths if path.startswith(prefix) and path > after]
        for start in range(0, max(len(keys), 1), self.size):
            self.requests += 1
            entries = [Entry(key, 0, 0.0) for key in keys[start : start + self.size]]
            yield Page(entries, start + self.size < len(keys))


async def folders(paths: set[str]) -> InMemoryDriver:
    driver = InMemoryDriver(clock=lambda: 0.0)
    for path in paths:
        await driver.put(path, b"")
    return driver


def chosen(paths: list[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        if fits(path, found):
            found.add(path)
    return found


@given(
    paths=st.lists(PATHS, max_size=25).map(chosen),
    folder=st.one_of(st.just(""), PATHS),
    leaves=st.sets(NAMES, max_size=3),
    size=st.integers(1, 7),
)
async def test_a_walk_gives_what_it_gives_of_folders(
    paths: set[str], folder: str, leaves: set[str], size: int
) -> None:
    bucket = Bucket(paths, size)
    found = [entry async for batch in flat.walk(bucket.pages, folder, leaves) for entry in batch]
    driver = await folders(paths)
    wanted = [entry async for batch in driver.walk(folder, leaves) for entry in batch]
    assert sorted(found, key=lambda each: each.path) == sorted(wanted, key=lambda each: each.path)
    assert bucket.requests <= len(paths) // size + 1


@given(
    paths=st.lists(PATHS, max_size=25).map(chosen),
    folder=st.one_of(st.just(""), PATHS),
    patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=4, unique=True),
    size=st.integers(1, 7),
)
async def test_a_search_finds_what_it_finds_in_folders(
    paths: set[str], folder: str, patterns: list[str], size: int
) -> None:
    bucket = Bucket(paths, size)
    found = [entry.path async for batch in flat.find(bucket.pages, folder, patterns) for entry in batch]
    driver = await folders(paths)
    wanted = [entry.path async for batch in driver.find(folder, patterns) for entry in batch]
    assert sorted(found) == sorted(wanted)
