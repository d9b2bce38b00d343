"""All fills under way: one per digest, owned by the application."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import structlog

from mirror.cache.fill import Fill
from mirror.cache.spool import Spool
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.registry import Registry, Unavailable
from mirror.store.content import ContentStore

RUNNING_LIMIT = 128  # fills at once; each holds a spool file, a connection and about 2 MiB. Others wait.
THREADS = 4  # hashing and writing; more only fight for the disk
SPOOL_AGE = 7 * 86400.0  # seconds that an unfinished spool file waits for somebody who wants it

log = structlog.get_logger()


class Fills:
    """Starts fills, finds the one under way, ends them with the application."""

    def __init__(self, upstream: Registry, store: ContentStore, spool: Spool) -> None:
        self.completed = (
            0  # fills that have ended; lets a caller see that one ended while he looked elsewhere
        )
        self._upstream = upstream
        self._store = store
        self._spool = spool
        self._fills: dict[Digest, Fill] = {}
        self._tasks: dict[asyncio.Task[None], Fill] = {}
        self._slots = asyncio.Semaphore(RUNNING_LIMIT)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="fill")

    def running(self, digest: Digest, start: int = 0) -> Fill | None:
        """The fill of this digest that a reader beginning at `start` can join."""
        fill = self._fills.get(digest)
        return fill if fill is not None and fill.serves(start) else None

    def start(self, repository: Repository, digest: Digest, size: int | None) -> Fill:
        """Begin a fill through this repository; call it only when `running` gave None, with no await between.

        `size` is the blob's size where a manifest says it.
        """
        fill = Fill(
            digest,
            repository,
            size=size,
            upstream=self._upstream,
            store=self._store,
            spool=self._spool,
            executor=self._threads,
        )
        self._fills[digest] = fill
        task = asyncio.create_task(self._run(fill))
        self._tasks[task] = fill
        task.add_done_callback(self._tasks.pop)
        return fill

    async def _run(self, fill: Fill) -> None:
        began = time.monotonic()
        try:
            async with self._slots:
                log.info("fill.started", digest=str(fill.digest), repository=str(fill.repository))
                await fill.run()
        except asyncio.CancelledError:
            if fill.failure is None:  # it was still waiting for a slot
                fill.fail(Unavailable("the mirror is stopping"))
            raise
        finally:
            self.completed += 1
            if self._fills.get(fill.digest) is fill:
                del self._fills[fill.digest]
        if fill.done:
            seconds = round(time.monotonic() - began, 3)
            log.info("fill.done", digest=str(fill.digest), bytes=fill.size, seconds=seconds, kept=fill.kept)

    async def sweep(self) -> None:
        """Remove spool files that nobody came back for."""
        loop = asyncio.get_running_loop()
        removed = await loop.run_in_executor(self._threads, self._spool.sweep, SPOOL_AGE, time.time())
        for name in removed:
            log.info("spool.removed", file=name)

    async def close(self) -> None:
        """Break off what is under way; the spool files stay for the next start.

        What clients have whole already is still handed to the store: that takes no upstream.
        """
        for task, fill in self._tasks.items():
            if not fill.verified:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=True)
