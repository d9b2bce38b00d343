"""Large bodies straight from their connection: cut, stalled, too long or too short; both loops, and TLS.

The upstream is a bare socket server, so that what comes together, and where it ends, is exact.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.registry import Unavailable
from mirror.upstream.body import RemoteBlob
from mirror.upstream.client import Client
from mirror.upstream.settings import Settings
from mirror.upstream.straight import AHEAD, LEAST, PAUSED, PIECE, Straight
from tests.upstream.test_tls import self_signed

ALPINE = Repository("library/alpine")
SIZE = LEAST + LEAST // 2 + 12345
DATA = random.Random(7).randbytes(SIZE)
DIGEST = Digest("sha256", hashlib.sha256(DATA).hexdigest())
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
WAIT = 20.0  # seconds; a test that waits longer has failed

Script = Callable[["Wire"], Awaitable[None]]
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@dataclass
class Wire:
    """The upstream's side of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: bytes
    released: asyncio.Event

    async def send(self, *parts: bytes) -> None:
        """Each by itself."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()


@dataclass
class Bench:
    """A client of the upstream that runs a script for each request."""

    client: Client
    connections: int = 0
    wires: list[Wire] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def blob(self) -> RemoteBlob:
        """The blob, opened."""
        opened = await self.client.blob(ALPINE, DIGEST)
        assert isinstance(opened, RemoteBlob)
        return opened


Scenario = Callable[[Bench], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 127.0.0.1."""
    return self_signed(tmp_path_factory.mktemp("straight"), "IP:127.0.0.1")


@pytest.fixture(params=["asyncio", "uvloop", "asyncio-tls", "uvloop-tls"])
def play(request: pytest.FixtureRequest, certificate: Path) -> Callable[..., None]:
    """`play(script, scenario, **settings)`: in a loop of this kind, by TLS or without."""
    loop, _, tls = str(request.param).partition("-")

    def run(script: Script, scenario: Scenario, **settings: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(_play(script, scenario, certificate if tls else None, settings))

    return run


@pytest.fixture(params=["asyncio", "uvloop"])
def play_plain(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`play`, without TLS."""

    def run(script: Script, scenario: Scenario, **settings: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(_play(script, scenario, None, settings))

    return run


async def _play(
    script: Script, scenario: Scenario, certificate: Path | None, settings: dict[str, Any]
) -> None:
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        settings["ca_file"] = certificate

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bench.connections += 1
        try:
            while True:
                wire = Wire(reader, writer, await reader.readuntil(b"\r\n\r\n"), bench.released)
                bench.wires.append(wire)
                await script(wire)
        except (asyncio.IncompleteReadError, OSError):
            pass  # whoever asked has gone, or the script has
        finally:
            writer.close()

    async with AsyncExitStack() as stack:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
        stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        limits = {"connect": 5.0, "firstbyte": 5.0, "stall": 5.0, "retries": 0, **settings}
        client = Client(Settings(f"http{'s' if context else ''}://127.0.0.1:{port}", **limits))
        stack.push_async_callback(client.close)
        bench = Bench(client)
        stack.callback(bench.released.set)
        async with asyncio.timeout(WAIT):
            await scenario(bench)


async def _pour(
    blob: RemoteBlob,
    into: bytearray,
    stop: int = SIZE,
    *,
    after: int | None = None,
    then: Callable[[], object] = lambda: None,
) -> None:
    """Read into `into`; `then` is called once `after` bytes have come."""
    async with aclosing(blob.read(0, stop)) as parts:
        async for part in parts:
            into += part
            if len(into) == after:
                then()
    await blob.close()


async def _until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it is so; the scenario's time limit ends it."""
    while True:
        if condition():
            return
        await asyncio.sleep(0)


def _taken_over(blob: RemoteBlob) -> Straight:
    assert blob._straight is not None, "the connection was not taken over"
    return blob._straight


def _connections(bench: Bench) -> int:
    """Places that the client's connector has given away, and not got back."""
    session = bench.client._calls.transport._session
    assert session is not None
    assert isinstance(session.connector, aiohttp.BaseConnector)
    return len(session.connector._acquired)


async def _whole(wire: Wire) -> None:
    await wire.send(HEAD % SIZE, DATA)


@pytest.mark.parametrize("first", [0, 1, 1000, PIECE, AHEAD + PIECE + 1, LEAST // 2])
def test_what_came_with_the_header_comes_first(play: Callable[..., None], first: int) -> None:
    async def script(wire: Wire) -> None:
        await wire.send(HEAD % SIZE + DATA[:first], DATA[first:])

    async def scenario(bench: Bench) -> None:
        blob, got = await bench.blob(), bytearray()
        await _pour(blob, got)
        _taken_over(blob)
        assert bytes(got) == DATA
        assert _connections(bench) == 0
        assert bench.client._calls.transport.traffic.bytes == SIZE

    play(script, scenario)


def test_it_is_taken_over_also_when_much_has_come_before_it_is_read(play: Callable[..., None]) -> None:
    """While a fill makes room, aiohttp gathers what it may hold, and stops its parser in the middle."""

    async def scenario(bench: Bench) -> None:
        blob, got = await bench.blob(), bytearray()
        response = blob._answer.response
        assert response is not None
        assert response.connection is not None
        handler = response.connection.protocol
        await _until(lambda: getattr(handler, PAUSED))
        await _pour(blob, got)
        _taken_over(blob)
        assert bytes(got) == DATA

    play(_whole, scenario)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("at", [1, PIECE - 1, PIECE, 3 * PIECE + 7, SIZE - 1])
def test_a_cut_is_broken_off_after_what_came(
    play_plain: Callable[..., None], at: int, *, reset: bool
) -> None:
    async def script(wire: Wire) -> None:
        await wire.send(HEAD % SIZE + DATA[:at])
        if reset:
            await wire.released.wait()  # else what is on its way would be lost with it
            wire.writer.transport.abort()
        raise ConnectionResetError

    async def scenario(bench: Bench) -> None:
        blob, got = await bench.blob(), bytearray()
        with pytest.raises(Unavailable, match="broke off") as caught:
            await _pour(blob, got, after=at, then=bench.released.set)
        _taken_over(blob)
        await blob.close()
        assert caught.value.status == 502
        assert bytes(got) == DATA[:at]
        assert _connections(bench) == 0

    play_plain(script, scenario)


@pytest.mark.parametrize("at", [1, PIECE, 3 * PIECE + 7, SIZE - 1])
def test_a_cut_in_tls_is_broken_off(play: Callable[..., None], at: int) -> None:
    """uvloop's TLS may lose some of what came before; what is given on is right and in order."""

    async def script(wire: Wire) -> None:
        await wire.send(HEAD % SIZE + DATA[:at])
        raise ConnectionResetError

    async def scenario(bench: Bench) -> None:
        blob, got = await bench.blob(), bytearray()
        with pytest.raises(Unavailable, match="broke off"):
            await _pour(blob, got)
        await blob.close()
        assert DATA.startswith(got)
        assert len(got) <= at
        assert _connections(bench) == 0

    play(script, scenario)


def test_an_upstream_that_closes_behind_its_last_byte_has_given_all(play: Callable[..., None]) -> None:
    async def script(wire: Wire) -> None:
        await wire.send(HEAD % SIZE + DATA)
        raise ConnectionResetError

    async def scenario(bench: Bench) -> None:
        got = bytearray()
        await _pour(await bench.blob(), got)
        assert bytes(got) == DATA

    play(script, scenario)


@pytest.mark.parametrize("at", [1, 2 * PIECE, SIZE - 1])
def test_a_stall_ends_the_read_after_what_came(play: Callable[..., None], at: int) -> None:
    async def script(wire: Wire) -> None:
        await wire.send(HEAD % SIZE + DATA[:at])
        await wire.released.wait()

    async def scenario(bench: Bench) -> None:
        blob, got = await bench.blob(), bytearray()
        with pytest.raises(Unavailable, match="stopped sending") as caught:
            await _pour(blob, got)
        _taken_over(blob)
        await blob.close()
        assert caught.value.status == 504
        assert bytes(got) == DATA[:at]
        assert _connections(bench) == 0

    play(script, scenario, stall=0.3)


def test_a_reader_that_is_slow_itself_is_no_stall(play: Callable[..., None]) -> None:
    async def scenario(bench: Bench) -> None:
        blob, got = await bench.blob(), bytearray()
        async with aclosing(blob.read(0, SIZE)) as parts:
            async for part in parts:
                if not got:
                    later = asyncio.Event()
                    asyncio.get_running_loop().call_later(0.7, later.set)
                    await later.wait()
                got += part
        await blob.close()
        assert bytes(got) == DATA

    play(_whole, scenario, stall=0.3)


def test_bytes_beyond_the_body_are_nobodys_and_end_the_connection(play: Callable[..., None]) -> None:
    async def script(wire: Wire) -> None:
        await wire.send(HEAD % SIZE + DATA + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad" * 1000)

    async def scenario(bench: Bench) -> None:
        for count in (1, 2):
            got = bytearray()
            await _pour(await bench.blob(), got)
            assert bytes(got) == DATA
            assert (bench.connections, _connections(bench)) == (count, 0)

    play(script, scenario)


def test_a_reader_that_is_cancelled_gives_its_place_back(play: Callable[..., None]) -> None:
    async def script(wire: Wire) -> None:
        await wire.send(HEAD % SIZE + DATA[: 2 * PIECE])
        await wire.released.wait()

    async def scenario(bench: Bench) -> None:
        blob, got = await bench.blob(), bytearray()
        came = asyncio.Event()

        task = asyncio.create_task(_pour(blob, got, after=2 * PIECE, then=came.set))
        await came.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await blob.close()
        await blob.close()
        assert _connections(bench) == 0
        with pytest.raises(asyncio.IncompleteReadError):  # it is gone, not left open
            await bench.wires[0].reader.readexactly(1)

    play(script, scenario)


def test_who_does_not_read_stops_the_upstream(play: Callable[..., None]) -> None:
    """What is held is a few pieces and the kernel's buffers, however much the upstream would give."""
    sent = 0

    async def script(wire: Wire) -> None:
        nonlocal sent
        await wire.send(HEAD % (64 * SIZE))
        for _ in range(64):
            await wire.send(DATA)
            sent += SIZE

    async def scenario(bench: Bench) -> None:
        blob = await bench.blob()
        async with aclosing(blob.read(0, 64 * SIZE)) as parts:
            await anext(parts)
            straight = _taken_over(blob)
            await _until(lambda: straight._is_paused and straight._gathered >= AHEAD - PIECE)
            assert sum(map(len, straight._pieces)) <= AHEAD + 2 * PIECE
        await blob.close()
        assert sent < 64 * SIZE

    play(script, scenario)


def test_pieces_are_used_again_once_nobody_has_them(play: Callable[..., None]) -> None:
    async def scenario(bench: Bench) -> None:
        blob = await bench.blob()
        kept: list[bytes | memoryview] = []
        hasher = hashlib.sha256()
        async with aclosing(blob.read(0, SIZE)) as parts:
            async for part in parts:
                hasher.update(part)
                if len(kept) < 2:
                    kept.append(bytes(part))
                    kept.append(part)
        straight = _taken_over(blob)
        await blob.close()
        assert hasher.hexdigest() == DIGEST.hex
        assert kept[0] == kept[1], "a view that is held was written over"
        assert len(straight._pieces) * PIECE < SIZE / 2

    play(_whole, scenario)


@pytest.mark.parametrize("framing", ["short", "chunked"])
def test_what_is_short_or_of_unknown_length_is_left_to_aiohttp(
    play_plain: Callable[..., None], framing: str
) -> None:
    data = DATA[: LEAST - 1]

    async def script(wire: Wire) -> None:
        if framing == "short":
            await wire.send(HEAD % len(data) + data)
        else:
            chunk = b"%x\r\n" % len(data) + data + b"\r\n0\r\n\r\n"
            await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)

    async def scenario(bench: Bench) -> None:
        for _ in range(2):
            opened = await bench.client.blob(ALPINE, Digest.of(data), size=len(data))
            assert isinstance(opened, RemoteBlob)
            got = bytearray()
            await _pour(opened, got, len(data))
            assert bytes(got) == data
            assert opened._straight is None
        assert bench.connections == 1, "and its connection is used again"

    play_plain(script, scenario)


def test_without_the_private_name_all_goes_by_aiohttp(
    play_plain: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.upstream.straight.PAUSED", "_no_such_name")

    async def scenario(bench: Bench) -> None:
        blob, got = await bench.blob(), bytearray()
        await _pour(blob, got)
        assert blob._straight is None
        assert bytes(got) == DATA

    play_plain(_whole, scenario)


def test_closing_the_client_ends_a_body_that_was_taken_over(play: Callable[..., None]) -> None:
    async def script(wire: Wire) -> None:
        await wire.send(HEAD % SIZE + DATA[:PIECE])
        await wire.released.wait()

    async def scenario(bench: Bench) -> None:
        closing: list[asyncio.Task[None]] = []

        def close() -> None:
            closing.append(asyncio.create_task(bench.client.close()))

        blob, got = await bench.blob(), bytearray()
        with pytest.raises(Unavailable, match="broke off"):
            await _pour(blob, got, after=PIECE, then=close)
        await blob.close()
        await asyncio.gather(*closing)

    play(script, scenario)
