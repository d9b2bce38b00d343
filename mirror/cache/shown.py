"""What readers get of a fill: from the spool file, and from a window once nothing is kept (rule 8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from mirror.cache.fillblob import FillBlob
from mirror.cache.kept import Kept
from mirror.cache.window import Window
from mirror.oci.errors import ErrorCode
from mirror.registry import FileSpan, Part, RegistryError, Unavailable

READ_PIECE = 4 << 20  # bytes a reader is given at once at most, so that it looks at the outcome now and then
SLOWEST = 30.0  # seconds that a volatile fill waits for its slowest reader before it goes on without him


class Shown:
    """See the module's text. `changed` is called when there is more in the window."""

    def __init__(
        self, kept: Kept, readers: Callable[[], Iterable[FillBlob]], changed: Callable[[], None]
    ) -> None:
        self._kept = kept
        self._readers = readers
        self._changed = changed
        self._window: Window | None = None  # once bytes have come that are in memory only
        self._drained = asyncio.Event()  # a reader moved on: what a volatile fill waits for

    def holds(self, start: int) -> bool:
        """Whether all from `start` on can still be had: not once a volatile fill has let go of some of it."""
        return self._window is None or self._window.base <= self._kept.there.end(start)

    def reach(self, position: int) -> int:
        """The end of what can be had from `position` on; `position` where that is nothing yet.

        Raises Unavailable for what a volatile fill has let go of.
        """
        end, window = self._kept.there.end(position), self._window
        if window is None or end > window.end:
            return end
        if end < window.base:
            if end == position:
                raise Unavailable("this client read too slowly while the mirror had no room to keep the blob")
            return end
        return window.end

    def part(self, position: int, visible: int) -> Part:
        """Some bytes from `position` on, before `visible`, of those that can be had."""
        end = min(visible, self._kept.there.end(position), position + READ_PIECE)
        if position < end:
            assert self._kept.file is not None
            return FileSpan(self._kept.file.file, position, end - position)
        assert self._window is not None
        return self._window.read(position, visible)

    def moved_on(self) -> None:
        """A reader has taken its part, or left."""
        self._drained.set()

    async def from_memory(self, start: int, batch: Iterable[bytes]) -> None:
        """Let readers have these bytes, which come next, when the slowest has made room for them."""
        if self._window is None:
            self._window = Window(start)
        for chunk in batch:
            await self._make_room(self._window, len(chunk))
            self._window.append(chunk)
            self._changed()

    async def _make_room(self, window: Window, size: int) -> None:
        while not window.has_room(size):
            positions = [reader.position for reader in self._readers() if not reader.lost]
            if positions:
                window.drop_before(min(positions))
                if window.has_room(size):
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


class Unread(RegistryError):
    """A volatile fill that nobody reads: there is no use in going on."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, "nothing could be kept, and nobody was reading")
