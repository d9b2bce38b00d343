"""Every link read, and whether it leads to anything: what a verification tells beside damaged blobs.

A survey believes a link of the right size. Here each is read: one that a power cut has left empty, or that
names another digest than its folder does, reads as missing, and takes up its name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from mirror.drivers.base import PathNotFoundError, StorageDriver
from mirror.oci.digest import Digest
from mirror.store import layout
from mirror.store.deletion import drop_file, drop_tag
from mirror.store.links import Links
from mirror.store.places import CurrentLink, IndexLink, Place, place_of
from mirror.store.survey import stands_for


@dataclass(frozen=True, slots=True)
class LinkFact:
    """A link's file. `names`: the digest that it names; None: it is broken.

    `is_linked`: it is reached by a symbolic link, and may be another's.
    """

    path: str
    place: Place
    names: Digest | None
    is_linked: bool


async def links_of(driver: StorageDriver, links: Links) -> AsyncGenerator[list[LinkFact], None]:
    """All links that are read, in batches of at most WALK_BATCH, which may be empty. Raises DriverError."""
    async with aclosing(driver.find(layout.REPOSITORIES, layout.LINKS)) as batches:
        async for batch in batches:
            found = [
                (entry, place)
                for entry in batch
                if not entry.is_folder and not isinstance(place := place_of(entry.path), IndexLink | None)
            ]
            read = await links.read_many([(entry.path, stands_for(place)) for entry, place in found])
            yield [
                LinkFact(entry.path, place, names, entry.linked)
                for (entry, place), names in zip(found, read, strict=True)
            ]


async def is_broken(driver: StorageDriver, links: Links, link: LinkFact) -> bool:
    """Whether it is so still, and there. Raises DriverError."""
    found = await links.read(link.path, stands_for(link.place))
    return found is None and await has(driver, link.path)


async def drop_broken(driver: StorageDriver, links: Links, link: LinkFact) -> bool:
    """Delete a link that is broken still, a tag with its history; whether it went. In its writer's turn."""
    if not await is_broken(driver, links, link):
        return False
    if isinstance(link.place, CurrentLink):
        return await drop_tag(driver, link.place.repository, link.place.tag)
    return await drop_file(driver, link.path, layout.REPOSITORIES)


async def has(driver: StorageDriver, path: str) -> bool:
    """Whether there is anything at `path`. Raises DriverError."""
    try:
        await driver.stat(path)
    except PathNotFoundError:
        return False
    return True
