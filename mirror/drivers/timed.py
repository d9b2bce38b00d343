"""A driver that tells how long each of its operations took; in all else it is the one within."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mirror.drivers.base import Copying, DriverError, Elsewhere, Incoming, Info, OpenFile, StorageDriver
from mirror.drivers.outer import Outer
from mirror.tally import Distributions

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # distribution's


class TimedDriver(Outer):
    """`times`: by driver and action, in seconds. Actions have distribution's names, where it has such.

    What is given piece by piece (`walk`, `find`) is not timed: it takes as long as whoever takes the pieces.
    """

    def __init__(self, driver: StorageDriver) -> None:
        super().__init__(driver)
        self.times = Distributions(SECONDS)

    @contextmanager
    def _timed(self, action: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.times.observe((self.name, action), time.perf_counter() - began)

    async def get(self, path: str, limit: int) -> bytes:
        began = time.perf_counter()
        try:
            return await self._driver.get(path, limit)
        finally:
            self.times.observe((self.name, "GetContent"), time.perf_counter() - began)

    async def get_many(self, wanted: Sequence[str], limit: int, total: int) -> list[bytes | DriverError]:
        with self._timed("GetMany"):
            return await self._driver.get_many(wanted, limit, total)

    async def put(self, path: str, data: bytes) -> None:
        with self._timed("PutContent"):
            await self._driver.put(path, data)

    async def move_in(self, source: Path, path: str, incoming: Incoming | None = None) -> None:
        with self._timed("Move"):
            await self._driver.move_in(source, path, incoming)

    async def open(self, path: str, start: int = 0) -> OpenFile:
        with self._timed("Reader"):
            return await self._driver.open(path, start)

    async def open_below(self, path: str) -> OpenFile:
        if not isinstance(self._driver, Copying):
            return await self.open(path)
        with self._timed("Reader"):
            return await self._driver.open_below(path)

    async def elsewhere(self, path: str) -> Elsewhere | None:
        with self._timed("RedirectURL"):
            return await self._driver.elsewhere(path)

    async def stat(self, path: str) -> Info:
        with self._timed("Stat"):
            return await self._driver.stat(path)

    def stat_at_once(self, wanted: Sequence[str]) -> list[Info | None] | None:
        """Where it was not said, there is nothing to tell: `stat` comes next."""
        began = time.perf_counter()
        found = super().stat_at_once(wanted)
        if found:
            each = (time.perf_counter() - began) / len(found)
            self.times.observe((self.name, "Stat"), each, len(found))
        return found

    async def list(self, path: str) -> list[str]:
        with self._timed("List"):
            return await self._driver.list(path)

    async def delete(self, path: str) -> None:
        with self._timed("Delete"):
            await self._driver.delete(path)

    async def prune(self, path: str, keep: str) -> None:
        with self._timed("Delete"):
            await self._driver.prune(path, keep)

    async def remove(
        self, doomed: Sequence[str], keep: str, *, durable: bool, listed: bool = False
    ) -> Sequence[bool]:
        with self._timed("Delete"):
            return await self._driver.remove(doomed, keep, durable=durable, listed=listed)

    async def sweep(self, before: float) -> int:
        with self._timed("Sweep"):
            return await self._driver.sweep(before)

    async def move_out(self, path: str, target: Path) -> None:
        with self._timed("Move"):
            await self._driver.move_out(path, target)
