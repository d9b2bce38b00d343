"""A body that is taken from aiohttp: on both loops, with TLS and without, from a server of bare sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

from mirror.drivers.rest import AHEAD, LOOKS, WORTH, Rest
from tests.support.certificates import Pair, self_signed
from tests.support.waiting import until

BODY = bytes(range(256)) * (24 << 10)  # 6 MiB
READ = 256 << 10  # bytes that a loop reads of a socket at once, at most
LONG = 30.0  # seconds
SILENCE = 0.2  # seconds

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
Asked = Callable[["Server"], contextlib.AbstractAsyncContextManager[aiohttp.ClientSession]]
Run = Callable[[Callable[[Asked], Coroutine[Any, Any, None]]], None]
Serve = Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]


@dataclass
class Server:
    """Answers each request with a header, and what `serve` sends."""

    serve: Serve
    head: bytes = b"Content-Length: %d\r\n" % len(BODY)
    connections: int = 0
    url: str = ""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\n" + self.head + b"\r\n")
                await self.serve(writer)
                await writer.drain()
        writer.close()


async def all_of_it(writer: asyncio.StreamWriter) -> None:
    writer.write(BODY)


@contextlib.asynccontextmanager
async def asked(pair: Pair | None, server: Server) -> AsyncGenerator[aiohttp.ClientSession, None]:
    """Who asks the server, which is there as long."""
    context, trusted = None, None
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        trusted = ssl.create_default_context(cafile=str(pair[0]))
    listener = await asyncio.start_server(server, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"{'https' if pair else 'http'}://127.0.0.1:{port}/"
    connector = aiohttp.TCPConnector(ssl=trusted or True)
    try:
        async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as session:
            yield session
    finally:
        listener.close()
        for writer in server.writers:
            writer.transport.abort()


async def read_all(rest: Rest, pieces: list[bytes] | None = None) -> bytes:
    """All that comes; `pieces` has what came when it fails."""
    pieces = [] if pieces is None else pieces
    while piece := await rest.read(READ):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.fixture(params=list(itertools.product(LOOPS, (False, True))), ids=str)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a test's work on a loop, with servers by TLS or not."""
    loop, by_tls = request.param
    pair = self_signed(tmp_path, "server") if by_tls else None

    def run(work: Callable[[Asked], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(asyncio.wait_for(work(partial(asked, pair)), LONG))

    return run


def test_all_bytes_come_and_the_connection_is_used_again(run: Run) -> None:
    async def work(asked: Asked) -> None:
        server = Server(all_of_it)
        async with asked(server) as session:
            for _ in range(3):
                answer = await session.get(server.url)
                rest = Rest.take(answer, LONG)
                assert rest is not None
                assert await read_all(rest) == BODY
                assert await rest.read(1) == b""
                answer.close()
        assert server.connections == 1

    run(work)


def test_no_more_is_given_than_was_asked_for(run: Run) -> None:
    async def work(asked: Asked) -> None:
        server = Server(all_of_it)
        async with asked(server) as session, session.get(server.url) as answer:
            rest = Rest.take(answer, LONG)
            assert rest is not None
            found = b""
            for limit in itertools.cycle([1, 7, 65536]):
                piece = await rest.read(limit)
                assert len(piece) <= limit
                found += piece
                if len(found) > WORTH:
                    break
            assert found + await read_all(rest) == BODY

    run(work)


def test_a_reader_that_takes_nothing_is_waited_for_and_costs_little(run: Run) -> None:
    async def work(asked: Asked) -> None:
        server = Server(all_of_it)
        async with asked(server) as session, session.get(server.url) as answer:
            rest = Looking.take(answer, SILENCE)
            assert rest is not None
            await until(lambda: rest._paused)
            assert rest._held <= AHEAD + READ
            looked = rest.looked
            await until(lambda: rest.looked > looked + 2 * LOOKS)  # longer than a silence may last
            assert rest._held <= AHEAD + READ
            assert await read_all(rest) == BODY

    run(work)


def test_who_still_reads_the_body_before_it_does_not_have_more_of_it_come(run: Run) -> None:
    """Or all of it would come, and nobody has asked for it."""

    async def work(asked: Asked) -> None:
        small = BODY[:50_000]  # all of it is in aiohttp's buffer before it is read
        bodies = [BODY, small]

        async def next_of_them(writer: asyncio.StreamWriter) -> None:
            writer.write(bodies.pop())

        server = Server(next_of_them, head=b"Content-Length: %d\r\n" % len(small))
        async with asked(server) as session:
            before = await session.get(server.url)
            await until(before.content.is_eof)
            server.head = b"Content-Length: %d\r\n" % len(BODY)
            answer = await session.get(server.url)
            rest = Rest.take(answer, LONG)
            assert rest is not None
            await until(lambda: rest._paused)
            held = rest._held
            assert await before.read() == small
            await asyncio.sleep(0.1)  # in which it could come
            assert rest._held == held
            assert await read_all(rest) == BODY
            answer.close()
        assert server.connections == 1

    run(work)


def test_a_connection_on_which_more_comes_later_is_not_used_again(run: Run) -> None:
    async def work(asked: Asked) -> None:
        is_whole = asyncio.Event()

        async def and_more(writer: asyncio.StreamWriter) -> None:
            writer.write(BODY)
            await writer.drain()
            await is_whole.wait()
            is_whole.clear()
            writer.write(b"x" * 5000)

        server = Server(and_more)
        async with asked(server) as session:
            for count in (1, 2):
                answer = await session.get(server.url)
                assert answer.connection is not None
                protocol = answer.connection.protocol
                assert protocol is not None
                rest = Rest.take(answer, LONG)
                assert rest is not None
                assert await read_all(rest) == BODY
                answer.close()
                assert protocol.is_connected()
                is_whole.set()
                await until(lambda it=protocol: not it.is_connected())  # type: ignore[misc]
                assert server.connections == count

    run(work)


def test_a_connection_that_ends_gives_what_came_and_then_its_failure(run: Run) -> None:
    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(BODY[: 2 * WORTH])
        await writer.drain()
        writer.close()

    async def work(asked: Asked) -> None:
        server = Server(half)
        async with asked(server) as session, session.get(server.url) as answer:
            rest = Rest.take(answer, LONG)
            assert rest is not None
            found: list[bytes] = []
            with pytest.raises(aiohttp.ClientConnectionError):
                await read_all(rest, found)
            assert b"".join(found) == BODY[: 2 * WORTH]

    run(work)


def test_a_silent_server_is_a_failure(run: Run) -> None:
    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(BODY[: 2 * WORTH])
        await writer.drain()
        await asyncio.Event().wait()

    async def work(asked: Asked) -> None:
        server = Server(half)
        async with asked(server) as session, session.get(server.url) as answer:
            rest = Rest.take(answer, SILENCE)
            assert rest is not None
            with pytest.raises(aiohttp.SocketTimeoutError):
                await read_all(rest)

    run(work)


def test_what_comes_behind_the_body_is_no_part_of_it_and_ends_the_connection(run: Run) -> None:
    async def more(writer: asyncio.StreamWriter) -> None:
        writer.write(BODY + b"HTTP/1.1 200 OK\r\n")

    async def work(asked: Asked) -> None:
        server = Server(more)
        async with asked(server) as session:
            for _ in range(2):
                async with session.get(server.url) as answer:
                    rest = Rest.take(answer, LONG)
                    assert rest is not None
                    assert await read_all(rest) == BODY
        assert server.connections == 2

    run(work)


def test_a_reader_that_leaves_closes_the_connection(run: Run) -> None:
    async def work(asked: Asked) -> None:
        server = Server(all_of_it)
        async with asked(server) as session:
            answer = await session.get(server.url)
            rest = Rest.take(answer, LONG)
            assert rest is not None
            await rest.read(READ)
            answer.close()
            await until(lambda: rest._error)
            async with session.get(server.url) as answer:
                assert await answer.read() == BODY
        assert server.connections == 2

    run(work)


def test_a_session_that_is_closed_ends_the_body(run: Run) -> None:
    async def work(asked: Asked) -> None:
        server = Server(all_of_it)
        async with asked(server) as session:
            answer = await session.get(server.url)
            rest = Rest.take(answer, LONG)
            assert rest is not None
            await session.close()  # returns once aiohttp has heard of the end of all its connections
            with pytest.raises(aiohttp.ClientConnectionError):
                await read_all(rest)
            answer.close()

    run(work)


def test_what_is_small_or_comes_in_chunks_is_left_to_aiohttp(run: Run) -> None:
    async def small(writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 1000)

    async def chunks(writer: asyncio.StreamWriter) -> None:
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))

    async def work(asked: Asked) -> None:
        for server, size in (
            (Server(small, b"Content-Length: 1000\r\n"), 1000),
            (Server(chunks, b"Transfer-Encoding: chunked\r\n"), len(BODY)),
        ):
            async with asked(server) as session, session.get(server.url) as answer:
                assert Rest.take(answer, LONG) is None
                assert len(await answer.read()) == size

    run(work)


class Looking(Rest):
    """Counts how often it looked for a silence."""

    looked = 0

    def _look(self) -> None:
        self.looked += 1
        super()._look()
