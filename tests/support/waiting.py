"""Waiting for what is bound to happen, and is no event of asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE = 60.0  # seconds; a busy machine may stand still for some
LOOK = 0.005  # seconds between two looks


async def until(what: Callable[[], object]) -> None:
    """Returns once it is true; raises TimeoutError if it is not in time."""
    async with asyncio.timeout(PATIENCE):
        while not what():  # noqa: ASYNC110 - not an event
            await asyncio.sleep(LOOK)
