"""Connections that threads take bytes from, few of them and soon used again, by an upstream that misbehaves.

Who takes his time has others' bytes come before he has looked at his own. Whatever happens: each byte is
right, and nobody else reads a connection that was taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import uvloop
from aiohttp.client_proto import ResponseHandler

from mirror.cache import drawing, intake, resume
from mirror.cache.kept import Kept
from mirror.cache.segments import Settings
from mirror.oci.digest import Digest
from mirror.registry import RegistryError
from mirror.upstream import body, inlet, transport
from mirror.upstream.client import Client
from mirror.upstream.inlet import Inlet, Tap
from tests.cache.kit import A, Parts, joined, take, whole
from tests.upstream.conftest import client_of

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
POOL = random.Random(3).randbytes(3 << 20)
SEGMENTS = Settings(least=512 << 10, connections=2)
BLOBS, SIZES = 8, [50_000, 200_000, 800_000, 2_000_000]
READERS = 6
SLOW = 3  # clients that take their time
GARBAGE = [b"\r\n", b"x" * 5000, b"HTTP/1.1 200 OK\r\nContent-Le"]


class Hostile:
    """An upstream of these blobs. It does not lie: it breaks off, pauses, and says what nobody asked."""

    def __init__(self, blobs: dict[Digest, bytes], chance: random.Random) -> None:
        self.early: list[bytes] = []  # requests that came before the last answer was whole
        self._blobs = {str(digest): data for digest, data in blobs.items()}
        self._chance = chance

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """In a thread and a loop of its own, so that it is no slower than who reads."""
        begun, talks = SimpleQueue[tuple[str, Callable[[], object]]](), set[asyncio.StreamWriter]()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            talks.add(writer)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._answer(await reader.readuntil(b"\r\n\r\n"), reader, writer):
                    await writer.drain()
            writer.close()

        async def serving() -> None:
            loop, end = asyncio.get_running_loop(), asyncio.Event()
            server = await asyncio.start_server(talk, "127.0.0.1", 0)
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            begun.put((url, lambda: loop.call_soon_threadsafe(end.set)))
            await end.wait()
            server.close()
            for writer in talks:
                writer.transport.abort()

        thread = threading.Thread(target=asyncio.run, args=(serving(),))
        thread.start()
        url, end = begun.get(timeout=10)
        try:
            yield url
        finally:
            end()
            thread.join()

    async def _answer(self, asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One answer; whether the connection goes on."""
        chance = self._chance
        found = re.search(rb"/blobs/(sha256:[0-9a-f]{64}) ", asked)
        assert found is not None
        data, part = self._blobs[found[1].decode()], re.search(rb"Range: bytes=(\d+)-(\d*)", asked)
        status, start, stop = "200 OK", 0, len(data)
        if part is not None:
            status, start, stop = "206 Part", int(part[1]), int(part[2] or len(data) - 1) + 1
        head = f"HTTP/1.1 {status}\r\nContent-Length: {stop - start}\r\nAccept-Ranges: bytes\r\n"
        if part is not None:
            head += f"Content-Range: bytes {start}-{stop - 1}/{len(data)}\r\n"
        writer.write(head.encode() + b"\r\n")
        if asked.startswith(b"HEAD"):
            return True
        way = chance.choice(["whole"] * 9 + ["pieces", "cut", "reset", "more", "late", "ends"])
        if way in ("cut", "reset"):
            writer.write(data[start : chance.randrange(start, stop)])
            if way == "reset":
                writer.transport.abort()
            return False
        step = chance.randrange(10_000, 300_000) if way == "pieces" else len(data)
        for position in range(start, stop, step):
            if seen := bytes(reader._buffer):  # type: ignore[attr-defined] # a look, which takes nothing
                self.early.append(seen)
            writer.write(data[position : min(stop, position + step)])
            await writer.drain()
        if way == "late":
            await asyncio.sleep(chance.choice([0, 0.001, 0.01]))
        if way in ("more", "late"):
            writer.write(chance.choice(GARBAGE))
        return way != "ends"


class Watched:
    """What happens to connections that were taken over; `wrong` has what must not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wrong: list[str] = []
        self.count = 0
        self.held: dict[Any, Tap] = {}  # by aiohttp's protocol
        self.taking: dict[int, int] = {}  # threads, by descriptor; from `Tap.__init__` to `Tap.close`
        self._lock = threading.Lock()
        watched: list[tuple[type, str, Callable[..., Any]]] = [
            (Tap, "__init__", self._begun),
            (Tap, "finish", self._finished),
            (Tap, "close", self._closed),
            (Inlet, "take", self._takes),
            (ResponseHandler, "data_received", self._received),
            (ResponseHandler, "set_response_params", self._asked),
        ]
        for of, name, watch in watched:
            monkeypatch.setattr(of, name, self._watching(getattr(of, name), watch))

    def _watching(self, real: Callable[..., Any], watch: Callable[..., Any]) -> Callable[..., Any]:
        def watched(it: Any, *args: Any, **named: Any) -> Any:
            with watch(it, *args, **named) or contextlib.nullcontext():
                return real(it, *args, **named)

        return watched

    def _begun(self, tap: Tap, descriptor: int, _response: object, protocol: ResponseHandler) -> None:
        self.count += 1
        self.held[protocol] = tap
        self.taking[descriptor] = 0

    def _finished(self, tap: Tap) -> None:
        if tap._response.content._size:
            self.wrong.append("aiohttp has received some of it")
        self.held.pop(tap._protocol)

    def _closed(self, tap: Tap) -> None:
        if self.taking.pop(tap._descriptor):
            self.wrong.append("a thread takes from what is closed")
        if self.held.get(tap._protocol) is tap:
            del self.held[tap._protocol]

    @contextlib.contextmanager
    def _takes(self, inlet: Inlet, _buffer: memoryview) -> Any:
        with self._lock:
            if inlet._descriptor not in self.taking:
                self.wrong.append("a thread takes from what was closed")
            self.taking[inlet._descriptor] = self.taking.get(inlet._descriptor, 0) + 1
        yield
        with self._lock:
            self.taking[inlet._descriptor] -= 1

    def _received(self, protocol: ResponseHandler, data: bytes) -> None:
        if data and protocol in self.held:
            self.wrong.append("aiohttp reads what was taken over")

    def _asked(self, protocol: ResponseHandler, **_named: object) -> None:
        if protocol in self.held:
            self.wrong.append("something is asked for on what was taken over")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Kept]:
    """Those of all fills."""
    made, real = list[Kept](), Kept.__init__

    def noted(self: Kept, *args: Any) -> None:
        real(self, *args)
        made.append(self)

    monkeypatch.setattr(Kept, "__init__", noted)
    return made


class Pulls:
    """Readers of a mirror of these blobs, and clients of the upstream behind it."""

    def __init__(self, blobs: dict[Digest, bytes], chance: random.Random) -> None:
        self.blobs = blobs
        self._chance = chance

    async def run(self, url: str, root: Path) -> None:
        chance = self._chance
        async with (
            client_of(url, connections=chance.choice([1, 2, 3]), retries=1) as client,
            joined(root, client, segments=SEGMENTS) as parts,
        ):
            pulls = [
                *(self._read(parts) for _ in range(READERS)),
                *(self._go_slowly(client) for _ in range(SLOW)),
            ]
            for outcome in await asyncio.gather(*pulls, return_exceptions=True):
                assert outcome is None, outcome
            for fill in [*parts.fills._tasks][: chance.randrange(4)]:
                fill.cancel()
            await asyncio.gather(*parts.fills._tasks, return_exceptions=True)
            for digest, data in self.blobs.items():
                with contextlib.suppress(RegistryError):  # not kept
                    assert await whole(await parts.store.blob(A, digest)) == data

    async def _read(self, parts: Parts) -> None:
        for digest in self._chance.sample(list(self.blobs), 3):
            data = self.blobs[digest]
            start = self._chance.choice([0, 0, self._chance.randrange(len(data))])
            stop = self._chance.choice([len(data), self._chance.randrange(start, len(data)) + 1])
            with contextlib.suppress(RegistryError, TimeoutError):  # refused too often in a row; some leave
                blob = await parts.registry.blob(A, digest)
                try:
                    async with asyncio.timeout(self._chance.choice([0.01, 30.0])):
                        assert await take(blob, start, stop) == data[start:stop]
                finally:
                    await blob.close()

    async def _go_slowly(self, client: Client) -> None:
        for digest in self._chance.sample(list(self.blobs), 4):
            got, data = bytearray(), self.blobs[digest]
            with contextlib.suppress(RegistryError):
                blob = await client.blob(A, digest)
                try:
                    await asyncio.sleep(0.01)  # for others' bodies to come
                    async with contextlib.aclosing(blob.read(0, len(data))) as parts:
                        async for part in parts:
                            got += part
                            await asyncio.sleep(0.001)
                finally:
                    await blob.close()
            assert got == data[: len(got)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("loop", LOOPS)
def test_each_byte_is_right_and_no_connection_has_two_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: Watched, kept: list[Kept], loop: str, seed: int
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(inlet, "GATHERED", 1 << 30)  # so that it is taken over at once
    monkeypatch.setattr(transport, "READ_BUFFER", 64 << 10)  # so that something is left
    monkeypatch.setattr(body, "WORTH", chance.choice([32 << 10, 128 << 10]))
    monkeypatch.setattr(intake, "DRAWN", chance.choice([100_000, 700_000]))
    monkeypatch.setattr(drawing, "PIECE", chance.choice([7_001, 64 << 10]))
    monkeypatch.setattr(drawing, "_own", threading.local())
    monkeypatch.setattr(resume, "BACKOFF", 0.002)
    monkeypatch.setattr(resume, "BACKOFF_LIMIT", 0.01)
    places = [(chance.randrange(1 << 20), chance.choice(SIZES)) for _ in range(BLOBS)]
    blobs = {Digest.of(data): data for data in (POOL[start : start + size] for start, size in places)}
    upstream, failures = Hostile(blobs, random.Random(seed)), list[dict[str, Any]]()

    async def pull(url: str) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
        await Pulls(blobs, chance).run(url, tmp_path)

    with upstream.serve() as url, asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(pull(url))
    assert (watched.wrong, upstream.early, failures) == ([], [], [])
    assert (watched.held, watched.taking) == ({}, {})
    assert watched.count
    assert {each._coming for each in kept if each.keeps} <= {0}
