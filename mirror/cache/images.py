"""Whether all of an image is here: what decides while nobody knows that its upstream can be asked."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from cachetools import TTLCache

from mirror.cache.memory import Gone, Memory
from mirror.coalesce import Coalescer
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest, ManifestError, parse
from mirror.oci.names import Repository
from mirror.registry import RawManifest, RegistryError
from mirror.store.content import ContentStore
from mirror.store.manifests import in_batches

LARGE = 64 << 10  # bytes; a larger manifest is parsed in a thread
KNOWN = 10_000  # images whose completeness is remembered
# For so long it is believed that all of an image is here, unless some of it is deleted: each warm pull asks.
WHOLE_SECONDS = 60.0
PARTLY_SECONDS = 5.0  # and that something is missing: it may be coming just now
FEW = 64  # blobs that are looked at in one turn of the loop, in less than 1 ms
CHILDREN = 64  # of an index, that are looked at: more platforms than any image has


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found at a moment of `Memory.gone`, and what it rests on: the digests that were there."""

    missing: int
    total: int
    present: tuple[Digest, ...]
    moment: int


class Images:
    """What is here of an image."""

    def __init__(self, store: ContentStore, memory: Memory) -> None:
        self._store = store
        self._memory = memory
        self._looks: Coalescer[tuple[Repository, Digest], _Found] = Coalescer()
        self._whole: TTLCache[tuple[Repository, Digest], _Found] = TTLCache(KNOWN, WHOLE_SECONDS)
        self._partly: TTLCache[tuple[Repository, Digest], _Found] = TTLCache(KNOWN, PARTLY_SECONDS)

    async def missing(self, repository: Repository, manifest: RawManifest) -> tuple[int, int]:
        """(parts that are not here, parts). Of an index its best child counts: no client wants all.

        What is only attached to another child (BuildKit's provenance) counts where there is nothing else.
        Layers that the publisher may leave out are no parts. What we do not understand has none.
        """
        key = (repository, manifest.descriptor.digest)
        found = self._whole.get(key) or self._partly.get(key)
        if found is None or self._memory.gone.any_since(found.moment, found.present):
            found = self._at_once(manifest)
            if found is not None:
                self._remember(key, found)
            else:
                found = await self._looks.run(key, lambda: self._look_up(key, manifest))
        return found.missing, found.total

    async def _look_up(self, key: tuple[Repository, Digest], manifest: RawManifest) -> _Found:
        """Look, and remember it also where whoever has asked does not wait any more."""
        found = await self._look(key[0], manifest)
        self._remember(key, found)
        return found

    def _remember(self, key: tuple[Repository, Digest], found: _Found) -> None:
        self._whole.pop(key, None)
        (self._partly if found.missing else self._whole)[key] = found

    def whole(self, repository: Repository, digest: Digest) -> StillWhole | None:
        """Says whether all of it is still here; None where it was not, or nobody has looked lately."""
        found = self._whole.get((repository, digest))
        if found is None:
            return None
        still = StillWhole(self._memory.gone, found.moment, found.present)
        return still if still() else None

    async def close(self) -> None:
        """End what runs."""
        await self._looks.close()

    def _at_once(self, manifest: RawManifest) -> _Found | None:
        """What `_look` would find of an image of few blobs; None: that cannot be said without waiting."""
        parsed = self._store.parsed(manifest)
        if parsed is None or parsed.children or len(parsed.blobs) > FEW:
            return None
        wanted = _wanted(parsed)
        here = self._store.kept_at_once(wanted)
        if here is None:
            return None
        return _Found(len(wanted) - len(here), len(wanted), tuple(here), self._memory.gone.now)

    async def _look(self, repository: Repository, manifest: RawManifest) -> _Found:
        moment = self._memory.gone.now
        parsed = await self.parsed(manifest)
        if parsed is None:
            return _Found(0, 0, (), moment)
        if not parsed.children:
            return await self._blobs(parsed, (), moment)
        children = [child for child in parsed.children if child.digest not in parsed.attached]
        children = children or list(parsed.children)
        best: _Found | None = None
        for child in children[:CHILDREN]:
            inner = await self.child(repository, child.digest)
            if inner is None:
                continue
            found = await self._blobs(inner, (child.digest,), moment)
            if not found.missing:
                return found
            if best is None or (found.missing, found.total) < (best.missing, best.total):
                best = found
        return best or _Found(len(children), len(children), (), moment)

    async def child(self, repository: Repository, digest: Digest) -> Manifest | None:
        """A manifest of this repository, parsed, if it is here."""
        manifest = self._memory.manifest(repository, digest)
        if manifest is None:
            try:
                manifest = await self._store.manifest(repository, digest)
            except RegistryError:
                return None
        return await self.parsed(manifest)

    async def parsed(self, manifest: RawManifest) -> Manifest | None:
        """See `parsed_manifest`; of what the store has just read it is known."""
        return self._store.parsed(manifest) or await parsed_manifest(manifest)

    async def _blobs(self, manifest: Manifest, present: tuple[Digest, ...], moment: int) -> _Found:
        wanted, here = _wanted(manifest), []
        async with aclosing(in_batches(wanted, self._whether_here)) as looks:
            async for digest, is_here in looks:
                if is_here:
                    here.append(digest)
        return _Found(len(wanted) - len(here), len(wanted), (*present, *here), moment)

    async def _whether_here(self, digest: Digest) -> tuple[Digest, bool]:
        return digest, await self.size(digest) is not None

    async def size(self, digest: Digest) -> int | None:
        """Bytes of a blob's data; None when it is not here, or nobody can tell."""
        try:
            return await self._store.blob_size(digest)
        except RegistryError:
            return None


class StillWhole:
    """Whether nothing was deleted of what was all here at some moment. Costs next to nothing."""

    __slots__ = ("_gone", "_moment", "_parts")

    def __init__(self, gone: Gone, moment: int, parts: tuple[Digest, ...]) -> None:
        self._gone = gone
        self._moment = moment
        self._parts = parts

    def __call__(self) -> bool:
        now = self._gone.now
        if now != self._moment:
            if self._gone.any_since(self._moment, self._parts):
                return False
            self._moment = now
        return True


def _wanted(manifest: Manifest) -> list[Digest]:
    return [each.digest for each in manifest.blobs if each.digest not in manifest.foreign]


async def parsed_manifest(manifest: RawManifest) -> Manifest | None:
    """None for what we do not understand: its bytes are right all the same."""
    large = len(manifest.body) > LARGE
    return await asyncio.to_thread(_parsed, manifest) if large else _parsed(manifest)


def _parsed(manifest: RawManifest) -> Manifest | None:
    try:
        return parse(manifest.body, manifest.descriptor.media_type)
    except ManifestError:
        return None
