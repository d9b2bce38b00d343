"""Pages of names: tags, and repositories in distribution's order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing

from mirror.drivers.base import PathNotFoundError, StorageDriver
from mirror.oci.names import InvalidNameError, Repository, Tag
from mirror.registry import Page
from mirror.store import layout
from mirror.store.links import Links
from mirror.store.manifests import in_batches

PAGE_LIMIT = 100_000  # names in one page, whatever was asked for; some megabytes
VISIT_LIMIT = 1_000_000  # folders looked at for one page; only links that go in circles come near it


async def page(names: AsyncIterable[str], n: int | None) -> Page:
    """The first `n` of these names, drawing one more at most. A page of none has no next one."""
    limit = PAGE_LIMIT if n is None else min(n, PAGE_LIMIT)
    taken: list[str] = []
    if limit:
        async for name in names:
            if len(taken) == limit:
                return Page(tuple(taken), more=True)
            taken.append(name)
    return Page(tuple(taken), more=False)


async def tags(
    driver: StorageDriver, links: Links, repository: Repository, last: str
) -> AsyncGenerator[str, None]:
    """The tags after `last` that point to something, sorted. PathNotFoundError when there never was one.

    A folder without a name in it counts as none: not every driver keeps an empty folder.
    """

    async def current(tag: Tag) -> str | None:
        found = await links.read(layout.tag_current_link(repository, tag))
        return None if found is None else str(tag)

    names = [name for name in await driver.list(layout.tags(repository)) if _is_tag(name)]
    if not names:
        raise PathNotFoundError(layout.tags(repository))
    candidates = [Tag(name) for name in names if name > last]
    async with aclosing(in_batches(candidates, current)) as found:
        async for name in found:
            if name is not None:
                yield name


async def repositories(driver: StorageDriver, last: str) -> AsyncGenerator[str, None]:
    """The repositories after `last`, depth first: `a`, `a/b`, `a-b`, as distribution's catalog has them.

    A repository is a folder that has `_manifests` or `_layers`. What is no name of a repository (a stray
    file, a dangling link) is passed over.
    """
    after = tuple(last.split("/")) if last else ()
    stack: list[tuple[str, ...]] = [()]
    for _ in range(VISIT_LIMIT):
        if not stack:
            return
        parts = stack.pop()
        try:
            names = await driver.list("/".join((layout.REPOSITORIES, *parts)))
        except PathNotFoundError:
            continue
        if parts > after and (layout.MANIFESTS in names or layout.LAYERS in names):
            yield "/".join(parts)
        children = [child for name in names if _is_repository(child := (*parts, name))]
        # A folder that sorts before the same number of components of `after` has nothing after it.
        stack.extend(child for child in reversed(children) if child >= after[: len(child)])


def _is_tag(name: str) -> bool:
    try:
        Tag.parse(name)
    except InvalidNameError:
        return False
    return True


def _is_repository(parts: tuple[str, ...]) -> bool:
    try:
        Repository.parse("/".join(parts))
    except InvalidNameError:
        return False
    return True
