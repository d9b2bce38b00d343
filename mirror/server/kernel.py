"""The kernel sends a file's bytes to a client, on any event loop.

asyncio's `loop.sendfile` does that on asyncio's own loops only. So the bytes go to a second descriptor of the
connection (dup(2)), which the loop watches for room apart from the transport's own; each turn gives one
reader one TURN at most, so that a thousand of them share the loop. What the kernel would have to fetch from
the disk first is read in a thread: sendfile(2) waits for the disk, whatever the socket's mode is.
"""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

# Bytes that one reader is given in one turn of the loop: 0.5 ms on loopback. More of it makes others wait,
# and a reader's socket seldom has room for it; with less, turns cost more than the copying.
TURN = 1 << 20
AHEAD = 256 << 10  # bytes in memory for each reader that waits for the disk


async def sendfile(transport: asyncio.Transport, file: int, offset: int, count: int) -> int:
    """Send `count` bytes from `offset` of the file of that descriptor; how many were sent.

    Fewer at the file's end, and where something is in the way after the first: the next call says what. The
    transport must have nothing left to write, and is given nothing until this has ended.
    Raises OSError (the client is gone, or the kernel cannot), ConnectionError when the transport is closed.
    """
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        raise ConnectionResetError("the connection is closed")
    loop = asyncio.get_running_loop()
    out = os.dup(connection.fileno())
    ended: asyncio.Future[int] = loop.create_future()
    sent = 0

    def more() -> None:
        nonlocal sent
        try:
            if transport.is_closing():
                raise ConnectionResetError("the connection is closed")
            taken = os.sendfile(out, file, offset + sent, min(TURN, count - sent))
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


async def written(transport: asyncio.Transport, response: web.StreamResponse) -> None:
    """Wait until the transport has nothing left to write. Raises ConnectionError."""
    if transport.get_write_buffer_size():
        transport.set_write_buffer_limits(high=0)  # full until it is empty
        try:
            await response.drain()
        finally:
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
