"""How much there is: what is kept, what is coming, and what the disk says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mirror.cache.eviction import Disk, Held
from mirror.cache.spool import Spool
from mirror.ledger.inventory import Inventory
from mirror.oci.digest import Digest


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
    ) -> None:
        self._inventory = inventory
        self._reserved = reserved
        self._disk = disk
        self._spool = spool
        self._kept = 0  # bytes, when the inventory was last asked

    async def take(self) -> Held:
        """What there is now. Raises NotKept.

        A fill that ends meanwhile may be in the inventory's answer, or not: it counts in any case.
        """
        announced = dict(self._reserved)
        spooled, disk = await asyncio.to_thread(self._look)
        self._kept = (await self._inventory.total()).bytes
        return Held(self._kept, disk, announced | self._reserved, spooled)

    async def guess(self) -> Held:
        """The same where the inventory does not answer: by what it said last."""
        spooled, disk = await asyncio.to_thread(self._look)
        return Held(self._kept, disk, dict(self._reserved), spooled)

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
