"""URLs by which clients fetch objects themselves, each used again for a part of its life."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Protocol

from cachetools import LRUCache

from mirror.drivers.base import Elsewhere

KNOWN = 20_000  # objects, and URLs, that are remembered: 1 KB each
SEEN_SECONDS = 60.0  # for so long an object is believed to be there
# Of its life, a URL is given in the first half: a client has the second half to begin.
GIVEN = 0.5


class Signer(Protocol):
    """Who knows the objects."""

    async def size_of(self, path: str) -> int:
        """Of an object, in bytes. Raises PathNotFoundError, DriverError."""

    async def life(self, path: str, seconds: float) -> float:
        """For how long a URL works that is signed now, for so many seconds. Raises DriverError."""

    async def presign(self, path: str, seconds: float) -> str:
        """A URL by which anybody can GET an object for so long. Raises DriverError."""


class Urls:
    """`clock` is the wall clock, `monotonic` for how long ago something was seen; both in seconds."""

    def __init__(
        self,
        client: Signer,
        lifetime: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._lifetime = lifetime
        self._clock, self._monotonic = clock, monotonic
        self._seen: LRUCache[str, tuple[int, float]] = LRUCache(KNOWN)  # path: size, when
        self._urls: LRUCache[str, tuple[str, float, float]] = LRUCache(KNOWN)
        self._changes = 0  # so far: what was asked before one of them may be about what was there before it

    async def get(self, path: str) -> Elsewhere:
        """Where the object is. Raises PathNotFoundError, DriverError."""
        seen = self._seen.get(path)
        if seen is None or self._monotonic() - seen[1] >= SEEN_SECONDS:
            self._seen.pop(path, None)
            changes = self._changes
            seen = await self._client.size_of(path), self._monotonic()
            if self._changes == changes:
                self._seen[path] = seen
        url, since, until = self._urls.get(path, ("", 0.0, 0.0))
        if not since <= self._clock() < until:
            since = self._clock()
            life = await self._client.life(path, self._lifetime)
            url = await self._client.presign(path, self._lifetime)
            until = since + life * GIVEN
            self._urls[path] = url, since, until
        return Elsewhere(url, seen[0], until)

    def forget(self, path: str) -> None:
        """What is there now is not known: it is written or deleted, or may have been."""
        self._seen.pop(path, None)
        self._changes += 1

    def forget_each(self, doomed: Collection[str]) -> None:
        """As `forget`, for files and all that is in folders."""
        folders = tuple(f"{path}/" for path in doomed)
        for path in [*doomed, *(seen for seen in self._seen if seen.startswith(folders))]:
            self.forget(path)
