"""Blobs of an upstream: how large they are, and their bytes from somewhere on."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TypeGuard

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import Corrupt, RegistryError, Unavailable
from mirror.upstream.body import RemoteBlob
from mirror.upstream.calls import Calls
from mirror.upstream.fetch import Answer
from mirror.upstream.fields import is_page, length_in, range_in
from mirror.upstream.heads import REFUSALS, Heads

BLOB_TYPE = "application/octet-stream"  # what upstreams say about a blob's type is of no worth


class Blobs:
    """Those of the registry behind `calls`. Errors: BLOB_UNKNOWN, and those of `Client.resolve`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._heads = Heads()

    async def stat(self, repository: Repository, digest: Digest) -> Descriptor:
        """A blob's descriptor: by HEAD, or by a GET whose body is not read."""
        refused: int | None = None  # the status of a HEAD that was of no use
        if self._heads.worth(repository):
            answer = await self._calls.send("HEAD", repository, f"blobs/{digest}")
            size = _size_in(answer)
            if answer.status == HTTPStatus.OK and _is_plausible(size, digest):
                self._heads.worked()
                return Descriptor(digest, size, BLOB_TYPE)
            if answer.status != HTTPStatus.OK and answer.status not in REFUSALS:
                self._calls.fail(answer, ErrorCode.BLOB_UNKNOWN, "this blob")
            refused = answer.status
        answer = await self._open(repository, digest, {"Range": "bytes=0-0"})
        answer.close()
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # an empty blob has no byte 0
            answer = await self._open(repository, digest, {})
            answer.close()
        if refused is not None:
            self._heads.contradicted(repository, refused)
        span = range_in(answer.headers)
        size = span.size if span else _size_in(answer)
        if not _is_plausible(size, digest):
            raise Unavailable(f"{self._calls.name} does not say how large this blob is", status=502)
        return Descriptor(digest, size, BLOB_TYPE)

    async def open(
        self,
        repository: Repository,
        digest: Digest,
        *,
        start: int = 0,
        size: int | None = None,
        stop: int | None = None,
    ) -> RemoteBlob:
        """Open a blob, or what is before `stop`. `start` of what comes back is 0, and it comes to its end,
        where the upstream does not do ranges.

        Errors: also RANGE_INVALID (nothing is at `start`).
        """
        headers = _range(start, stop)
        answer = await self._open(repository, digest, headers, again=start > 0)
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if size is None or start >= size:
                raise RegistryError(
                    ErrorCode.RANGE_INVALID, f"{self._calls.name} has nothing from byte {start} on"
                )
            answer = await self._open(repository, digest, {})  # it has: it cannot do ranges
        try:
            self._calls.ranges.heard(answer.status, answer.headers, asked=bool(headers))
            first, end, whole = self._extent(answer, start, stop)
            if whole is not None and size not in (None, whole):
                raise Corrupt(f"{self._calls.name} sent a blob of {whole} bytes where {size} were expected")
        except Corrupt:
            self._calls.ranges.refused()
            answer.close()
            raise
        whole = whole if whole is not None else size
        if whole is None:
            answer.close()  # first: waiting for a second connection with one in hand can be waiting for ever
            size = (await self.stat(repository, digest)).size
            return await self.open(repository, digest, start=start, size=size, stop=stop)
        return RemoteBlob(Descriptor(digest, whole, BLOB_TYPE), first, end or whole, self._calls, answer)

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

    def _extent(self, answer: Answer, start: int, stop: int | None) -> tuple[int, int | None, int | None]:
        """(first byte, the one after the last, size of the whole blob if it is said) of a 200 or 206.

        Raises Corrupt.
        """
        length = length_in(answer.headers)
        if answer.status == HTTPStatus.OK:
            return 0, length, length
        span = range_in(answer.headers)
        wanted = span is not None and span.start == start and stop in (None, span.stop)
        if span is None or not wanted or length not in (None, span.stop - span.start):
            raise Corrupt(f"{self._calls.name} sent other bytes than those from {start} on")
        return start, span.stop, span.size


def _range(start: int, stop: int | None) -> dict[str, str]:
    """The header that asks for [start, stop); none for all of it."""
    if stop is not None:
        return {"Range": f"bytes={start}-{stop - 1}"}
    return {"Range": f"bytes={start}-"} if start else {}


def _size_in(answer: Answer) -> int | None:
    """Of the whole blob. A page to log in at, which may be 200 for everybody, says nothing of it."""
    return None if is_page(answer.headers) else length_in(answer.headers)


def _is_plausible(size: int | None, digest: Digest) -> TypeGuard[int]:
    """Whether HEAD's length can be the blob's: some servers say 0 to every HEAD."""
    return size is not None and (size > 0 or digest.matches(b""))
