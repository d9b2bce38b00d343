"""What is remembered in memory: bounded, lost at a stop, and never trusted without the bytes."""

from __future__ import annotations

from cachetools import LRUCache

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import ManifestError, parse
from mirror.oci.names import Repository, Tag
from mirror.registry import RawManifest

MANIFEST_BYTES = 64 << 20  # bytes of manifests held
NAMED = 100_000  # descriptors that manifests name, about 300 bytes each
PENDING = 10_000  # tags whose manifest nobody has asked for yet


class Memory:
    """Manifests, what they name, and which repository is known to have which blob."""

    def __init__(self, descriptors: int) -> None:
        """`descriptors`: how many blobs' links are remembered (`storage.cache.blobdescriptorsize`)."""
        self._manifests: LRUCache[tuple[Repository, Digest], RawManifest] = LRUCache(
            MANIFEST_BYTES, getsizeof=lambda manifest: len(manifest.body) + 512
        )
        self._named: LRUCache[tuple[Repository, Digest], Descriptor] = LRUCache(NAMED)
        self._linked: LRUCache[tuple[Repository, Digest], bool] = LRUCache(descriptors)
        self._pending: LRUCache[tuple[Repository, Digest], frozenset[Tag]] = LRUCache(PENDING)

    def manifest(self, repository: Repository, digest: Digest) -> RawManifest | None:
        """A manifest that this repository has."""
        return self._manifests.get((repository, digest))

    def remember(self, repository: Repository, manifest: RawManifest) -> None:
        """Keep a manifest that this repository has, and what it names."""
        digest = manifest.descriptor.digest
        self._manifests[repository, digest] = manifest
        try:
            parsed = parse(manifest.body, manifest.descriptor.media_type)
        except ManifestError:
            return  # it names nothing that we understand; its bytes are right all the same
        for descriptor in (*parsed.blobs, *parsed.children):
            self._named[repository, descriptor.digest] = descriptor

    def named(self, repository: Repository, digest: Digest) -> Descriptor | None:
        """The descriptor by which a manifest of this repository names the blob."""
        return self._named.get((repository, digest))

    def is_linked(self, repository: Repository, digest: Digest) -> bool:
        """Whether this repository is known to have the blob (its bytes may be gone)."""
        return self._linked.get((repository, digest), False)

    def linked(self, repository: Repository, digest: Digest) -> None:
        """This repository has the blob."""
        self._linked[repository, digest] = True

    def unlinked(self, repository: Repository, digest: Digest) -> None:
        """Look again next time."""
        self._linked.pop((repository, digest), None)

    def points_to(self, repository: Repository, tag: Tag, digest: Digest) -> None:
        """The tag points to a manifest that we do not have yet."""
        key = (repository, digest)
        self._pending[key] = self._pending.get(key, frozenset()) | {tag}

    def take_pending(self, repository: Repository, digest: Digest) -> frozenset[Tag]:
        """The tags that wait for this manifest; they are the caller's now."""
        return self._pending.pop((repository, digest), frozenset())
