"""Blobs: whole, in ranges, conditionally; cold and warm alike.

The headers wait for the first bytes: a blob that turns out not to be had is then an error that every client
understands, not a body that breaks off. Once they are sent, an answer is either complete or it is broken off
by closing the connection after what was sent (FIN): newer clients resume from there, and none takes
it for complete. Nothing is ever put behind a part of a body.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import structlog
from aiohttp import web

from mirror.oci.conditions import etag, if_range, none_match
from mirror.oci.digest import Digest
from mirror.oci.ranges import MAX_POSITION, ByteRange, ContentRange, Unsatisfiable, parse_range
from mirror.oci.request import BlobEndpoint
from mirror.registry import Blob, Corrupt, Elsewhere, Part, Placed, RegistryError
from mirror.server.body import ClientGoneError, ClientSlowError, Writer, in_memory
from mirror.server.errors import plain
from mirror.server.exchange import current
from mirror.server.lane import BODY_LIMIT
from mirror.server.middleware import drop
from mirror.server.progress import limit_unread
from mirror.server.settings import Context

OCTETS = "application/octet-stream"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Plan:
    """What an answer consists of: for each piece the text before it, its first byte and the one after."""

    status: int
    headers: dict[str, str]
    pieces: tuple[tuple[bytes, int, int], ...]
    trailer: bytes = b""

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return sum(len(text) + stop - start for text, start, stop in self.pieces) + len(self.trailer)


async def blob(context: Context, request: web.Request, endpoint: BlobEndpoint) -> web.StreamResponse:
    """GET and HEAD. HEAD and conditions move no content; Range is for GET only (RFC 9110 section 14.2).

    NB: a condition is answered only after the registry said that this repository has the blob: a digest
    alone must not tell anybody what is here.
    """
    repository, digest = endpoint.repository, endpoint.digest
    condition = ",".join(request.headers.getall("If-None-Match", ())) or None
    if request.method == "HEAD" or condition:
        found = current().descriptor = await context.registry.stat_blob(repository, digest)
        size = found.size
        if none_match(condition, digest, bare=False):
            return web.Response(status=304, headers=_validators(digest))
        if request.method == "HEAD":
            return web.Response(headers=_headers(digest, size))
    # The size comes with the opened blob: asking for it first would cost a request upstream for each range.
    opened = await context.registry.blob(repository, digest, start=_first_byte(request, digest))
    try:
        current().descriptor = opened.descriptor
        size = opened.descriptor.size
        if isinstance(opened, Placed) and opened.elsewhere is not None:
            return _redirect(context, request, endpoint, size, opened.elsewhere)
        try:
            plan = _plan(request, digest, size)
        except Unsatisfiable as error:
            headers = {"Content-Range": f"bytes */{size}", "Docker-Content-Digest": str(digest)}
            return plain(416, str(error), headers)
        lane = context.lane if plan.status == 200 and size <= BODY_LIMIT else None
        if lane is not None and lane.lacks(request):
            async with aclosing(_parts(opened, plan)) as parts:
                body = b"".join([await in_memory(part) async for part in parts])
            lane.lease_blob(repository, digest, body)
            return web.Response(body=body, headers=plan.headers)
        return await _answer(context, request, digest, opened, plan)
    finally:
        await opened.close()


def _redirect(
    context: Context, request: web.Request, endpoint: BlobEndpoint, size: int, place: Elsewhere
) -> web.Response:
    """307: the client asks there what it has asked here, with its Range (RFC 9110 section 15.4.8)."""
    if context.lane is not None:
        context.lane.lease_elsewhere(request, endpoint.repository, endpoint.digest, size, place.until)
    headers = {"Docker-Content-Digest": str(endpoint.digest), "Location": place.url}
    return web.Response(status=307, headers=headers)


def _validators(digest: Digest) -> dict[str, str]:
    return {
        "Cache-Control": "max-age=31536000",  # seconds, a year: what a digest names never changes
        "Docker-Content-Digest": str(digest),
        "ETag": etag(digest),
    }


def _headers(digest: Digest, size: int) -> dict[str, str]:
    return {
        **_validators(digest),
        "Accept-Ranges": "bytes",
        "Content-Length": str(size),
        "Content-Type": OCTETS,
    }


def _whole(digest: Digest, size: int) -> _Plan:
    return _Plan(200, _headers(digest, size), ((b"", 0, size),))


def _first_byte(request: web.Request, digest: Digest) -> int:
    """The first byte that can be needed, before the size is known: 0 but for one range that says it."""
    if not if_range(request.headers.get("If-Range"), digest):
        return 0
    try:
        ranges = parse_range(request.headers.get("Range"), MAX_POSITION)
    except Unsatisfiable:
        return 0
    if ranges is None or len(ranges) != 1:
        return 0
    # No blob reaches the upper half of 64 bits: there lies what was counted from the end.
    return ranges[0].start if ranges[0].start < MAX_POSITION // 2 else 0


def _plan(request: web.Request, digest: Digest, size: int) -> _Plan:
    """What is sent of a blob of this size. Raises Unsatisfiable."""
    if not if_range(request.headers.get("If-Range"), digest):
        return _whole(digest, size)
    ranges = parse_range(request.headers.get("Range"), size)
    if ranges is None:
        return _whole(digest, size)
    if len(ranges) == 1:
        only = ranges[0]
        headers = _headers(digest, only.stop - only.start)
        headers["Content-Range"] = str(ContentRange(only.start, only.stop, size))
        return _Plan(206, headers, ((b"", only.start, only.stop),))
    return _several(digest, size, ranges)


def _several(digest: Digest, size: int, ranges: tuple[ByteRange, ...]) -> _Plan:
    """multipart/byteranges (RFC 9110 section 14.6), in the order that was asked for."""
    boundary = secrets.token_hex(20)
    pieces = []
    for number, piece in enumerate(ranges):
        text = "\r\n" if number else ""
        text += (
            f"--{boundary}\r\n"
            f"Content-Range: {ContentRange(piece.start, piece.stop, size)}\r\n"
            f"Content-Type: {OCTETS}\r\n\r\n"
        )
        pieces.append((text.encode(), piece.start, piece.stop))
    plan = _Plan(206, _headers(digest, 0), tuple(pieces), f"\r\n--{boundary}--\r\n".encode())
    plan.headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    plan.headers["Content-Length"] = str(plan.length)
    return plan


async def _parts(opened: Blob, plan: _Plan) -> AsyncGenerator[Part, None]:
    """The body in order. Raises Corrupt when the registry gives other than the bytes it was asked for."""
    for text, start, stop in plan.pieces:
        if text:
            yield text
        left = stop - start
        if left:
            async with aclosing(opened.read(start, stop)) as parts:
                async for part in parts:
                    left -= len(part) if isinstance(part, bytes) else part.count
                    if left < 0:
                        raise Corrupt("more came than was asked for")
                    yield part
        if left:
            raise Corrupt("less came than was asked for")
    if plan.trailer:
        yield plan.trailer


async def _answer(
    context: Context, request: web.Request, digest: Digest, opened: Blob, plan: _Plan
) -> web.StreamResponse:
    """Send the plan. Failures before the headers are raised; later ones break the answer off.

    NB: `force_close` makes aiohttp close the connection after what was sent, by FIN. Not `abort`: containerd
    resumes after FIN, and fails for good after a reset.
    """
    limit_unread(request.transport, 0)
    async with aclosing(_parts(opened, plan)) as parts:
        first = await anext(parts, None)
        response = web.StreamResponse(status=plan.status, headers=plan.headers)
        writer = Writer(request, response, context.settings.write_timeout)
        try:
            await response.prepare(request)
            if first is not None:
                await writer.send(first)
            async for part in parts:
                await writer.send(part)
        except (ClientGoneError, ConnectionError):
            log.debug("client.gone", digest=str(digest), sent=writer.sent)
            response.force_close()
        except ClientSlowError:
            drop(request)
            response.force_close()
        except Exception as error:  # noqa: BLE001 - whatever it is, no body may look complete after it
            _log_break(digest, error)
            response.force_close()
        finally:
            current().sent = writer.sent
    return response


def _log_break(digest: Digest, error: Exception) -> None:
    if isinstance(error, RegistryError):
        current().error = error
        log.warning("blob.broken", digest=str(digest), reason=str(error))
    else:
        log.error("blob.broken", digest=str(digest), reason="internal error", exc_info=error)
