"""Rows of what many slow clients cost: memory while they read a large blob."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

from tests.bench.figures import Figure, Line, Row
from tests.bench.peers import Peer
from tests.bench.reading import WrongError
from tests.bench.stage import Stage
from tests.bench.usage import peak

SIP = 8 << 10  # bytes that a reader takes at a time
PAUSE = 0.05  # seconds between two sips: 160 KB/s for each reader
WINDOW = 64 << 10  # bytes that the kernel keeps for a reader: the rest stays with who sends
CONNECT = 30.0  # seconds for one connection
ANSWER = 30.0  # seconds until all are answered at most: nginx lets them wait for the whole fill
RIGHT = b"HTTP/1.1 200 "


def _memory(cold: bool, stage: Stage, peer: Peer) -> Iterator[Figure]:
    scale = stage.scale
    if cold:
        image = stage.cold(peer, "readers", scale.large)
    else:
        image = stage.large
        stage.warm(peer, image)
    with peak(peer.pid) as most:
        wrong = _read_slowly(peer.url, image.layer, scale.readers, scale.reading)
    stage.settle(peer)
    if wrong:
        raise WrongError(f"{wrong} of {scale.readers} readers got no 200 within {ANSWER:g} s")
    yield Figure(f"memory-{'cold' if cold else 'warm'}", most.bytes / 1e6)


def _read_slowly(base: str, path: str, readers: int, seconds: float) -> int:
    """So many clients, for so long after all are answered; how many of them got no right answer."""
    address = urlsplit(base)
    request = f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode()
    heads: dict[socket.socket, bytes] = {}
    with contextlib.ExitStack() as stack:
        for _ in range(readers):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
            client.settimeout(CONNECT)
            client.connect((address.hostname, address.port))
            client.sendall(request)
            client.setblocking(False)
            heads[client] = b""
        began = time.monotonic()
        answered = False
        while time.monotonic() < began + (seconds if answered else ANSWER):
            if not answered and all(heads.values()):
                answered, began = True, time.monotonic()
            for client, head in heads.items():
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    got = client.recv(SIP)
                    if len(head) < len(RIGHT):
                        heads[client] = head + got[: len(RIGHT)]
            time.sleep(PAUSE)
    return sum(not head.startswith(RIGHT) for head in heads.values())


ROWS = [
    Row(
        "memory",
        partial(_memory, False),
        [Line("memory-warm", "peak memory (PSS), 200 slow readers of a 256 MB blob, warm, MB", "< 120")],
        runs=1,
    ),
    Row(
        "memory-cold",
        partial(_memory, True),
        [Line("memory-cold", "the same, cold, MB", "< 120")],
        runs=1,
        fills=True,
    ),
]
