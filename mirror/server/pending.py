"""What of a connection waits for its turn: requests before the last is answered, or too many of one client.

One request after the other goes on to the handlers: the bytes behind its head are kept here until it is
answered, and then the next has to wait for its turn (`server.turns`). So who sends requests without end has
one of them parsed and answered while others are answered, too. Nothing more is read of him meanwhile: what is
kept is at most what the loop reads at once (256 KiB).

NB: a body is no request. What comes with a head that is not plain (`Heads.is_plain`) goes on as it is, so
that nothing is answered before aiohttp has judged all that came. What of it is a request takes its turn
in `connections.bounded`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

from mirror.server.heads import Heads
from mirror.server.turns import Turns


class Pending:
    """Of one connection. `give` takes bytes, of one request at most where no body is."""

    __slots__ = ("_at", "_client", "_data", "_give", "_heads", "_queued", "_transport", "_turns", "holds")

    def __init__(
        self,
        transport: asyncio.Transport,
        heads: Heads,
        turns: Turns,
        client: Hashable,
        give: Callable[[bytes], bool],
    ) -> None:
        """`give`: whether it was answered at once."""
        self._transport, self._heads, self._turns, self._client = transport, heads, turns, client
        self._give = give
        self._data, self._at = b"", 0  # what waits, from there on
        self._queued = False  # it waits for its turn, not for an answer
        self.holds = False
        heads.client, heads.when_answered = client, self._answered

    def add(self, data: bytes) -> None:
        """Behind what waits."""
        self._data, self._at = self._data[self._at :] + data, 0

    def take(self, data: bytes) -> None:
        """Nothing waits, and this has come: what may be given is."""
        if self._heads.is_held_up:
            self._hold(data)
            return
        end = self._end(data)
        if end is None:
            self._give(data)
        elif not self._turns.takes(self._client):
            self._hold(data)
            self._queue()
        else:
            if end < len(data):
                self._hold(data[end:])
            if self._give(data[:end]) and self.holds:
                self._queue()

    def _hold(self, data: bytes) -> None:
        self._data, self._at, self.holds = data, 0, True
        self._heads.has_more = True
        self._transport.pause_reading()

    def _answered(self) -> None:
        if self.holds and not self._queued:
            self._queue()

    def _queue(self) -> None:
        self._queued = True
        self._turns.wait(self._client, self._next)

    def _next(self) -> None:
        """It is the turn of the first that waits."""
        self._queued = False
        if self._transport.is_closing():
            self._data, self._at = b"", 0
            return
        end = self._end(self._data, self._at)
        if self._give(self._taken(len(self._data) if end is None else end)) and self.holds:
            self._queue()

    def _end(self, data: bytes, start: int = 0) -> int | None:
        """Up to where, from `start` on, these bytes belong to one request; None: it does not end in them."""
        size = self._heads.end_of(data, start)
        if size is None:
            return None
        end = start + size
        return end if end == len(data) or self._heads.is_plain(data[start:end]) else len(data)

    def _taken(self, end: int) -> bytes:
        """What waits up to there. When nothing more does, the client is read again."""
        data = self._data[self._at : end]
        self._at = end
        if end >= len(self._data):
            self._data, self._at, self.holds = b"", 0, False
            self._heads.has_more = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return data
