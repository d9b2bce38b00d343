"""How many requests are under way at a time: who waits for others of ours learns nothing of the storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mirror.drivers.base import ThrottledError

WAIT = 10.0  # seconds until one of those before has ended


class Slots:
    """So many at a time. NB: the library's own connections are no fewer, so that nobody waits for those."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = asyncio.Semaphore(count)

    @asynccontextmanager
    async def one(self, path: str) -> AsyncGenerator[None, None]:
        """Raises ThrottledError where there is none within WAIT."""
        try:
            async with asyncio.timeout(WAIT):
                await self._free.acquire()
        except TimeoutError as error:
            raise busy(path, self._count, WAIT) from error
        try:
            yield
        finally:
            self._free.release()


def busy(path: str, count: int, seconds: float) -> ThrottledError:
    """The error of who has waited for that long."""
    return ThrottledError(path, f"none of our own {count} requests to the storage ended within {seconds:g} s")
