"""What is kept stays within its limits: one task that looks after it, and room made before a fill writes.

1. A survey makes the inventory true at the start; until it is, nothing is evicted (a blob that nobody is
   known to name may be named by an image that was not read yet). What does not fit then is not kept.
2. All deletions are made by whoever holds the lock file, one after the other: this process, or a command that
   was started beside it.
3. What is being filled has its room reserved, and counts as kept.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from mirror.cache.eviction import GRACE, Disk, Limits, needed, surplus
from mirror.cache.evictor import Evictor, Freed, failed
from mirror.cache.freshness import names
from mirror.cache.lock import HeldError, Lock
from mirror.cache.surveyor import Surveyor
from mirror.ledger.facts import Candidate, Place
from mirror.ledger.inventory import Inventory, NotKept, SurveyLost
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.registry import RegistryError
from mirror.store.errors import StoreError

PASS = 60.0  # seconds between two looks at limits and ages
SLICE = 2.0  # seconds of a pass over the limits, between which fills that need room have their turn
AGAIN = 600.0  # seconds before a survey that failed is begun again
CANDIDATES = 100  # asked of the inventory at once, some 5 ms
ROOM = 10.0  # seconds that a fill waits for room; then it is decided by what there is

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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._inventory = inventory
        self._evictor = evictor
        self._surveyor = surveyor
        self._limits = limits
        self._lock = lock
        self._reserved = reserved  # bytes that fills have announced; the evictor sees them too
        self._disk = disk
        self._namespace_of = namespace_of
        self._clock = clock
        self._known = 0  # bytes, when the inventory was last asked
        self._turn = asyncio.Lock()  # of who evicts for a size
        self._scarce = asyncio.Event()  # a fill has had to wait for room: make some more

    async def run(self) -> None:
        """Look after it all, until cancelled."""
        survey_at = 0.0
        while True:
            now = time.monotonic()
            if not self._inventory.complete and now >= survey_at:
                survey_at = now + AGAIN
                await self._survey()
            await self._look()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._scarce.wait(), PASS)
                await asyncio.sleep(SLICE)  # where nothing can go, each fill asks in vain

    async def make_room(self, digest: Digest, size: int) -> bool:
        """Reserve room for a fill of so many bytes, evicting what has to go; False: it does not fit."""
        if self._limits.of_size and not await self._fits(digest, size):
            return False
        self._reserved[digest] = self._reserved.get(digest, 0) + size
        return True

    async def _fits(self, digest: Digest, size: int) -> bool:
        """Whether so many bytes may be kept, now or after what had to go for them."""
        try:
            kept, disk = await self._state()
            over = needed(kept, size, disk, self._limits)
            # What does not fit beside what is coming already would evict all, and not be kept.
            if over and self._inventory.complete and self._could_fit(size, disk):
                kept, disk = await self._evict_for(size)
        except (TimeoutError, NotKept):
            disk = await self._look_at_disk()
            kept = self._known + sum(self._reserved.values())
        if needed(kept, size, disk, self._limits):
            log.warning("keeper.no_room", digest=str(digest), bytes=size, kept=kept)
            return False
        return True

    async def _evict_for(self, size: int) -> tuple[int, Disk | None]:
        """What there is then. One fill after the other: each may have made room for the next one too.

        Raises TimeoutError, NotKept.
        """
        until = time.monotonic() + ROOM
        async with asyncio.timeout(ROOM):
            await self._turn.acquire()
        try:
            kept, disk = await self._state()
            # Again, for a smaller fill may have taken what was freed meanwhile; until nothing more goes.
            while over := needed(kept, size, disk, self._limits):
                self._scarce.set()
                if not await self._free("room", over, until=until):
                    break
                kept, disk = await self._state()
            return kept, disk
        finally:
            self._turn.release()

    def _could_fit(self, size: int, disk: Disk | None) -> bool:
        """Whether it would if nothing were kept but what is coming."""
        coming = sum(self._reserved.values())
        empty = None if disk is None else Disk(disk.size, disk.size)
        return not needed(coming, size, empty, self._limits)

    def release(self, digest: Digest, size: int) -> None:
        """The fill is over: what it kept is in the inventory."""
        left = self._reserved.pop(digest, 0) - size
        if left > 0:
            self._reserved[digest] = left

    async def _survey(self) -> None:
        try:
            await self._surveyor.survey()
        except (RegistryError, NotKept, SurveyLost) as error:
            log.warning("survey.failed", reason=str(error) or type(error).__name__, again=f"{AGAIN:g}s")

    async def _look(self) -> None:
        """One pass over ages and limits."""
        if not self._inventory.complete:
            return
        try:
            if self._limits.ttl is not None:
                before = self._clock() - self._limits.ttl
                # NB: of uses before the inventory was begun nothing is known: the files' ages say when they
                # were fetched. A folder that was adopted, or has lost its inventory, begins anew.
                born = await self._inventory.born()
                if born is not None and born < before:
                    await self._free("ttl", math.inf, before)
            await self._shrink()
        except (NotKept, OSError) as error:  # OSError: the lock cannot be had, as on a read-only disk
            log.warning("keeper.postponed", reason=str(error))

    async def _shrink(self) -> None:
        """Back to where fills need not wait for room, if what is kept has come to the limits."""
        low = self._scarce.is_set()
        self._scarce.clear()
        freed, began = Freed(), time.monotonic()
        try:
            while self._limits.of_size:
                async with self._turn:
                    kept, disk = await self._state()
                    low = low or needed(kept, 0, disk, self._limits) > 0
                    over = surplus(kept, disk, self._limits) if low else 0
                    gone = freed.images + freed.blobs
                    wanted = freed.bytes + over
                    if over:
                        await self._evict_oldest(freed, wanted, until=time.monotonic() + SLICE)
                    if freed.bytes >= wanted or freed.images + freed.blobs == gone:
                        return
        finally:
            _tell("limit", freed, began)

    async def _state(self) -> tuple[int, Disk | None]:
        """Bytes kept or announced, and the disk.

        A fill that ends while the inventory is asked may be in the answer, or not: it counts in any case.
        """
        disk = await self._look_at_disk()
        announced = dict(self._reserved)
        self._known = (await self._inventory.total()).bytes
        return self._known + sum((announced | self._reserved).values()), disk

    async def _look_at_disk(self) -> Disk | None:
        if self._disk is None:
            return None
        try:
            return await asyncio.to_thread(self._disk)
        except OSError:  # a disk that cannot tell has no limit of its own
            return None

    async def _free(
        self,
        reason: str,
        wanted: float,
        before: float = math.inf,
        *,
        until: float = math.inf,
    ) -> bool:
        """Evict, as `_evict_oldest`, and tell; whether anything went."""
        freed, began = Freed(), time.monotonic()
        try:
            await self._evict_oldest(freed, wanted, before, until=until)
        finally:
            _tell(reason, freed, began)
        return bool(freed.images or freed.blobs)

    async def _evict_oldest(
        self, freed: Freed, wanted: float, before: float = math.inf, *, until: float = math.inf
    ) -> None:
        """Evict until `wanted` bytes are freed, or all that was not used since `before` is gone.

        `until`: when to stop in any case (time.monotonic()), between two images: half an eviction leaves what
        the inventory does not know.
        """
        latest = min(self._clock() - GRACE, before)
        after: Place | None = None
        try:
            async with self._lock.shared():
                while freed.bytes < wanted and time.monotonic() < until:
                    # Behind what stays: it is pinned, being filled, or on a disk that lets nothing go.
                    found = await self._inventory.oldest(CANDIDATES, self._clock(), after)
                    old = [candidate for candidate in found if candidate.used < latest]
                    for candidate in old:
                        if freed.bytes >= wanted or time.monotonic() >= until:
                            break
                        if not self._is_pinned(candidate):
                            await self._evict(candidate, freed)
                    if len(old) < CANDIDATES:
                        break
                    after = old[-1].place
        except HeldError:
            log.info("keeper.waiting", reason="another process is deleting")

    async def _evict(self, candidate: Candidate, freed: Freed) -> None:
        try:
            await self._evictor.evict(candidate, freed)
        except StoreError as error:
            failed(str(candidate.digest), error)

    def _is_pinned(self, candidate: Candidate) -> bool:
        repository = candidate.repository
        if repository is None or not self._limits.pins:
            return False
        namespace = self._namespace_of(repository)
        return any(self._limits.is_pinned(names(repository, tag, namespace)) for tag in candidate.tags)


def _tell(reason: str, freed: Freed, began: float) -> None:
    """Say what went, if anything did. `began`: time.monotonic()."""
    if freed.images or freed.blobs:
        log.info(
            "eviction.done",
            reason=reason,
            images=freed.images,
            blobs=freed.blobs,
            bytes=freed.bytes,
            seconds=round(time.monotonic() - began, 3),
        )
