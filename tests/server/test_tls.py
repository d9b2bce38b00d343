"""Connections in TLS: handshakes, bodies, ends; on the loop's own sockets, with Python's client."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mirror.server import body, tls
from tests.server.events import Events
from tests.server.memory import MemoryRegistry
from tests.server.newkeys import Client
from tests.server.raw import PATIENCE, Answer, exchange
from tests.server.tlskit import ask, connected, secured, trusting, until
from tests.server.tlskit import tls as settings
from tests.support.certificates import Pair, issued, self_signed

CONTENT = os.urandom(3 * body.TLS_PIECE + 12_345)
REQUEST = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """The server's, which is its own CA."""
    return self_signed(tmp_path, "server")


async def test_an_answer_in_tls_is_the_answer(registry: MemoryRegistry, pair: Pair) -> None:
    """And the next on the same connection, which the fast lane may give."""
    registry.add_manifest("v1", b'{"a": 1}')
    registry.notes["manifest"] = {"hit": True}
    async with (
        secured(registry, settings(pair)) as (port, _),
        connected(port, trusting(pair[0])) as (reader, writer),
    ):
        for _ in range(5):
            writer.write(b"GET /v2/library/x/manifests/v1 HTTP/1.1\r\nHost: m\r\n\r\n")
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                assert await reader.readexactly(8) == b'{"a": 1}'
    asked = [call for call in registry.calls if call.startswith("manifest")]
    assert len(asked) == (2 if registry.leases else 5)


@pytest.mark.parametrize("file", [True, False], ids=["file", "memory"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_large_body_is_whole(
    registry: MemoryRegistry, pair: Pair, file: bool, version: ssl.TLSVersion
) -> None:
    """Read and encrypted in threads; many readers of one file do not disturb each other."""
    blob = registry.add_blob(CONTENT, file=file)
    client = trusting(pair[0])
    client.maximum_version = version
    target = f"/v2/library/x/blobs/{blob.descriptor.digest}"
    async with secured(registry, settings(pair)) as (port, _):
        answers = await asyncio.gather(*(ask(port, client, target) for _ in range(8)))
    assert all(answer.body == CONTENT for answer in answers)
    assert blob.closed == 8


async def test_no_byte_of_a_file_leaves_unencrypted(
    registry: MemoryRegistry, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's sendfile knows no TLS."""
    blob = registry.add_blob(CONTENT, file=True)
    monkeypatch.setattr(os, "sendfile", lambda *_of: pytest.fail("sendfile was called"))
    async with secured(registry, settings(pair)) as (port, _):
        answer = await ask(port, trusting(pair[0]), f"/v2/library/x/blobs/{blob.descriptor.digest}")
    assert answer.body == CONTENT


@pytest.mark.parametrize("room", [0, 1, 50_000, None], ids=["no room", "for a byte", "for a part", "for all"])
async def test_what_a_client_has_room_for_leaves_from_the_thread(
    registry: MemoryRegistry, pair: Pair, monkeypatch: pytest.MonkeyPatch, room: int | None
) -> None:
    """The rest leaves by the event loop, in its order; nothing is lost or doubled between the two."""
    blob = registry.add_blob(CONTENT, file=True)
    real, by_threads = os.write, [0]

    def write(file: int, data: bytes) -> int:
        if not threading.current_thread().name.startswith("encrypting"):
            return real(file, data)
        if room == 0:
            raise BlockingIOError
        taken = real(file, data[:room])
        by_threads[0] += taken
        return taken

    monkeypatch.setattr(os, "write", write)
    async with secured(registry, settings(pair)) as (port, _):
        answer = await ask(port, trusting(pair[0]), f"/v2/library/x/blobs/{blob.descriptor.digest}")
    assert answer.body == CONTENT
    assert (by_threads[0] > 0) == (room != 0)


async def test_a_connection_that_breaks_under_the_thread_is_a_client_that_went(
    registry: MemoryRegistry, pair: Pair, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the kernel calls it: it is no trouble of the file's."""
    blob = registry.add_blob(CONTENT, file=True)
    real = os.write

    def write(file: int, data: bytes) -> int:
        if threading.current_thread().name.startswith("encrypting"):
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return real(file, data)

    monkeypatch.setattr(os, "write", write)
    async with (
        secured(registry, settings(pair)) as (port, _),
        connected(port, trusting(pair[0])) as (_reader, writer),
    ):
        asked = f"GET /v2/library/x/blobs/{blob.descriptor.digest} HTTP/1.1\r\nHost: m\r\n\r\n"
        writer.write(asked.encode())
        async with asyncio.timeout(PATIENCE):
            await blob.ended.wait()
    assert blob.closed == 1
    assert (await events.wait("client.gone"))["log_level"] == "debug"
    assert not events.named("blob.broken")


async def test_where_no_descriptor_is_left_the_connection_ends(
    registry: MemoryRegistry, pair: Pair, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no trouble of the file's, and the client learns of it."""
    blob = registry.add_blob(CONTENT, file=True)

    def dup(_file: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with (
        secured(registry, settings(pair)) as (port, _),
        connected(port, trusting(pair[0])) as (reader, writer),
    ):
        monkeypatch.setattr(os, "dup", dup)
        asked = f"GET /v2/library/x/blobs/{blob.descriptor.digest} HTTP/1.1\r\nHost: m\r\n\r\n"
        writer.write(asked.encode())
        async with asyncio.timeout(PATIENCE):
            assert len(await reader.read()) < len(CONTENT)
    assert blob.closed == 1
    assert not events.named("blob.broken")


async def test_of_a_client_that_reads_nothing_one_step_is_in_memory(
    registry: MemoryRegistry, pair: Pair
) -> None:
    """What it does not take is not encrypted."""
    size = 64 << 20
    blob = registry.add_blob(bytes(size), file=True)
    async with secured(registry, settings(pair)) as (port, _):
        _reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(pair[0]), limit=1024)
        paused(writer)
        asked = f"GET /v2/library/x/blobs/{blob.descriptor.digest} HTTP/1.1\r\nHost: m\r\n\r\n"
        writer.write(asked.encode())
        await blob.begun.wait()
        [server_side] = [each for each in transports() if not each.is_closing()]
        sizes: list[int] = []

        def stands_still() -> bool:
            sizes.append(server_side.get_write_buffer_size())
            return sizes[-1] > 0 and len(set(sizes[-50:])) == 1 and len(sizes) > 50

        await until(stands_still)
        assert 0 < max(sizes) <= tls.STEP * 1.01
        writer.transport.abort()
        async with asyncio.timeout(PATIENCE):
            await blob.ended.wait()


def transports() -> list[tls.TlsTransport]:
    """Those that live."""
    return [each for each in gc.get_objects() if isinstance(each, tls.TlsTransport)]


def paused(writer: asyncio.StreamWriter) -> None:
    """Read nothing more."""
    transport = writer.transport
    assert isinstance(transport, asyncio.Transport) or hasattr(transport, "pause_reading")
    transport.pause_reading()


async def test_a_broken_body_ends_with_close_notify_and_short(registry: MemoryRegistry, pair: Pair) -> None:
    """Clients resume after that, as after FIN on a plain connection; it is no error of TLS."""
    blob = registry.add_blob(CONTENT)
    blob.breaks, blob.break_at = RuntimeError("broken"), 100_000
    async with secured(registry, settings(pair)) as (port, _):
        answer = await ask(port, trusting(pair[0]), f"/v2/library/x/blobs/{blob.descriptor.digest}")
    assert answer.one("content-length") == str(len(CONTENT))
    assert answer.body == CONTENT[:100_000]


async def test_http_on_the_tls_port_is_told_so(registry: MemoryRegistry, pair: Pair, events: Events) -> None:
    """In Go's words, and it is no error."""
    async with secured(registry, settings(pair)) as (port, certificates):
        assert await exchange(port, REQUEST) == tls.SPOKE_HTTP
    assert certificates.handshakes_failed == {"the client spoke HTTP": 1}
    assert [event["log_level"] for event in events.named("client.tls.failed")] == ["debug"]


async def test_nonsense_and_silence_are_counted_and_are_no_errors(
    registry: MemoryRegistry, pair: Pair, events: Events
) -> None:
    """A port scanner, a health check that only connects."""
    # A busy machine may stand still for some of it, before what has come is looked at.
    async with secured(registry, settings(pair), head_timeout=1.5) as (port, certificates):
        await exchange(port, b"\x00" * 100)
        assert await exchange(port, b"") == b""
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await until(lambda: certificates.handshakes_failed.total() == 3)
    assert certificates.handshakes_failed["no handshake within the time"] == 1
    assert certificates.handshakes_failed["the client went away"] == 1
    assert {event["log_level"] for event in events.all} == {"debug"}


async def test_half_a_handshake_holds_its_place_for_a_bounded_time(
    registry: MemoryRegistry, pair: Pair
) -> None:
    """Places are given away again, after any kind of failure."""
    client = trusting(pair[0])
    hello = client_hello(client)
    async with secured(registry, settings(pair), most=2, head_timeout=0.3) as (port, _):
        for _ in range(3):
            for data in (b"", b"\x16", hello[:40], hello, b"junk" * 10, REQUEST):
                await asyncio.gather(*(exchange(port, data) for _ in range(2)))
        assert (await let_in(port, client)).status == 200


async def let_in(port: int, client: ssl.SSLContext) -> Answer:
    """`/v2/`, asked until it is answered: on a busy machine a good handshake may take too long as well."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                return await ask(port, client)


def client_hello(context: ssl.SSLContext) -> bytes:
    """The first bytes of a client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    engine = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        engine.do_handshake()
    return outgoing.read()


async def test_a_handshake_that_comes_byte_by_byte_is_one(registry: MemoryRegistry, pair: Pair) -> None:
    """With what follows in the same segment as its end, as TLS 1.3 clients send it."""
    context = trusting(pair[0])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    engine = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    async with secured(registry, settings(pair)) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        socket_ = writer.get_extra_info("socket")
        socket_.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with closing(writer):
            while True:
                try:
                    engine.do_handshake()
                except ssl.SSLWantReadError:
                    for byte in outgoing.read():
                        writer.write(bytes([byte]))
                        await asyncio.sleep(0)
                    async with asyncio.timeout(PATIENCE):
                        incoming.write(await reader.read(65536))
                else:
                    break
            engine.write(REQUEST)
            writer.write(outgoing.read())  # the client's Finished and the request
            answer = b""
            while b"{}" not in answer:
                try:
                    answer += engine.read(65536)
                except ssl.SSLWantReadError:
                    async with asyncio.timeout(PATIENCE):
                        incoming.write(await reader.read(65536))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_reader_that_leaves_waits_for_its_thread(
    registry: MemoryRegistry, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is closed only when nobody reads it any more, and nothing follows on that connection."""
    blob = registry.add_blob(CONTENT, file=True)
    begun, go_on = threading.Event(), threading.Event()
    real, order = os.pread, []

    def slow(file: int, count: int, offset: int) -> bytes:
        begun.set()
        go_on.wait(PATIENCE)
        order.append("read")
        return real(file, count, offset)

    monkeypatch.setattr(os, "pread", slow)
    async with secured(registry, settings(pair)) as (port, _):
        _reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(pair[0]))
        asked = f"GET /v2/library/x/blobs/{blob.descriptor.digest} HTTP/1.1\r\nHost: m\r\n\r\n"
        writer.write(asked.encode())
        await asyncio.to_thread(begun.wait, PATIENCE)
        writer.transport.abort()
        assert not blob.ended.is_set()
        go_on.set()
        async with asyncio.timeout(PATIENCE):
            await blob.ended.wait()
    assert order


async def test_a_refused_upload_gets_its_answer(registry: MemoryRegistry, pair: Pair) -> None:
    """Though its body is not read: closing on it must not cost the client the answer."""
    async with (
        secured(registry, settings(pair)) as (port, _),
        connected(port, trusting(pair[0])) as (reader, writer),
    ):
        head = b"PUT /v2/library/x/manifests/v1 HTTP/1.1\r\nHost: m\r\nContent-Length: 300000\r\n\r\n"
        writer.write(head + b"x" * 200_000)
        async with asyncio.timeout(PATIENCE):
            answer = await reader.readuntil(b"\r\n\r\n")
            writer.write(b"x" * 100_000)
            answer += await reader.read()
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"read-only" in answer


@pytest.mark.parametrize(
    ("who", "mode", "served"),
    [
        ("nobody", ssl.CERT_REQUIRED, False),
        ("known", ssl.CERT_REQUIRED, True),
        ("by another CA", ssl.CERT_REQUIRED, False),
        ("expired", ssl.CERT_REQUIRED, False),
        ("nobody", ssl.CERT_OPTIONAL, True),
        ("known", ssl.CERT_OPTIONAL, True),
        ("by another CA", ssl.CERT_OPTIONAL, False),
        ("expired", ssl.CERT_OPTIONAL, False),
        ("by an intermediate", ssl.CERT_REQUIRED, True),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_who_is_let_in_by_a_clients_certificate(
    registry: MemoryRegistry,
    pair: Pair,
    tmp_path: Path,
    events: Events,
    who: str,
    mode: ssl.VerifyMode,
    served: bool,
    version: ssl.TLSVersion,
) -> None:
    """Whom it keeps out it tells why, in the log."""
    ours, other = self_signed(tmp_path, "ours"), self_signed(tmp_path, "other")
    below = issued(tmp_path, "below", ours, ca=True)
    made: dict[str, Callable[[], Pair | None]] = {
        "nobody": lambda: None,
        "known": lambda: issued(tmp_path, "known", ours),
        "by another CA": lambda: issued(tmp_path, "stranger", other),
        "expired": lambda: issued(tmp_path, "expired", ours, expired=True),
        "by an intermediate": lambda: issued(tmp_path, "leaf", below),
    }
    shown = made[who]()
    cas = (below[0],) if who == "by an intermediate" else (ours[0],)
    client = trusting(pair[0], shown)
    client.maximum_version = version
    async with secured(registry, settings(pair, client_cas=cas, client_auth=mode)) as (port, certificates):
        try:
            answered = (await ask(port, client)).status == 200
        except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
            answered = False
        assert answered is served
        if not served:
            refused = await events.wait("client.certificate.refused")
            assert refused["log_level"] == "info"
            assert "certificate" in refused["reason"]
            assert certificates.handshakes_failed.total() == 1


async def test_a_stop_under_transfers_leaves_no_thread(registry: MemoryRegistry, pair: Pair) -> None:
    """Also of a client that reads nothing."""
    blob = registry.add_blob(bytes(32 << 20), file=True)
    async with secured(registry, settings(pair)) as (port, _):
        _reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(pair[0]))
        paused(writer)
        asked = f"GET /v2/library/x/blobs/{blob.descriptor.digest} HTTP/1.1\r\nHost: m\r\n\r\n"
        writer.write(asked.encode())
        await blob.begun.wait()
    writer.transport.abort()  # before anything can fail: else it is left for others to stumble over
    async with asyncio.timeout(PATIENCE):
        await blob.ended.wait()  # a thread that encrypts is waited for, by the request that was ended
    assert blob.closed == 1
    await until(
        lambda: not any(each.name.startswith(("encrypting", "handshake")) for each in threading.enumerate())
    )


@pytest.mark.parametrize("asked", [False, True], ids=["idle", "with a body that it leaves unread"])
async def test_a_client_that_asks_for_new_keys_on_and_on_is_ended(
    registry: MemoryRegistry, pair: Pair, events: Events, asked: bool
) -> None:
    """Each answer that it does not take stays in memory."""
    blob = registry.add_blob(CONTENT, file=True)
    request = f"GET /v2/library/x/blobs/{blob.descriptor.digest} HTTP/1.1\r\nHost: m\r\n\r\n"

    def flood(port: int) -> int:
        """How often it asked before it was ended."""
        with closing(Client(port)) as client:
            client.send(request.encode() if asked else b"G")
            for count in range(0, 400_000, 100):
                try:
                    client.ask(100)
                except OSError:
                    return count
        return 400_000

    async with secured(registry, settings(pair)) as (port, _):
        assert await asyncio.to_thread(flood, port) < 400_000
        told = await events.wait("client.tls.broken")
    assert told["reason"] == "it asks for new keys all the time"


async def test_a_client_may_ask_for_new_keys(registry: MemoryRegistry, pair: Pair) -> None:
    """Now and then, also one that has not taken what it was sent."""
    blob = registry.add_blob(CONTENT, file=True)
    request = f"GET /v2/library/x/blobs/{blob.descriptor.digest} HTTP/1.1\r\nHost: m\r\n\r\n"

    def pull(port: int) -> None:
        with closing(Client(port)) as client:
            client.send(request.encode())
            client.ask(20)
            given = client.read(len(CONTENT)).partition(b"\r\n\r\n")[2]
            assert CONTENT.startswith(given)

    async with secured(registry, settings(pair)) as (port, _):
        await asyncio.to_thread(pull, port)
