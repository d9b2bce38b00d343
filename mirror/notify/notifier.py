"""All endpoints: each pull is put before those that want it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import aiohttp
import structlog
from cachetools import LRUCache

from mirror import outgoing
from mirror.notify.endpoint import Endpoint, Settings
from mirror.notify.event import REFERENCES_LIMIT, Source
from mirror.pulled import Pulled

# Bytes of manifests that are remembered for their references: for HEAD, which brings none, and repetitions.
KNOWN = 16 << 20
LEAVE = 2.0  # seconds that endpoints have, at the end, for what still waits

log = structlog.get_logger()


class Notifier:
    """`references`: events of manifests say what these name."""

    def __init__(
        self, endpoints: Sequence[Settings], source: Source, user_agent: str, *, references: bool
    ) -> None:
        self.endpoints = tuple(Endpoint(settings, source, self._session) for settings in endpoints)
        self._user_agent = user_agent
        self._references = references
        self._known: LRUCache[str, bytes] = LRUCache(KNOWN, getsizeof=len)
        self._client: aiohttp.ClientSession | None = None

    def tell(self, pulled: Pulled) -> None:
        """Somebody has pulled something. Never waits, never fails."""
        wanting = [endpoint for endpoint in self.endpoints if endpoint.wants(pulled.media_type)]
        if not wanting:
            return
        told = replace(pulled, body=self._named(pulled) if self._references else b"")
        for endpoint in wanting:
            endpoint.take(told)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Tell them until the end of the block, and a little longer what waits then."""
        tasks = [asyncio.create_task(endpoint.run()) for endpoint in self.endpoints]
        try:
            yield
        finally:
            await self._leave()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._client is not None:
                await self._client.close()

    async def _leave(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE):
                await asyncio.gather(*(endpoint.told() for endpoint in self.endpoints))
        for endpoint in self.endpoints:
            if endpoint.pending:
                log.warning("notification.lost", endpoint=endpoint.name, count=endpoint.pending)

    def _named(self, pulled: Pulled) -> bytes:
        """A manifest whose references are told; what is too large for that has none."""
        found = self._known.get(pulled.digest)
        if found is None and 0 < len(pulled.body) <= REFERENCES_LIMIT:
            found = self._known[pulled.digest] = pulled.body
        return found or b""

    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = outgoing.session(self._user_agent)
        return self._client
