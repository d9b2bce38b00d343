"""Which answers may be repeated without asking `PullThrough` again, for how long, and until what happens.

The same questions as for an answer itself, of which each is answered by memory alone:

1. A manifest is held, and kept. Of a tag, besides, the upstream's last word is fresh and names this manifest.
2. All of its image is here, and nothing of it is deleted; else its upstream is known to be there
   (`Manifests.complete`). Either is looked at again and again.
3. A blob is linked in this repository, and was held against what names it.

What these depend on ends the lease when it changes: see `leases`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

from mirror.cache.images import Images
from mirror.cache.leases import Key, Leases
from mirror.cache.memory import Memory
from mirror.cache.pulse import Pulse
from mirror.cache.standing import Standings
from mirror.lease import Lease
from mirror.oci.digest import Digest
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import Upstream

# Nothing is repeated for longer without coming by here. As long as an image is believed to be all here
# (`images.WHOLE_SECONDS`), so that what was deleted behind our back is noticed after twice that.
LEASE_SECONDS = 60.0

# For so long it is believed that an upstream is there, without looking at its breakers: a look takes longer
# than all the rest of a repeated answer, and a client cannot tell this from an answer that it got earlier.
LATELY = 0.01  # seconds

NoteUse = Callable[[Digest, Repository, float, int], None]  # the last two: when at last, and how often


class Lessor:
    """A `lease.Lessor`. `clock` is the wall clock; `note_use` is told what was given."""

    def __init__(
        self,
        memory: Memory,
        standings: Standings,
        images: Images,
        upstream: Upstream,
        pulse: Pulse,
        note_use: NoteUse,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._memory = memory
        self._standings = standings
        self._images = images
        self._upstream = upstream
        self._pulse = pulse
        self._note_use = note_use
        self._clock = clock
        self._monotonic = monotonic

    @property
    def _leases(self) -> Leases:
        return self._memory.leases

    def lease_manifest(self, repository: Repository, reference: Reference, digest: Digest) -> Lease | None:
        """For an answer that gave this manifest, or its descriptor."""
        now, key = self._clock(), (repository, reference, digest)
        held = self._leases.held(key, now)
        if held is not None:
            return held
        if self._memory.manifest(repository, digest) is None or not self._memory.is_kept(repository, digest):
            return None
        until, fresh_until = now + LEASE_SECONDS, None
        if isinstance(reference, Tag):
            condition = self._upstream.condition(repository)
            known = self._standings.known(repository, reference, condition)
            if known.word is None or known.word.digest != digest or not known.age.is_fresh:
                return None
            fresh_until = now + known.age.fresh_left
            # What stretches it (a quota that runs low) may cease: then it was due all the time.
            until = min(until, fresh_until if condition.stretch <= 1 else known.word.checked + known.fresh)
        check: Callable[[], bool] | None = self._images.whole(repository, digest)
        if check is None:
            check = _Lately(partial(self._is_there, repository), self._monotonic)
        return self._grant(key, now, until, fresh_until, check)

    def lease_blob(
        self, repository: Repository, digest: Digest, size: int, until: float = math.inf
    ) -> Lease | None:
        """For an answer that gave all of this blob, or that said, by what holds `until` then, where it is."""
        now, key = self._clock(), (repository, None, digest)
        held = self._leases.held(key, now)
        if held is not None and held.until <= until:
            return held
        if not self._memory.is_linked(repository, digest) or not self._memory.is_sound(digest, size):
            return None
        return self._grant(key, now, min(now + LEASE_SECONDS, until), None, None)

    def _grant(
        self,
        key: Key,
        now: float,
        until: float,
        fresh_until: float | None,
        check: Callable[[], bool] | None,
    ) -> Lease | None:
        if until <= now:
            return None
        repository, _, digest = key

        def used(count: int, last: float) -> None:
            self._note_use(digest, repository, last, count)

        lease = Lease(self._clock, now, until, fresh_until=fresh_until, check=check, note=used)
        return self._leases.grant(key, lease)

    def _is_there(self, repository: Repository) -> bool:
        """Whether the rest of an image could be had: its upstream answered a moment ago."""
        condition = self._upstream.condition(repository)
        return condition.blobs is None and self._pulse.lately(condition.namespace)


class _Lately:
    """`ask`, of which a yes holds for LATELY."""

    __slots__ = ("_ask", "_now", "_until")

    def __init__(self, ask: Callable[[], bool], now: Callable[[], float]) -> None:
        self._ask = ask
        self._now = now
        self._until = 0.0

    def __call__(self) -> bool:
        now = self._now()
        if now < self._until:
            return True
        self._until = now + LATELY
        if self._ask():
            return True
        self._until = 0.0
        return False
