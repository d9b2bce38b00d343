"""Reading a blob again to see whether it is still what its digest says; and whose it is when it is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from mirror.drivers.base import Copying, DriverError, OpenFile, PathNotFoundError, StorageDriver
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.store import layout
from mirror.store.links import Links
from mirror.store.places import repository_of

NAMED = 20  # repositories that are named; a base image's layer may be in hundreds

log = structlog.get_logger()

Wait = Callable[[int], Awaitable[None]]


class Pace:
    """At most `rate` bytes per second, over all that is told to it. As a Wait: `await pace(bytes_read)`."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._paid_until = clock()

    def delay(self, count: int) -> float:
        """Seconds to wait after `count` bytes more. Time in which nothing was read is not saved up."""
        now = self._clock()
        self._paid_until = max(self._paid_until, now) + count / self._rate
        return self._paid_until - now

    async def __call__(self, count: int) -> None:
        await asyncio.sleep(self.delay(count))


async def rehash(driver: StorageDriver, digest: Digest, wait: Wait) -> bool | None:
    """Whether the data has its digest; None: none here. `wait` is awaited after each chunk (<= 1 MiB).

    A copy that has not, or of what is not here, is dropped: it says nothing about the data itself.
    Raises DriverError, also where the disk has the file and cannot read it.
    """
    path = layout.blob_data(digest)
    copying = driver if isinstance(driver, Copying) else None
    if copying is not None and await _is_damaged(copying, digest, wait):
        log.warning("disk.damaged", digest=str(digest))
        await copying.drop_copy(path)
    try:
        file = await (driver.open(path) if copying is None else copying.open_below(path))
    except PathNotFoundError:
        if copying is not None:
            await copying.drop_copy(path)
        return None
    return await _matches(file, digest, wait)


async def _is_damaged(driver: Copying, digest: Digest, wait: Wait) -> bool:
    """Whether there is a copy that has not the digest, or cannot be read."""
    copy = await driver.open_copy(layout.blob_data(digest))
    if copy is None:
        return False
    try:
        return not await _matches(copy, digest, wait)
    except DriverError:
        return True


async def _matches(file: OpenFile, digest: Digest, wait: Wait) -> bool:
    """Whether it has the digest; closed then. Raises DriverError."""
    hasher = digest.hasher()
    try:
        async with aclosing(file.chunks(0, file.size)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(hasher.update, chunk)
                await wait(len(chunk))
    finally:
        await file.close()
    return hasher.hexdigest() == digest.hex


@dataclass(frozen=True, slots=True)
class Holders:
    """The repositories that have a digest: the first NAMED of them, sorted, and how many more there are."""

    is_manifest: bool  # in one of them; else a blob in all
    repositories: tuple[Repository, ...]
    more: int


async def holders(driver: StorageDriver, links: Links, digest: Digest) -> Holders:
    """Who has it, by all links there are: takes a second for a thousand repositories. Raises DriverError."""
    looked_at: set[Repository] = set()
    found: list[Repository] = []
    is_manifest = False
    async with aclosing(driver.walk(layout.REPOSITORIES, layout.PARTS)) as batches:
        async for batch in batches:
            for entry in batch:
                repository = repository_of(entry.path)
                if repository is None or repository in looked_at:
                    continue
                looked_at.add(repository)
                if await links.read(layout.revision_link(repository, digest), digest) is not None:
                    is_manifest = True
                elif await links.read(layout.layer_link(repository, digest), digest) is None:
                    continue
                found.append(repository)
    found.sort()
    return Holders(is_manifest, tuple(found[:NAMED]), len(found[NAMED:]))
