"""How a body's parts leave: files by sendfile, bytes by write, and nobody waits for ever.

NB: one open file is read by many at once, so nothing here may seek. In TLS the bytes are read and encrypted
in a thread (`tls`); where else sendfile cannot be had (some file systems), they are read by pread in one.
"""

from __future__ import annotations

import asyncio
import errno
import os

from aiohttp import web

from mirror.registry import FileSpan, Part
from mirror.server import kernel
from mirror.server.progress import while_taken
from mirror.server.tls import TlsTransport

# A piece is how far `sent` may be behind when a client leaves, and what the kernel is asked for in one turn.
# The first is small; a quick client soon gets large ones, which cost fewer turns.
FIRST_PIECE = 256 << 10  # bytes
LARGEST_PIECE = 4 << 20  # bytes; 0.03 s at 1 Gbit/s
NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # what the kernel answers then, sendfile(2)
UNREADABLE = (errno.EIO, errno.ESTALE)  # what a file's disk says, and no connection
QUICK = 0.01  # of the time-out: a piece that left faster than this is followed by one of twice the size
READ_PIECE = 256 << 10  # bytes in memory for each reader where sendfile cannot be had
TLS_PIECE = 1 << 20  # bytes that are encrypted in one turn of a thread; in memory is much less, see `tls`
UNSENT = 64 << 10  # bytes that the kernel has not taken yet, with which another piece is written at once


class ClientGoneError(Exception):
    """The client closed the connection, which is its right."""


class ClientSlowError(Exception):
    """The client took nothing for the whole of the time-out."""


class TruncatedError(Exception):
    """A file ended before the bytes that it was said to have."""


class Writer:
    """Sends parts to one client. The response's headers must have been sent.

    Raises ClientGoneError, ClientSlowError, TruncatedError, and OSError where the file cannot be read.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse, timeout: float) -> None:
        self._request = request
        self._response = response
        self._timeout = timeout  # seconds without any progress
        self._piece = FIRST_PIECE
        # The kernel cannot encrypt for us.
        self._sendfile = request.transport is not None and not request.transport.get_extra_info("sslcontext")
        self.sent = 0  # bytes

    async def send(self, part: Part) -> None:
        """All of one part."""
        if isinstance(part, FileSpan):
            await self._send_file(part)
        else:
            view = memoryview(part)
            for start in range(0, len(view), FIRST_PIECE):
                await self._write(view[start : start + FIRST_PIECE])

    async def _send_file(self, span: FileSpan) -> None:
        offset, stop = span.offset, span.offset + span.count
        while offset < stop:
            count = await self._send_piece(span, offset, stop)
            if count == 0 and self._sendfile:
                raise TruncatedError(f"the file ends at {offset}, {stop} bytes were expected")
            offset += count

    async def _send_piece(self, span: FileSpan, offset: int, stop: int) -> int:
        """0 is told by sendfile only, see there."""
        transport = self._request.transport
        if isinstance(transport, TlsTransport):
            return await self._by_tls(transport, span, offset, stop)
        return await (self._by_sendfile if self._sendfile else self._by_pread)(span, offset, stop)

    async def _by_tls(self, transport: TlsTransport, span: FileSpan, offset: int, stop: int) -> int:
        """At most one piece, encrypted in a thread, once what was before has left."""
        file, wanted = span.file.fileno(), min(TLS_PIECE, stop - offset)
        await kernel.in_memory(file, offset, wanted)
        try:
            async with while_taken(transport, self._timeout):
                await transport.drained()
            count = await transport.send_file(file, offset, wanted)
        except TimeoutError as error:
            raise ClientSlowError from error
        except ConnectionError as error:
            raise ClientGoneError from error
        if not count:
            raise TruncatedError(f"the file ends at {offset}, {stop} bytes were expected")
        self.sent += count
        return count

    async def _by_sendfile(self, span: FileSpan, offset: int, stop: int) -> int:
        """One piece by the kernel; 0 at the end of the file, or once sendfile turned out not to work."""
        loop = asyncio.get_running_loop()
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientGoneError
        file, wanted = span.file.fileno(), min(self._piece, stop - offset)
        await kernel.in_memory(file, offset, wanted)
        began = loop.time()
        try:
            async with while_taken(transport, self._timeout):
                await kernel.written(transport, self._response)
                count = await kernel.send(transport, file, offset, wanted)
        except TimeoutError as error:
            raise ClientSlowError from error
        except OSError as error:
            if error.errno in UNREADABLE:
                raise
            if error.errno not in NO_SENDFILE:
                raise ClientGoneError from error
            self._sendfile = False
            return 0
        self.sent += count
        self._piece = next_piece(self._piece, loop.time() - began, self._timeout)
        return count

    async def _by_pread(self, span: FileSpan, offset: int, stop: int) -> int:
        """One piece through Python."""
        loop = asyncio.get_running_loop()
        count = min(READ_PIECE, stop - offset)
        data = await loop.run_in_executor(None, os.pread, span.file.fileno(), count, offset)
        if not data:
            raise TruncatedError(f"the file ends at {offset}, {stop} bytes were expected")
        await self._write(data)
        return len(data)

    async def _write(self, data: bytes | memoryview) -> None:
        """One piece. A client that has room for it, as most have, costs no watch over its progress."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientGoneError
        try:
            if self.sent and transport.get_write_buffer_size() <= UNSENT:
                transport.write(data)
            else:  # as for the first piece, which the headers leave with
                async with while_taken(transport, self._timeout):
                    await self._response.write(data)
        except TimeoutError as error:
            raise ClientSlowError from error
        except ConnectionError as error:
            raise ClientGoneError from error
        self.sent += len(data)


async def in_memory(part: Part) -> bytes:
    """All of a small part. Raises TruncatedError."""
    if isinstance(part, bytes):
        return part
    loop = asyncio.get_running_loop()
    data = await loop.run_in_executor(None, os.pread, part.file.fileno(), part.count, part.offset)
    if len(data) < part.count:
        raise TruncatedError(f"the file ends at {part.offset + len(data)}, {part.count} bytes were expected")
    return data


def next_piece(piece: int, seconds: float, timeout: float) -> int:
    """The size of the piece after one of `piece` bytes that took `seconds`."""
    if seconds < timeout * QUICK:
        return min(piece * 2, LARGEST_PIECE)
    return piece if seconds < timeout / 4 else max(piece // 4, FIRST_PIECE)
