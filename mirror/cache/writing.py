"""One connection's bytes on their way into the spool file, in a thread: written, told of, hashed.

The thread goes on with what has come meanwhile, without waiting for the loop to have its turn: between two
batches it would stand still for a third of the time. It goes on only while it hashes what it writes, for what
is ahead of that waits for others; and it ends where other fills wait for a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from mirror.cache.front import Chunk, Front
from mirror.cache.spool import SpoolFile

More = Callable[[], tuple[int, Sequence[Chunk]]]


class Writing:
    """Whatever `more` gives, from `start` on: where it begins, and bytes that are good until it is called
    again; no bytes: that was all. `goes_on`: whether more is to be asked for. Both are called in the thread.

    On the loop, `told(start, stop)` is called of what is written, and `looked` after more was asked for.
    """

    def __init__(
        self,
        file: SpoolFile,
        front: Front,
        start: int,
        more: More,
        *,
        told: Callable[[int, int], None],
        goes_on: Callable[[], bool],
        looked: Callable[[], None] = lambda: None,
    ) -> None:
        self.start = start
        self.lost: list[bytes] = []  # after a failure: what was to be written from `start` on
        self.error: OSError | None = None
        self._file = file
        self._front = front
        self._more = more
        self._told = told
        self._looked = looked
        self._goes_on = goes_on
        self._loop = asyncio.get_running_loop()
        self._written = start  # up to where: set by the thread
        self._noted = start  # of that the loop knows
        self._tells = False  # the loop is about to look

    def run(self) -> None:
        """In a thread. A failure to write is a value: the bytes count as received all the same."""
        self.start, batch = self._more()
        while batch:
            continues = self._front.begin(self.start)
            try:
                try:
                    self._file.write(self.start, batch)
                except OSError as error:
                    self.error, self.lost = error, [bytes(chunk) for chunk in batch]
                    return
                self._written = self.start + sum(map(len, batch))
                self._tell()
                if continues:
                    self._front.feed(batch)
            finally:
                if continues:
                    self._front.end()
            if not continues or not self._goes_on():
                return
            self.start, batch = self._more()
            self._tell()  # who waits for room need not wait until this is written

    def note(self, _done: Any = None) -> None:
        """On the loop: pass on what was written since; it may be told as a future's callback."""
        self._tells = False  # NB: first, or what is written now might be told by nobody
        noted, self._noted = self._noted, self._written
        if self._noted > noted:
            self._told(noted, self._noted)
        self._looked()

    def _tell(self) -> None:
        if not self._tells:
            self._tells = True
            self._loop.call_soon_threadsafe(self.note)
