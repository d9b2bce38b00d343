"""What the cache's tests share: the parts joined, and ways to read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mirror.cache.fills import Fills
from mirror.cache.pullthrough import PullThrough
from mirror.cache.spool import Spool
from mirror.drivers.filesystem import FilesystemDriver
from mirror.oci.names import Repository
from mirror.registry import Blob, FileSpan, Registry
from mirror.store.content import ContentStore

A = Repository("library/a")
B = Repository("library/b")
WAIT = 10.0  # seconds; a test that waits longer has failed


@dataclass(frozen=True, slots=True)
class Parts:
    """A pull-through registry and what it is made of."""

    root: Path
    store: ContentStore
    fills: Fills
    registry: PullThrough

    @property
    def spool(self) -> Path:
        return self.root / "mirror" / "spool"


@asynccontextmanager
async def joined(
    root: Path, upstream: Registry, *, deadline: float = 5.0, spool: Path | None = None
) -> AsyncGenerator[Parts, None]:
    """A PullThrough with a store on the disk; ended as the application ends it."""
    driver = FilesystemDriver(root, 4)
    store = ContentStore(driver)
    fills = Fills(upstream, store, Spool(spool or root / "mirror" / "spool"))
    registry = PullThrough(store, upstream, fills, deadline=deadline)
    try:
        yield Parts(root, store, fills, registry)
    finally:
        await registry.close()
        await fills.close()
        await driver.close()


async def take(blob: Blob, start: int, stop: int, into: bytearray | None = None) -> bytes:
    """The bytes [start, stop); `into` has what came before a failure."""
    got = into if into is not None else bytearray()
    async with asyncio.timeout(WAIT):
        async for part in blob.read(start, stop):
            if isinstance(part, FileSpan):
                got += os.pread(part.file.fileno(), part.count, part.offset)
            else:
                got += part
    return bytes(got)


async def whole(blob: Blob) -> bytes:
    """All of it, and close it."""
    try:
        return await take(blob, 0, blob.descriptor.size)
    finally:
        await blob.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that other tasks bring about."""
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110 - any condition, not an event
            await asyncio.sleep(0.005)
