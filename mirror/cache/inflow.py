"""What has come by one connection and waits for the writer: it takes whatever has gathered meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Take = Callable[["Inflow", int, list[bytes]], Awaitable[None]]


class Inflow:
    """Bytes from `begin` on, in order. At most one writer runs.

    `helps`: what comes may be broken off at any time, and is of use only where it can be kept.
    """

    def __init__(self, begin: int, *, helps: bool) -> None:
        self.helps = helps
        self.begin = begin  # where the next batch begins
        self.gathered = 0  # bytes of it
        self.displaced = False  # what comes has no place any more
        self._batch: list[bytes] = []
        self._writer: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a batch is being written."""
        return self._writer is not None and not self._writer.done()

    def add(self, chunk: bytes) -> None:
        """These bytes come next."""
        self._batch.append(chunk)
        self.gathered += len(chunk)

    async def pass_on(self, take: Take, most: int) -> bool:
        """Have what has gathered written by `take`; where more than `most` has, wait until it is being
        written. Whether it waited. Raises what the last writing did.
        """
        waits = self.is_busy and self.gathered >= most
        if waits or not self.is_busy:
            await self.written()
            self._writer = asyncio.create_task(self._write(take))
        return waits

    async def written(self) -> None:
        """Wait until all that has gathered is written. Raises what that did."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer

    def cancel(self) -> None:
        """Write no more."""
        if self._writer is not None:
            self._writer.cancel()

    async def _write(self, take: Take) -> None:
        while self._batch:
            batch, start, size = self._batch, self.begin, self.gathered
            self._batch, self.gathered = [], 0
            self.begin += size
            await take(self, start, batch)
