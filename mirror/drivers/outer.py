"""A driver around another one, which does all: for those that add something to some of its verbs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from pathlib import Path

from mirror.drivers.base import (
    Advice,
    Copying,
    DriverError,
    Elsewhere,
    Entry,
    Incoming,
    Info,
    Near,
    OpenFile,
    Remote,
    StorageDriver,
)


class Outer:
    """A StorageDriver, and what else such a driver may be: Remote, Copying, Near."""

    def __init__(self, driver: StorageDriver) -> None:
        self.name = driver.name
        self._driver = driver
        self._near = driver if isinstance(driver, Near) else None  # such a look costs more than all the rest

    async def start(self) -> None:
        await self._driver.start()

    def trouble(self) -> str:
        return self._driver.trouble() if isinstance(self._driver, Remote) else ""

    def denials(self) -> int:
        return self._driver.denials() if isinstance(self._driver, Remote) else 0

    def advice(self, error: DriverError) -> Advice:
        return self._driver.advice(error) if isinstance(self._driver, Remote) else Advice("", "")

    def stat_at_once(self, wanted: Sequence[str]) -> list[Info | None] | None:
        return self._near.stat_at_once(wanted) if self._near is not None else None

    async def get(self, path: str, limit: int) -> bytes:
        return await self._driver.get(path, limit)

    async def get_many(self, wanted: Sequence[str], limit: int, total: int) -> list[bytes | DriverError]:
        return await self._driver.get_many(wanted, limit, total)

    async def put(self, path: str, data: bytes) -> None:
        await self._driver.put(path, data)

    def incoming(self, source: Path, path: str, size: int) -> Incoming | None:
        return self._driver.incoming(source, path, size)

    async def move_in(self, source: Path, path: str, incoming: Incoming | None = None) -> None:
        await self._driver.move_in(source, path, incoming)

    async def open(self, path: str, start: int = 0) -> OpenFile:
        return await self._driver.open(path, start)

    async def open_copy(self, path: str) -> OpenFile | None:
        return await self._driver.open_copy(path) if isinstance(self._driver, Copying) else None

    async def open_below(self, path: str) -> OpenFile:
        if not isinstance(self._driver, Copying):
            return await self._driver.open(path)
        return await self._driver.open_below(path)

    async def drop_copy(self, path: str) -> None:
        if isinstance(self._driver, Copying):
            await self._driver.drop_copy(path)

    async def elsewhere(self, path: str) -> Elsewhere | None:
        return await self._driver.elsewhere(path)

    async def stat(self, path: str) -> Info:
        return await self._driver.stat(path)

    def walk(self, path: str, leaves: Collection[str] = ()) -> AsyncGenerator[list[Entry], None]:
        return self._driver.walk(path, leaves)

    def find(self, path: str, patterns: Sequence[str]) -> AsyncGenerator[list[Entry], None]:
        return self._driver.find(path, patterns)

    async def list(self, path: str) -> list[str]:
        return await self._driver.list(path)

    async def delete(self, path: str) -> None:
        await self._driver.delete(path)

    async def prune(self, path: str, keep: str) -> None:
        await self._driver.prune(path, keep)

    async def remove(
        self, doomed: Sequence[str], keep: str, *, durable: bool, listed: bool = False
    ) -> Sequence[bool]:
        return await self._driver.remove(doomed, keep, durable=durable, listed=listed)

    async def sweep(self, before: float) -> int:
        return await self._driver.sweep(before)

    async def move_out(self, path: str, target: Path) -> None:
        await self._driver.move_out(path, target)

    async def close(self) -> None:
        await self._driver.close()
