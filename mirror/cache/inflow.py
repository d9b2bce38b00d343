"""What has come by one connection and waits for the writer: it takes whatever has gathered meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

Take = Callable[["Inflow", int, list[bytes]], Awaitable[None]]


class Inflow:
    """Bytes from `begin` on, in order. At most one writer runs; its thread may take what has gathered itself.

    `helps`: what comes may be broken off at any time, and is of use only where it can be kept.
    """

    def __init__(self, begin: int, *, helps: bool) -> None:
        self.helps = helps
        self.begin = begin  # where the next batch begins
        self.gathered = 0  # bytes of it
        self.displaced = False  # what comes has no place any more
        self._batch: list[bytes] = []
        self._lock = threading.Lock()  # of these three
        self._writer: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()  # something was taken, or the writer has ended

    def is_busy(self) -> bool:
        """Whether a batch is being written."""
        return self._writer is not None and not self._writer.done()

    def add(self, chunk: bytes) -> None:
        """These bytes come next."""
        with self._lock:
            self._batch.append(chunk)
            self.gathered += len(chunk)

    def take(self) -> tuple[int, list[bytes]]:
        """All that has gathered, and where it begins. May be called in the writer's thread."""
        with self._lock:
            start, batch = self.begin, self._batch
            self.begin += self.gathered
            self._batch, self.gathered = [], 0
        return start, batch

    def moved(self) -> None:
        """What waits for room may look again."""
        self._moved.set()

    async def pass_on(self, take: Take, most: int) -> bool:
        """Have what has gathered written by `take`; where `most` or more has, wait until it is being
        written. Whether it waited. Raises what the last writing did.
        """
        if not self.is_busy():
            await self.written()
            self._writer = asyncio.create_task(self._write(take))
            return False
        if self.gathered < most:
            return False
        while self.is_busy() and self.gathered >= most:
            self._moved.clear()
            await self._moved.wait()
        if not self.is_busy():
            await self.written()
        return True

    async def written(self) -> None:
        """Wait until all that has gathered is written. Raises what that did."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer

    def cancel(self) -> int:
        """Write no more. How many bytes are given up."""
        _, dropped = self.take()
        if self._writer is not None:
            self._writer.cancel()
        return sum(map(len, dropped))

    async def _write(self, take: Take) -> None:
        try:
            while self.gathered:
                start, batch = self.take()
                self._moved.set()
                await take(self, start, batch)
        finally:
            self._moved.set()
