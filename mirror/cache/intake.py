"""The bytes of one fill that come: handed to the threads that write and hash, and shown to readers.

Bytes come by several connections, each at a place of its own. Those that continue what was hashed are hashed
once they are written; the others are written, and read again when what is before them is there. Readers may
have what is written: they are held back from the last bytes only, until all is hashed. Once nothing is kept
any more, only what continues is taken, and what stands in the file farther on is read from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable

from mirror.cache.drawing import DRAWN, Drawing, piece
from mirror.cache.extents import Extents
from mirror.cache.fillblob import FillBlob
from mirror.cache.hands import Hands
from mirror.cache.inflow import Inflow
from mirror.cache.kept import Kept
from mirror.cache.segments import UNKNOWN, Claim
from mirror.cache.shown import Shown
from mirror.cache.writing import More, Writing
from mirror.registry import Blob, FileSpan, Inlet, draw

BATCH = 1 << 20  # bytes gathered of a connection while a batch is written, at the least that is allowed


class Intake:
    """See the module's text. `changed` is called whenever readers can have more."""

    def __init__(
        self,
        kept: Kept,
        hands: Hands,
        *,
        readers: Callable[[], Iterable[FillBlob]],
        changed: Callable[[], None],
        batch: Callable[[], int] = lambda: BATCH,
    ) -> None:
        self.kept = kept
        self.shown = Shown(kept, readers, changed)
        self.received = 0  # bytes taken from the upstream by this process
        self.held = 0.0  # seconds that connections have waited for the disk
        self._hands = hands
        self._changed = changed
        self._batch = batch  # bytes of a connection that may gather; then it waits for the disk

    @property
    def there(self) -> Extents:
        """The bytes in the spool file."""
        return self.kept.there

    @property
    def hashed(self) -> int:
        """All before it has come and was hashed."""
        return self.kept.front.hashed

    @property
    def keeps(self) -> bool:
        """Whether what comes is written to the disk."""
        return self.kept.keeps

    def matches(self) -> bool:
        """Whether what has come has the digest."""
        return self.kept.front.matches()

    async def pump(
        self,
        blob: Blob,
        claim: Claim,
        until: int,
        onward: Callable[[], Awaitable[bool]] | None = None,
        *,
        worth: int = UNKNOWN,
    ) -> None:
        """Take a claim's bytes as they come, while what came before is being written (rule 10).

        `until`: the end of what was asked for. `onward` is asked at the claim's end whether, and moves it so
        that, more of what was asked for is wanted; None: this is not the fill's own connection.
        `worth`: see `registry.Drawn`.
        """
        inflow = Inflow(claim.position, helps=onward is None)
        position = blob.start  # of the next byte that comes
        try:
            async with contextlib.aclosing(draw(blob, until, worth)) as parts:
                async for part in parts:
                    assert not isinstance(part, FileSpan)
                    if not isinstance(part, bytes) and self.keeps:
                        await inflow.written()
                        position += await self._draw(part, inflow, claim, claim.position - position)
                        if claim.position == claim.stop and not await _goes_on(inflow, claim, onward):
                            return
                        fresh = b""
                    else:
                        fresh = part if isinstance(part, bytes) else await self._hands.run(piece, part)
                    begin, position = position, position + len(fresh)
                    while claim.position < position:
                        await self._came(inflow, claim, fresh[claim.position - begin : claim.stop - begin])
                        if claim.position < claim.stop:
                            break
                        if not await _goes_on(inflow, claim, onward):
                            return
                    if inflow.displaced:
                        return
        except asyncio.CancelledError:
            self.kept.given_up(inflow.cancel())
            raise
        finally:  # also after a break: what has come is ours
            await inflow.written()

    async def _draw(self, inlet: Inlet, inflow: Inflow, claim: Claim, skip: int) -> int:
        """Have a thread take what it can of a claim, behind `skip` bytes; how many bytes in all it took."""
        start, stop = claim.position, min(claim.stop, claim.position + DRAWN)
        drawing = Drawing(inlet, start, stop, skip)
        claim.granted = stop  # NB: before room is waited for, or others might be given some of it meanwhile
        try:
            await self.kept.expect(stop - start)
        except BaseException:
            claim.granted = 0
            raise
        if not self.keeps:
            claim.granted = 0
            return 0
        began = time.monotonic()

        def told(begin: int, end: int) -> None:
            self.received += end - begin
            claim.position = end
            claim.settled.set()
            self._wrote(begin, end)

        writing = self._writing(start, drawing.more, told)
        try:
            await self._hands.run(writing.run, then=writing.note)
        finally:
            self.kept.given_up(stop - claim.position)
            self.received += drawing.position - claim.position  # what could not be written
            claim.position = inflow.begin = drawing.position
            claim.granted = 0
        if drawing.position == stop:  # more may have come than could be taken
            self.held += time.monotonic() - began
        if writing.error is not None:
            self.kept.go_volatile(writing.error)
            await self._to_memory(inflow, writing.start, writing.lost)
        else:
            await self.kept.catch_up()
        return drawing.skipped + drawing.position - start

    async def _came(self, inflow: Inflow, claim: Claim, fresh: bytes) -> None:
        """The next bytes of a claim."""
        began, is_first = time.monotonic(), claim.position == claim.start
        await self.kept.expect(len(fresh))
        inflow.add(fresh)
        claim.position += len(fresh)
        self.received += len(fresh)
        claim.settled.set()
        if await inflow.pass_on(self._take, self._batch()):
            self.held += time.monotonic() - began
        elif is_first:
            await asyncio.sleep(0)  # it is written now: somebody may wait for the first byte

    async def _take(self, inflow: Inflow, start: int, batch: list[bytes]) -> None:
        """Make a batch visible to readers: in the spool, or from now on in memory (rule 8)."""
        if self.keeps:
            first = [(start, batch)]
            writing = self._writing(
                start, lambda: first.pop() if first else inflow.take(), self._wrote, inflow.moved
            )
            await self._hands.run(writing.run, then=writing.note)
            if writing.error is None:
                await self.kept.catch_up()
                return
            self.kept.go_volatile(writing.error)
            start, batch = writing.start, writing.lost
        await self._to_memory(inflow, start, batch)

    async def _to_memory(self, inflow: Inflow, start: int, batch: list[bytes]) -> None:
        """Rule 8."""
        kept = self.kept
        if not inflow.helps:
            await kept.catch_up()
        if inflow.helps or not kept.front.begin(start):
            inflow.displaced = True  # others come first, and this could wait nowhere
            return
        await self._hands.run(kept.front.feed, batch, then=kept.front.end)
        await self.shown.from_memory(start, batch)

    def _writing(
        self,
        start: int,
        more: More,
        told: Callable[[int, int], None],
        looked: Callable[[], None] = lambda: None,
    ) -> Writing:
        assert self.kept.file is not None
        return Writing(
            self.kept.file,
            self.kept.front,
            start,
            more,
            told=told,
            goes_on=lambda: self.kept.keeps and not self._hands.are_wanted,
            looked=looked,
        )

    def _wrote(self, start: int, stop: int) -> None:
        self.kept.wrote(start, stop)
        self._changed()


async def _goes_on(inflow: Inflow, claim: Claim, onward: Callable[[], Awaitable[bool]] | None) -> bool:
    """At a claim's end, once it is written: whether it goes on."""
    await inflow.written()
    if onward is None or not await onward():
        return False
    inflow.begin = claim.position
    return True
