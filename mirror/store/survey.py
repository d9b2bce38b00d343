"""What is kept, as facts: every blob, and every link of every repository. No policy, and nothing is changed.

A link that is broken is no fact: it reads as missing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from mirror.drivers.base import Entry, StorageDriver
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.store import layout
from mirror.store.links import Links
from mirror.store.places import CurrentLink, IndexLink, LayerLink, Place, RevisionLink, blob_of, place_of


@dataclass(frozen=True, slots=True)
class BlobFact:
    """A blob's data is here: `size` in bytes, written at `modified` (seconds since the epoch)."""

    digest: Digest
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class ImageFact:
    """A repository has this manifest or index, since `modified`. Its data may be missing."""

    repository: Repository
    digest: Digest
    modified: float


@dataclass(frozen=True, slots=True)
class LayerFact:
    """A repository has this blob, since `modified`. Its data may be missing."""

    repository: Repository
    digest: Digest
    modified: float


@dataclass(frozen=True, slots=True)
class TagFact:
    """A tag points to this manifest, since `modified`. The repository may lack the manifest."""

    repository: Repository
    tag: Tag
    digest: Digest
    modified: float


RepositoryFact = ImageFact | LayerFact | TagFact

_Found = tuple[Entry, Place]


async def blobs(driver: StorageDriver) -> AsyncGenerator[list[BlobFact], None]:
    """All blobs, in batches of at most WALK_BATCH, which may be empty. Raises DriverError."""
    async with aclosing(driver.find(layout.BLOBS, layout.DATA)) as batches:
        async for batch in batches:
            yield [fact for entry in batch if (fact := _blob(entry)) is not None]


async def repositories(
    driver: StorageDriver, links: Links, repository: Repository | None = None
) -> AsyncGenerator[list[RepositoryFact], None]:
    """All links, or those of one repository, in batches of at most WALK_BATCH, which may be empty.

    A blob's or a manifest's link that has the right size is believed, unread, to name what it stands for.
    Raises DriverError.
    """
    folder = layout.REPOSITORIES
    patterns: tuple[str, ...] = layout.LINKS
    if repository is not None:
        folder = f"{layout.REPOSITORIES}/{repository}"
        patterns = tuple(pattern.removeprefix("**/") for pattern in layout.LINKS)
    async with aclosing(driver.find(folder, patterns)) as batches:
        async for batch in batches:
            facts, doubtful = _sort(batch)
            read = await links.read_many([(entry.path, stands_for(place)) for entry, place in doubtful])
            for (entry, place), names in zip(doubtful, read, strict=True):
                fact = _fact(entry, place, names)
                if fact is not None:
                    facts.append(fact)
            yield facts


def stands_for(place: Place) -> Digest | None:
    """The digest after which a link's folder is named."""
    return None if isinstance(place, CurrentLink) else place.digest


def believed(entry: Entry, place: Place) -> Digest | None:
    """The digest that a link of this size must name; None: it has to be read."""
    digest = stands_for(place)
    return digest if digest is not None and entry.size == len(layout.link_bytes(digest)) else None


def _sort(batch: list[Entry]) -> tuple[list[RepositoryFact], list[_Found]]:
    """What is known of a batch, and the links that have to be read."""
    facts: list[RepositoryFact] = []
    doubtful: list[_Found] = []
    for entry in batch:
        place = None if entry.is_folder else place_of(entry.path)
        if place is None or isinstance(place, IndexLink):
            continue
        fact = _fact(entry, place, believed(entry, place))
        if fact is None:
            doubtful.append((entry, place))
        else:
            facts.append(fact)
    return facts, doubtful


def _blob(entry: Entry) -> BlobFact | None:
    digest = None if entry.is_folder else blob_of(entry.path)
    return None if digest is None else BlobFact(digest, entry.size, entry.modified)


def _fact(entry: Entry, place: Place, names: Digest | None) -> RepositoryFact | None:
    """What a link says that `names` a digest."""
    match place:
        case CurrentLink(repository, tag) if names is not None:
            return TagFact(repository, tag, names, entry.modified)
        case LayerLink(repository, digest) if names is not None:
            return LayerFact(repository, digest, entry.modified)
        case RevisionLink(repository, digest) if names is not None:
            return ImageFact(repository, digest, entry.modified)
        case _:
            return None
