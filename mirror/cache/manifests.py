"""Manifests and tags: asked of the upstream once for all who ask at once, kept, given when it is away.

What comes from the upstream is answered at once and kept behind the answer; a failing store fails nobody. A
tag is written after its manifest, and only while it is the upstream's last word.
"""

from __future__ import annotations

import asyncio

import structlog

from mirror.cache.coalesce import Coalescer
from mirror.cache.memory import Memory
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest, ManifestError, parse
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import Corrupt, RateLimited, RawManifest, Registry, RegistryError, Resolved, Unavailable
from mirror.store.content import ContentStore
from mirror.store.errors import StoreError

AWAY = (Unavailable, RateLimited, Corrupt)  # the upstream has no say now: a kept copy may be given
LARGE = 64 << 10  # bytes; a larger manifest is parsed in a thread

log = structlog.get_logger()


class Manifests:
    """See the module's text.

    `deadline`: seconds that asking the upstream may hold a client whose tag could be answered from a kept
    copy; the question goes on behind.
    """

    def __init__(self, store: ContentStore, upstream: Registry, memory: Memory, deadline: float) -> None:
        self._store = store
        self._upstream = upstream
        self._memory = memory
        self._deadline = deadline
        self._checks: Coalescer[tuple[Repository, Tag], Resolved] = Coalescer()
        self._fetches: Coalescer[tuple[Repository, Digest], RawManifest] = Coalescer()
        self._writes: Coalescer[tuple[Repository, Digest], None] = Coalescer()

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        """What the tag points to now; or as far as we know, when the upstream is away.

        A tag that moved away from a kept manifest points to the new one only once that is here: the client
        asks for it next, and could not go back.
        """
        resolved, kept = await self._resolve(repository, tag)
        if resolved.manifest is not None or kept is None:
            return resolved
        manifest = await self._new_or_kept(repository, tag, resolved.descriptor.digest, kept)
        return Resolved(manifest.descriptor, manifest)

    async def get(self, repository: Repository, reference: Reference) -> RawManifest:
        """A manifest whole."""
        if isinstance(reference, Digest):
            return await self._by_digest(repository, reference)
        resolved, kept = await self._resolve(repository, reference)
        if resolved.manifest is not None:
            return resolved.manifest
        return await self._new_or_kept(repository, reference, resolved.descriptor.digest, kept)

    async def stat(self, repository: Repository, reference: Reference) -> Descriptor:
        """The descriptor. Of a digest that we do not have, the manifest is fetched: its GET comes next."""
        if isinstance(reference, Digest):
            return (await self._by_digest(repository, reference)).descriptor
        return (await self.resolve(repository, reference)).descriptor

    async def settle(self) -> None:
        """Wait until all that was answered is written."""
        await self._writes.finish()

    async def close(self) -> None:
        """End the questions; what is being written is written."""
        await self._checks.close()
        await self._fetches.close()
        await self.settle()

    async def _resolve(self, repository: Repository, tag: Tag) -> tuple[Resolved, RawManifest | None]:
        """What the tag points to, and the copy kept under it."""
        check = self._checks.start((repository, tag), lambda: self._check(repository, tag))
        kept = await self._kept(repository, tag)
        refused = self._memory.refused(repository, tag)
        try:
            if kept is None:
                return await asyncio.shield(check), None
            async with asyncio.timeout(self._deadline):
                return await asyncio.shield(check), kept
        except TimeoutError:
            reason: object = f"no answer from the upstream within {self._deadline:g} s"
        except AWAY as error:
            if kept is None:
                raise
            reason = error
        if refused is not None:
            raise refused
        assert kept is not None
        self._note_stale(repository, tag, reason)
        return Resolved(kept.descriptor, kept), kept

    async def _new_or_kept(
        self, repository: Repository, tag: Tag, digest: Digest, kept: RawManifest | None
    ) -> RawManifest:
        """The manifest that the tag points to now; the kept one when that cannot be had."""
        try:
            return await self._by_digest(repository, digest)
        except AWAY as error:
            if kept is None:
                raise
            self._note_stale(repository, tag, error)
            return kept

    async def _kept(self, repository: Repository, tag: Tag) -> RawManifest | None:
        """What the store has under the tag; else what memory has, while it is not written (yet)."""
        try:
            manifest = await self._store.manifest(repository, tag)
        except RegistryError as error:
            if isinstance(error, Unavailable):
                log.warning("store.unreadable", repository=str(repository), tag=str(tag), reason=str(error))
            digest = self._memory.current(repository, tag)
            return self._memory.manifest(repository, digest) if digest else None
        self._memory.kept(repository, manifest.descriptor.digest)
        return manifest

    async def _check(self, repository: Repository, tag: Tag) -> Resolved:
        """Ask the upstream, and note its answer. One at a time for a tag."""
        try:
            resolved = await self._upstream.resolve(repository, tag)
        except AWAY:
            raise
        except RegistryError as error:
            self._memory.refuse(repository, tag, error)
            raise
        digest = resolved.descriptor.digest
        self._memory.points_to(repository, tag, digest)
        if resolved.manifest is not None:
            await self._remember(repository, resolved.manifest)
        manifest = resolved.manifest or await self._here(repository, digest)
        if manifest is None:
            return resolved
        self._keep(repository, manifest)
        return Resolved(manifest.descriptor, manifest)

    async def _by_digest(self, repository: Repository, digest: Digest) -> RawManifest:
        here = await self._here(repository, digest)
        if here is not None:
            if not self._memory.is_kept(repository, digest):
                self._keep(repository, here)  # there was no room when it came
            return here
        return await self._fetches.run((repository, digest), lambda: self._fetch(repository, digest))

    async def _here(self, repository: Repository, digest: Digest) -> RawManifest | None:
        """The manifest if this repository has it, in memory or in the store."""
        manifest = self._memory.manifest(repository, digest)
        if manifest is None:
            try:
                manifest = await self._store.manifest(repository, digest)
            except RegistryError as error:
                if isinstance(error, Unavailable):
                    log.warning("store.unreadable", repository=str(repository), reason=str(error))
                return None
            self._memory.kept(repository, digest)
            await self._remember(repository, manifest)
        return manifest

    async def _fetch(self, repository: Repository, digest: Digest) -> RawManifest:
        """Get it from the upstream, which checks it against its digest."""
        known = self._memory.manifest(repository, digest)
        if known is not None:  # it came while this caller looked into the store
            return known
        manifest = await self._upstream.manifest(repository, digest)
        await self._remember(repository, manifest)
        self._keep(repository, manifest)
        return manifest

    async def _remember(self, repository: Repository, manifest: RawManifest) -> None:
        large = len(manifest.body) > LARGE
        parsed = await asyncio.to_thread(_parsed, manifest) if large else _parsed(manifest)
        self._memory.remember(repository, manifest, parsed)

    def _keep(self, repository: Repository, manifest: RawManifest) -> None:
        """Write it, and the tags that wait for it, behind the answer."""
        self._writes.start(
            (repository, manifest.descriptor.digest), lambda: self._write(repository, manifest)
        )

    async def _write(self, repository: Repository, manifest: RawManifest) -> None:
        digest = manifest.descriptor.digest
        try:
            if not self._memory.is_kept(repository, digest):
                await self._store.put_manifest(repository, manifest)
                self._memory.kept(repository, digest)
            while tags := self._memory.take_waiting(repository, digest):
                for tag in tags:
                    await self._store.tag(repository, tag, digest)
        except StoreError as error:
            log.warning(
                "manifest.not_kept", repository=str(repository), digest=str(digest), reason=str(error)
            )

    def _note_stale(self, repository: Repository, tag: Tag, reason: object) -> None:
        log.warning("tag.stale", repository=str(repository), tag=str(tag), reason=str(reason))


def _parsed(manifest: RawManifest) -> Manifest | None:
    """None for what we do not understand: its bytes are right all the same."""
    try:
        return parse(manifest.body, manifest.descriptor.media_type)
    except ManifestError:
        return None
