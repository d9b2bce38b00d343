"""One piece of work per key at a time, shared by all who want its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Coalescer(Generic[K, V]):
    """Runs the work of each key once while it is under way; the tasks belong to this object.

    A caller that is cancelled leaves the work running for the others. Nothing is remembered once the
    work has ended, so there are never more entries than requests under way.
    """

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}

    def start(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> asyncio.Task[V]:
        """The task that does this key's work: the one under way, else a new one. Shield it when awaiting."""
        task = self._tasks.get(key)
        if task is None or task.done():  # done, but its callback has not run yet
            task = asyncio.create_task(work())
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def is_running(self, key: K) -> bool:
        """Whether this key's work is under way."""
        task = self._tasks.get(key)
        return task is not None and not task.done()

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The result of this key's work, or its exception."""
        return await asyncio.shield(self.start(key, work))

    def _ended(self, key: K, task: asyncio.Task[V]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled():
            task.exception()  # seen, also when every waiter has gone

    async def finish(self) -> None:
        """Wait for the end of what is under way."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def close(self) -> None:
        """Cancel what is under way and wait for its end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
