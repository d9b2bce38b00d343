"""Leave to give an answer again without asking the registry: how long it lasts, and what ends it before.

Granted by whoever decides (`cache`), held by whoever repeats the answer (`server`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from mirror.oci.digest import Digest
from mirror.oci.names import Reference, Repository

Note = Callable[[int, float], None]  # how often the answer was repeated, and when at last


def _nothing(_count: int, _now: float) -> None:
    return


class Lease:
    """Holds from `since` until `until` (seconds by `clock`), unless it is ended, or `check` says no.

    `fresh_until` is when the answer stops being fresh, which clients are told of; None: it always is.
    A clock that is put back before `since` ends it too: the age of what was answered is unknown then.
    """

    __slots__ = ("_check", "_note", "clock", "fresh_until", "is_ended", "since", "until")

    def __init__(
        self,
        clock: Callable[[], float],
        since: float,
        until: float,
        *,
        fresh_until: float | None = None,
        check: Callable[[], bool] | None = None,
        note: Note = _nothing,
    ) -> None:
        self.clock = clock
        self.since, self.until, self.fresh_until = since, until, fresh_until
        self.is_ended = False
        self._check = check
        self._note = note

    def holds(self, now: float) -> bool:
        """Whether the answer may be repeated at this moment."""
        if self.is_ended or not self.since <= now < self.until:
            return False
        return self._check is None or self._check()

    def end(self) -> None:
        """What the answer depends on is not so any more."""
        self.is_ended = True

    def used(self, count: int, now: float) -> None:
        """The answer was repeated so often; for what is kept by its last use."""
        self._note(count, now)


class Lessor(Protocol):
    """What gives leave. Plain functions: they look at what is in memory, and ask nobody."""

    def lease_manifest(self, repository: Repository, reference: Reference, digest: Digest) -> Lease | None:
        """To say again that the reference is this manifest, and give it. None: ask the next time too."""

    def lease_blob(
        self, repository: Repository, digest: Digest, size: int, until: float = math.inf
    ) -> Lease | None:
        """To give this blob of so many bytes again, or to say where it is, but not after `until`."""
