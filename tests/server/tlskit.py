"""A server in TLS, and clients that speak to it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from mirror.configtls import DEFAULT_CIPHERS
from mirror.registry import Registry
from mirror.server import connections
from mirror.server.certificates import Certificates
from mirror.server.limits import HEAD_TIMEOUT, Limits
from mirror.server.settings import Settings
from mirror.server.tlscontext import Tls
from tests.server.raw import PATIENCE, Answer, parse_broken, running
from tests.support.certificates import Pair

LOOK = 0.02  # seconds between two looks at the files


def tls(pair: Pair, **other: object) -> Tls:
    """With the registry's default ciphers."""
    return Tls(*pair, **{"ciphers": DEFAULT_CIPHERS, **other})  # type: ignore[arg-type]


@asynccontextmanager
async def secured(
    registry: Registry, settings: Tls, *, most: int = 0, head_timeout: float = HEAD_TIMEOUT
) -> AsyncIterator[tuple[int, Certificates]]:
    """The port of a real server in TLS, and its certificates."""
    chosen = Settings(access_log=False, limits=Limits(most, per_client=most, head_timeout=head_timeout))
    certificates = Certificates(settings)
    async with certificates.watched(LOOK), running(registry, chosen) as runner:
        site = connections.Site(runner, "127.0.0.1", 0, certificates=certificates)
        await site.start()
        yield site.port, certificates


async def until(so: Callable[[], object]) -> None:
    """Wait for what nobody tells."""
    async with asyncio.timeout(PATIENCE):
        while not so():  # noqa: ASYNC110 - the server's state, not an event
            await asyncio.sleep(0.01)


def trusting(ca: Path, own: Pair | None = None) -> ssl.SSLContext:
    """A client that checks the server, and shows a certificate of its own if asked."""
    context = ssl.create_default_context(cafile=ca)
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)  # ours are short, without key identifiers
    if own is not None:
        context.load_cert_chain(*own)
    return context


@asynccontextmanager
async def connected(
    port: int, context: ssl.SSLContext, address: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client in TLS at this address, which is closed and gone at the end of the block.

    NB: asyncio's side of TLS waits for the server's `close_notify`. What is left of it when its loop ends is
    an unclosed transport, and a warning in whichever test the garbage is collected.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, local_addr=(address, 0))
    try:
        yield reader, writer
    finally:
        writer.close()
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(OSError):  # also an SSLError: it has ended
                await writer.wait_closed()


async def ask(port: int, context: ssl.SSLContext, target: str = "/v2/", method: str = "GET") -> Answer:
    """One request over a connection of its own; the body as far as it comes.

    NB: not read to the end of the connection: uvloop's client drops what it has not given when
    `close_notify` comes.
    """
    async with connected(port, context) as (reader, writer):
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            answer = parse_broken(await reader.readuntil(b"\r\n\r\n"))
            try:
                body = await reader.readexactly(int(answer.one("content-length") or 0))
            except asyncio.IncompleteReadError as error:
                body = error.partial
    return replace(answer, body=body)
