"""One pass: what was unused for longest goes, until enough is free."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import structlog

from mirror.cache.eviction import GRACE, Limits
from mirror.cache.evictor import Evictor, Freed, failed
from mirror.cache.freshness import names
from mirror.cache.lock import HeldError, Lock
from mirror.ledger.facts import Candidate, Place
from mirror.ledger.inventory import Inventory
from mirror.oci.names import Repository
from mirror.store.errors import StoreError

CANDIDATES = 100  # asked of the inventory at once, some 5 ms

log = structlog.get_logger()


class Passes:
    """`namespace_of` gives an upstream's name, which a pin may have in front."""

    def __init__(
        self,
        inventory: Inventory,
        evictor: Evictor,
        limits: Limits,
        lock: Lock,
        namespace_of: Callable[[Repository], str],
        clock: Callable[[], float],
    ) -> None:
        self._inventory = inventory
        self._evictor = evictor
        self._limits = limits
        self._lock = lock
        self._namespace_of = namespace_of
        self._clock = clock

    async def evict(
        self, freed: Freed, wanted: float, before: float = math.inf, *, until: float = math.inf
    ) -> None:
        """Evict until `wanted` bytes are freed, or all that was not used since `before` is gone.

        `until`: when to stop in any case (time.monotonic()), between two images: half an eviction leaves what
        the inventory does not know. Raises NotKept, OSError where the lock cannot be had.
        """
        self._evictor.hold_what_comes()
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
                            await self._evict(candidate, freed, latest)
                    if len(old) < CANDIDATES:
                        break
                    after = old[-1].place
        except HeldError:
            log.info("keeper.waiting", reason="another process is deleting")

    async def _evict(self, candidate: Candidate, freed: Freed, latest: float) -> None:
        try:
            await self._evictor.evict(candidate, freed, latest)
        except StoreError as error:
            failed(str(candidate.digest), error)

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
