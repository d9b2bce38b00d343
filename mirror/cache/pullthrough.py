"""The Registry made of the other two: what we have, and what the upstream has."""

from __future__ import annotations

import json
from typing import Any

import structlog

from mirror.cache.blobs import Blobs
from mirror.cache.fills import Fills
from mirror.cache.manifests import AWAY, Manifests
from mirror.cache.memory import Memory
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import Blob, Page, RawManifest, Registry, RegistryError, Resolved
from mirror.store.content import ContentStore

DESCRIPTORS = 10_000  # distribution's default for storage.cache.blobdescriptorsize

log = structlog.get_logger()


class PullThrough:
    """Answers from the store, else from the upstream, keeping what passes.

    `deadline` is in seconds, see Manifests; `descriptors` is a number of entries, see Memory. `close` ends
    the work under way; store, upstream and fills belong to the caller.
    """

    def __init__(
        self,
        store: ContentStore,
        upstream: Registry,
        fills: Fills,
        *,
        deadline: float,
        descriptors: int = DESCRIPTORS,
    ) -> None:
        memory = Memory(descriptors)
        self._store = store
        self._upstream = upstream
        self._manifests = Manifests(store, upstream, memory, deadline)
        self._blobs = Blobs(store, upstream, fills, memory)

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        return await self._manifests.resolve(repository, tag)

    async def manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        return await self._manifests.get(repository, reference)

    async def stat_manifest(self, repository: Repository, reference: Reference) -> Descriptor:
        return await self._manifests.stat(repository, reference)

    async def blob(
        self, repository: Repository, digest: Digest, *, start: int = 0, size: int | None = None
    ) -> Blob:
        return await self._blobs.open(repository, digest, start)

    async def stat_blob(self, repository: Repository, digest: Digest) -> Descriptor:
        return await self._blobs.stat(repository, digest)

    async def tags(self, repository: Repository, n: int | None, last: str) -> Page:
        """The upstream's tags; those that we have when it is away."""
        try:
            return await self._upstream.tags(repository, n, last)
        except AWAY as error:
            try:
                page = await self._store.tags(repository, n, last)
            except RegistryError:
                raise error from None  # "not known" would be a guess
            log.warning("tags.local", repository=str(repository), reason=str(error))
            return page

    async def repositories(self, n: int | None, last: str) -> Page:
        """Of the store: no upstream of size lists all its repositories."""
        return await self._store.repositories(n, last)

    async def referrers(self, repository: Repository, digest: Digest) -> tuple[dict[str, Any], ...]:
        """The upstream's; where it has no API, those of the referrers tag; ours when it is away.

        (OCI distribution-spec, "Referrers Tag Schema".)
        """
        try:
            return await self._upstream.referrers(repository, digest)
        except AWAY as error:
            return await self._kept_referrers(repository, digest, error)
        except RegistryError as error:
            if error.code is not ErrorCode.UNSUPPORTED:
                raise
        tag = Tag(f"{digest.algorithm}-{digest.hex}"[:128])
        try:
            index = await self._manifests.get(repository, tag)
        except AWAY as error:
            return await self._kept_referrers(repository, digest, error)
        except RegistryError as error:
            if error.status != 404:
                raise
            return await self._kept_referrers(repository, digest, None)
        return _entries(index)

    async def settle(self) -> None:
        """Wait until the manifests and tags that were given are written; new ones may come meanwhile."""
        await self._manifests.settle()

    async def close(self) -> None:
        await self._manifests.close()
        await self._blobs.close()

    async def _kept_referrers(
        self, repository: Repository, digest: Digest, error: RegistryError | None
    ) -> tuple[dict[str, Any], ...]:
        """Ours; an empty list only when the upstream did not fail: it would say that there are none."""
        try:
            found = await self._store.referrers(repository, digest)
        except RegistryError:
            found = ()
        if not found and error is not None:
            raise error
        return found


def _entries(index: RawManifest) -> tuple[dict[str, Any], ...]:
    """The descriptors in an index whose digest was checked; what is no index has none."""
    document = json.loads(index.body)
    entries = document.get("manifests") if isinstance(document, dict) else None
    return tuple(entry for entry in entries or () if isinstance(entry, dict))
