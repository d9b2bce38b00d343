"""The rest of a large body, taken from aiohttp: as the socket gives it.

aiohttp's parser copies each piece once more, a timer is set anew for it, and a stream wakes its reader: much
of what it costs to pass a body on. So once the header is there the connection gets a protocol of ours, and
goes back to aiohttp at the body's end, to be used again. aiohttp hears of all that ends the connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Self

import aiohttp

WORTH = 1 << 20  # bytes; less than that costs less than this
HOLD = "_pause_reading_for_buffer"  # of aiohttp's connections; where they have none they are left to it
AHEAD = 512 << 10  # bytes that wait for their reader; with more the socket is left alone
LOOKS = 4  # within the time that a silence may last


class Rest(asyncio.Protocol):
    """Made by `take`. One reader; whoever has the response closes it."""

    def __init__(self, response: aiohttp.ClientResponse, size: int, silence: float) -> None:
        """See `take`; the body has `size` bytes."""
        connection = response.connection
        assert connection is not None
        assert connection.protocol is not None
        assert connection.transport is not None
        self._loop = asyncio.get_running_loop()
        self._stream = response.content
        self._before, self._transport = connection.protocol, connection.transport
        self._silence = silence  # seconds
        self._pieces = deque[bytes]()
        self._held = 0  # bytes of them
        self._left = size - self._stream.total_bytes  # bytes that are to come
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._error: Exception | None = None
        self._heard = self._loop.time()  # when something came, or could come again
        self._timer = self._loop.call_later(silence / LOOKS, self._look)

    @classmethod
    def take(cls, response: aiohttp.ClientResponse, silence: float) -> Self | None:
        """Of an answer of which nothing was read. `silence`: seconds without a byte that are a failure.

        None: it is not worth while, or cannot be.
        """
        stream, connection = response.content, response.connection
        size = response.content_length or 0
        if (
            size - stream.total_bytes < WORTH
            or connection is None
            or "Transfer-Encoding" in response.headers
            or stream.exception() is not None
            or connection.transport is None
            or not hasattr(connection.protocol, HOLD)
        ):
            return None
        rest = cls(response, size, silence)
        if first := stream.read_nowait():
            rest._keep(first)
        rest._before.pause_reading()  # its time-out, too
        # NB: who still reads the body before this one, out of aiohttp's buffer, has aiohttp resume the
        # connection, but not what is paused for a buffer of its own.
        rest._before._pause_reading_for_buffer()
        rest._transport.set_protocol(rest)
        rest._transport.resume_reading()
        return rest

    async def read(self, limit: int) -> bytes:
        """What comes next; b"" at the end. Raises aiohttp's own when the connection ends, or is silent."""
        while not self._pieces:
            if not self._left:
                return b""
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._pieces.popleft()
        if len(data) > limit:
            self._pieces.appendleft(data[limit:])
            data = data[:limit]
        self._held -= len(data)
        if self._paused and self._held < AHEAD // 2:
            self._paused = False
            self._heard = self._loop.time()
            self._transport.resume_reading()
        return data

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        is_more = len(data) > self._left
        if is_more:
            data = data[: self._left]
        self._left -= len(data)
        self._keep(data)
        if not self._left:
            self._give_back(broken=is_more)
        elif self._held >= AHEAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._fail(exc or aiohttp.ServerDisconnectedError())
        self._before.connection_lost(exc)

    def _keep(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held += len(data)

    def _give_back(self, *, broken: bool) -> None:
        """`broken`: something else than the body came as well."""
        self._timer.cancel()
        if broken:
            self._transport.close()
            return
        self._transport.set_protocol(self._before)
        # NB: its parser has not seen the rest of the body, and would take for that whatever else may come.
        self._before.set_response_params()
        self._before._resume_reading_for_buffer()
        self._stream.feed_eof()  # which has aiohttp take the connection back, and read on

    def _look(self) -> None:
        """Whether the server has been silent for too long, while it could have said something."""
        self._timer = self._loop.call_later(self._silence / LOOKS, self._look)
        if not self._paused and self._loop.time() - self._heard >= self._silence:
            self._fail(aiohttp.SocketTimeoutError("no byte for too long"))
            self._transport.close()

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
