"""A scrub of many small blobs is as slow as one of large ones: to open a file takes time as well."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from mirror.cache.eviction import Limits
from mirror.cache.scrubber import LEAST, Scrubber
from mirror.store.tree import Tree
from tests.cache.kit import A
from tests.cache.test_keeper import HANGS, HOUR, shop

COUNT = 10
EACH = 0.02  # seconds


async def test_many_small_blobs_take_their_time(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits()) as at:
        for number in range(COUNT):
            await at.blob(bytes([number]), A)
        at.clock.now += 2 * HOUR
        tree = Tree(at.store._driver)
        scrubber = Scrubber(
            tree, at.inventory, at.memory, None, interval=HOUR, rate=LEAST / EACH, clock=at.clock
        )
        began = time.monotonic()
        running = asyncio.create_task(scrubber.run())
        async with asyncio.timeout(HANGS):
            while await at.inventory.unscrubbed(1, at.clock() - HOUR):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert time.monotonic() - began >= (COUNT - 1) * EACH
        running.cancel()
        await asyncio.wait([running])
