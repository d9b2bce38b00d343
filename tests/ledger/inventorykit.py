"""What the tests of the inventory share."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from mirror.ledger.facts import Candidate, SeenBlob, SeenLink, SeenParts, SeenTag
from mirror.ledger.inventory import Inventory
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag

APP = Repository("library/app")
OTHER = Repository("quay.io/org/other")
T0 = 1_700_000_000.0  # seconds since the epoch
SIZE = 100  # bytes of each blob that says nothing else


def digest(name: str) -> Digest:
    """One of many."""
    return Digest.of(name.encode())


@asynccontextmanager
async def running(path: Path | None) -> AsyncGenerator[Inventory, None]:
    """An inventory, open."""
    inventory = Inventory(path)
    await inventory.open()
    try:
        yield inventory
    finally:
        await inventory.close()


def pull(
    inventory: Inventory,
    image: str,
    layers: Sequence[str],
    now: float = T0,
    repository: Repository = APP,
    tag: str | None = None,
) -> None:
    """Note what a pull keeps, in its order."""
    parts = [digest(layer) for layer in layers]
    inventory.note_image(repository, digest(image), SIZE, parts, now)
    if tag is not None:
        inventory.note_tag(repository, Tag(tag), digest(image), now, "upstream")
    for part in parts:
        inventory.note_blob(repository, part, SIZE, now)


async def names(inventory: Inventory, known: str, now: float = T0, limit: int = 100) -> list[str]:
    """The oldest candidates by their names: those of one letter in `known`."""
    return name(await inventory.oldest(limit, now), known)


def name(candidates: Sequence[Candidate], known: str) -> list[str]:
    """The names of candidates."""
    by_digest = {digest(each): each for each in known}
    return [by_digest[candidate.digest] for candidate in candidates]


class Tree:
    """What a survey finds: images of a repository by name, with the layers that they name."""

    def __init__(self, modified: float = T0) -> None:
        self.modified = modified
        self.images: dict[tuple[Repository, str], list[str]] = {}
        self.tags: dict[tuple[Repository, str], str] = {}
        self.links: list[tuple[Repository, str]] = []
        self.blobs: dict[str, float] = {}

    def add(
        self, image: str, layers: Sequence[str], repository: Repository = APP, tag: str | None = None
    ) -> Tree:
        """An image, whole."""
        self.images[repository, image] = list(layers)
        self.blobs.update(dict.fromkeys([image, *layers], self.modified))
        self.links += [(repository, layer) for layer in layers]
        if tag is not None:
            self.tags[repository, tag] = image
        return self

    async def show(self, inventory: Inventory) -> int:
        """Tell of all of it; how many images had to be read."""
        await inventory.seen_blobs([SeenBlob(digest(name), SIZE, at) for name, at in self.blobs.items()])
        await inventory.seen_layers([SeenLink(repository, digest(name)) for repository, name in self.links])
        named = {(repository, digest(image)): layers for (repository, image), layers in self.images.items()}
        unread = await inventory.seen_images([SeenLink(*key) for key in named])
        await inventory.seen_parts(
            [
                SeenParts(
                    link.repository, link.digest, tuple(map(digest, named[link.repository, link.digest]))
                )
                for link in unread
            ]
        )
        await inventory.seen_tags(
            [
                SeenTag(repository, Tag(tag), digest(image), self.modified)
                for (repository, tag), image in self.tags.items()
            ]
        )
        return len(unread)


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What stands in the file, as another process sees it."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()
