"""What a kept manifest names, and the digests that nothing was found to name yet."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mirror.drivers.base import DriverError, PathNotFoundError, StorageDriver
from mirror.oci.digest import HEX_LENGTH, Digest
from mirror.oci.manifest import ManifestError, parse
from mirror.oci.names import Repository
from mirror.registry import MANIFEST_LIMIT
from mirror.store import layout
from mirror.store.links import Links, too_long

LOOK_BYTES = 1 << 20  # of manifests that are read before they are parsed; some hundreds
_ALGORITHMS = {length // 2: algorithm for algorithm, length in HEX_LENGTH.items()}
_DIGESTS = re.compile(rb"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")


@dataclass(frozen=True, slots=True)
class Named:
    """A manifest that is here and has its digest, and what it names."""

    size: int  # bytes of the manifest
    data: Digest  # under which its bytes are: its own digest, or one of another algorithm
    parts: frozenset[Digest]  # blobs and children
    subject: Digest | None


async def look(driver: StorageDriver, links: Links, repository: Repository, digest: Digest) -> Named | None:
    """What a manifest of this repository names; None when its link is broken, or its data missing or wrong.

    Raises DriverError: what cannot be read now may name anything.
    """
    return (await look_at(driver, links, [(repository, digest)]))[0]


async def look_at(
    driver: StorageDriver, links: Links, manifests: Sequence[tuple[Repository, Digest]]
) -> list[Named | None]:
    """As `look`, for each of them, in few steps of a thread.

    In memory are LOOK_BYTES of manifests and one more, and what one names: 25 MB at worst for 4 MiB of JSON.
    """
    targets = await links.read_many(
        [(layout.revision_link(repository, digest), digest) for repository, digest in manifests]
    )
    linked = [(at, manifests[at][1], target) for at, target in enumerate(targets) if target is not None]
    found: list[Named | None] = [None] * len(targets)
    done = 0
    while done < len(linked):
        some = linked[done:]
        paths = [layout.blob_data(target) for _, _, target in some]
        answers = await driver.get_many(paths, MANIFEST_LIMIT, LOOK_BYTES)
        bodies = [await _body(driver, path, body) for path, body in zip(paths, answers, strict=False)]
        read = list(zip(some, bodies, strict=False))
        done += len(read)
        for (at, _, _), named in zip(some, await asyncio.to_thread(_named_all, read), strict=False):
            found[at] = named
    return found


async def _body(driver: StorageDriver, path: str, found: bytes | DriverError) -> bytes | None:
    """A manifest's bytes; None: there are none, or too many. Raises DriverError."""
    if isinstance(found, bytes):
        return found
    if not isinstance(found, PathNotFoundError):
        await too_long(driver, path, MANIFEST_LIMIT, found)
    return None


def _named_all(read: Sequence[tuple[tuple[int, Digest, Digest], bytes | None]]) -> list[Named | None]:
    return [None if body is None else _named(digest, target, body) for (_, digest, target), body in read]


def _named(digest: Digest, target: Digest, body: bytes) -> Named | None:
    if not digest.matches(body):
        return None
    try:
        manifest = parse(body)
    except ManifestError:
        # Of a kind that is not served here (schema 1, for one): whoever is given the folder back may know it.
        mentioned = frozenset(Digest.parse(found.decode("ascii")) for found in _DIGESTS.findall(body))
        return Named(len(body), target, mentioned, None)
    parts = frozenset(each.digest for each in (*manifest.blobs, *manifest.children))
    return Named(len(body), target, parts, manifest.subject.digest if manifest.subject else None)


class Unnamed:
    """Digests that may be garbage, at some 250 bytes each; what is found to be named leaves."""

    def __init__(self) -> None:
        # The digests' bytes, whose number tells the algorithm -> size in bytes, modified.
        self._left: dict[bytes, tuple[int, float]] = {}

    def add(self, digest: Digest, size: int, modified: float) -> None:
        self._left[bytes.fromhex(digest.hex)] = (size, modified)

    def discard(self, digest: Digest) -> None:
        self._left.pop(bytes.fromhex(digest.hex), None)

    def left(self) -> Iterator[tuple[Digest, int, float]]:
        """Those that nothing names: digest, size, modified."""
        for key, (size, modified) in self._left.items():
            yield Digest(_ALGORITHMS[len(key)], key.hex()), size, modified
