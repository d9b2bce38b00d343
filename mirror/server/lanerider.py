"""One connection of the fast lane: what is answered, whether its client reads, when it was heard last."""

from __future__ import annotations

import asyncio
from typing import Protocol

from aiohttp import web

from mirror.server.lanelog import Peer
from mirror.server.progress import LITTLE, held, limit_unread

HEAD_LIMIT = 4096  # bytes of a request; what clients send has 200 to 600, and a token's 1 to 2 KiB more
# Requests of one connection that wait. More than one is usual: the client has an answer before we know.
PIPELINED = 8


class Inner(Protocol):
    """Of aiohttp's protocol (web.RequestHandler), what is public and needed here."""

    def keep_alive(self, val: bool) -> None:
        """Cancels the timer of an idle connection."""

    def force_close(self) -> None: ...


class Rider:
    """One connection: what of it is answered, and when it was heard last."""

    __slots__ = (
        "_begun",
        "_guarded",
        "_heads",
        "_inner",
        "_keepalive_timeout",
        "_last",
        "_loop",
        "_mixed",
        "_timer",
        "_transport",
        "_unlooked",
        "_write_timeout",
        "mark",
        "peer",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        inner: Inner,
        *,
        write_timeout: float,
        keepalive_timeout: float,
        mark: bytes,
    ) -> None:
        self._transport, self._inner = transport, inner
        self._write_timeout, self._keepalive_timeout = write_timeout, keepalive_timeout
        self._loop = asyncio.get_running_loop()
        self.peer = Peer(transport)
        self.mark = mark  # what is kept for this peer's requests is kept apart from others'
        self._heads: list[bytes] = []  # at aiohttp, and not answered; it answers one after the other
        self._begun = b""  # a head whose end is still to come
        self._mixed = False  # something else came: from then on nobody here knows what is answered
        self._last = 0.0  # loop.time() of the last repetition
        self._timer: asyncio.TimerHandle | None = None
        self._guarded = False  # the kernel's own guard is set
        self._unlooked = 0  # bytes written since the client was seen to take them

    @property
    def head(self) -> bytes | None:
        """The request that is being answered by aiohttp."""
        return self._heads[0] if self._heads else None

    @property
    def is_idle(self) -> bool:
        """Whether the next bytes are a request that nobody has begun to read, after the last answer."""
        return not self._heads and not self._begun and not self._mixed

    def hand_on(self, data: bytes) -> None:
        """These bytes go to aiohttp."""
        if self._mixed:
            return
        self._begun += data
        if is_head(self._begun):
            self._heads.append(self._begun)
            self._begun = b""
        elif len(self._begun) > HEAD_LIMIT or b"\r\n\r\n" in self._begun:
            self._mixed = True
        if self._mixed or len(self._heads) > PIPELINED:
            self._lose_count()

    def answered(self, plain: bool) -> bytes | None:
        """aiohttp has answered; what it was, where that is known."""
        if not self._heads or not plain:
            self._lose_count()
            return None
        return self._heads.pop(0)

    def _lose_count(self) -> None:
        self._mixed = True
        self._heads, self._begun = [], b""

    def is_ready(self) -> bool:
        """Whether the client takes what it is sent."""
        transport = self._transport
        if transport.is_closing() or transport.get_write_buffer_size():
            return False
        if self._unlooked > LITTLE:
            if held(transport) > LITTLE:
                return False
            self._unlooked = 0
        return True

    def write(self, data: bytes) -> None:
        """An answer."""
        self._transport.write(data)
        self._unlooked += len(data)
        # aiohttp's timer would find the connection idle: ours takes its place until aiohttp's next answer.
        self._inner.keep_alive(True)
        self._last = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._keepalive_timeout, self._look)
        if not self._guarded:
            self._guarded = True
            limit_unread(self._transport, self._write_timeout)

    def leave(self) -> None:
        """The connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Close the connection if it idles; not while aiohttp has work, and a timer of its own after it."""
        self._timer = None
        if self._mixed or self._heads or self._begun:
            return
        left = self._last + self._keepalive_timeout - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._inner.force_close()


def is_head(data: bytes) -> bool:
    """Whether this is one whole head of GET or HEAD, as every parser understands it."""
    return (
        len(data) <= HEAD_LIMIT
        and data.startswith((b"GET ", b"HEAD "))
        and data.find(b"\r\n\r\n") == len(data) - 4
        and data.count(b"\n") == data.count(b"\r\n")
    )


def is_plain(request: web.BaseRequest, response: web.StreamResponse) -> bool:
    """Whether the next bytes of this connection are a new request, and nothing else."""
    return (
        request.version == (1, 1)
        and bool(response.keep_alive)
        and not request.body_exists
        and "Upgrade" not in request.headers
        and "Expect" not in request.headers
    )
