"""An upstream registry in memory whose blobs arrive byte by byte, as the test says: a Registry of its own.

upstream = Puppet()
digest = upstream.add(b"...")
transfer = await upstream.next_transfer()     # a fill has asked for a blob
transfer.send(100)                            # the next 100 bytes arrive
transfer.fail(Unavailable("cut"))             # the upstream breaks off
transfer.finish()                             # all the rest arrives
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.manifest import parse
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import Condition, Page, Part, RawManifest, RegistryError, Resolved

WAIT = 30.0  # seconds; a test that waits longer has failed
MEDIA_TYPE = "application/octet-stream"


class Transfer:
    """One opened blob: what arrives of it, and when."""

    def __init__(self, digest: Digest, data: bytes, start: int, announced: int, stop: int | None) -> None:
        self.descriptor = Descriptor(digest, announced, MEDIA_TYPE)
        self.start = start
        self.stop = stop  # what was asked for ends here; None: with the blob
        self.closed = False
        self._data = data
        self._sent = start
        self._queue: asyncio.Queue[bytes | BaseException] = asyncio.Queue()

    def send(self, count: int) -> None:
        """The next `count` bytes arrive."""
        self._queue.put_nowait(self._data[self._sent : self._sent + count])
        self._sent += count

    def finish(self) -> None:
        """The rest of what was asked for arrives."""
        self.send((len(self._data) if self.stop is None else self.stop) - self._sent)

    def fail(self, error: BaseException) -> None:
        """The transfer breaks off."""
        self._queue.put_nowait(error)

    async def read(self, start: int, stop: int) -> AsyncGenerator[Part, None]:
        assert start == self.start
        while start < stop:
            item = await self._queue.get()
            if isinstance(item, BaseException):
                raise item
            start += len(item)
            yield item

    async def close(self) -> None:
        self.closed = True


class Puppet:
    """See the module's text. `calls` are the verbs that were asked, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.expected: list[Repository] = []  # those of which `expect` was told, in order
        self.refuse: dict[str, RegistryError] = {}  # verb -> what it raises
        self.well = Condition("upstream.test")  # what `condition` says, of every repository
        self.hold: dict[str, asyncio.Event] = {}  # verb -> waits for this
        self.ignore_start = False  # answers a Range request from the beginning
        self.announce: int | None = None  # a size other than the true one
        self.lie: Descriptor | None = None  # what `resolve` says instead of the truth
        self._blobs: dict[tuple[str, Digest], bytes] = {}
        self._manifests: dict[tuple[str, Digest], RawManifest] = {}
        self._tags: dict[tuple[str, str], Digest] = {}
        self._transfers: asyncio.Queue[Transfer] = asyncio.Queue()

    def add(self, data: bytes, name: str = "library/a", digest: Digest | None = None) -> Digest:
        """A blob of a repository; under another digest than its own it is a corrupt one."""
        digest = digest or Digest.of(data)
        self._blobs[name, digest] = data
        return digest

    def add_manifest(self, body: bytes, name: str = "library/a", *tags: str) -> Digest:
        """A manifest, and the tags that point to it from now on."""
        digest = Digest.of(body)
        descriptor = Descriptor(digest, len(body), parse(body).media_type)
        self._manifests[name, digest] = RawManifest(descriptor, body)
        for tag in tags:
            self._tags[name, tag] = digest
        return digest

    async def next_transfer(self) -> Transfer:
        """The next blob that is opened."""
        async with asyncio.timeout(WAIT):
            return await self._transfers.get()

    async def _called(self, verb: str, repository: Repository, what: object) -> None:
        self.calls.append(f"{verb} {repository} {what}")
        if verb in self.hold:
            await self.hold[verb].wait()
        if verb in self.refuse:
            raise self.refuse[verb]

    def condition(self, repository: Repository) -> Condition:
        return self.well

    def expect(self, repository: Repository) -> None:
        self.expected.append(repository)

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        await self._called("resolve", repository, tag)
        digest = self._tags.get((repository.name, tag.name))
        if digest is None:
            raise RegistryError(ErrorCode.MANIFEST_UNKNOWN)
        return Resolved(self.lie or self._manifests[repository.name, digest].descriptor)

    async def manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        await self._called("manifest", repository, reference)
        found = isinstance(reference, Digest) and self._manifests.get((repository.name, reference))
        if not found:
            raise RegistryError(ErrorCode.MANIFEST_UNKNOWN)
        return found

    async def stat_manifest(self, repository: Repository, reference: Reference) -> Descriptor:
        return (await self.manifest(repository, reference)).descriptor

    async def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        start: int = 0,
        size: int | None = None,
        stop: int | None = None,
    ) -> Transfer:
        await self._called("blob", repository, f"{digest.hex[:8]} from {start}")
        data = self._data(repository, digest)
        announced = len(data) if self.announce is None else self.announce
        start, stop = (0, None) if self.ignore_start else (start, stop)
        transfer = Transfer(digest, data, start, announced, stop)
        self._transfers.put_nowait(transfer)
        return transfer

    async def stat_blob(self, repository: Repository, digest: Digest) -> Descriptor:
        await self._called("stat_blob", repository, digest.hex[:8])
        return Descriptor(digest, len(self._data(repository, digest)), MEDIA_TYPE)

    async def tags(self, repository: Repository, n: int | None, last: str) -> Page:
        await self._called("tags", repository, n)
        return Page(tuple(tag for name, tag in self._tags if name == repository.name), more=False)

    async def repositories(self, n: int | None, last: str) -> Page:
        raise RegistryError(ErrorCode.UNSUPPORTED)

    async def referrers(self, repository: Repository, digest: Digest) -> tuple[dict[str, Any], ...]:
        await self._called("referrers", repository, digest)
        return ()

    def _data(self, repository: Repository, digest: Digest) -> bytes:
        data = self._blobs.get((repository.name, digest))
        if data is None:
            raise RegistryError(ErrorCode.BLOB_UNKNOWN)
        return data
