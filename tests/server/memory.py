"""A Registry in memory whose answers, failures and pace a test sets; it records what it was asked."""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from mirror import provenance
from mirror.lease import Lease
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import FileSpan, Page, Part, RawManifest, RegistryError, Resolved

OCI = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class MemoryBlob:
    """A blob in a file or in memory; `breaks` is raised instead of the bytes from `break_at` on."""

    content: bytes
    descriptor: Descriptor
    file: BinaryIO | None
    breaks: BaseException | None = None
    break_at: int = 0
    extra: bytes = b""  # given after the end
    gate: asyncio.Event | None = None  # waited for before the bytes from `break_at` on
    chunk: int = 64 << 10
    start: int = 0
    closed: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    reads: list[tuple[int, int]] = field(default_factory=list)

    async def read(self, start: int, stop: int) -> AsyncGenerator[Part, None]:
        self.reads.append((start, stop))
        self.begun.set()
        held = self.breaks is not None or self.gate is not None
        limit = max(start, min(stop, self.break_at)) if held else stop
        async for part in self._parts(start, limit):
            yield part
        if self.gate is not None:
            await self.gate.wait()
        if self.breaks is not None and stop > self.break_at:
            raise self.breaks
        async for part in self._parts(limit, stop):
            yield part
        if self.extra:
            yield self.extra

    async def _parts(self, start: int, stop: int) -> AsyncGenerator[Part, None]:
        if self.file is not None and start < stop:
            yield FileSpan(self.file, start, stop - start)
            return
        for offset in range(start, stop, self.chunk):
            yield self.content[offset : min(offset + self.chunk, stop)]

    async def close(self) -> None:
        self.closed += 1
        self.ended.set()


class MemoryRegistry:
    """One repository, `library/x`, unless a test adds names."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails: dict[str, BaseException] = {}  # by method
        self.notes: dict[str, dict[str, Any]] = {}  # by method: what it says of its answer's provenance
        self.manifests: dict[str, RawManifest] = {}
        self.blobs: dict[Digest, MemoryBlob] = {}
        self.tag_names: list[str] = []
        self.names: list[str] = ["library/x"]
        self.referring: tuple[dict[str, Any], ...] = ()
        self.clock = time.time
        self.lease_seconds = 60.0  # 0: no answer may be repeated
        self.fresh_seconds: float | None = None  # of tags
        self.leases: list[Lease] = []
        self.used: list[int] = []  # what its leases were told
        self._files: list[BinaryIO] = []

    def add_manifest(self, tag: str, body: bytes, media_type: str = OCI) -> Digest:
        digest = Digest.of(body)
        raw = RawManifest(Descriptor(digest, len(body), media_type), body)
        self.manifests[tag] = self.manifests[str(digest)] = raw
        self.tag_names.append(tag)
        return digest

    def add_blob(self, content: bytes, *, file: bool = False) -> MemoryBlob:
        digest = Digest.of(content)
        handle: BinaryIO | None = None
        if file:
            handle = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
            handle.write(content)
            handle.flush()
            self._files.append(handle)
        blob = MemoryBlob(content, Descriptor(digest, len(content), "application/octet-stream"), handle)
        self.blobs[digest] = blob
        return blob

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _called(self, method: str, *arguments: object) -> None:
        self.calls.append(" ".join([method, *map(str, arguments)]))
        for name, value in self.notes.get(method, {}).items():
            setattr(provenance.current(), name, value)
        if method in self.fails:
            raise self.fails[method]

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        raw = await self.manifest(repository, tag)
        return Resolved(raw.descriptor, raw)

    async def manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        self._called("manifest", repository, reference)
        return self._manifest(repository, reference)

    def _manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        if repository.name not in self.names or str(reference) not in self.manifests:
            raise RegistryError(ErrorCode.MANIFEST_UNKNOWN, detail=f"unknown tag={reference}")
        return self.manifests[str(reference)]

    async def stat_manifest(self, repository: Repository, reference: Reference) -> Descriptor:
        self._called("stat_manifest", repository, reference)
        return self._manifest(repository, reference).descriptor

    async def blob(
        self, repository: Repository, digest: Digest, *, start: int = 0, size: int | None = None
    ) -> MemoryBlob:
        self._called("blob", repository, start, size)
        return self._blob(repository, digest)

    def _blob(self, repository: Repository, digest: Digest) -> MemoryBlob:
        if repository.name not in self.names or digest not in self.blobs:
            raise RegistryError(ErrorCode.BLOB_UNKNOWN, detail=str(digest))
        return self.blobs[digest]

    async def stat_blob(self, repository: Repository, digest: Digest) -> Descriptor:
        self._called("stat_blob", repository)
        return self._blob(repository, digest).descriptor

    def lease_manifest(self, repository: Repository, reference: Reference, digest: Digest) -> Lease | None:
        raw = self.manifests.get(str(reference))
        if not self.lease_seconds or raw is None or raw.descriptor.digest != digest:
            return None
        return self._lease(self.fresh_seconds if isinstance(reference, Tag) else None)

    def lease_blob(
        self, repository: Repository, digest: Digest, size: int, until: float = math.inf
    ) -> Lease | None:
        return self._lease(None) if self.lease_seconds and digest in self.blobs else None

    def _lease(self, fresh: float | None) -> Lease:
        now = self.clock()
        self.leases.append(
            Lease(
                self.clock,
                now,
                now + self.lease_seconds,
                fresh_until=None if fresh is None else now + fresh,
                note=lambda count, _now: self.used.append(count),
            )
        )
        return self.leases[-1]

    async def tags(self, repository: Repository, n: int | None, last: str) -> Page:
        self._called("tags", repository, n, last)
        if repository.name not in self.names:
            raise RegistryError(ErrorCode.NAME_UNKNOWN, detail={"name": repository.name})
        return _page(self.tag_names, n, last)

    async def repositories(self, n: int | None, last: str) -> Page:
        self._called("repositories", n, last)
        return _page(self.names, n, last)

    async def referrers(self, repository: Repository, digest: Digest) -> tuple[dict[str, Any], ...]:
        self._called("referrers", repository)
        return self.referring


def _page(names: list[str], n: int | None, last: str) -> Page:
    after = [name for name in sorted(names) if name > last]
    page = after if n is None else after[:n]
    return Page(tuple(page), more=len(page) < len(after))
