"""The driver on a local folder: atomic and durable writes, reads that need no copy through Python.

The rules:

1. A write goes to a temporary name in the folder of its target, is fsynced, renamed, and the folder fsynced.
   So a reader sees the old or the new file, and after a crash there is one of the two.
2. Temporary names are never listed or opened. Those that a crash left behind are removed by a later write.
3. A tree that is deleted goes to a temporary name first: readers see all of it or nothing.
4. A symbolic link that stands for a file is never followed: nothing here makes one, so it might point
   anywhere. One that stands for a folder is: operators spread a tree over several disks that way.
5. Whatever blocks runs in the driver's own threads. A call that is cancelled still ends there, as a whole.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from mirror.drivers import files, paths, removal
from mirror.drivers.base import DriverError, Entry, Incoming, Info, OpenFile
from mirror.drivers.cached import Cached
from mirror.drivers.finding import Find
from mirror.drivers.walking import Sweep, Walk

CHUNK = 1 << 20  # bytes; what OpenFile.chunks allows

T = TypeVar("T")


class FilesystemDriver:
    """A StorageDriver below `root`, which need not be there before the first write."""

    name = "filesystem"

    def __init__(self, root: Path, threads: int) -> None:
        """`threads` bounds how many operations run at a time; the others wait (registry:2: maxthreads)."""
        self._root = root
        self._start = f"{root}/"
        self._cached = Cached(root)
        self._threads = _Threads(threads)

    async def start(self) -> None:
        """There is nothing to make."""

    async def get(self, path: str, limit: int) -> bytes:
        target = self._spell(path)
        data = self._cached.read(path, limit)
        if data is not None:
            return data
        return await self._threads.run(partial(files.read_whole, target, path, limit))

    async def get_many(self, wanted: Sequence[str], limit: int, total: int) -> list[bytes | DriverError]:
        targets = [(self._spell(path), path) for path in wanted]
        return await self._threads.run(partial(files.read_many, targets, limit, total))

    async def put(self, path: str, data: bytes) -> None:
        await self._threads.run(partial(files.write, self._locate_below(path), path, data))

    def incoming(self, source: Path, path: str, size: int) -> None:
        """It costs next to nothing to move it in whole."""

    async def move_in(self, source: Path, path: str, incoming: Incoming | None = None) -> None:
        """As the Protocol says; the file keeps its permission bits.

        The source gets a second name (a hard link) rather than a new one, so that it is still there when the
        folder cannot be made durable; it is copied where links are impossible (another file system).
        """
        await self._threads.run(partial(files.move_in, source, self._locate_below(path), path))

    async def open(self, path: str, start: int = 0) -> OpenFile:
        call = partial(files.open_regular, self._spell(path), path)
        file, size = await self._threads.run(call, unclaimed=_close_unclaimed)
        return _LocalFile(self._threads, path, file, size)

    async def elsewhere(self, path: str) -> None:
        """Nowhere."""

    async def stat(self, path: str) -> Info:
        target = self._spell(path)
        found = self._cached.stat((path,))
        if found is not None and (info := found[0]) is not None:
            return info
        return await self._threads.run(partial(files.stat, target, path))

    def stat_at_once(self, wanted: Sequence[str]) -> list[Info | None] | None:
        for path in wanted:
            paths.check(path)
        return self._cached.stat(wanted)

    async def walk(self, path: str, leaves: Collection[str] = ()) -> AsyncGenerator[list[Entry], None]:
        walk = Walk(self._root, path, leaves)
        while (batch := await self._threads.run(walk.batch)) is not None:
            yield batch

    async def find(self, path: str, patterns: Sequence[str]) -> AsyncGenerator[list[Entry], None]:
        find = Find(self._root, path, patterns)
        while (batch := await self._threads.run(find.batch)) is not None:
            yield batch

    async def list(self, path: str) -> list[str]:
        return await self._threads.run(partial(files.names, self._locate(path), path))

    async def delete(self, path: str) -> None:
        await self._threads.run(partial(removal.delete, self._root, self._locate_below(path), path))

    async def prune(self, path: str, keep: str) -> None:
        paths.check_below(path, keep)
        await self._threads.run(partial(removal.prune, self._locate(path), self._locate(keep), path))

    async def remove(
        self, doomed: Sequence[str], keep: str, *, durable: bool, listed: bool = False
    ) -> Sequence[bool]:
        """As the Protocol says; syncs no folder more than once."""
        for path in doomed:
            paths.check_below(path, keep)
        targets = [(self._locate(path), path) for path in doomed]
        work = partial(removal.remove, self._root, targets, self._locate(keep), durable=durable)
        return await self._threads.run(work)

    async def sweep(self, before: float) -> int:
        sweep, removed = Sweep(self._root, before), 0
        while (count := await self._threads.run(sweep.batch)) is not None:
            removed += count
        return removed

    async def move_out(self, path: str, target: Path) -> None:
        """As the Protocol says, by a rename on the same file system; folders above `target` are made."""
        await self._threads.run(partial(removal.move_out, self._locate_below(path), target, path))

    async def close(self) -> None:
        """Wait for what is running, then give the threads back."""
        self._cached.close()
        await self._threads.close()

    def _locate(self, path: str) -> Path:
        return self._root.joinpath(*paths.split(path))

    def _spell(self, path: str) -> str:
        """The same for what is read, which is most: a Path costs as much as the rest of the call."""
        paths.check(path)
        return self._start + path

    def _locate_below(self, path: str) -> Path:
        if not path:
            raise DriverError(path, "the root is a folder, and stays")
        return self._locate(path)


class _Threads:
    """A bounded number of threads for calls that block."""

    def __init__(self, count: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=count, thread_name_prefix="filesystem")

    async def run(self, call: Callable[[], T], *, unclaimed: Callable[[Future[T]], None] | None = None) -> T:
        """What `call` returns; `unclaimed` gets it when nobody waits for it any more."""
        try:
            future = self._executor.submit(call)
        except RuntimeError as error:  # the one way to learn that the executor was shut down
            raise DriverError("", "the driver is closed") from error
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if unclaimed is not None:
                future.add_done_callback(unclaimed)
            raise

    async def close(self) -> None:
        await asyncio.to_thread(self._executor.shutdown)


def _close_unclaimed(future: Future[tuple[BinaryIO, int]]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result()[0].close()


class _LocalFile:
    """An open file; it is closed once no thread reads it any more, or a thread might read another file."""

    def __init__(self, threads: _Threads, path: str, file: BinaryIO, size: int) -> None:
        self._threads = threads
        self._path = path
        self._file = file
        self._reading = threading.Lock()
        self._closing = False
        self.size = size

    @property
    def local(self) -> BinaryIO | None:
        return self._file

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        if stop > self.size:
            raise DriverError(self._path, f"ends at {self.size}, before {stop}")
        while start < stop:
            chunk = await self._threads.run(partial(self._read, start, min(CHUNK, stop - start)))
            start += len(chunk)
            yield chunk

    def _read(self, offset: int, count: int) -> bytes:
        try:
            with self._reading:
                if self._file.closed:
                    raise DriverError(self._path, "the file was closed")
                return files.read_at(self._file, self._path, offset, count)
        finally:
            self._close_if_idle()

    async def close(self) -> None:
        self._closing = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        """Called by both sides after their last step, so that the later one closes."""
        if self._closing and self._reading.acquire(blocking=False):
            try:
                self._file.close()
            finally:
                self._reading.release()
