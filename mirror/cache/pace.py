"""Work that goes on behind the answers leaves most of a core to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

REST_FACTOR = 2.0  # of rest for each second of work: a third of one core
LEAST = 0.01  # seconds; a shorter rest would mostly be the event loop's own work
MOST = 1.0  # seconds of rest after one piece, however long it took


class Pace:
    """Rests between pieces of work, for REST_FACTOR times as long as they took.

    A piece has taken the processor's time, but no more than the clock's: who waits for the disk need not rest
    for it, and while answers keep the processor busy the pieces still get their turn. `clock` and `cpu` count
    seconds, the latter those of the whole process.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.process_time
    ) -> None:
        self._clock = clock
        self._cpu = cpu
        self._owed = 0.0
        self._mark()

    def due(self) -> float:
        """How long to rest now, in seconds, for what was done since the last time; 0: not yet."""
        took = min(self._clock() - self._at, self._used())
        self._mark()
        self._owed = min(self._owed + took * REST_FACTOR, MOST)
        return self._owed if self._owed >= LEAST else 0.0

    async def rest(self) -> None:
        """Rest, if it is time; others have their turn in any case."""
        due = self.due()
        await asyncio.sleep(due)
        if due:
            self._owed = 0.0
            self._mark()

    def _mark(self) -> None:
        self._at, self._spent = self._clock(), self._cpu()

    def _used(self) -> float:
        return self._cpu() - self._spent
