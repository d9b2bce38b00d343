"""How late the event loop is: what every request waits for besides its own work."""

from __future__ import annotations

import asyncio
import time

from mirror.tally import Distribution

INTERVAL = 0.25  # seconds between two looks, each of which costs some microseconds
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class LoopLag:
    """`seen`: by how many seconds a call came later than it was to come."""

    def __init__(self) -> None:
        self.seen = Distribution(SECONDS)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(INTERVAL)
            self.seen.observe(max(0.0, time.perf_counter() - began - INTERVAL))
