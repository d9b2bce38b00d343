"""A blob that the store has opened."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from mirror.drivers.base import Elsewhere as Place
from mirror.drivers.base import OpenFile, StorageDriver
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.registry import Elsewhere, FileSpan, Part
from mirror.store.errors import reading

MEDIA_TYPE = "application/octet-stream"  # the tree does not say what a blob is


class StoredBlob:
    """A registry.Blob of one open file. The digest was checked when the file was kept, and is not again."""

    start = 0

    def __init__(self, digest: Digest, file: OpenFile, elsewhere: Elsewhere | None = None) -> None:
        self.descriptor = Descriptor(digest, file.size, MEDIA_TYPE)
        self.elsewhere = elsewhere
        self._file = file

    async def read(self, start: int, stop: int) -> AsyncGenerator[Part, None]:
        """One FileSpan for a local file, else chunks. Raises Unavailable when the storage fails."""
        local = self._file.local
        if local is not None:
            if start < stop:
                yield FileSpan(local, start, stop - start)
            return
        with reading():
            async with aclosing(self._file.chunks(start, stop)) as chunks:
                async for chunk in chunks:
                    yield chunk

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """All of it, in chunks of at most 1 MiB. Raises DriverError."""
        return self._file.chunks(0, self.descriptor.size)

    async def close(self) -> None:
        await self._file.close()


class Unopened:
    """An OpenFile that is opened when it is read: most that is known by its size, or its place, never is."""

    local = None

    def __init__(self, driver: StorageDriver, path: str, size: int) -> None:
        self._driver = driver
        self._path = path
        self._files: list[OpenFile] = []
        self.size = size

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        file = await self._driver.open(self._path, start)
        self._files.append(file)
        async with aclosing(file.chunks(start, stop)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def close(self) -> None:
        while self._files:
            await self._files.pop().close()


def placed(digest: Digest, driver: StorageDriver, path: str, place: Place) -> StoredBlob:
    """A blob whose bytes clients fetch elsewhere."""
    return StoredBlob(digest, Unopened(driver, path, place.size), Elsewhere(place.url, place.until))
