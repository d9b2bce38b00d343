"""How many host names may be looked up at a time.

Threads do it, of which a process has a few, and each waits for half a minute where a name server does not
answer. Where clients choose the names, as for a pattern or in the open mode, one of them could take the
threads from all the other registries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

AT_A_TIME = 4  # a registry has a few hosts, and a look-up takes milliseconds; threads are 32

T = TypeVar("T")


class Lookups:
    """Shared by all registries of one entry in the configuration; further look-ups wait."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_A_TIME)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await this look-up in its turn. Whoever goes away leaves its thread behind, which counts."""
        try:
            await self._free.acquire()
        except BaseException:
            work.close()
            raise
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._free.release()
        if not task.cancelled():
            task.exception()  # whoever wanted it may have left
