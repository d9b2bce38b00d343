"""No answer, a late one, or none that can be understood: status, text, and how often it was tried."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.registry import RegistryError, Unavailable
from mirror.upstream import transport
from mirror.upstream.failures import TransportError
from tests.support.scripted import Fault, Upstream
from tests.upstream.conftest import Connect, client_of

ALPINE = Repository("library/alpine")
THREE = Tag("3")
GET = "GET /v2/library/alpine/manifests/3"


@contextlib.asynccontextmanager
async def raw(answer: bytes) -> AsyncGenerator[tuple[str, list[bytes]], None]:
    """A server that says `answer` to whatever it reads and closes; gives its URL and the first lines."""
    lines: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(await reader.readline())
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", lines


async def test_a_dead_upstream_fails_within_a_second() -> None:
    with socket.socket() as bound:  # bound, not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        async with client_of(f"http://127.0.0.1:{bound.getsockname()[1]}") as client:
            await asyncio.to_thread(__import__, "ssl")
            started = asyncio.get_running_loop().time()
            with pytest.raises(Unavailable, match="cannot be reached: it refuses connections") as caught:
                await client.resolve(ALPINE, THREE)
            taken = asyncio.get_running_loop().time() - started
    assert caught.value.status == 503
    assert "127.0.0.1" not in caught.value.message
    assert isinstance(caught.value.__cause__, TransportError)
    # 0.3 s of back-off at the most. More is the machine's, but nothing was waited for until a time-out.
    assert taken < 5


async def test_a_name_without_an_address_is_unavailable_and_named() -> None:
    async with client_of("http://registry.invalid", retries=0) as client:
        with pytest.raises(Unavailable, match=r": registry\.invalid cannot be reached: its name ") as caught:
            await client.resolve(ALPINE, THREE)
    assert caught.value.status == 503


async def test_an_upstream_that_accepts_no_connection_times_out() -> None:
    """A full accept queue drops further SYNs."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        async with client_of(f"http://127.0.0.1:{listening.getsockname()[1]}", connect=0.3) as client:
            with pytest.raises(Unavailable, match="no connection in time") as caught:
                await client.resolve(ALPINE, THREE)
    assert caught.value.status == 504


async def test_an_upstream_that_hangs_is_given_up_after_the_first_byte_time_and_not_retried(
    connect: Connect,
) -> None:
    upstream = Upstream()
    upstream.fault("*", "", Fault(hang=True))
    async with connect(upstream, firstbyte=0.3) as client:
        with pytest.raises(Unavailable, match="did not answer in time") as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.status == 504
    assert upstream.lines() == [GET]


async def test_waiting_for_a_free_connection_is_not_the_upstreams_slowness(connect: Connect) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3", layers=[b"x" * 65536])
    layer = next(Digest.parse(digest) for digest, data in image.blobs.items() if len(data) == 65536)
    upstream.fault("GET", "/blobs/", Fault(rate=65536))  # a second, with the only connection
    async with connect(upstream, connections=1, firstbyte=0.4, connect=0.4) as client:
        blob = await client.blob(ALPINE, layer)
        waiting = asyncio.create_task(client.manifest(ALPINE, THREE))
        assert len(b"".join([part async for part in blob.read(0, 65536)])) == 65536
        await blob.close()
        assert (await waiting).body == image.manifest


async def test_a_request_that_loses_each_free_connection_is_given_up_in_time(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A woken waiter finds its connection taken again: that must not start its time anew."""
    monkeypatch.setattr(transport, "QUEUE_SECONDS", 0.5)
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    time = asyncio.get_running_loop().time
    async with connect(upstream, connections=1) as client:

        async def hold_the_connection() -> None:
            while not waiting.done() and time() < started + 20.0:
                await client.resolve(ALPINE, THREE)  # the next one begins as the last one ends

        await client.resolve(ALPINE, THREE)
        started = time()
        waiting = asyncio.create_task(client.manifest(ALPINE, THREE))
        await hold_the_connection()
        held_for = time() - started
        with pytest.raises(Unavailable, match="all connections to it are in use"):
            await waiting
        assert held_for < 20.0, "it is given up while the connection is still held"
    assert len(upstream.seen) > 2, "the connection was let go of in between"


async def test_who_reads_on_after_the_client_was_closed_is_told_so(connect: Connect) -> None:
    data = b"x" * 300_000
    upstream = Upstream()
    digest = Digest.parse(upstream.add_blob("library/alpine", data))
    upstream.fault("GET", "/blobs/", Fault(stall_after=100_000))
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        assert b"".join([part async for part in blob.read(0, 100_000)]) == data[:100_000]
        await client.close()
        with pytest.raises(Unavailable, match="the mirror is stopping"):
            _ = [part async for part in blob.read(100_000, len(data))]
        await blob.close()


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_server_error_is_retried_and_then_passed_on(connect: Connect, status: int) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3")
    upstream.fault("GET", "/manifests/", Fault(status=status, headers={"Retry-After": "0"}), times=4)
    async with connect(upstream, retries=2) as client:
        with pytest.raises(Unavailable) as caught:
            await client.manifest(ALPINE, THREE)
        assert caught.value.status == status
        assert (await client.manifest(ALPINE, THREE)).body == image.manifest
    assert upstream.lines() == [GET] * 5


async def test_a_long_retry_after_is_passed_on_at_once(connect: Connect) -> None:
    upstream = Upstream()
    upstream.fault("GET", "/manifests/", Fault(status=503, headers={"Retry-After": "30"}))
    async with connect(upstream, retries=2) as client:
        with pytest.raises(Unavailable) as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.retry_after == 30.0
    assert upstream.lines() == [GET]


async def test_a_reset_before_the_first_byte_is_retried(connect: Connect) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3")
    digest = next(iter(image.blobs))
    upstream.fault("GET", "/blobs/", Fault(reset=True), times=2)
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, Digest.parse(digest))
        await blob.close()
    assert len(upstream.seen) >= 3


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    ],
)
async def test_what_is_not_http_is_a_bad_gateway_and_not_asked_again(answer: bytes) -> None:
    async with raw(answer) as (url, lines), client_of(url) as client:
        with pytest.raises(Unavailable) as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.status == 502
    assert len(lines) == 1
    assert "OpenSSH" not in caught.value.message


async def test_a_broken_chunk_is_a_bad_gateway() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n"
    async with raw(answer) as (url, _), client_of(url, retries=0) as client:
        with pytest.raises(RegistryError) as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.status == 502


async def test_an_error_body_without_end_is_not_read_to_its_end(connect: Connect) -> None:
    upstream = Upstream()
    upstream.fault("GET", "/manifests/", Fault(status=403, body=b"x" * (32 << 20)))
    async with connect(upstream) as client:
        with pytest.raises(RegistryError) as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.status == 403
    assert upstream.seen[0].sent < 32 << 20


@pytest.mark.parametrize("fault", [Fault(cut_after=3), Fault(length=5000), Fault(cut_after=0, reset=True)])
async def test_the_status_counts_also_where_the_body_of_an_error_breaks_off(
    connect: Connect, fault: Fault
) -> None:
    """docker-registry 2.8.2 announces the blob's length with its 416."""
    upstream = Upstream()
    upstream.fault("GET", "", replace(fault, status=403, body=b"forbidden"))
    async with connect(upstream) as client:
        with pytest.raises(RegistryError) as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.status == 403
    assert upstream.lines() == [GET]


async def test_a_missing_ca_file_is_our_own_trouble() -> None:
    async with client_of("https://registry.invalid", ca_file="/nonexistent/ca.pem") as client:
        with pytest.raises(Unavailable, match="CA file") as caught:
            await client.manifest(ALPINE, THREE)
    assert "nonexistent" not in caught.value.message
