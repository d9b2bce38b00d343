"""The bytes of one fill that have come: hashed, kept in the spool or in memory, and shown to readers.

What `fill` says about rules 2, 7, 8, 9 and 10 is done here. Who reads, and what the fill's outcome is, is not
known here: the readers' positions are asked for.

Bytes come by several connections, each at a place of its own. Those that continue what was hashed are hashed
as they are written; the others are written, and read again when what is before them is there. Once nothing is
kept any more, only what continues is taken, and what stands in the file farther on is read from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import structlog

from mirror.cache.extents import Extents
from mirror.cache.fillblob import FillBlob
from mirror.cache.front import Front
from mirror.cache.inflow import Inflow
from mirror.cache.room import Room, Share
from mirror.cache.segments import Claim
from mirror.cache.spool import Spool, SpoolFile
from mirror.cache.window import Window
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.registry import Blob, FileSpan, Part, RegistryError, Unavailable

BATCH = 1 << 20  # bytes gathered of a connection while a batch is written, at the least that is allowed
READ_PIECE = 4 << 20  # bytes a reader is given at once at most, so that it looks at the outcome now and then
SLOWEST = 30.0  # seconds that a volatile fill waits for its slowest reader before it goes on without him

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

log = structlog.get_logger()


class Intake:
    """See the module's text. `changed` is called whenever readers can have more."""

    def __init__(
        self,
        digest: Digest,
        spool: Spool,
        executor: Executor,
        *,
        room: Room,
        readers: Callable[[], Iterable[FillBlob]],
        changed: Callable[[], None],
        batch: Callable[[], int] = lambda: BATCH,
    ) -> None:
        self.there = Extents()  # bytes in the spool file
        self.received = 0  # bytes taken from the upstream by this process
        self.held = 0.0  # seconds that connections have waited for the disk
        self._digest = digest
        self._share = Share(room, digest)
        self._spool = spool
        self._executor = executor
        self._readers = readers
        self._changed = changed
        self._batch = batch  # bytes of a connection that may gather; then it waits for the disk
        self._front = Front(digest)
        self._writing = 0  # bytes on their way to the file
        self._file: SpoolFile | None = None
        self._volatile = False  # nothing more is written
        self._window: Window | None = None  # once bytes have come that are in memory only
        self._drained = asyncio.Event()  # a reader moved on: what a volatile fill waits for

    @property
    def hashed(self) -> int:
        """All before it has come and was hashed."""
        return self._front.hashed

    # What readers see.

    @property
    def keeps(self) -> bool:
        """Whether what comes is written to the disk."""
        return not self._volatile

    def holds(self, start: int) -> bool:
        """Whether all from `start` on can still be had: not once a volatile fill has let go of some of it."""
        return self._window is None or self._window.base <= self.there.end(start)

    def reach(self, position: int) -> int:
        """The end of what can be had from `position` on; `position` where that is nothing yet.

        Raises Unavailable for what a volatile fill has let go of.
        """
        end, window = self.there.end(position), self._window
        if window is None or end > window.end:
            return end
        if end < window.base:
            if end == position:
                raise Unavailable("this client read too slowly while the mirror had no room to keep the blob")
            return end
        return window.end

    def part(self, position: int, visible: int) -> Part:
        """Some bytes from `position` on, before `visible`, of those that can be had."""
        end = min(visible, self.there.end(position), position + READ_PIECE)
        if position < end:
            assert self._file is not None
            return FileSpan(self._file.file, position, end - position)
        assert self._window is not None
        return self._window.read(position, visible)

    def moved_on(self) -> None:
        """A reader has taken its part, or left."""
        self._drained.set()

    # The file.

    @property
    def path(self) -> Path | None:
        """Where what comes is written, while it is kept."""
        return self._file.path if self._file is not None and self.keeps else None

    @property
    def front(self) -> int:
        """How many bytes, from the first on, stand there and stay as they are."""
        return self.there.end(0)

    async def complete_file(self) -> Path | None:
        """Where all of it stands, if it could be kept."""
        if self._file is None or self._volatile:
            return None
        try:
            await self._in_thread(self._file.completed)
        except OSError as error:
            log.warning("fill.not_kept", digest=str(self._digest), reason=str(error))
            return None
        return self._file.path

    def matches(self) -> bool:
        """Whether what has come has the digest."""
        return self._front.matches()

    async def open(self) -> None:
        """Open the spool and hash what an earlier fill left there (rule 7)."""
        try:
            file = await self._in_thread(self._spool.open, self._digest, then=self._opened)
            stop = file.there.end(0)
            while self.hashed < stop:
                error = await self._in_thread(self._front.read, file, stop)
                if error is not None:
                    raise error
        except OSError as error:  # no room, no rights, or a disk that cannot read what it has
            self._front.start_over()
            await self.forget()
            self._go_volatile(error)
            return
        for start, stop in file.there:
            self.there.add(start, stop)
        if self.there:
            log.info("fill.found_spool", digest=str(self._digest), bytes=self.there.total)

    def _opened(self, done: asyncio.Future[SpoolFile]) -> None:
        """Also where nobody waits for it any more: it is to be closed."""
        if done.exception() is None:
            self._file = done.result()

    async def start_over(self, reason: RegistryError) -> None:
        """Drop what was found and does not fit the upstream's answer; nobody may have read from it yet."""
        log.warning(
            "fill.spool_dropped", digest=str(self._digest), bytes=self.there.total, reason=str(reason)
        )
        self._front.start_over()
        self.there.cut(0)
        if self._file is not None:
            await self._in_thread(self._file.truncate)

    async def make_room(self, size: int) -> None:
        """See that a blob of `size` bytes fits; where it does not, nothing more is written (rule 9)."""
        if self._volatile:
            return
        if not self._share.is_begun and not await self._share.begin(size, self.there.total):
            self._keep_no_more()  # who has refused has told why
            return
        wanted = size - self.there.total
        try:
            free = await self._in_thread(self._spool.free)
            if free < wanted:
                await self._in_thread(self._spool.shed, wanted - free)
                free = await self._in_thread(self._spool.free)
            if free < wanted:
                raise OSError(f"{wanted} bytes are wanted, {free} are free")
        except OSError as error:
            self.give_back()
            self._go_volatile(error)

    def give_back(self) -> None:
        """The fill has ended: what it kept counts by itself."""
        self._share.give_back()

    async def forget(self) -> None:
        """Remove the spool file's name; readers that have it open read on."""
        if self._file is not None:
            try:
                await self._in_thread(self._file.unlink)
            except OSError as error:  # a disk that has become read-only: the sweep takes it later
                log.warning("spool.not_removed", file=self._file.path.name, reason=error.strerror)

    def close(self) -> None:
        """Close the spool file: nobody can want it any more. Its bytes stay, unless forgotten."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # What comes.

    async def pump(
        self, blob: Blob, claim: Claim, until: int, onward: Callable[[], bool] | None = None
    ) -> None:
        """Take a claim's bytes as they come, while what came before is being written (rule 10).

        `until`: the end of what was asked for. `onward` is asked at the claim's end whether, and moves it so
        that, more of what was asked for is wanted; None: this is not the fill's own connection.
        """
        inflow = Inflow(claim.position, helps=onward is None)
        position = blob.start  # of the next byte that comes
        try:
            async with contextlib.aclosing(blob.read(blob.start, until)) as parts:
                async for part in parts:
                    assert isinstance(part, bytes)
                    begin, position = position, position + len(part)
                    while claim.position < position:
                        await self._came(inflow, claim, part[claim.position - begin : claim.stop - begin])
                        if claim.position < claim.stop:
                            break
                        await inflow.written()
                        if onward is None or not onward():
                            return
                        inflow.begin = claim.position
                    if inflow.displaced:
                        return
        except asyncio.CancelledError:
            inflow.cancel()
            raise
        finally:  # also after a break: what has come is ours
            await inflow.written()

    async def _came(self, inflow: Inflow, claim: Claim, fresh: bytes) -> None:
        """The next bytes of a claim."""
        inflow.add(fresh)
        claim.position += len(fresh)
        self.received += len(fresh)
        began = time.monotonic()
        if await inflow.pass_on(self._take, self._batch()):
            self.held += time.monotonic() - began

    async def _take(self, inflow: Inflow, start: int, batch: list[bytes]) -> None:
        """Make a batch visible to readers: in the spool, or from now on in memory (rule 8)."""
        if not self._volatile and await self._has_room(batch):
            error = await self._store(start, batch)
            if error is None:
                await self.catch_up()
                return
            self._go_volatile(error)
        if not inflow.helps:
            await self.catch_up()
        if inflow.helps or not self._front.begin(start):
            inflow.displaced = True  # others come first, and this could wait nowhere
            return
        await self._in_thread(self._front.feed, batch, then=self._front.end)
        if self._window is None:
            self._window = Window(start)
        for chunk in batch:
            await self._show_from_memory(self._window, chunk)

    async def _has_room(self, batch: list[bytes]) -> bool:
        size = sum(map(len, batch))
        self._writing += size
        try:
            if await self._share.reach(self.there.total + self._writing):
                return not self._volatile
        finally:
            self._writing -= size
        self._keep_no_more()
        return False

    async def _store(self, start: int, batch: list[bytes]) -> OSError | None:
        """Write a batch, and hash it if it comes next; or why it could not be written."""
        file, size = self._file, sum(map(len, batch))
        assert file is not None
        continues = self._front.begin(start)
        self._writing += size

        def work() -> OSError | None:
            """In a thread. A failure to write is a value: the bytes count as received all the same."""
            hasher = self._front.after(batch) if continues else None
            try:
                file.write(start, batch)
            except OSError as error:
                return error
            if hasher is not None:
                self._front.advance(hasher, size)
            return None

        def noted(done: asyncio.Future[OSError | None]) -> None:
            """Also where nobody waits for it any more."""
            self._writing -= size
            if continues:
                self._front.end()
            if done.exception() is None and done.result() is None and (continues or not self._volatile):
                self.there.add(start, start + size)
                self._changed()

        return await self._in_thread(work, then=noted)

    async def catch_up(self) -> None:
        """Hash what stands in the file behind what was hashed: it came before what is in front of it."""
        while (stop := self.there.end(self.hashed)) > self.hashed and self._front.begin(self.hashed):
            assert self._file is not None
            error = await self._in_thread(self._front.read, self._file, stop, then=self._front.end)
            if error is not None:
                self.there.cut(self.hashed)
                self._go_volatile(error)

    def _go_volatile(self, reason: OSError) -> None:
        """From here on nothing is kept, since the disk does not do what it should."""
        count = self._spool.troubles.count(time.monotonic())
        if count:
            text = reason.strerror or str(reason)
            log.warning("fill.not_keeping", digest=str(self._digest), reason=text, count=count)
        self._keep_no_more()

    def _keep_no_more(self) -> None:
        """What stands in front can still be read until the fill's end; what came ahead has to come again."""
        self._share.give_back()
        self._volatile = True
        self.there.cut(self.there.end(0))

    async def _show_from_memory(self, window: Window, chunk: bytes) -> None:
        """Let readers have the chunk from memory, when the slowest has made room for it."""
        while not window.has_room(len(chunk)):
            positions = [reader.position for reader in self._readers() if not reader.lost]
            if positions:
                window.drop_before(min(positions))
                if window.has_room(len(chunk)):
                    break
            self._drained.clear()
            try:
                async with asyncio.timeout(SLOWEST):
                    await self._drained.wait()
            except TimeoutError:
                if not positions:
                    raise Unread from None
                window.drop_oldest()
                for reader in self._readers():  # nobody waits for these again
                    reader.lost = reader.lost or reader.position < window.base
        window.append(chunk)
        self._changed()

    async def _in_thread(
        self,
        work: Callable[[*Ts], T],
        *args: *Ts,
        then: Callable[[asyncio.Future[T]], None] | None = None,
    ) -> T:
        """Run blocking work in a thread, and wait for its end also when cancelled; `then` is told of it.

        NB: a thread that still wrote to the file after `close` could write into whatever file
        got the same descriptor next.
        """
        future = asyncio.get_running_loop().run_in_executor(self._executor, partial(work, *args))
        if then is not None:
            future.add_done_callback(then)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):  # who ends it twice waits as well
                    await asyncio.wait([future])
            raise


class Unread(RegistryError):
    """A volatile fill that nobody reads: there is no use in going on."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, "nothing could be kept, and nobody was reading")
