"""A large body straight from its connection: the kernel writes into the buffers that are given on.

What comes through aiohttp is copied twice more, and costs Python for each 256 KiB: 0.6 s of a processor for
each GB. So once the header of a large body is there, its connection is taken over: what has come already is
taken from aiohttp, and from then on the transport writes into pieces of ours. The connection is closed
afterwards, which a large body is worth: aiohttp's parser has seen the beginning only.

The place among the connections to this host stays taken until the response is closed, as ever.
"""

from __future__ import annotations

import asyncio
from collections import deque

import aiohttp

LEAST = 8 << 20  # bytes that are still to come; for less, a connection is worth more that can be used again
PIECE = 1 << 20  # bytes of a buffer, and what is read in one turn of the loop at most
RECORD = 16 << 10  # bytes that TLS may have decrypted beyond what it tells of (RFC 8446 section 5.1)
AHEAD = 2 << 20  # bytes that have come and were not taken, from which on reading stops
PAUSE = 0.002  # seconds that less than a piece waits for more, so that it is given on whole
# NB: aiohttp's parser holds bytes that it did not give on yet only while it is told to pause. The name of
# that is private: where it is missing, nothing is taken over, and a test fails.
PAUSED = "_reading_paused"


class Straight(asyncio.BufferedProtocol):
    """A body of which `before` has come, and `left` bytes are still to come.

    `lost` is why no more comes, once the connection is: OSError, or None for its plain end. What came before
    that can be taken all the same.
    """

    def __init__(
        self, transport: asyncio.Transport, handler: asyncio.BaseProtocol, before: list[bytes], left: int
    ) -> None:
        self.is_lost = False
        self.lost: Exception | None = None
        self._transport = transport
        self._handler = handler  # aiohttp's, which is told when the connection is lost
        self._loop = asyncio.get_running_loop()
        self._left = left
        self._parts = deque([memoryview(part) for part in before])  # full pieces, or what is left of them
        self._gathered = sum(map(len, before))  # bytes of them
        self._pieces: list[bytearray] = []  # all there are: those in which nothing is wanted are used again
        self._piece = memoryview(b"")
        self._begin = self._end = 0  # of what has come in the piece, and was not taken
        self._is_paused = False
        self._is_due = False  # what has come in the piece is given on
        # NB: uvloop's TLS loses what it holds for a paused reader, or a full buffer, when the other side
        # closes just then. So there is a pause only for want of room, and a piece holds what is at hand.
        self._is_plain = transport.get_extra_info("sslcontext") is None
        self._waiter: asyncio.Future[None] | None = None
        self._wakes: asyncio.TimerHandle | None = None

    # What a reader does.

    def take(self, limit: int) -> memoryview:
        """The next bytes that have come, at most `limit`; empty where there is not enough yet."""
        if self._parts:
            part = self._parts.popleft()
            if len(part) > limit:
                self._parts.appendleft(part[limit:])
                part = part[:limit]
            self._gathered -= len(part)
        elif self._is_due:
            part = self._piece[self._begin : min(self._end, self._begin + limit)]
            self._begin += len(part)
            if self._begin == self._end:
                self._is_due = not self._left or self.is_lost
        else:
            part = self._piece[:0]
        self._go_on()
        return part

    async def came(self) -> None:
        """Wait until there is something to take, or the connection is lost."""
        while not (self._parts or self._is_due):
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    # What the transport does.

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go. What comes beyond the body's end is dropped."""
        if not self._left:
            return memoryview(bytearray(PIECE))
        wanted = 1 if self._is_plain else max(sizehint, 0) + RECORD
        if len(self._piece) - self._end < wanted:
            self._set_aside()
            self._piece = memoryview(b"")  # it can be used again itself
            self._piece = self._unused(max(PIECE, wanted))
            self._begin = self._end = 0
        return self._piece[self._end : self._end + max(self._left, wanted)]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have come."""
        count = min(nbytes, self._left)
        self._end += count
        self._left -= count
        held = self._gathered + self._end - self._begin
        if not self._left or held >= AHEAD:
            self._pause()
        elif self._is_plain and self._end == len(self._piece):  # there may be more, in another turn
            self._pause()
            self._loop.call_soon(self._go_on)
        if not self._left or self._end == len(self._piece):
            self._due()
        elif self._wakes is None and not self._is_due:
            self._wakes = self._loop.call_later(PAUSE, self._due)

    def eof_received(self) -> None:
        """The transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        """No more comes."""
        self.is_lost, self.lost = True, exc
        self._handler.connection_lost(exc)
        self._due()

    def pause_writing(self) -> None:
        """The request has left long ago."""

    def resume_writing(self) -> None:
        """The same."""

    def _set_aside(self) -> None:
        if self._begin < self._end:
            self._parts.append(self._piece[self._begin : self._end])
            self._gathered += self._end - self._begin
            self._is_due = False

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Read on, if it stopped, there is room, and more is wanted."""
        if not self._is_paused or self.is_lost or not self._left:
            return
        if self._gathered + self._end - self._begin < AHEAD:
            self._is_paused = False
            self._transport.resume_reading()

    def _unused(self, size: int) -> memoryview:
        """A piece of at least this size. There are as many as whoever takes them holds at a time.

        One of whose bytes somebody has a view cannot be made shorter (`bytearray` raises BufferError).
        """
        for number, piece in enumerate(self._pieces):
            if len(piece) < size:
                continue
            try:
                last = piece.pop()
            except BufferError:
                continue
            piece.append(last)
            self._pieces.append(self._pieces.pop(number))
            return memoryview(piece)
        self._pieces.append(bytearray(size))
        return memoryview(self._pieces[-1])

    def _due(self) -> None:
        """What has come is given on now."""
        self._is_due = True
        if self._wakes is not None:
            self._wakes.cancel()
            self._wakes = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def take_over(response: aiohttp.ClientResponse, left: int) -> Straight | None:
    """A body of `left` bytes, of which nothing was read yet. Whoever has the response closes it, as ever.

    None where it is better left to aiohttp: it is short, or in chunks, or something is not as expected.
    """
    connection, content = response.connection, response.content
    if left < LEAST or connection is None or response.headers.get("Content-Length") != str(left):
        return None
    if "Transfer-Encoding" in response.headers or content.exception() is not None or content.is_eof():
        return None
    transport, handler = connection.transport, connection.protocol
    if transport is None or handler is None or transport.is_closing():
        return None
    if not hasattr(handler, PAUSED) or content.total_bytes > left - LEAST // 2:
        return None
    before: list[bytes] = []
    while part := content.read_nowait():  # which lets it go on, until it has no more
        before.append(part)
    count = sum(map(len, before))
    straight = Straight(transport, handler, before, left - count)
    if getattr(handler, PAUSED) or content.total_bytes != count:
        straight.connection_lost(
            None
        )  # cannot be; if it is, what came is right, and the rest is asked for anew
        return straight
    transport.pause_reading()
    transport.set_protocol(straight)
    transport.resume_reading()
    return straight
