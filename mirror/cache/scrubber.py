"""Kept blobs read again, slowly, behind everything else: what is not what its digest says is moved aside.

So is what cannot be read, on a disk that can: one bad file ends nothing. A bad blob lies in the quarantine
for a time, so that somebody may find out what became of it; it is fetched again when wanted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from mirror.cache.memory import Memory
from mirror.cache.quarantine import Quarantine
from mirror.ledger.inventory import Inventory, NotKept
from mirror.oci.digest import Digest
from mirror.registry import RegistryError, Unavailable
from mirror.store.errors import StorageAway, StoreError
from mirror.store.scrub import Pace
from mirror.store.tree import Tree
from mirror.store.turns import Turns
from mirror.tally import Tally

AT_ONCE = 100  # blobs asked of the inventory
REST = 60.0  # seconds before the inventory is asked again, when nothing was due
# Bytes that one blob counts for at least: it takes as long to open it. Small ones would keep a core busy.
LEAST = 256 << 10
PLENTY = 1e12  # bytes a second: as fast as the disk
IN_A_ROW = (
    20  # unreadable blobs, one after the other, after which it is the disk: that needs time, or somebody
)
LOOKED_UP = 100  # bad blobs a day of which it is said whose they are, for which all repositories are walked
RESULTS = ("good", "bad", "unreadable", "gone")  # of a look at a blob; gone: it was deleted meanwhile
CLEAN = 86400.0  # seconds between two looks for what has been in the quarantine for long

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Bad:
    """A digest whose data is another's. `repositories`: some of those that have it, and `more` of them."""

    digest: Digest
    kind: str  # "manifest" or "blob"
    repositories: tuple[str, ...]
    more: int
    moved_to: Path | None  # None: it was deleted
    unreadable: bool = False  # nobody knows whose data it is
    stays: bool = False  # it could be neither moved nor deleted

    def told(self) -> dict[str, Any]:
        """For a log line, or an event; `moved_to` None: it was deleted, unless it `stays`."""
        return {
            "kind": self.kind,
            "unreadable": self.unreadable,
            "stays": self.stays,
            "repositories": list(self.repositories),
            "more": self.more,
            "moved_to": str(self.moved_to) if self.moved_to else None,
        }


class Scrubber:
    """`aside`: the quarantine's folder. `rate` in bytes, `interval` in seconds (0: only when asked).

    `turns`: those of who writes into the same tree; None: nobody does.
    """

    def __init__(
        self,
        tree: Tree,
        inventory: Inventory,
        memory: Memory,
        aside: Path | None,
        *,
        interval: float,
        rate: float,
        turns: Turns | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tree = tree
        self._inventory = inventory
        self._memory = memory
        self._quarantine = None if aside is None else Quarantine(aside)
        self._interval = interval
        self._pace = Pace(rate)
        self._turns = turns or Turns()
        self._clock = clock
        self.results = Tally((result,) for result in RESULTS)
        self._looked_up = 0
        self._unreadable = 0  # in a row
        self._clean_at = 0.0  # time.monotonic()

    async def run(self) -> None:
        """Look at what was not looked at for the interval, until cancelled; and empty the quarantine."""
        while True:
            await self._clean()
            if self._interval <= 0:
                return
            try:
                now = self._clock()
                due = await self._inventory.unscrubbed(AT_ONCE, now - self._interval, now)
                for blob in due:
                    bad = await self._check(blob.digest, self._pace)
                    if bad is not None:
                        log.error("scrub.bad", digest=str(bad.digest), **bad.told())
                    await self._pace(max(0, LEAST - blob.size))
                await self._inventory.flush()
            except (NotKept, RegistryError, StoreError) as error:
                log.warning("scrub.postponed", reason=str(error))
                due = []
            if not due:
                await asyncio.sleep(REST)

    async def check(self, digest: Digest) -> Bad | None:
        """What is wrong with a blob, which is moved aside then. As fast as the disk allows; not logged."""
        return await self._check(digest, Pace(PLENTY))

    async def _check(self, digest: Digest, pace: Pace) -> Bad | None:
        """Raises RegistryError where it is not this blob that cannot be read, but the disk."""
        moment = self._memory.gone.now
        try:
            good, unreadable = await self._tree.rehash(digest, pace), False
        except StorageAway:
            raise
        except RegistryError:
            good = await self._once_more(digest, pace)
            unreadable = good is False
        else:
            self._unreadable = 0
        self.results.add("unreadable" if unreadable else {True: "good", False: "bad", None: "gone"}[good])
        if good:
            self._inventory.note_scrubbed(digest, self._clock())
        elif good is False:
            return await self._put_aside(digest, moment, unreadable=unreadable)
        else:
            self._inventory.note_blob_gone(digest)
        return None

    async def _once_more(self, digest: Digest, pace: Pace) -> bool | None:
        """As `Tree.rehash`, of what could not be read a moment ago; False also where it still cannot.

        Raises RegistryError where the folder cannot be read either, or many blobs in a row: a disk that is
        away for a while must not cost what is on it.
        """
        self._unreadable += 1
        if self._unreadable > IN_A_ROW:
            self._unreadable = 0
            raise Unavailable(f"{IN_A_ROW} blobs in a row could not be read: see to the disk")
        async with aclosing(self._tree.survey_blobs()) as batches:
            async for _ in batches:
                break
        try:
            return await self._tree.rehash(digest, pace)
        except StorageAway:
            raise
        except RegistryError:
            return False

    async def _put_aside(self, digest: Digest, moment: int, *, unreadable: bool) -> Bad | None:
        """Out of the tree first: from then on it is not served.

        None: somebody else has deleted it since that moment, and what is there now may be another file.
        """
        async with self._turns.of(digest):
            if self._memory.gone.any_since(moment, (digest,)):
                return None
            self._memory.forget_blob(digest)
            where, stays = await self._move(digest), False
            if where is None:
                try:
                    await self._tree.drop_blob(digest)
                except StoreError as error:
                    stays = True
                    log.warning("scrub.stays", digest=str(digest), reason=str(error))
            if stays:  # there is nothing more to be done: the others are to have their turn
                self._inventory.note_scrubbed(digest, self._clock())
            else:
                self._inventory.note_blob_gone(digest)
        kind, repositories, more = await self._holders(digest)
        return Bad(digest, kind, repositories, more, where, unreadable, stays)

    async def _move(self, digest: Digest) -> Path | None:
        """Where it is in the quarantine; None: it is not there."""
        if self._quarantine is None:
            return None
        try:
            where = await self._tree.set_aside(digest, self._quarantine.folder)
            if where is not None and await asyncio.to_thread(self._quarantine.accept, where):
                return where
        except (StoreError, OSError) as error:
            log.warning("scrub.not_put_aside", digest=str(digest), reason=str(error))
        return None

    async def _holders(self, digest: Digest) -> tuple[str, tuple[str, ...], int]:
        """Kind, repositories, and how many more; where that cannot be said: a blob, of nobody."""
        if self._looked_up < LOOKED_UP:
            self._looked_up += 1
            try:
                found = await self._tree.holders(digest)
            except RegistryError as error:
                log.warning("scrub.holders_unknown", digest=str(digest), reason=str(error))
            else:
                kind = "manifest" if found.is_manifest else "blob"
                return kind, tuple(map(str, found.repositories)), found.more
        return "blob", (), 0

    async def _clean(self) -> None:
        """Once a day."""
        if time.monotonic() < self._clean_at:
            return
        self._clean_at = time.monotonic() + CLEAN
        self._looked_up = 0
        if self._quarantine is None:
            return
        try:
            cleaned = await asyncio.to_thread(self._quarantine.clean, self._clock())
        except OSError as error:
            log.warning("quarantine.not_cleaned", reason=str(error))
            return
        if cleaned.files:
            log.info("quarantine.cleaned", files=cleaned.files, bytes=cleaned.bytes)
