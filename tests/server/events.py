"""Logged events that a test can wait for."""

from __future__ import annotations

import asyncio

import structlog
from structlog.typing import EventDict, WrappedLogger

from tests.server.raw import PATIENCE


class Events:
    """All events so far, with `log_level`."""

    def __init__(self) -> None:
        self.all: list[EventDict] = []
        self._changed = asyncio.Event()

    def take(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """The structlog processor."""
        self.all.append({**event, "log_level": method})
        self._changed.set()
        raise structlog.DropEvent

    def named(self, name: str) -> list[EventDict]:
        """Those with this name."""
        return [event for event in self.all if event["event"] == name]

    async def wait(self, name: str) -> EventDict:
        """The first with this name, which may be yet to come."""
        async with asyncio.timeout(PATIENCE):
            while not self.named(name):
                self._changed.clear()
                await self._changed.wait()
        return self.named(name)[0]
