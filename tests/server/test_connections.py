"""Who may connect: how many at once, and for how long without asking for anything."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from mirror.server import connections, limits
from mirror.server.routes import Settings
from mirror.sometimes import Sometimes
from tests.server.events import Events
from tests.server.memory import MemoryRegistry
from tests.server.raw import PATIENCE, ask, let_in, running

REQUEST = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"


@asynccontextmanager
async def site(
    registry: MemoryRegistry, most: int = 0, head_timeout: float = limits.HEAD_TIMEOUT
) -> AsyncIterator[int]:
    """The port of a server that lets in `most` clients, or one client that often."""
    said = limits.Limits(most, per_client=most, head_timeout=head_timeout)
    async with running(registry, Settings(access_log=False, limits=said)) as runner:
        made = connections.Site(runner, "127.0.0.1", 0)
        await made.start()
        yield made.port


async def closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side closes, having said nothing."""
    async with asyncio.timeout(PATIENCE):
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


async def test_one_too_many_is_closed_at_once_and_those_inside_are_served(
    registry: MemoryRegistry, events: Events
) -> None:
    """One line about all of them; a place that becomes free is given away."""
    async with site(registry, most=2) as port:
        inside = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for reader, writer in inside:
            writer.write(REQUEST)
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await closed(reader)
            writer.close()
        [refused] = events.named("client.refused")
        assert (refused["limit"], refused["count"], refused["log_level"]) == (2, 1, "warning")
        for _reader, writer in inside:
            writer.write(REQUEST.replace(b"Host", b"Connection: close\r\nHost"))
        for reader, writer in inside:
            await reader.read()
            writer.close()
        assert (await ask(port, "/v2/")).status == 200


@pytest.mark.parametrize("sent", [b"", REQUEST[:-2]], ids=["nothing", "half a head"])
async def test_a_client_that_asks_nothing_is_closed_soon(sent: bytes, registry: MemoryRegistry) -> None:
    """And its place goes to another."""
    async with site(registry, most=1, head_timeout=0.2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await closed(reader)
        writer.close()
        assert (await let_in(port)).status == 200


async def test_a_client_that_has_asked_may_idle_and_may_wait(registry: MemoryRegistry) -> None:
    """The short time-out is for the first head only, in however many pieces it comes."""
    blob = registry.add_blob(b"x" * 100)
    blob.gate = asyncio.Event()
    async with site(registry, head_timeout=1.0) as port:  # a busy machine may stand still for some of it
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        idle_writer.write(REQUEST)
        writer.write(f"GET /v2/library/x/blobs/{blob.descriptor.digest} HTTP/1.1\r\nHost: m\r\n\r".encode())
        await idle.readuntil(b"{}")
        writer.write(b"\n")
        async with asyncio.timeout(PATIENCE):
            await blob.begun.wait()
        later = loop.create_future()
        loop.call_later(1.5, later.set_result, None)
        await later
        blob.gate.set()
        idle_writer.write(REQUEST)
        assert await idle.readline() == b"HTTP/1.1 200 OK\r\n"
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        idle_writer.close()


async def test_a_burst_is_counted_before_it_is_served(registry: MemoryRegistry, events: Events) -> None:
    """Of many that are accepted in one turn no more are let in than may be."""
    async with site(registry, most=4) as port:
        opened = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(20)))
        for _reader, writer in opened:
            writer.write(REQUEST)
        answers = await asyncio.gather(*(first_line(reader) for reader, _writer in opened))
        for _reader, writer in opened:
            writer.close()
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 4
    assert answers.count(b"") == 16


async def first_line(reader: asyncio.StreamReader) -> bytes:
    """Nothing when the connection was closed."""
    try:
        return await reader.readline()
    except ConnectionResetError:
        return b""


def test_asyncios_lines_about_accepting_become_one_event(events: Events) -> None:
    """Others pass."""
    quiet = connections.QuietAccept()
    error = OSError(errno.EMFILE, "Too many open files")
    text = "socket.accept() out of system resource\nsocket: <x>"
    record = logging.LogRecord("asyncio", logging.ERROR, "", 0, text, (), (OSError, error, None))
    assert [quiet.filter(record) for _ in range(100)] == [False] * 100
    [event] = events.all
    assert (event["event"], event["count"]) == ("client.not_accepted", 1)
    assert "Too many open files" in event["reason"]
    assert quiet.filter(logging.LogRecord("asyncio", logging.ERROR, "", 0, "other", (), None))


async def test_a_server_that_listens_quietens_asyncio_once(registry: MemoryRegistry) -> None:
    """However often one is started."""
    for _ in range(2):
        async with site(registry):
            continue
    filters = logging.getLogger("asyncio").filters
    assert [type(known) for known in filters].count(connections.QuietAccept) == 1


def test_what_is_not_told_at_once_is_counted_in_the_next() -> None:
    """Once per interval."""
    sometimes = Sometimes(10.0)
    assert [sometimes.count(now) for now in (5.0, 6.0, 14.9, 15.0, 16.0, 30.0)] == [1, 0, 0, 3, 0, 2]


@pytest.mark.parametrize(
    ("soft", "most"),
    [(256, 96), (1024, 480), (524_288, 10_000), (resource.RLIM_INFINITY, 10_000), (32, 16)],
)
def test_connections_leave_files_for_their_answers(
    soft: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two for each, and some aside."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (soft, soft))
    assert limits.connections_max() == most


def test_the_limit_of_open_files_is_raised_as_far_as_allowed() -> None:
    """In a process of its own: a limit cannot be taken back."""
    script = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (200, 300))\n"
        "from mirror.server import limits\n"
        "print(limits.raise_open_files(), *r.getrlimit(r.RLIMIT_NOFILE), limits.raise_open_files())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["300", "300", "300", "300"]


async def test_who_leaves_before_aiohttp_has_begun_is_no_error(
    registry: MemoryRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a handshake in TLS, where the connection and its end are told in one turn of the loop."""
    async with running(registry, Settings(access_log=False)) as runner:
        site_ = connections.Site(runner, "127.0.0.1", 0)
        await site_.start()
        [door] = runner.app[connections.DOORS]
        loop = asyncio.get_running_loop()
        transports: list[asyncio.Transport] = []

        class Ends(asyncio.Protocol):
            def __init__(self) -> None:
                self.client = door.admit()

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.client.connection_made(transport)
                self.client.connection_lost(None)
                assert isinstance(transport, asyncio.Transport) or hasattr(transport, "abort")
                transports.append(cast("asyncio.Transport", transport))
                transport.abort()

        server = await loop.create_server(Ends, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        assert await closed(reader)
        writer.close()
        server.close()
        await server.wait_closed()
        async with asyncio.timeout(PATIENCE):
            while runner.server is not None and runner.server.connections:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0)
        gc.collect()
        assert door.inside == 0
    assert transports
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
