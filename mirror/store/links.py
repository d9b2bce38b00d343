"""Reading and writing links: a broken one reads as missing, is told once, and is healed by the next write."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from cachetools import LRUCache

from mirror.drivers.base import DriverError, PathNotFoundError, StorageDriver
from mirror.oci.digest import Digest
from mirror.store import layout

log = structlog.get_logger()

LINKS_AT_ONCE = 100  # links read in one step of a thread, 3 ms when they are in memory
LINKS_BYTES = LINKS_AT_ONCE * layout.LINK_LIMIT
TOLD_LIMIT = 1024  # paths remembered as told; beyond that the oldest may be told again


async def read_bounded(driver: StorageDriver, path: str, limit: int) -> bytes | None:
    """A small file's bytes; None when it is longer than `limit`. Raises DriverError."""
    try:
        return await driver.get(path, limit)
    except PathNotFoundError:
        raise
    except DriverError as error:
        await too_long(driver, path, limit, error)
        return None


async def too_long(driver: StorageDriver, path: str, limit: int, error: DriverError) -> None:
    """Raises the error with which a file could not be read, unless it is that it is too long."""
    if (await driver.stat(path)).size <= limit:
        raise error


class Links:
    """The links of one store."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver
        self._told: LRUCache[str, None] = LRUCache(TOLD_LIMIT)

    async def read(self, path: str, stands_for: Digest | None = None) -> Digest | None:
        """The digest that the link names; None when it is missing or broken. Raises DriverError."""
        try:
            data = await read_bounded(self._driver, path, layout.LINK_LIMIT)
        except PathNotFoundError:
            return None
        if data is None:
            self.broken(path, "too long")
            return None
        return self._parse(path, data, stands_for)

    async def read_many(self, links: Sequence[tuple[str, Digest | None]]) -> list[Digest | None]:
        """What `read` gives for each path and what it stands for, in few steps of a thread."""
        found: list[Digest | None] = []
        while len(found) < len(links):
            some = links[len(found) : len(found) + LINKS_AT_ONCE]
            bodies = await self._driver.get_many([path for path, _ in some], layout.LINK_LIMIT, LINKS_BYTES)
            for (path, stands_for), body in zip(some, bodies, strict=False):
                match body:
                    case bytes():
                        found.append(self._parse(path, body, stands_for))
                    case PathNotFoundError():
                        found.append(None)
                    case _:
                        await too_long(self._driver, path, layout.LINK_LIMIT, body)
                        self.broken(path, "too long")
                        found.append(None)
        return found

    def _parse(self, path: str, data: bytes, stands_for: Digest | None) -> Digest | None:
        try:
            return layout.parse_link(data, stands_for)
        except layout.BrokenLink as error:
            self.broken(path, str(error))
            return None

    async def ensure(self, path: str, digest: Digest) -> bool:
        """Make the link name this digest; whether it did: then nothing is written. Raises DriverError."""
        data = layout.link_bytes(digest)
        held = await holds(self._driver, path, data)
        if not held:
            await self._driver.put(path, data)
        self._told.pop(path, None)
        return held

    def broken(self, path: str, reason: str) -> None:
        """Tell once that what is at `path` is not what it should be."""
        if path not in self._told:
            self._told[path] = None
            log.warning("store.link.broken", path=path, reason=reason)


async def holds(driver: StorageDriver, path: str, data: bytes) -> bool:
    """Whether exactly these bytes are at `path`. Where that cannot be read: no, and writing will say why."""
    try:
        return await driver.get(path, len(data)) == data
    except DriverError:
        return False
