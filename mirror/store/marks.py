"""What a kept manifest names, and the memory of all that is named."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mirror.drivers.base import PathNotFoundError, StorageDriver
from mirror.oci.digest import Digest, DigestError
from mirror.oci.manifest import ManifestError, parse
from mirror.oci.names import Repository
from mirror.registry import MANIFEST_LIMIT
from mirror.store import layout
from mirror.store.links import Links, read_bounded

_DIGESTS = re.compile(rb"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")


@dataclass(frozen=True, slots=True)
class Named:
    """A manifest that is here and has its digest, and what it names."""

    size: int  # bytes of the manifest
    data: Digest  # under which its bytes are
    parts: frozenset[Digest]  # blobs and children
    subject: Digest | None


async def look(driver: StorageDriver, links: Links, repository: Repository, digest: Digest) -> Named | None:
    """What a manifest of this repository names; None when its link is broken, or its data missing or wrong.

    Raises DriverError: what cannot be read now may name anything.
    """
    target = await links.read(layout.revision_link(repository, digest), digest)
    if target is None:
        return None
    try:
        body = await read_bounded(driver, layout.blob_data(target), MANIFEST_LIMIT)
    except PathNotFoundError:
        return None
    if body is None:
        return None
    return await asyncio.to_thread(_named, digest, target, body)


def _named(digest: Digest, target: Digest, body: bytes) -> Named | None:
    if not digest.matches(body):
        return None
    try:
        manifest = parse(body)
    except ManifestError:
        # Of a kind that is not served here (schema 1, for one). Whoever gets the folder back may know it.
        return Named(len(body), target, frozenset(_mentioned(body)), None)
    parts = frozenset(each.digest for each in (*manifest.blobs, *manifest.children))
    return Named(len(body), target, parts, manifest.subject.digest if manifest.subject else None)


def _mentioned(body: bytes) -> Iterable[Digest]:
    for found in _DIGESTS.finditer(body):
        try:
            yield Digest.parse(found[0].decode("ascii"))
        except DigestError:  # cannot be, by the pattern
            continue


class Marks:
    """A set of digests, at some 100 bytes each."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()

    def add(self, digest: Digest) -> None:
        self._keys.add(bytes.fromhex(digest.hex))  # the algorithms differ in length

    def __contains__(self, digest: Digest) -> bool:
        return bytes.fromhex(digest.hex) in self._keys
