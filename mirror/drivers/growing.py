"""A local file that is sent while it grows: whoever sends it takes pieces, and waits for those to come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from mirror.drivers.base import DriverError, UnreachableError
from mirror.drivers.pace import Pace
from mirror.drivers.slice import Slice, Source
from mirror.drivers.storeclient import time_for

UPLOADS = 3  # of each kind, at the same time
Send = Callable[["GrowingUpload"], Awaitable[None]]


class GrowingUpload:
    """An Upload in one task. Its end is given away only once the file is known to be right."""

    def __init__(
        self,
        path: str,
        size: int,
        send: Send,
        *,
        source: Source | None = None,
        file: Path | None = None,
        first: int = 0,
    ) -> None:
        """Of `source`, or of `file`, which is opened when it has `first` bytes, and not before.

        Of a file that grows quickly nothing is sent before it is whole: see `pace`.

        `send` sends the whole object by means of `piece`, and has to make it in one step at the end.
        """
        self.path, self.size = path, size
        self._send = send
        self._source = source
        self._file = file
        self._first = first
        self._pace = Pace(size, self._begin)
        self._front = 0  # bytes that are in the file, and stay
        self._right = False  # whether the last of them may be sent
        self._ended = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is, or will be, sent any more."""
        return self._task.done() if self._task is not None else self._ended

    def reached(self, count: int) -> None:
        self._front = max(self._front, count)
        self._changed.set()
        if self._task is None and not self._ended:
            self._pace.reached(self._front)

    async def piece(self, start: int, stop: int) -> bytes:
        """These bytes, as soon as they are there. Raises DriverError when the upload is to end."""
        return await asyncio.to_thread(self._read, await self.part(start, stop))

    async def part(self, start: int, stop: int) -> Slice:
        """The same, not read yet."""
        while self._front < stop or (stop == self.size and not self._right):
            if self._ended:
                break
            self._changed.clear()
            await self._changed.wait()
        if self._ended:
            raise DriverError(self.path, "the upload was ended")
        assert self._source is not None
        return Slice(self._source, start, stop - start)

    async def complete(self) -> None:
        """All of it is in the file, and right. Raises DriverError."""
        self._right = True
        self.reached(self.size)
        assert self._task is not None
        # Who is cancelled here ends the upload, which then has been completed or not.
        await asyncio.shield(self._task)

    async def is_completed(self, size: int) -> bool:
        if size != self.size or self._ended:
            return False
        try:
            await self.complete()
        except DriverError:
            return False
        return True

    def end(self) -> None:
        self._ended = True
        self._pace.end()
        self._changed.set()

    async def ended(self) -> None:
        """Wait until nothing is sent any more."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def _begin(self, count: int) -> None:
        if self._task is None and count >= self._first and not self._ended:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(_heard)

    async def _run(self) -> None:
        try:
            if self._source is None:
                assert self._file is not None
                self._source = await asyncio.to_thread(Source, self._file)
            await self._send(self)
        except OSError as error:
            raise DriverError(self.path, f"cannot read the file: {error.strerror}") from error
        finally:
            self._source = None

    def _read(self, part: Slice) -> bytes:
        data = part.read()
        if len(data) != len(part):
            raise DriverError(self.path, "the file is shorter than it was")
        return data


class Uploads:
    """The uploads of one storage: UPLOADS at the same time of files that grow, and UPLOADS of whole ones.

    `first`: a file with more bytes is sent while it grows.
    """

    def __init__(self, send: Send, first: int) -> None:
        self._send = send
        self._first = first
        self._growing: set[GrowingUpload] = set()  # begun while their files grow
        self._complete: set[GrowingUpload] = set()  # of files that are all here
        self._sending = asyncio.Semaphore(UPLOADS)

    async def put_file(self, path: str, source: Source) -> None:
        """All of a file, which nobody changes meanwhile. Raises DriverError."""
        async with self._sending:
            upload = GrowingUpload(path, source.size, self._send, source=source)
            self._complete = {each for each in self._complete if not each.is_over} | {upload}
            try:
                async with asyncio.timeout(time_for(source.size)):
                    await upload.complete()
            except TimeoutError as error:
                raise UnreachableError(path, "the storage takes it too slowly") from error
            finally:
                upload.end()

    def begin(self, path: str, file: Path, size: int) -> GrowingUpload | None:
        """Of a file that is to have so many bytes; None: it is not worth while, or too many are under way."""
        self._growing = {upload for upload in self._growing if not upload.is_over}
        if size <= self._first or len(self._growing) >= UPLOADS:
            return None
        upload = GrowingUpload(path, size, self._send, file=file, first=self._first)
        self._growing.add(upload)
        return upload

    async def close(self) -> None:
        """Wait for what was told to end."""
        for upload in self._growing | self._complete:
            upload.end()
        for upload in self._growing | self._complete:
            await upload.ended()


def _heard(task: asyncio.Task[None]) -> None:
    """A failure that nobody asks for any more is none."""
    if not task.cancelled():
        task.exception()
