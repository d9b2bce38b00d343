"""All endpoints: each pull is put before those that want it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import structlog
from cachetools import LRUCache

from mirror import outgoing
from mirror.notify.endpoint import Endpoint, Event, Settings
from mirror.notify.event import Source, references_in
from mirror.pulled import Pulled

KNOWN = 256  # manifests of which the references are remembered: for HEAD, which brings none, and repetitions
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
        self._known: LRUCache[str, list[dict[str, Any]]] = LRUCache(KNOWN)
        self._client: aiohttp.ClientSession | None = None

    def tell(self, pulled: Pulled) -> None:
        """Somebody has pulled something. Never waits, never fails."""
        wanting = [endpoint for endpoint in self.endpoints if endpoint.wants(pulled.media_type)]
        if not wanting:
            return
        event = Event(pulled, self._named(pulled) if self._references else None)
        for endpoint in wanting:
            endpoint.take(event)

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

    def _named(self, pulled: Pulled) -> list[dict[str, Any]]:
        found = self._known.get(pulled.digest)
        if found is None and pulled.body:
            found = self._known[pulled.digest] = references_in(pulled.body)
        return found or []

    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = outgoing.session(self._user_agent)
        return self._client
