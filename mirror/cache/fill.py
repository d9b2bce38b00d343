"""One blob on its way from the upstream into the store, read by any number of clients while it grows.

The rules:

 1. At most one fill per digest; it belongs to the application, not to a request. A reader leaving changes
    nothing. (`fills.Fills` sees to that; the bytes are `intake.Intake`'s.)
 2. The fill writes a spool file at the upstream's pace; each reader reads it at its own, waiting for "bytes
    from here up to N are there" or for the outcome.
 3. One outcome, shared by every reader, also by one that comes late: done, or failed with a reason.
 4. Readers may begin as soon as the size is known. A range is served when its bytes are there. Nothing is
    held in memory beyond the batches that are being written.
 5. An upstream that breaks off is resumed by Range at what is already there; where it ignores the Range, or
    answers it wrongly, all is asked for and what we have is skipped. Attempts are bounded and backed off;
    a stall counts as breaking off (the upstream client says so), a slow transfer does not. An upstream that
    is given up leaves the rest to another that has confirmed to have the blob, if readers came through one.
 6. The digest is computed as bytes arrive. Only a match is kept: a store that takes bytes as they come (an
    upload in parts) makes nothing of them before. The last bytes are held back from the
    readers until then, so nobody ever holds a full-length wrong body; on a mismatch readers get the failure.
 7. The spool survives a crash: a later fill goes on from it after hashing again what is there. Where it has
    holes, a map beside it says what is there (`spoolmap`); a hole is never taken for bytes.
 8. A full disk or a failing store does not fail the readers: the rest goes through a bounded window in
    memory, at the pace of the slowest reader, and nothing is kept. Then bytes are of use in order only: one
    connection brings them, and what had come ahead comes again.
 9. Room is made ahead of what is written, in steps. Where the announced size cannot fit, nothing is written
    in the first place; where a later step finds no room, the rest goes by rule 8.
10. Writing and hashing run in threads, a batch at a time: whatever came while the last batch was written. The
    thread takes the next one by itself (`writing`), where it may straight from the connection (`drawing`).
    Readers may have what is written before it is hashed.
11. A large blob comes over several connections where that is of use (`helpers`): each brings a part of its
    own, by Range, the one that readers come to soonest first (`segments`). No part is asked for twice, but
    for what was under way when the first connection, which asked for all, ends where another has begun.
12. The first connection is the fill's own, and asks as if it were alone: a small blob costs nothing more. Of
    the others nothing is expected: whatever goes wrong with one, its part is anybody's again. An upstream
    that gives no ranges after all, or wrong ones, is left with the first, which ends only where another one
    has begun, and waits for that (`transfer.BEGIN`).
13. How many there are is shared among the fills of one upstream, and bounded for it (`spare`); there are none
    while it is in trouble, or near its rate limit.
14. Bytes are hashed in order: those that continue what was hashed as they are written, those ahead of it from
    the file when what is before them is there (`intake`).

States: opening (size unknown) -> flowing -> verified -> done; or failed from any of these but done. Rule 8
makes a flowing fill volatile; it ends as verified and done all the same, with `kept` false.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from mirror.cache.fillblob import FillBlob
from mirror.cache.hands import Hands
from mirror.cache.intake import Intake
from mirror.cache.kept import Kept
from mirror.cache.room import Room
from mirror.cache.segments import Settings, Want
from mirror.cache.spare import Spare
from mirror.cache.spool import Spool
from mirror.cache.transfer import Transfer
from mirror.oci.digest import Digest
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
        hands: Hands,
        room: Room,
        settings: Settings,
        spare: Spare,
        batch: Callable[[], int],
    ) -> None:
        self.digest = digest
        self.repository = repository  # the one through which the upstream is asked
        self.repositories = {repository}  # those that get a link
        self.failure: RegistryError | None = None
        self.verified = False
        self.kept = False
        self.done = False
        self.begun = False  # its turn has come
        self._store = store
        self._kept = Kept(digest, spool, hands, room)
        self._intake = Intake(
            self._kept, hands, readers=lambda: self._readers, changed=self._notify, batch=batch
        )
        self._shown = self._intake.shown
        self._transfer = Transfer(
            digest,
            repository,
            self.repositories,
            upstream=upstream,
            intake=self._intake,
            settings=settings,
            spare=spare,
            wants=self._wants,
            told=self._announced,
        )
        self._readers: set[FillBlob] = set()
        self._changed = asyncio.Event()  # replaced at each change: what readers wait for
        self._ended = False
        self._incoming: Incoming | None = None  # what the store has taken of it already

    # What readers see.

    @property
    def size(self) -> int | None:
        """Bytes, once the upstream has said it."""
        return self._transfer.size

    @property
    def resumed(self) -> int:
        """Times that the transfer broke off and went on."""
        return self._transfer.resumed

    @property
    def wanted(self) -> bool:
        """Whether anybody reads or waits."""
        return bool(self._readers)

    @property
    def keeps(self) -> bool:
        """Whether what comes is being kept, as far as can be told."""
        return self._kept.keeps

    def serves(self, start: int) -> bool:
        """Whether a reader that begins at `start` can have all it wants.

        No longer so when the fill has failed, or is volatile and has let go of bytes.
        """
        return self.failure is None and self._shown.holds(start)

    def reader(self) -> FillBlob:
        """A reader of its own; it must be closed."""
        blob = FillBlob(self)
        self._readers.add(blob)
        return blob

    def leave(self, reader: FillBlob) -> None:
        """The reader wants nothing any more."""
        self._readers.discard(reader)
        self._shown.moved_on()
        self._release()

    async def changed(self) -> None:
        """Wait for more bytes, the size, or the outcome."""
        await self._changed.wait()

    def part(self, position: int, stop: int) -> Part | None:
        """What a reader at `position` can have now; None: wait. Raises the failure after what it left."""
        if isinstance(self.failure, Corrupt):
            raise self.failure
        visible = min(stop, self._visible(), self._shown.reach(position))
        if position >= visible:
            if self.failure is not None:
                raise self.failure
            return None
        return self._shown.part(position, visible)

    def moved_on(self) -> None:
        """A reader has taken its part."""
        self._shown.moved_on()

    def _visible(self) -> int:
        """Readers may have bytes before this position, those that are there."""
        if self.size is None:
            return 0
        return self.size if self.verified else max(0, self.size - HOLD_BACK)

    def _wants(self) -> list[Want]:
        return [Want(reader.position, reader.stop) for reader in self._readers]

    def _announced(self) -> None:
        """The size is known: a store that takes bytes as they come begins."""
        if self._kept.path is not None and self.size is not None:
            self._incoming = self._store.incoming_blob(self.digest, self._kept.path, self.size)
        self._notify()

    def _notify(self) -> None:
        if self._incoming is not None:
            self._incoming.reached(self._kept.there.end(0))
        self._changed.set()
        self._changed = asyncio.Event()

    # The fill.

    async def run(self) -> None:
        """Fetch, verify, keep. Raises nothing but CancelledError: the outcome is in `failure` and `done`."""
        try:
            await self._kept.open()
            await self._transfer.run()
            await self._verify()
            await self._keep()
            self.done = True
        except RegistryError as error:
            self.failure = error
            level = log.info if error.status == 404 else log.warning
            level("fill.failed", digest=str(self.digest), repository=str(self.repository), reason=str(error))
            if not self._kept.there:  # an empty file would be all that is left of each unknown digest
                await self._kept.forget()
        except asyncio.CancelledError:
            self.failure = Unavailable("the mirror is stopping")
            raise
        except Exception as error:  # a defect of ours must reach the waiting readers too
            self.failure = Unavailable("internal error of the mirror while fetching this blob", status=500)
            log.exception("fill.crashed", digest=str(self.digest), error=type(error).__name__)
        finally:
            self._ended = True
            self._kept.give_back()
            self._notify()
            if self._incoming is not None:
                self._incoming.end()
            self._release()

    def fail(self, reason: RegistryError) -> None:
        """The outcome of a fill that never ran."""
        self.failure = reason
        self._ended = True
        self._notify()

    async def _verify(self) -> None:
        """Rule 6."""
        if not self._intake.matches():
            await self._kept.forget()
            raise Corrupt("the upstream registry sent bytes that do not match the digest")
        self.verified = True
        self._notify()

    async def _keep(self) -> None:
        """Hand the spool file to the store. A failing store fails nobody (rule 8)."""
        file = await self._kept.completed()
        if file is None:
            await self._kept.forget()
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
            await self._kept.forget()

    def _release(self) -> None:
        """Close the spool file once nobody can want it; its bytes stay for a later fill, unless forgotten."""
        if self._ended and not self._readers:
            self._kept.close()
