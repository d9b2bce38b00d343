"""Manifests and tags: asked of the upstream once for all who ask at once, kept, given when it is away."""

from __future__ import annotations

import asyncio

import structlog

from mirror.cache.coalesce import Coalescer
from mirror.cache.memory import Memory
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import Corrupt, RateLimited, RawManifest, Registry, RegistryError, Resolved, Unavailable
from mirror.store.content import ContentStore
from mirror.store.errors import StoreError

AWAY = (Unavailable, RateLimited, Corrupt)  # the upstream has no say now: a kept copy may be given

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

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        """What the tag points to now; or as far as we know, when the upstream is away."""
        return (await self._resolve(repository, tag))[0]

    async def get(self, repository: Repository, reference: Reference) -> RawManifest:
        """A manifest whole."""
        if isinstance(reference, Digest):
            return await self._by_digest(repository, reference)
        resolved, kept = await self._resolve(repository, reference)
        if resolved.manifest is not None:
            return resolved.manifest
        try:
            return await self._by_digest(repository, resolved.descriptor.digest)
        except AWAY as error:
            if kept is None:
                raise
            self._note_stale(repository, reference, error)
            return kept

    async def stat(self, repository: Repository, reference: Reference) -> Descriptor:
        """The descriptor. Of a digest that we do not have, the manifest is fetched: its GET comes next."""
        if isinstance(reference, Digest):
            return (await self._by_digest(repository, reference)).descriptor
        return (await self.resolve(repository, reference)).descriptor

    async def close(self) -> None:
        await self._checks.close()
        await self._fetches.close()

    async def _resolve(self, repository: Repository, tag: Tag) -> tuple[Resolved, RawManifest | None]:
        """What the tag points to, and the copy kept under it."""
        check = self._checks.start((repository, tag), lambda: self._check(repository, tag))
        kept = await self._kept(repository, tag)
        if kept is None:
            return await asyncio.shield(check), None
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.shield(check), kept
        except TimeoutError:
            self._note_stale(repository, tag, f"no answer from the upstream within {self._deadline:g} s")
        except AWAY as error:
            self._note_stale(repository, tag, error)
        return Resolved(kept.descriptor, kept), kept

    async def _kept(self, repository: Repository, tag: Tag) -> RawManifest | None:
        try:
            return await self._store.manifest(repository, tag)
        except RegistryError as error:
            if isinstance(error, Unavailable):
                log.warning("store.unreadable", repository=str(repository), tag=str(tag), reason=str(error))
            return None

    async def _check(self, repository: Repository, tag: Tag) -> Resolved:
        """Ask the upstream, and note its answer in the store. One at a time for a tag."""
        resolved = await self._upstream.resolve(repository, tag)
        digest = resolved.descriptor.digest
        try:
            if resolved.manifest is not None:
                await self._store.put_manifest(repository, resolved.manifest, tag)
                self._memory.remember(repository, resolved.manifest)
            elif await self._here(repository, digest) is not None:
                await self._store.tag(repository, tag, digest)
            else:
                self._memory.points_to(repository, tag, digest)
        except StoreError as error:
            log.warning("manifest.not_kept", repository=str(repository), tag=str(tag), reason=str(error))
        return resolved

    async def _by_digest(self, repository: Repository, digest: Digest) -> RawManifest:
        here = await self._here(repository, digest)
        if here is not None:
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
            self._memory.remember(repository, manifest)
        return manifest

    async def _fetch(self, repository: Repository, digest: Digest) -> RawManifest:
        """Get it from the upstream, which checks it against its digest, and keep it."""
        manifest = await self._upstream.manifest(repository, digest)
        self._memory.remember(repository, manifest)
        try:
            await self._store.put_manifest(repository, manifest)
            for tag in self._memory.take_pending(repository, digest):
                await self._store.tag(repository, tag, digest)
        except StoreError as error:
            log.warning(
                "manifest.not_kept", repository=str(repository), digest=str(digest), reason=str(error)
            )
        return manifest

    def _note_stale(self, repository: Repository, tag: Tag, reason: object) -> None:
        log.warning("tag.stale", repository=str(repository), tag=str(tag), reason=str(reason))
