"""Deleting: in batches where the server can, else one by one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from mirror.drivers.base import (
    DeniedError,
    DriverError,
    PathNotFoundError,
    ThrottledError,
    UnreachableError,
)
from mirror.drivers.manycalls import of_each
from mirror.drivers.s3client import S3Client
from mirror.drivers.s3errors import DENIED, THROTTLED, told
from mirror.drivers.s3listing import Listing

BATCH = 1000  # keys; the most that DeleteObjects takes


class Deletion:
    """Deletes in one bucket."""

    def __init__(self, client: S3Client, listing: Listing) -> None:
        self._client = client
        self._listing = listing
        self._batches = True  # until the server has refused one

    async def remove(self, doomed: Sequence[str], *, listed: bool = False) -> list[bool]:
        """Delete files, and trees; whether each was there. Raises DriverError.

        `listed`: all are files, and whether each was there is not looked for.
        """
        if listed:
            for start in range(0, len(doomed), BATCH):
                await self._delete(list(dict.fromkeys(doomed[start : start + BATCH])))
            return [True] * len(doomed)
        are_files = await of_each(self._is_file, doomed)
        files = list(dict.fromkeys(path for path, is_file in zip(doomed, are_files, strict=True) if is_file))
        for start in range(0, len(files), BATCH):
            await self._delete(files[start : start + BATCH])
        found = []
        for path, is_file in zip(doomed, are_files, strict=True):
            found.append(is_file or await self._remove_tree(path))
        return found

    async def _remove_tree(self, path: str) -> bool:
        found = False
        async with aclosing(self._listing.pages(f"{path}/")) as pages:
            async for page in pages:
                keys = [entry.path for entry in page.entries]
                found = found or bool(keys)
                await self._delete(keys)
        return found

    async def _is_file(self, path: str) -> bool:
        try:
            await self._client.head(path)
        except PathNotFoundError:
            return False
        return True

    async def _delete(self, doomed: Sequence[str]) -> None:
        """Delete these files: at most BATCH. Those that are not there are no error."""
        if len(doomed) > 1 and self._batches and await self._delete_batch(doomed):
            return
        await of_each(self._delete_one, doomed)

    async def _delete_one(self, path: str) -> None:
        try:
            await self._client.call(path, "delete_object", Key=self._client.key(path))
        except PathNotFoundError:
            return

    async def _delete_batch(self, doomed: Sequence[str]) -> bool:
        """Whether the server takes batches: Google's does not."""
        objects = [{"Key": self._client.key(path)} for path in doomed]
        try:
            answer = await self._client.call(
                doomed[0], "delete_objects", Delete={"Objects": objects, "Quiet": True}
            )
        except (DeniedError, ThrottledError, UnreachableError):
            raise
        except DriverError:
            self._batches = False
            return False
        for entry in answer.get("Errors", ()):
            found = self._client.path(entry.get("Key", ""))
            raise _failure(found if found and found in doomed else doomed[0], entry)
        return True


def _failure(path: str, entry: Any) -> DriverError:
    kind = DriverError
    if entry.get("Code") in DENIED:
        kind = DeniedError
    elif entry.get("Code") in THROTTLED:
        kind = ThrottledError
    return kind(path, f"cannot be deleted: {told(entry)}")
