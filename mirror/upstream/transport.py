"""One HTTP request and its body, within time limits: no redirects, no retries, no credentials of its own.

Each request has one clock. It moves through the phases that the connector reports: waiting for a free
connection, connecting, waiting for the header. The phase in which it runs out is the trouble.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import aiohttp
import structlog
from yarl import URL

from mirror.upstream import addresses, tls
from mirror.upstream.addresses import NOT_PUBLIC, Resolver
from mirror.upstream.ahead import NO_LIMITS, Connector
from mirror.upstream.causes import address, cause_of, late
from mirror.upstream.failures import TransportError, Trouble
from mirror.upstream.lookups import Lookups
from mirror.upstream.proxies import Proxy, proxy_for
from mirror.upstream.settings import Settings, registry_url
from mirror.upstream.traffic import Traffic

READ_BUFFER = 1 << 20  # bytes a connection holds before it stops reading; twice that at the most
PART = 1 << 20  # bytes, the largest part given on at once
QUEUE_SECONDS = 60.0  # for a free connection: as long as our clients may wait for a first byte
SMALL_BODY_SECONDS = 60.0  # for a manifest, list or token in all, however evenly it drips
SCRAP_SECONDS = 5.0  # for the body of an error or a redirect in all: it is not worth more
KEPT_FOR = 30.0  # that a connection is used again after its last request
HEADER_LINE = 16 << 10  # bytes; locations signed by object storage run to some 4 KiB

_log = structlog.get_logger()


class _Clock:
    """The time limit of one request."""

    def __init__(self, settings: Settings) -> None:
        self.phase = Trouble.CONNECT_TIMEOUT
        self.seconds = settings.connect  # of the phase
        self.timeout = asyncio.timeout(settings.connect)
        self._settings = settings
        self._queue_ends: float | None = None  # loop.time(); None before the first wait for a connection

    def enter(self, phase: Trouble) -> None:
        """Start the phase's own time: anew, except that all waits for a connection have one together.

        A waiter that is woken may find the connection taken by another request, and is queued again.
        """
        now = asyncio.get_running_loop().time()
        if phase is Trouble.CROWDED:
            self.seconds = QUEUE_SECONDS
            if self._queue_ends is None:
                self._queue_ends = now + self.seconds
            ends = self._queue_ends
        else:
            connecting = phase is Trouble.CONNECT_TIMEOUT
            self.seconds = self._settings.connect if connecting else self._settings.firstbyte
            ends = now + self.seconds
        self.phase = phase
        self.timeout.reschedule(ends)


class Transport:
    """Owns the connections. Made in the running loop by the first request, ended by `close`."""

    def __init__(
        self, settings: Settings, lookups: Lookups | None = None, traffic: Traffic | None = None
    ) -> None:
        self.traffic = traffic or Traffic()
        self.stall = settings.stall  # seconds without a byte of a body
        self._settings = settings
        self._lookups = lookups or Lookups()
        self._registry = registry_url(settings.remoteurl)
        self._session: aiohttp.ClientSession | None = None
        self._connector: Connector | None = None  # set before the session is
        self._tls: tls.Contexts | None = None  # set before the session is
        self._resolver: Resolver | None = None  # set before the session is
        self._opening = asyncio.Lock()
        self._closed = False

    async def request(
        self, method: str, url: URL, headers: Mapping[str, str], data: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        """Send, and wait for the header. The caller closes the response. Raises TransportError."""
        session = await self._open_session()
        clock = _Clock(self._settings)
        proxy = self._proxy(url)
        login = _login(proxy)
        tunnelled = url.scheme == "https"  # then the proxy sees the CONNECT only, else the request itself
        try:
            async with clock.timeout:
                return await session.request(
                    method,
                    url,
                    headers=headers if tunnelled else {**headers, **login},
                    data=data,
                    ssl=self._tls_for(url),
                    allow_redirects=False,
                    proxy=proxy.url if proxy else None,
                    proxy_headers=login if tunnelled and login else None,
                    trace_request_ctx=clock,
                )
        except TimeoutError as error:
            text = late(clock.phase, clock.seconds)
            raise TransportError(clock.phase, cause=_via(proxy, text), host=address(url)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            cause = cause_of(error)
            raise TransportError(
                cause.trouble,
                cause.reason,
                cause=_via(proxy, cause.text),
                hint=cause.hint,
                host=address(url),
            ) from error

    def open_ahead(self, url: URL, count: int) -> None:
        """Begin to open connections to the origin of `url`, until `count` are idle or on their way.

        Nothing is waited for, and no failure told: a request will. Before the first request it does nothing.
        """
        if self._session is None or self._connector is None or self._closed:
            return
        try:
            proxy = self._proxy(url)
        except TransportError:
            return
        login = _login(proxy) if url.scheme == "https" else {}
        make = partial(  # NB: of other headers for the proxy than the session makes, they would be no use
            aiohttp.ClientRequest,
            "GET",
            url,
            loop=asyncio.get_running_loop(),
            ssl=self._tls_for(url),
            proxy=proxy.url if proxy else None,
            proxy_headers={**self._session.headers, **login} if proxy else None,
            session=self._session,
        )
        if begun := self._connector.open_ahead(make, count):
            _log.debug("upstream.opened_ahead", host=address(url), connections=begun)

    async def part(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        """The next bytes of a body as they come, at most `limit` and PART; empty at its end.

        Raises TransportError when nothing comes in time or the connection breaks.
        """
        content = response.content
        if content.exception() is None and (chunk := _chunk(content, min(limit, PART))):
            return self.traffic.came(chunk)
        try:
            async with asyncio.timeout(self.stall):
                return self.traffic.came(await content.read(min(limit, PART)))
        except TimeoutError as error:
            text = late(Trouble.STALLED, self.stall)
            raise TransportError(Trouble.STALLED, cause=text, host=address(response.url)) from error
        except (aiohttp.ClientError, OSError) as error:
            arrived = _arrived(response.content, min(limit, PART))
            if arrived:
                return self.traffic.came(arrived)
            text = cause_of(error).text
            raise TransportError(Trouble.BROKEN, cause=text, host=address(response.url)) from error
        except RuntimeError as error:  # aiohttp's, of a connection that it was told to close
            if not self._closed:
                raise
            raise TransportError(Trouble.STOPPING, host=address(response.url)) from error

    async def body(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        """A small body: whole, or its first `limit` + 1 bytes. Raises TransportError."""
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(SMALL_BODY_SECONDS):
                await self._read(response, limit + 1, parts)
        except TimeoutError as error:
            text = f"the answer was not whole within {SMALL_BODY_SECONDS:g} s"
            raise TransportError(Trouble.STALLED, cause=text, host=address(response.url)) from error
        return b"".join(parts)

    async def scrap(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        """What comes of the body of an answer whose status says it all: at most `limit` bytes, soon.

        Reading it to its end lets the connection be used again. docker-registry 2.8.2 breaks off its 416s.
        """
        parts: list[bytes] = []
        with contextlib.suppress(TransportError, TimeoutError):
            async with asyncio.timeout(SCRAP_SECONDS):
                await self._read(response, limit, parts)
        return b"".join(parts)

    async def _read(self, response: aiohttp.ClientResponse, limit: int, into: list[bytes]) -> None:
        while limit > 0 and (part := await self.part(response, limit)):
            into.append(part)
            limit -= len(part)

    async def close(self) -> None:
        """Drop all connections; nothing is sent afterwards. Safe to call twice."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None and not self._closed:
            async with self._opening:
                if self._session is None:
                    self._session = await self._new_session()
        if self._closed or self._session is None:
            await self.close()  # it may have been called while the session was being made
            raise TransportError(Trouble.STOPPING)
        return self._session

    def _proxy(self, url: URL) -> Proxy | None:
        """Through which proxy `url` is asked. Raises TransportError where it is not to be asked at all."""
        try:
            proxy = proxy_for(url, os.environ, self._settings.http_proxy)
        except ValueError as error:
            raise TransportError(Trouble.LOCAL, str(error), host=address(url)) from error
        if self._settings.public_only:
            assert self._resolver is not None
            if proxy is not None and proxy.url.host:
                self._resolver.exempt.add(proxy.url.host)
            elif not addresses.is_public(url.host or ""):
                raise TransportError(Trouble.REDIRECT, f"its target has {NOT_PUBLIC}", host=address(url))
        return proxy

    def _tls_for(self, url: URL) -> ssl.SSLContext:
        """The client certificate is for the registry's host, whatever the port: the realms' rule."""
        assert self._tls is not None
        own = (url.host or "").lower() == (self._registry.host or "").lower()
        return self._tls.own if own else self._tls.others

    async def _new_session(self) -> aiohttp.ClientSession:
        self._tls = await asyncio.to_thread(tls.contexts, self._settings)
        if self._settings.insecure:
            _log.warning("upstream.insecure", host=address(self._registry))
        self._resolver = Resolver(self._lookups, public_only=self._settings.public_only)
        self._connector = Connector(self._settings.connections, KEPT_FOR, self._resolver)
        return aiohttp.ClientSession(
            connector=self._connector,
            timeout=NO_LIMITS,  # `_Clock` and `part` keep the time
            auto_decompress=False,
            trust_env=False,  # see `proxies`
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER,
            max_line_size=HEADER_LINE,
            max_field_size=HEADER_LINE,
            headers={"User-Agent": self._settings.user_agent, "Accept-Encoding": "identity"},
            trace_configs=[_clock_hands()],
        )


def _login(proxy: Proxy | None) -> dict[str, str]:
    """The header that a proxy wants."""
    return {"Proxy-Authorization": proxy.authorization} if proxy and proxy.authorization else {}


def _via(proxy: Proxy | None, text: str) -> str:
    return f"through the proxy {address(proxy.url)}: {text}" if proxy else text


def _chunk(content: aiohttp.StreamReader, limit: int) -> bytes:
    """What came with one read of the socket, and was not read yet.

    NB: `read` would put several of them together, which costs a copy of each byte: a tenth of a second of the
    processor for each GB.
    """
    # An answer without a body has none.
    return content._read_nowait_chunk(limit) if getattr(content, "_buffer", None) else b""


def _arrived(content: aiohttp.StreamReader, limit: int) -> bytes:
    """Bytes that came before the connection broke, and were not read yet.

    NB: aiohttp gives none of them away once the stream has failed: up to READ_BUFFER bytes would be asked for
    again after each break, and an upstream that always breaks off before that would never get further.
    """
    return content._read_nowait(limit) if content._buffer else b""


def _clock_hands() -> aiohttp.TraceConfig:
    """Moves each request's clock on as the connector reports."""
    trace = aiohttp.TraceConfig()

    def entering(phase: Trouble) -> Any:
        async def moved(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
            context.trace_request_ctx.enter(phase)

        return moved

    trace.on_connection_queued_start.append(entering(Trouble.CROWDED))
    trace.on_connection_create_start.append(entering(Trouble.CONNECT_TIMEOUT))
    trace.on_connection_create_end.append(entering(Trouble.FIRSTBYTE_TIMEOUT))
    trace.on_connection_reuseconn.append(entering(Trouble.FIRSTBYTE_TIMEOUT))
    return trace
