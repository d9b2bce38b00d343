"""Copies of files on a local disk: those used last, within a number of bytes.

The rules:

1. A copy of `path` is the file `path/SIZE` below the folder, where SIZE is how many bytes it has to have. It
   is written under a temporary name, synced and renamed: one of another size is none, and is removed.
2. What is held is known in memory, in the order of use. After a start that is the order of writing.
3. What goes while it is being copied (`drop`) is not held then.
4. Nothing that fails here is anybody's failure: there is no copy then. After a failure to write, a full disk
   for one, nothing is copied for PAUSE seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

import structlog

from mirror.drivers import files
from mirror.drivers.base import DriverError, OpenFile, StorageDriver

LOW_WATER = 0.9  # of the limit: so much is left where there must be room
LARGEST = 0.5  # of the limit: a larger file would drive out too many others
PAUSE = 60.0  # seconds
LEFT_AFTER = 3600.0  # seconds: a temporary file untouched for so long is a dead process's, at a start

log = structlog.get_logger()


class Hot:
    """`disk` is a driver on the local `folder`, all its own; `limit` in bytes; `clock` is monotonic."""

    def __init__(
        self, disk: StorageDriver, folder: Path, limit: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._disk = disk
        self._folder = folder
        self._limit = limit
        self._clock = clock
        self._held: OrderedDict[str, tuple[int, float]] = OrderedDict()  # path: size, when written
        self._folders = Counter[str]()  # how many are held below each
        self._copies: dict[str, Copy] = {}
        self._paused = 0.0  # until then
        self.bytes = 0  # that are held

    async def start(self) -> None:
        """Find what an earlier process has left. A disk that cannot be read holds nothing."""
        await self._disk.start()
        found, broken = list[tuple[float, str, int]](), list[str]()
        try:
            await self._disk.sweep(time.time() - LEFT_AFTER)
            async with aclosing(self._disk.walk("")) as batches:
                async for batch in batches:
                    for entry in batch:
                        path, _, name = entry.path.rpartition("/")
                        if not entry.is_folder and path and name == str(entry.size):
                            found.append((entry.modified, path, entry.size))
                        elif not entry.is_folder:
                            broken.append(entry.path)
        except DriverError as error:
            self._failed(error)
        for modified, path, size in sorted(found):
            self._hold(path, size, modified)
        await self._remove(broken)
        await self._make_room()

    def held(self, path: str) -> tuple[int, float] | None:
        """The size of the copy, and when it was made (seconds since the epoch); None: there is none."""
        return self._held.get(path)

    def __len__(self) -> int:
        return len(self._held)

    async def open(self, path: str) -> OpenFile | None:
        """The copy, opened; None: there is none."""
        held = self._held.get(path)
        if held is None:
            return None
        with contextlib.suppress(DriverError):
            file = await self._disk.open(f"{path}/{held[0]}")
            if file.size == held[0]:
                if path in self._held:
                    self._held.move_to_end(path)
                return file
            await file.close()
        await self.drop([path])
        return None

    async def begin(self, path: str, size: int) -> Copy | None:
        """Begin to copy what has so many bytes; None: that is not wanted, or not now. To be ended.

        Room is made first, so that with what is being copied there is never more than the limit.
        """
        if (
            path in self._held
            or path in self._copies
            or self._clock() < self._paused
            or size > self._limit * LARGEST
            or self._reserved() + size > self._limit
        ):
            return None
        copy = self._copies[path] = Copy(self._folder / files.temporary_name(), size)
        try:
            await self._make_room()
        except asyncio.CancelledError:
            del self._copies[path]
            raise
        return copy

    async def keep(self, path: str, copy: Copy) -> None:
        """A copy is complete: hold it, if it is still wanted."""
        try:
            await copy.finish()
            if copy.wanted:
                await self._disk.move_in(copy.file, f"{path}/{copy.size}")
        except DriverError as error:
            self._failed(error)
            return
        if copy.wanted:
            del self._copies[path]
            self._hold(path, copy.size, time.time())
        else:  # it went meanwhile
            await self._remove([path])

    async def end(self, path: str, copy: Copy) -> None:
        """Nothing more is done with it; what is not held goes."""
        if self._copies.get(path) is copy:
            del self._copies[path]
        if copy.failure is not None:
            self._failed(copy.failure)
        await copy.discard()

    def forget(self, path: str) -> bool:
        """It is held no more, nor will be what is being copied; whether there was any of it."""
        copy = self._copies.get(path)
        if copy is not None:
            copy.wanted = False
        held = self._held.pop(path, None)
        if held is not None:
            self.bytes -= held[0]
            for folder in _above(path):
                self._folders[folder] -= 1
                if not self._folders[folder]:
                    del self._folders[folder]
        return copy is not None or held is not None

    async def drop(self, doomed: Sequence[str]) -> None:
        """Remove what there is of these files, or folders, also what another process has put there."""
        for path in doomed:
            self.forget(path)
            known: Iterable[str] = self._copies
            if self._folders[path] > 0:
                known = [*self._copies, *self._held]
            for below in [each for each in known if each.startswith(f"{path}/")]:
                self.forget(below)
        await self._remove(doomed)

    async def sweep(self, before: float) -> int:
        """Remove what broken-off copies left; how many there were."""
        try:
            return await self._disk.sweep(before)
        except DriverError as error:
            self._failed(error)
            return 0

    async def close(self) -> None:
        await self._disk.close()

    def _hold(self, path: str, size: int, modified: float) -> None:
        self.forget(path)
        self._held[path] = size, modified
        self._folders.update(_above(path))
        self.bytes += size

    def _reserved(self) -> int:
        """Bytes that are being copied, when they are all there."""
        return sum(copy.size for copy in self._copies.values())

    async def _make_room(self) -> None:
        """Where there would be too many bytes, let the oldest go, down to the low-water mark."""
        reserved = self._reserved()
        if self.bytes + reserved <= self._limit:
            return
        doomed = []
        while self._held and self.bytes + reserved > self._limit * LOW_WATER:
            doomed.append(next(iter(self._held)))
            self.forget(doomed[-1])
        await self._remove(doomed)

    async def _remove(self, doomed: Iterable[str]) -> None:
        some = [path for path in doomed if path]
        if not some:
            return
        try:
            await self._disk.remove(some, "", durable=False)
        except DriverError as error:
            self._failed(error)

    def _failed(self, error: DriverError) -> None:
        if self._clock() >= self._paused:
            log.warning("disk.failed", reason=str(error), pause=PAUSE)
        self._paused = self._clock() + PAUSE


def _above(path: str) -> Iterator[str]:
    """All folders that a path is in, but for the root."""
    folder = path.rpartition("/")[0]
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


class Copy:
    """A copy on its way, at a temporary name. Raises nothing but at its `finish`.

    NB: a thread may be at it for longer than anybody waits for that: after `discard` it does nothing more.
    """

    def __init__(self, file: Path, size: int) -> None:
        self.file = file
        self.size = size
        self.wanted = True
        self.failure: DriverError | None = None
        self._writing: BinaryIO | None = None
        self._count = 0
        self._turn = threading.Lock()
        self._ended = False

    async def take(self, source: Path) -> None:
        """A local file, which may go then: gets a second name, or is copied to another file system."""

        def link() -> int:
            with self._turn:
                if self._ended:
                    return 0
                self.file.parent.mkdir(parents=True, exist_ok=True)
                files.link_or_copy(source, self.file)
                return self.file.stat().st_size

        try:
            self._count = await asyncio.to_thread(link)
        except OSError as error:
            self._fail(error)

    async def write(self, data: bytes) -> bool:
        """The next bytes; whether more are wanted."""

        def write() -> None:
            with self._turn:
                if self._ended:
                    return
                if self._writing is None:
                    self.file.parent.mkdir(parents=True, exist_ok=True)
                    self._writing = self.file.open("xb")
                self._writing.write(data)

        try:
            await asyncio.to_thread(write)
        except OSError as error:
            self._fail(error)
        self._count += len(data)
        return self.wanted and self.failure is None

    async def finish(self) -> None:
        """All of it was given. Raises DriverError where that is not so, or failed."""
        try:
            await asyncio.to_thread(self._close)
        except OSError as error:
            self._fail(error)
        if self.failure is None and self._count != self.size:
            self.wanted = False  # no failure of the disk's
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    async def discard(self) -> None:
        """Remove the temporary file, if it is still there; also when nobody waits for that any more.

        NB: what waits for a thread goes with whoever is cancelled, unless it is shielded.
        """

        def remove() -> None:
            with self._turn:
                self._ended = True
                with contextlib.suppress(OSError):
                    self._close()
                with contextlib.suppress(OSError):
                    self.file.unlink(missing_ok=True)

        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, remove))

    def _close(self) -> None:
        if self._writing is not None:
            self._writing.close()

    def _fail(self, error: OSError) -> None:
        if self.failure is None:
            self.failure = DriverError("", f"cannot copy to the local disk: {error.strerror}")
