"""How much there is: what is kept, what is coming, and what the disk says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mirror.cache.eviction import Disk, Held
from mirror.cache.spool import Spool
from mirror.ledger.inventory import Inventory
from mirror.oci.digest import Digest

# Seconds after which a disk has told what was freed: btrfs every 30 s (commit=), NFS within 60 s (acdirmax),
# ZFS after some of its transaction groups, 5 s each.
LATE = 60.0


@dataclass(frozen=True, slots=True)
class Before:
    """What there was before something was deleted: bytes free, and bytes of ours. `at`: time.monotonic()."""

    free: int
    ours: int
    at: float


class Measure:
    """`reserved`: the bytes that fills have announced, which the caller keeps. `disk` blocks.

    `disk` None: there is none. `spool` None: what comes is written nowhere before it is kept.
    """

    def __init__(
        self,
        inventory: Inventory,
        reserved: dict[Digest, int],
        disk: Callable[[], Disk] | None,
        spool: Spool | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inventory = inventory
        self._reserved = reserved
        self._disk = disk
        self._spool = spool
        self._monotonic = monotonic
        self._kept = 0  # bytes, when the inventory was last asked, and what has ended since
        self._before: Before | None = None

    async def take(self) -> Held:
        """What there is now. Raises NotKept.

        A fill that ends meanwhile may be in the inventory's answer, or not: it counts in any case.
        """
        announced = dict(self._reserved)
        spooled, disk = await asyncio.to_thread(self._look)
        last, total = self._kept, await self._inventory.total()
        self._kept = total.bytes
        if not total.surveyed:
            # What there was when somebody took the inventory away; or all on the disk, whosever it is.
            everything = 0 if disk is None else disk.size - disk.free - sum(spooled.values())
            self._kept = max(self._kept, last, everything)
        return self._held(disk, announced | self._reserved, spooled)

    async def is_surveyed(self) -> bool:
        """Whether all that is kept is known. Raises NotKept."""
        return (await self._inventory.total()).surveyed

    async def guess(self) -> Held:
        """The same where the inventory does not answer: by what it said last, and what came since."""
        spooled, disk = await asyncio.to_thread(self._look)
        return self._held(disk, dict(self._reserved), spooled)

    def ended(self, size: int) -> None:
        """A fill of so many bytes has ended: they count as kept until the inventory says what is so."""
        self._kept += size

    def evicting(self, held: Held) -> None:
        """Something is deleted now: for LATE seconds the disk need not have told."""
        now = self._monotonic()
        if held.disk is not None and (self._before is None or now - self._before.at > LATE):
            self._before = Before(held.disk.free, _ours(held.kept, held.spooled), now)

    def _held(self, disk: Disk | None, announced: dict[Digest, int], spooled: dict[Digest, int]) -> Held:
        """What was freed is free, though the disk may not say so yet: else all would go for one byte."""
        before = self._before
        if disk is not None and before is not None and self._monotonic() - before.at <= LATE:
            free = before.free + before.ours - _ours(self._kept, spooled)
            disk = Disk(disk.size, max(disk.free, free))
        return Held(self._kept, disk, announced, spooled)

    def _look(self) -> tuple[dict[Digest, int], Disk | None]:
        """In a thread. What is written between the two looks counts twice: better than not at all."""
        try:
            spooled = self._spool.sizes() if self._spool is not None else {}
        except OSError:  # what cannot be read takes no part in what is decided
            spooled = {}
        try:
            return spooled, self._disk() if self._disk is not None else None
        except OSError:  # a disk that cannot tell has no limit of its own
            return spooled, None


def _ours(kept: int, spooled: Mapping[Digest, int]) -> int:
    return kept + sum(spooled.values())
