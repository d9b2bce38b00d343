"""How long an image stays, for an operator who asks why it is here, or when it goes. It moves nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mirror.cache.eviction import Limits
from mirror.cache.freshness import names
from mirror.cache.measure import Measure
from mirror.ledger.facts import KeptImage
from mirror.ledger.inventory import Inventory, NotKept
from mirror.oci.digest import Digest
from mirror.oci.names import Reference, Repository, Tag

MOVES = 5  # of a tag, the last ones


class Outlook:
    """See the module's text. Times are in seconds. `namespace_of` as for `Keeper`."""

    def __init__(
        self,
        inventory: Inventory,
        limits: Limits,
        measure: Measure,
        namespace_of: Callable[[Repository], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._inventory = inventory
        self._limits = limits
        self._measure = measure
        self._namespace_of = namespace_of
        self._clock = clock

    async def explain(
        self, repository: Repository, reference: Reference, digest: Digest | None
    ) -> dict[str, Any]:
        """`keeping` and `history`, as plain values for JSON. `digest`: of what is kept; None: nothing is."""
        try:
            image = None if digest is None else await self._inventory.image(repository, digest)
            return {
                "keeping": None if image is None else await self._keeping(repository, image),
                "history": await self._history(repository, reference),
            }
        except NotKept:
            return {"keeping": None, "history": []}

    async def _keeping(self, repository: Repository, image: KeptImage) -> dict[str, Any]:
        """When it was used, what keeps it, and what comes before it."""
        now, ttl = self._clock(), self._limits.ttl
        held = await self._measure.take()
        pin = self._pin(repository, image)
        # Of uses before the inventory was begun nothing is known: see `Keeper._expire`.
        since = max(image.used, image.known_since or now)
        most = self._limits.most(held.disk)
        return {
            "used_ago": max(0.0, now - image.used),
            "seen_ago": max(0.0, now - image.seen),
            "hits": image.hits,
            "pin": pin,
            "ttl": ttl,
            "expires_in": None if ttl is None or pin else max(0.0, since + ttl - now),
            "unused_longer": image.unused_longer,
            "surveyed": self._inventory.complete,
            "kept_bytes": held.kept,
            "maxsize": most,
            "free": None if held.disk is None else held.disk.free,
            "minfree": self._limits.reserve(held.disk) or None,
        }

    def _pin(self, repository: Repository, image: KeptImage) -> str | None:
        """The pattern that keeps it; None: there is none."""
        namespace = self._namespace_of(repository)
        known = [name for tag in image.tags for name in names(repository, tag, namespace)]
        return next((pin.match for pin in self._limits.pins if any(map(pin.fits, known))), None)

    async def _history(self, repository: Repository, reference: Reference) -> list[dict[str, Any]]:
        """Where the tag pointed, the newest first; of a digest nothing."""
        if not isinstance(reference, Tag):
            return []
        now = self._clock()
        return [
            {
                "digest": None if move.digest is None else str(move.digest),
                "ago": max(0.0, now - move.at),
                "origin": move.origin,
            }
            for move in (await self._inventory.history(repository, reference))[:MOVES]
        ]
