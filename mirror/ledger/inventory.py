"""`Inventory`: what is kept, who names it, and when it was used last; rebuilt from the tree when it is lost.

What happens on the way of a request is noted: at once, in memory, in bounded space, and written behind. A
question first writes what waits, so that its answer knows of all that was noted before.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from mirror.ledger import asks, survey
from mirror.ledger.decision import Decision
from mirror.ledger.facts import (
    Candidate,
    Dropped,
    KeptBlob,
    KeptImage,
    Loose,
    Move,
    Place,
    SeenBlob,
    SeenLink,
    SeenParts,
    SeenTag,
    Surveyed,
    Total,
    Use,
)
from mirror.ledger.file import NotKept
from mirror.ledger.inventoryschema import raw
from mirror.ledger.notebook import Notebook, time_of
from mirror.ledger.rows import Rows
from mirror.ledger.staying import Tagged, staying, tagged
from mirror.ledger.stock import See, Stock, SurveyLost
from mirror.ledger.waiting import Batches
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag

__all__ = ["Inventory", "NotKept", "SurveyLost"]

WRITE_SECONDS = 5.0  # between a note and its writing: what a crash may cost
RETRY_SECONDS = 10.0  # before a file that could not be used is tried again
SEEN_AT_ONCE = 250  # rows of a survey between two looks at the clock, 5 ms
PARTS_AT_ONCE = 25  # images of a survey that are written between two looks at the clock
PARTS_WAITING = 100  # images of a survey that are written together; alone each would take 1 ms
LOOKS_AT_ONCE = 1000  # images that are looked for in one, 10 ms
ASK_SECONDS = 10.0  # how long a question waits for a disk that hangs, or for what waits before it
OPEN_SECONDS = 5.0  # how long the start does
CLOSE_SECONDS = 5.0  # how long the stop does

_HANGS = "its disk does not answer"
_T = TypeVar("_T")
_F = TypeVar("_F")

log = structlog.get_logger()


class Inventory(Notebook):
    """See the module's text. `path` None: in memory only. For one event loop, from `open` to `close`.

    Everything that is asked raises NotKept where another process writes for long, or the disk hangs.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__(path)
        self._stock = Stock(path)
        self._thread: ThreadPoolExecutor | None = None
        self._writer: asyncio.Task[None] | None = None
        self._parts: list[SeenParts] = []  # of a survey, not written yet
        self._flushing = asyncio.Lock()
        self._stopping = False

    @property
    def complete(self) -> bool:
        """Whether all that is in the tree is known: a survey has ended, and nothing was lost since."""
        return self._stock.complete and not self._waiting.lost

    @property
    def replaced(self) -> int:
        """How often what was known was lost, since this was opened: the file was deleted, or another came."""
        return self._stock.replaced

    async def open(self) -> None:
        """Open the file. Never fails, and takes OPEN_SECONDS at most; what fails stands in the log."""
        self._thread = ThreadPoolExecutor(1, "inventory")
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._call(self._stock.open)
        except (NotKept, TimeoutError) as error:
            log.warning("inventory.not_opened", file=str(self._path), reason=str(error) or _HANGS)
        self._writer = asyncio.create_task(self._write_behind())

    async def close(self) -> None:
        """Write what waits and close the file, as far as that can be done in CLOSE_SECONDS."""
        if self._thread is None:
            return
        self._stopping = True
        self._wanted.set()
        self._urgent.set()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._writer is not None:
                    await self._writer
                if not await self.flush():
                    await self._call(self._stock.distrust)
                await self._call(self._stock.close)
        except (NotKept, TimeoutError) as error:
            log.warning("inventory.not_closed", file=str(self._path), reason=str(error) or _HANGS)
        if self._writer is not None and not self._writer.done():
            self._writer.cancel()
            await asyncio.wait([self._writer])
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._thread = None

    async def flush(self) -> bool:
        """Write what waits; False if that could not be done, and is still to be done."""
        try:
            await self._flush()
        except NotKept:
            return False
        return True

    # What is asked. Raises NotKept.

    async def total(self) -> Total:
        """What is kept."""
        return await self._read(asks.total)

    async def oldest(self, limit: int, now: float, after: Place | None = None) -> list[Candidate]:
        """Images and loose blobs, the longest unused first; `after`: only those behind this place.

        What is used meanwhile moves towards the end, and may come once more.
        """
        await self._change(lambda rows: asks.clamp(rows.connection, now))
        return await self._read(lambda connection: asks.oldest(connection, limit, now, after))

    async def drop_image(
        self, repository: Repository, digest: Digest, unused_since: float = math.inf
    ) -> Dropped | None:
        """It is to be no image any more. None: it is none, or was used after `unused_since` and stays.

        What it leaves behind counts as kept until `drop_blob`, `note_layer_gone` or a survey says otherwise.
        """
        return await self._decide(
            lambda rows: asks.drop_image(rows, repository.name, raw(digest), unused_since)
        )

    async def drop_blob(self, digest: Digest, unused_since: float = math.inf) -> Loose | None:
        """Its data and links are to go now. None: an image names it, it was used, or it is not kept."""
        return await self._decide(lambda rows: asks.drop_blob(rows, raw(digest), unused_since))

    async def loose(self, limit: int, before: float) -> list[Loose]:
        """Blobs that no image names and that were last used before, the longest unused first."""
        return await self._read(lambda connection: asks.loose(connection, limit, before))

    async def is_used_since(self, digest: Digest, since: float) -> bool:
        """Whether it, or an image that names it, was kept, linked or given to a client later than that."""
        return await self._read(lambda connection: asks.is_used_since(connection, raw(digest), since))

    async def staying(self, since: float, pinned: Sequence[tuple[int, int]]) -> int:
        """Bytes of what was used `since`, or belongs to these images: see `tagged`."""
        return await self._read(lambda connection: staying(connection, since, pinned))

    async def tagged(self, after: int) -> tuple[list[Tagged], int]:
        """Some tags behind this one (0: the first), and the last of them; none: there are no more."""
        return await self._read(lambda connection: tagged(connection, after))

    async def unscrubbed(self, limit: int, before: float, now: float = math.inf) -> list[KeptBlob]:
        """Blobs whose bytes were last compared with their digests before, the longest ago first.

        And those that were compared later than `now`, by a clock that was wrong.
        """
        if math.isfinite(now):
            await self._change(lambda rows: asks.unscrub(rows.connection, now))
        return await self._read(lambda connection: asks.unscrubbed(connection, limit, before))

    async def blob(self, digest: Digest) -> KeptBlob | None:
        """What is known of a blob; None: its data is not kept."""
        return await self._read(lambda connection: asks.blob(connection, raw(digest)))

    async def image(self, repository: Repository, digest: Digest) -> KeptImage | None:
        """What is known of an image; None: it is not kept."""
        return await self._read(lambda connection: asks.image(connection, repository.name, raw(digest)))

    async def known_since(self, now: float, gap: float) -> float | None:
        """Since when uses are known: nothing counts as unused before. None: there was no survey yet.

        To be asked now and then. When it was not for longer than `gap`, by the clock, uses count from now on:
        the clock was wrong, or the mirror was not there, and nobody could use anything.
        """
        return await self._change(lambda rows: asks.known_since(rows.connection, now, gap))

    async def surveyed(self) -> bool:
        """Whether a survey has ever ended; not since the file was lost."""
        return await self._read(asks.surveyed)

    async def tags_of(self, repository: Repository, digest: Digest) -> list[Tag]:
        """The tags that point to an image."""
        return await self._read(lambda connection: asks.tags_of(connection, repository.name, raw(digest)))

    async def is_named(self, repository: Repository, digest: Digest) -> bool:
        """Whether an image of this repository names it: as a blob, or as an index names its children."""
        return await self._read(lambda connection: asks.is_named(connection, repository.name, raw(digest)))

    async def images(self, repository: Repository) -> list[Digest]:
        """The images of a repository."""
        return await self._read(lambda connection: asks.images(connection, repository.name))

    async def layers(self, repository: Repository) -> list[Digest]:
        """What is linked as a layer in a repository."""
        return await self._read(lambda connection: asks.layers(connection, repository.name))

    async def history(self, repository: Repository, tag: Tag) -> list[Move]:
        """Where a tag pointed, the newest first."""
        return await self._read(lambda connection: asks.history(connection, repository.name, tag.name))

    # A survey: begin, see (blobs first), end. Raises NotKept; SurveyLost where it has to begin again.

    async def begin_survey(self, now: float) -> None:
        """What is noted from now on counts as seen; a survey that has not ended is given up."""
        await self._flush()
        self._parts.clear()
        await self._call(partial(self._stock.begin_survey, now))

    async def seen_blobs(self, facts: Sequence[SeenBlob]) -> None:
        """These are in the tree."""
        await self._see(survey.see_blobs, facts, SEEN_AT_ONCE)

    async def seen_layers(self, facts: Sequence[SeenLink]) -> None:
        """These are linked as layers."""
        await self._see(survey.see_layers, facts, SEEN_AT_ONCE)

    async def seen_images(self, facts: Sequence[SeenLink]) -> list[SeenLink]:
        """These are linked as images. Returns those to read, and to tell of by `seen_parts`."""
        unread: list[SeenLink] = []
        for at in range(0, len(facts), LOOKS_AT_ONCE):
            unread += await self._call(partial(self._stock.look_for, facts[at : at + LOOKS_AT_ONCE]))
        return unread

    async def seen_parts(self, facts: Sequence[SeenParts]) -> None:
        """These are images, and name this. Some of it is written with what comes next."""
        for fact in facts:
            self._parts.append(fact)
            if len(self._parts) >= PARTS_WAITING:
                await self._see_parts()

    async def seen_tags(self, facts: Sequence[SeenTag]) -> None:
        """These tags are there, and point there."""
        await self._see(survey.see_tags, facts, SEEN_AT_ONCE)

    async def used(self, uses: Sequence[Use]) -> None:
        """Somebody else remembers these uses; of what is not known they count for nothing."""
        await self._flush()
        batches = Batches([], {})
        for use in uses:
            batches.uses[use.digest, use.repository] = time_of(use.used), 0
        await self._see_parts()
        while batches:
            await self._call(partial(self._stock.write, batches, complete=True))

    async def end_survey(self) -> Surveyed:
        """The whole tree was seen: remove what was not, and count as complete."""
        await self._flush()
        await self._see_parts()
        while True:
            result = await self._call(self._stock.end_survey)
            await self._call(self._stock.checkpoint)
            if result is not None:
                return result

    async def _flush(self) -> None:
        """Write what waits. Raises NotKept; then it waits again, but for what was written."""
        async with self._flushing:
            self._wanted.clear()
            batches = self._waiting.take()
            try:
                if lost := self._waiting.lost:
                    await self._call(self._stock.distrust)
                    self._waiting.lost -= lost
                while batches:
                    await self._call(partial(self._stock.write, batches))
            except BaseException:  # when cancelled, some may be written all the same; twice does little
                self._waiting.put_back(batches)
                self._wanted.set()
                raise

    async def _write_behind(self) -> None:
        loop = asyncio.get_running_loop()
        seconds, tried = WRITE_SECONDS, loop.time()
        while not self._stopping:
            await self._wanted.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # not `wait_for`, see `Keeper`
                    await self._urgent.wait()
            self._urgent.clear()
            seconds = WRITE_SECONDS if await self.flush() else RETRY_SECONDS
            with suppress(NotKept):
                await self._call(self._stock.trim)
                await self._call(self._stock.checkpoint)
            if self._stock.in_memory and loop.time() - tried >= RETRY_SECONDS:
                tried = loop.time()
                with suppress(NotKept):
                    await self._call(self._stock.come_back)

    async def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        await self._flush()
        return await self._call(partial(self._stock.read, work))

    async def _change(self, work: Callable[[Rows], _T]) -> _T:
        await self._flush()
        return await self._call(partial(self._stock.change, work))

    async def _decide(self, work: Callable[[Rows], _T]) -> _T:
        """As `_change`; whoever gets no answer knows that it was not done, or the inventory is in doubt."""
        await self._flush()
        decision = Decision()

        def whole(rows: Rows) -> _T:
            result = work(rows)
            decision.make()
            return result

        try:
            return await self._call(partial(self._stock.change, whole))
        except BaseException:
            if decision.leave():
                self.doubt("nobody knows what became of a deletion")
            raise

    async def _see_parts(self) -> None:
        facts, self._parts = self._parts, []
        await self._see(survey.see_parts, facts, PARTS_AT_ONCE)

    async def _see(self, see: See[_F], facts: Sequence[_F], at_once: int) -> None:
        while facts:
            facts = await self._call(partial(self._stock.see, see, facts, at_once))
            await self._call(self._stock.checkpoint)

    async def _call(self, work: Callable[[], _T]) -> _T:
        """The result of work in the thread. Raises NotKept, also after ASK_SECONDS; it may be done later."""
        if self._thread is None:
            raise NotKept("it is not open")
        doing = asyncio.get_running_loop().run_in_executor(self._thread, work)
        doing.add_done_callback(_look_at)
        done, _ = await asyncio.wait([doing], timeout=ASK_SECONDS)
        if not done:
            raise NotKept(_HANGS)
        return doing.result()


def _look_at(doing: asyncio.Future[_T]) -> None:
    """Nobody may be left who waits for it; that is no error."""
    if not doing.cancelled():
        doing.exception()
