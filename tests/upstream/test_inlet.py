"""Large bodies whose connection is taken over from aiohttp: the same bytes, and failures, as by `read`."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from contextlib import aclosing, nullcontext
from pathlib import Path

import pytest

from mirror.oci.digest import Digest
from mirror.registry import Unavailable
from mirror.upstream.body import RemoteBlob
from mirror.upstream.breakers import Visit
from mirror.upstream.endpoints import _Watched
from mirror.upstream.inlet import GATHERED, Inlet
from tests.cache.kit import until
from tests.support.scripted import Fault, serve
from tests.upstream.conftest import Connect, client_of
from tests.upstream.test_blobs import ALPINE, DATA, SIZE, holding
from tests.upstream.test_tls import certificate, tls

__all__ = ["certificate", "tls"]  # fixtures

LARGE = b"".join(bytes([number]) * SIZE for number in range(1, 9))  # no two MiB of it are the same
WORTH = 1 << 20
BUFFER = 100_000  # bytes; no part of what comes


async def drawn(blob: RemoteBlob, stop: int, into: bytearray, worth: int = WORTH) -> list[Inlet]:
    """What comes, taken in a thread where it may be; and whence it was taken. It begins once enough has
    gathered: who does nothing with what comes is as fast as any upstream.
    """
    inlets: list[Inlet] = []
    response = blob._answer.response
    assert response is not None
    await until(lambda: response.content._size >= min(worth, SIZE) // GATHERED)
    buffer = memoryview(bytearray(BUFFER))
    async with aclosing(blob.draw(stop, worth)) as parts:
        async for part in parts:
            if isinstance(part, bytes):
                into += part
                continue
            assert isinstance(part, Inlet)
            inlets.append(part)
            while count := await asyncio.to_thread(part.take, buffer):
                into += buffer[:count]
    return inlets


async def test_the_rest_of_a_large_body_is_taken_from_its_connection(connect: Connect) -> None:
    upstream, digest = holding(LARGE)
    got = bytearray()
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        inlets = await drawn(blob, len(LARGE), got)
        assert blob._tap is None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(inlets[0]._descriptor)
        await blob.close()
        await blob.close()
        traffic = client._calls.transport.traffic
        assert traffic.bytes == len(LARGE)
        assert traffic.pulled["blob",] == len(LARGE)
        assert (await client.stat_blob(ALPINE, digest)).size == len(LARGE)
    assert bytes(got) == LARGE
    assert sum(inlet.taken for inlet in inlets) > len(LARGE) // 2, "most of it is"
    assert len({seen.connection for seen in upstream.seen}) == 1, "it is used again"


async def test_who_still_reads_the_end_of_the_body_before_it_does_not_have_aiohttp_go_on_with_it(
    connect: Connect,
) -> None:
    """The connection is free once the other body has come, read or not."""
    upstream, digest = holding(LARGE)
    before = Digest.parse(upstream.add_blob("library/alpine", DATA))
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, before)
        waiting = blob._answer.response
        assert waiting is not None
        await until(waiting.content.is_eof)
        large = await client.blob(ALPINE, digest)
        response = large._answer.response
        assert response is not None
        await until(lambda: response.content._size >= WORTH // GATHERED)
        got, rest, buffer = bytearray(), bytearray(), memoryview(bytearray(BUFFER))
        async for part in large.draw(len(LARGE), WORTH):
            if isinstance(part, bytes):
                got += part
                continue
            if not rest:
                async for piece in blob.read(0, len(DATA)):
                    rest += piece
                await asyncio.sleep(0.1)  # in which it could come
                assert not response.content._size
            while count := await asyncio.to_thread(part.take, buffer):
                got += buffer[:count]
        await large.close()
        await blob.close()
        assert (await client.stat_blob(ALPINE, digest)).size == len(LARGE)
    assert rest == DATA
    assert got == LARGE
    assert len({seen.connection for seen in upstream.seen}) == 1, "one connection has brought both"


async def test_a_body_that_is_not_taken_to_its_end_ends_its_connection(connect: Connect) -> None:
    upstream, digest = holding(LARGE)
    got = bytearray()
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        inlets = await drawn(blob, 6 * SIZE, got)
        os.fstat(inlets[0]._descriptor)
        await blob.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(inlets[0]._descriptor)
        assert (await client.stat_blob(ALPINE, digest)).size == len(LARGE)
    assert bytes(got) == LARGE[: 6 * SIZE]
    assert len({seen.connection for seen in upstream.seen}) == 2


async def test_a_connection_on_which_more_came_than_the_body_is_not_used_again() -> None:
    """Its next answer would be whatever that is."""
    connections = 0
    digest = Digest.of(LARGE)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while (await reader.read(BUFFER)).strip():
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(LARGE)}\r\n\r\n"
            writer.write(head.encode() + LARGE + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with client_of(f"http://127.0.0.1:{port}") as client:
        for count in (1, 2):
            got = bytearray()
            blob = await client.blob(ALPINE, digest)
            assert await drawn(blob, len(LARGE), got)
            await blob.close()
            assert bytes(got) == LARGE
            assert connections == count
    server.close()


@pytest.mark.parametrize("more", [b"x" * 5000, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"])
@pytest.mark.parametrize("takes", [False, True])
async def test_nor_is_one_on_which_more_comes_later(more: bytes, takes: bool) -> None:
    """Be it nonsense, or an answer that nobody asked for; and whoever has received the body."""
    connections = 0
    digest = Digest.of(LARGE)
    is_whole = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while (await reader.read(BUFFER)).strip():
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(LARGE)}\r\n\r\n".encode() + LARGE)
            await writer.drain()
            await is_whole.wait()
            is_whole.clear()
            writer.write(more)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with client_of(f"http://127.0.0.1:{port}") as client:
        for count in (1, 2):
            got = bytearray()
            blob = await client.blob(ALPINE, digest)
            response = blob._answer.response
            assert response is not None
            assert response.connection is not None
            protocol = response.connection.protocol
            assert protocol is not None
            if takes:
                assert await drawn(blob, len(LARGE), got)
            else:
                got += b"".join([part async for part in blob.read(0, len(LARGE))])
            await blob.close()
            assert got == LARGE
            assert protocol.is_connected()
            is_whole.set()
            await until(lambda it=protocol: it.should_close or not it.is_connected())  # type: ignore[misc]
            assert connections == count
    server.close()


@pytest.mark.parametrize("stop", [1, WORTH - 1, 3 * SIZE + 17, len(LARGE) - 1])
async def test_no_more_is_given_than_was_asked_for(connect: Connect, stop: int) -> None:
    upstream, digest = holding(LARGE)
    got = bytearray()
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        await drawn(blob, stop, got)
        await blob.close()
    assert bytes(got) == LARGE[:stop]


async def test_a_part_of_a_blob_is_taken_from_its_first_byte_on(connect: Connect) -> None:
    upstream, digest = holding(LARGE)
    got = bytearray()
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest, start=12_345, size=len(LARGE), stop=6 * SIZE)
        inlets = await drawn(blob, 6 * SIZE, got)
        await blob.close()
    assert bytes(got) == LARGE[12_345 : 6 * SIZE]
    assert inlets


async def test_a_body_that_is_not_worth_a_connection_leaves_it_for_the_next_request(connect: Connect) -> None:
    upstream, digest = holding(DATA)
    got = bytearray()
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        assert await drawn(blob, SIZE, got, worth=SIZE + 1) == []
        await blob.close()
        await client.stat_blob(ALPINE, digest)
    assert bytes(got) == DATA
    assert len({seen.connection for seen in upstream.seen}) == 1


async def test_what_aiohttp_holds_back_is_given_first(connect: Connect) -> None:
    """It stops reading once it holds some MiB, and its parser may keep what it was given last."""
    upstream, digest = holding(LARGE)
    got = bytearray()
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        response = blob._answer.response
        assert response is not None
        assert response.connection is not None
        protocol = response.connection.protocol
        assert protocol is not None
        await until(lambda: protocol._reading_paused)
        inlets = await drawn(blob, len(LARGE), got)
        await blob.close()
    assert bytes(got) == LARGE
    assert inlets


async def test_chunks_stay_with_who_understands_them(connect: Connect) -> None:
    upstream, digest = holding(LARGE)
    upstream.fault("GET", "/blobs/", Fault(chunked=True))
    got = bytearray()
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest, size=len(LARGE))
        assert await drawn(blob, len(LARGE), got) == []
        await blob.close()
    assert bytes(got) == LARGE


async def test_what_is_encrypted_stays_with_who_can_read_it(certificate: Path, tls: ssl.SSLContext) -> None:
    upstream, digest = holding(LARGE)
    got = bytearray()
    async with serve(upstream, tls=tls) as url, client_of(url, ca_file=certificate) as client:
        blob = await client.blob(ALPINE, digest)
        assert await drawn(blob, len(LARGE), got) == []
        await blob.close()
    assert bytes(got) == LARGE


async def test_without_a_descriptor_to_spare_it_comes_as_ever(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream, digest = holding(LARGE)
    got = bytearray()

    def none_left(_descriptor: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        monkeypatch.setattr(os, "dup", none_left)
        assert await drawn(blob, len(LARGE), got) == []
        await blob.close()
    assert bytes(got) == LARGE


@pytest.mark.parametrize("reset", [False, True])
async def test_what_breaks_off_says_so_after_what_came(connect: Connect, reset: bool) -> None:
    upstream, digest = holding(LARGE)
    upstream.fault("GET", "/blobs/", Fault(cut_after=5 * SIZE, reset=reset))
    got = bytearray()
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        with pytest.raises(Unavailable) as caught:
            await drawn(blob, len(LARGE), got)
        await blob.close()
    assert caught.value.status == 502
    assert bytes(got) == LARGE[: len(got)]
    # A reset throws away what was on its way.
    assert len(got) == 5 * SIZE or (reset and len(got) > 0)


async def test_what_ceases_to_come_is_given_up(connect: Connect) -> None:
    upstream, digest = holding(LARGE)
    upstream.fault("GET", "/blobs/", Fault(stall_after=5 * SIZE))
    got = bytearray()
    async with connect(upstream, stall=0.2) as client:
        blob = await client.blob(ALPINE, digest)
        with pytest.raises(Unavailable) as caught:
            await drawn(blob, len(LARGE), got)
        await blob.close()
    assert caught.value.status == 504
    assert bytes(got) == LARGE[: 5 * SIZE]


async def test_what_comes_in_time_again_and_again_is_waited_for(connect: Connect) -> None:
    """The stall is without a byte, however long the whole takes."""
    upstream, digest = holding(LARGE)
    upstream.fault("GET", "/blobs/", Fault(rate=8 * SIZE))
    got = bytearray()
    async with connect(upstream, stall=0.5) as client:
        blob = await client.blob(ALPINE, digest)
        inlets = await drawn(blob, len(LARGE), got, worth=64 << 10)
        await blob.close()
    assert bytes(got) == LARGE
    assert len(inlets) > 3, "it was waited for"


@pytest.mark.parametrize("fault", [None, Fault(cut_after=5 * SIZE)])
async def test_its_server_is_judged_by_how_the_body_ended(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, fault: Fault | None
) -> None:
    upstream, digest = holding(LARGE)
    if fault is not None:
        upstream.fault("GET", "/blobs/", fault)
    got = bytearray()
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        told = list[str]()
        monkeypatch.setattr(Visit, "succeeded", lambda _visit: told.append("succeeded"))
        monkeypatch.setattr(Visit, "failed", lambda _visit: told.append("failed"))
        with nullcontext() if fault is None else pytest.raises(Unavailable):
            await drawn(blob, len(LARGE), got)
        await blob.close()
    assert told == (["succeeded"] if fault is None else ["failed"])


async def test_who_gave_a_blob_to_its_end_is_known(connect: Connect) -> None:
    upstream, digest = holding(LARGE)
    given: list[tuple[int, bool]] = []
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        watched = _Watched(
            blob,
            failed=lambda error: pytest.fail(str(error)),
            gave=lambda count, *, to_the_end: given.append((count, to_the_end)),
            is_part=False,
        )
        got = bytearray()
        response = blob._answer.response
        assert response is not None
        await until(lambda: response.content._size >= WORTH // GATHERED)
        buffer = memoryview(bytearray(BUFFER))
        async for part in watched.draw(len(LARGE), WORTH):
            if isinstance(part, bytes):
                got += part
                continue
            while count := await asyncio.to_thread(part.take, buffer):
                got += buffer[:count]
        await watched.close()
    assert bytes(got) == LARGE
    assert sum(count for count, _ in given) == len(LARGE)
    assert [to_the_end for count, to_the_end in given if count][-1]
    assert sum(to_the_end for count, to_the_end in given) == 1
