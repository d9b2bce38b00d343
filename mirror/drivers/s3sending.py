"""What all uploads share: how objects are stored, how many parts go at once, what is cleaned up behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from mirror.drivers.base import DriverError
from mirror.drivers.s3client import S3Client
from mirror.drivers.s3settings import S3Settings
from mirror.drivers.slice import Slice

PARTS_AT_ONCE = 8
ABORTING = 20.0  # seconds


class Sending:
    """One for each bucket. `slots`: one is held for each part that is being sent."""

    def __init__(self, client: S3Client, settings: S3Settings) -> None:
        self.client = client
        self.attributes = _attributes(settings)
        self.slots = asyncio.Semaphore(PARTS_AT_ONCE)
        self.running = set[str]()  # uploads of ours that are under way, by their names at the server
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is waited for at the close."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def abort(self, path: str, upload: str) -> None:
        """Have an upload's parts deleted; where that fails, a sweep finds them."""
        key = self.client.key(path)
        try:
            await self.client.call(path, "abort_multipart_upload", limit=ABORTING, Key=key, UploadId=upload)
        except DriverError:
            return

    async def close(self) -> None:
        """Wait for what is being aborted, or was told to end."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


async def md5(path: str, body: Slice) -> str:
    """Of what is to be sent. Raises DriverError where it cannot be read."""
    try:
        return await asyncio.to_thread(body.md5)
    except OSError as error:
        raise DriverError(path, f"cannot read the file: {error.strerror}") from error


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
