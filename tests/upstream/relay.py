"""A relay of TCP connections that counts them, and can hold them up before they carry anything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator


class Relay:
    """To a port of this machine. `made` connections so far, `open` now."""

    def __init__(self, target: int) -> None:
        self.made = 0
        self.open = 0
        self.sent: list[int] = []  # bytes that came from the client, by connection
        self.breaks = False  # close each new connection at once
        self.passing = asyncio.Event()  # while it is not set, new connections carry nothing
        self.passing.set()
        self.port = 0
        self._target = target
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def until(self, *, made: int | None = None, open_: int | None = None) -> None:
        """Wait (10 s at most) until there are so many."""
        async with asyncio.timeout(10):
            while made not in (None, self.made) or open_ not in (None, self.open):
                self._changed.clear()
                await self._changed.wait()

    def cut(self) -> None:
        """Break off what is there."""
        for task in self._tasks:
            task.cancel()

    def cut_waiting(self) -> None:
        """Break off what has carried nothing yet."""
        for task in self._held:
            task.cancel()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either end closes it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number, self.made, self.open = self.made, self.made + 1, self.open + 1
        self.sent.append(0)
        self._changed.set()
        try:
            if not self.breaks:
                self._held.add(task)
                first = await reader.read(65536) if not self.passing.is_set() else b""
                await self.passing.wait()
                self._held.discard(task)
                await self._pass(number, first, reader, writer)
        except (asyncio.CancelledError, OSError):
            pass  # NB: the server's own task: nobody else ends it
        finally:
            writer.transport.abort()
            self.open -= 1
            self._changed.set()
            self._tasks.discard(task)
            self._held.discard(task)

    async def _pass(
        self, number: int, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)

        async def up() -> None:
            data = first or await reader.read(65536)
            while data:
                self.sent[number] += len(data)
                inner_writer.write(data)
                data = await reader.read(65536)

        async def down() -> None:
            while data := await inner_reader.read(65536):
                writer.write(data)
                await writer.drain()

        ways = [asyncio.create_task(up()), asyncio.create_task(down())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            inner_writer.transport.abort()  # NB: first, since `cut` may end the wait below
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


@contextlib.asynccontextmanager
async def relay(url: str) -> AsyncGenerator[Relay, None]:
    """One to the server at this URL."""
    made = Relay(int(url.rpartition(":")[2]))
    server = await asyncio.start_server(made.carry, "127.0.0.1", 0)
    async with server:
        made.port = server.sockets[0].getsockname()[1]
        yield made
        made.passing.set()
        made.cut()
        await made.until(open_=0)
