"""Room for what comes: made before it is written, where that helps, and as briefly waited for as can be.

1. Nothing goes for what cannot fit: beside what is coming, what is pinned, what was used a moment ago, and
   what others have on the disk.
2. Nothing goes for a size that was only announced: room is asked for in steps, ahead of what is written.
   Where a later step finds none, nothing more of that blob is written, and it is not kept.
3. Before the first survey of a folder has ended nobody knows how much there is: all that is on the disk
   counts. What does not fit beside it waits for the survey, as for room, and is not kept then.
4. Who waits for room waits for ROOM at most. If deletions go on then that will be enough, what comes begins
   all the same: there is never more than the limit and what is coming.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from mirror.cache.eviction import Held, Limits, is_high, needed
from mirror.cache.measure import Measure
from mirror.cache.passes import Passes
from mirror.ledger.inventory import NotKept
from mirror.oci.digest import Digest
from mirror.sometimes import Sometimes

LOOK = 0.02  # seconds between two looks at whether the first survey has ended; an empty folder takes 10 ms
ROOM = 1.0  # seconds that a fill waits for room, and its readers for the first byte
TELL = 10.0  # seconds between two lines about what found no room: a pull of one image has dozens

log = structlog.get_logger()


class Admission:
    """See the module's text; the answer to `room.Room`.

    `reserved` is shared with the evictor, which leaves alone what is in it. `is_complete`: whether anything
    may be evicted at all. `scarce` is set when it is time for a pass over the limits.
    """

    def __init__(
        self,
        limits: Limits,
        measure: Measure,
        passes: Passes,
        reserved: dict[Digest, int],
        is_complete: Callable[[], bool],
        scarce: asyncio.Event,
    ) -> None:
        self._limits = limits
        self._measure = measure
        self._passes = passes
        self._reserved = reserved
        self._is_complete = is_complete
        self._scarce = scarce
        self._admitted: dict[Digest, int] = {}  # bytes announced; an entry for each fill under way
        self.turn = asyncio.Lock()  # of who evicts for a size
        self.refused = Sometimes(TELL)

    async def admit(self, digest: Digest, size: int) -> int:
        """As `Room.admit`."""
        if not self._limits.of_size:
            return max(size, 1)
        held = await self._look(digest, size)
        coming = {each: max(held.announced.get(each, 0), size) for each, size in self._admitted.items()}
        after = Held(held.kept, held.disk, {**held.announced, **coming}, held.spooled).plus(digest, size)
        if needed(after, self._limits) and not await self._could_fit(after):
            self._tell_refused(digest, size, after)
            return 0
        self._admitted[digest] = self._admitted.get(digest, 0) + size
        return self._limits.step(held.disk)

    async def make_room(self, digest: Digest, size: int) -> bool:
        """As `Room.make_room`; that there is none is told."""
        if self._limits.of_size and not await self._fits(digest, size):
            return False
        _add(self._reserved, digest, size)
        return True

    def release(self, digest: Digest, size: int, *, admitted: int = 0) -> None:
        """As `Room.release`: what was kept of it is in the inventory."""
        _add(self._reserved, digest, -size)
        _add(self._admitted, digest, -admitted)
        self._measure.ended(size)

    async def _fits(self, digest: Digest, size: int) -> bool:
        """Whether so many bytes may be kept, now or after what had to go for them."""
        going = False  # what has to go
        held = (await self._look()).plus(digest, size)
        if needed(held, self._limits) and await self._could_fit(held):
            try:
                held, going = await self._make_fit(digest, size)
            except TimeoutError:  # others make room for themselves, and then for this
                held, going = (await self._look()).plus(digest, size), True
            except (OSError, NotKept):  # a lock that cannot be had: then by what there is
                held = (await self._measure.guess()).plus(digest, size)
        if is_high(held, self._limits):
            self._scarce.set()
        if not needed(held, self._limits) or (going and not needed(held.kept_alone, self._limits)):
            return True
        self._tell_refused(digest, size, held)
        return False

    async def _look(self, digest: Digest | None = None, size: int = 0) -> Held:
        """What there is; with so many bytes more, for which it may wait until it is known."""
        try:
            held = await self._measure.take()
            if digest is None or not needed(held.plus(digest, size), self._limits):
                return held
            until = time.monotonic() + ROOM
            while not await self._measure.is_surveyed() and time.monotonic() < until:
                await asyncio.sleep(LOOK)
                held = await self._measure.take()
            return held
        except (OSError, NotKept):
            return await self._measure.guess()

    async def _could_fit(self, held: Held) -> bool:
        """Whether all would fit if all went that can."""
        if needed(held.without(held.kept), self._limits):
            return False
        try:
            return not needed(held.without(await self._passes.can_go(held.kept)), self._limits)
        except NotKept:  # then nothing goes
            return False

    async def _make_fit(self, digest: Digest, size: int) -> tuple[Held, bool]:
        """What there is then, and whether deletions go on that were not done in time.

        One fill after the other: each may have made room for the next one too. Raises TimeoutError when its
        turn does not come, NotKept, OSError.
        """
        until = time.monotonic() + ROOM
        async with asyncio.timeout(ROOM):
            await self.turn.acquire()
        try:
            held = (await self._measure.take()).plus(digest, size)
            # Again, for a smaller fill may have taken what was freed meanwhile; until nothing more goes.
            while over := needed(held, self._limits):
                if not await self._passes.shed(over):
                    if not self._is_complete():
                        break
                    self._measure.evicting(held)
                    if not await self._passes.free("room", over, until=until):
                        break
                    if time.monotonic() >= until:
                        return (await self._measure.take()).plus(digest, size), True
                held = (await self._measure.take()).plus(digest, size)
            return held, False
        finally:
            self.turn.release()

    def _tell_refused(self, digest: Digest, size: int, held: Held) -> None:
        """One line now and then, with how many blobs found no room since the last one."""
        count = self.refused.count(time.monotonic())
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
        if needed(held.without(held.kept), self._limits):
            if name == "cache.minfree":
                return "it would not fit though all that is kept went: free the disk or lower cache.minfree"
            return f"it would not fit into an empty cache beside what is coming already: change {name}"
        if not self._is_complete():
            return "nothing can go before all that is kept was looked at: see survey.done"
        what = "unpin images, or make" if self._limits.pins else "make"
        more = "raise cache.maxsize" if name == "cache.maxsize" else "free the disk or lower cache.minfree"
        why = "was used a moment ago or is pinned" if self._limits.pins else "was used a moment ago"
        return f"what is kept {why}: {what} more room ({more})"


def _add(table: dict[Digest, int], digest: Digest, size: int) -> None:
    """What is 0 is not there."""
    left = table.pop(digest, 0) + size
    if left > 0:
        table[digest] = left
