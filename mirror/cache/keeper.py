"""What is kept stays within its limits: one task that looks after it, and room made before a fill writes.

1. A survey makes the inventory true at each start. One that was closed well is believed meanwhile; of another
   nothing is evicted before the survey has ended (a blob that nobody is known to name may be named by an
   image that was not read yet), and what does not fit is not kept.
2. All deletions are made by whoever holds the lock file, one after the other: this process, or a command that
   was started beside it.
3. What is being filled has its room reserved, and counts as kept; so does what broken fills have left in the
   spool, which goes first.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from mirror.cache.eviction import Disk, Held, Limits, needed, surplus
from mirror.cache.evictor import Evictor, Freed
from mirror.cache.lock import Lock
from mirror.cache.measure import Measure
from mirror.cache.passes import Passes, tell
from mirror.cache.spool import Spool
from mirror.cache.surveyor import Surveyor
from mirror.ledger.inventory import Inventory, NotKept
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.sometimes import Sometimes

PASS = 60.0  # seconds between two looks at limits and ages
SLICE = 2.0  # seconds of a pass over the limits, between which fills that need room have their turn
LEAST_GAP = 3600.0  # seconds between two such looks after which ages begin anew; a pass may take minutes
ROOM = 10.0  # seconds that a fill waits for room; then it is decided by what there is
TELL = 10.0  # seconds between two lines about what found no room: a pull of one image has dozens

log = structlog.get_logger()


class Keeper:
    """`disk` gives the data folder's file system, None where there is none; it blocks. Times are in seconds.

    `namespace_of` gives an upstream's name, which a pin may have in front.
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
    ) -> None:
        self._inventory = inventory
        self._surveyor = surveyor
        self._limits = limits
        self._passes = Passes(inventory, evictor, limits, lock, namespace_of, clock)
        self._measure = Measure(inventory, reserved, disk, spool)
        self._reserved = reserved  # bytes that fills have announced; the evictor sees them too
        self._spool = spool
        self._clock = clock
        self._turn = asyncio.Lock()  # of who evicts for a size
        self._scarce = asyncio.Event()  # a fill has had to wait for room: make some more
        self._refused = Sometimes(TELL)

    async def run(self) -> None:
        """Look after it all, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._surveyor.run())
            group.create_task(self._passes_over_all())

    async def _passes_over_all(self) -> None:
        while True:
            await self._look()
            with suppress(TimeoutError):
                if not self._inventory.complete:  # nothing goes before it is
                    self._surveyor.tried.clear()
                    await asyncio.wait_for(self._surveyor.tried.wait(), PASS)
                    continue
                await asyncio.wait_for(self._scarce.wait(), PASS)
                await asyncio.sleep(SLICE)  # where nothing can go, each fill asks in vain

    async def make_room(self, digest: Digest, size: int) -> bool:
        """Reserve room for so many bytes, evicting what has to go; False: they do not fit, which is told."""
        if self._limits.of_size and not await self._fits(digest, size):
            return False
        self._reserved[digest] = self._reserved.get(digest, 0) + size
        return True

    def release(self, digest: Digest, size: int) -> None:
        """The fill is over: what it kept is in the inventory."""
        left = self._reserved.pop(digest, 0) - size
        if left > 0:
            self._reserved[digest] = left

    async def _fits(self, digest: Digest, size: int) -> bool:
        """Whether so many bytes may be kept, now or after what had to go for them."""
        try:
            held = (await self._measure.take()).plus(digest, size)
            # What does not fit beside what is coming already would evict all, and not be kept.
            if needed(held, self._limits) and not needed(held.without_the_kept(), self._limits):
                held = await self._make_fit(digest, size)
        except (OSError, NotKept):  # a lock that cannot be had, or a turn: then by what there is
            held = (await self._measure.guess()).plus(digest, size)
        if not needed(held, self._limits):
            return True
        self._tell_refused(digest, size, held)
        return False

    async def _make_fit(self, digest: Digest, size: int) -> Held:
        """What there is then. One fill after the other: each may have made room for the next one too.

        Raises TimeoutError, NotKept.
        """
        until = time.monotonic() + ROOM
        async with asyncio.timeout(ROOM):
            await self._turn.acquire()
        try:
            held = (await self._measure.take()).plus(digest, size)
            # Again, for a smaller fill may have taken what was freed meanwhile; until nothing more goes.
            while over := needed(held, self._limits):
                if not await self._shed(over):
                    self._scarce.set()
                    if not self._inventory.complete or not await self._free("room", over, until=until):
                        break
                held = (await self._measure.take()).plus(digest, size)
            return held
        finally:
            self._turn.release()

    async def _shed(self, wanted: int) -> int:
        """Bytes that went of what broken fills have left: nobody reads it, and it is no whole blob."""
        if self._spool is None:
            return 0
        try:
            files, freed = await asyncio.to_thread(self._spool.shed, wanted)
        except OSError as error:
            log.warning("spool.not_swept", reason=str(error))
            return 0
        if files:
            log.info("spool.shed", files=files, bytes=freed, reason="room")
        return freed

    def _tell_refused(self, digest: Digest, size: int, held: Held) -> None:
        """One line now and then, with how many blobs found no room since the last one."""
        count = self._refused.count(time.monotonic())
        if not count:
            return
        name, limit = self._limits.short_of(held)
        log.warning(
            "keeper.no_room",
            limit=f"{name} {limit}",
            wanted=size,
            kept=held.kept,
            coming=held.bytes - held.kept,
            free=held.disk.free if held.disk is not None else None,
            digest=str(digest),
            count=count,
            advice=self._advice(name, held),
        )

    def _advice(self, name: str, held: Held) -> str:
        if not self._inventory.complete:
            return "nothing can go before all that is kept was looked at: see survey.done"
        if needed(held.without_the_kept(), self._limits):
            return f"it would not fit into an empty cache beside what is coming already: change {name}"
        what = "unpin images, or make" if self._limits.pins else "make"
        more = "raise cache.maxsize" if name == "cache.maxsize" else "free the disk or lower cache.minfree"
        return f"what is kept was used a moment ago or is pinned: {what} more room ({more})"

    async def _look(self) -> None:
        """One pass over ages and limits."""
        if not self._inventory.complete:
            return
        try:
            if self._limits.ttl is not None:
                await self._expire(self._clock(), self._limits.ttl)
            await self._shrink()
        except (NotKept, OSError) as error:  # OSError: the lock cannot be had, as on a read-only disk
            log.warning("keeper.postponed", reason=str(error))

    async def _expire(self, now: float, ttl: float) -> None:
        """What was not used for so long goes.

        NB: of uses before the inventory was begun nothing is known: the files' ages say when they were
        fetched. So a folder that was adopted, or has lost its inventory, begins anew; and so does one whose
        clock was put forward, or whose mirror was away for long: all of it would look unused.
        """
        since = await self._inventory.known_since(now, max(ttl / 2, LEAST_GAP))
        if since is not None and since < now - ttl:
            await self._free("ttl", math.inf, now - ttl)

    async def _shrink(self) -> None:
        """Back to where fills need not wait for room, if what is kept has come to the limits."""
        low = self._scarce.is_set()
        self._scarce.clear()
        freed, began = Freed(), time.monotonic()
        try:
            while self._limits.of_size:
                async with self._turn:
                    held = await self._measure.take()
                    low = low or needed(held, self._limits) > 0
                    over = surplus(held, self._limits) if low else 0
                    if over and await self._shed(over):
                        continue
                    gone = freed.images + freed.blobs
                    wanted = freed.bytes + over
                    if over:
                        await self._passes.evict(freed, wanted, until=time.monotonic() + SLICE)
                    if freed.bytes >= wanted or freed.images + freed.blobs == gone:
                        return
        finally:
            tell("limit", freed, began)

    async def _free(
        self, reason: str, wanted: float, before: float = math.inf, *, until: float = math.inf
    ) -> bool:
        """Evict, as `Passes.evict`, and tell; whether anything went."""
        freed, began = Freed(), time.monotonic()
        try:
            await self._passes.evict(freed, wanted, before, until=until)
        finally:
            tell(reason, freed, began)
        return bool(freed.images or freed.blobs)
