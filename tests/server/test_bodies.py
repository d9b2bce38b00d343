"""How bodies leave, end, and break off."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mirror.registry import RegistryError, Unavailable
from mirror.server import body as sending
from mirror.server import connections, kernel
from mirror.server.routes import Settings
from tests.server.events import Events
from tests.server.memory import MemoryBlob, MemoryRegistry
from tests.server.raw import PATIENCE, ask, exchange, parse_broken, running, serving, small_socket

MIB = 1 << 20
CONTENT = bytes(range(256)) * (24 * MIB // 256)  # more than loopback's socket buffers take


def target(blob: MemoryBlob) -> str:
    """The blob's path."""
    return f"/v2/library/x/blobs/{blob.descriptor.digest}"


async def within(event: asyncio.Event) -> None:
    """Wait for what must happen."""
    async with asyncio.timeout(PATIENCE):
        await event.wait()


@contextmanager
def counted_sendfile(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The byte counts of the kernel's sendfile calls."""
    counts: list[int] = []
    real = os.sendfile

    def spy(out: int, source: int, offset: int, count: int) -> int:
        sent = real(out, source, offset, count)
        counts.append(sent)
        return sent

    with monkeypatch.context() as patch:
        patch.setattr(os, "sendfile", spy)
        yield counts


@pytest.fixture
def _far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients seem to be on other machines."""
    monkeypatch.setattr(kernel, "is_local", lambda _transport: False)


FAR = pytest.mark.usefixtures("_far")


@pytest.fixture(params=["far", "near"])
def _wherever(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients on other machines, and on this one."""
    monkeypatch.setattr(kernel, "is_local", lambda _transport: request.param == "near")


WHEREVER = pytest.mark.usefixtures("_wherever")


@FAR
async def test_a_file_leaves_by_sendfile(registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, and nothing through Python."""
    blob = registry.add_blob(CONTENT, file=True)
    with counted_sendfile(monkeypatch) as counts:
        async with serving(registry) as port:
            answer = await ask(port, target(blob))
    assert answer.body == CONTENT
    assert sum(counts) == len(CONTENT)


async def test_a_client_on_this_machine_gets_copies(
    registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which it takes in sooner than the pages that sendfile gives; by IPv6 as by IPv4."""
    blob = registry.add_blob(CONTENT, file=True)
    with counted_sendfile(monkeypatch) as counts:
        async with running(registry) as runner:
            for host in ("127.0.0.1", "::1"):
                site = web.TCPSite(runner, host, 0)
                await site.start()
                port = runner.addresses[-1][1]
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(f"GET {target(blob)} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".encode())
                async with asyncio.timeout(PATIENCE):
                    assert parse_broken(await reader.read()).body == CONTENT
                writer.close()
    assert counts == []


@WHEREVER
async def test_readers_of_one_open_file_do_not_disturb_each_other(registry: MemoryRegistry) -> None:
    """The file's own position belongs to nobody: eight readers, eight ranges, one file object."""
    blob = registry.add_blob(CONTENT, file=True)
    async with serving(registry) as port:
        ranges = [(n * MIB, (n + 3) * MIB) for n in range(8)]
        answers = await asyncio.gather(
            *(ask(port, target(blob), headers={"Range": f"bytes={a}-{b - 1}"}) for a, b in ranges)
        )
    for (a, b), answer in zip(ranges, answers, strict=True):
        assert answer.body == CONTENT[a:b]


@FAR
async def test_without_sendfile_readers_do_not_disturb_each_other(
    registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that has no sendfile: the fallback must not seek the shared file."""

    def refuse(*_arguments: int) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", refuse)
    blob = registry.add_blob(CONTENT, file=True)
    assert blob.file is not None
    blob.file.seek(77)
    async with serving(registry) as port:
        ranges = [(n * MIB, (n + 3) * MIB) for n in range(4)]
        answers = await asyncio.gather(
            *(ask(port, target(blob), headers={"Range": f"bytes={a}-{b - 1}"}) for a, b in ranges)
        )
    for (a, b), answer in zip(ranges, answers, strict=True):
        assert answer.body == CONTENT[a:b]
    assert blob.file.tell() == 77


@FAR
async def test_sendfile_that_ceases_to_work_repeats_and_loses_nothing(
    registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may refuse in the middle; the rest then goes through Python."""
    real, calls = os.sendfile, 0

    def fade(out: int, source: int, offset: int, count: int) -> int:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise OSError(22, "Invalid argument")
        return real(out, source, offset, min(count, 100_000))

    monkeypatch.setattr(os, "sendfile", fade)
    blob = registry.add_blob(CONTENT, file=True)
    async with serving(registry) as port:
        assert (await ask(port, target(blob))).body == CONTENT
    assert calls > 5


@FAR
async def test_what_is_not_in_memory_is_read_from_the_disk_in_a_thread(
    registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's sendfile waits for the disk, and with it would the loop."""
    real = os.preadv
    read: list[tuple[str, int]] = []

    def cold(file: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            raise BlockingIOError
        count = real(file, buffers, offset)
        read.append((threading.current_thread().name, count))
        return count

    monkeypatch.setattr(os, "preadv", cold)
    blob = registry.add_blob(CONTENT, file=True)
    async with serving(registry) as port:
        assert (await ask(port, target(blob))).body == CONTENT
    assert sum(count for _, count in read) == len(CONTENT)
    assert threading.main_thread().name not in {name for name, _ in read}


@pytest.mark.parametrize("file", [True, False], ids=["file", "memory"])
async def test_a_failure_before_the_first_byte_is_an_ordinary_error(
    file: bool, registry: MemoryRegistry
) -> None:
    """Nothing was sent, so the client is told, with Retry-After."""
    blob = registry.add_blob(CONTENT, file=file)
    blob.breaks = Unavailable("the upstream registry does not answer", retry_after=2.1)
    async with serving(registry) as port:
        answer = await ask(port, target(blob))
    assert answer.status == 503
    assert answer.one("Retry-After") == "3"
    assert b"does not answer" in answer.body
    assert blob.closed == 1


@WHEREVER
@pytest.mark.parametrize("file", [True, False], ids=["file", "memory"])
@pytest.mark.parametrize(
    "cause", [Unavailable("gone"), ValueError("a defect"), TimeoutError(), OSError(5, "io")]
)
async def test_a_failure_in_the_middle_ends_the_connection_early(
    file: bool, cause: Exception, registry: MemoryRegistry, events: Events
) -> None:
    """Short by FIN, nothing behind what was sent, one event, the blob closed."""
    blob = registry.add_blob(CONTENT, file=file)
    blob.breaks, blob.break_at = cause, len(CONTENT) - MIB
    async with serving(registry) as port:
        request = f"GET {target(blob)} HTTP/1.1\r\nHost: m\r\n\r\n"  # keep-alive: only the break ends it
        answer = parse_broken(await exchange(port, request.encode()))
    assert answer.one("Content-Length") == str(len(CONTENT))
    assert answer.body == CONTENT[: blob.break_at]
    assert blob.closed == 1
    broken = events.named("blob.broken")
    assert len(broken) == 1
    assert broken[0]["digest"] == str(blob.descriptor.digest)
    known = isinstance(cause, RegistryError)
    assert broken[0]["log_level"] == ("warning" if known else "error")
    assert len(events.all) == 2  # this and the request's


@WHEREVER
async def test_a_file_that_is_too_short_breaks_the_answer_off(
    registry: MemoryRegistry, events: Events
) -> None:
    """Somebody cut it behind our back: what is there is sent, and never ended cleanly."""
    blob = registry.add_blob(CONTENT, file=True)
    assert blob.file is not None
    blob.file.truncate(len(CONTENT) - 5)
    async with serving(registry) as port:
        request = f"GET {target(blob)} HTTP/1.1\r\nHost: m\r\n\r\n"
        answer = parse_broken(await exchange(port, request.encode()))
    assert answer.body == CONTENT[:-5]
    assert answer.one("Content-Length") == str(len(CONTENT))
    assert (await events.wait("blob.broken"))["digest"] == str(blob.descriptor.digest)


@pytest.mark.parametrize("where", ["far", "near"])
async def test_a_disk_that_fails_while_the_kernel_sends_is_not_taken_for_a_client_that_went(
    where: str, registry: MemoryRegistry, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.sendfile if where == "far" else kernel._Copying.__call__, 0

    def fail(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments)

    monkeypatch.setattr(kernel, "is_local", lambda _transport: where == "near")
    if where == "far":
        monkeypatch.setattr(os, "sendfile", fail)
    else:
        monkeypatch.setattr(kernel._Copying, "__call__", fail)
    blob = registry.add_blob(CONTENT, file=True)
    async with serving(registry) as port:
        request = f"GET {target(blob)} HTTP/1.1\r\nHost: m\r\n\r\n"
        answer = parse_broken(await exchange(port, request.encode()))
    assert len(answer.body) < len(CONTENT)
    assert CONTENT.startswith(answer.body)
    assert (await events.wait("blob.broken"))["log_level"] == "error"


@pytest.mark.parametrize("chunk", [64 << 10, 32 * MIB], ids=["chunks", "at once"])
async def test_bytes_behind_the_end_are_never_sent(
    chunk: int, registry: MemoryRegistry, events: Events
) -> None:
    """A registry that gives more than it said is broken off as well."""
    blob = registry.add_blob(CONTENT)
    blob.extra, blob.chunk = b"more", chunk
    async with serving(registry) as port:
        request = f"GET {target(blob)} HTTP/1.1\r\nHost: m\r\n\r\n"
        answer = parse_broken(await exchange(port, request.encode()))
    assert answer.body == CONTENT
    assert (await events.wait("blob.broken"))["log_level"] == "warning"


async def test_too_many_bytes_never_shift_what_follows(registry: MemoryRegistry, events: Events) -> None:
    """Several ranges: the second would be wrong, and its end cut to the length that was announced."""
    blob = registry.add_blob(CONTENT)
    blob.extra = b"more"
    async with serving(registry) as port:
        request = f"GET {target(blob)} HTTP/1.1\r\nHost: m\r\nRange: bytes=0-9,20-29\r\n\r\n"
        answer = parse_broken(await exchange(port, request.encode()))
    assert answer.status == 206
    assert len(answer.body) < int(answer.one("Content-Length") or 0)
    assert b"more" not in answer.body
    await events.wait("blob.broken")


@WHEREVER
@pytest.mark.parametrize("file", [True, False], ids=["file", "memory"])
async def test_a_client_that_goes_away_is_normal(
    file: bool, registry: MemoryRegistry, events: Events
) -> None:
    """The blob is closed, nothing above debug is logged but the request itself."""
    blob = registry.add_blob(CONTENT, file=file)
    async with serving(registry) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {target(blob)} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        await reader.readexactly(100_000)
        writer.transport.abort()
        await within(blob.ended)
        assert (await ask(port, "/v2/")).status == 200
    assert events.named("client.gone")
    others = [event for event in events.all if event["event"] != "response completed"]
    assert {event["log_level"] for event in others} == {"debug"}


@WHEREVER
@pytest.mark.parametrize("file", [True, False], ids=["file", "memory"])
async def test_a_client_that_reads_nothing_is_dropped(
    file: bool, registry: MemoryRegistry, events: Events, tmp_path: Path
) -> None:
    """After the time-out. Over a Unix socket, where the kernel would never do it for us."""
    blob = registry.add_blob(CONTENT, file=file)
    async with running(registry, Settings(access_log=False, write_timeout=0.3)) as runner:
        await web.UnixSite(runner, str(tmp_path / "s")).start()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            client.sendall(f"GET {target(blob)} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
            await within(blob.ended)
            await events.wait("client.dropped")
            for _ in range(10):  # turns of the loop
                await asyncio.sleep(0)
            assert runner.server is not None
            assert runner.server.connections == []  # not waiting for the client to take the rest


@pytest.mark.parametrize("file", [True, False], ids=["file", "memory"])
async def test_a_slow_client_that_lives_is_never_dropped(
    file: bool, registry: MemoryRegistry, events: Events
) -> None:
    """Quick at first, so that pieces are large; then one takes longer than several time-outs."""
    blob = registry.add_blob(CONTENT, file=file)
    settings = Settings(access_log=False, write_timeout=2.5)  # a busy machine may stand still for some
    loop = asyncio.get_running_loop()
    async with serving(registry, settings) as port:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)  # bytes; it reports by 64 KiB
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", port))
            head = f"GET {target(blob)} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"
            await loop.sock_sendall(client, head.encode())
            got = bytearray()
            while len(got) < 8 * MIB:
                got += await loop.sock_recv(client, MIB)
            ended = asyncio.create_task(blob.ended.wait())
            slow_until = loop.time() + 3 * settings.write_timeout
            while loop.time() < slow_until and not ended.done():
                got += await loop.sock_recv(client, 32 << 10)
                await asyncio.wait([ended], timeout=0.1)
            assert not events.named("client.dropped")
            while piece := await loop.sock_recv(client, MIB):
                got += piece
            await ended
    assert parse_broken(bytes(got)).body == CONTENT


def user_timeout(runner: web.AppRunner) -> int:
    """Milliseconds that the kernel lets the only client leave things unread; 0 for as long as it likes."""
    assert runner.server is not None
    [connection] = runner.server.connections
    assert connection.transport is not None
    served = connection.transport.get_extra_info("socket")
    return int(served.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))


async def test_the_kernel_drops_a_client_that_leaves_a_small_answer_unread(registry: MemoryRegistry) -> None:
    """Such an answer never blocks a write of ours, and would keep a closing connection for ever.

    But not while a body leaves: the kernel resets clients that take something all the time, though slowly.
    """
    blob = registry.add_blob(CONTENT)
    blob.gate, blob.break_at = asyncio.Event(), MIB
    async with running(registry, Settings(access_log=False, write_timeout=7.5)) as runner:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        assert user_timeout(runner) == 7500
        writer.write(f"GET {target(blob)} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        await within(blob.begun)
        assert user_timeout(runner) == 0
        blob.gate.set()
        writer.close()


async def read_all(client: socket.socket) -> None:
    """Take what comes until the other side closes."""
    while await asyncio.get_running_loop().sock_recv(client, MIB):
        continue


async def test_a_dropped_client_gets_a_reset(registry: MemoryRegistry) -> None:
    """So that the kernel does not keep for it what it never takes."""
    blob = registry.add_blob(CONTENT, file=True)
    async with serving(registry, Settings(access_log=False, write_timeout=0.3)) as port:
        with small_socket(port) as client:
            client.sendall(f"GET {target(blob)} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
            await within(blob.ended)
            with pytest.raises(ConnectionResetError):
                await read_all(client)


async def test_a_client_that_leaves_a_large_manifest_unread_is_dropped(
    registry: MemoryRegistry, events: Events
) -> None:
    """Small answers are bounded too, not only blobs."""
    registry.add_manifest("big", b"x" * (4 * MIB))
    async with serving(registry, Settings(access_log=False, write_timeout=0.3)) as port:
        client = small_socket(port)
        try:
            request = b"GET /v2/library/x/manifests/big HTTP/1.1\r\nHost: m\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(client, request * 4)
            await events.wait("client.dropped")
        finally:
            client.close()


async def test_who_resets_his_connection_is_gone_though_more_of_his_requests_wait(
    registry: MemoryRegistry,
) -> None:
    """Nothing of him is read meanwhile, and the kernel has all of the answer: no transport learns of it."""
    registry.add_manifest("large", b"x" * (100 << 10))
    request = b"GET /v2/library/x/manifests/large HTTP/1.1\r\nHost: m\r\n\r\n"
    loop = asyncio.get_running_loop()
    async with running(registry, Settings(access_log=False, write_timeout=600)) as runner:
        site = connections.Site(runner, "127.0.0.1", 0)
        await site.start()
        assert runner.server is not None
        with small_socket(site.port) as client:
            await loop.sock_sendall(client, request * 2)
            assert await loop.sock_recv(client, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        async with asyncio.timeout(PATIENCE):
            while runner.server.connections:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.01)


async def test_a_slow_upstream_is_no_slow_client(registry: MemoryRegistry, events: Events) -> None:
    """Waiting for the registry's bytes does not count against the client."""
    blob = registry.add_blob(CONTENT)
    blob.gate, blob.break_at = asyncio.Event(), MIB
    async with serving(registry, Settings(access_log=False, write_timeout=2.5)) as port:
        asked = asyncio.create_task(ask(port, target(blob)))
        done, _ = await asyncio.wait([asked], timeout=3.0)
        assert not done
        blob.gate.set()
        assert (await asked).body == CONTENT
    assert not events.named("client.dropped")


async def test_headers_wait_for_the_first_bytes(registry: MemoryRegistry) -> None:
    """So that what fails before them is a status, not a broken body."""
    blob = registry.add_blob(CONTENT)
    blob.gate = asyncio.Event()
    blob.breaks = Unavailable("nothing came")
    async with serving(registry) as port:
        asked = asyncio.create_task(ask(port, target(blob)))
        await within(blob.begun)
        blob.gate.set()
        assert (await asked).status == 503


@WHEREVER
async def test_the_server_stops_in_the_middle_of_a_body(registry: MemoryRegistry) -> None:
    """A stop does not hang on a client that reads nothing, and closes the blob."""
    blob = registry.add_blob(CONTENT, file=True)
    async with running(registry) as runner:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        with small_socket(site.port) as client:
            client.sendall(f"GET {target(blob)} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
            await within(blob.begun)
            async with asyncio.timeout(PATIENCE):
                await runner.cleanup()
            await within(blob.ended)


def test_pieces_grow_for_the_quick_and_shrink_for_the_slow() -> None:
    """Within their bounds."""
    assert sending.next_piece(sending.FIRST_PIECE, 0.01, 60) == 2 * sending.FIRST_PIECE
    assert sending.next_piece(sending.LARGEST_PIECE, 0.01, 60) == sending.LARGEST_PIECE
    assert sending.next_piece(sending.LARGEST_PIECE, 5, 60) == sending.LARGEST_PIECE
    assert sending.next_piece(sending.LARGEST_PIECE, 30, 60) == sending.LARGEST_PIECE // 4
    assert sending.next_piece(sending.FIRST_PIECE, 59, 60) == sending.FIRST_PIECE
