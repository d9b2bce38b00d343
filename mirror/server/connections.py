"""Who may connect: so many clients at once, so many of one, and each has to ask for something soon.

aiohttp has no bound of its own. Without one, silent connections take every file descriptor, and then nobody
is answered; asyncio, besides, logs each attempt to accept with a traceback, thousands in a second.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol, cast

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from mirror.server.certificates import Certificates
from mirror.server.crowd import Crowd
from mirror.server.forwarded import Network
from mirror.server.heads import Heads
from mirror.server.lane import Lane
from mirror.server.lanerider import Rider
from mirror.server.limits import Limits
from mirror.server.pending import Pending
from mirror.server.tls import TlsTransport
from mirror.server.turns import Turns
from mirror.sometimes import Sometimes

BACKLOG = 1024  # connections waiting to be accepted; a docker pull of n layers opens n+4
LOG_INTERVAL = 10.0  # seconds between two lines about the same trouble

LANE: web.AppKey[Lane | None] = web.AppKey("lane")
DOORS: web.AppKey[list[Door]] = web.AppKey("doors")  # those that this application's sites have
LIMITS = web.AppKey("limits", Limits)
PROXIES: web.AppKey[tuple[Network, ...]] = web.AppKey(
    "proxies"
)  # whose connections are not counted by client
HEADS: web.AppKey[dict[asyncio.BaseTransport, Heads]] = web.AppKey(
    "heads"
)  # of the connections that are open

TURNS = web.AppKey("turns", Turns)

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
    ) -> None:
        self._limits = runner.app[LIMITS]
        self._most, most_each = self._limits.counted()
        self._crowd = Crowd(most_each, runner.app.get(PROXIES, ()))
        # asyncio accepts so many in one turn, before any is counted: they must not take all files at once.
        super().__init__(runner, backlog=min(BACKLOG, max(1, self._most // 2)))
        self._host, self.port = host, port
        self._listening = listening
        self._certificates = certificates
        self._lane = runner.app[LANE]
        self._doors = runner.app.get(DOORS, [])
        self._heads = runner.app[HEADS]
        self._turns = runner.app.get(TURNS)

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"http://{self._host or '0.0.0.0'}:{self.port}"  # noqa: S104 - a name, as TCPSite has it

    async def start(self) -> None:
        """Listen; `port` is then the one that was taken for 0."""
        await super().start()
        assert self._runner.server is not None
        _quieten_accept()
        limits = replace(self._limits, connections=self._most)
        door = Door(self._runner.server, limits, self._heads, self._crowd, self._lane, self._turns)
        if self._certificates is not None:
            door.tls = partial(TlsTransport, self._certificates, timeout=self._limits.head_timeout)
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


class TlsLayer(Protocol):
    """Makes what puts TLS below a protocol; `admits` is asked before a handshake begins."""

    def __call__(
        self, inner: asyncio.Protocol, *, admits: Callable[[asyncio.Transport], bool]
    ) -> asyncio.Protocol: ...


class Door:
    """Counts those who are in: `admit` is asyncio's protocol factory. `limits.connections` of them, never 0.

    `tls`, where it is set, puts TLS below a protocol.
    """

    def __init__(
        self,
        server: web.Server,
        limits: Limits,
        heads: dict[asyncio.BaseTransport, Heads],
        crowd: Crowd | None = None,
        lane: Lane | None = None,
        turns: Turns | None = None,
    ) -> None:
        self.server, self.most, self.limits, self.lane = server, limits.connections, limits, lane
        self.heads = heads
        self.crowd = crowd if crowd is not None else Crowd(limits.connections, ())
        self.turns = turns if turns is not None else Turns()
        self.tls: TlsLayer | None = None
        self.inside = 0
        self.refused = 0
        self._said: dict[str, Sometimes] = {}  # by reason, of which there are few

    def admit(self) -> asyncio.Protocol:
        """The protocol for one more connection: aiohttp's, or one that closes it."""
        if self.inside < self.most:
            client = _Client(self)
            return client if self.tls is None else self.tls(client, admits=client.arrives)
        self.refused += 1
        if count := self._count("too many connections"):
            log.warning("client.refused", reason="too many connections", limit=self.most, count=count)
        return _Refused()

    def admit_client(self, transport: asyncio.Transport) -> str | None:
        """By what name the client at the other side is counted; None: he has as many as he may."""
        name = self.crowd.enter(transport)
        if name is None:
            self.refused += 1
            reason = "too many connections of one client"
            if count := self._count(reason):
                remote = remote_of(transport)
                log.warning(
                    "client.refused", reason=reason, remote=remote, limit=self.crowd.most, count=count
                )
        return name

    def dropped(self, transport: asyncio.Transport, reason: str) -> None:
        """A client is dropped for what it sends."""
        if count := self._count(reason):
            log.info("client.dropped", reason=reason, remote=remote_of(transport), count=count)

    def _count(self, reason: str) -> int:
        return self._said.setdefault(reason, Sometimes(LOG_INTERVAL)).count(time.monotonic())


def remote_of(transport: asyncio.BaseTransport) -> object:
    """The other side's address, or what else it is known by."""
    peer = transport.get_extra_info("peername")
    return peer[0] if isinstance(peer, tuple | list) else peer


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
        self._heads: Heads
        self._pending: Pending
        self._name: str | None = None  # by which its client is counted
        self._is_new = True  # aiohttp's task for it has not begun
        door.inside += 1

    def arrives(self, transport: asyncio.Transport) -> bool:
        """Whether the client may have one more. Asked once, of the socket's own transport."""
        self._name = self._door.admit_client(transport)
        return self._name is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        if self._name is None and not self.arrives(transport):
            transport.abort()
            return
        limits = self._door.limits
        self._transport = transport
        self._heads = Heads(limits.head_timeout, limits.head_size, partial(self._door.dropped, transport))
        self._heads.watch(transport)
        self._door.heads[transport] = self._heads
        # Whoever is not counted by client takes turns by connection.
        self._pending = Pending(transport, self._heads, self._door.turns, self._name or self, self._give)
        self._inner = self._door.server()
        if self._lane is not None:
            self._rider = self._lane.enter(transport, self._inner)
        self._inner.connection_made(transport)
        asyncio.get_running_loop().call_soon(self._begun)

    def _begun(self) -> None:
        self._is_new = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.inside -= 1
        if self._name is not None:
            self._door.crowd.leave(self._name)
        if self._transport is None:
            return  # no handshake, or one too many
        self._heads.stop()
        self._door.heads.pop(self._transport, None)
        if self._lane is not None and self._rider is not None:
            self._lane.leave(self._transport)
        if self._is_new:
            # aiohttp's task would fail, with a traceback in the log: before Python 3.12 it begins a turn
            # later, and who leaves right after a handshake in TLS is gone by then.
            asyncio.get_running_loop().call_soon(self._inner.connection_lost, exc)
        else:
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._pending.holds:
            self._pending.add(data)
        elif self._lane is not None and self._rider is not None and self._lane.takes(self._rider, data):
            self._heads.heard()
        else:
            self._pending.take(data)

    def _give(self, data: bytes) -> bool:
        """These bytes have their turn; whether they are answered already."""
        assert self._transport is not None
        if self._lane is not None and self._rider is not None:
            if self._lane.takes(self._rider, data):
                self._heads.heard()
                return True
            self._rider.hand_on(data)
        if self._heads.passes(data, self._transport):
            self._inner.data_received(data)
            self._heads.passed(self._transport)
        return False

    def eof_received(self) -> bool | None:
        self._inner.eof_received()  # returns nothing: the transport closes
        return None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


@web.middleware
async def bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outside of all others: while a request is answered, what comes on its connection is no head."""
    transport = request.transport
    heads = request.app[HEADS].get(transport) if transport is not None else None
    if heads is None:
        return await handler(request)
    had_its_turn = heads.is_answering
    heads.begun(with_body=request.body_exists)
    try:
        if not had_its_turn and TURNS in request.app:  # it came with another's body, and aiohttp has kept it
            await request.app[TURNS].turn(heads.client)
        return await handler(request)
    finally:
        heads.answered()


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
