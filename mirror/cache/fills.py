"""All fills under way: one per digest (see `strangers`), owned by the application."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import structlog
from cachetools import LRUCache

from mirror.cache.fill import Fill
from mirror.cache.hands import Hands
from mirror.cache.intake import BATCH
from mirror.cache.room import Room, Unlimited
from mirror.cache.segments import Settings
from mirror.cache.spare import Spare
from mirror.cache.spool import Spool
from mirror.cache.strangers import Strangers
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.registry import Unavailable, Upstream
from mirror.store.content import ContentStore

RUNNING_LIMIT = 96  # fills at once; each holds a spool file, a connection and some MiB. Others wait.
EACH_LIMIT = 32  # of them through one upstream: one that hangs leaves room for two others
# Fills that wait for their turn; beyond, requests are told to come back. A hundred cold images of ten layers
# each have room at one upstream, and one that hangs leaves room for two others.
EACH_WAITING_LIMIT = 1024
WAITING_LIMIT = 3072  # of all upstreams; some 10 KB each, clients not counted
TURN = 150.0  # seconds that a fill waits for its turn: no client was seen to give up a first byte earlier
COME_BACK = 5.0  # seconds
ENDED = 10_000  # digests whose last fill's end is remembered, see `ended`
BATCH_LIMIT = 4 << 20  # bytes that a connection gathers while as much is written
GATHERED = 64 << 20  # bytes, of the first connections of all fills, as long as each may have BATCH
KEEPING = 20.0  # seconds that a stop waits for the store to take what is complete
SPOOL_AGE = 7 * 86400.0  # seconds that an unfinished spool file waits for somebody who wants it

log = structlog.get_logger()


class _Turns:
    """One upstream's share of the fills."""

    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(EACH_LIMIT)
        self.wanted = 0  # fills that have or want one

    @property
    def are_gone(self) -> bool:
        """Whether no more fills may wait for one."""
        return self.wanted >= EACH_LIMIT + EACH_WAITING_LIMIT


@dataclass(slots=True)
class Counts:
    """Of fills that have ended; `joined`: requests that read one that another had started."""

    done: int = 0
    failed: int = 0
    unkept: int = 0  # done, and not kept: the disk was full, or failed
    joined: int = 0
    resumed: int = 0  # transfers that broke off and went on


class Fills:
    """Starts fills, finds the one under way, ends them with the application."""

    def __init__(
        self,
        upstream: Upstream,
        store: ContentStore,
        spool: Spool,
        strangers: Strangers | None = None,
        room: Room | None = None,
        segments: Settings | None = None,
    ) -> None:
        self._segments = segments or Settings()
        self._spare = Spare()
        self.counts = Counts()
        self._room = room or Unlimited()
        self.strangers = strangers or Strangers()
        self._ended: LRUCache[Digest, int] = LRUCache(ENDED)
        self._upstream = upstream
        self._store = store
        self._spool = spool
        self._fills: dict[tuple[str, Digest], Fill] = {}  # by those who share them: see `strangers`
        self._tasks: dict[asyncio.Task[None], Fill] = {}
        self._slots = asyncio.Semaphore(RUNNING_LIMIT)
        self._turns: dict[str, _Turns] = {}  # by namespace, while anybody wants one
        self._hands = Hands()
        self._closing = False

    def running(self, repository: Repository, digest: Digest, start: int = 0) -> Fill | None:
        """The fill of this digest that a reader beginning at `start` can join."""
        fill = self._fills.get((self.strangers.party(repository), digest))
        return fill if fill is not None and fill.serves(start) else None

    def under_way(self) -> tuple[int, int]:
        """How many run, and how many wait for their turn."""
        running = sum(fill.begun for fill in self._tasks.values())
        return running, len(self._tasks) - running

    @property
    def resumed(self) -> int:
        """Transfers that broke off and went on, since the start."""
        return self.counts.resumed + sum(fill.resumed for fill in self._tasks.values())

    def ended(self, digest: Digest) -> int:
        """How many fills of this digest have ended: tells whether one did while the caller looked."""
        return self._ended.get(digest, 0)

    def start(self, repository: Repository, digest: Digest) -> Fill:
        """Begin a fill through this repository; call it only when `running` gave None, with no await between.

        Raises Unavailable when too many wait already, and while the application stops.
        """
        if self._closing:
            raise Unavailable("the mirror is stopping")
        namespace = self._upstream.condition(repository).namespace
        turns = self._turns.get(namespace)
        if len(self._tasks) >= RUNNING_LIMIT + WAITING_LIMIT or (turns is not None and turns.are_gone):
            raise Unavailable("the mirror is fetching too many blobs at once", retry_after=COME_BACK)
        party = self.strangers.party(repository)
        fill = Fill(
            digest,
            repository,
            upstream=self._upstream,
            store=self._store,
            spool=self._spool.apart(party) if party else self._spool,
            hands=self._hands,
            room=self._room,
            settings=self._segments,
            spare=self._spare,
            batch=self._batch,
        )
        self._fills[party, digest] = fill
        turns = self._turns.setdefault(namespace, _Turns())
        turns.wanted += 1
        task = asyncio.create_task(self._run(fill, turns))
        self._tasks[task] = fill
        task.add_done_callback(lambda done: self._forget(done, namespace, turns))
        return fill

    def _batch(self) -> int:
        """Bytes that a connection may gather: few large batches cost less than many small ones."""
        return max(BATCH, min(BATCH_LIMIT, GATHERED // max(1, len(self._tasks))))

    def _forget(self, task: asyncio.Task[None], namespace: str, turns: _Turns) -> None:
        """The task has ended. NB: also where it was cancelled before it began."""
        fill = self._tasks.pop(task)
        if not fill.done and fill.failure is None:
            self._end(fill)
            fill.fail(Unavailable("the mirror is stopping"))
        self.counts.resumed += fill.resumed
        self.counts.done += fill.done
        self.counts.failed += not fill.done
        self.counts.unkept += fill.done and not fill.kept
        turns.wanted -= 1
        if not turns.wanted:
            del self._turns[namespace]

    async def _run(self, fill: Fill, turns: _Turns) -> None:
        began = time.monotonic()
        try:
            async with self._slot(fill, turns):
                if fill.failure is None:
                    fill.begun = True
                    log.info("fill.started", digest=str(fill.digest), repository=str(fill.repository))
                    await fill.run()
        except asyncio.CancelledError:
            if fill.failure is None:  # it was still waiting for a slot
                fill.fail(Unavailable("the mirror is stopping"))
            raise
        finally:
            self._end(fill)
        if fill.done:
            self.strangers.brought(fill.repository, fill.digest)
            seconds = round(time.monotonic() - began, 3)
            log.info(
                "fill.done",
                digest=str(fill.digest),
                repository=str(fill.repository),
                bytes=fill.size,
                seconds=seconds,
                kept=fill.kept,
            )

    def _end(self, fill: Fill) -> None:
        """Nobody joins it from now on."""
        self._ended[fill.digest] = self.ended(fill.digest) + 1
        place = self.strangers.party(fill.repository), fill.digest
        if self._fills.get(place) is fill:
            del self._fills[place]

    @contextlib.asynccontextmanager
    async def _slot(self, fill: Fill, turns: _Turns) -> AsyncGenerator[None, None]:
        """A fill's turn; it has failed if that did not come in time, or nobody waits for it any more."""
        async with contextlib.AsyncExitStack() as held:
            try:
                async with asyncio.timeout(TURN):
                    # The upstream's own first: who waits for that must not keep others from the second.
                    await held.enter_async_context(turns.slots)
                    await held.enter_async_context(self._slots)
            except TimeoutError:
                text = "the mirror is fetching too many blobs at once"
                fill.fail(Unavailable(text, retry_after=COME_BACK))
            else:
                if not fill.wanted:
                    fill.fail(Unavailable("nobody waits for this blob any more"))
            yield

    async def sweep(self) -> None:
        """Remove spool files that nobody came back for."""
        removed = await self._hands.run(self._spool.sweep, SPOOL_AGE, time.time())
        for name in removed:
            log.info("spool.removed", file=name)

    async def close(self) -> None:
        """Break off what is under way; the spool files stay for the next start.

        What clients have whole already is still handed to the store: that takes no upstream. A store that
        takes long for it is not waited for: the next fill begins with what is in the spool.
        """
        self._closing = True
        for task, fill in self._tasks.items():
            if not fill.verified:
                task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=KEEPING)
            for task in late:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._hands.shutdown()
