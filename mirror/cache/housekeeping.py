"""What goes on behind the answers for as long as the mirror runs, and comes back when it failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import structlog

from mirror.cache.pace import Pace

AGAIN = 60.0  # seconds before work that failed is begun again
FIRST = 3600.0  # seconds after the start, when a mirror is busiest, until the first collection
DAILY = 86400.0  # seconds between two

log = structlog.get_logger()


async def steadily(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do it until cancelled. A defect must not end it for the rest of the mirror's life: it is told whole."""
    while True:
        try:
            await work()
        except Exception:  # whatever it is, limits must be kept tomorrow too
            log.exception("housekeeping.failed", work=name, again=f"{AGAIN:g}s")
        await asyncio.sleep(AGAIN)


async def daily(collect: Callable[[], AsyncGenerator[dict[str, Any], None]]) -> None:
    """A collection a day, at a pace that nobody notices."""
    await asyncio.sleep(FIRST)
    while True:
        began = time.monotonic()
        last: dict[str, Any] = {}
        pace = Pace()
        async with aclosing(collect()) as events:
            async for event in events:
                last = event
                await pace.rest()
        seconds = round(time.monotonic() - began, 3)
        if last.get("event") == "summary":
            log.info(
                "collection.done",
                removed=last["removed"],
                bytes=last["bytes"],
                failed=last.get("failed", 0),
                unreadable=last.get("unreadable", 0),
                seconds=seconds,
            )
        else:
            log.warning("collection.failed", reason=last.get("error", "unknown"))
        await asyncio.sleep(DAILY)
