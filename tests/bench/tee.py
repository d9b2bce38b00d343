"""The least that a mirror does: what comes from the upstream is hashed, kept in a file, and sent on.

    python -m tests.bench.tee UPSTREAM_PORT FOLDER [hits]

prints its port, and serves one client after the other until its standard input ends; with `hits` also that of
an event loop in this process, which gives everybody the same small answer. It understands no HTTP: a request
goes on as it is, and what comes back is taken for the blob. One thread receives, one sends, one hashes and
writes, with eight pieces of memory between them: each call lets go of the interpreter's lock. Of all ways to
share the work this was the fastest on two processors. No mirror that checks a digest does less.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import queue
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

from mirror import loops

HOST = "127.0.0.1"
PIECE = 1 << 20  # bytes
PIECES = 8
HEAD_LIMIT = 64 << 10  # bytes
TIMEOUT = 90.0  # seconds without a byte
HIT = b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n" + bytes(600)  # as large as a small manifest

Stage = Callable[[memoryview], object]


def main() -> None:
    """See the module's text."""
    upstream, folder = int(sys.argv[1]), Path(sys.argv[2])
    server = socket.create_server((HOST, 0))
    print(server.getsockname()[1], flush=True)
    threading.Thread(target=_serve, args=(server, upstream, folder), daemon=True).start()
    if sys.argv[3:]:
        with asyncio.Runner(loop_factory=loops.factory("auto")) as runner:
            runner.run(_answer())
        return
    sys.stdin.read()


class _Hits(asyncio.Protocol):
    """Takes whatever comes at once for a request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, _data: bytes) -> None:
        self._transport.write(HIT)


async def _answer() -> None:
    """Give hits, on the event loop that the mirror has, until standard input ends."""
    loop = asyncio.get_running_loop()
    async with await loop.create_server(_Hits, HOST, 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


def _serve(server: socket.socket, upstream: int, folder: Path) -> None:
    while True:
        client, _ = server.accept()
        with client, contextlib.suppress(OSError):
            client.settimeout(TIMEOUT)
            _carry(client, upstream, folder / "blob")


def _carry(client: socket.socket, upstream: int, path: Path) -> None:
    """One request, and its answer."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < HEAD_LIMIT:
        head += client.recv(HEAD_LIMIT)
    with socket.create_connection((HOST, upstream), TIMEOUT) as source, path.open("wb", buffering=0) as file:
        source.sendall(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        hashed = hashlib.sha256()

        def keep(piece: memoryview) -> None:
            hashed.update(piece)
            file.write(piece)

        _pass(source, [client.sendall, keep])


def _pass(source: socket.socket, stages: list[Stage]) -> None:
    """Each piece goes through all stages in their order, each in a thread; then it is filled again."""
    queues: list[queue.SimpleQueue[tuple[bytearray, int] | None]] = [
        queue.SimpleQueue() for _ in range(len(stages) + 1)
    ]
    free, *_ = queues
    for _ in range(PIECES):
        free.put((bytearray(PIECE), 0))
    threads = [
        threading.Thread(target=_work, args=(stage, queues[at + 1], queues[(at + 2) % len(queues)]))
        for at, stage in enumerate(stages)
    ]
    for thread in threads:
        thread.start()
    while (entry := free.get()) is not None:
        piece, _ = entry
        size = source.recv_into(piece)
        if not size:
            break
        queues[1].put((piece, size))
    queues[1].put(None)
    for thread in threads:
        thread.join()


def _work(
    stage: Stage,
    given: queue.SimpleQueue[tuple[bytearray, int] | None],
    done: queue.SimpleQueue[tuple[bytearray, int] | None],
) -> None:
    while (entry := given.get()) is not None:
        piece, size = entry
        stage(memoryview(piece)[:size])
        done.put(entry)
    done.put(None)


if __name__ == "__main__":
    main()
