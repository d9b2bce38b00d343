"""Connections that are opened before there is a request for them.

Opening one takes a round trip, in TLS two or three, and a proxy's own. Whoever knows what will be asked for
next has that done meanwhile (`open_ahead`). A request that finds no idle connection takes one of these, also
one that is still being opened; it makes one of its own only where there is none, or where it came to nothing.
Nothing is sent over them before, but the handshake.

They are few, and do not live long: one that nobody took is closed LIFE after it was begun. They count among
the connections that there may be to one host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.tracing import Trace

# Seconds. A client asks for blobs right after the manifest, behind an index two round trips later. Servers
# give up whoever connects and says nothing (HAProxy's `timeout http-request`: 5 s in many a configuration).
LIFE = 4.0
NO_LIMITS = aiohttp.ClientTimeout(total=None, connect=None, sock_read=None, sock_connect=None)


class _Opening:
    """One connection, being opened or open; nobody's yet."""

    def __init__(self, task: asyncio.Task[ResponseHandler], end: Callable[[_Opening], None]) -> None:
        """`end` is called when its time is over."""
        self.task = task
        self._timer = asyncio.get_running_loop().call_later(LIFE, end, self)

    @property
    def is_open(self) -> bool:
        return self.task.done() and not self.is_useless

    @property
    def is_useless(self) -> bool:
        """Whether it failed, or the other side has closed it or said something unasked."""
        if not self.task.done():
            return False
        if self.task.cancelled() or self.task.exception() is not None:
            return True
        connection = self.task.result()
        return connection.should_close or not connection.is_connected()

    def take(self) -> None:
        """It is the caller's from now on."""
        self._timer.cancel()

    def drop(self) -> None:
        """Close it; safe to call twice."""
        self._timer.cancel()
        self.task.cancel()
        if self.task.done() and not self.task.cancelled() and self.task.exception() is None:
            self.task.result().abort()


class Connector(aiohttp.TCPConnector):
    """See the module's text. `connections`: to one host at a time; further requests wait.

    `kept_for`: seconds that one is used again after its last request.
    """

    def __init__(self, connections: int, kept_for: float, resolver: AbstractResolver) -> None:
        super().__init__(limit=0, limit_per_host=connections, keepalive_timeout=kept_for, resolver=resolver)
        self._kept_for = kept_for
        self._openings: dict[ConnectionKey, list[_Opening]] = {}
        self._tasks: set[asyncio.Task[ResponseHandler]] = set()

    def open_ahead(self, make: Callable[[], aiohttp.ClientRequest], count: int) -> int:
        """Begin to open connections for requests like `make()`, until `count` are idle or on their way.

        Returns how many were begun. Waits for nothing; a failure is not told.
        """
        request = make()
        key = request.connection_key
        openings = self._useful(key)
        free = self.limit_per_host - len(self._acquired_per_host.get(key, ()))
        missing = 0 if self.closed else max(0, min(count, free) - self._idle(key) - len(openings))
        for _ in range(missing):
            openings.append(self._begin(key, make()))
        self._keep(key, openings)
        return missing

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close all of them. Safe to call twice."""
        for openings in self._openings.values():
            for opening in openings:
                opening.drop()
        self._openings.clear()
        await super().close(abort_ssl=abort_ssl)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> aiohttp.connector.Connection | None:
        """An idle connection, but none on which something came that nobody asked for: aiohttp would take it
        for the next request's answer.
        """
        for each, _since in self._conns.get(key, ()):
            if each.should_close:
                each.close()
        return await super()._get(key, traces)

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        """A connection for a request that found none idle."""
        while (opening := self._take(req.connection_key)) is not None:
            try:
                await opening.task
            except asyncio.CancelledError:  # the request's; the connection may be open all the same
                opening.drop()
                raise
            except (aiohttp.ClientError, OSError):
                continue  # the request's own attempt says why
            if opening.is_open:
                return opening.task.result()
            opening.drop()
        return await super()._create_connection(req, traces, timeout)

    def _idle(self, key: ConnectionKey) -> int:
        """How many a request could have at once. Those that are too old, or of no use, are closed: a request
        would do that, or aiohttp some time later, and until then they would be more than there may be.
        """
        oldest = monotonic() - self._kept_for
        idle = 0
        for each, since in self._conns.get(key, ()):
            if since < oldest or each.should_close:
                each.close()
            idle += each.is_connected()
        return idle

    def _begin(self, key: ConnectionKey, request: aiohttp.ClientRequest) -> _Opening:
        opened = super()._create_connection(request, [], NO_LIMITS)
        task = asyncio.create_task(opened, name=f"connection to {key.host}")
        self._tasks.add(task)
        task.add_done_callback(self._begun)
        return _Opening(task, partial(self._end, key))

    def _begun(self, task: asyncio.Task[ResponseHandler]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: nobody may ever wait for it

    def _end(self, key: ConnectionKey, opening: _Opening) -> None:
        """Nobody took it."""
        openings = self._openings.get(key, [])
        if opening in openings:
            self._keep(key, [other for other in openings if other is not opening])
        opening.drop()

    def _take(self, key: ConnectionKey) -> _Opening | None:
        """One that is open, else the one that was begun first."""
        openings = self._useful(key)
        taken = next((each for each in openings if each.is_open), openings[0] if openings else None)
        if taken is not None:
            openings.remove(taken)
            taken.take()
        self._keep(key, openings)
        return taken

    def _useful(self, key: ConnectionKey) -> list[_Opening]:
        """Those that may still be of use; the others are closed."""
        openings = self._openings.get(key, [])
        for opening in openings:
            if opening.is_useless:
                opening.drop()
        return [opening for opening in openings if not opening.is_useless]

    def _keep(self, key: ConnectionKey, openings: list[_Opening]) -> None:
        if openings:
            self._openings[key] = openings
        else:
            self._openings.pop(key, None)
