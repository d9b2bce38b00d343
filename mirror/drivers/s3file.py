"""An object that is being read: from where it was opened on, or any range; resumed after a break."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any, BinaryIO

from mirror.drivers.base import DriverError, PathNotFoundError
from mirror.drivers.rest import Rest
from mirror.drivers.s3client import S3Client, length
from mirror.drivers.s3errors import BROKEN
from mirror.drivers.s3session import SILENCE

PIECE = 256 << 10  # bytes; what the loop reads of a socket at most. Twice that is read ahead.
BREAKS = 3  # in a row, with less than PROGRESS between them
PROGRESS = 256 << 10  # bytes
OTHER = "the storage answered with another range than was asked for"

_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})\Z")


class S3File:
    """An OpenFile. Its ETag sees to it that all bytes are of one moment.

    What is deleted while it is read can be read on as far as the server has begun to send it.
    """

    local: BinaryIO | None = None

    def __init__(self, client: S3Client, path: str, answer: Any, start: int) -> None:
        """`answer` is that of a GetObject from `start` on, or of a HeadObject. Raises DriverError."""
        self._client = client
        self._path = path
        self._etag: str = answer.get("ETag") or ""
        self._body: Any = answer.get("Body")
        self._rest: Rest | None = None  # of `_body`, where that is large
        self._is_new = True  # nothing of it was read
        self._at = start  # where it is
        self._closed = False
        self.size = _end(path, answer, start) if start else length(path, answer)

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        if stop > self.size:
            raise DriverError(self._path, f"ends at {self.size}, before {stop}")
        breaks, broke_at = 0, start
        while start < stop:
            self._check_open()
            try:
                if self._body is None or self._at != start:
                    await self._get(start, stop)
                data = await self._came(stop - start)
                if not data:
                    raise OSError("it ended before its end")
            except BROKEN as error:
                self._drop()
                self._check_open()
                breaks = breaks + 1 if start - broke_at < PROGRESS else 1
                broke_at = start
                found = self._client.broke(self._path, error)
                if breaks >= BREAKS:
                    raise found from error
                continue
            start += len(data)
            self._at = start
            yield data

    async def close(self) -> None:
        self._closed = True
        self._drop()

    async def _came(self, limit: int) -> bytes:
        """What has come, as the socket gave it; at most `limit` bytes. b"": the body has ended.

        Read from aiohttp's own stream, or past it: aiobotocore's `read` makes pieces of the size asked for.
        """
        if self._is_new:
            self._is_new = False
            self._rest = Rest.take(self._body.raw_stream, SILENCE)
        if self._rest is not None:
            return await self._rest.read(min(limit, PIECE))
        stream = self._body.raw_stream.content
        if limit < PIECE or stream.get_read_buffer_limits()[0] < PIECE:
            return bytes(await stream.read(min(limit, PIECE)))  # so much is read ahead from now on
        data, more = b"", True
        while more and not data:  # where it is chunked, a chunk's end is told too
            data, more = await stream.readchunk()
        return data

    def _check_open(self) -> None:
        if self._closed:
            raise DriverError(self._path, "the file was closed")

    async def _get(self, start: int, stop: int) -> None:
        self._drop()
        wanted = {"IfMatch": self._etag} if self._etag else {}
        try:
            answer = await self._client.get(self._path, Range=f"bytes={start}-{stop - 1}", **wanted)
        except PathNotFoundError as error:
            raise DriverError(self._path, "was deleted while it was read") from error
        if _end(self._path, answer, start) != self.size or length(self._path, answer) != stop - start:
            answer["Body"].close()
            raise DriverError(self._path, OTHER)
        if self._closed:  # meanwhile
            answer["Body"].close()
        self._check_open()
        self._body, self._at = answer["Body"], start
        self._is_new = True

    def _drop(self) -> None:
        body, self._body, self._rest = self._body, None, None
        if body is not None:
            body.close()  # read to its end, its connection is used again; else it is closed with it


def _end(path: str, answer: Any, start: int) -> int:
    """The size of a file of which the answer begins at `start`. Raises DriverError; its body is closed then.

    NB: a cache in between may pass no Range on, and give all of it.
    """
    found = _RANGE.match(answer.get("ContentRange") or "")
    if found is None or int(found[1]) != start:
        answer["Body"].close()
        raise DriverError(path, OTHER)
    return int(found[2])
