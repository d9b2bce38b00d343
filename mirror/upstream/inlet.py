"""The rest of a large body, taken over from aiohttp: whoever keeps it receives it in a thread of his own.

aiohttp and the event loop copy each byte twice, and have a turn for each 256 KiB. Where an upstream sends
faster than that, a thread that receives, writes and hashes what it has received needs a third less of the
processors. So once aiohttp has gathered some of a body, and enough is ahead, its connection is paused, and a
second descriptor of it (dup(2)) is read here, up to the body's end. Then the connection is aiohttp's again,
for the next request. TLS is aiohttp's, so that bodies over TLS stay there.
"""

from __future__ import annotations

import asyncio
import os

import aiohttp
from aiohttp.client_proto import ResponseHandler

HOLD = "_pause_reading_for_buffer"  # of aiohttp's connections; where they have none they are not taken over
WORTH = 1 << 20  # bytes that are ahead; less than that costs less than this
GATHERED = 4  # a part of what must be ahead: so much of it has gathered when the upstream is the faster one


class Inlet:
    """See `registry.Inlet`. At most `count` bytes are taken."""

    def __init__(self, descriptor: int, count: int) -> None:
        self.taken = 0
        self.is_dry = False  # nothing more was there
        self.has_ended = False  # nor will there be: the other side has closed the connection
        self.failure: OSError | None = None  # why there will not be
        self._descriptor = descriptor
        self._count = count

    def take(self, buffer: memoryview) -> int:
        """See `registry.Inlet`. Failures are told by the next part, not here."""
        if self.is_dry or self.has_ended or self.failure is not None or self.taken == self._count:
            return 0
        try:
            count = os.readv(self._descriptor, [buffer[: self._count - self.taken]])
        except BlockingIOError:
            self.is_dry = True
            return 0
        except OSError as error:
            self.failure = error
            return 0
        self.has_ended = not count
        self.taken += count
        return count


class Tap:
    """A connection that aiohttp does not read any more, up to the end of the response's body.

    NB: whoever still reads the end of the body before it, out of aiohttp's buffer, has aiohttp resume what is
    its connection no more. Only what is paused for a buffer of the protocol's own stays so.
    """

    def __init__(self, descriptor: int, response: aiohttp.ClientResponse, protocol: ResponseHandler) -> None:
        self._descriptor = descriptor
        self._response = response
        self._protocol = protocol
        protocol._pause_reading_for_buffer()

    def inlet(self, count: int) -> Inlet:
        """The next bytes, `count` at most. One at a time."""
        return Inlet(self._descriptor, count)

    async def readable(self, seconds: float) -> None:
        """Wait until something is there, or has happened. Raises TimeoutError."""
        loop = asyncio.get_running_loop()
        happened = asyncio.Event()
        loop.add_reader(self._descriptor, happened.set)
        try:
            async with asyncio.timeout(seconds):
                await happened.wait()
        finally:
            loop.remove_reader(self._descriptor)

    def finish(self) -> None:
        """All of the body was taken: the connection can be used again, unless something else came on it."""
        try:
            os.readv(self._descriptor, [bytearray(1)])
        except BlockingIOError:
            # For aiohttp the body ends here. NB: its parser has not seen the rest, and would take for that
            # whatever else may come; a new one, as each request has it made, takes nothing before an answer.
            self._protocol.set_response_params()
            self._protocol._resume_reading_for_buffer()
            self._response.content.feed_eof()
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        """Let go of the descriptor: no Inlet is in use. The connection itself is aiohttp's to close."""
        os.close(self._descriptor)


def take_over(response: aiohttp.ClientResponse, worth: int) -> tuple[list[bytes], Tap | None]:
    """What aiohttp has read of this body, and its connection. Nothing, and None, where it stays aiohttp's:
    it keeps up, or what is on the connection is not just the body (TLS, chunks).
    """
    content, headers = response.content, response.headers
    if content._size < worth // GATHERED or "Transfer-Encoding" in headers or "Content-Length" not in headers:
        return [], None
    protocol = response.connection.protocol if response.connection is not None else None
    transport = protocol.transport if protocol is not None else None
    pair = transport.get_extra_info("socket") if transport is not None else None
    if protocol is None or transport is None or pair is None or not hasattr(protocol, HOLD):
        return [], None
    if transport.get_extra_info("sslcontext") is not None:
        return [], None
    gathered: list[bytes] = []
    # NB: taking the last of it has aiohttp go on where it had paused, so that its parser keeps nothing back;
    # and nothing more is read before the event loop has its turn.
    while content._buffer:
        gathered.append(content._read_nowait_chunk(-1))
    if content.exception() is not None or response.connection is None or transport.is_closing():
        return gathered, None  # it broke off, or all of it was there
    try:
        descriptor = os.dup(pair.fileno())
    except OSError:  # no descriptor is left
        return gathered, None
    return gathered, Tap(descriptor, response, protocol)
