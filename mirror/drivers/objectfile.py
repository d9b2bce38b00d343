"""An object that is being read: from where it was opened on, or any range; resumed after a break."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import BinaryIO

from mirror.drivers.base import DriverError, PathNotFoundError, UnreachableError
from mirror.drivers.objectstore import Body, ObjectStore

CHUNK = 1 << 20  # bytes; what OpenFile.chunks allows
BREAKS = 3  # in a row, with less than PROGRESS between them
PROGRESS = 256 << 10  # bytes


class ObjectFile:
    """An OpenFile. Its version sees to it that all bytes are of one moment.

    What is deleted while it is read can be read on as far as the server has begun to send it.
    """

    local: BinaryIO | None = None

    def __init__(self, store: ObjectStore, path: str, body: Body, start: int) -> None:
        """`body` begins at `start`."""
        self._store = store
        self._path = path
        self._meta = body.meta
        self._body: Body | None = body
        self._at = start  # where `_body` is
        self._closed = False
        self.size = body.meta.size

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        if stop > self.size:
            raise DriverError(self._path, f"ends at {self.size}, before {stop}")
        breaks, broke_at = 0, start
        while start < stop:
            self._check_open()
            body = self._body if self._at == start else None
            if body is None:
                body = await self._get(start)
            try:
                data = await body.read(min(CHUNK, stop - start))
                if not data:
                    raise UnreachableError(self._path, "the storage broke off")
            except UnreachableError as error:
                self._drop()
                self._check_open()
                self._store.broke(error)
                breaks = breaks + 1 if start - broke_at < PROGRESS else 1
                broke_at = start
                if breaks >= BREAKS:
                    raise
                continue
            start += len(data)
            self._at = start
            yield data

    async def close(self) -> None:
        self._closed = True
        self._drop()

    def _check_open(self) -> None:
        if self._closed:
            raise DriverError(self._path, "the file was closed")

    async def _get(self, start: int) -> Body:
        self._drop()
        try:
            body = await self._store.get(self._path, start, self._meta.version)
        except PathNotFoundError as error:
            raise DriverError(self._path, "was deleted while it was read") from error
        if self._closed or body.meta.size != self.size:  # meanwhile
            body.close()
            self._check_open()
            raise DriverError(self._path, "has another size than before")
        self._body, self._at = body, start
        return body

    def _drop(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()
