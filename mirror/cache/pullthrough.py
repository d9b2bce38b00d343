"""The Registry made of the other two: what we have, and what the upstream has."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import structlog

from mirror import provenance
from mirror.cache.away import AWAY, note_failure
from mirror.cache.blobs import Blobs
from mirror.cache.checks import Checks
from mirror.cache.explain import Explainer
from mirror.cache.fills import Fills
from mirror.cache.freshness import Policy
from mirror.cache.images import Images
from mirror.cache.lessor import Lessor, NoteUse
from mirror.cache.manifests import Manifests
from mirror.cache.memory import Memory
from mirror.cache.patience import Patience
from mirror.cache.pulse import Pulse
from mirror.cache.room import Room, Unlimited
from mirror.cache.standing import Standings
from mirror.cache.tagged import Tagged
from mirror.cache.tags import Remembering, Tags
from mirror.lease import Lease
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import Blob, Page, RawManifest, RegistryError, Resolved, Upstream
from mirror.store.content import ContentStore

DESCRIPTORS = 10_000  # distribution's default for storage.cache.blobdescriptorsize

log = structlog.get_logger()


class PullThrough:
    """Answers from the store, else from the upstream, keeping what passes.

    `deadline`: seconds that asking the upstream may hold a client that could have what is kept.
    `room` is asked before a manifest is kept; `note_use` is told what clients are given; `clock` is the wall
    clock, see Standings. `close` ends the work under way; all that is given here belongs to the caller.
    """

    def __init__(
        self,
        store: ContentStore,
        upstream: Upstream,
        fills: Fills,
        ledger: Remembering,
        *,
        policy: Policy,
        deadline: float,
        memory: Memory | None = None,
        room: Room | None = None,
        note_use: NoteUse | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        memory = memory or Memory(DESCRIPTORS, policy.negative)
        self._note_use = note_use or (lambda _digest, _repository, _now, _count: None)
        self._clock = clock
        tags = Tags(ledger, memory.leases)
        patience, pulse = Patience(deadline), Pulse()
        images = Images(store, memory)
        self._store = store
        self._upstream = upstream
        self._images = images
        self._manifests = Manifests(store, upstream, memory, tags, images, pulse, room or Unlimited())
        self._checks = Checks(upstream, self._manifests, tags, patience, pulse, clock)
        standings = Standings(tags, policy, clock)
        self._tagged = Tagged(upstream, self._manifests, images, standings, self._checks, patience)
        self._blobs = Blobs(store, upstream, fills, memory, pulse, deadline)
        self._lessor = Lessor(memory, standings, images, upstream, pulse, self._note_use, clock)
        self._explainer = Explainer(upstream, self._manifests, images, standings, patience, fills)

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        return await self._tagged.resolve(repository, tag)

    async def manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        if isinstance(reference, Digest):
            found = await self._manifests.get(repository, reference)
        else:
            found = await self._tagged.get(repository, reference)
        self._note_use(found.descriptor.digest, repository, self._clock(), 1)
        return found

    async def stat_manifest(self, repository: Repository, reference: Reference) -> Descriptor:
        """The descriptor. Of a digest that is not here, the manifest is fetched: its GET comes next."""
        if isinstance(reference, Digest):
            found = (await self._manifests.get(repository, reference)).descriptor
        else:
            found = (await self._tagged.resolve(repository, reference)).descriptor
        self._note_use(found.digest, repository, self._clock(), 1)
        return found

    async def blob(
        self, repository: Repository, digest: Digest, *, start: int = 0, size: int | None = None
    ) -> Blob:
        blob = await self._blobs.open(repository, digest, start)
        self._note_use(digest, repository, self._clock(), 1)
        return blob

    async def stat_blob(self, repository: Repository, digest: Digest) -> Descriptor:
        return await self._blobs.stat(repository, digest)

    def lease_manifest(self, repository: Repository, reference: Reference, digest: Digest) -> Lease | None:
        """Leave to repeat an answer: see `cache.lessor`."""
        return self._lessor.lease_manifest(repository, reference, digest)

    def lease_blob(
        self, repository: Repository, digest: Digest, size: int, until: float = math.inf
    ) -> Lease | None:
        """The same for a blob."""
        return self._lessor.lease_blob(repository, digest, size, until)

    async def tags(self, repository: Repository, n: int | None, last: str) -> Page:
        """The upstream's tags; those that we have when it is away."""
        told = provenance.current()
        told.fwd = "bypass"  # lists are never kept
        trouble = self._upstream.condition(repository).trouble
        try:
            page = await self._upstream.tags(repository, n, last)
            told.fwd_status = 200
            return page
        except RegistryError as error:
            note_failure(error, trouble)
            if not isinstance(error, AWAY):
                raise
            try:
                page = await self._store.tags(repository, n, last)
            except RegistryError:
                raise error from None  # "not known" would be a guess
            told.served_stale(None, "away", f"only tags that are kept here: {error.message}")
            log.warning("tags.local", repository=str(repository), reason=str(error))
            return page

    async def repositories(self, n: int | None, last: str) -> Page:
        """Of the store: no upstream of size lists all its repositories."""
        provenance.current().hit = True
        return await self._store.repositories(n, last)

    async def referrers(self, repository: Repository, digest: Digest) -> tuple[dict[str, Any], ...]:
        """The upstream's; where it has no API, those of the referrers tag; ours when it is away.

        (OCI distribution-spec, "Referrers Tag Schema".)
        """
        told = provenance.current()
        told.fwd = "bypass"
        try:
            found = await self._upstream.referrers(repository, digest)
            told.fwd_status = 200
            return found
        except AWAY as error:
            return await self._kept_referrers(repository, digest, error)
        except RegistryError as error:
            if error.code is not ErrorCode.UNSUPPORTED:
                raise
        tag = Tag(f"{digest.algorithm}-{digest.hex}"[:128])
        try:
            index = await self._tagged.get(repository, tag)
        except AWAY as error:
            return await self._kept_referrers(repository, digest, error)
        except RegistryError as error:
            if error.status != 404:
                raise
            return await self._kept_referrers(repository, digest, None)
        return _entries(index)

    async def explain(self, repository: Repository, reference: Reference) -> dict[str, Any]:
        """What is known of an image, and what the next pull would do: see `cache.explain`."""
        return await self._explainer.explain(repository, reference)

    async def settle(self) -> None:
        """Wait until the manifests and tags that were given are written; new ones may come meanwhile."""
        await self._manifests.settle()

    async def close(self) -> None:
        await self._checks.close()
        await self._manifests.close()
        await self._blobs.close()
        await self._images.close()

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
        if error is not None:
            text = f"only referrers that are kept here: {error.message}"
            provenance.current().served_stale(None, "away", text)
        return found


def _entries(index: RawManifest) -> tuple[dict[str, Any], ...]:
    """The descriptors in an index whose digest was checked; what is no index has none."""
    document = json.loads(index.body)
    entries = document.get("manifests") if isinstance(document, dict) else None
    return tuple(entry for entry in entries or () if isinstance(entry, dict))
