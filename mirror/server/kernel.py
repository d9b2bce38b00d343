"""The kernel sends a file's bytes to a client, on any event loop.

asyncio's `loop.sendfile` does that on asyncio's own loops only. So the bytes go to a second descriptor of the
connection (dup(2)), which the loop watches for room apart from the transport's own; each turn gives one
reader one TURN at most, so that a thousand of them share the loop. What the kernel would have to fetch from
the disk first is read in a thread: sendfile(2) waits for the disk, whatever the socket's mode is.

A client on this machine gets copies instead: from one buffer that all readers share, as they take turns.
What sendfile(2) hands over is the file's pages, each by itself, and over loopback it is the client that then
collects them: measured, it got 2.0 GB/s that way, and 3.4 GB/s of what was copied for it in large pieces.
A network card does the collecting itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from aiohttp import web

# Bytes that one reader is given in one turn of the loop: 0.3 ms on loopback. More of it makes others wait,
# and a reader's socket seldom has room for it; with less, turns cost more than the copying.
TURN = 1 << 20
LEAST = 64 << 10  # bytes that are copied at once at least, where a client took less than that
AHEAD = 256 << 10  # bytes in memory for each reader that waits for the disk

Give = Callable[[int, int, int, int], int]  # as os.sendfile

_copied = memoryview(bytearray(TURN))


async def send(transport: asyncio.Transport, file: int, offset: int, count: int) -> int:
    """Send `count` bytes from `offset` of the file of that descriptor; how many were sent.

    Fewer at the file's end, and where something is in the way after the first: the next call says what. The
    transport must have nothing left to write, and is given nothing until this has ended.
    Raises OSError (the client is gone, or the kernel cannot), ConnectionError when the transport is closed.
    """
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        raise ConnectionResetError("the connection is closed")
    give = _Copying() if is_local(transport) else os.sendfile
    loop = asyncio.get_running_loop()
    out = os.dup(connection.fileno())
    ended: asyncio.Future[int] = loop.create_future()
    sent = 0

    def more() -> None:
        nonlocal sent
        try:
            if transport.is_closing():
                raise ConnectionResetError("the connection is closed")
            taken = give(out, file, offset + sent, min(TURN, count - sent))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            loop.remove_writer(out)
            if ended.done():
                return
            if sent:  # they left, whatever hinders the rest
                ended.set_result(sent)
            else:
                ended.set_exception(error)
            return
        sent += taken
        if not taken or sent == count:
            loop.remove_writer(out)
            if not ended.done():
                ended.set_result(sent)

    try:
        loop.add_writer(out, more)
        return await ended
    finally:
        loop.remove_writer(out)
        os.close(out)


class _Copying:
    """As os.sendfile for one reader, by way of the buffer. It copies what the client is likely to take."""

    def __init__(self) -> None:
        self._wanted = TURN

    def __call__(self, out: int, file: int, offset: int, count: int) -> int:
        """Raises BlockingIOError when the client takes nothing now."""
        with _copied[: min(count, self._wanted)] as piece:
            got = os.preadv(file, [piece], offset)
            taken = os.write(out, piece[:got]) if got else 0
        self._wanted = max(LEAST, min(TURN, 2 * taken))
        return taken


def is_local(transport: asyncio.Transport) -> bool:
    """Whether the client is on this machine: it has our own address, or came by a Unix socket."""
    here, there = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    if not isinstance(here, tuple | list) or not isinstance(there, tuple | list):
        return not there
    return bool(here[0] == there[0])


async def written(transport: asyncio.Transport, response: web.StreamResponse) -> None:
    """Wait until the transport has nothing left to write. Raises ConnectionError."""
    if transport.get_write_buffer_size():
        transport.set_write_buffer_limits(high=0)  # full until it is empty
        try:
            await response.drain()
        finally:
            if not transport.is_closing():  # uvloop's raises then
                transport.set_write_buffer_limits()


async def in_memory(file: int, offset: int, count: int) -> None:
    """Have the kernel read these bytes of the file, unless it has them. Raises OSError.

    NB: asks for the first and the last of them only: what a sequential reader wants next is read ahead.
    """
    if not (_is_cached(file, offset) and _is_cached(file, offset + count - 1)):
        await asyncio.get_running_loop().run_in_executor(None, _read, file, offset, offset + count)


def _is_cached(file: int, offset: int) -> bool:
    """Whether this byte can be read without waiting for the disk; yes where the file system cannot tell."""
    try:
        os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _read(file: int, offset: int, stop: int) -> None:
    buffer = bytearray(AHEAD)
    while offset < stop and (count := os.preadv(file, [memoryview(buffer)[: stop - offset]], offset)):
        offset += count
