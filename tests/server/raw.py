"""A server on loopback and clients that speak to it byte by byte."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from aiohttp import web

from mirror.registry import Registry
from mirror.server import connections
from mirror.server.routes import Settings, build
from tests.server.memory import MemoryRegistry
from tests.support.modes import FASTLANE

PATIENCE = 60.0  # seconds that a test waits for what must happen


@dataclass(frozen=True)
class Answer:
    """A parsed answer; header names in lower case."""

    status: int
    headers: dict[str, list[str]]
    body: bytes

    def one(self, name: str) -> str | None:
        """A header that must not come twice."""
        values = self.headers.get(name.lower(), [])
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None


@asynccontextmanager
async def running(
    registry: Registry, settings: Settings | None = None, *, lane: bool = FASTLANE
) -> AsyncIterator[web.AppRunner]:
    """A server that does not listen yet, with a fast lane unless the run of the tests is without."""
    settings = settings or Settings(access_log=False)
    if lane and settings.lessor is None and isinstance(registry, MemoryRegistry):
        settings = replace(settings, lessor=registry)
    runner = web.AppRunner(build(registry, settings), shutdown_timeout=0.1)
    await runner.setup()
    try:
        yield runner
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving(registry: Registry, settings: Settings | None = None) -> AsyncIterator[int]:
    """The port of a real server."""
    async with running(registry, settings) as runner:
        site = connections.Site(runner, "127.0.0.1", 0)
        await site.start()
        yield site.port


async def ask(
    port: int, target: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes = b""
) -> Answer:
    """One request over a connection of its own, answered to the end of the connection."""
    lines = [f"{method} {target} HTTP/1.1", "Host: mirror.test", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return parse(await exchange(port, "\r\n".join(lines).encode() + b"\r\n\r\n" + body), method)


async def let_in(port: int) -> Answer:
    """`/v2/`, asked until it is answered.

    For servers that soon end connections of those who ask nothing: on a busy machine also those of others,
    whose request they have not read yet.
    """
    asked = b"GET /v2/ HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"
    async with asyncio.timeout(PATIENCE):
        while not (answered := await exchange(port, asked)):
            continue
    return parse(answered)


async def exchange(port: int, data: bytes) -> bytes:
    """Send these bytes; all that comes until the other side closes. A reset ends it as well."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(PATIENCE):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def parse(data: bytes, method: str = "GET") -> Answer:
    """Bytes -> Answer; the body is what came, and must be as long as Content-Length says."""
    answer = parse_broken(data)
    length = answer.one("content-length")
    if method != "HEAD" and answer.status != 304:
        assert length is not None, "every answer says its length"
        assert int(length) == len(answer.body)
    else:
        assert answer.body == b""
    return answer


def parse_broken(data: bytes) -> Answer:
    """Bytes -> Answer, whatever its length."""
    head, separator, body = data.partition(b"\r\n\r\n")
    assert separator, f"no complete head in {data[:200]!r}"
    status, *lines = head.decode("latin-1").split("\r\n")
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers.setdefault(name.lower(), []).append(value.strip())
    return Answer(int(status.split()[1]), headers, body)


def small_socket(port: int) -> socket.socket:
    """A connected client that can hold almost nothing unread."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.setblocking(False)
    return client
