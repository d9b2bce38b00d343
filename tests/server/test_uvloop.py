"""What uvloop does otherwise than asyncio, which the other tests run on unless they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mirror import loops
from mirror.server import connections
from mirror.server.certificates import Certificates
from mirror.server.routes import Settings
from tests.server.events import Events
from tests.server.memory import MemoryRegistry
from tests.server.raw import PATIENCE, running, small_socket
from tests.server.tlskit import tls as tls_settings
from tests.server.tlskit import trusting
from tests.support.certificates import Pair, self_signed

SIZE = 32 << 20


def on_uvloop(run: Callable[[], Awaitable[None]]) -> None:
    """In a loop of its own."""
    with asyncio.Runner(loop_factory=loops.factory("uvloop")) as runner:
        runner.run(run())  # type: ignore[arg-type] # a coroutine


@pytest.mark.parametrize(
    ("secure", "file"), [(True, True), (True, False), (False, False)], ids=["tls", "tls, memory", "memory"]
)
def test_a_client_that_leaves_while_its_answer_waits_is_no_error(
    secure: bool, file: bool, tmp_path: Path, registry: MemoryRegistry, events: Events
) -> None:
    """A transport of uvloop's that is closed takes no settings: it raises."""
    pair = self_signed(tmp_path, "server")
    blob = registry.add_blob(bytes(SIZE), file=file)
    asked = f"GET /v2/library/x/blobs/{blob.descriptor.digest} HTTP/1.1\r\nHost: m\r\n\r\n".encode()
    on_uvloop(lambda: _leave(registry, pair, secure, asked, blob.ended))
    assert events.named("blob.broken") == []
    assert [event for event in events.all if event["log_level"] == "error"] == []


async def _leave(
    registry: MemoryRegistry, pair: Pair, secure: bool, asked: bytes, ended: asyncio.Event
) -> None:
    certificates = Certificates(tls_settings(pair)) if secure else None
    async with running(registry, Settings(access_log=False)) as runner:
        site = connections.Site(runner, "127.0.0.1", 0, certificates=certificates)
        await site.start()
        client = small_socket(site.port)
        context, name = (trusting(pair[0]), "127.0.0.1") if secure else (None, None)
        reader, writer = await asyncio.open_connection(sock=client, ssl=context, server_hostname=name)
        writer.write(asked)
        async with asyncio.timeout(PATIENCE):
            await reader.readexactly(1)
            [connection] = runner.server.connections if runner.server is not None else []
            while not (connection.transport and connection.transport.get_write_buffer_size()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            writer.transport.abort()
            await ended.wait()
            while runner.server is not None and runner.server.connections:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
    if certificates is not None:
        certificates.threads.close()
