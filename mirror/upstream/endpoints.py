"""`Endpoints`: the addresses of one upstream as one Registry, in order of preference.

1. Those that would be asked now go first (no breaker is open, no rate limit waits), and among them those
   that have not failed for DEMOTED; within both, the order is the configured one.
2. The next one is asked after Unavailable, RateLimited and Corrupt. Every other answer is final, whoever
   gives it: 401, 403 and 404 of one address are not contradicted by another. So addresses must have the same
   content and the same rights; one that lags behind belongs at the end, where it is asked in need only.
   What is asked with a caller's own credentials demotes none: his failures may be of his own making.
3. A blob that breaks off while it is read is not carried on here: it demotes its address, so whoever asks for
   the rest (`start`) gets that from the next one.
4. A blob that was given to its end and is asked for again within DEMOTED was not what its digest says, for
   whoever asked keeps what is right: another address goes first then. Bytes are not checked here.
5. When all fail, the failure is that of the most preferred address, by whose name people know the upstream;
   but one that says "try later" goes before Corrupt, which nobody tries again.

A call takes at most as long as it would at each address, one after the other. With a client's defaults one
request takes 0.3 s where connections are refused and 35 s where nothing answers, starts no attempt after
`retry.BUDGET`, and takes no time where a breaker is open.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

import structlog
from cachetools import TTLCache

from mirror.oci.challenge import Said
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import (
    Blob,
    Condition,
    Corrupt,
    Inlet,
    Page,
    RateLimited,
    RawManifest,
    RegistryError,
    Resolved,
    Unavailable,
)
from mirror.upstream.body import RemoteBlob
from mirror.upstream.client import Client

DEMOTED = 60.0  # seconds behind the others after a failure: one request a minute finds out the hard way
GIVEN = 256  # blobs of which it is known who gave them; a forgotten one comes from the same address again
AWAY = (Unavailable, RateLimited, Corrupt)  # after these another address is asked

_NONE = Repository("")  # of a question that is about the whole registry

T = TypeVar("T")

_log = structlog.get_logger()


class Endpoints:
    """See the module's text. `clients` has one at least; they are closed by `close`."""

    def __init__(
        self, clients: Sequence[Client], namespace: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._clients = tuple(clients)
        self._only = self._clients[0] if len(self._clients) == 1 else None
        self._namespace = namespace
        self._now = now
        self._behind: dict[Client, float] = {}  # until when it is demoted
        # Rule 4; with the bytes that were not given yet.
        self._given: TTLCache[Digest, tuple[Client, int]] = TTLCache(GIVEN, DEMOTED, timer=now)

    async def close(self) -> None:
        """Drop all connections. Safe to call twice."""
        for client in self._clients:
            await client.close()

    def condition(self, repository: Repository) -> Condition:
        """That of the address which would be asked next; in trouble only if all are."""
        preferred = self._clients[0]
        condition = preferred.condition(repository)
        well = condition.trouble is None and condition.blobs is None
        if self._only is not None or (well and self._behind.get(preferred, 0.0) <= self._now()):
            return condition  # soon said: this is asked for each answer from what is kept
        conditions = [client.condition(repository) for client in self._order(repository, blob=False)]
        first = conditions[0]
        if first.blobs is None:  # as to `trouble`, none is better: that is what they are in order of
            return first
        healthy = any(each.blobs is None for each in conditions)
        return Condition(self._namespace, first.trouble, None if healthy else first.blobs, first.stretch)

    def expect(self, repository: Repository) -> None:
        """As `Upstream.expect`, at the address that would be asked for a blob now."""
        first = self._only or self._order(repository, blob=True)[0]
        first.expect(repository)

    def describe(self, now: float, repository: Repository | None = None) -> dict[str, Any]:
        """`endpoints`: `Client.describe` of each, in order of preference; `behind_for` in s if demoted."""
        described = []
        for client in self._clients:
            left = self._behind.get(client, now) - now
            described.append(
                client.describe(now, repository) | ({"behind_for": round(left, 1)} if left > 0 else {})
            )
        return {"endpoints": described}

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        """What the tag points to. Errors: as `Client.resolve`."""
        return await self._ask(repository, lambda client: client.resolve(repository, tag))

    async def manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        """A manifest. Errors: as `Client.manifest`."""
        return await self._ask(repository, lambda client: client.manifest(repository, reference))

    async def stat_manifest(self, repository: Repository, reference: Reference) -> Descriptor:
        """A manifest's descriptor. Errors: as `Client.stat_manifest`."""
        return await self._ask(repository, lambda client: client.stat_manifest(repository, reference))

    async def stat_blob(self, repository: Repository, digest: Digest) -> Descriptor:
        """A blob's descriptor. Errors: as `Client.stat_blob`."""
        return await self._ask(repository, lambda client: client.stat_blob(repository, digest), blob=True)

    async def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        start: int = 0,
        size: int | None = None,
        stop: int | None = None,
    ) -> Blob:
        """Open a blob; see rules 3 and 4. Errors: as `Client.blob`."""
        if self._only is not None:
            return await self._only.blob(repository, digest, start=start, size=size, stop=stop)

        async def opened(client: Client) -> Blob:
            found = await client.blob(repository, digest, start=start, size=size, stop=stop)
            gave = partial(self._gave, digest, client, size=found.descriptor.size)
            return _Watched(found, partial(self._demote, client), gave, is_part=stop is not None)

        return await self._ask(repository, opened, blob=True, giver=self._giver(digest))

    async def tags(self, repository: Repository, n: int | None, last: str) -> Page:
        """Tags. Errors: as `Client.tags`."""
        return await self._ask(repository, lambda client: client.tags(repository, n, last))

    async def repositories(self, n: int | None, last: str) -> Page:
        """Not asked of an upstream: UNSUPPORTED."""
        return await self._clients[0].repositories(n, last)

    async def referrers(self, repository: Repository, digest: Digest) -> tuple[dict[str, Any], ...]:
        """Referrers. Errors: as `Client.referrers`."""
        return await self._ask(repository, lambda client: client.referrers(repository, digest))

    async def ask_as(self, authorization: str, repository: Repository | None, rest: str) -> Said:
        """What the registry says to somebody else's credentials; as `Client.ask_as`."""
        about = repository or _NONE
        # Who can have a registry fail by what he sends chooses for nobody else which one is asked first.
        return await self._ask(
            about, lambda client: client.ask_as(authorization, repository, rest), demotes=False
        )

    async def _ask(
        self,
        repository: Repository,
        question: Callable[[Client], Awaitable[T]],
        *,
        blob: bool = False,
        giver: Client | None = None,
        demotes: bool = True,
    ) -> T:
        """The first answer; `giver` is for rule 4, `demotes` for 2. Raises what rule 5 says."""
        if self._only is not None:
            return await question(self._only)
        failures: dict[Client, RegistryError] = {}
        for client in self._order(repository, blob=blob, giver=giver):
            try:
                return await question(client)
            except AWAY as error:
                failures[client] = error
                if demotes:
                    self._demote(client, error)
        ranked = sorted(failures, key=lambda each: (isinstance(failures[each], Corrupt), self._rank(each)))
        raise failures[ranked[0]]

    def _order(self, repository: Repository, *, blob: bool, giver: Client | None = None) -> list[Client]:
        """Rules 1 and 4. Of those that have failed, the one that has rested longest goes first."""
        now = self._now()

        def key(client: Client) -> tuple[bool, bool, float]:
            condition = client.condition(repository)
            shut = (condition.blobs if blob else condition.trouble) is not None
            behind = self._behind.get(client, now)
            return shut, client is giver, max(now, behind)

        return sorted(self._clients, key=key)  # stable: else in order of preference

    def _rank(self, client: Client) -> int:
        return self._clients.index(client)

    def _gave(self, digest: Digest, client: Client, count: int, *, size: int, to_the_end: bool) -> None:
        """So many bytes more of a blob of `size`. The parts of one come in any order."""
        giver, left = self._given.get(digest, (client, size))
        left = (left if giver is client else size) - count
        self._given[digest] = (client, 0 if to_the_end else max(0, left))

    def _giver(self, digest: Digest) -> Client | None:
        """Who has given this blob to its end."""
        giver, left = self._given.get(digest, (None, 0))
        return giver if not left else None

    def _demote(self, client: Client, error: RegistryError) -> None:
        now = self._now()
        if self._behind.get(client, now) <= now:
            url = client.describe(now)["url"]
            _log.warning("upstream.endpoint.failed", url=url, namespace=self._namespace, reason=str(error))
        self._behind[client] = now + DEMOTED


class _Watched:
    """A blob of one address, or a part of it, which tells when reading it failed, and what was read."""

    def __init__(
        self,
        blob: RemoteBlob,
        failed: Callable[[RegistryError], None],
        gave: Callable[..., None],
        *,
        is_part: bool,
    ) -> None:
        self._blob = blob
        self._failed = failed
        self._gave = gave
        self._is_part = is_part
        self._position = blob.start

    @property
    def descriptor(self) -> Descriptor:
        return self._blob.descriptor

    @property
    def start(self) -> int:
        return self._blob.start

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """As `RemoteBlob.read`."""
        self._position = start
        async with aclosing(self._blob.read(start, stop)) as parts:
            try:
                async for part in parts:
                    self._came(len(part))  # now: the reader may not come back
                    yield part
            except AWAY as error:
                self._failed(error)
                raise

    async def draw(self, stop: int, worth: int) -> AsyncGenerator[bytes | Inlet, None]:
        """As `RemoteBlob.draw`."""
        async with aclosing(self._blob.draw(stop, worth)) as parts:
            try:
                async for part in parts:
                    if isinstance(part, bytes):
                        self._came(len(part))
                        yield part
                        continue
                    try:
                        yield part
                    finally:
                        self._came(part.taken)
            except AWAY as error:
                self._failed(error)
                raise

    def _came(self, count: int) -> None:
        self._position += count
        at_end = self._position == self._blob.descriptor.size and not self._is_part
        self._gave(count, to_the_end=at_end)

    async def close(self) -> None:
        await self._blob.close()
