"""A store that tells a book what it keeps and what it deletes.

Told after it was done: what a crash leaves unsaid, a survey of the tree finds.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from mirror.drivers.base import Incoming, StorageDriver
from mirror.oci.digest import Digest
from mirror.oci.manifest import ManifestError, parse
from mirror.oci.names import Repository, Tag
from mirror.registry import RawManifest, RegistryError
from mirror.store.content import ContentStore
from mirror.store.errors import StoreError
from mirror.store.manifests import off_loop
from mirror.store.turns import Turns

UPSTREAM = "upstream"  # who says where a tag points


class Book(Protocol):
    """Who is told: see `ledger.inventory.Inventory`. Nothing here waits or fails."""

    def note_blob(self, repository: Repository | None, digest: Digest, size: int, now: float) -> None: ...

    def note_image(
        self, repository: Repository, digest: Digest, size: int, parts: Sequence[Digest], now: float
    ) -> None: ...

    def note_tag(self, repository: Repository, tag: Tag, digest: Digest, now: float, origin: str) -> None: ...

    def note_tag_gone(
        self, repository: Repository, tag: Tag, now: float, origin: str | None = None
    ) -> None: ...

    def note_blob_gone(self, digest: Digest) -> None: ...


class BookedStore(ContentStore):
    """A ContentStore; `clock` is the wall clock, in seconds.

    What is written and told has its turn in `turns`: whoever deletes takes the same.
    """

    def __init__(self, driver: StorageDriver, book: Book, clock: Callable[[], float] = time.time) -> None:
        super().__init__(driver)
        self._book = book
        self._clock = clock
        self.turns = Turns()

    async def put_manifest(
        self, repository: Repository, manifest: RawManifest, tag: Tag | None = None
    ) -> None:
        parts = await off_loop(manifest.body, lambda: _parts(manifest))
        digest, size = manifest.descriptor.digest, manifest.descriptor.size
        async with self._writing(digest):
            await super().put_manifest(repository, manifest)
            self._book.note_image(repository, digest, size, parts, self._clock())
        if tag is not None:
            await self.tag(repository, tag, digest)

    async def tag(self, repository: Repository, tag: Tag, digest: Digest) -> bool:
        async with self.turns.of((repository, tag)):
            pointed = await super().tag(repository, tag, digest)
            self._book.note_tag(repository, tag, digest, self._clock(), UPSTREAM)
        return pointed

    async def untag(self, repository: Repository, tag: Tag) -> None:
        async with self.turns.of((repository, tag)):
            await super().untag(repository, tag)
            self._book.note_tag_gone(repository, tag, self._clock(), UPSTREAM)

    async def adopt_blob(
        self, repository: Repository, digest: Digest, source: Path, incoming: Incoming | None = None
    ) -> None:
        async with self._writing(digest):
            await super().adopt_blob(repository, digest, source, incoming)
            await self._note_data(repository, digest)

    async def link_blob(self, repository: Repository, digest: Digest) -> None:
        """Nothing, where its data has gone meanwhile: the link would lead nowhere, and no collection takes it
        while a manifest names the blob.
        """
        async with self.turns.of(digest):
            size = await self._size_now(digest)
            if size is not None:
                await super().link_blob(repository, digest)
                self._book.note_blob(repository, digest, size, self._clock())

    async def discard_blob(self, digest: Digest) -> None:
        async with self.turns.of(digest):
            await super().discard_blob(digest)
            self._book.note_blob_gone(digest)

    @asynccontextmanager
    async def _writing(self, digest: Digest) -> AsyncGenerator[None, None]:
        """The digest's turn. What fails after its data was written has left bytes, which count."""
        async with self.turns.of(digest):
            try:
                yield
            except StoreError:
                await self._note_data(None, digest)
                raise

    async def _note_data(self, repository: Repository | None, digest: Digest) -> None:
        """Tell of a blob's data, if it is there. `repository` None: it is linked in none for sure."""
        size = await self._size_now(digest)
        if size is not None:
            self._book.note_blob(repository, digest, size, self._clock())

    async def _size_now(self, digest: Digest) -> int | None:
        """Bytes of its data; None where there is none, or nobody can tell."""
        try:
            return await self.blob_size(digest)
        except RegistryError:
            return None


def _parts(manifest: RawManifest) -> list[Digest]:
    """The blobs and children that it names; none of what we do not understand."""
    try:
        parsed = parse(manifest.body, manifest.descriptor.media_type)
    except ManifestError:
        return []
    return [each.digest for each in (*parsed.blobs, *parsed.children)]
