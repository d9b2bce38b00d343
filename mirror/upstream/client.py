"""`Client`: somebody else's registry as a Registry.

HEAD is how a tag is asked, because it is cheap and Docker Hub does not count it. Some registries refuse it or
leave out what it is for (ECR Public, Harbor's own proxy): then GET, and later GET at once (`heads`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, TypeGuard

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest, DigestError
from mirror.oci.errors import ErrorCode
from mirror.oci.manifest import ACCEPT, INDEXES, MANIFESTS, ManifestError, parse
from mirror.oci.names import Reference, Repository, Tag
from mirror.oci.ranges import ContentRange, ContentRangeError
from mirror.registry import (
    MANIFEST_LIMIT,
    Condition,
    Corrupt,
    Page,
    RawManifest,
    RegistryError,
    Resolved,
    Unavailable,
)
from mirror.upstream import listing
from mirror.upstream.body import RemoteBlob
from mirror.upstream.calls import Calls
from mirror.upstream.fetch import Answer
from mirror.upstream.heads import REFUSALS, Heads
from mirror.upstream.lookups import Lookups
from mirror.upstream.settings import Settings

BLOB_TYPE = "application/octet-stream"  # what upstreams say about a blob's type is of no worth

INLINE_LIMIT = 64 << 10  # bytes of a manifest that are read on the loop, mostly in 2 ms; 4 MiB may take 0.3 s
LENGTH_DIGITS = 19  # what a 63-bit number has at the most

_MANIFEST_HEADERS = {"Accept": ", ".join(ACCEPT)}
_KNOWN = INDEXES | MANIFESTS


class Client:
    """One upstream registry. Nothing is sent, opened or read before the first call; `close` ends it.

    `now` is the clock of breakers and quota; `lookups` are shared with others, unless it has its own.
    """

    def __init__(
        self,
        settings: Settings,
        now: Callable[[], float] = time.monotonic,
        lookups: Lookups | None = None,
    ) -> None:
        self._calls = Calls(settings, now, lookups)
        self._manifest_heads = Heads()
        self._blob_heads = Heads()

    async def close(self) -> None:
        """Drop all connections. Safe to call twice."""
        await self._calls.close()

    def condition(self, repository: Repository) -> Condition:
        """Whether it would be asked now about this repository, by breakers and rate limit."""
        return self._calls.condition(repository)

    def describe(self, now: float, repository: Repository | None = None) -> dict[str, Any]:
        """How it is doing, for operators; see `Health.describe`."""
        return self._calls.describe(now, repository)

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        """What the tag points to.

        Errors: MANIFEST_UNKNOWN, NAME_UNKNOWN, UNAUTHORIZED, DENIED; Unavailable, RateLimited, Corrupt.
        """
        descriptor, manifest = await self._look_up(repository, tag)
        return Resolved(descriptor, manifest)

    async def stat_manifest(self, repository: Repository, reference: Reference) -> Descriptor:
        """A manifest's descriptor, by HEAD where that works. Errors: as `resolve`."""
        return (await self._look_up(repository, reference))[0]

    async def manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        """A manifest, checked against its digest (a tag's: the one that the upstream sent along, if any).

        Errors: as `resolve`; Corrupt for what is no manifest, too large, or not the one asked for.
        """
        answer = await self._calls.send(
            "GET", repository, f"manifests/{reference}", headers=_MANIFEST_HEADERS, limit=MANIFEST_LIMIT
        )
        if answer.status != HTTPStatus.OK:
            self._calls.fail(answer, ErrorCode.MANIFEST_UNKNOWN, "this manifest")
        expected = reference if isinstance(reference, Digest) else _digest_in(answer.headers)
        work = partial(_checked, answer.body, answer.headers.get("Content-Type"), expected)
        try:
            return work() if len(answer.body) <= INLINE_LIMIT else await asyncio.to_thread(work)
        except ManifestError as error:
            raise Corrupt(f"{self._calls.name} sent a manifest that {error}") from error

    async def stat_blob(self, repository: Repository, digest: Digest) -> Descriptor:
        """A blob's descriptor: by HEAD, or by a GET whose body is not read.

        Errors: BLOB_UNKNOWN, NAME_UNKNOWN, and the others of `resolve`.
        """
        refused: int | None = None  # the status of a HEAD that was of no use
        if self._blob_heads.worth(repository):
            answer = await self._calls.send("HEAD", repository, f"blobs/{digest}")
            size = _length(answer.headers)
            if answer.status == HTTPStatus.OK and _is_plausible(size, digest):
                self._blob_heads.worked()
                return Descriptor(digest, size, BLOB_TYPE)
            self._check_refusal(answer, ErrorCode.BLOB_UNKNOWN, "this blob")
            refused = answer.status
        answer = await self._open(repository, digest, {"Range": "bytes=0-0"})
        answer.close()
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # an empty blob has no byte 0
            answer = await self._open(repository, digest, {})
            answer.close()
        if refused is not None:
            self._blob_heads.contradicted(repository, refused)
        span = _span(answer.headers)
        size = span.size if span else _length(answer.headers)
        if not _is_plausible(size, digest):
            raise Unavailable(f"{self._calls.name} does not say how large this blob is", status=502)
        return Descriptor(digest, size, BLOB_TYPE)

    async def blob(
        self, repository: Repository, digest: Digest, *, start: int = 0, size: int | None = None
    ) -> RemoteBlob:
        """Open a blob. `start` of what comes back is 0 where the upstream does not do ranges.

        Errors: BLOB_UNKNOWN, NAME_UNKNOWN, RANGE_INVALID (nothing is at `start`), and those of `resolve`.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        answer = await self._open(repository, digest, headers, again=start > 0)
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if size is None or start >= size:
                raise RegistryError(
                    ErrorCode.RANGE_INVALID, f"{self._calls.name} has nothing from byte {start} on"
                )
            answer = await self._open(repository, digest, {})  # it has: it cannot do ranges
        try:
            first, whole = self._extent(answer, start)
            if whole is not None and size not in (None, whole):
                raise Corrupt(f"{self._calls.name} sent a blob of {whole} bytes where {size} were expected")
        except Corrupt:
            answer.close()
            raise
        whole = whole if whole is not None else size
        if whole is None:
            answer.close()  # first: waiting for a second connection with one in hand can be waiting for ever
            size = (await self.stat_blob(repository, digest)).size
            return await self.blob(repository, digest, start=start, size=size)
        return RemoteBlob(Descriptor(digest, whole, BLOB_TYPE), first, self._calls, answer)

    async def tags(self, repository: Repository, n: int | None, last: str) -> Page:
        """Tags. Errors: NAME_UNKNOWN, and those of `resolve`."""
        return await listing.tags(self._calls, repository, n, last)

    async def repositories(self, n: int | None, last: str) -> Page:
        """Not asked of an upstream: Docker Hub has none, and a mirror lists what it holds."""
        raise RegistryError(ErrorCode.UNSUPPORTED, "an upstream's catalog is not mirrored")

    async def referrers(self, repository: Repository, digest: Digest) -> tuple[dict[str, Any], ...]:
        """Referrers. Errors: UNSUPPORTED, and those of `resolve`."""
        return await listing.referrers(self._calls, repository, digest)

    async def _look_up(
        self, repository: Repository, reference: Reference
    ) -> tuple[Descriptor, RawManifest | None]:
        """HEAD, or GET where that does not do. Raises RegistryError."""
        refused: int | None = None  # the status of a HEAD that was of no use
        if self._manifest_heads.worth(repository):
            answer = await self._calls.send(
                "HEAD", repository, f"manifests/{reference}", headers=_MANIFEST_HEADERS
            )
            self._check_refusal(answer, ErrorCode.MANIFEST_UNKNOWN, "this manifest")
            size, digest = _length(answer.headers), _digest_in(answer.headers)
            media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if answer.status != HTTPStatus.OK or not size or (digest is None and isinstance(reference, Tag)):
                refused = answer.status
            elif media_type in _KNOWN:
                self._manifest_heads.worked()
                return self._described(reference, digest, size, media_type), None
        manifest = await self.manifest(repository, reference)
        if refused is not None:
            self._manifest_heads.contradicted(repository, refused)
        return manifest.descriptor, manifest

    def _described(
        self, reference: Reference, digest: Digest | None, size: int, media_type: str
    ) -> Descriptor:
        """What HEAD said, if it can be: raises Corrupt."""
        name = self._calls.name
        if size > MANIFEST_LIMIT:
            raise Corrupt(f"{name} has a manifest of {size} bytes here; {MANIFEST_LIMIT} is the limit")
        if digest is None:
            assert isinstance(reference, Digest)
            digest = reference
        elif (
            isinstance(reference, Digest) and digest.algorithm == reference.algorithm and digest != reference
        ):
            raise Corrupt(f"{name} says {digest} when asked for {reference}")
        return Descriptor(reference if isinstance(reference, Digest) else digest, size, media_type)

    async def _open(
        self, repository: Repository, digest: Digest, headers: Mapping[str, str], *, again: bool = False
    ) -> Answer:
        """GET a blob: 200; with Range also 206 and 416. The body stays on its connection.

        `again`: a part of it came before.
        """
        answer = await self._calls.send(
            "GET", repository, f"blobs/{digest}", headers=headers, limit=None, again=again
        )
        wanted = {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT} if headers else {HTTPStatus.OK}
        if headers:
            wanted.add(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        if answer.status not in wanted:
            self._calls.fail(answer, ErrorCode.BLOB_UNKNOWN, "this blob")
        return answer

    def _extent(self, answer: Answer, start: int) -> tuple[int, int | None]:
        """(first byte, size of the whole blob if it is said) of a 200 or 206. Raises Corrupt."""
        length = _length(answer.headers)
        if answer.status == HTTPStatus.OK:
            return 0, length
        span = _span(answer.headers)
        if span is None or span.start != start or length not in (None, span.stop - span.start):
            raise Corrupt(f"{self._calls.name} sent other bytes than those from {start} on")
        return start, span.size

    def _check_refusal(self, answer: Answer, missing: ErrorCode, what: str) -> None:
        """Return for an answer to HEAD that a GET may contradict; raise what any other one means."""
        if answer.status != HTTPStatus.OK and answer.status not in REFUSALS:
            self._calls.fail(answer, missing, what)


def _checked(body: bytes, content_type: str | None, expected: Digest | None) -> RawManifest:
    """Hash and read a manifest. Raises ManifestError, to be read after "a manifest that"."""
    if expected is not None and not expected.matches(body):
        raise ManifestError(f"does not have the digest {expected}")
    try:
        media_type = parse(body, content_type).media_type
    except ManifestError as error:
        raise ManifestError(f"cannot be used: {error}") from error
    return RawManifest(Descriptor(expected or Digest.of(body), len(body), media_type), body)


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < LENGTH_DIGITS else None


def _span(headers: Mapping[str, str]) -> ContentRange | None:
    """Content-Range; None where it is missing or makes no sense."""
    try:
        return ContentRange.parse(headers.get("Content-Range", ""))
    except ContentRangeError:
        return None


def _digest_in(headers: Mapping[str, str]) -> Digest | None:
    """Docker-Content-Digest; None where it is missing or no digest that can be checked."""
    try:
        return Digest.parse(headers.get("Docker-Content-Digest", ""))
    except DigestError:
        return None


def _is_plausible(size: int | None, digest: Digest) -> TypeGuard[int]:
    """Whether HEAD's length can be the blob's: some servers say 0 to every HEAD."""
    return size is not None and (size > 0 or digest.matches(b""))
