"""Blobs: from the store, from the fill under way, or from a new fill; and who may read which.

A client gets a blob only through a repository that has it: it is linked in this repository, or the upstream
confirms it for this repository; when the upstream is away, a kept manifest of this repository that names it
is enough. Bytes that the store holds through another repository are then linked, not downloaded again, but
for registries that the operator has not named: see `strangers`.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from mirror import provenance
from mirror.cache.away import AWAY, note_failure
from mirror.cache.fill import Fill
from mirror.cache.fillblob import MEDIA_TYPE, FillBlob
from mirror.cache.fills import Fills
from mirror.cache.memory import Memory
from mirror.cache.pulse import Pulse
from mirror.coalesce import Coalescer
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import Blob, RateLimited, RegistryError, Unavailable, Upstream
from mirror.store.content import ContentStore
from mirror.store.errors import StoreError

REFUSALS = (401, 403, 404)  # what is believed for a while: not there, or not for us
ROUNDS = 8  # times that a request looks anew because a fill of its blob began or ended while it looked

log = structlog.get_logger()


class _OtherSizeError(Exception):
    """The upstream has something of another size by a blob's digest."""


class Blobs:
    """See the module's text.

    `deadline`: seconds that asking the upstream may hold a client whose blob is here, and named by a kept
    manifest.
    """

    def __init__(
        self,
        store: ContentStore,
        upstream: Upstream,
        fills: Fills,
        memory: Memory,
        pulse: Pulse,
        deadline: float,
    ) -> None:
        self._pulse = pulse
        self._deadline = deadline
        self._store = store
        self._upstream = upstream
        self._fills = fills
        self._memory = memory
        self._stats: Coalescer[tuple[Repository, Digest], Descriptor] = Coalescer()
        self._confirmations: Coalescer[tuple[Repository, Digest], None] = Coalescer()
        self._checks: Coalescer[Digest, bool] = Coalescer()

    async def open(self, repository: Repository, digest: Digest, start: int) -> Blob:
        """The blob from `start` on, opened: warm, or cold and growing."""
        told = provenance.current()
        for _ in range(ROUNDS):
            ended = self._fills.ended(digest)
            fill = self._fills.running(repository, digest, start)
            if fill is None:
                blob = await self._kept(repository, digest, start)
                if blob is not None:
                    told.hit = not told.fwd
                    return blob
                if (
                    self._fills.ended(digest) != ended
                    or self._fills.running(repository, digest, start) is not None
                ):
                    continue  # what was missing a moment ago may be there now
                self._refuse_absent(repository, digest)
                fill = self._fills.start(repository, digest)
                told.collapsed = False
            else:
                told.collapsed = True
                self._fills.counts.joined += 1
            told.fwd = "uri-miss"
            reader = await self._join(fill, repository)
            if reader is not None:
                told.stored = fill.keeps
                return reader
        raise Unavailable("too many attempts to fetch this blob failed at the same time", retry_after=1)

    async def stat(self, repository: Repository, digest: Digest) -> Descriptor:
        """The descriptor; of a cold blob the upstream is asked for no more than that."""
        blob = await self._kept(repository, digest, None)
        if blob is not None:
            await blob.close()
            provenance.current().hit = not provenance.current().fwd
            return Descriptor(digest, blob.descriptor.size, MEDIA_TYPE)
        self._refuse_absent(repository, digest)
        provenance.current().fwd = "uri-miss"
        found = await self._ask(repository, digest)
        return Descriptor(digest, found.size, MEDIA_TYPE)

    async def close(self) -> None:
        await self._confirmations.close()
        await self._stats.close()
        await self._checks.close()

    async def _join(self, fill: Fill, repository: Repository) -> FillBlob | None:
        """A reader of this fill; None when it failed through another repository, whose reason is not ours."""
        reader = fill.reader()
        try:
            if repository not in fill.repositories and await self._authorise(repository, fill.digest):
                fill.repositories.add(repository)
            await reader.ready()
        except BaseException as error:
            await reader.close()
            if isinstance(error, RegistryError):
                if error is fill.failure and fill.repository != repository:
                    return None
                self._note(repository, fill.digest, error)
            raise
        provenance.current().fwd_status = 200
        self._pulse.heard(self._upstream.condition(fill.repository).namespace)
        return reader

    async def _kept(self, repository: Repository, digest: Digest, start: int | None) -> Blob | None:
        """The blob from the store, if its bytes are there and this repository has it. Raises the refusal.

        `start`: as `ContentStore.open_blob` has it.
        """
        try:
            blob = await self._store.open_blob(digest, start)
        except RegistryError as error:
            if error.code is not ErrorCode.BLOB_UNKNOWN:
                log.warning("store.unreadable", digest=str(digest), reason=str(error))
            return None
        try:
            allowed = await self._allow(repository, digest, blob.descriptor.size)
            if allowed and await self._is_sound(repository, blob):
                return blob
        except BaseException:
            await blob.close()
            raise
        await blob.close()
        return None

    async def _allow(self, repository: Repository, digest: Digest, size: int) -> bool:
        """Return if this repository may give the blob, noting what is sure; else raise the refusal.

        False: what is here is not for a stranger that has not brought it; or the upstream has something of
        another size by this name, and has to bring it first.
        """
        if self._memory.is_linked(repository, digest):
            return True
        moment = self._memory.gone.now
        try:
            linked = await self._store.is_linked(repository, digest)
        except Unavailable:  # a link that cannot be read is no link
            linked = False
        if linked:
            self._fills.strangers.brought(repository, digest)
        else:
            if not self._fills.strangers.has_brought(repository, digest):
                return False
            # Where not: for this time. What the upstream has not confirmed is written down nowhere.
            try:
                await self._authorise(repository, digest, kept=size)
            except _OtherSizeError as error:
                log.warning("blob.other_size", digest=str(digest), reason=str(error))
                return False
            return True
        if not self._memory.gone.any_since(moment, (digest,)):  # else the link was read just before it went
            self._memory.linked(repository, digest)
        return True

    async def _authorise(self, repository: Repository, digest: Digest, *, kept: int | None = None) -> bool:
        """Return if this repository may give the blob: True when the upstream says so, False when it is away
        and a kept manifest names the blob. Raises the refusal. `kept`: the size of what is here, which is
        linked when it says so of that size; of another: _OtherSizeError.

        NB: that a manifest names a blob says that some registry has checked it, some time; one HEAD, whose
        outcome the link remembers, says that this registry does so now.
        """
        self._refuse_absent(repository, digest)
        told = provenance.current()
        named: Descriptor | None = None
        try:
            if self._upstream.condition(repository).blobs is None:
                async with asyncio.timeout(self._deadline):
                    await self._asked(repository, digest, kept=kept)
                return True
        except TimeoutError:
            pass
        except AWAY as error:
            named = await self._named(repository, digest)
            if named is None:
                self._note(repository, digest, error)
                raise
        if named is None and await self._named(repository, digest) is None:
            await self._asked(repository, digest, kept=kept)  # for as long as it takes: nothing else can tell
            return True
        told.fwd, told.detail = "", "away"
        return False

    async def _asked(self, repository: Repository, digest: Digest, *, kept: int | None) -> None:
        """Return when the upstream confirms that this repository has the blob."""
        told = provenance.current()
        told.fwd = "uri-miss"
        try:
            if kept is not None:
                confirm = partial(self._confirm, repository, digest, kept)
                await self._confirmations.run((repository, digest), confirm)
            else:
                await self._stat(repository, digest)
        except RegistryError as error:
            self._note(repository, digest, error)
            raise
        told.fwd_status = 200

    async def _confirm(self, repository: Repository, digest: Digest, kept: int) -> None:
        """Ask, and link the blob when the upstream says so, also when nobody waits for that any more.

        NB: a yes of another size is about something else: a page that answers everybody, or what is here is
        damaged. Whoever brings the bytes shows which.
        """
        found = await self._stat(repository, digest)
        if found.size != kept:
            raise _OtherSizeError(f"{kept} bytes are kept, the upstream of {repository} has {found.size}")
        try:
            await self._store.link_blob(repository, digest)
        except StoreError as error:
            log.warning("blob.not_linked", digest=str(digest), reason=str(error))
        self._memory.linked(repository, digest)

    def _refuse_absent(self, repository: Repository, digest: Digest) -> None:
        """Raise what the upstream said lately, if it was that it does not have this."""
        absent = self._memory.absent_blobs.get(repository, digest)
        if absent is not None:
            provenance.current().refused_lately()
            raise absent

    def _note(self, repository: Repository, digest: Digest, error: RegistryError) -> None:
        """What a request learns from a failure."""
        self._note_refusal(repository, digest, error)
        # A 429 about a blob was just heard; of other troubles the condition of now is that of a moment ago.
        limited = isinstance(error, RateLimited)
        note_failure(error, None if limited else self._upstream.condition(repository).blobs)

    def _note_refusal(self, repository: Repository, digest: Digest, error: RegistryError) -> None:
        if error.status in REFUSALS and not isinstance(error, AWAY):
            self._memory.absent_blobs.note(repository, digest, error)

    async def _named(self, repository: Repository, digest: Digest) -> Descriptor | None:
        """The descriptor by which a kept manifest of this repository names the blob."""
        named = self._memory.named(repository, digest)
        if named is None:
            try:
                named = await self._store.names(repository, digest)
            except Unavailable:
                return None
        return named

    async def _is_sound(self, repository: Repository, blob: Blob) -> bool:
        """Whether a stored blob has the size by which it is named; looked at once until the next start.

        Where it has not, its bytes decide: the manifest may be wrong as well as the file. A broken file is
        deleted, to be fetched again.
        """
        digest, size = blob.descriptor.digest, blob.descriptor.size
        if self._memory.is_sound(digest, size):
            return True
        named = await self._named(repository, digest)
        if (
            named is not None
            and named.size != size
            and not await self._checks.run(digest, lambda: self._store.matches(digest))
        ):
            log.warning("blob.discarded", digest=str(digest), reason=f"{size} bytes instead of {named.size}")
            try:
                await self._store.discard_blob(digest)
            except StoreError as error:
                log.warning("blob.not_discarded", digest=str(digest), reason=str(error))
            finally:
                self._memory.forget_blob(digest)
            return False
        self._memory.sound(digest, size)
        return True

    async def _ask(self, repository: Repository, digest: Digest) -> Descriptor:
        """What the upstream says of the blob."""
        try:
            return await self._stat(repository, digest)
        except RegistryError as error:
            self._note(repository, digest, error)
            raise

    async def _stat(self, repository: Repository, digest: Digest) -> Descriptor:
        """One question for all who have it."""
        return await self._stats.run((repository, digest), partial(self._upstream_stat, repository, digest))

    async def _upstream_stat(self, repository: Repository, digest: Digest) -> Descriptor:
        try:
            return await self._upstream.stat_blob(repository, digest)
        except RegistryError as error:
            self._note_refusal(repository, digest, error)
            raise
