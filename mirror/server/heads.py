"""How large the head of a request may be, how long it may take, and what may come before its answer.

aiohttp bounds each line of a head and their number, which together is 4 MiB for each connection, and no time
but that of an idle connection. It holds 32 requests of one connection that wait for their turn. So what comes
is counted before it gets there. Two states, of which the server's middleware tells:

- Between two requests, bytes are a head until its empty line: `size` of them, within `timeout`, which begins
  when the connection is made, and later with a head's first byte.
- From then on, until it is answered, they are its body, which nobody wants, and the next requests: WITH_BODY
  of them; AHEAD where it has none. Behind a head that is plain they wait in `server.pending`.

NB: a request that was sent along with a body is seen by aiohttp alone. Its head counts as what is sent ahead,
and what of it comes between the first answer and the turn of the second as a head of its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Hashable

END = b"\r\n\r\n"
LINE = re.compile(rb"[A-Z]+ [!-~]+ HTTP/1\.[01]\r\n")
BODY = (b"content-length", b"transfer-encoding")  # without one a request has none
# Bytes of a body and of what follows. More than what is read of a body (middleware.LINGER_BYTES) with what
# the buffers on the way take.
WITH_BODY = 1 << 20
AHEAD = 256 << 10  # bytes of requests that follow; a client that pipelines sends some KiB
TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 29\r\nConnection: close\r\n\r\n"
    b"Request header is too large.\n"
)
SLOW, LARGE, MUCH = "slow head", "head too large", "sends more than is answered"  # why a client is dropped


class Heads:
    """Of one connection. `dropped` is told why the client is dropped."""

    __slots__ = (
        "_ahead",
        "_answering",
        "_dropped",
        "_most",
        "_over",
        "_size",
        "_tail",
        "_taken",
        "_timeout",
        "_timer",
        "client",
        "has_more",
        "when_answered",
    )

    def __init__(self, timeout: float, size: int, dropped: Callable[[str], None]) -> None:
        self._timeout, self._size, self._dropped = timeout, size, dropped
        self._answering = False
        self.when_answered: Callable[[], None] | None = None
        self.has_more = False  # the next request waits already
        self.client: Hashable = None  # whose turn it takes
        self._taken = 0  # bytes of the present head
        self._tail = b""  # the last of them: END may come in pieces
        self._ahead = 0  # bytes since the end of the head that is being answered
        self._most = WITH_BODY  # of these
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    def watch(self, transport: asyncio.Transport) -> None:
        """The connection is made, or a head has begun: its time runs."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout, self._too_slow, transport)

    def heard(self) -> None:
        """There is a whole head."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def is_held_up(self) -> bool:
        """Whether what comes has to wait: something is being answered, and this is no body of it."""
        return self._answering and self._most == AHEAD

    @property
    def is_answering(self) -> bool:
        """Whether a request has passed that is not answered."""
        return self._answering

    def end_of(self, data: bytes, start: int = 0) -> int | None:
        """How many bytes, from `start` on, the present head still has; None: more than these, or a body."""
        if self._answering:
            return None
        begins = start
        if not self._taken:
            while data.startswith((b"\r", b"\n"), begins):
                begins += 1
            end = data.find(END, begins)
            return None if end < 0 else end + len(END) - start
        early = (self._tail + data[start : start + len(END) - 1]).find(END)
        if early >= 0:
            return early + len(END) - len(self._tail)
        end = data.find(END, start)
        return None if end < 0 else end + len(END) - start

    def is_plain(self, data: bytes) -> bool:
        """Whether the head that ends with these bytes is all of them, and none has doubts where it ends.

        One with a body is not: what a client sends with it is a part of what has to be judged.
        """
        head = data.lstrip(b"\r\n")
        return (
            not self._taken
            and LINE.match(head) is not None
            and head.count(b"\n") == head.count(b"\r") == head.count(b"\r\n")
            and not any(word in head.lower() for word in BODY)
        )

    def passes(self, data: bytes, transport: asyncio.Transport) -> bool:
        """Whether these bytes may go on; else the connection has been ended."""
        if self._over:
            return False
        if self._answering:
            self._ahead += len(data)
        else:
            self._follow(data, transport)
        if self._taken > self._size:
            self._end(LARGE)
            transport.write(TOO_LARGE)
            transport.close()
        return not self._over

    def passed(self, transport: asyncio.Transport) -> None:
        """aiohttp has them: cut who has sent too much, unless nothing more of his is read.

        It stops reading while 32 requests wait, or a body that nobody takes. What is held is bounded then,
        and costs nothing more; who is cut would come again.
        """
        if self._ahead > self._most and not self._over and transport.is_reading():
            self._end(MUCH)
            transport.abort()

    def _follow(self, data: bytes, transport: asyncio.Transport) -> None:
        """A head goes on, or begins."""
        if not self._taken:
            data = data.lstrip(b"\r\n")  # RFC 9112 §2.2: empty lines before a request are ignored
        joined = self._tail + data
        end = joined.find(END)
        if end < 0:
            self._taken += len(data)
            self._tail = joined[-3:]
            if data:
                self.watch(transport)
            return
        is_plain = self.is_plain(data[: end + len(END)])
        self._taken += end + len(END) - len(self._tail)
        if self._taken <= self._size:
            self.begun(with_body=not is_plain)
            self._ahead = len(joined) - end - len(END)

    def begun(self, *, with_body: bool = True) -> None:
        """A request is being answered; until it is known, one that is not plain may have a body."""
        self.heard()
        if not self._answering:
            self._answering, self._ahead = True, 0
        self._most = WITH_BODY if with_body else AHEAD
        self._taken, self._tail = 0, b""

    def answered(self) -> None:
        """What comes now is a head, or the rest of one."""
        self._answering, self._ahead = False, 0
        if self.when_answered is not None:
            self.when_answered()

    def stop(self) -> None:
        """The connection has ended."""
        self.heard()
        self._over = True
        self.when_answered = None

    def _too_slow(self, transport: asyncio.Transport) -> None:
        self._timer = None
        if self._taken:  # who has said nothing at all is a port scanner, or a check of somebody's health
            self._dropped(SLOW)
        self._over = True
        transport.abort()

    def _end(self, why: str) -> None:
        self._dropped(why)
        self.stop()
