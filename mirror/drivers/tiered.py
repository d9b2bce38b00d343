"""A driver on another one, of which the files used last are kept on a local disk as well.

The rules:

1. What is below is what counts: a write or a deletion is done there, and then here. Here are copies only, of
   files that fit a pattern: such as never change.
2. A file that is moved in is copied then (it gets a second name, on the same file system); any other when it
   is wanted for the second time within WINDOW, in the background, COPIES at a time.
3. Of what is here, reading is local, and nobody is sent elsewhere.
4. While what is below does not answer, what is here is read all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

from cachetools import LRUCache

from mirror.drivers import paths
from mirror.drivers.base import (
    DriverError,
    Elsewhere,
    Incoming,
    Info,
    OpenFile,
    StorageDriver,
    UnreachableError,
)
from mirror.drivers.hot import Hot
from mirror.drivers.outer import Outer
from mirror.drivers.patterns import Wanted, parse
from mirror.tally import Tally

WINDOW = 24 * 3600.0  # seconds; less than a scrub's interval, which reads everything
COPIES = 2
KNOWN = 20_000  # files of which it is remembered when they were wanted


class TieredDriver(Outer):
    """A StorageDriver on `below`; `hot` holds what fits any of `patterns` (as in `find`). Owns both."""

    def __init__(
        self,
        below: StorageDriver,
        hot: Hot,
        patterns: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(below)
        self.hot = hot
        self.reads = Tally([("hit",), ("miss",)])
        self._wanted = parse(patterns)
        self._clock = clock
        self._seen: LRUCache[str, float] = LRUCache(KNOWN)
        self._copying: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self._driver.start()
        await self.hot.start()

    async def put(self, path: str, data: bytes) -> None:
        await self._drop_old(path)
        try:
            await self._driver.put(path, data)
        finally:
            await self._drop_old(path)

    async def move_in(self, source: Path, path: str, incoming: Incoming | None = None) -> None:
        """As the Protocol says; a copy is made before `source` goes, and held once the file is below."""
        await self._drop_old(path)
        size = await asyncio.to_thread(_size, source) if self._fits(path) else None
        copy = None if size is None else await self.hot.begin(path, size)
        if copy is None:
            try:
                await self._driver.move_in(source, path, incoming)
            finally:
                await self._drop_old(path)
            return
        try:
            await copy.take(source)
            await self._driver.move_in(source, path, incoming)
            await self.hot.keep(path, copy)
        finally:
            await self.hot.end(path, copy)

    async def open(self, path: str, start: int = 0) -> OpenFile:
        if not self._fits(path):
            return await self._driver.open(path, start)
        file = await self.hot.open(path)
        self.reads.add("miss" if file is None else "hit")
        if file is not None:
            return file
        file = await self._driver.open(path, start)
        if not start:
            self._seen_again(path, file.size)
        return file

    async def open_copy(self, path: str) -> OpenFile | None:
        return await self.hot.open(path) if self._fits(path) else None

    async def open_below(self, path: str) -> OpenFile:
        return await self._driver.open(path)

    async def drop_copy(self, path: str) -> None:
        if self._fits(path):
            await self.hot.drop([path])

    async def elsewhere(self, path: str) -> Elsewhere | None:
        """Nowhere, where there is a copy."""
        if self.hot.held(path) is not None:
            return None
        place = await self._driver.elsewhere(path)
        if place is not None and self._fits(path):
            self._seen_again(path, place.size)
        return place

    async def stat(self, path: str) -> Info:
        try:
            return await self._driver.stat(path)
        except UnreachableError:
            held = self.hot.held(path)
            if held is None:
                raise
            return Info(held[0], False, held[1])

    async def delete(self, path: str) -> None:
        try:
            await self._driver.delete(path)
        finally:
            await self._drop([path])

    async def remove(
        self, doomed: Sequence[str], keep: str, *, durable: bool, listed: bool = False
    ) -> Sequence[bool]:
        try:
            return await self._driver.remove(doomed, keep, durable=durable, listed=listed)
        finally:
            await self._drop(doomed)

    async def sweep(self, before: float) -> int:
        return await self._driver.sweep(before) + await self.hot.sweep(before)

    async def move_out(self, path: str, target: Path) -> None:
        """What is below is moved out; a copy goes too."""
        try:
            await self._driver.move_out(path, target)
        finally:
            await self._drop([path])

    async def close(self) -> None:
        """What is being copied is given up."""
        for task in self._copying:
            task.cancel()
        await asyncio.gather(*self._copying, return_exceptions=True)
        await self._driver.close()
        await self.hot.close()

    def _fits(self, path: str) -> bool:
        return self._wanted.fits(path)

    async def _drop_old(self, path: str) -> None:
        """A file is written: no copy of an earlier one stays."""
        if self._fits(path) and self.hot.forget(path):
            await self.hot.drop([path])

    async def _drop(self, doomed: Sequence[str]) -> None:
        """These are gone. Nothing is asked of the disk where no file that fits can have been there."""
        mine = [path for path in doomed if path and self._leads(path)]
        if mine:
            await self.hot.drop(mine)

    def _leads(self, path: str) -> bool:
        """Whether it fits, or a file below it may."""
        with contextlib.suppress(DriverError):
            paths.split(path)
            return bool(self._below_it(path))
        return False

    def _below_it(self, path: str) -> Wanted:
        left = self._wanted
        for name in path.split("/"):
            left = left.below(name)
        return left

    def _seen_again(self, path: str, size: int) -> None:
        """It was wanted: the second time within the window it is copied."""
        now = self._clock()
        last = self._seen.get(path)
        self._seen[path] = now
        if last is None or now - last > WINDOW or len(self._copying) >= COPIES:
            return
        task = asyncio.create_task(self._copy(path, size))
        self._copying.add(task)
        task.add_done_callback(self._copying.discard)

    async def _copy(self, path: str, size: int) -> None:
        copy = await self.hot.begin(path, size)
        if copy is None:
            return
        try:
            with contextlib.suppress(DriverError):  # what is below broke off
                file = await self._driver.open(path)
                try:
                    async with aclosing(file.chunks(0, file.size)) as chunks:
                        async for chunk in chunks:
                            if not await copy.write(chunk):
                                return
                finally:
                    await file.close()
                await self.hot.keep(path, copy)
        finally:
            await self.hot.end(path, copy)


def _size(source: Path) -> int | None:
    try:
        return source.stat().st_size
    except OSError:
        return None  # what is below says what is wrong with it
