"""What a head may be: its size, its time, and what may be sent before the answer; against a real server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.server import connections, heads
from mirror.server.heads import AHEAD, WITH_BODY, Heads
from mirror.server.limits import Limits
from mirror.server.routes import Settings
from tests.server.events import Events
from tests.server.memory import MemoryRegistry
from tests.server.raw import PATIENCE, ask, exchange, let_in, parse_broken, running

REQUEST = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"
BEGUN = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n"
SIZE = 16 << 10


@asynccontextmanager
async def site(registry: MemoryRegistry, head_timeout: float = 10.0) -> AsyncIterator[int]:
    """A server with small heads."""
    limits = Limits(head_size=SIZE, head_timeout=head_timeout)
    async with running(registry, Settings(access_log=False, limits=limits)) as runner:
        made = connections.Site(runner, "127.0.0.1", 0)
        await made.start()
        yield made.port


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side closes, or resets."""
    read = b""
    async with asyncio.timeout(PATIENCE):
        try:
            while data := await reader.read(65536):
                read += data
        except ConnectionError:
            pass
    return read


def many(size: int) -> bytes:
    """Fields of 1000 bytes, as many as fit into a head of this size, with its end."""
    count, rest = divmod(size - len(BEGUN) - 2, 1000)
    return (
        BEGUN
        + b"".join(b"A: " + b"a" * 995 + b"\r\n" for _ in range(count))
        + b"B:"
        + b"b" * (rest - 4)
        + b"\r\n\r\n"
    )


async def test_a_head_of_the_largest_size_is_taken_and_a_byte_more_is_431(
    registry: MemoryRegistry, events: Events
) -> None:
    """Of many fields, none of which is long; also when it comes in pieces, and as a second one."""
    async with site(registry) as port:
        for first in (b"", REQUEST):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with closing(writer):
                if first:
                    writer.write(first)
                    await reader.readuntil(b"{}")
                writer.write(many(SIZE))
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
                await reader.readuntil(b"{}")
                writer.write(many(SIZE + 1)[:9000])
                await writer.drain()
                writer.write(many(SIZE + 1)[9000:])
                answer = parse_broken(await read_all(reader))
            assert (answer.status, answer.one("connection")) == (431, "close")
            assert int(answer.one("content-length") or 0) == len(answer.body)
        assert (await ask(port, "/v2/")).status == 200
    [dropped] = events.named("client.dropped")
    assert (dropped["reason"], dropped["remote"]) == (heads.LARGE, "127.0.0.1")


async def test_a_head_without_an_end_is_given_up(registry: MemoryRegistry) -> None:
    """Before it takes memory."""
    async with site(registry) as port:
        answered = await exchange(port, BEGUN + b"A: b\r\n" * 20_000)
        assert answered == b"" or parse_broken(answered).status in (400, 431)
        assert (await ask(port, "/v2/")).status == 200


@pytest.mark.parametrize("first", [b"", REQUEST], ids=["the first", "a later one"])
async def test_a_head_byte_by_byte_has_a_time(first: bytes, registry: MemoryRegistry, events: Events) -> None:
    """However steadily it comes: the time is for all of it."""
    async with site(registry, head_timeout=1.0) as port:  # a busy machine may stand still for some of it
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            if first:
                writer.write(first)
                await reader.readuntil(b"{}")
            ended = asyncio.create_task(read_all(reader))
            sent = 0
            for byte in BEGUN * 100:
                if ended.done():
                    break
                writer.write(bytes([byte]))
                sent += 1
                await asyncio.wait([ended], timeout=0.05)
            assert await ended == b""
        assert sent < len(BEGUN) * 2
        await events.wait("client.dropped")
        assert (await let_in(port)).status == 200
    assert events.named("client.dropped")[0]["reason"] == heads.SLOW


async def test_who_says_nothing_is_closed_and_is_no_event(registry: MemoryRegistry, events: Events) -> None:
    """Port scanners, and checks of somebody's health."""
    async with site(registry, head_timeout=0.1) as port:
        assert await exchange(port, b"") == b""
        assert await exchange(port, b"\r\n\r\n\r\n") == b""
    assert events.all == []


async def test_an_idle_connection_may_be_older_than_the_time_of_a_head(registry: MemoryRegistry) -> None:
    """It begins with the first byte of the next."""
    async with site(registry, head_timeout=1.0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            loop = asyncio.get_running_loop()
            for _ in range(3):
                writer.write(REQUEST[:30])
                await writer.drain()
                writer.write(REQUEST[30:])
                async with asyncio.timeout(PATIENCE):
                    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
                    await reader.readuntil(b"{}")
                later = loop.create_future()
                loop.call_later(1.2, later.set_result, None)
                await later


@pytest.mark.parametrize(
    "flood",
    [REQUEST * 1000, BEGUN + b"A: b\r\n" * 100_000, many(SIZE) * 20],
    ids=["requests", "a head", "large heads"],
)
async def test_who_sends_on_while_he_is_answered_is_cut_off(flood: bytes, registry: MemoryRegistry) -> None:
    """aiohttp keeps 32 requests of a connection that wait, whatever their size; nothing is kept beyond AHEAD.

    It does not read on then, which costs nothing more; or the connection is cut. What a client can send is
    bounded either way.
    """
    blob = registry.add_blob(b"x" * 100)
    blob.gate = asyncio.Event()
    async with site(registry) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        with closing(writer):
            writer.write(
                f"GET /v2/library/x/blobs/{blob.descriptor.digest} HTTP/1.1\r\nHost: m\r\n\r\n".encode()
            )
            async with asyncio.timeout(PATIENCE):
                await blob.begun.wait()
            sent = 0
            try:
                async with asyncio.timeout(2):
                    while sent < 64 << 20:
                        writer.write(flood)
                        await writer.drain()
                        sent += len(flood)
            except (ConnectionError, TimeoutError):
                pass
            blob.gate.set()
            writer.transport.abort()
            # What both sockets hold comes on top: 6 MiB at most, as Linux is set as a rule.
            assert sent < AHEAD + (16 << 20)
        assert (await ask(port, "/v2/")).status == 200
        del reader


def give(watched: Heads, data: bytes, transport: asyncio.Transport) -> bool:
    """As a connection does; whether it goes on."""
    if watched.passes(data, transport):
        watched.passed(transport)
    return transport.is_reading()


def test_a_body_may_be_longer_than_requests_that_follow() -> None:
    """Which it is, is known a moment after the head."""

    async def run() -> None:
        for with_body, most in ((True, WITH_BODY), (False, AHEAD)):
            reasons: list[str] = []
            watched, transport = Heads(60, SIZE, reasons.append), Transport()
            assert give(watched, REQUEST + b"x" * 100, transport)
            watched.begun(with_body=with_body)
            assert give(watched, b"x" * (most - 100), transport)
            assert not give(watched, b"x", transport)
            assert (transport.ended, reasons) == ("abort", [heads.MUCH])

    asyncio.run(run())


class Transport(asyncio.Transport):
    """Remembers what became of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.ended = b"", ""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_reading(self) -> bool:
        return not self.ended

    def close(self) -> None:
        self.ended = "close"

    def abort(self) -> None:
        self.ended = "abort"


pieces = st.lists(st.integers(1, 200), max_size=30)
head_sizes = st.integers(40, 400)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """In pieces of these sizes, and the rest."""
    found = []
    for size in sizes:
        found.append(data[:size])
        data = data[size:]
    return [piece for piece in (*found, data) if piece]


@given(size=head_sizes, cuts=pieces, empty=st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_the_size_of_a_head_is_the_same_however_it_is_cut(size: int, cuts: list[int], empty: int) -> None:
    """Leading empty lines do not count (RFC 9112 §2.2)."""
    limit = 200
    head = b"G" * (size - 4) + b"\r\n\r\n"

    async def run() -> tuple[bool, Transport, list[str]]:
        transport = Transport()
        reasons: list[str] = []
        watched = Heads(60, limit, reasons.append)
        passed = True
        for piece in cut(b"\r\n" * empty + head, cuts):
            passed = give(watched, piece, transport) and passed
        watched.stop()
        return passed, transport, reasons

    passed, transport, reasons = asyncio.run(run())
    assert passed is (size <= limit)
    assert reasons == ([] if passed else [heads.LARGE])
    assert transport.ended == ("" if passed else "close")
    assert transport.written == (b"" if passed else heads.TOO_LARGE)


@given(data=st.lists(st.binary(max_size=300), max_size=30), answers=st.lists(st.booleans(), max_size=30))
@settings(max_examples=300, deadline=None)
def test_whatever_comes_what_is_passed_on_between_two_answers_is_bounded(
    data: list[bytes], answers: list[bool]
) -> None:
    """And nothing raises; after the end nothing passes."""
    limit = 100

    async def run(heads_: Callable[[list[str]], Heads]) -> None:
        reasons: list[str] = []
        watched, transport, unanswered = heads_(reasons), Transport(), 0
        for piece, answered in zip(data, [*answers, *[False] * 30], strict=False):
            passed = give(watched, piece, transport)
            assert passed is (not transport.ended)
            unanswered = unanswered + len(piece.strip(b"\r\n")) if passed else 0
            assert unanswered <= limit + WITH_BODY + 300
            if answered:
                watched.begun()
                watched.answered()
                unanswered = 0
        assert len(reasons) == (1 if transport.ended else 0)
        watched.stop()

    asyncio.run(run(lambda reasons: Heads(60, limit, reasons.append)))
