"""What is remembered in memory: bounded, lost at a stop, and never trusted without the bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cachetools import LRUCache, TTLCache

from mirror.cache.bydigest import ByDigest, Key
from mirror.cache.leases import Leases
from mirror.cache.recent import Recent
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.oci.names import Repository, Tag
from mirror.registry import RawManifest, RegistryError

MANIFEST_BYTES = 64 << 20  # bytes of manifests held
NAMED = 100_000  # descriptors that manifests name, about 400 bytes each
ABSENT = 10_000  # digests of which the upstream said that it does not have them
UNTAGGED = 10_000  # tags that were deleted here, 3 MB
DELETED = 10_000  # digests of which it is known when they were deleted, 1 MB


@dataclass(frozen=True, slots=True)
class _Naming:
    """A blob's descriptor in a manifest that was here at a moment of `Memory.gone`."""

    descriptor: Descriptor
    manifest: Digest
    moment: int


class Memory:
    """Manifests, what they name, which repository has which blob, and what the upstream does not have."""

    def __init__(self, descriptors: int, negative: float) -> None:
        """`descriptors`: how many blobs' links are remembered (`storage.cache.blobdescriptorsize`).

        `negative`: seconds that "not there" is believed.
        """
        self._manifests: ByDigest[RawManifest] = ByDigest(
            MANIFEST_BYTES, lambda manifest: len(manifest.body) + 512
        )
        self._kept: ByDigest[bool] = ByDigest(descriptors)
        self._named: Recent[Key, _Naming] = Recent(NAMED)
        self._linked: LRUCache[Key, bool] = LRUCache(descriptors)
        self._sound: LRUCache[Digest, int] = LRUCache(descriptors)
        self._untagged: LRUCache[tuple[Repository, Tag], bool] = LRUCache(UNTAGGED)
        self.gone = Gone()
        # Of a repository and a digest, either may be there while the other is not.
        self.absent_manifests = Absent(negative)
        self.absent_blobs = Absent(negative)
        self.asked = self.found = 0  # times that a manifest or a blob's link was looked for, and was here
        self.leases = Leases()  # on what is remembered here: what is forgotten ends them

    # Manifests.

    def manifest(self, repository: Repository, digest: Digest) -> RawManifest | None:
        """A manifest that this repository has."""
        found = self._manifests.get((repository, digest))
        self.asked, self.found = self.asked + 1, self.found + (found is not None)
        return found

    def remember(
        self,
        repository: Repository,
        manifest: RawManifest,
        parsed: Manifest | None,
        moment: int | None = None,
    ) -> None:
        """Hold a manifest that this repository has, and what it names of blobs (None: not understood).

        Blobs that no registry checks at a push do not count: anybody can name anybody's. `moment` of `gone`:
        when the store was asked for it, if it was; what has gone since is not held.
        """
        by = manifest.descriptor.digest
        moment = self.gone.now if moment is None else moment
        if self.gone.any_since(moment, (by,)):
            return
        self._manifests[repository, by] = manifest
        for descriptor in parsed.blobs if parsed else ():
            if parsed and descriptor.digest not in parsed.foreign:
                self._named.set((repository, descriptor.digest), _Naming(descriptor, by, moment))

    def named(self, repository: Repository, digest: Digest) -> Descriptor | None:
        """The descriptor by which a manifest of this repository names the blob; None also of one that went.

        There may be another one, that is not in memory.
        """
        found = self._named.get((repository, digest))
        if found is None or self.gone.any_since(found.moment, (found.manifest,)):
            return None
        return found.descriptor

    def is_kept(self, repository: Repository, digest: Digest) -> bool:
        """Whether the store is known to have the manifest."""
        return self._kept.get((repository, digest), False)

    def kept(self, repository: Repository, digest: Digest) -> None:
        """The store has the manifest."""
        self._kept[repository, digest] = True

    # Blobs.

    def is_linked(self, repository: Repository, digest: Digest) -> bool:
        """Whether this repository is known to have the blob (its bytes may be gone)."""
        found = self._linked.get((repository, digest), False)
        self.asked, self.found = self.asked + 1, self.found + found
        return found

    def linked(self, repository: Repository, digest: Digest) -> None:
        """This repository has the blob."""
        self._linked[repository, digest] = True

    def is_sound(self, digest: Digest, size: int) -> bool:
        """Whether stored bytes of this number were held against what names the blob, since the start."""
        return self._sound.get(digest) == size

    def sound(self, digest: Digest, size: int) -> None:
        """The bytes in the store are what they should be, as far as their number tells."""
        self._sound[digest] = size

    # What is deleted.

    def forget_image(self, repository: Repository, digest: Digest) -> None:
        """This repository has the manifest no more, and no right to what only that names."""
        self.gone.note(digest)
        self._manifests.pop((repository, digest), None)
        self._kept.pop((repository, digest), None)
        self._linked.pop((repository, digest), None)  # by a manifest's link it may be read as a blob
        self.leases.digest_changed(digest)

    def forget_link(self, repository: Repository, digest: Digest) -> None:
        """This repository has the blob no more."""
        self.gone.note(digest)
        self._linked.pop((repository, digest), None)
        self.leases.digest_changed(digest)

    def forget_tag(self, repository: Repository, tag: Tag) -> None:
        """The store has the tag no more. The upstream may, and its word about it may still be fresh."""
        self._untagged[repository, tag] = True
        self.leases.tag_changed(repository, tag)

    def was_untagged(self, repository: Repository, tag: Tag) -> bool:
        """Whether it was forgotten; True once, to one who writes it again."""
        return self._untagged.pop((repository, tag), False)

    def forget_blob(self, digest: Digest) -> None:
        """The bytes are gone, a blob's or a manifest's: for whoever asks next they are fetched and kept."""
        self.gone.note(digest)
        self._sound.pop(digest, None)
        self.leases.digest_changed(digest)
        self._manifests.forget(digest)
        self._kept.forget(digest)


class Gone:
    """What was deleted since some moment: whoever has looked at something asks whether it still holds."""

    def __init__(self) -> None:
        self.now = 0  # a moment: how many deletions there were
        self._deleted: dict[Digest, int] = {}  # when
        self._known_from = 0  # deletions before are forgotten

    def note(self, digest: Digest) -> None:
        """It was deleted, here or in one repository."""
        if len(self._deleted) >= DELETED:
            self._deleted.clear()
            self._known_from = self.now + 1
        self.now += 1
        self._deleted[digest] = self.now

    def any_since(self, moment: int, digests: Iterable[Digest]) -> bool:
        """Whether any of these may have been deleted after the moment."""
        return moment < self._known_from or any(self._deleted.get(each, 0) > moment for each in digests)


class Absent:
    """Of which digests the upstream said lately that it does not have them."""

    def __init__(self, seconds: float) -> None:
        """`seconds` that this is believed; 0: not at all."""
        self._refusals: TTLCache[Key, RegistryError] = TTLCache(ABSENT, seconds)

    def get(self, repository: Repository, digest: Digest) -> RegistryError | None:
        """What the upstream said: an exception of its own for each."""
        error = self._refusals.get((repository, digest))
        return error and bare(error)

    def note(self, repository: Repository, digest: Digest, error: RegistryError) -> None:
        """The upstream does not have it."""
        if self._refusals.ttl > 0:
            self._refusals[repository, digest] = bare(error)


def bare(error: RegistryError) -> RegistryError:
    """The same, said anew. To be kept, and to be raised once.

    NB: an exception holds all that the functions had in hand through which it came, such as the body of an
    upstream's answer, and grows each time that it is raised.
    """
    return RegistryError(error.code, error.message, error.detail, status=error.status)
