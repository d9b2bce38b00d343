"""Kept blobs read again, slowly, behind everything else: what is not what its digest says is moved aside.

A bad blob is not deleted, so that somebody may find out what became of it; it is fetched again when wanted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from mirror.cache.memory import Memory
from mirror.ledger.inventory import Inventory, NotKept
from mirror.oci.digest import Digest
from mirror.registry import RegistryError
from mirror.store.errors import StoreError
from mirror.store.scrub import Pace
from mirror.store.tree import Tree

AT_ONCE = 100  # blobs asked of the inventory
REST = 60.0  # seconds before the inventory is asked again, when nothing was due
PLENTY = 1e12  # bytes a second: as fast as the disk
ASIDE_LIMIT = 100  # bad blobs that are kept aside; a disk that spoils more has told its story

log = structlog.get_logger()


class Scrubber:
    """`aside`: the folder of bad blobs. `rate` in bytes, `interval` in seconds (0: only when asked)."""

    def __init__(
        self,
        tree: Tree,
        inventory: Inventory,
        memory: Memory,
        aside: Path | None,
        *,
        interval: float,
        rate: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tree = tree
        self._inventory = inventory
        self._memory = memory
        self._aside = aside
        self._interval = interval
        self._pace = Pace(rate)
        self._clock = clock

    async def run(self) -> None:
        """Look at what was not looked at for the interval, until cancelled."""
        while self._interval > 0:
            try:
                due = await self._inventory.unscrubbed(AT_ONCE, self._clock() - self._interval)
                for blob in due:
                    await self._check(blob.digest, self._pace)
                await self._inventory.flush()
            except (NotKept, RegistryError, StoreError) as error:
                log.warning("scrub.postponed", reason=str(error))
                due = []
            if not due:
                await asyncio.sleep(REST)

    async def check(self, digest: Digest) -> bool | None:
        """Whether a blob is right, as fast as the disk allows; None: it is not here."""
        return await self._check(digest, Pace(PLENTY))

    async def _check(self, digest: Digest, pace: Pace) -> bool | None:
        good = await self._tree.rehash(digest, pace)
        if good:
            self._inventory.note_scrubbed(digest, self._clock())
        elif good is False:
            await self._put_aside(digest)
        else:
            self._inventory.note_blob_gone(digest)
        return good

    async def _put_aside(self, digest: Digest) -> None:
        """Out of the tree first: from then on it is not served."""
        self._memory.forget_blob(digest)
        where: Path | None = None
        if self._aside is not None and await asyncio.to_thread(_count, self._aside) < ASIDE_LIMIT:
            try:
                where = await self._tree.set_aside(digest, self._aside)
            except StoreError as error:
                log.warning("scrub.not_put_aside", digest=str(digest), reason=str(error))
        if where is None:
            await self._tree.drop_blob(digest)
        self._inventory.note_blob_gone(digest)
        log.error("scrub.bad", digest=str(digest), moved_to=str(where) if where else "nowhere: deleted")


def _count(folder: Path) -> int:
    """In a thread."""
    try:
        return sum(1 for _ in folder.iterdir())
    except FileNotFoundError:
        return 0
