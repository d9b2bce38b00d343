"""`Client`: somebody else's registry as a Registry. `manifests`, `blobs` and `listing` do what it says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mirror.oci.challenge import Said
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import Condition, Page, RawManifest, RegistryError, Resolved
from mirror.upstream import listing
from mirror.upstream.blobs import Blobs
from mirror.upstream.body import RemoteBlob
from mirror.upstream.calls import Calls
from mirror.upstream.lookups import Lookups
from mirror.upstream.manifests import Manifests
from mirror.upstream.settings import Settings
from mirror.upstream.traffic import Traffic


class Client:
    """One upstream registry. Nothing is sent, opened or read before the first call; `close` ends it.

    `now` is the clock of breakers and quota; `lookups` are shared with others, unless it has its own.
    `traffic` is where what goes over the network is counted.
    """

    def __init__(
        self,
        settings: Settings,
        now: Callable[[], float] = time.monotonic,
        lookups: Lookups | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        self._calls = Calls(settings, now, lookups, traffic)
        self._manifests = Manifests(self._calls)
        self._blobs = Blobs(self._calls)

    async def close(self) -> None:
        """Drop all connections. Safe to call twice."""
        await self._calls.close()

    def condition(self, repository: Repository) -> Condition:
        """Whether it would be asked now about this repository, by breakers and rate limit."""
        return self._calls.condition(repository)

    def expect(self, repository: Repository) -> None:
        """Blobs of this repository will be asked for in a moment: as `Calls.expect`."""
        self._calls.expect(repository)

    def describe(self, now: float, repository: Repository | None = None) -> dict[str, Any]:
        """How it is doing, for operators; see `Health.describe`."""
        return self._calls.describe(now, repository)

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        """What the tag points to.

        Errors: MANIFEST_UNKNOWN, NAME_UNKNOWN, UNAUTHORIZED, DENIED; Unavailable, RateLimited, Corrupt.
        """
        descriptor, manifest = await self._manifests.look_up(repository, tag)
        return Resolved(descriptor, manifest)

    async def stat_manifest(self, repository: Repository, reference: Reference) -> Descriptor:
        """A manifest's descriptor, by HEAD where that works. Errors: as `resolve`."""
        return (await self._manifests.look_up(repository, reference))[0]

    async def manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        """A manifest, checked against its digest (a tag's: the one that the upstream sent along, if any).

        Errors: as `resolve`; Corrupt for what is no manifest, too large, or not the one asked for.
        """
        return await self._manifests.get(repository, reference)

    async def stat_blob(self, repository: Repository, digest: Digest) -> Descriptor:
        """A blob's descriptor; its body is not read.

        Errors: BLOB_UNKNOWN, NAME_UNKNOWN, and the others of `resolve`.
        """
        return await self._blobs.stat(repository, digest)

    async def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        start: int = 0,
        size: int | None = None,
        stop: int | None = None,
    ) -> RemoteBlob:
        """Open a blob, or what is before `stop`. `start` of what comes back is 0, and it comes to its end,
        where the upstream does not do ranges.

        Errors: BLOB_UNKNOWN, NAME_UNKNOWN, RANGE_INVALID (nothing is at `start`), and those of `resolve`.
        """
        return await self._blobs.open(repository, digest, start=start, size=size, stop=stop)

    async def tags(self, repository: Repository, n: int | None, last: str) -> Page:
        """Tags. Errors: NAME_UNKNOWN, and those of `resolve`."""
        return await listing.tags(self._calls, repository, n, last)

    async def repositories(self, n: int | None, last: str) -> Page:
        """Not asked of an upstream: Docker Hub has none, and a mirror lists what it holds."""
        raise RegistryError(ErrorCode.UNSUPPORTED, "an upstream's catalog is not mirrored")

    async def ask_as(self, authorization: str, repository: Repository | None, rest: str) -> Said:
        """What the registry says to somebody else's credentials; as `Calls.ask_as`."""
        return await self._calls.ask_as(authorization, repository, rest)

    async def referrers(self, repository: Repository, digest: Digest) -> tuple[dict[str, Any], ...]:
        """Referrers. Errors: UNSUPPORTED, and those of `resolve`."""
        return await listing.referrers(self._calls, repository, digest)
