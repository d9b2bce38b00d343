"""Clients that mean harm, on loopback only: `python -m tests.hostile.attacks NAME PORT COUNT RATE PATH TLS`.

It prints `ready` once the attack is as it is meant to be, and goes on until its standard input ends, two
minutes at most. COUNT connections come from COUNT/64 addresses of 127.0.1.0/24, at least one; what is done
again and again is done RATE times a second in all.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from typing import cast

MOST = 120.0  # seconds
FULL = 1.0  # seconds after which nothing more is taken of somebody who reads nothing
TOGETHER = 100  # connections that are opened at a time
EACH = 64  # connections of one address
ASK = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"
BEGUN = b"GET /v2/ HTTP/1.1\r\nHost: m\r\nX-Slow: "
# 100 fields of 1,000 bytes: more than a head may have, and no field is long.
LARGE_HEAD = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n" + b"".join(
    b"A%d: " % n + b"a" * 990 + b"\r\n" for n in range(100)
)
NOISE = (
    b"\x00" * 64,
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v2/ HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
)


@dataclass
class Aim:
    """What is attacked, and how much."""

    port: int
    count: int
    rate: float
    path: str
    tls: ssl.SSLContext | None = None
    turn: float = 0.0
    held: list[object] = field(default_factory=list)  # so that nothing is closed by being forgotten

    async def open(
        self, number: int, *, tls: bool = False, small: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection; `small`: with a buffer that is soon full."""
        made = socket.socket()
        made.setblocking(False)
        if small:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            made.bind((f"127.0.1.{2 + number // EACH % 250}", 0))
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self.port))
            context, name = (self.tls, "m") if tls else (None, None)
            return await asyncio.open_connection(sock=made, ssl=context, server_hostname=name)
        except BaseException:
            made.close()
            raise

    async def wait(self) -> None:
        """Until it is the turn of the next, at RATE of them a second."""
        now = asyncio.get_running_loop().time()
        self.turn = max(self.turn + 1 / self.rate, now)
        await asyncio.sleep(self.turn - now)

    async def each(self, one: Callable[[int], Awaitable[None]]) -> None:
        """For each connection, some at a time."""
        for first in range(0, self.count, TOGETHER):
            await asyncio.gather(*map(one, range(first, min(first + TOGETHER, self.count))))


async def idle(aim: Aim) -> None:
    """Connections that have asked once, and stay."""

    async def one(number: int) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await aim.open(number, tls=aim.tls is not None)
            aim.held.append(writer)
            writer.write(ASK)
            await reader.readuntil(b"{}")

    await aim.each(one)
    await endlessly()


async def halves(aim: Aim) -> None:
    """Half a head and silence; when dropped, again."""
    await again_and_again(aim, _half)


async def _half(aim: Aim, number: int, sent: Callable[[], None]) -> None:
    reader, writer = await aim.open(number)
    with contextlib.closing(writer):
        writer.write(BEGUN)
        sent()
        await reader.read()


async def slow(aim: Aim) -> None:
    """Heads that come byte by byte; when dropped, again."""
    await again_and_again(aim, _slow)


async def _slow(aim: Aim, number: int, sent: Callable[[], None]) -> None:
    reader, writer = await aim.open(number)
    with contextlib.closing(writer):
        writer.write(BEGUN)
        sent()
        while not reader.at_eof():
            await aim.wait()
            writer.write(b"a")
            await writer.drain()


async def heads(aim: Aim) -> None:
    """Heads of 100 KB in many fields, to the answer."""
    await again_and_again(aim, _head)


async def _head(aim: Aim, number: int, sent: Callable[[], None]) -> None:
    await aim.wait()
    reader, writer = await aim.open(number)
    with contextlib.closing(writer):
        writer.write(LARGE_HEAD)
        sent()
        await reader.read()


async def noise(aim: Aim) -> None:
    """What is no HTTP, or smuggles."""
    await again_and_again(aim, _noise)


async def _noise(aim: Aim, number: int, sent: Callable[[], None]) -> None:
    await aim.wait()
    reader, writer = await aim.open(number)
    with contextlib.closing(writer):
        writer.write(NOISE[number % len(NOISE)])
        sent()
        await reader.read()


async def pipelines(aim: Aim) -> None:
    """Requests without end, for small answers and for large ones, that nobody reads."""
    await again_and_again(aim, _pipeline)


async def _pipeline(aim: Aim, number: int, sent: Callable[[], None]) -> None:
    _reader, writer = await aim.open(number, small=True)
    cast("asyncio.Transport", writer.transport).pause_reading()
    with contextlib.closing(writer):
        path = "/v2/" if number % 2 else aim.path
        request = f"GET {path} HTTP/1.1\r\nHost: m\r\nX-Long: {'a' * 4000}\r\n\r\n".encode()
        while True:
            writer.write(request * 16)
            try:
                async with asyncio.timeout(FULL):
                    await writer.drain()
            except TimeoutError:
                sent()
                await writer.drain()


async def unread(aim: Aim) -> None:
    """A large answer that nobody reads; over TLS where the port speaks it."""
    await again_and_again(aim, _unread)


async def _unread(aim: Aim, number: int, sent: Callable[[], None]) -> None:
    reader, writer = await aim.open(number, tls=aim.tls is not None, small=True)
    with contextlib.closing(writer):
        writer.write(f"GET {aim.path} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        await reader.readexactly(1)
        cast("asyncio.Transport", writer.transport).pause_reading()
        sent()
        await asyncio.sleep(MOST)


async def shakes(aim: Aim) -> None:
    """Handshakes in TLS, each to its end, and away."""
    await again_and_again(aim, _shake)


async def _shake(aim: Aim, number: int, sent: Callable[[], None]) -> None:
    await aim.wait()
    _reader, writer = await aim.open(number, tls=True)
    writer.transport.abort()
    sent()


async def hellos(aim: Aim) -> None:
    """The first bytes of a handshake, and silence; when dropped, again."""
    await again_and_again(aim, _hello)


async def _hello(aim: Aim, number: int, sent: Callable[[], None]) -> None:
    assert aim.tls is not None
    reader, writer = await aim.open(number)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        aim.tls.wrap_bio(incoming, outgoing, server_hostname="m").do_handshake()
    with contextlib.closing(writer):
        writer.write(outgoing.read())
        sent()
        while await reader.read(65536):
            pass


ATTACKS: dict[str, Callable[[Aim], Awaitable[None]]] = {
    made.__name__: made for made in (idle, halves, slow, heads, noise, pipelines, unread, shakes, hellos)
}


async def again_and_again(aim: Aim, one: Callable[[Aim, int, Callable[[], None]], Awaitable[None]]) -> None:
    """So many at once; whoever is dropped comes back a tenth of a second later. Ready when each was there."""
    there: set[int] = set()
    opening = asyncio.Semaphore(TOGETHER)

    async def run(number: int) -> None:
        def sent() -> None:
            if number not in there:
                opening.release()
            there.add(number)
            if len(there) == aim.count:
                ready()

        while True:
            if number not in there:
                await opening.acquire()
            try:
                await one(aim, number, sent)
            except (OSError, asyncio.IncompleteReadError):
                if number not in there:
                    sent()
            await asyncio.sleep(0.1)

    await asyncio.gather(*map(run, range(aim.count)))


@cache
def ready() -> None:
    """Said once."""
    print("ready", flush=True)


async def endlessly() -> None:
    ready()
    await asyncio.sleep(MOST)


async def main(name: str, port: int, count: int, rate: float, path: str, tls: bool) -> None:
    aim = Aim(port, count, rate, path)
    if tls:
        aim.tls = ssl.create_default_context()
        aim.tls.check_hostname, aim.tls.verify_mode = False, ssl.CERT_NONE
    task = asyncio.ensure_future(ATTACKS[name](aim))
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await asyncio.wait({task, over}, timeout=MOST, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


if __name__ == "__main__":
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _, attack, at, many, times, target, secured = sys.argv
    asyncio.run(main(attack, int(at), int(many), float(times), target, secured == "tls"))
