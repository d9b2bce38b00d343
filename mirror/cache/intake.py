"""The bytes of one fill that have come: hashed, kept in the spool or in memory, and shown to readers.

What `fill` says about rules 2, 7, 8, 9 and 10 is done here. Who reads, and what the fill's outcome is, is not
known here: the readers' positions are asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from mirror.cache.fillblob import FillBlob
from mirror.cache.room import Room, Share
from mirror.cache.spool import Spool, SpoolFile
from mirror.cache.window import Window
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.registry import Blob, FileSpan, Part, RegistryError, Unavailable

BATCH = 1 << 20  # bytes gathered while a batch is written; then the network waits for the disk
READ_PIECE = 4 << 20  # bytes a reader is given at once at most, so that it looks at the outcome now and then
SLOWEST = 30.0  # seconds that a volatile fill waits for its slowest reader before it goes on without him

P = ParamSpec("P")
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
    ) -> None:
        self.received = 0  # bytes taken from the upstream and hashed, or about to be
        self.written = 0  # bytes that readers can have
        self.spooled = 0  # of these, bytes that stand in the spool file
        self._digest = digest
        self._share = Share(room, digest)
        self._spool = spool
        self._executor = executor
        self._readers = readers
        self._changed = changed
        self._hasher = digest.hasher()
        self._file: SpoolFile | None = None
        self._window: Window | None = None
        self._batch: list[bytes] = []  # received, and waiting for the writer
        self._gathered = 0  # bytes in it
        self._drained = asyncio.Event()  # a reader moved on: what a volatile fill waits for

    # What readers see.

    @property
    def keeps(self) -> bool:
        """Whether what comes is written to the disk."""
        return self._window is None

    def holds(self, start: int) -> bool:
        """Whether all from `start` on can still be had: not once a volatile fill has let go of some of it."""
        window = self._window
        return window is None or window.base <= max(start, self.spooled)

    def part(self, position: int, visible: int) -> Part:
        """Some bytes from `position` on, before `visible`, of those that are written."""
        if position < self.spooled:
            assert self._file is not None
            end = min(visible, self.spooled, position + READ_PIECE)
            return FileSpan(self._file.file, position, end - position)
        assert self._window is not None
        if position < self._window.base:
            raise Unavailable("this client read too slowly while the mirror had no room to keep the blob")
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
        return self.spooled

    @property
    def complete_file(self) -> Path | None:
        """Where all of it stands, if it could be kept."""
        return self._file.path if self._file is not None and self._window is None else None

    def matches(self) -> bool:
        """Whether what has come has the digest."""
        return self._hasher.copy().hexdigest() == self._digest.hex

    async def open(self) -> None:
        """Open the spool and hash what an earlier fill left there (rule 7)."""
        try:
            self._file = await self._in_thread(self._spool.open, self._digest)
            while self.received < self._file.size:
                self.received = await self._in_thread(self._file.rehash, self._hasher, self.received)
        except OSError as error:  # no room, no rights, or a disk that cannot read what it has
            self._hasher, self.received = self._digest.hasher(), 0
            await self.forget()
            self._go_volatile(error)
            return
        if self.received:
            self.written = self.spooled = self.received
            log.info("fill.found_spool", digest=str(self._digest), bytes=self.received)

    async def start_over(self, reason: RegistryError) -> None:
        """Drop what was found and does not fit the upstream's answer; nobody may have read from it yet."""
        log.warning("fill.spool_dropped", digest=str(self._digest), bytes=self.received, reason=str(reason))
        self._hasher = self._digest.hasher()
        self.received = self.written = self.spooled = 0
        if self._file is not None:
            await self._in_thread(self._file.truncate)

    async def make_room(self, size: int) -> None:
        """See that a blob of `size` bytes fits; where it does not, nothing more is written (rule 9)."""
        if self._window is not None:
            return
        if not self._share.is_begun and not await self._share.begin(size, self.received):
            self._window = Window(self.written)  # who has refused has told why
            return
        wanted = size - self.received
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

    async def pump(self, blob: Blob, size: int) -> None:
        """Take bytes as they come, while what came before is being written (rule 10)."""
        writer: asyncio.Task[None] | None = None
        skip = self.received - blob.start
        try:
            async with contextlib.aclosing(blob.read(blob.start, size)) as parts:
                async for part in parts:
                    assert isinstance(part, bytes)
                    fresh = part[skip:]
                    skip = max(0, skip - len(part))
                    if not fresh:
                        continue
                    self._batch.append(fresh)
                    self._gathered += len(fresh)
                    self.received += len(fresh)
                    if writer is not None and (writer.done() or self._gathered >= BATCH):
                        await writer
                        writer = None
                    if writer is None:
                        writer = asyncio.create_task(self._write())
        except asyncio.CancelledError:
            if writer is not None:
                writer.cancel()
            raise
        finally:  # also after a break: what has come is ours
            if writer is not None:
                await writer

    async def _write(self) -> None:
        """Take what has gathered, until nothing has."""
        while self._batch:
            batch = self._batch
            self._batch, self._gathered = [], 0
            await self._take(batch)

    async def _take(self, batch: list[bytes]) -> None:
        """Hash a batch and make it visible to readers: in the spool, or from now on in memory (rule 8)."""
        if self._window is None and not await self._share.reach(self.spooled + sum(map(len, batch))):
            self._share.give_back()
            self._window = Window(self.written)
        error = await self._in_thread(self._hash_and_write, batch)
        if error is not None:
            self._go_volatile(error)
        if self._window is None:
            self.written += sum(map(len, batch))
            self.spooled = self.written
            self._changed()
            return
        for chunk in batch:
            await self._show_from_memory(self._window, chunk)

    def _hash_and_write(self, batch: list[bytes]) -> OSError | None:
        """In a thread. A failure to write is a value: the bytes count as received all the same."""
        for chunk in batch:
            self._hasher.update(chunk)
        if self._window is None:
            assert self._file is not None
            try:
                self._file.write(self.spooled, batch)
            except OSError as error:
                return error
        return None

    def _go_volatile(self, reason: OSError) -> None:
        """From here on nothing is kept; what stands in the spool can still be read until the fill's end."""
        count = self._spool.troubles.count(time.monotonic())
        if count:
            text = reason.strerror or str(reason)
            log.warning("fill.not_keeping", digest=str(self._digest), reason=text, count=count)
        self._window = Window(self.written)

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
        self.written += len(chunk)
        self._changed()

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work in a thread, and wait for its end also when cancelled.

        NB: a thread that still wrote to the file after `close` could write into whatever file
        got the same descriptor next.
        """
        future = asyncio.get_running_loop().run_in_executor(self._executor, partial(work, *args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise


class Unread(RegistryError):
    """A volatile fill that nobody reads: there is no use in going on."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, "nothing could be kept, and nobody was reading")
