"""What we have: the Registry protocol answered from the driver, and the verbs by which `cache` keeps things.

Reading never trusts the tree: a link that is empty, malformed or points to nothing reads as missing, a
manifest is checked against its digest, a blob of no bytes is missing unless that is its digest. Writing goes
from the data to what names it, so that whatever stops it leaves nothing that can be found and is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from mirror.drivers.base import Incoming as Incoming  # what `cache` calls
from mirror.drivers.base import Near, PathNotFoundError, StorageDriver
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import Page, RawManifest, Resolved
from mirror.store import deletion, layout, listing
from mirror.store.blob import MEDIA_TYPE, StoredBlob, Unopened, placed
from mirror.store.errors import reading, unknown_blob, unknown_manifest, unknown_name, writing
from mirror.store.links import Links, holds
from mirror.store.manifests import Kept, Manifests


class ContentStore:
    """A Registry of what is on the driver. The driver belongs to the caller.

    Reading verbs raise RegistryError: Unavailable where the driver fails. Writing verbs raise StoreError.
    """

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver
        self._near = driver if isinstance(driver, Near) else None
        self._links = Links(driver)
        self._manifests = Manifests(driver, self._links)

    # Registry: see there for arguments and errors.

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        manifest = await self.manifest(repository, tag)
        return Resolved(manifest.descriptor, manifest)

    async def manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        with reading():
            digest: Digest | None
            if isinstance(reference, Tag):
                digest = await self._links.read(layout.tag_current_link(repository, reference))
            else:
                digest = reference
            found = None if digest is None else await self._manifests.read(repository, digest)
        if found is None:
            raise unknown_manifest(repository, reference)
        return found

    def parsed(self, manifest: RawManifest) -> Manifest | None:
        """What a manifest says, where it was read from here lately; None: it is to be parsed."""
        return self._manifests.parsed(manifest.descriptor)

    async def stat_manifest(self, repository: Repository, reference: Reference) -> Descriptor:
        return (await self.manifest(repository, reference)).descriptor

    async def blob(
        self, repository: Repository, digest: Digest, *, start: int = 0, size: int | None = None
    ) -> StoredBlob:
        """As Registry says. A file that has not the `size` that the caller knows is broken: BLOB_UNKNOWN."""
        with reading():
            target = await self._linked(repository, digest)
            blob = None if target is None else await self._open(digest, target)
        if blob is None:
            self._tell_missing(repository, digest, target)
            raise unknown_blob(digest)
        if size is not None and blob.descriptor.size != size:
            await blob.close()
            self._links.broken(layout.blob_data(digest), f"{blob.descriptor.size} bytes instead of {size}")
            raise unknown_blob(digest)
        return blob

    async def stat_blob(self, repository: Repository, digest: Digest) -> Descriptor:
        with reading():
            target = await self._linked(repository, digest)
            size = None if target is None else await self._size(digest, target)
        if size is None:
            self._tell_missing(repository, digest, target)
            raise unknown_blob(digest)
        return Descriptor(digest, size, MEDIA_TYPE)

    async def tags(self, repository: Repository, n: int | None, last: str) -> Page:
        with reading():
            try:
                async with aclosing(listing.tags(self._driver, self._links, repository, last)) as names:
                    return await listing.page(names, n)
            except PathNotFoundError:
                raise unknown_name(repository) from None

    async def repositories(self, n: int | None, last: str) -> Page:
        with reading():
            async with aclosing(listing.repositories(self._driver, last)) as names:
                return await listing.page(names, n)

    async def referrers(self, repository: Repository, digest: Digest) -> tuple[dict[str, Any], ...]:
        """The kept manifests whose subject is `digest`; none is no error."""

        def refers(kept: Kept) -> bool:
            return kept.manifest.subject is not None and kept.manifest.subject.digest == digest

        with reading():
            async with aclosing(self._manifests.find(repository, refers)) as referrers:
                found = [
                    kept.as_referrer()
                    async for kept in referrers
                    # What was parsed once says nothing about the bytes now.
                    if await self._manifests.read(repository, kept.descriptor.digest) is not None
                ]
        return tuple(found)

    # What `cache` asks before it decides.

    async def is_linked(self, repository: Repository, digest: Digest) -> bool:
        """Whether this repository has been given the blob (or has it as a manifest); its data may be gone."""
        with reading():
            return await self._linked(repository, digest) is not None

    async def blob_size(self, digest: Digest) -> int | None:
        """The size of the blob's data in bytes, through whichever repository it came; None: not here."""
        with reading():
            return await self._size(digest, digest)

    def kept_at_once(self, digests: Sequence[Digest]) -> list[Digest] | None:
        """Those of which there is data, as `blob_size` says it; None: that cannot be said without waiting."""
        wanted = [layout.blob_data(digest) for digest in digests]
        found = self._near.stat_at_once(wanted) if self._near is not None else None
        if found is None:
            return None
        looked_at = zip(digests, wanted, found, strict=True)
        return [
            digest for digest, path, info in looked_at if info and self._plausible(digest, path, info.size)
        ]

    async def open_blob(self, digest: Digest, start: int | None = 0) -> StoredBlob:
        """Open a blob without asking in which repository it is: the caller has decided that it may be read.

        `start`: where reading is about to begin; None: the caller wants to know the size, and reads hardly
        ever. Raises RegistryError (BLOB_UNKNOWN).
        """
        with reading():
            if start is None:
                size, path = await self._size(digest, digest), layout.blob_data(digest)
                blob = None if size is None else StoredBlob(digest, Unopened(self._driver, path, size))
            else:
                blob = await self._placed(digest) or await self._open(digest, digest, start)
        if blob is None:
            raise unknown_blob(digest)
        return blob

    async def matches(self, digest: Digest) -> bool:
        """Whether the blob's data has its digest: reads all of it, in threads. Missing data has not."""
        with reading():
            blob = await self._open(digest, digest)
            if blob is None:
                return False
            hasher = digest.hasher()
            try:
                async with aclosing(blob.chunks()) as chunks:
                    async for chunk in chunks:
                        await asyncio.to_thread(hasher.update, chunk)
            finally:
                await blob.close()
            return hasher.hexdigest() == digest.hex

    async def names(self, repository: Repository, digest: Digest) -> Descriptor | None:
        """The descriptor by which a manifest kept in this repository names the digest as its blob.

        A registry that took the manifest has checked that the repository has the blob. Children of an index
        and foreign blobs do not count: not every registry checks those.
        """
        with reading():
            async with aclosing(
                self._manifests.find(repository, lambda kept: digest in kept.names)
            ) as naming:
                async for kept in naming:
                    return kept.names[digest]
        return None

    # Writing: each step only where the tree is not so already, since every write costs two fsyncs or more.

    async def put_manifest(
        self, repository: Repository, manifest: RawManifest, tag: Tag | None = None
    ) -> None:
        """Keep a manifest, and let `tag` point to it."""
        digest = manifest.descriptor.digest
        data = layout.blob_data(digest)
        with writing():
            if not await holds(self._driver, data, manifest.body):
                await self._driver.put(data, manifest.body)
            await self._links.ensure(layout.revision_link(repository, digest), digest)
        if tag is not None:
            await self.tag(repository, tag, digest)

    async def tag(self, repository: Repository, tag: Tag, digest: Digest) -> bool:
        """Let `tag` point to a manifest that was put before; whether it did so already."""
        with writing():
            await self._links.ensure(layout.tag_index_link(repository, tag, digest), digest)
            return await self._links.ensure(layout.tag_current_link(repository, tag), digest)

    async def untag(self, repository: Repository, tag: Tag) -> None:
        """Forget a tag and its history, and the folders that are empty then; it need not be there."""
        with writing():
            await deletion.drop_tag(self._driver, repository, tag)

    def incoming_blob(self, digest: Digest, source: Path, size: int) -> Incoming | None:
        """Begin to take a file that is to be this blob, while it grows; None: there is nothing to be gained.

        Nothing is kept before `adopt_blob`. The caller sees to its end.
        """
        return self._driver.incoming(source, layout.blob_data(digest), size)

    async def adopt_blob(
        self, repository: Repository, digest: Digest, source: Path, incoming: Incoming | None = None
    ) -> None:
        """Keep a complete file, whose digest the caller has checked, as this blob; link it here.

        `source` is gone then. On StoreError it is still there, or its data is already in place: either way
        the same call, made again, completes.
        """
        with writing():
            try:
                await self._driver.move_in(source, layout.blob_data(digest), incoming)
            except PathNotFoundError:
                if await self._size(digest, digest) is None:
                    raise
        await self._link(repository, digest)

    async def link_blob(self, repository: Repository, digest: Digest) -> None:
        """Let this repository have a blob."""
        await self._link(repository, digest)

    async def _link(self, repository: Repository, digest: Digest) -> None:
        with writing():
            await self._links.ensure(layout.layer_link(repository, digest), digest)

    async def discard_blob(self, digest: Digest) -> None:
        """Delete a blob's data, which was found broken. Links to it read as missing until it is kept anew."""
        with writing():
            await deletion.drop_file(self._driver, layout.blob_folder(digest), layout.BLOBS)

    async def _linked(self, repository: Repository, digest: Digest) -> Digest | None:
        """The digest under which the repository's blob is kept; None when the repository does not have it."""
        found = await self._links.read(layout.layer_link(repository, digest), digest)
        if found is None:
            found = await self._links.read(layout.revision_link(repository, digest), digest)
        return found

    async def _size(self, digest: Digest, target: Digest) -> int | None:
        path = layout.blob_data(target)
        try:
            info = await self._driver.stat(path)
        except PathNotFoundError:
            return None
        if info.is_folder or not self._plausible(digest, path, info.size):
            return None
        return info.size

    async def _placed(self, digest: Digest) -> StoredBlob | None:
        """The blob where clients fetch it elsewhere; None where they do not. Raises BLOB_UNKNOWN."""
        path = layout.blob_data(digest)
        try:
            place = await self._driver.elsewhere(path)
        except PathNotFoundError as error:
            raise unknown_blob(digest) from error
        if place is None:
            return None
        if not self._plausible(digest, path, place.size):
            raise unknown_blob(digest)
        return placed(digest, self._driver, path, place)

    async def _open(self, digest: Digest, target: Digest, start: int = 0) -> StoredBlob | None:
        path = layout.blob_data(target)
        try:
            file = await self._driver.open(path, start)
        except PathNotFoundError:
            return None
        if not self._plausible(digest, path, file.size):
            await file.close()
            return None
        return StoredBlob(digest, file)

    def _tell_missing(self, repository: Repository, digest: Digest, target: Digest | None) -> None:
        if target is not None:
            self._links.broken(layout.layer_link(repository, digest), "the data is missing")

    def _plausible(self, digest: Digest, path: str, size: int) -> bool:
        """A file of no bytes is what a crash leaves of any blob, where writes were not synced."""
        if size or digest.matches(b""):
            return True
        self._links.broken(path, "no bytes")
        return False
