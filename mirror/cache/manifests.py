"""Manifests by digest: fetched once for all who ask at once, kept, and given as long as they are here.

What comes from the upstream is answered at once and kept behind the answer; a failing store fails nobody. A
tag is written after its manifest, and only while it is the upstream's last word.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

import structlog

from mirror import provenance
from mirror.cache.away import AWAY, incomplete, note_failure
from mirror.cache.images import Images
from mirror.cache.memory import Memory
from mirror.cache.pulse import Pulse
from mirror.cache.room import Room
from mirror.cache.tags import Tags, Word
from mirror.coalesce import Coalescer
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.registry import RateLimited, RawManifest, RegistryError, Unavailable, Upstream
from mirror.store.content import ContentStore
from mirror.store.errors import StoreError

# Seconds that a manifest waits to be told by the store whether its image is all here: a bucket that hangs is
# found out after three requests of thirty. Then the upstream is asked whether it is there.
LOOK = 1.0

log = structlog.get_logger()


class Manifests:
    """See the module's text."""

    def __init__(
        self,
        store: ContentStore,
        upstream: Upstream,
        memory: Memory,
        tags: Tags,
        images: Images,
        pulse: Pulse,
        room: Room,
    ) -> None:
        self._pulse = pulse
        self._room = room
        self._knocks: Coalescer[str, None] = Coalescer()
        self._store = store
        self._upstream = upstream
        self._memory = memory
        self._tags = tags
        self._images = images
        self._fetches: Coalescer[tuple[Repository, Digest], RawManifest] = Coalescer()
        self._writes: Coalescer[tuple[Repository, Digest | Tag], None] = Coalescer()
        self._turns: WeakValueDictionary[tuple[Repository, Tag], asyncio.Lock] = WeakValueDictionary()

    async def get(self, repository: Repository, digest: Digest) -> RawManifest:
        """The manifest for a client that asked for this digest.

        While blobs cannot be had, one of an image that is not all here is refused: see `away.incomplete`.
        """
        here = await self.here(repository, digest)
        told = provenance.current()
        if here is None:
            told.fwd, told.stored = "uri-miss", True
            told.collapsed = self._fetches.is_running((repository, digest))
            return await self.complete(repository, await self.asked(repository, digest))
        told.fwd = "uri-miss"
        await self.complete(repository, here)
        told.hit, told.fwd = True, ""
        return here

    async def asked(self, repository: Repository, digest: Digest) -> RawManifest:
        """`fetch` for a client, which is told what the upstream said."""
        told = provenance.current()
        absent = self._memory.absent_manifests.get(repository, digest)
        if absent is not None:
            told.refused_lately()
            raise absent
        trouble = self._upstream.condition(repository).trouble
        try:
            manifest = await self.fetch(repository, digest)
        except RegistryError as error:
            note_failure(error, trouble)
            raise
        told.fwd_status = 200
        return manifest

    async def complete(self, repository: Repository, manifest: RawManifest) -> RawManifest:
        """The manifest, unless blobs of its image are not here and cannot be had: then Unavailable.

        Where nothing was heard of the upstream lately, and not all of it is known to be here, that is asked
        whether it is there.
        """
        condition = self._upstream.condition(repository)
        trouble = condition.blobs
        if trouble is None:
            namespace = condition.namespace
            if self._pulse.lately(namespace) or await self._is_whole(repository, manifest):
                return manifest
            self._upstream.expect(repository)
            trouble = await self._knock(namespace, repository, manifest.descriptor.digest)
        if trouble is not None:
            await self.demand_all(repository, manifest, trouble)
        return manifest

    async def _is_whole(self, repository: Repository, manifest: RawManifest) -> bool:
        """Whether the store says in time that all of the image is here; the look goes on behind."""
        try:
            async with asyncio.timeout(LOOK):
                return not (await self._images.missing(repository, manifest))[0]
        except TimeoutError:
            return False

    async def _knock(self, namespace: str, repository: Repository, digest: Digest) -> RegistryError | None:
        """Why blobs of this upstream cannot be had; None: it answers. One question for all who ask."""

        async def ask() -> None:
            await self._upstream.stat_manifest(repository, digest)

        try:
            await self._knocks.run(namespace, ask)
        except RateLimited:  # of manifests
            pass
        except AWAY as error:
            return error
        except RegistryError:  # it may say what it likes: it is there
            pass
        self._pulse.heard(namespace)
        return None

    async def demand_all(self, repository: Repository, manifest: RawManifest, reason: RegistryError) -> None:
        """Raise Unavailable if not all of the image is here, for this reason."""
        missing, total = await self._images.missing(repository, manifest)
        if missing:
            provenance.current().detail = "incomplete"
            raise incomplete(missing, total, reason) from reason

    async def here(self, repository: Repository, digest: Digest) -> RawManifest | None:
        """The manifest if this repository has it, in memory or in the store."""
        manifest = self._memory.manifest(repository, digest)
        if manifest is not None:
            if not self._memory.is_kept(repository, digest):
                self.keep(repository, manifest)  # there was no room when it came
            return manifest
        moment = self._memory.gone.now
        try:
            manifest = await self._store.manifest(repository, digest)
        except RegistryError as error:
            if isinstance(error, Unavailable):
                log.warning("store.unreadable", repository=str(repository), reason=str(error))
            return None
        if not self._memory.gone.any_since(moment, (digest,)):  # else it may have been read just before
            self._memory.kept(repository, digest)
        await self.remember(repository, manifest, moment)
        return manifest

    async def copy(self, repository: Repository, tag: Tag, word: Word | None) -> RawManifest | None:
        """What is kept under the tag: what the upstream said last, else what the tree has."""
        if word is not None and word.digest is not None:
            manifest = await self.here(repository, word.digest)
            if manifest is not None:
                return manifest
        return await self.tagged(repository, tag)

    async def tagged(self, repository: Repository, tag: Tag) -> RawManifest | None:
        """What the tree has under the tag, whoever said so and when."""
        try:
            return await self._store.manifest(repository, tag)
        except RegistryError as error:
            if isinstance(error, Unavailable):
                log.warning("store.unreadable", repository=str(repository), tag=str(tag), reason=str(error))
            return None

    async def fetch(self, repository: Repository, digest: Digest) -> RawManifest:
        """Get it from the upstream, which checks it against its digest; one request for all who want it."""
        absent = self._memory.absent_manifests.get(repository, digest)
        if absent is not None:
            raise absent
        return await self._fetches.run((repository, digest), lambda: self._fetch(repository, digest))

    def is_absent(self, repository: Repository, digest: Digest) -> bool:
        """Whether the upstream said a moment ago that it does not have it."""
        return self._memory.absent_manifests.get(repository, digest) is not None

    async def remember(
        self, repository: Repository, manifest: RawManifest, moment: int | None = None
    ) -> None:
        """Hold it in memory. `moment` of `Memory.gone`: when the store was asked for it."""
        self._memory.remember(repository, manifest, await self._images.parsed(manifest), moment)

    def keep(self, repository: Repository, manifest: RawManifest) -> None:
        """Write it, and the tags that wait for it, behind the answer."""
        self._writes.start(
            (repository, manifest.descriptor.digest), lambda: self._write(repository, manifest)
        )

    def retag(self, repository: Repository, tag: Tag, digest: Digest, manifest: RawManifest | None) -> None:
        """A word that is still fresh says that the tag points to this manifest (None: it is not here).

        What was evicted with its tags comes back with them: the upstream will not be asked, which would have
        them written.
        """
        if manifest is None:
            self._tags.wait(repository, tag, digest)
        elif self._memory.was_untagged(repository, tag):
            self._tags.wait(repository, tag, digest)
            self.keep(repository, manifest)

    def untag(self, repository: Repository, tag: Tag) -> None:
        """The tag is gone upstream: take it out of the tree, behind the answer. Manifests stay."""
        self._writes.start((repository, tag), lambda: self._untag(repository, tag))

    async def settle(self) -> None:
        """Wait until all that was answered is written."""
        await self._writes.finish()

    async def close(self) -> None:
        """End the questions; what is being written is written."""
        await self._fetches.close()
        await self._knocks.close()
        await self.settle()

    async def _fetch(self, repository: Repository, digest: Digest) -> RawManifest:
        known = self._memory.manifest(repository, digest)
        if known is not None:  # it came while this caller looked into the store
            return known
        self._upstream.expect(repository)  # what comes with a new manifest is mostly new as well
        try:
            manifest = await self._upstream.manifest(repository, digest)
        except RegistryError as error:
            if error.status == 404:
                self._memory.absent_manifests.note(repository, digest, error)
            raise
        self._pulse.heard(self._upstream.condition(repository).namespace)
        await self.remember(repository, manifest)
        self.keep(repository, manifest)
        return manifest

    async def _write(self, repository: Repository, manifest: RawManifest) -> None:
        """Once more where a tag was not there: who deleted it, another mirror on the bucket for one, may have
        deleted the manifest, of which memory knows only that it was kept.
        """
        digest = manifest.descriptor.digest
        believed = self._memory.is_kept(repository, digest)
        try:
            if not believed and not await self._put(repository, manifest):
                return
            while (tag := self._tags.next_waiting(repository, digest)) is not None:
                async with self._turn(repository, tag):
                    pointed = await self._store.tag(repository, tag, digest)
                if believed and not pointed:
                    believed = False
                    await self._put(repository, manifest)
        except StoreError as error:
            log.warning(
                "manifest.not_kept", repository=str(repository), digest=str(digest), reason=str(error)
            )

    async def _put(self, repository: Repository, manifest: RawManifest) -> bool:
        """Keep it, if there is room; whether there was. Raises StoreError."""
        digest, size = manifest.descriptor.digest, len(manifest.body)
        if not await self._room.make_room(digest, size):
            return False
        try:
            await self._store.put_manifest(repository, manifest)
        finally:
            self._room.release(digest, size)
        self._memory.kept(repository, digest)
        return True

    async def _untag(self, repository: Repository, tag: Tag) -> None:
        try:
            async with self._turn(repository, tag):
                await self._store.untag(repository, tag)
        except StoreError as error:
            log.warning("tag.not_removed", repository=str(repository), tag=str(tag), reason=str(error))

    def _turn(self, repository: Repository, tag: Tag) -> asyncio.Lock:
        """Writes of a tag, one after the other: else the slowest would stay, not the last."""
        return self._turns.setdefault((repository, tag), asyncio.Lock())
