"""Whether a client takes what it is sent: seen at its socket, not at how long a piece of ours needs.

The kernel takes megabytes from us at once and hands them on at the client's pace. So the end of a piece says
little: a client of 20 kB/s needs minutes for the 4 MiB in the socket's buffer, and lives. What it took shows
in the bytes that are still held for it, which change with each acknowledgement.

NB: the kernel's own guard, TCP_USER_TIMEOUT, does not do for that. Linux counts it from when the client's
buffer was full until all of the next segment fits; a client that takes a part now and then, for longer, is
reset (measured: one of 50 kB/s, after 60 s). It guards what is left once we look no longer, which is little.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import socket
import struct
import termios
from types import TracebackType
from weakref import WeakKeyDictionary

# Looks within one time-out. A client that took something between two looks, and whose socket got as much
# anew, seems idle for once; that it does so this many times in a row is as good as impossible.
LOOKS = 8
FIRST_LOOK = 0.001  # seconds; a quick client has a full socket buffer (4 MiB) in 3 ms at 10 Gbit/s
LITTLE = 64 << 10  # bytes; within a time-out of 60 s also for a client of 2 kB/s
LESS = 4 << 10  # bytes, where the client has asked for more before it has taken this


class while_taken:  # noqa: N801 - `async with`; a generator would cost each answer more than all that it does
    """Raises TimeoutError into what is within once the client took nothing for `timeout` seconds.

    At most an eighth of it later. What is within may take as long as it likes otherwise.

    NB: a receiver reports free space in steps: of a sixteenth of its buffer, or of a segment. One that reads
    so slowly that a step takes the whole time-out seems to read nothing; with Linux' usual largest buffer
    (6 MiB) and 60 s that is below 7 kB/s, with the one that connections begin with below 1.1 kB/s.
    """

    __slots__ = ("_limit", "_timeout", "_transport", "_watch")

    def __init__(self, transport: asyncio.Transport | None, timeout: float) -> None:
        self._transport, self._timeout = transport, timeout
        self._limit = asyncio.timeout(None)
        self._watch: _Watch

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._watch = _Watch(self._transport, self._timeout, self._limit)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.stop()
        await self._limit.__aexit__(kind, error, trace)  # it raises, and hides nothing


class _Watch:
    """Looks at one transport every now and then, and ends `limit` when it finds no progress."""

    def __init__(self, transport: asyncio.Transport | None, timeout: float, limit: asyncio.Timeout) -> None:
        self._transport, self._timeout, self._limit = transport, timeout, limit
        self._loop = asyncio.get_running_loop()
        self._held = held(transport)
        self._since = self._loop.time()
        self._next = self._loop.call_later(timeout / LOOKS, self._look)

    def _look(self) -> None:
        now, found = self._loop.time(), held(self._transport)
        if found != self._held:
            self._held, self._since = found, now
        elif now - self._since >= self._timeout:
            self._limit.reschedule(now)
            return
        self._next = self._loop.call_later(self._timeout / LOOKS, self._look)

    def stop(self) -> None:
        """No further look."""
        self._next.cancel()


async def settled(transport: asyncio.Transport | None, timeout: float, little: int = LITTLE) -> None:
    """Returns when the client has all but `little` of what it was sent, or is gone. Within `while_taken`.

    NB: with nothing to write, and while nothing is read since more requests wait, a transport does not learn
    that its connection was reset; and what the kernel had for it counts as held for ever.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    while transport is not None and not transport.is_closing() and held(transport) > little:
        if was_reset(transport):
            transport.abort()
            return
        # In proportion: a quick client's next request does not wait, a slow one costs few looks.
        waited = (loop.time() - began) / LOOKS
        await asyncio.sleep(min(max(waited, FIRST_LOOK), timeout / LOOKS))


def held(transport: asyncio.Transport | None) -> int:
    """Bytes that the client has not acknowledged: ours and the kernel's (SIOCOUTQ, tcp(7) and unix(7))."""
    if transport is None:
        return 0
    count = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return count
    try:
        (kernel,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
    except OSError:  # not on this system: then only our own buffer shows progress
        return count
    return count + int(kernel)


def was_reset(transport: asyncio.Transport) -> bool:
    """Whether the connection is at its end in both directions, as the kernel knows it."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return False
    asked = select.poll()
    asked.register(connection.fileno(), 0)  # errors and hang-ups are told in any case
    return bool(asked.poll(0))


def limit_unread(transport: asyncio.Transport | None, timeout: float) -> None:
    """Let the kernel drop a client that leaves the rest unread for `timeout` seconds; with 0 it does not."""
    if transport is None or _limits.get(transport) == timeout:
        return
    _limits[transport] = timeout
    _set(transport, socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", None), int(timeout * 1000))


_limits: WeakKeyDictionary[asyncio.Transport, float] = WeakKeyDictionary()  # as they were set


def reset_on_close(transport: asyncio.Transport | None) -> None:
    """Closing the transport makes the kernel forget what is unsent, which could stay for ever else."""
    _set(transport, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _set(transport: asyncio.Transport | None, level: int, option: int | None, value: int | bytes) -> None:
    connection = transport.get_extra_info("socket") if transport is not None else None
    if option is None or connection is None or connection.fileno() < 0:  # TCP_USER_TIMEOUT is Linux' only
        return
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(level, option, value)
