"""Reading and writing links: a broken one reads as missing, is told once, and is healed by the next write."""

from __future__ import annotations

import structlog
from cachetools import LRUCache

from mirror.drivers.base import DriverError, PathNotFoundError, StorageDriver
from mirror.oci.digest import Digest
from mirror.store import layout

log = structlog.get_logger()

TOLD_LIMIT = 1024  # paths remembered as told; beyond that the oldest may be told again


async def read_bounded(driver: StorageDriver, path: str, limit: int) -> bytes | None:
    """A small file's bytes; None when it is longer than `limit`. Raises DriverError."""
    try:
        return await driver.get(path, limit)
    except PathNotFoundError:
        raise
    except DriverError:
        if (await driver.stat(path)).size > limit:
            return None
        raise


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
        try:
            return layout.parse_link(data, stands_for)
        except layout.BrokenLink as error:
            self.broken(path, str(error))
            return None

    async def ensure(self, path: str, digest: Digest) -> None:
        """Make the link name this digest; writes nothing when it does. Raises DriverError."""
        data = layout.link_bytes(digest)
        if not await holds(self._driver, path, data):
            await self._driver.put(path, data)
        self._told.pop(path, None)

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
