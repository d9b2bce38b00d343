"""Putting files into the bucket: small ones whole, large ones in parts, several at once.

An object appears with the request that completes it, so readers see the old or the new one. An upload that
fails is aborted; one that a crash left is swept.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from pathlib import Path
from typing import Any

from mirror.drivers.answers import taken_apart
from mirror.drivers.base import DriverError, PathNotFoundError
from mirror.drivers.s3client import S3Client
from mirror.drivers.s3parts import Upload
from mirror.drivers.s3sending import ABORTING, Sending, md5
from mirror.drivers.s3settings import S3Settings
from mirror.drivers.slice import Slice, Source
from mirror.drivers.storeclient import time_for

MOST_PARTS = 10_000  # of one object; S3's limit
INLINE = 256 << 10  # bytes that are hashed and sent without more ado


class Uploads:
    """The uploads of one bucket."""

    def __init__(self, client: S3Client, settings: S3Settings) -> None:
        self._client = client
        self._part_size = settings.part_size
        self._sending = Sending(client, settings)

    async def put(self, path: str, data: bytes) -> None:
        """A small object."""
        checksum = _md5(data) if len(data) <= INLINE else await asyncio.to_thread(_md5, data)
        await self._client.write(
            path,
            "put_object",
            limit=time_for(len(data)),
            Body=data if len(data) <= INLINE else io.BytesIO(data),
            ContentMD5=checksum,
            **self._sending.attributes,
        )

    async def put_file(self, path: str, source: Source) -> None:
        """All of a file, which nobody changes meanwhile. Raises DriverError."""
        if source.size <= self._part_size:
            await self._put_whole(path, source)
            return
        upload = Upload(self._sending, path, source.size, self._size_of_parts(source.size), source=source)
        try:
            await upload.complete()
        finally:
            upload.end()

    def begin(self, path: str, file: Path, size: int) -> Upload | None:
        """An upload in parts of a file that is to have so many bytes; None: it is not worth while."""
        if size <= self._part_size:
            return None
        return Upload(self._sending, path, size, self._size_of_parts(size), file=file)

    def _size_of_parts(self, size: int) -> int:
        return max(self._part_size, -(-size // MOST_PARTS))

    async def _put_whole(self, path: str, source: Source) -> None:
        body = Slice(source, 0, source.size)
        checksum = await md5(path, body)
        async with self._sending.slots:
            await self._client.write(
                path,
                "put_object",
                limit=time_for(source.size),
                Body=body,
                ContentMD5=checksum,
                ContentLength=source.size,
                **self._sending.attributes,
            )

    async def sweep(self, before: float, own: str) -> int:
        """Abort uploads below the folder `own` that had nothing sent since that moment. Raises DriverError.

        Another mirror may be at one of them, for hours where its upstream is slow.
        """
        count, parameters = 0, dict[str, Any]()
        prefix = f"{own}/" if own else ""
        while True:
            answer = await self._client.call(
                own, "list_multipart_uploads", Prefix=self._client.key(prefix), **parameters
            )
            for path, upload in self._begun(answer, prefix, before):
                if upload not in self._sending.running:
                    count += await self._abort_left(path, upload, before)
            if not answer.get("IsTruncated"):
                return count
            found = {
                "KeyMarker": answer.get("NextKeyMarker", ""),
                "UploadIdMarker": answer.get("NextUploadIdMarker", ""),
            }
            if found == parameters or not found["KeyMarker"]:
                raise DriverError(own, "the storage does not say how its listing of uploads goes on")
            parameters = found

    def _begun(self, answer: Any, prefix: str, before: float) -> list[tuple[str, str]]:
        """Of a listing those below `prefix` that were begun before."""
        found = []
        with taken_apart(prefix.rstrip("/")):
            for each in answer.get("Uploads", ()):
                path = self._client.path(each["Key"])
                if path is not None and path.startswith(prefix) and each["Initiated"].timestamp() < before:
                    found.append((path, str(each["UploadId"])))
        return found

    async def _abort_left(self, path: str, upload: str, before: float) -> bool:
        """Whether it was left, and went."""
        of: dict[str, Any] = {"Key": self._client.key(path), "UploadId": upload}
        marker = 0
        try:
            while True:
                answer = await self._client.call(path, "list_parts", PartNumberMarker=marker, **of)
                with taken_apart(path):
                    if any(part["LastModified"].timestamp() >= before for part in answer.get("Parts", ())):
                        return False
                last, marker = marker, int(answer.get("NextPartNumberMarker") or 0)
                if not answer.get("IsTruncated") or marker <= last:
                    break
            await self._client.call(path, "abort_multipart_upload", limit=ABORTING, **of)
        except PathNotFoundError:  # somebody has completed or aborted it
            return False
        return True

    async def close(self) -> None:
        """Wait for what is being aborted."""
        await self._sending.close()


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode("ascii")
