"""How a scripted registry misbehaves: one `Fault` says how one answer differs from the true one."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

PIECE = 64 << 10  # bytes a write: small enough for a cut or a flip to fall anywhere
FLUSH_TICK = 0.001  # seconds between two looks at the send buffer


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, before faults. `headers` has no Content-Length: that is the body's."""

    status: int
    headers: Mapping[str, str | list[str]] = field(default_factory=dict)
    body: bytes | memoryview = b""  # a view, where copies of a large body would cost too much


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one answer. Fields combine; what is None or False stays true to the original.

    Positions count bytes of the body as sent (after Range). A stall and a hang last until
    `Upstream.release()` or the end of the server; then the connection is closed. `flip_at` is for bytes only.
    """

    status: int | None = None  # answer with this instead; the true body is left out unless `body` is given
    headers: Mapping[str, str | list[str]] = field(default_factory=dict)  # set over the true ones
    body: bytes | None = None  # instead of the true one
    drop: tuple[str, ...] = ()  # header names that are not sent
    echo: bool = False  # the body is an error that tells the request's own header lines, secrets and all
    early: bool = False  # happens also to requests that would have got 401 from the registry's own auth

    hang: bool = False  # no byte at all
    reset: bool = False  # with no `cut_after`: at once, before the first byte; else how the cut is done
    cut_after: int | None = None  # the connection ends after this many bytes (FIN, or RST with `reset`)
    stall_after: int | None = None  # nothing comes after this many bytes
    rate: int | None = None  # bytes per second
    drip: float | None = None  # seconds before each byte of the body
    drip_head: bool = False  # with `drip`: the header comes so too
    flip_at: int | None = None  # the byte at this position is another one
    length: int | None = None  # what Content-Length claims
    chunked: bool = False  # no Content-Length
    ignore_range: bool = False  # 200 with everything to a Range request

    def apply(self, reply: Reply) -> Reply:
        """The answer as this fault has it, as far as it can be told without a connection."""
        body = reply.body if self.status is None and self.body is None else self.body or b""
        if self.flip_at is not None:
            assert isinstance(body, bytes)
            body = body[: self.flip_at] + bytes([body[self.flip_at] ^ 1]) + body[self.flip_at + 1 :]
        headers = {**(reply.headers if self.status is None else {}), **self.headers}
        return Reply(self.status or reply.status, headers, body)


class Answer(web.StreamResponse):
    """A response that remembers which headers aiohttp must not add."""

    dropped: tuple[str, ...] = ()


class Sender:
    """Writes one answer to one connection, with its fault; `sent` counts body bytes handed over."""

    def __init__(self, request: web.Request, fault: Fault, released: asyncio.Event) -> None:
        self.sent = 0
        self._request = request
        self._fault = fault
        self._released = released

    async def send(self, reply: Reply) -> web.StreamResponse:
        """Answer. Returns what aiohttp wants back from a handler."""
        fault = self._fault
        if fault.drip and fault.drip_head:
            return await self._drip_whole(reply, fault.drip)
        response = Answer(status=reply.status)
        for name, value in reply.headers.items():
            for line in [value] if isinstance(value, str) else value:
                response.headers.add(name, line)
        response.dropped = fault.drop
        if fault.hang or (fault.reset and fault.cut_after is None):
            if fault.hang:
                await self._released.wait()
            self._break(reset=fault.reset)
            return response
        if fault.chunked:
            response.enable_chunked_encoding()
        elif reply.status not in (204, 304):
            response.content_length = len(reply.body) if fault.length is None else fault.length
        await response.prepare(self._request)
        if self._request.method != "HEAD":
            try:
                await self._send_body(response, reply.body)
            except ConnectionResetError:
                return response  # whoever asked has gone away, as is normal
        if fault.length is not None and fault.length > len(reply.body) and self._request.method != "HEAD":
            self._break(reset=False)
        else:
            await response.write_eof()
        return response

    async def _drip_whole(self, reply: Reply, pause: float) -> web.StreamResponse:
        """Header and body byte by byte; aiohttp writes a header at once, so it is written here."""
        lines = [f"HTTP/1.1 {reply.status} Scripted", f"Content-Length: {len(reply.body)}"]
        for name, value in reply.headers.items():
            lines += [f"{name}: {line}" for line in ([value] if isinstance(value, str) else value)]
        head = "\r\n".join([*lines, "", ""]).encode()
        for byte in head + (b"" if self._request.method == "HEAD" else reply.body):
            transport = self._request.transport
            if transport is None or transport.is_closing() or self._released.is_set():
                break
            transport.write(bytes([byte]))
            await asyncio.sleep(pause)
        self._break(reset=False)
        return web.StreamResponse(status=reply.status)

    async def _send_body(self, response: web.StreamResponse, body: bytes | memoryview) -> None:
        fault = self._fault
        ends = [end for end in (fault.cut_after, fault.stall_after) if end is not None]
        stop = min([len(body), *ends])
        while self.sent < stop:
            piece = body[self.sent : min(stop, self.sent + (1 if fault.drip else PIECE))]
            if fault.rate:
                await asyncio.sleep(len(piece) / fault.rate)
            if fault.drip:
                await asyncio.sleep(fault.drip)
            await response.write(piece)
            self.sent += len(piece)
        if fault.stall_after is not None and stop == fault.stall_after:
            await self._released.wait()
            self._break(reset=False)
        elif fault.cut_after is not None and stop == fault.cut_after:
            if fault.reset:
                await self._flush()
            self._break(reset=fault.reset)

    async def _flush(self) -> None:
        transport: Any = self._request.transport
        while transport is not None and transport.get_write_buffer_size():  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(FLUSH_TICK)

    def _break(self, *, reset: bool) -> None:
        """End the connection: RST when `reset`, else FIN after what was written."""
        transport = self._request.transport
        if transport is None:
            return
        if reset:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
