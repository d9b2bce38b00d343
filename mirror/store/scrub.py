"""Reading a blob again to see whether it is still what its digest says; and whose it is when it is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from mirror.drivers.base import PathNotFoundError, StorageDriver
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.store import layout
from mirror.store.links import Links
from mirror.store.places import repository_of

NAMED = 20  # repositories that are named; a base image's layer may be in hundreds

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

    Raises DriverError, also where the disk has the file and cannot read it.
    """
    try:
        file = await driver.open(layout.blob_data(digest))
    except PathNotFoundError:
        return None
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
