"""The driver that forgets: everything in memory, for tests and for registry:2's `storage: inmemory`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import BinaryIO

from mirror.drivers import paths
from mirror.drivers.base import DriverError, Info, NoSpaceError, OpenFile, PathNotFoundError

CHUNK = 1 << 20  # bytes; what OpenFile.chunks allows
LIMIT = 4 << 30  # bytes of content; some bound must be there before the machine's memory is

_Folder = dict[str, "_Folder | bytes"]


class InMemoryDriver:
    """A StorageDriver of nested dictionaries; a folder is there as long as something is in it."""

    name = "inmemory"

    def __init__(self, limit: int = LIMIT) -> None:
        self._root: _Folder = {}
        self._limit = limit
        self._used = 0

    async def get(self, path: str, limit: int) -> bytes:
        data = self._file(path)
        if len(data) > limit:
            raise DriverError(path, f"has {len(data)} bytes, more than the {limit} allowed")
        return data

    async def put(self, path: str, data: bytes) -> None:
        self._set(path, bytes(data))

    async def move_in(self, source: Path, path: str) -> None:
        paths.split(path)
        try:
            data = await asyncio.to_thread(self._read_source, source)
        except FileNotFoundError as error:
            raise PathNotFoundError(path, "the file to move in is not there") from error
        except OSError as error:
            raise DriverError(path, f"cannot read the file to move in: {error.strerror}") from error
        self._set(path, data)
        try:
            await asyncio.to_thread(source.unlink)
        except OSError as error:
            raise DriverError(path, f"cannot remove the file moved in: {error.strerror}") from error

    def _read_source(self, source: Path) -> bytes:
        """The file to move in; of one that can never fit only so much that `_set` refuses it."""
        with source.open("rb") as file:
            return file.read(self._limit + 1)

    async def open(self, path: str) -> OpenFile:
        return _InMemoryFile(path, self._file(path))

    async def stat(self, path: str) -> Info:
        node = self._node(path)
        return Info(0, True) if isinstance(node, dict) else Info(len(node), False)

    async def list(self, path: str) -> list[str]:
        node = self._node(path)
        if not isinstance(node, dict):
            raise PathNotFoundError(path, "not a folder")
        return sorted(node)

    async def delete(self, path: str) -> None:
        parts = paths.split(path)
        if not parts:
            raise DriverError(path, "the root cannot be deleted")
        self._used -= _weight(self._node(path))
        chain = [self._root]
        for part in parts[:-1]:
            child = chain[-1][part]
            assert isinstance(child, dict)  # _node has walked here
            chain.append(child)
        for folder, part in zip(reversed(chain), reversed(parts), strict=True):
            del folder[part]
            if folder:
                break

    async def close(self) -> None:
        self._root = {}
        self._used = 0

    def _node(self, path: str) -> _Folder | bytes:
        node: _Folder | bytes = self._root
        for part in paths.split(path):
            if not isinstance(node, dict) or part not in node:
                raise PathNotFoundError(path)
            node = node[part]
        return node

    def _file(self, path: str) -> bytes:
        node = self._node(path)
        if isinstance(node, dict):
            raise PathNotFoundError(path, "not a file")
        return node

    def _set(self, path: str, data: bytes) -> None:
        """Put `data` at `path`; everything is checked before anything is changed."""
        parts = paths.split(path)
        if not parts:
            raise DriverError(path, "is a folder")
        old: _Folder | bytes | None = self._root
        for part in parts:
            if isinstance(old, bytes):
                raise DriverError(path, "a file is where a folder should be")
            old = None if old is None else old.get(part)
        if isinstance(old, dict):
            raise DriverError(path, "is a folder")
        used = self._used + len(data) - len(old or b"")
        if used > self._limit:
            raise NoSpaceError(path, f"more than {self._limit} bytes in memory")
        folder = self._root
        for part in parts[:-1]:
            child = folder.setdefault(part, {})
            assert isinstance(child, dict)  # checked above
            folder = child
        folder[parts[-1]] = data
        self._used = used


def _weight(node: _Folder | bytes) -> int:
    if isinstance(node, bytes):
        return len(node)
    return sum(_weight(child) for child in node.values())


class _InMemoryFile:
    """The bytes of one moment."""

    local: BinaryIO | None = None

    def __init__(self, path: str, data: bytes) -> None:
        self._path = path
        self._data = data
        self.size = len(data)

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        if stop > self.size:
            raise DriverError(self._path, f"ends at {self.size}, before {stop}")
        for offset in range(start, stop, CHUNK):
            if len(self._data) != self.size:
                raise DriverError(self._path, "the file was closed")
            yield self._data[offset : min(stop, offset + CHUNK)]

    async def close(self) -> None:
        self._data = b""
