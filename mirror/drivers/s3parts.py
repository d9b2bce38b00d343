"""One object on its way in parts, each with its MD5, which the server checks; also while its file grows.

What is in memory is what the sockets take: parts are read from the file while they are sent.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from mirror.drivers.answers import taken_apart
from mirror.drivers.base import DriverError, PathNotFoundError
from mirror.drivers.pace import Pace
from mirror.drivers.s3sending import Sending, md5
from mirror.drivers.slice import Slice, Source
from mirror.drivers.storeclient import time_for

EACH_AT_ONCE = 4  # parts of one upload
COMPLETING = 300.0  # seconds; Amazon says that it takes minutes for the largest


class Upload:
    """One object on its way in parts; they go as soon as `reached` says that their bytes are in the file.

    Of a file that grows quickly all go once it is whole: see `pace`.
    """

    def __init__(
        self,
        sending: Sending,
        path: str,
        size: int,
        part_size: int,
        *,
        source: Source | None = None,
        file: Path | None = None,
    ) -> None:
        """Of `source`, or of `file`, which is opened for the first part."""
        self._sending = sending
        self._client = sending.client
        self._path = path
        self._source = source
        self._file = file
        self._size, self._part_size = size, part_size
        self._id = ""
        self._pace = Pace(size, self._begin_parts)
        self._next = 0  # the first byte of which no part was begun
        self._etags: dict[int, str] = {}
        self._own = asyncio.Semaphore(EACH_AT_ONCE)
        self._beginning: asyncio.Task[None] | None = None
        self._ended = False
        self._parts: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._completed = False

    def reached(self, count: int) -> None:
        self._pace.reached(count)

    async def complete(self) -> None:
        """All of it is in the file: send the rest, and make the object of the parts. Raises DriverError."""
        self.reached(self._size)
        while self._parts and self._failure is None:
            await asyncio.wait(self._parts, return_when=asyncio.FIRST_COMPLETED)
        if self._failure is not None:
            raise self._failure
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(self._etags.items())]
        try:
            answer = await self._client.write(
                self._path,
                "complete_multipart_upload",
                limit=COMPLETING,
                UploadId=self._id,
                MultipartUpload={"Parts": parts},
            )
        except PathNotFoundError:  # NoSuchUpload: an earlier attempt, whose answer was lost, did it
            await self._check()
        else:
            if not answer.get("ETag"):  # 200 may come before a failure, of which botocore knows Amazon's form
                await self._check()
        self._completed = True
        self._sending.running.discard(self._id)

    async def is_completed(self, size: int) -> bool:
        """Complete it, if that can be: else, whatever went wrong on the way, all has to be sent anew."""
        if size != self._size:
            return False
        try:
            await self.complete()
        except DriverError:
            return False
        return True

    def end(self) -> None:
        self._ended = True
        self._pace.end()
        for task in self._parts:
            task.cancel()
        self._sending.running.discard(self._id)
        if self._id and not self._completed:
            self._sending.begin(self._sending.abort(self._path, self._id))
            self._id = ""
        self._failure = self._failure or DriverError(self._path, "the upload was ended")
        self._source = None

    def _begin_parts(self, count: int) -> None:
        while self._failure is None and self._next < self._size:
            stop = min(self._next + self._part_size, self._size)
            if stop > count:
                return
            task = self._sending.begin(self._send(self._next // self._part_size + 1, self._next, stop))
            self._next = stop
            self._parts.add(task)
            task.add_done_callback(self._sent)

    async def _check(self) -> None:
        """Raises DriverError unless the object is there."""
        try:
            size = await self._client.size_of(self._path)
        except PathNotFoundError as error:
            raise DriverError(self._path, "the upload is gone") from error
        if size != self._size:
            raise DriverError(self._path, "the upload is gone")

    async def _send(self, number: int, start: int, stop: int) -> None:
        async with self._own, self._sending.slots:
            body = Slice(await self._begun(), start, stop - start)
            checksum = await md5(self._path, body)
            answer = await self._client.call(
                self._path,
                "upload_part",
                limit=time_for(stop - start),
                Key=self._client.key(self._path),
                UploadId=self._id,
                PartNumber=number,
                Body=body,
                ContentMD5=checksum,
                ContentLength=stop - start,
            )
            with taken_apart(self._path):
                self._etags[number] = answer["ETag"]

    async def _begun(self) -> Source:
        """The file, once the upload has its name. Who is cancelled does not end that."""
        if self._beginning is None:
            self._beginning = self._sending.begin(self._begin())
        await asyncio.shield(self._beginning)
        assert self._source is not None
        return self._source

    async def _begin(self) -> None:
        if self._source is None:
            assert self._file is not None
            try:
                self._source = await asyncio.to_thread(Source, self._file)
            except OSError as error:
                raise DriverError(self._path, f"cannot read the file: {error.strerror}") from error
        answer = await self._client.call(
            self._path,
            "create_multipart_upload",
            Key=self._client.key(self._path),
            **self._sending.attributes,
        )
        with taken_apart(self._path):
            self._id = str(answer["UploadId"])
        self._sending.running.add(self._id)
        if self._ended:
            self.end()

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._parts.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self._failure is None:
            self._failure = error
