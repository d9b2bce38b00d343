"""What the cache's tests share: the parts joined, and ways to read."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mirror.cache.fills import Fills
from mirror.cache.freshness import Policy
from mirror.cache.lessor import NoteUse
from mirror.cache.memory import Memory
from mirror.cache.pullthrough import PullThrough
from mirror.cache.room import Room
from mirror.cache.segments import Settings
from mirror.cache.spool import Spool
from mirror.cache.strangers import Strangers
from mirror.drivers.filesystem import FilesystemDriver
from mirror.ledger.sqlite import Ledger
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.registry import Blob, Condition, FileSpan, Upstream
from mirror.store import layout
from mirror.store.blob import StoredBlob
from mirror.store.content import ContentStore

A = Repository("library/a")
B = Repository("library/b")
WAIT = 30.0  # seconds; a test that waits longer has failed
ALWAYS_DUE = Policy(default=0.0, negative=0.0)  # the upstream is asked each time


class Remote(ContentStore):
    """A store that plays an upstream, which is always well."""

    def condition(self, repository: Repository) -> Condition:
        return Condition("upstream.test")

    def expect(self, repository: Repository) -> None:
        """Nothing is made ready."""

    async def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        start: int = 0,
        size: int | None = None,
        stop: int | None = None,
    ) -> StoredBlob:
        return await super().blob(repository, digest, start=start, size=size)


@dataclass(slots=True)
class Clock:
    """A wall clock that stands until it is moved; seconds."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Parts:
    """A pull-through registry and what it is made of."""

    root: Path
    store: ContentStore
    fills: Fills
    registry: PullThrough

    def put(self, *blobs: bytes) -> None:
        """Have these blobs in the store, linked in no repository."""
        for data in blobs:
            digest = Digest.of(data)
            path = self.root / layout.blob_data(digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    @property
    def spool(self) -> Path:
        return self.root / "mirror" / "spool"


@asynccontextmanager
async def joined(
    root: Path,
    upstream: Upstream,
    *,
    deadline: float = 5.0,
    spool: Path | None = None,
    policy: Policy = ALWAYS_DUE,
    clock: Callable[[], float] = time.time,
    strangers: Strangers | None = None,
    room: Room | None = None,
    memory: Memory | None = None,
    note_use: NoteUse | None = None,
    segments: Settings | None = None,
) -> AsyncGenerator[Parts, None]:
    """A PullThrough with a store and a ledger on the disk; ended as the application ends it."""
    driver = FilesystemDriver(root, 4)
    store = ContentStore(driver)
    fills = Fills(upstream, store, Spool(spool or root / "mirror" / "spool"), strangers, room, segments)
    ledger = Ledger((spool.parent if spool else root / "mirror") / "ledger.sqlite")
    await ledger.open()
    registry = PullThrough(
        store,
        upstream,
        fills,
        ledger,
        policy=policy,
        deadline=deadline,
        room=room,
        memory=memory,
        note_use=note_use,
        clock=clock,
    )
    try:
        yield Parts(root, store, fills, registry)
    finally:
        await registry.close()
        await fills.close()
        await ledger.close()
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
