"""A driver of a storage that counts requests, for work that nobody waits for: so many a second, and no more.

What looks after a bucket could else ask as fast as the bucket answers, and would take from clients what it
allows to all together. What is charged is never less than what is asked, but for attempts after a failure:
each batch of a listing counts as a request, though a page of a listing makes four, and so does each file that
is deleted, though many go with one where the storage can do that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing

from mirror.drivers.base import DriverError, Entry, Info, OpenFile, StorageDriver
from mirror.drivers.outer import Outer

GETS_AT_ONCE = 16  # small files; no driver of such a storage asks for more of them at the same time


class Budget:
    """So many requests a second, evenly, for all who take of it. `clock` is monotonic, in seconds."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._next = clock()  # when there is something to be had again

    def due(self, count: int) -> float:
        """In how many seconds these may be asked; they are taken. Nothing is saved up."""
        now = self._clock()
        begins = max(self._next, now)
        self._next = begins + count / self._rate
        return begins - now

    async def take(self, count: int = 1) -> None:
        """Wait until so many may be asked."""
        await asyncio.sleep(self.due(count))


class BudgetedDriver(Outer):
    """Waits before it asks. What is written is not bounded: that is what clients have pulled."""

    def __init__(self, driver: StorageDriver, budget: Budget) -> None:
        super().__init__(driver)
        self._budget = budget

    async def get(self, path: str, limit: int) -> bytes:
        await self._budget.take()
        return await super().get(path, limit)

    async def get_many(self, wanted: Sequence[str], limit: int, total: int) -> list[bytes | DriverError]:
        some = wanted[:GETS_AT_ONCE]
        await self._budget.take(len(some))
        return await super().get_many(some, limit, total)

    async def open(self, path: str, start: int = 0) -> OpenFile:
        await self._budget.take()
        return await super().open(path, start)

    async def open_below(self, path: str) -> OpenFile:
        await self._budget.take()
        return await super().open_below(path)

    async def stat(self, path: str) -> Info:
        """Of a folder it is two requests."""
        await self._budget.take()
        found = await super().stat(path)
        if found.is_folder:
            self._budget.due(1)
        return found

    async def walk(self, path: str, leaves: Collection[str] = ()) -> AsyncGenerator[list[Entry], None]:
        async with aclosing(self._slowly(super().walk(path, leaves))) as batches:
            async for batch in batches:
                yield batch

    async def find(self, path: str, patterns: Sequence[str]) -> AsyncGenerator[list[Entry], None]:
        async with aclosing(self._slowly(super().find(path, patterns))) as batches:
            async for batch in batches:
                yield batch

    async def _slowly(self, found: AsyncGenerator[list[Entry], None]) -> AsyncGenerator[list[Entry], None]:
        async with aclosing(found) as batches:
            await self._budget.take()
            async for batch in batches:
                yield batch
                await self._budget.take()

    async def list(self, path: str) -> list[str]:
        await self._budget.take()
        return await super().list(path)

    async def delete(self, path: str) -> None:
        await self._budget.take(2)  # whether it is there, and the deletion
        await super().delete(path)

    async def remove(
        self, doomed: Sequence[str], keep: str, *, durable: bool, listed: bool = False
    ) -> Sequence[bool]:
        """What is not `listed` is looked for first; of a tree its files are listed, and then deleted."""
        await self._budget.take(len(doomed) * (1 if listed else 3))
        return await super().remove(doomed, keep, durable=durable, listed=listed)

    async def sweep(self, before: float) -> int:
        await self._budget.take()
        return await super().sweep(before)
