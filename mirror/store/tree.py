"""The tree's facts and the deletions, for whoever decides what is kept. No policy is here.

Reading raises RegistryError (Unavailable) where the driver fails, deleting raises StoreError. Nothing here
knows who reads or fills at the same time: deleted data reads as missing and is fetched again, and those who
have it open read on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path

from mirror.drivers.base import DriverError, StorageDriver
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.store import collect, deletion, layout, marks, scrub, survey, verify
from mirror.store.errors import StoreError, failed, reading, writing
from mirror.store.garbage import Garbage, Step
from mirror.store.links import Links
from mirror.store.marks import Named
from mirror.store.survey import BlobFact, RepositoryFact


class Tree:
    """What is on the driver, which belongs to the caller."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver
        self._links = Links(driver)

    # What is here. A generator that ends has seen all; whoever takes its batches sets the pace.

    async def survey_blobs(self) -> AsyncGenerator[list[BlobFact], None]:
        """Every blob, in batches of at most 250, some of them empty."""
        with reading():
            async with aclosing(survey.blobs(self._driver)) as batches:
                async for batch in batches:
                    yield batch

    async def survey_repositories(
        self, repository: Repository | None = None
    ) -> AsyncGenerator[list[RepositoryFact], None]:
        """Every manifest, blob and tag of every repository, or of one, in any order, 250 at once at most."""
        with reading():
            async with aclosing(survey.repositories(self._driver, self._links, repository)) as batches:
                async for batch in batches:
                    yield batch

    async def survey_links(self) -> AsyncGenerator[list[verify.LinkFact], None]:
        """Every link of a blob, a manifest or a tag, read; 250 at once at most."""
        with reading():
            async with aclosing(verify.links_of(self._driver, self._links)) as batches:
                async for batch in batches:
                    yield batch

    async def is_broken(self, link: verify.LinkFact) -> bool:
        """Whether a link that was broken is so still, and is there."""
        with reading():
            return await verify.is_broken(self._driver, self._links, link)

    async def has_blob(self, digest: Digest) -> bool:
        """Whether its data is here, whatever it is."""
        with reading():
            return await verify.has(self._driver, layout.blob_data(digest))

    async def named(self, repository: Repository, digest: Digest) -> Named | None:
        """What a manifest of this repository names; None when it is not here, or not as it should be."""
        with reading():
            return await marks.look(self._driver, self._links, repository, digest)

    async def named_each(self, images: Sequence[tuple[Repository, Digest]]) -> list[Named | None]:
        """As `named`, for some hundred of them, in few steps of a thread."""
        with reading():
            return await marks.look_at(self._driver, self._links, images)

    async def collect(self, *, now: float, untagged: bool = False) -> AsyncGenerator[Step, None]:
        """All garbage, in the order in which it may be dropped; nothing that is younger than an hour.

        `now` is in seconds since the epoch. With `untagged`, manifests to which no tag leads are garbage too.
        """
        with reading():
            async with aclosing(
                collect.collect(self._driver, self._links, now=now, untagged=untagged)
            ) as steps:
                async for step in steps:
                    yield step

    async def rehash(self, digest: Digest, wait: scrub.Wait) -> bool | None:
        """Whether a blob's data has its digest; None: none here. Awaits `wait(bytes)` after each chunk."""
        with reading():
            return await scrub.rehash(self._driver, digest, wait)

    async def holders(self, digest: Digest) -> scrub.Holders:
        """Which repositories have it, and as what: by their links, whatever became of the data."""
        with reading():
            return await scrub.holders(self._driver, self._links, digest)

    # Deleting: exactly what is named. True: it was there. Empty folders go too, but not `repositories`.

    async def drop(self, garbage: Garbage) -> bool:
        """Delete what a collection found, unless it has been written again since."""
        with writing():
            return await deletion.drop(self._driver, self._links, garbage)

    async def drop_each(self, found: Sequence[Garbage]) -> list[bool | StoreError]:
        """As `drop`, for garbage of one kind, with as few steps as the storage can do with.

        In the place of what could not be deleted stands the error.
        """
        outcomes = await deletion.drop_each(self._driver, self._links, found)
        return [failed(each) if isinstance(each, DriverError) else each for each in outcomes]

    async def drop_tag(self, repository: Repository, tag: Tag) -> bool:
        """Delete a tag and its history."""
        with writing():
            return await deletion.drop_tag(self._driver, repository, tag)

    async def drop_tag_to(self, repository: Repository, tag: Tag, digest: Digest) -> bool:
        """Delete a tag if it points to this manifest, or to nothing; whether it is gone."""
        with writing():
            return await deletion.drop_tag_to(self._driver, self._links, repository, tag, digest)

    async def drop_image(self, repository: Repository, digest: Digest, tags: Iterable[Tag] = ()) -> bool:
        """Take a manifest from a repository: first those of `tags` that point to it, then its link."""
        with writing():
            return await deletion.drop_image(self._driver, self._links, repository, digest, tags)

    async def drop_layer(self, repository: Repository, digest: Digest) -> bool:
        """Take a blob from a repository."""
        with writing():
            return await deletion.drop_layer(self._driver, repository, digest)

    async def drop_broken(self, link: verify.LinkFact) -> bool:
        """Delete a link if it is broken still; whether it went."""
        with writing():
            return await verify.drop_broken(self._driver, self._links, link)

    async def drop_blob(self, digest: Digest) -> bool:
        """Delete a blob's data, or a manifest's. The links to it are for the caller to drop before."""
        with writing():
            return await deletion.drop_blob(self._driver, digest)

    async def drop_layers(self, linked: Iterable[tuple[Repository, Digest]]) -> None:
        """Take blobs that are known to be there from repositories."""
        with writing():
            await deletion.drop_layers(self._driver, linked)

    async def drop_blobs(self, digests: Iterable[Digest]) -> None:
        """As `drop_blob` of each, when all are known to be there."""
        with writing():
            await deletion.drop_blobs(self._driver, digests)

    async def prune(self, repository: Repository) -> None:
        """Remove the repository's folders and those above it, as far as nothing is left in them."""
        with writing():
            await deletion.prune(self._driver, repository)

    async def sweep(self, before: float) -> int:
        """Remove what writes that broke off (a kill, a power cut) left behind; how many files and trees.

        Only what was untouched since `before`, in seconds since the epoch. A write that goes on is not to be
        among it: that fails.
        """
        with writing():
            return await self._driver.sweep(before)

    async def set_aside(self, digest: Digest, folder: Path) -> Path | None:
        """Move a blob's data to a local folder; where it is then, or None: none here.

        StoreFull when the folder is on another file system, without room.
        """
        with writing():
            return await deletion.set_aside(self._driver, digest, folder)
