"""Who may connect: so many clients at once, and each has to ask for something soon.

aiohttp has no bound of its own. Without one, silent connections take every file descriptor, and then nobody
is answered; asyncio, besides, logs each attempt to accept with a traceback, thousands in a second.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import cast

import structlog
from aiohttp import web

from mirror.server import limits
from mirror.server.certificates import Certificates
from mirror.server.lane import Lane
from mirror.server.lanerider import Rider
from mirror.server.tls import TlsTransport
from mirror.sometimes import Sometimes

HEAD_TIMEOUT = 10.0  # seconds until a connection's first request line and headers are there; nginx has 60
BACKLOG = 1024  # connections waiting to be accepted; a docker pull of n layers opens n+4
LOG_INTERVAL = 10.0  # seconds between two lines about the same trouble

LANE: web.AppKey[Lane | None] = web.AppKey("lane")
DOORS: web.AppKey[list[Door]] = web.AppKey("doors")  # those that this application's sites have
MAX = web.AppKey("connections_max", int)  # 0: as many as the limit of open files has room for

log = structlog.get_logger()


class Site(web.BaseSite):
    """Accepts connections for a runner of an application from routes.build. Raises OSError when it cannot.

    At `host` and `port`, or at `listening`, a socket that is bound and is closed with the site. In TLS with
    `certificates`.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        host: str | None = None,
        port: int = 0,
        *,
        listening: socket.socket | None = None,
        certificates: Certificates | None = None,
        head_timeout: float = HEAD_TIMEOUT,
    ) -> None:
        self._most = runner.app[MAX] or limits.connections_max()
        # asyncio accepts so many in one turn, before any is counted: they must not take all files at once.
        super().__init__(runner, backlog=min(BACKLOG, max(1, self._most // 2)))
        self._host, self.port = host, port
        self._listening = listening
        self._certificates = certificates
        self._lane = runner.app[LANE]
        self._doors = runner.app.get(DOORS, [])
        self._head_timeout = head_timeout

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"http://{self._host or '0.0.0.0'}:{self.port}"  # noqa: S104 - a name, as TCPSite has it

    async def start(self) -> None:
        """Listen; `port` is then the one that was taken for 0."""
        await super().start()
        assert self._runner.server is not None
        _quieten_accept()
        door = Door(self._runner.server, self._most, self._head_timeout, self._lane)
        if self._certificates is not None:
            door.tls = partial(TlsTransport, self._certificates, timeout=self._head_timeout)
        self._doors.append(door)
        self._server = await self._accept(door)
        if self._listening is None:
            self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, door: Door) -> asyncio.Server:
        loop, given = asyncio.get_running_loop(), self._listening
        if given is None:
            return await loop.create_server(door.admit, self._host, self.port, backlog=self._backlog)
        if given.family == socket.AF_UNIX:
            return await loop.create_unix_server(door.admit, sock=given, backlog=self._backlog)
        return await loop.create_server(door.admit, sock=given, backlog=self._backlog)


class Door:
    """Counts those who are in: `admit` is asyncio's protocol factory. `head_timeout` is in seconds.

    `tls`, where it is set, puts TLS below a protocol.
    """

    def __init__(self, server: web.Server, most: int, head_timeout: float, lane: Lane | None = None) -> None:
        self.server, self.most, self.head_timeout, self.lane = server, most, head_timeout, lane
        self.tls: Callable[[asyncio.Protocol], asyncio.Protocol] | None = None
        self.inside = 0
        self.refused = 0
        self._refused = Sometimes(LOG_INTERVAL)

    def admit(self) -> asyncio.Protocol:
        """The protocol for one more connection: aiohttp's, or one that closes it."""
        if self.inside < self.most:
            client = _Client(self)
            return client if self.tls is None else self.tls(client)
        self.refused += 1
        count = self._refused.count(time.monotonic())
        if count:
            log.warning("client.refused", reason="too many connections", limit=self.most, count=count)
        return _Refused()


class _Refused(asyncio.Protocol):
    """Closes at once: whoever has somewhere else to go learns so without waiting."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        transport.abort()


class _Client(asyncio.Protocol):
    """A connection that counts; what the fast lane does not take is handed on to aiohttp's protocol.

    NB: counted from the moment it was accepted: asyncio tells a protocol of its connection a turn later, when
    hundreds may have been accepted; and below TLS there may never be one that is told.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._inner: web.RequestHandler
        self._lane = door.lane
        self._rider: Rider | None = None
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._tail = b""
        door.inside += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._door.head_timeout, transport.abort)
        self._transport = transport
        self._inner = self._door.server()
        if self._lane is not None:
            self._rider = self._lane.enter(transport, self._inner)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.inside -= 1
        if self._transport is None:
            return  # no handshake
        self._heard()
        if self._lane is not None and self._rider is not None:
            self._lane.leave(self._transport)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deadline is not None:
            # The end of the first head. aiohttp closes what is malformed, and what idles after an answer.
            if b"\r\n\r\n" in self._tail + data:
                self._heard()
            self._tail = (self._tail + data)[-3:]
        if self._lane is None or self._rider is None or not self._lane.takes(self._rider, data):
            self._inner.data_received(data)

    def _heard(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def eof_received(self) -> bool | None:
        self._inner.eof_received()  # returns nothing: the transport closes
        return None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


class QuietAccept(logging.Filter):
    """One event now and then instead of asyncio's lines when nothing can be accepted."""

    def __init__(self) -> None:
        super().__init__()
        self._failed = Sometimes(LOG_INTERVAL)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything else through."""
        if not record.getMessage().startswith("socket.accept() out of system resource"):
            return True
        count = self._failed.count(time.monotonic())
        if count:
            error = record.exc_info[1] if record.exc_info else None
            log.error("client.not_accepted", reason=str(error), count=count)
        return False


def _quieten_accept() -> None:
    logger = logging.getLogger("asyncio")
    if not any(isinstance(known, QuietAccept) for known in logger.filters):
        logger.addFilter(QuietAccept())
