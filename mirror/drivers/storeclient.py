"""What every client of an object store has: names below one root, the breaker before it, its own bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mirror.drivers.base import UnreachableError
from mirror.drivers.breaker import Breaker
from mirror.drivers.slots import Slots

SLOWEST = 64 << 10  # bytes a second; an upload, or a part of one, that is slower is given up


class StoreClient:
    """`root`: what all names begin with, without slashes at its ends; `slots`: requests at a time."""

    def __init__(self, root: str, breaker: Breaker, slots: int) -> None:
        self._prefix = f"{root}/" if root else ""
        self._breaker = breaker
        self._slots = Slots(slots)

    def key(self, path: str) -> str:
        """The object's name in the store."""
        return self._prefix + path

    def path(self, key: str) -> str | None:
        """The path of an object's name; None: it is not below our root."""
        return key[len(self._prefix) :] if key.startswith(self._prefix) else None

    def trouble(self) -> str:
        """Why the store is left alone; "" while it is asked."""
        return self._breaker.trouble

    def denials(self) -> int:
        """How often the store has not let us."""
        return self._breaker.denials

    @asynccontextmanager
    async def _within(self, path: str, limit: float) -> AsyncGenerator[None, None]:
        """Around one request with its attempts. Raises UnreachableError after so many seconds."""
        try:
            async with self._slots.one(path), asyncio.timeout(limit):
                yield
        except TimeoutError as error:
            cause = f"no answer from the storage within {limit:g} s"
            self._breaker.failed(cause)
            raise UnreachableError(path, cause) from error


def time_for(size: int) -> float:
    """Seconds that sending so many bytes may take, with all attempts."""
    return 60.0 + size / SLOWEST
