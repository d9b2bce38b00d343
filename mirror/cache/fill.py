"""One blob on its way from the upstream into the store, read by any number of clients while it grows.

The rules:

 1. At most one fill per digest; it belongs to the application, not to a request. A reader leaving changes
    nothing. (`fills.Fills` sees to that; the bytes are `intake.Intake`'s.)
 2. The fill writes a spool file at the upstream's pace; each reader reads it at its own, waiting for "bytes
    up to N are there" or for the outcome.
 3. One outcome, shared by every reader, also by one that comes late: done, or failed with a reason.
 4. Readers may begin as soon as the size is known. A range is served when its bytes are there. Nothing is
    held in memory beyond the batch that is being written.
 5. An upstream that breaks off is resumed by Range at what is already there; where it ignores the Range, or
    answers it wrongly, all is asked for and what we have is skipped. Attempts are bounded and backed off;
    a stall counts as breaking off (the upstream client says so), a slow transfer does not. An upstream that
    is given up leaves the rest to another that has confirmed to have the blob, if readers came through one.
 6. The digest is computed as bytes arrive. Only a match is kept: a store that takes bytes as they come (an
    upload in parts) makes nothing of them before. The last bytes are held back from the
    readers until then, so nobody ever holds a full-length wrong body; on a mismatch readers get the failure.
 7. The spool survives a crash: a later fill goes on from it after hashing again what is there.
 8. A full disk or a failing store does not fail the readers: the rest goes through a bounded window in
    memory, at the pace of the slowest reader, and nothing is kept.
 9. Room is made ahead of what is written, in steps. Where the announced size cannot fit, nothing is written
    in the first place; where a later step finds no room, the rest goes by rule 8.
10. Hashing and writing run in threads, a batch at a time: whatever came while the last batch was written.

States: opening (size unknown) -> flowing -> verified -> done; or failed from any of these but done. Rule 8
makes a flowing fill volatile; it ends as verified and done all the same, with `kept` false.
"""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import Executor

import structlog

from mirror.cache.fillblob import FillBlob
from mirror.cache.intake import Intake
from mirror.cache.resume import PROGRESS, backoff
from mirror.cache.room import Room
from mirror.cache.spool import Spool
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import Corrupt, Part, RegistryError, Unavailable, Upstream
from mirror.store.content import ContentStore, Incoming
from mirror.store.errors import StoreError

HOLD_BACK = 64 << 10  # bytes at a blob's end that nobody gets before the digest matched

log = structlog.get_logger()


class Fill:
    """See the module's text. `run` is the fill; everything else is for its readers."""

    def __init__(
        self,
        digest: Digest,
        repository: Repository,
        *,
        upstream: Upstream,
        store: ContentStore,
        spool: Spool,
        executor: Executor,
        room: Room,
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
        self._intake = Intake(
            digest, spool, executor, room=room, readers=lambda: self._readers, changed=self._notify
        )
        self._readers: set[FillBlob] = set()
        self._changed = asyncio.Event()  # replaced at each change: what readers wait for
        self._ended = False
        self._incoming: Incoming | None = None  # what the store has taken of it already

    # What readers see.

    @property
    def wanted(self) -> bool:
        """Whether anybody reads or waits."""
        return bool(self._readers)

    @property
    def keeps(self) -> bool:
        """Whether what comes is being kept, as far as can be told."""
        return self._intake.keeps

    def serves(self, start: int) -> bool:
        """Whether a reader that begins at `start` can have all it wants.

        No longer so when the fill has failed, or is volatile and has let go of bytes.
        """
        return self.failure is None and self._intake.holds(start)

    def reader(self) -> FillBlob:
        """A reader of its own; it must be closed."""
        blob = FillBlob(self)
        self._readers.add(blob)
        return blob

    def leave(self, reader: FillBlob) -> None:
        """The reader wants nothing any more."""
        self._readers.discard(reader)
        self._intake.moved_on()
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
        return self._intake.part(position, visible)

    def moved_on(self) -> None:
        """A reader has taken its part."""
        self._intake.moved_on()

    def _visible(self) -> int:
        """Readers may have the bytes before this position."""
        if self.verified or self.size is None:
            return self._intake.written
        return min(self._intake.written, max(0, self.size - HOLD_BACK))

    def _notify(self) -> None:
        if self._incoming is not None:
            self._incoming.reached(self._intake.front)
        self._changed.set()
        self._changed = asyncio.Event()

    # The fill.

    async def run(self) -> None:
        """Fetch, verify, keep. Raises nothing but CancelledError: the outcome is in `failure` and `done`."""
        try:
            await self._intake.open()
            await self._transfer()
            await self._verify()
            await self._keep()
            self.done = True
        except RegistryError as error:
            self.failure = error
            level = log.info if error.status == 404 else log.warning
            level("fill.failed", digest=str(self.digest), repository=str(self.repository), reason=str(error))
            if not self._intake.spooled:  # an empty file would be all that is left of each unknown digest
                await self._intake.forget()
        except asyncio.CancelledError:
            self.failure = Unavailable("the mirror is stopping")
            raise
        except Exception as error:  # a defect of ours must reach the waiting readers too
            self.failure = Unavailable("internal error of the mirror while fetching this blob", status=500)
            log.exception("fill.crashed", digest=str(self.digest), error=type(error).__name__)
        finally:
            self._ended = True
            self._intake.give_back()
            self._notify()
            if self._incoming is not None:
                self._incoming.end()
            self._release()

    def fail(self, reason: RegistryError) -> None:
        """The outcome of a fill that never ran."""
        self.failure = reason
        self._ended = True
        self._notify()

    async def _transfer(self) -> None:
        """Take the rest from the upstream, through as many breaks as rule 5 allows."""
        if self._intake.received and self._intake.matches():
            # Complete but for the commit. The upstream still has to say that this repository has it.
            found = await self._upstream.stat_blob(self.repository, self.digest)
            await self._announce(found.size)
        breaks = 0
        through = self.repository
        given_up: set[str] = set()  # upstreams
        whole = False  # the next attempt asks for all of it, since the upstream answers a Range wrongly
        while self.size is None or self._intake.received < self.size:
            before = self._intake.received
            try:
                await self._attempt(through, 0 if whole else before)
            except RegistryError as error:
                misfit = isinstance(error, Corrupt) or error.code is ErrorCode.RANGE_INVALID
                if misfit and before and self.size is None:
                    await self._intake.start_over(error)
                    continue
                breaks = 1 if self._intake.received - before >= PROGRESS else breaks + 1
                whole = misfit and before > 0 and not whole
                # Before the size is known, the upstream client has made its own attempts.
                wait = None if self.size is None else backoff(error, breaks, random.random(), whole=whole)  # noqa: S311 - jitter
                if wait is None:
                    given_up.add(self._namespace(through))
                    other = self._other(given_up)
                    if other is None:
                        raise
                    through, breaks, whole, wait = other, 0, False, 0.0
                log.info(
                    "fill.resuming",
                    digest=str(self.digest),
                    repository=str(through),
                    have=self._intake.received,
                    size=self.size,
                    attempt=breaks,
                    wait=round(wait, 2),
                    reason=str(error),
                )
                await asyncio.sleep(wait)

    def _namespace(self, repository: Repository) -> str:
        return self._upstream.condition(repository).namespace

    def _other(self, given_up: set[str]) -> Repository | None:
        """A repository of another upstream, which has confirmed that it has the blob.

        None before the first upstream has given the size: then it is not sure that that one has it at all,
        and those who came through others ask anew.
        """
        if self.size is None:
            return None
        others = sorted(self.repositories, key=str)
        return next((other for other in others if self._namespace(other) not in given_up), None)

    async def _attempt(self, through: Repository, start: int) -> None:
        """One GET, from `start` to the end or to the upstream's breaking off."""
        blob = await self._upstream.blob(through, self.digest, start=start, size=self.size)
        try:
            if blob.start > self._intake.received:
                raise Corrupt("the upstream registry answered with another range than was asked for")
            await self._announce(blob.descriptor.size)
            await self._intake.pump(blob, blob.descriptor.size)
        finally:
            await blob.close()

    async def _announce(self, size: int) -> None:
        """Learn the size, once; rule 9."""
        if self.size is not None:
            if self.size != size:
                raise Corrupt(f"the blob's size changed from {self.size} to {size} bytes")
            return
        if self._intake.received > size:
            raise Corrupt(f"the blob has {size} bytes, fewer than an earlier transfer brought")
        await self._intake.make_room(size)
        self.size = size
        if self._intake.path is not None:
            self._incoming = self._store.incoming_blob(self.digest, self._intake.path, size)
        self._notify()

    async def _verify(self) -> None:
        """Rule 6."""
        if not self._intake.matches():
            await self._intake.forget()
            raise Corrupt("the upstream registry sent bytes that do not match the digest")
        self.verified = True
        self._notify()

    async def _keep(self) -> None:
        """Hand the spool file to the store. A failing store fails nobody (rule 8)."""
        file = self._intake.complete_file
        if file is None:
            await self._intake.forget()
            return
        try:
            await self._store.adopt_blob(self.repository, self.digest, file, self._incoming)
            linked = {self.repository}
            while others := self.repositories - linked:  # somebody may join meanwhile
                other = others.pop()
                await self._store.link_blob(other, self.digest)
                linked.add(other)
            self.kept = True
        except StoreError as error:
            log.warning("fill.not_kept", digest=str(self.digest), reason=str(error))
            await self._intake.forget()

    def _release(self) -> None:
        """Close the spool file once nobody can want it; its bytes stay for a later fill, unless forgotten."""
        if self._ended and not self._readers:
            self._intake.close()
