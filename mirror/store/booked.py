"""A store that tells a book what it keeps and what it deletes.

Told after it was done: what a crash leaves unsaid, a survey of the tree finds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from mirror.drivers.base import StorageDriver
from mirror.oci.digest import Digest
from mirror.oci.manifest import ManifestError, parse
from mirror.oci.names import Repository, Tag
from mirror.registry import RawManifest, RegistryError
from mirror.store.content import ContentStore
from mirror.store.manifests import off_loop

UPSTREAM = "upstream"  # who says where a tag points


class Book(Protocol):
    """Who is told: see `ledger.inventory.Inventory`. Nothing here waits or fails."""

    def note_blob(self, repository: Repository, digest: Digest, size: int, now: float) -> None: ...

    def note_image(
        self, repository: Repository, digest: Digest, size: int, parts: Sequence[Digest], now: float
    ) -> None: ...

    def note_tag(self, repository: Repository, tag: Tag, digest: Digest, now: float, origin: str) -> None: ...

    def note_tag_gone(
        self, repository: Repository, tag: Tag, now: float, origin: str | None = None
    ) -> None: ...

    def note_blob_gone(self, digest: Digest) -> None: ...


class BookedStore(ContentStore):
    """A ContentStore; `clock` is the wall clock, in seconds."""

    def __init__(self, driver: StorageDriver, book: Book, clock: Callable[[], float] = time.time) -> None:
        super().__init__(driver)
        self._book = book
        self._clock = clock

    async def put_manifest(
        self, repository: Repository, manifest: RawManifest, tag: Tag | None = None
    ) -> None:
        await super().put_manifest(repository, manifest, tag)
        parts = await off_loop(manifest.body, lambda: _parts(manifest))
        descriptor = manifest.descriptor
        self._book.note_image(repository, descriptor.digest, descriptor.size, parts, self._clock())

    async def tag(self, repository: Repository, tag: Tag, digest: Digest) -> None:
        await super().tag(repository, tag, digest)
        self._book.note_tag(repository, tag, digest, self._clock(), UPSTREAM)

    async def untag(self, repository: Repository, tag: Tag) -> None:
        await super().untag(repository, tag)
        self._book.note_tag_gone(repository, tag, self._clock(), UPSTREAM)

    async def link_blob(self, repository: Repository, digest: Digest) -> None:
        """Also the last step of `adopt_blob`: so the data is there."""
        await super().link_blob(repository, digest)
        try:
            size = await self.blob_size(digest)
        except RegistryError:
            return
        if size is not None:
            self._book.note_blob(repository, digest, size, self._clock())

    async def discard_blob(self, digest: Digest) -> None:
        await super().discard_blob(digest)
        self._book.note_blob_gone(digest)


def _parts(manifest: RawManifest) -> list[Digest]:
    """The blobs and children that it names; none of what we do not understand."""
    try:
        parsed = parse(manifest.body, manifest.descriptor.media_type)
    except ManifestError:
        return []
    return [each.digest for each in (*parsed.blobs, *parsed.children)]
