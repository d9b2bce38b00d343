"""The verbs that are the same on every object store: its names are a flat list, and a folder is nothing."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Sequence
from pathlib import Path

from mirror.drivers import flat, paths
from mirror.drivers.base import DriverError, Entry, OpenFile, PathNotFoundError
from mirror.drivers.remote import check_file, check_writable, copy_out
from mirror.drivers.urls import Urls


class FlatDriver(ABC):
    """Half a StorageDriver. `pages`: the store's listing; `urls`: forgets what is deleted."""

    def __init__(self, pages: flat.List, urls: Urls) -> None:
        self._pages = pages
        self._urls = urls

    @abstractmethod
    async def get_many(self, wanted: Sequence[str], limit: int, total: int) -> list[bytes | DriverError]:
        """As StorageDriver.get_many."""

    @abstractmethod
    async def open(self, path: str, start: int = 0) -> OpenFile:
        """As StorageDriver.open."""

    @abstractmethod
    async def _remove(self, doomed: Sequence[str], listed: bool) -> Sequence[bool]:
        """As StorageDriver.remove; the paths may be deleted."""

    async def get(self, path: str, limit: int) -> bytes:
        (found,) = await self.get_many([path], limit, limit)
        if isinstance(found, DriverError):
            raise found
        return found

    async def walk(self, path: str, leaves: Collection[str] = ()) -> AsyncGenerator[list[Entry], None]:
        paths.split(path)
        async with contextlib.aclosing(flat.walk(self._pages, path, leaves)) as batches:
            async for batch in batches:
                yield batch

    async def find(self, path: str, patterns: Sequence[str]) -> AsyncGenerator[list[Entry], None]:
        paths.split(path)
        async with contextlib.aclosing(flat.find(self._pages, path, patterns)) as batches:
            async for batch in batches:
                yield batch

    async def delete(self, path: str) -> None:
        check_writable(path)
        if not (await self.remove([path], "", durable=True))[0]:
            raise PathNotFoundError(path)

    async def prune(self, path: str, keep: str) -> None:
        """An empty folder is none."""
        paths.check_below(path, keep)

    async def remove(
        self, doomed: Sequence[str], keep: str, *, durable: bool, listed: bool = False
    ) -> Sequence[bool]:
        """As the Protocol says, with as few requests as there can be."""
        for path in doomed:
            paths.check_below(path, keep)
        try:
            return await self._remove(doomed, listed)
        finally:  # not before: whoever asked meanwhile has found it
            self._urls.forget_each(doomed)

    async def move_out(self, path: str, target: Path) -> None:
        check_file(path)
        await copy_out(path, await self.open(path), target)
        await self.remove([path], "", durable=True)
