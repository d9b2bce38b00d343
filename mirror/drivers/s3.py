"""The driver on an S3 bucket, with distribution's keys: the root's name, then the path.

The rules:

1. An object appears whole, with one request, and is durable then (S3 promises both).
2. There are no folders: one is there as long as something is below it.
3. Time-outs and attempts are `s3session`'s, failures `s3client`'s; each failure names the path and the cause.
4. Nothing blocks the event loop: files are read, and hashed, in threads.
5. One request for one operation where that can be: HEAD for `stat`, GET for `get` and `open`. What is deleted
   is looked for first, since S3 does not tell whether it was there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mirror.drivers import paths
from mirror.drivers.answers import taken_apart
from mirror.drivers.base import (
    Advice,
    DriverError,
    Elsewhere,
    Incoming,
    Info,
    OpenFile,
    PathNotFoundError,
)
from mirror.drivers.flatdriver import FlatDriver
from mirror.drivers.remote import check_file, check_writable, open_source, remove_source
from mirror.drivers.s3client import S3Client, length
from mirror.drivers.s3delete import Deletion
from mirror.drivers.s3file import S3File
from mirror.drivers.s3listing import Listing, modified
from mirror.drivers.s3parts import Upload
from mirror.drivers.s3settings import S3Settings
from mirror.drivers.s3upload import Uploads
from mirror.drivers.urls import Urls

AT_ONCE = 16  # small files read at the same time


class S3Driver(FlatDriver):
    """A StorageDriver. `own`: the folder that large files are put in; uploads elsewhere are others'."""

    name = "s3"

    def __init__(self, settings: S3Settings, own: str = "") -> None:
        """Blocks: reads the service's model from the disk. Raises ValueError: AWS' files are wrong."""
        self._client = S3Client(settings)
        self._listing = Listing(self._client, hidden_sizes=settings.hidden_sizes)
        self._deletion = Deletion(self._client, self._listing)
        self._uploads = Uploads(self._client, settings)
        super().__init__(self._listing.pages, Urls(self._client, settings.presigned))
        self._redirects = settings.redirect
        self._opens_first = settings.login is None
        self._own = own

    async def start(self) -> None:
        """Make the clients now, not with the first request; but nobody waits for a login here.

        Raises DriverError, as S3Client.open.
        """
        if self._opens_first:
            await self._client.open()

    def trouble(self) -> str:
        return self._client.trouble()

    def denials(self) -> int:
        return self._client.denials()

    def advice(self, error: DriverError) -> Advice:
        return self._client.advice(error)

    async def get_many(self, wanted: Sequence[str], limit: int, total: int) -> list[bytes | DriverError]:
        """Asked for at once are AT_ONCE; read are only those that the answers' headers leave room for."""
        answers = await asyncio.gather(*(self._ask(path) for path in wanted[:AT_ONCE]))
        found: list[bytes | DriverError] = []
        try:
            for path, answer in zip(wanted, answers, strict=False):
                if found and total <= 0:
                    break
                found.append(await self._read(path, answer, limit))
                total -= len(found[-1]) if isinstance(found[-1], bytes) else 0
        finally:
            for answer in answers:
                if not isinstance(answer, DriverError):
                    answer["Body"].close()
        return found

    async def _ask(self, path: str) -> Any:
        """The answer, its body unread; or the error."""
        try:
            check_file(path)
            return await self._client.get(path)
        except DriverError as error:
            return error

    async def _read(self, path: str, answer: Any, limit: int) -> bytes | DriverError:
        if isinstance(answer, DriverError):
            return answer
        try:
            size = length(path, answer)
        except DriverError as error:
            return error
        if size > limit:
            return DriverError(path, f"has {size} bytes, more than the {limit} allowed")
        file = S3File(self._client, path, answer, 0)
        try:
            return b"".join([chunk async for chunk in file.chunks(0, size)])
        except DriverError as error:
            return error
        finally:
            await file.close()

    async def put(self, path: str, data: bytes) -> None:
        check_writable(path)
        await self._uploads.put(path, data)
        self._urls.forget(path)

    def incoming(self, source: Path, path: str, size: int) -> Incoming | None:
        return self._uploads.begin(path, source, size)

    async def move_in(self, source: Path, path: str, incoming: Incoming | None = None) -> None:
        """As the Protocol says; large files in parts, several at once."""
        check_writable(path)
        file = await open_source(source, path)
        if not isinstance(incoming, Upload) or not await incoming.is_completed(file.size):
            await self._uploads.put_file(path, file)
        self._urls.forget(path)
        await remove_source(path, source)

    async def open(self, path: str, start: int = 0) -> OpenFile:
        """One GET, from `start` on. What is then read from elsewhere in the file costs another."""
        check_file(path)
        if start:
            with contextlib.suppress(_Behind):
                return S3File(self._client, path, await self._get_from(path, start), start)
        return S3File(self._client, path, await self._client.get(path), 0)

    async def _get_from(self, path: str, start: int) -> Any:
        try:
            return await self._client.get(path, Range=f"bytes={start}-")
        except PathNotFoundError:
            raise
        except DriverError as error:
            if " 416 " in error.cause:
                raise _Behind from error
            raise

    async def elsewhere(self, path: str) -> Elsewhere | None:
        if not self._redirects:
            return None
        check_file(path)
        if self.trouble():
            self._urls.forget(path)  # clients would find it as we do
        return await self._urls.get(path)

    async def stat(self, path: str) -> Info:
        paths.split(path)
        if path:
            with contextlib.suppress(PathNotFoundError):
                answer = await self._client.head(path)
                with taken_apart(path):
                    return Info(length(path, answer), False, modified(answer))
        if await self._listing.has_folder(path):
            return Info(0, True, 0.0)
        raise PathNotFoundError(path)

    async def list(self, path: str) -> list[str]:
        paths.split(path)
        return await self._listing.names(path)

    async def _remove(self, doomed: Sequence[str], listed: bool) -> Sequence[bool]:
        return await self._deletion.remove(doomed, listed=listed)

    async def sweep(self, before: float) -> int:
        return await self._uploads.sweep(before, self._own)

    async def close(self) -> None:
        await self._uploads.close()
        await self._client.close()


class _Behind(Exception):
    """A file ends before the byte that was asked for."""
