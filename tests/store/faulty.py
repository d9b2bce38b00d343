"""A driver that fails when it is told to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

from mirror.drivers.base import DriverError, Elsewhere, Entry, Incoming, Info, OpenFile, StorageDriver


class FaultyDriver:
    """Passes on to `inner`, notes the writes that succeeded, and fails the `fail_at`th call (from 0).

    With `dead` every later call fails as well: the process ended there, as far as the storage is concerned.
    With `after` the failing call has its effect first: it was done, and the word of it got lost.
    """

    name = "faulty"

    def __init__(
        self,
        inner: StorageDriver,
        *,
        fail_at: int | None = None,
        dead: bool = False,
        after: bool = False,
        failure: type[DriverError] = DriverError,
    ) -> None:
        self._inner = inner
        self._fail_at = fail_at
        self._dead = dead
        self._after = after
        self._failure = failure
        self.calls = 0
        self.writes: list[tuple[str, str]] = []
        self.fail_reading = False

    def _fails(self) -> bool:
        index, self.calls = self.calls, self.calls + 1
        return self._fail_at is not None and (
            index == self._fail_at or (self._dead and index > self._fail_at)
        )

    def _check(self, path: str) -> None:
        if self._fails():
            raise self._failure(path, "injected")

    async def start(self) -> None:
        await self._inner.start()

    async def get(self, path: str, limit: int) -> bytes:
        self._check(path)
        return await self._inner.get(path, limit)

    async def get_many(self, wanted: Sequence[str], limit: int, total: int) -> list[bytes | DriverError]:
        """Each is a call of its own."""
        found: list[bytes | DriverError] = []
        for path in wanted:
            if self._fails():
                found.append(self._failure(path, "injected"))
            else:
                found += await self._inner.get_many([path], limit, total)
        return found

    async def put(self, path: str, data: bytes) -> None:
        fails = self._fails()
        if not fails or self._after:
            await self._inner.put(path, data)
            self.writes.append(("put", path))
        if fails:
            raise self._failure(path, "injected")

    def incoming(self, source: Path, path: str, size: int) -> Incoming | None:
        return self._inner.incoming(source, path, size)

    async def move_in(self, source: Path, path: str, incoming: Incoming | None = None) -> None:
        fails = self._fails()
        if not fails or self._after:
            await self._inner.move_in(source, path, incoming)
            self.writes.append(("move_in", path))
        if fails:
            raise self._failure(path, "injected")

    async def open(self, path: str, start: int = 0) -> OpenFile:
        self._check(path)
        return _FaultyFile(self, path, await self._inner.open(path, start))

    async def elsewhere(self, path: str) -> Elsewhere | None:
        return await self._inner.elsewhere(path)

    async def stat(self, path: str) -> Info:
        self._check(path)
        return await self._inner.stat(path)

    async def walk(self, path: str, leaves: Collection[str] = ()) -> AsyncGenerator[list[Entry], None]:
        self._check(path)
        async with aclosing(self._inner.walk(path, leaves)) as batches:
            async for batch in batches:
                yield batch
                self._check(path)

    async def find(self, path: str, patterns: Sequence[str]) -> AsyncGenerator[list[Entry], None]:
        self._check(path)
        async with aclosing(self._inner.find(path, patterns)) as batches:
            async for batch in batches:
                yield batch
                self._check(path)

    async def list(self, path: str) -> list[str]:
        self._check(path)
        return await self._inner.list(path)

    async def delete(self, path: str) -> None:
        fails = self._fails()
        if not fails or self._after:
            await self._inner.delete(path)
            self.writes.append(("delete", path))
        if fails:
            raise self._failure(path, "injected")

    async def prune(self, path: str, keep: str) -> None:
        fails = self._fails()
        if not fails or self._after:
            await self._inner.prune(path, keep)
            self.writes.append(("prune", path))
        if fails:
            raise self._failure(path, "injected")

    async def remove(
        self, doomed: Sequence[str], keep: str, *, durable: bool, listed: bool = False
    ) -> Sequence[bool]:
        """Each is a call of its own."""
        found: Sequence[bool] = []
        for path in doomed:
            fails = self._fails()
            if not fails or self._after:
                found = [*found, *await self._inner.remove([path], keep, durable=durable, listed=listed)]
                self.writes.append(("remove", path))
            if fails:
                raise self._failure(path, "injected")
        return found

    async def sweep(self, before: float) -> int:
        self._check("")
        return await self._inner.sweep(before)

    async def move_out(self, path: str, target: Path) -> None:
        fails = self._fails()
        if not fails or self._after:
            await self._inner.move_out(path, target)
            self.writes.append(("move_out", path))
        if fails:
            raise self._failure(path, "injected")

    async def close(self) -> None:
        await self._inner.close()


class _FaultyFile:
    def __init__(self, driver: FaultyDriver, path: str, inner: OpenFile) -> None:
        self._driver = driver
        self._path = path
        self._inner = inner

    @property
    def size(self) -> int:
        return self._inner.size

    @property
    def local(self) -> BinaryIO | None:
        return None

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        async for chunk in self._inner.chunks(start, stop):
            if self._driver.fail_reading:
                raise DriverError(self._path, "injected")
            yield chunk

    async def close(self) -> None:
        await self._inner.close()
