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

from mirror.cache.extents import Extents
from mirror.cache.fillblob import FillBlob
from mirror.cache.hands import Hands
from mirror.cache.inflow import Inflow
from mirror.cache.kept import Kept
from mirror.cache.segments import Claim
from mirror.cache.shown import Shown
from mirror.cache.writing import Writing
from mirror.registry import Blob

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
        self, blob: Blob, claim: Claim, until: int, onward: Callable[[], Awaitable[bool]] | None = None
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
                        if onward is None or not await onward():
                            return
                        inflow.begin = claim.position
                    if inflow.displaced:
                        return
        except asyncio.CancelledError:
            self.kept.given_up(inflow.cancel())
            raise
        finally:  # also after a break: what has come is ours
            await inflow.written()

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
        kept = self.kept
        if kept.keeps:
            writing = self._writing(inflow, start, batch)
            await self._hands.run(writing.run, then=writing.note)
            if writing.error is None:
                await kept.catch_up()
                return
            kept.go_volatile(writing.error)
            start, batch = writing.start, writing.batch
        if not inflow.helps:
            await kept.catch_up()
        if inflow.helps or not kept.front.begin(start):
            inflow.displaced = True  # others come first, and this could wait nowhere
            return
        await self._hands.run(kept.front.feed, batch, then=kept.front.end)
        await self.shown.from_memory(start, batch)

    def _writing(self, inflow: Inflow, start: int, batch: list[bytes]) -> Writing:
        assert self.kept.file is not None
        return Writing(
            self.kept.file,
            self.kept.front,
            inflow,
            start,
            batch,
            told=self._wrote,
            goes_on=lambda: self.kept.keeps and not self._hands.are_wanted,
        )

    def _wrote(self, start: int, stop: int) -> None:
        self.kept.wrote(start, stop)
        self._changed()
