"""The driver that forgets: everything in memory, for tests and for registry:2's `storage: inmemory`."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from mirror.drivers import paths
from mirror.drivers.base import (
    WALK_BATCH,
    DriverError,
    Entry,
    Incoming,
    Info,
    NoSpaceError,
    OpenFile,
    PathNotFoundError,
)
from mirror.drivers.patterns import parse

CHUNK = 1 << 20  # bytes; what OpenFile.chunks allows
LIMIT = 4 << 30  # bytes of content; some bound must be there before the machine's memory is


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    modified: float  # seconds since the epoch


_Folder = dict[str, "_Folder | _File"]


class InMemoryDriver:
    """A StorageDriver of nested dictionaries; a folder is there as long as something is in it."""

    name = "inmemory"

    def __init__(self, limit: int = LIMIT, clock: Callable[[], float] = time.time) -> None:
        """At most `limit` bytes; `clock` gives the time of a write."""
        self._root: _Folder = {}
        self._limit = limit
        self._clock = clock
        self._used = 0

    async def start(self) -> None:
        """There is nothing to make."""

    async def get(self, path: str, limit: int) -> bytes:
        data = self._file(path).data
        if len(data) > limit:
            raise DriverError(path, f"has {len(data)} bytes, more than the {limit} allowed")
        return data

    async def get_many(self, wanted: Sequence[str], limit: int, total: int) -> list[bytes | DriverError]:
        found: list[bytes | DriverError] = []
        for path in wanted:
            try:
                data = await self.get(path, limit)
            except DriverError as error:
                found.append(error)
                continue
            found.append(data)
            total -= len(data)
            if total <= 0:
                break
        return found

    async def put(self, path: str, data: bytes) -> None:
        self._set(path, bytes(data))

    def incoming(self, source: Path, path: str, size: int) -> None:
        """It costs next to nothing to move it in whole."""

    async def move_in(self, source: Path, path: str, incoming: Incoming | None = None) -> None:
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

    async def open(self, path: str, start: int = 0) -> OpenFile:
        return _InMemoryFile(path, self._file(path).data)

    async def elsewhere(self, path: str) -> None:
        """Nowhere."""

    async def stat(self, path: str) -> Info:
        node = self._node(path)
        if isinstance(node, dict):
            return Info(0, True, 0.0)
        return Info(len(node.data), False, node.modified)

    async def walk(self, path: str, leaves: Collection[str] = ()) -> AsyncGenerator[list[Entry], None]:
        """What is there at the first step; a folder without files is none."""
        try:
            node = self._node(path)
        except PathNotFoundError:
            return
        if isinstance(node, dict):
            entries = iter(list(_entries(path, node, leaves)))
            while batch := list(islice(entries, WALK_BATCH)):
                yield batch

    async def find(self, path: str, patterns: Sequence[str]) -> AsyncGenerator[list[Entry], None]:
        """What is there at the first step."""
        start = parse(patterns)
        async with aclosing(self.walk(path)) as batches:
            async for batch in batches:
                yield [entry for entry in batch if start.fits(entry.path[len(path) :].lstrip("/"))]

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

    async def prune(self, path: str, keep: str) -> None:
        """An empty folder is gone with the last file in it."""
        paths.check_below(path, keep)

    async def remove(
        self, doomed: Sequence[str], keep: str, *, durable: bool, listed: bool = False
    ) -> Sequence[bool]:
        """Nothing here is there after a power cut."""
        for path in doomed:
            paths.check_below(path, keep)
        found = []
        for path in doomed:
            try:
                await self.delete(path)
            except PathNotFoundError:
                found.append(False)
            else:
                found.append(True)
        return found

    async def sweep(self, before: float) -> int:
        """Nothing here outlives its process."""
        return 0

    async def move_out(self, path: str, target: Path) -> None:
        file = self._file(path)
        try:
            await asyncio.to_thread(_write_out, target, file.data)
        except OSError as error:
            kind = NoSpaceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else DriverError
            raise kind(path, f"cannot be moved out: {error.strerror}") from error
        try:
            if self._file(path) is file:  # and no later one
                await self.delete(path)
        except PathNotFoundError:
            return

    async def close(self) -> None:
        self._root = {}
        self._used = 0

    def _node(self, path: str) -> _Folder | _File:
        node: _Folder | _File = self._root
        for part in paths.split(path):
            if not isinstance(node, dict) or part not in node:
                raise PathNotFoundError(path)
            node = node[part]
        return node

    def _file(self, path: str) -> _File:
        node = self._node(path)
        if isinstance(node, dict):
            raise PathNotFoundError(path, "not a file")
        return node

    def _set(self, path: str, data: bytes) -> None:
        """Put `data` at `path`; everything is checked before anything is changed."""
        parts = paths.split(path)
        if not parts:
            raise DriverError(path, "is a folder")
        old: _Folder | _File | None = self._root
        for part in parts:
            if isinstance(old, _File):
                raise DriverError(path, "a file is where a folder should be")
            old = None if old is None else old.get(part)
        if isinstance(old, dict):
            raise DriverError(path, "is a folder")
        used = self._used + len(data) - (0 if old is None else len(old.data))
        if used > self._limit:
            raise NoSpaceError(path, f"more than {self._limit} bytes in memory")
        folder = self._root
        for part in parts[:-1]:
            child = folder.setdefault(part, {})
            assert isinstance(child, dict)  # checked above
            folder = child
        folder[parts[-1]] = _File(data, self._clock())
        self._used = used


def _write_out(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def _weight(node: _Folder | _File) -> int:
    if isinstance(node, _File):
        return len(node.data)
    return sum(_weight(child) for child in node.values())


def _entries(path: str, folder: _Folder, leaves: Collection[str]) -> Iterator[Entry]:
    for name, node in folder.items():
        below = f"{path}/{name}" if path else name
        if isinstance(node, dict) and name in leaves:
            yield Entry(below, 0, 0.0, is_folder=True)
        elif isinstance(node, dict):
            yield from _entries(below, node, leaves)
        else:
            yield Entry(below, len(node.data), node.modified)


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
