"""Putting files into the bucket: small ones whole, large ones in parts, several at once.

An object appears with the request that completes it, so readers see the old or the new one. Each part goes
with its MD5, which the server checks. Parts are read from the file while they are sent: what is in memory is
what the sockets take. An upload that fails is aborted; one that a crash left is swept.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
from typing import Any, BinaryIO

from mirror.drivers.base import DriverError, PathNotFoundError
from mirror.drivers.s3client import S3Client
from mirror.drivers.s3settings import S3Settings

PARTS_AT_ONCE = 8  # of all uploads
EACH_AT_ONCE = 4  # of one
MOST_PARTS = 10_000  # of one object; S3's limit
SLOWEST = 64 << 10  # bytes a second; a part that is slower is given up
COMPLETING = 300.0  # seconds; Amazon says that it takes minutes for the largest
ABORTING = 20.0  # seconds
HASH_PIECE = 1 << 20  # bytes
INLINE = 256 << 10  # bytes that are hashed and sent without more ado


class Slice(io.RawIOBase):
    """A part of an open file, read as if it were all of one; leaves the file's own position alone."""

    def __init__(self, file: BinaryIO, offset: int, count: int) -> None:
        super().__init__()
        self._file, self._offset, self._count, self._at = file, offset, count, 0

    def __len__(self) -> int:
        return self._count

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._count}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._count - self._at)
        data = os.pread(self._file.fileno(), left if size < 0 else min(size, left), self._offset + self._at)
        self._at += len(data)
        return data

    def md5(self) -> str:
        """Of all of it, as Content-MD5 has it. Blocks."""
        hasher = hashlib.md5(usedforsecurity=False)
        while piece := self.read(HASH_PIECE):
            hasher.update(piece)
        self.seek(0)
        return base64.b64encode(hasher.digest()).decode("ascii")


class Uploads:
    """The uploads of one bucket."""

    def __init__(self, client: S3Client, settings: S3Settings) -> None:
        self._client = client
        self._part_size = settings.part_size
        self._slots = asyncio.Semaphore(PARTS_AT_ONCE)
        self._aborts: set[asyncio.Task[None]] = set()
        self.attributes = _attributes(settings)

    async def put(self, path: str, data: bytes) -> None:
        """A small object."""
        md5 = _md5(data) if len(data) <= INLINE else await asyncio.to_thread(_md5, data)
        await self._client.call(
            path,
            "put_object",
            limit=_limit(len(data)),
            Key=self._client.key(path),
            Body=data if len(data) <= INLINE else io.BytesIO(data),
            ContentMD5=md5,
            **self.attributes,
        )

    async def put_file(self, path: str, file: BinaryIO) -> None:
        """All of an open file, which nobody changes meanwhile. Raises DriverError."""
        size = os.fstat(file.fileno()).st_size
        if size <= self._part_size:
            await self._put_whole(path, file, size)
            return
        upload = self.begin(path, file, size)
        try:
            upload.reached(size)
            await upload.complete()
        finally:
            upload.end()

    def begin(self, path: str, file: BinaryIO, size: int) -> Upload:
        """An upload in parts of a file that has, or will have, so many bytes."""
        part_size = max(self._part_size, -(-size // MOST_PARTS))
        return Upload(self, self._client, path, file, size, part_size)

    async def _put_whole(self, path: str, file: BinaryIO, size: int) -> None:
        body = Slice(file, 0, size)
        md5 = await asyncio.to_thread(body.md5)
        async with self._slots:
            await self._client.call(
                path,
                "put_object",
                limit=_limit(size),
                Key=self._client.key(path),
                Body=body,
                ContentMD5=md5,
                ContentLength=size,
                **self.attributes,
            )

    @property
    def slots(self) -> asyncio.Semaphore:
        """One is held for each part that is being sent."""
        return self._slots

    def abort(self, path: str, upload: str) -> None:
        """Let an upload's parts be deleted, behind the caller's back; what fails, a sweep finds."""
        task = asyncio.create_task(self._abort(path, upload))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def _abort(self, path: str, upload: str) -> None:
        try:
            await self._client.call(
                path, "abort_multipart_upload", limit=ABORTING, Key=self._client.key(path), UploadId=upload
            )
        except DriverError:
            return

    async def sweep(self, before: float, spare: str) -> int:
        """Abort uploads begun before that moment, but for those below a folder named `spare`."""
        count, parameters = 0, dict[str, Any]()
        while True:
            answer = await self._client.call(
                "", "list_multipart_uploads", Prefix=self._client.key(""), **parameters
            )
            for each in answer.get("Uploads", ()):
                path = self._client.path(each["Key"])
                if path is None or spare in path.split("/") or each["Initiated"].timestamp() >= before:
                    continue
                await self._abort(path, each["UploadId"])
                count += 1
            if not answer.get("IsTruncated"):
                return count
            parameters = {
                "KeyMarker": answer.get("NextKeyMarker", ""),
                "UploadIdMarker": answer.get("NextUploadIdMarker", ""),
            }

    async def close(self) -> None:
        """Wait for what is being aborted."""
        await asyncio.gather(*self._aborts, return_exceptions=True)


class Upload:
    """One object on its way in parts; they go as soon as `reached` says that their bytes are in the file."""

    def __init__(
        self, uploads: Uploads, client: S3Client, path: str, file: BinaryIO, size: int, part_size: int
    ) -> None:
        self._uploads = uploads
        self._client = client
        self._path = path
        self._file = file
        self._size, self._part_size = size, part_size
        self._id = ""
        self._next = 0  # the first byte of which no part was begun
        self._etags: dict[int, str] = {}
        self._own = asyncio.Semaphore(EACH_AT_ONCE)
        self._starting = asyncio.Lock()
        self._parts: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._completed = False

    def reached(self, count: int) -> None:
        """The file's first `count` bytes are in it, and stay as they are."""
        while self._failure is None and self._next < self._size:
            stop = min(self._next + self._part_size, self._size)
            if stop > count:
                return
            task = asyncio.create_task(self._send(self._next // self._part_size + 1, self._next, stop))
            self._next = stop
            self._parts.add(task)
            task.add_done_callback(self._sent)

    async def complete(self) -> None:
        """Wait for all parts, and make the object of them. Raises DriverError."""
        while self._parts and self._failure is None:
            await asyncio.wait(self._parts, return_when=asyncio.FIRST_COMPLETED)
        if self._failure is not None:
            raise self._failure
        if self._next < self._size:
            raise DriverError(self._path, "the upload was completed before all of it was there")
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(self._etags.items())]
        try:
            await self._client.call(
                self._path,
                "complete_multipart_upload",
                limit=COMPLETING,
                Key=self._client.key(self._path),
                UploadId=self._id,
                MultipartUpload={"Parts": parts},
            )
        except PathNotFoundError as error:  # NoSuchUpload: an earlier attempt, whose answer was lost, did it
            await self._check(error)
        self._completed = True

    def end(self) -> None:
        """No more is sent; what was not completed is aborted. Safe to call twice."""
        for task in self._parts:
            task.cancel()
        if self._id and not self._completed:
            self._uploads.abort(self._path, self._id)
            self._id = ""
        self._failure = self._failure or DriverError(self._path, "the upload was ended")

    async def _check(self, error: DriverError) -> None:
        found = await self._client.call(self._path, "head_object", Key=self._client.key(self._path))
        if found["ContentLength"] != self._size:
            raise DriverError(self._path, "the upload is gone") from error

    async def _send(self, number: int, start: int, stop: int) -> None:
        async with self._own, self._uploads.slots:
            await self._start()
            body = Slice(self._file, start, stop - start)
            md5 = await asyncio.to_thread(body.md5)
            answer = await self._client.call(
                self._path,
                "upload_part",
                limit=_limit(stop - start),
                Key=self._client.key(self._path),
                UploadId=self._id,
                PartNumber=number,
                Body=body,
                ContentMD5=md5,
                ContentLength=stop - start,
            )
            self._etags[number] = answer["ETag"]

    async def _start(self) -> None:
        async with self._starting:
            if not self._id:
                answer = await self._client.call(
                    self._path,
                    "create_multipart_upload",
                    Key=self._client.key(self._path),
                    **self._uploads.attributes,
                )
                self._id = str(answer["UploadId"])

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._parts.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self._failure is None:
            self._failure = error


def _limit(size: int) -> float:
    """Seconds that sending so many bytes may take, with all attempts."""
    return 60.0 + size / SLOWEST


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode("ascii")


def _attributes(settings: S3Settings) -> dict[str, Any]:
    """How objects are stored. What is the default is not said: not every server, or bucket, hears it."""
    found: dict[str, Any] = {"ContentType": "application/octet-stream"}
    if settings.encrypt:
        found["ServerSideEncryption"] = "aws:kms" if settings.kms_key else "AES256"
    if settings.encrypt and settings.kms_key:
        found["SSEKMSKeyId"] = settings.kms_key
    if settings.storage_class:
        found["StorageClass"] = settings.storage_class
    if settings.acl:
        found["ACL"] = settings.acl
    return found
