"""One pass: what was unused for longest goes, until enough is free."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import structlog

from mirror.cache.eviction import GRACE, Limits
from mirror.cache.evictor import Evictor, Freed, failed
from mirror.cache.freshness import names
from mirror.cache.lock import HeldError, Lock
from mirror.cache.spool import Spool
from mirror.ledger.facts import Candidate, Place
from mirror.ledger.inventory import Inventory
from mirror.ledger.staying import Tagged
from mirror.oci.names import Repository, Tag
from mirror.store.errors import StoreError

CANDIDATES = 100  # asked of the inventory at once, some 5 ms
TOGETHER = 4  # images that go at once: beside answers one alone waits for its threads most of the time
PINS_KNOWN = 60.0  # seconds before it is looked again which images are pinned: 50 ms for 10,000 tags
TAGS_TOLD = 10  # of an image, in the line that says that it went
PINNED = 5000  # pinned images that are counted, 50 ms; more may cost evictions that do not help

log = structlog.get_logger()


class Passes:
    """`namespace_of` gives an upstream's name, which a pin may have in front; `ago` as `WallClock.ago`."""

    def __init__(
        self,
        inventory: Inventory,
        evictor: Evictor,
        limits: Limits,
        lock: Lock,
        namespace_of: Callable[[Repository], str],
        clock: Callable[[], float],
        ago: Callable[[float], float],
        spool: Spool | None,
    ) -> None:
        self._inventory = inventory
        self._evictor = evictor
        self._limits = limits
        self._lock = lock
        self._namespace_of = namespace_of
        self._clock = clock
        self._ago = ago
        self._spool = spool
        self._pinned: list[tuple[int, int]] = []
        self._pinned_at = -math.inf  # by the clock

    async def evict(
        self,
        reason: str,
        freed: Freed,
        wanted: float,
        before: float = math.inf,
        *,
        until: float = math.inf,
        after: Place | None = None,
    ) -> Place | None:
        """Evict until `wanted` bytes are freed, or all that was not used since `before` is gone.

        `reason`, for the log: "ttl", "limit" or "room". `until`: when to stop in any case (time.monotonic()),
        between two images: half an eviction leaves what the inventory does not know. `after`: where the last
        pass stopped. Returns where this one did, None: there is no more to be done. Raises NotKept, OSError
        where the lock cannot be had.
        """
        self._evictor.hold_what_comes()
        latest = min(self._ago(GRACE), before)
        try:
            async with self._lock.shared():
                while freed.bytes < wanted:
                    # Behind what stays: it is pinned, being filled, or on a disk that lets nothing go.
                    found = await self._inventory.oldest(CANDIDATES, self._clock(), after)
                    old = [candidate for candidate in found if candidate.used < latest]
                    for some in self._portions(old, freed, wanted):
                        await self._evict(reason, some, freed, latest)
                        after = some[-1].place
                        if freed.bytes < wanted and time.monotonic() >= until:
                            return after
                    if len(old) < CANDIDATES:
                        break
                    after = old[-1].place
        except HeldError:
            log.info("keeper.waiting", reason="another process is deleting")
        return None

    def _portions(
        self, candidates: list[Candidate], freed: Freed, wanted: float
    ) -> Iterator[list[Candidate]]:
        """What to evict together, until enough is freed. What one is worth is known when some have gone."""
        left = deque(each for each in candidates if not self._is_pinned(each))
        before, gone = freed.bytes, 0
        while left and freed.bytes < wanted:
            worth = (freed.bytes - before) / gone if gone else 0.0
            enough = (wanted - freed.bytes) / worth if worth else 1.0
            count = min(len(left), TOGETHER, max(1, int(min(enough, TOGETHER))))
            gone += count
            yield [left.popleft() for _ in range(count)]

    async def _evict(self, reason: str, candidates: Sequence[Candidate], freed: Freed, latest: float) -> None:
        """Each to its end, also where another fails. Raises NotKept."""
        own = [Freed() for _ in candidates]
        try:
            done = await asyncio.gather(
                *(
                    self._evictor.evict(each, mine, latest)
                    for each, mine in zip(candidates, own, strict=True)
                ),
                return_exceptions=True,
            )
        finally:
            for candidate, mine in zip(candidates, own, strict=True):
                freed.add(mine)
                if mine.images:
                    self._tell_image(reason, candidate, mine)
        for candidate, result in zip(candidates, done, strict=True):
            if isinstance(result, StoreError):
                where = f"{candidate.repository}@" if candidate.repository is not None else ""
                failed(f"{where}{candidate.digest}", result)
            elif isinstance(result, BaseException):
                raise result

    def _tell_image(self, reason: str, candidate: Candidate, freed: Freed) -> None:
        """For whoever asks where an image went: one line, where its pull has left dozens."""
        tags = [str(tag) for tag in candidate.tags]
        log.info(
            "eviction.image",
            reason=reason,
            repository=str(candidate.repository),
            tags=tags[:TAGS_TOLD],
            more=len(tags[TAGS_TOLD:]),
            digest=str(candidate.digest),
            unused=round(max(0.0, self._clock() - candidate.used)),
            hits=candidate.hits,
            blobs=freed.blobs,
            bytes=freed.bytes,
        )

    async def free(self, reason: str, wanted: float, *, until: float) -> bool:
        """Evict, as `evict`, and tell; whether anything went."""
        freed, began = Freed(), time.monotonic()
        try:
            await self.evict(reason, freed, wanted, until=until)
        finally:
            tell(reason, freed, began)
        return bool(freed.images or freed.blobs)

    async def shed(self, wanted: int) -> int:
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

    async def can_go(self, kept: int) -> int:
        """How many of the bytes kept may be evicted now, at most. Raises NotKept."""
        pinned = await self._pinned_rows() if self._limits.pins else []
        staying = await self._inventory.staying(self._ago(GRACE), pinned)
        return max(0, kept - staying)

    async def _pinned_rows(self) -> list[tuple[int, int]]:
        """The images that pins keep, looked for once in PINS_KNOWN seconds. Not more than PINNED of them."""
        now = self._clock()
        if not 0 <= now - self._pinned_at < PINS_KNOWN:
            found: list[tuple[int, int]] = []
            last = 0
            while len(found) < PINNED:
                tags, last = await self._inventory.tagged(last)
                if not tags:
                    break
                found += [(tag.repository, tag.blob) for tag in tags if self._has_pin(tag)]
            self._pinned, self._pinned_at = found[:PINNED], now
        return self._pinned

    def _has_pin(self, tag: Tagged) -> bool:
        repository = Repository(tag.repository_name)
        return self._limits.is_pinned(names(repository, Tag(tag.tag), self._namespace_of(repository)))

    def _is_pinned(self, candidate: Candidate) -> bool:
        repository = candidate.repository
        if repository is None or not self._limits.pins:
            return False
        namespace = self._namespace_of(repository)
        return any(self._limits.is_pinned(names(repository, tag, namespace)) for tag in candidate.tags)


def tell(reason: str, freed: Freed, began: float) -> None:
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
