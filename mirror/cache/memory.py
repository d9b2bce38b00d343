"""What is remembered in memory: bounded, lost at a stop, and never trusted without the bytes."""

from __future__ import annotations

from cachetools import LRUCache

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.oci.names import Repository, Tag
from mirror.registry import RawManifest, RegistryError

MANIFEST_BYTES = 64 << 20  # bytes of manifests held
NAMED = 100_000  # descriptors that manifests name, about 300 bytes each
TAGS = 10_000  # tags whose last answer of the upstream is remembered
WAITING_TAGS = 64  # of one manifest; each costs some milliseconds to write. The newest are kept.

Key = tuple[Repository, Digest]


class Memory:
    """Manifests, what they name, which repository has which blob, and what the upstream said of tags."""

    def __init__(self, descriptors: int) -> None:
        """`descriptors`: how many blobs' links are remembered (`storage.cache.blobdescriptorsize`)."""
        self._manifests: LRUCache[Key, RawManifest] = LRUCache(
            MANIFEST_BYTES, getsizeof=lambda manifest: len(manifest.body) + 512
        )
        self._kept: LRUCache[Key, bool] = LRUCache(descriptors)
        self._named: LRUCache[Key, Descriptor] = LRUCache(NAMED)
        self._linked: LRUCache[Key, bool] = LRUCache(descriptors)
        self._sound: LRUCache[Digest, int] = LRUCache(descriptors)
        self._current: LRUCache[tuple[Repository, Tag], Digest] = LRUCache(TAGS)
        self._refused: LRUCache[tuple[Repository, Tag], RegistryError] = LRUCache(TAGS)
        self._waiting: LRUCache[Key, dict[Tag, None]] = LRUCache(TAGS)

    # Manifests.

    def manifest(self, repository: Repository, digest: Digest) -> RawManifest | None:
        """A manifest that this repository has."""
        return self._manifests.get((repository, digest))

    def remember(self, repository: Repository, manifest: RawManifest, parsed: Manifest | None) -> None:
        """Hold a manifest that this repository has, and what it names of blobs (None: not understood).

        Blobs that no registry checks at a push do not count: anybody can name anybody's.
        """
        self._manifests[repository, manifest.descriptor.digest] = manifest
        for descriptor in parsed.blobs if parsed else ():
            if parsed and descriptor.digest not in parsed.foreign:
                self._named[repository, descriptor.digest] = descriptor

    def named(self, repository: Repository, digest: Digest) -> Descriptor | None:
        """The descriptor by which a manifest of this repository names the blob."""
        return self._named.get((repository, digest))

    def is_kept(self, repository: Repository, digest: Digest) -> bool:
        """Whether the store is known to have the manifest."""
        return self._kept.get((repository, digest), False)

    def kept(self, repository: Repository, digest: Digest) -> None:
        """The store has the manifest."""
        self._kept[repository, digest] = True

    # Blobs.

    def is_linked(self, repository: Repository, digest: Digest) -> bool:
        """Whether this repository is known to have the blob (its bytes may be gone)."""
        return self._linked.get((repository, digest), False)

    def linked(self, repository: Repository, digest: Digest) -> None:
        """This repository has the blob."""
        self._linked[repository, digest] = True

    def is_sound(self, digest: Digest, size: int) -> bool:
        """Whether stored bytes of this number were held against what names the blob, since the start."""
        return self._sound.get(digest) == size

    def sound(self, digest: Digest, size: int) -> None:
        """The bytes in the store are what they should be, as far as their number tells."""
        self._sound[digest] = size

    # Tags.

    def points_to(self, repository: Repository, tag: Tag, digest: Digest) -> None:
        """The upstream says that the tag points there; it is written once that manifest is kept."""
        self._refused.pop((repository, tag), None)
        self._current[repository, tag] = digest
        waiting = self._waiting.setdefault((repository, digest), {})
        waiting.pop(tag, None)
        waiting[tag] = None
        while len(waiting) > WAITING_TAGS:
            del waiting[next(iter(waiting))]

    def current(self, repository: Repository, tag: Tag) -> Digest | None:
        """Where the tag points by the upstream's last word."""
        return self._current.get((repository, tag))

    def take_waiting(self, repository: Repository, digest: Digest) -> list[Tag]:
        """The tags that wait for this manifest and still point to it; they are the caller's now."""
        waiting = self._waiting.pop((repository, digest), {})
        return [tag for tag in waiting if self._current.get((repository, tag)) == digest]

    def refuse(self, repository: Repository, tag: Tag, error: RegistryError) -> None:
        """The upstream has refused the tag: what is kept of it is not given until it says otherwise."""
        self._current.pop((repository, tag), None)
        self._refused[repository, tag] = error

    def refused(self, repository: Repository, tag: Tag) -> RegistryError | None:
        """The upstream's last word about the tag, if it was a refusal: a new exception each time.

        NB: raising one object again and again makes its traceback longer each time.
        """
        error = self._refused.get((repository, tag))
        return error and RegistryError(error.code, error.message, error.detail, status=error.status)
