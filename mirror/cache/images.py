"""Whether all of an image is here: what decides while nobody knows that its upstream can be asked."""

from __future__ import annotations

import asyncio

from cachetools import TTLCache

from mirror.cache.coalesce import Coalescer
from mirror.cache.memory import Memory
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest, ManifestError, parse
from mirror.oci.names import Repository
from mirror.registry import RawManifest, RegistryError
from mirror.store.content import ContentStore

LARGE = 64 << 10  # bytes; a larger manifest is parsed in a thread
KNOWN = 10_000  # images whose completeness is remembered
WHOLE_SECONDS = 60.0  # for so long it is believed that all of an image is here: each warm pull needs to know
PARTLY_SECONDS = 5.0  # and that something is missing: it may be coming just now
CHILDREN = 64  # of an index, that are looked at: more platforms than any image has


class Images:
    """What is here of an image."""

    def __init__(self, store: ContentStore, memory: Memory) -> None:
        self._store = store
        self._memory = memory
        self._looks: Coalescer[tuple[Repository, Digest], tuple[int, int]] = Coalescer()
        self._whole: TTLCache[tuple[Repository, Digest], tuple[int, int]] = TTLCache(KNOWN, WHOLE_SECONDS)
        self._partly: TTLCache[tuple[Repository, Digest], tuple[int, int]] = TTLCache(KNOWN, PARTLY_SECONDS)

    async def missing(self, repository: Repository, manifest: RawManifest) -> tuple[int, int]:
        """(parts that are not here, parts). Of an index its best child counts: no client wants all.

        Layers that the publisher may leave out are no parts. What we do not understand has none.
        """
        key = (repository, manifest.descriptor.digest)
        found = self._whole.get(key) or self._partly.get(key)
        if found is None:
            found = await self._looks.run(key, lambda: self._look(repository, manifest))
            (self._partly if found[0] else self._whole)[key] = found
        return found

    async def close(self) -> None:
        """End what runs."""
        await self._looks.close()

    async def _look(self, repository: Repository, manifest: RawManifest) -> tuple[int, int]:
        parsed = await parsed_manifest(manifest)
        if parsed is None:
            return 0, 0
        if not parsed.children:
            return await self._blobs(parsed)
        best: tuple[int, int] | None = None
        for child in parsed.children[:CHILDREN]:
            inner = await self.child(repository, child.digest)
            if inner is None:
                continue
            found = await self._blobs(inner)
            if not found[0]:
                return found
            best = min(best, found) if best else found
        return best or (len(parsed.children), len(parsed.children))

    async def child(self, repository: Repository, digest: Digest) -> Manifest | None:
        """A manifest of this repository, parsed, if it is here."""
        manifest = self._memory.manifest(repository, digest)
        if manifest is None:
            try:
                manifest = await self._store.manifest(repository, digest)
            except RegistryError:
                return None
        return await parsed_manifest(manifest)

    async def _blobs(self, manifest: Manifest) -> tuple[int, int]:
        wanted = [each.digest for each in manifest.blobs if each.digest not in manifest.foreign]
        missing = 0
        for digest in wanted:
            if await self.size(digest) is None:
                missing += 1
        return missing, len(wanted)

    async def size(self, digest: Digest) -> int | None:
        """Bytes of a blob's data; None when it is not here, or nobody can tell."""
        try:
            return await self._store.blob_size(digest)
        except RegistryError:
            return None


async def parsed_manifest(manifest: RawManifest) -> Manifest | None:
    """None for what we do not understand: its bytes are right all the same."""
    large = len(manifest.body) > LARGE
    return await asyncio.to_thread(_parsed, manifest) if large else _parsed(manifest)


def _parsed(manifest: RawManifest) -> Manifest | None:
    try:
        return parse(manifest.body, manifest.descriptor.media_type)
    except ManifestError:
        return None
