"""What is kept stays within its limits: one task that looks after it, and room made before a fill writes.

1. A survey makes the inventory true at each start. One that was closed well is believed meanwhile; of another
   nothing is evicted before the survey has ended (a blob that nobody is known to name may be named by an
   image that was not read yet), and what does not fit is not kept.
2. Who decides by what he has seen of many files (a pass, a collection, a purge) holds the lock file: this
   process, or a command that was started beside it. What one file or one answer says (a bad blob, a tag that
   is gone upstream) takes that name's turn only: nobody's decision about another is wrong by it.
3. What is being filled has its room reserved (see `admission`), and counts as kept; so does what broken fills
   have left in the spool, which goes first. Passes begin before the limits are reached: fills seldom wait.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from mirror.cache.admission import Admission
from mirror.cache.eviction import Disk, Limits, is_high, surplus
from mirror.cache.evictor import Evictor, Freed
from mirror.cache.lock import Lock
from mirror.cache.measure import Measure
from mirror.cache.outlook import Outlook
from mirror.cache.pace import Pace
from mirror.cache.passes import Passes, tell
from mirror.cache.spool import Spool
from mirror.cache.surveyor import Surveyor
from mirror.ledger.inventory import Inventory, NotKept
from mirror.oci.digest import Digest
from mirror.oci.names import Repository

PASS = 60.0  # seconds between two looks at limits and ages
SLICE = 0.25  # seconds of a pass, after which fills that need room have their turn, and commands the lock
VAIN = 10.0  # seconds after a pass that was asked for and found nothing that can go
LEAST_GAP = 3600.0  # seconds between two such looks after which ages begin anew; a pass may take minutes

log = structlog.get_logger()


class Keeper:
    """`disk` gives the data folder's file system, None where there is none; it blocks. Times are in seconds.

    `namespace_of` gives an upstream's name, which a pin may have in front. `ago` is `WallClock.ago`; None:
    the clock only runs on.
    """

    def __init__(
        self,
        inventory: Inventory,
        evictor: Evictor,
        surveyor: Surveyor,
        limits: Limits,
        lock: Lock,
        *,
        reserved: dict[Digest, int],
        disk: Callable[[], Disk] | None,
        namespace_of: Callable[[Repository], str],
        spool: Spool | None = None,
        clock: Callable[[], float] = time.time,
        ago: Callable[[float], float] | None = None,
    ) -> None:
        self._inventory = inventory
        self._surveyor = surveyor
        self._limits = limits
        self._ago = ago or (lambda seconds: clock() - seconds)
        self._passes = Passes(inventory, evictor, limits, lock, namespace_of, clock, self._ago, spool)
        self._measure = Measure(inventory, reserved, disk, spool)
        self._clock = clock
        self.outlook = Outlook(inventory, limits, self._measure, namespace_of, clock)
        self._scarce = asyncio.Event()  # there is little room left: make some more
        self.admission = Admission(
            limits, self._measure, self._passes, reserved, lambda: inventory.complete, self._scarce
        )

    async def run(self) -> None:
        """Look after it all, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._surveyor.run())
            group.create_task(self._passes_over_all())

    async def _passes_over_all(self) -> None:
        woken = False
        while True:
            if not await self._look() and woken:
                await asyncio.sleep(VAIN)  # each fill asks in vain
            woken = False
            with suppress(TimeoutError):
                # NB: not `wait_for`, which in Python 3.11 may lose a cancellation that comes with the event.
                async with asyncio.timeout(PASS):
                    if not self._inventory.complete:  # nothing goes before it is
                        self._surveyor.tried.clear()
                        await self._surveyor.tried.wait()
                    else:
                        await self._scarce.wait()
                        woken = True

    async def admit(self, digest: Digest, size: int) -> int:
        """As `Room.admit`."""
        return await self.admission.admit(digest, size)

    async def make_room(self, digest: Digest, size: int) -> bool:
        """As `Room.make_room`."""
        return await self.admission.make_room(digest, size)

    def release(self, digest: Digest, size: int, *, admitted: int = 0) -> None:
        """As `Room.release`."""
        self.admission.release(digest, size, admitted=admitted)

    async def _look(self) -> bool:
        """One pass over ages and limits; whether anything went."""
        if not self._inventory.complete:
            return False
        freed = Freed()
        try:
            if self._limits.ttl is not None:
                await self._expire(freed, self._clock(), self._limits.ttl)
            await self._shrink(freed)
        except (NotKept, OSError) as error:  # OSError: the lock cannot be had, as on a read-only disk
            log.warning("keeper.postponed", reason=str(error))
        return bool(freed.images or freed.blobs)

    async def _expire(self, freed: Freed, now: float, ttl: float) -> None:
        """What was not used for so long goes.

        NB: of uses before the inventory was begun nothing is known: the files' ages say when they were
        fetched. So a folder that was adopted, or has lost its inventory, begins anew; and so does one whose
        clock was put forward, or whose mirror was away for long: all of it would look unused. What the clock
        was put forward by while this runs makes nothing unused, however little it is (`ago`).
        """
        since = await self._inventory.known_since(now, max(ttl / 2, LEAST_GAP))
        before = self._ago(ttl)
        if since is None or since >= before:
            return
        began, pace, at = time.monotonic(), Pace(), None
        try:
            while True:
                until = time.monotonic() + SLICE
                at = await self._passes.evict("ttl", freed, math.inf, before, until=until, after=at)
                if at is None:
                    return
                await pace.rest()  # without the lock: a command may have waited for it
        finally:
            tell("ttl", freed, began)

    async def _shrink(self, gone: Freed) -> None:
        """Back to where fills need not wait for room, if what is kept has come near the limits."""
        low = self._scarce.is_set()
        self._scarce.clear()
        freed, began = Freed(), time.monotonic()
        try:
            while self._limits.of_size and await self._shrink_some(freed, low=low):
                low = True
        finally:
            tell("limit", freed, began)
            gone.add(freed)

    async def _shrink_some(self, freed: Freed, *, low: bool) -> bool:
        """One slice, after which fills that need room have their turn; whether there is more to be done."""
        async with self.admission.turn:
            held = await self._measure.take()
            if not low and not is_high(held, self._limits):
                return False
            over = surplus(held, self._limits)
            if over:
                over = surplus(held, self._limits, await self._passes.can_go(held.kept))
            if not over:
                return False
            if await self._passes.shed(over):
                return True
            gone, wanted = freed.images + freed.blobs, freed.bytes + over
            self._measure.evicting(held)
            await self._passes.evict("limit", freed, wanted, until=time.monotonic() + SLICE)
            return freed.bytes < wanted and freed.images + freed.blobs > gone
