"""Around every handler: failures become answers, which get common headers and leave in bounded time."""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler as AiohttpHandler
from aiohttp.typedefs import Middleware

from mirror.access.base import Refused
from mirror.oci.request import Moved, NotFound, RequestError
from mirror.registry import RegistryError
from mirror.server import errors, forwarded
from mirror.server.cachestatus import cache_status, warning
from mirror.server.connections import HEADS
from mirror.server.exchange import Exchange, begin, current
from mirror.server.progress import LESS, LITTLE, limit_unread, reset_on_close, settled, while_taken
from mirror.server.settings import Context

# What is read of a refused request's body after the answer: enough that a small one is taken whole and the
# answer is not lost to a reset, far too little for somebody who wants to keep us reading.
LINGER_BYTES = 256 << 10
LINGER_SECONDS = 2.0

log = structlog.get_logger()


def guard(context: Context) -> Middleware:
    """The middleware: nothing but an answer leaves it, and the answer is sent when it returns."""

    @web.middleware
    async def run(request: web.Request, handler: AiohttpHandler) -> web.StreamResponse:
        exchange = begin()
        exchange.host = request.headers.get("Host", "")
        if forwarded.is_trusted(request.transport, context.settings.proxies):
            exchange.client = forwarded.client(request, context.settings.proxies)
            exchange.host = forwarded.host(request)
            exchange.scheme = forwarded.scheme(request)
        structlog.contextvars.bind_contextvars(**{"http.request.id": exchange.id})
        timeout = context.settings.write_timeout
        try:
            response = await _answer(context, request, handler, exchange)
            await _finish(request, response, timeout)
        finally:
            limit_unread(request.transport, timeout)
        return response

    return run


async def _answer(
    context: Context, request: web.Request, handler: AiohttpHandler, exchange: Exchange
) -> web.StreamResponse:
    """What the handler answers, or the answer to its failure."""
    try:
        return await handler(request)
    except RequestError as error:
        exchange.routed = not isinstance(error, NotFound | Moved)
        return errors.refusal(context, request, error)
    except RegistryError as error:
        return errors.failure(error, exchange.variables)
    except Refused as error:
        return errors.refused(error)
    except web.HTTPException:  # aiohttp's router, of a target that is no path (`OPTIONS *`)
        return errors.not_found()
    except Exception:  # a defect: it is logged whole, and the client learns where to look
        log.exception("request.failed", method=request.method, path=request.path)
        return errors.internal(exchange.id)


async def add_headers(context: Context, request: web.Request, response: web.StreamResponse) -> None:
    """What every answer carries; called when the headers are about to be written."""
    response.headers.popall("Server", None)  # aiohttp's default names the versions that run here
    exchange = current()
    exchange.cache_status = response.headers["Cache-Status"] = cache_status(exchange.provenance)
    if exchange.provenance.warning:
        response.headers["Warning"] = warning(exchange.provenance.warning)
    if exchange.is_api:
        response.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
    if exchange.routed:
        for name, values in context.settings.headers.items():
            for value in values:
                response.headers.add(name, value)


async def no_continue(_request: web.Request) -> None:
    """Instead of `100 Continue`: the answer is the final one, and the client keeps its body."""


async def _finish(request: web.Request, response: web.StreamResponse, timeout: float) -> None:
    """Send what is not yet sent of an answer. A client that does not take it is dropped."""
    if _size(response) > LITTLE:
        limit_unread(request.transport, 0)
    unread = not request.content.is_eof()
    if unread:
        response.force_close()
    try:
        async with while_taken(request.transport, timeout):
            await response.prepare(request)
            await response.write_eof()
            await settled(request.transport, timeout, LESS if _has_more(request) else LITTLE)
    except TimeoutError:
        drop(request)
    except ConnectionError:  # the client is gone, which is its right
        response.force_close()
    if unread:
        await _linger(request)


def _size(response: web.StreamResponse) -> int:
    """Bytes of the body that are still to be sent."""
    body = response.body if isinstance(response, web.Response) else None
    return len(body) if isinstance(body, bytes | bytearray) else 0


def _has_more(request: web.Request) -> bool:
    """Whether the client has asked for something else before it had this answer."""
    heads = request.app[HEADS].get(request.transport) if request.transport is not None else None
    return heads is not None and heads.has_more


async def _linger(request: web.Request) -> None:
    """Read a bounded part of a body that nobody wants: closing on unread bytes would reset the answer."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return
    if transport.can_write_eof():
        transport.write_eof()
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0 and (chunk := await request.content.readany()):
                left -= len(chunk)
    except (TimeoutError, OSError, web.RequestPayloadError):
        return  # slow, gone, or not a body at all: the connection is closed in any case


def drop(request: web.Request) -> None:
    """Cut the connection now: with `close` the unsent rest would keep it for as long as the client likes."""
    log.info("client.dropped", remote=request.remote, reason="reads nothing")
    if request.transport is not None:
        reset_on_close(request.transport)
        request.transport.abort()
