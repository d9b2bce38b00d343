"""One blob on its way from the upstream into the store, read by any number of clients while it grows.

The rules:

 1. At most one fill per digest; it belongs to the application, not to a request. A reader leaving changes
    nothing. (Who keeps that is `fills.Fills`; this module is one fill.)
 2. The fill writes a spool file at the upstream's pace; each reader reads it at its own, waiting for "bytes
    up to N are there" or for the outcome.
 3. One outcome, shared by every reader, also by one that comes late: done, or failed with a reason.
 4. Readers may begin as soon as the size is known. A range is served when its bytes are there. Nothing is
    held in memory beyond the batch that is being written.
 5. An upstream that breaks off is resumed by Range at what is already there; where it ignores the Range,
    the bytes that we have are skipped. Attempts are bounded and backed off; a stall counts as breaking off
    (the upstream client says so), a slow transfer does not.
 6. The digest is computed as bytes arrive. Only a match is kept. The last bytes are held back from the
    readers until then, so nobody ever holds a full-length wrong body; on a mismatch readers get the failure.
 7. The spool survives a crash: a later fill goes on from it after hashing again what is there.
 8. A full disk or a failing store does not fail the readers: the rest goes through a bounded window in
    memory, at the pace of the slowest reader, and nothing is kept.
 9. Where the announced size does not fit on the disk, nothing is written in the first place.
10. Hashing and writing run in threads, a batch at a time: whatever came while the last batch was written.

States: opening (size unknown) -> flowing -> verified -> done; or failed from any of these but done. Rule 8
makes a flowing fill volatile; it ends as verified and done all the same, with `kept` false.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import ParamSpec, TypeVar

import structlog

from mirror.cache.fillblob import FillBlob
from mirror.cache.resume import PROGRESS, backoff
from mirror.cache.spool import Spool, SpoolFile
from mirror.cache.window import Window
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import Blob, Corrupt, FileSpan, Part, Registry, RegistryError, Unavailable
from mirror.store.content import ContentStore
from mirror.store.errors import StoreError

BATCH = 1 << 20  # bytes gathered while a batch is written; then the network waits for the disk
HOLD_BACK = 64 << 10  # bytes at a blob's end that nobody gets before the digest matched
READ_PIECE = 4 << 20  # bytes a reader is given at once at most, so that it looks at the outcome now and then
SLOWEST = 30.0  # seconds that a volatile fill waits for its slowest reader before it goes on without him

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


class Fill:
    """See the module's text. `run` is the fill; everything else is for its readers."""

    def __init__(
        self,
        digest: Digest,
        repository: Repository,
        *,
        upstream: Registry,
        store: ContentStore,
        spool: Spool,
        executor: Executor,
    ) -> None:
        self.digest = digest
        self.repository = repository  # the one through which the upstream is asked
        self.repositories = {repository}  # those that get a link
        self.size: int | None = None  # bytes, once the upstream has said it
        self.failure: RegistryError | None = None
        self.verified = False
        self.kept = False
        self.done = False
        self._upstream = upstream
        self._store = store
        self._spool = spool
        self._executor = executor
        self._hasher = digest.hasher()
        self._file: SpoolFile | None = None
        self._window: Window | None = None
        self._received = 0  # bytes taken from the upstream and hashed, or about to be
        self._batch: list[bytes] = []  # received, and waiting for the writer
        self._gathered = 0  # bytes in it
        self._written = 0  # bytes that readers can have, hold-back aside
        self._spooled = 0  # of these, bytes that stand in the spool file
        self._readers: set[FillBlob] = set()
        self._changed = asyncio.Event()  # replaced at each change: what readers wait for
        self._ended = False
        self._drained = asyncio.Event()  # a reader moved on: what a volatile fill waits for

    # What readers see.

    @property
    def wanted(self) -> bool:
        """Whether anybody reads or waits."""
        return bool(self._readers)

    def serves(self, start: int) -> bool:
        """Whether a reader that begins at `start` can have all it wants.

        No longer so when the fill has failed, or is volatile and has let go of bytes.
        """
        window = self._window
        return self.failure is None and (window is None or window.base <= max(start, self._spooled))

    def reader(self) -> FillBlob:
        """A reader of its own; it must be closed."""
        blob = FillBlob(self)
        self._readers.add(blob)
        return blob

    def leave(self, reader: FillBlob) -> None:
        """The reader wants nothing any more."""
        self._readers.discard(reader)
        self._drained.set()
        self._release()

    async def changed(self) -> None:
        """Wait for more bytes, the size, or the outcome."""
        await self._changed.wait()

    def part(self, position: int, stop: int) -> Part | None:
        """What a reader at `position` can have now; None: wait. Raises the failure after what it left."""
        if isinstance(self.failure, Corrupt):
            raise self.failure
        visible = min(stop, self._visible())
        if position >= visible:
            if self.failure is not None:
                raise self.failure
            return None
        if position < self._spooled:
            assert self._file is not None
            end = min(visible, self._spooled, position + READ_PIECE)
            return FileSpan(self._file.file, position, end - position)
        assert self._window is not None
        if position < self._window.base:
            raise Unavailable("this client read too slowly while the mirror had no room to keep the blob")
        return self._window.read(position, visible)

    def moved_on(self) -> None:
        """A reader has taken its part."""
        self._drained.set()

    def _visible(self) -> int:
        """Readers may have the bytes before this position."""
        if self.verified or self.size is None:
            return self._written
        return min(self._written, max(0, self.size - HOLD_BACK))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # The fill.

    async def run(self) -> None:
        """Fetch, verify, keep. Raises nothing but CancelledError: the outcome is in `failure` and `done`."""
        try:
            await self._prepare()
            await self._transfer()
            await self._verify()
            await self._keep()
            self.done = True
        except RegistryError as error:
            self.failure = error
            level = log.info if error.status == 404 else log.warning
            level("fill.failed", digest=str(self.digest), repository=str(self.repository), reason=str(error))
            if not self._spooled:  # an empty file would be all that is left of each unknown digest
                await self._forget_spool()
        except asyncio.CancelledError:
            self.failure = Unavailable("the mirror is stopping")
            raise
        except Exception as error:
            self.failure = Unavailable("internal error of the mirror while fetching this blob", status=500)
            log.exception("fill.crashed", digest=str(self.digest), error=type(error).__name__)
        finally:
            self._ended = True
            self._notify()
            self._release()

    def fail(self, reason: RegistryError) -> None:
        """The outcome of a fill that never ran."""
        self.failure = reason
        self._ended = True
        self._notify()

    async def _prepare(self) -> None:
        """Open the spool and hash what an earlier fill left there (rule 7)."""
        try:
            self._file = await self._in_thread(self._spool.open, self.digest)
            while self._received < self._file.size:
                self._received = await self._in_thread(self._file.rehash, self._hasher, self._received)
        except OSError as error:  # no room, no rights, or a disk that cannot read what it has
            self._hasher, self._received = self.digest.hasher(), 0
            await self._forget_spool()
            self._go_volatile(error)
            return
        if self._received:
            self._written = self._spooled = self._received
            log.info("fill.found_spool", digest=str(self.digest), bytes=self._received)

    async def _transfer(self) -> None:
        """Take the rest from the upstream, through as many breaks as rule 5 allows."""
        if self._received and self._hasher.copy().hexdigest() == self.digest.hex:
            # Complete but for the commit. The upstream still has to say that this repository has it.
            found = await self._upstream.stat_blob(self.repository, self.digest)
            await self._announce(found.size)
        breaks = 0
        whole = False  # the next attempt asks for all of it, since the upstream answers a Range wrongly
        while self.size is None or self._received < self.size:
            before = self._received
            try:
                await self._attempt(0 if whole else before)
            except RegistryError as error:
                misfit = isinstance(error, Corrupt) or error.code is ErrorCode.RANGE_INVALID
                if misfit and before and self.size is None:
                    await self._start_over(error)
                    continue
                breaks = 1 if self._received - before >= PROGRESS else breaks + 1
                whole = misfit and before > 0 and not whole
                # Before the size is known, the upstream client has made its own attempts.
                wait = None if self.size is None else backoff(error, breaks, random.random(), whole=whole)  # noqa: S311 - jitter
                if wait is None:
                    raise
                log.info(
                    "fill.resuming",
                    digest=str(self.digest),
                    have=self._received,
                    size=self.size,
                    attempt=breaks,
                    wait=round(wait, 2),
                    reason=str(error),
                )
                await asyncio.sleep(wait)

    async def _attempt(self, start: int) -> None:
        """One GET, from `start` to the end or to the upstream's breaking off."""
        blob = await self._upstream.blob(self.repository, self.digest, start=start, size=self.size)
        try:
            if blob.start > self._received:
                raise Corrupt("the upstream registry answered with another range than was asked for")
            await self._announce(blob.descriptor.size)
            await self._pump(blob)
        finally:
            await blob.close()

    async def _start_over(self, reason: RegistryError) -> None:
        """Drop a spool that the upstream's answer does not fit; nobody has read from it yet."""
        log.warning("fill.spool_dropped", digest=str(self.digest), bytes=self._received, reason=str(reason))
        self._hasher = self.digest.hasher()
        self._received = self._written = self._spooled = 0
        if self._file is not None:
            await self._in_thread(self._file.truncate)

    async def _announce(self, size: int) -> None:
        """Learn the size, once; rule 9."""
        if self.size is not None:
            if self.size != size:
                raise Corrupt(f"the blob's size changed from {self.size} to {size} bytes")
            return
        if self._received > size:
            raise Corrupt(f"the blob has {size} bytes, fewer than an earlier transfer brought")
        if self._window is None:
            wanted = size - self._received
            try:
                free = await self._in_thread(self._spool.free)
                if free < wanted:
                    raise OSError(f"{wanted} bytes are wanted, {free} are free")
            except OSError as error:
                self._go_volatile(error)
        self.size = size
        self._notify()

    async def _pump(self, blob: Blob) -> None:
        """Take bytes as they come, while what came before is being written (rule 10)."""
        assert self.size is not None
        writer: asyncio.Task[None] | None = None
        skip = self._received - blob.start
        try:
            async with contextlib.aclosing(blob.read(blob.start, self.size)) as parts:
                async for part in parts:
                    assert isinstance(part, bytes)
                    fresh = part[skip:]
                    skip = max(0, skip - len(part))
                    if not fresh:
                        continue
                    self._batch.append(fresh)
                    self._gathered += len(fresh)
                    self._received += len(fresh)
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
        error = await self._in_thread(self._hash_and_write, batch)
        if error is not None:
            self._go_volatile(error)
        if self._window is None:
            self._written += sum(map(len, batch))
            self._spooled = self._written
            self._notify()
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
                self._file.write(self._spooled, batch)
            except OSError as error:
                return error
        return None

    def _go_volatile(self, reason: OSError) -> None:
        """From here on nothing is kept; what stands in the spool can still be read until the fill's end."""
        log.warning("fill.not_keeping", digest=str(self.digest), reason=reason.strerror or str(reason))
        self._window = Window(self._written)

    async def _show_from_memory(self, window: Window, chunk: bytes) -> None:
        """Let readers have the chunk from memory, when the slowest has made room for it."""
        while not window.has_room(len(chunk)):
            positions = [reader.position for reader in self._readers if not reader.lost]
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
                for reader in self._readers:  # nobody waits for these again
                    reader.lost = reader.lost or reader.position < window.base
        window.append(chunk)
        self._written += len(chunk)
        self._notify()

    async def _verify(self) -> None:
        """Rule 6."""
        if self._hasher.hexdigest() != self.digest.hex:
            await self._forget_spool()
            raise Corrupt("the upstream registry sent bytes that do not match the digest")
        self.verified = True
        self._notify()

    async def _keep(self) -> None:
        """Hand the spool file to the store. A failing store fails nobody (rule 8)."""
        if self._window is not None or self._file is None:
            await self._forget_spool()
            return
        try:
            await self._store.adopt_blob(self.repository, self.digest, self._file.path)
            linked = {self.repository}
            while others := self.repositories - linked:  # somebody may join meanwhile
                other = others.pop()
                await self._store.link_blob(other, self.digest)
                linked.add(other)
            self.kept = True
        except StoreError as error:
            log.warning("fill.not_kept", digest=str(self.digest), reason=str(error))
            await self._forget_spool()

    async def _forget_spool(self) -> None:
        if self._file is not None:
            try:
                await self._in_thread(self._file.unlink)
            except OSError as error:  # a disk that has become read-only: the sweep takes it later
                log.warning("spool.not_removed", file=self._file.path.name, reason=error.strerror)

    def _release(self) -> None:
        """Close the spool file once nobody can want it; its bytes stay for a later fill, unless forgotten."""
        if self._ended and not self._readers and self._file is not None:
            self._file.close()
            self._file = None

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work in a thread, and wait for its end also when cancelled.

        NB: a thread that still wrote to the file after `_release` closed it could write into whatever file
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
