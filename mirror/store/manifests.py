"""The manifests on the disk: read with their digest checked, and what a repository's manifests name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import structlog
from cachetools import LRUCache

from mirror.drivers.base import PathNotFoundError, StorageDriver
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import HEX_LENGTH, Digest, DigestError
from mirror.oci.manifest import Manifest, ManifestError, parse
from mirror.oci.names import Repository
from mirror.registry import MANIFEST_LIMIT, RawManifest
from mirror.store import layout
from mirror.store.links import Links, read_bounded

log = structlog.get_logger()

INLINE_LIMIT = 64 << 10  # bytes; hashing and parsing more than this takes milliseconds, so a thread does it
SCAN_LIMIT = 2000  # manifests of one repository that are looked at: about a second when none was parsed
SCAN_BATCH = 16  # reads under way at a time; below the number of threads that a driver has
PARSED_LIMIT = 65_536  # descriptors in the manifests remembered: 20 MB, and more than MANIFEST_LIMIT can hold

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kept:
    """A manifest that a repository has, parsed."""

    descriptor: Descriptor
    manifest: Manifest
    names: Mapping[Digest, Descriptor]  # the blobs that a registry has checked

    def as_referrer(self) -> dict[str, Any]:
        """Its entry in the answer of the referrers API (distribution-spec, "Listing Referrers")."""
        entry: dict[str, Any] = {
            "mediaType": self.descriptor.media_type,
            "digest": str(self.descriptor.digest),
            "size": self.descriptor.size,
        }
        if self.manifest.artifact_type:
            entry["artifactType"] = self.manifest.artifact_type
        if self.manifest.annotations:
            entry["annotations"] = dict(self.manifest.annotations)
        return entry


class Manifests:
    """The manifests of one store."""

    def __init__(self, driver: StorageDriver, links: Links) -> None:
        self._driver = driver
        self._links = links
        # Content never changes under its digest, so an entry is right for ever. It says what a manifest
        # names, and is no proof that the manifest's bytes are still here.
        self._parsed: LRUCache[Digest, Kept] = LRUCache(PARSED_LIMIT, getsizeof=_weight)

    async def read(self, repository: Repository, digest: Digest) -> RawManifest | None:
        """A manifest that the repository links, checked; None when it is not here or not as it should be.

        Raises DriverError.
        """
        link = layout.revision_link(repository, digest)
        target = await self._links.read(link, digest)
        if target is None:
            return None
        try:
            body = await read_bounded(self._driver, layout.blob_data(target), MANIFEST_LIMIT)
        except PathNotFoundError:
            self._links.broken(link, "the data is missing")
            return None
        if body is None:
            self._links.broken(link, "the data is too long for a manifest")
            return None
        try:
            kept = await off_loop(body, lambda: _check(digest, body))
        except ManifestError as error:
            self._links.broken(link, f"the data is no manifest: {error}")
            return None
        self._parsed[digest] = kept
        return RawManifest(kept.descriptor, body)

    def parsed(self, descriptor: Descriptor) -> Manifest | None:
        """What was read under this digest, as of this type; None where nobody did lately.

        NB: a document that does not say its type reads otherwise as of another.
        """
        kept = self._parsed.get(descriptor.digest)
        return kept.manifest if kept is not None and kept.descriptor == descriptor else None

    async def find(
        self, repository: Repository, wanted: Callable[[Kept], bool]
    ) -> AsyncGenerator[Kept, None]:
        """The repository's manifests that are `wanted`, in the order of their digests.

        At most SCAN_LIMIT manifests are looked at; those parsed before cost nothing unless they are wanted.
        Raises DriverError.
        """
        left = SCAN_LIMIT
        for algorithm in HEX_LENGTH:
            found = await self._revisions(repository, algorithm)
            if len(found) > left:
                log.info("store.scan.cut", repository=str(repository), manifests=len(found), looked_at=left)
            found = found[:left]
            left -= len(found)
            maybe = [digest for digest in found if (kept := self._parsed.get(digest)) is None or wanted(kept)]
            async with aclosing(
                in_batches(maybe, lambda digest: self._kept(repository, digest))
            ) as looked_at:
                async for kept in looked_at:
                    if kept is not None and wanted(kept):
                        yield kept

    async def _revisions(self, repository: Repository, algorithm: str) -> list[Digest]:
        try:
            names = await self._driver.list(layout.revisions(repository, algorithm))
        except PathNotFoundError:
            return []
        return list(_digests(algorithm, names))

    async def _kept(self, repository: Repository, digest: Digest) -> Kept | None:
        """From memory when it was parsed before; the link is read in any case."""
        kept = self._parsed.get(digest)
        if kept is None:
            await self.read(repository, digest)
            return self._parsed.get(digest)
        if await self._links.read(layout.revision_link(repository, digest), digest) is None:
            return None
        return kept


def _weight(kept: Kept) -> int:
    return 1 + len(kept.names)


def _digests(algorithm: str, names: Iterable[str]) -> Iterable[Digest]:
    for name in names:
        try:
            yield Digest.parse(f"{algorithm}:{name}")
        except DigestError:  # a stray file; not ours
            continue


def _check(digest: Digest, body: bytes) -> Kept:
    """The manifest of these bytes. Raises ManifestError, also when the digest does not fit."""
    if not digest.matches(body):
        raise ManifestError("it does not match its digest")
    manifest = parse(body)
    # Children are no blobs of this repository's, and foreign blobs nobody has checked.
    names = {each.digest: each for each in manifest.blobs if each.digest not in manifest.foreign}
    return Kept(Descriptor(digest, len(body), manifest.media_type), manifest, names)


async def off_loop(body: bytes, work: Callable[[], T]) -> T:
    """Do `work` on these bytes: in a thread when they are many."""
    return work() if len(body) <= INLINE_LIMIT else await asyncio.to_thread(work)


async def in_batches(
    items: Sequence[S], call: Callable[[S], Awaitable[T]], at_a_time: int = SCAN_BATCH
) -> AsyncGenerator[T, None]:
    """What `call` gives for each item, in order, so many calls at a time; the first failure is raised."""
    rest = iter(items)
    while batch := list(islice(rest, at_a_time)):
        # Waiting for all of them, also when one fails, leaves no call behind that nobody waits for.
        for result in await asyncio.gather(*map(call, batch), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            yield result
