"""The links between the peers and their upstream: what they count, and how they hold bytes up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.linkprocess import Link, Links
from tests.support.procs import Workspace

SIZE = 300_000  # bytes of an answer: several pieces
TIMEOUT = 10.0


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    """To a server that answers each byte with SIZE bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server, Workspace(tmp_path) as space:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        yield Links(space, server.getsockname()[1], 1).all[0]


def _serve(server: socket.socket) -> None:
    while True:
        try:
            connection, _address = server.accept()
        except OSError:  # closed: the test is over
            return
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection:
        while connection.recv(1):
            connection.sendall(bytes(range(250)) * (SIZE // 250))


def _ask(client: socket.socket) -> float:
    """Seconds until the whole answer is there."""
    began, answer = time.monotonic(), b""
    client.sendall(b"?")
    while len(answer) < SIZE:
        answer += client.recv(SIZE)
    assert answer == bytes(range(250)) * (SIZE // 250)
    return time.monotonic() - began


def _connect(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), TIMEOUT)


def test_what_passes_is_counted_and_stays_the_same(link: Link) -> None:
    with _connect(link) as client:
        _ask(client)
        _ask(client)
    assert link.received == 2 * SIZE


def test_a_rate_is_that_of_each_connection(link: Link) -> None:
    link.shape(rate=1e6)
    with _connect(link) as one, _connect(link) as other:
        took: list[float] = []
        beside = threading.Thread(target=lambda: took.append(_ask(one)))
        beside.start()
        took.append(_ask(other))
        beside.join(TIMEOUT)
    assert min(took) >= SIZE / 1e6
    assert len(took) == 2


def test_a_delay_is_that_of_one_way_and_opening_takes_a_round_trip(link: Link) -> None:
    link.shape(delay=0.05)
    with _connect(link) as client:
        assert _ask(client) >= 0.2
        assert min(_ask(client) for _ in range(5)) < 0.2, "a connection that is open was opened again"
        assert min(_ask(client) for _ in range(5)) >= 0.1


def test_what_was_open_is_closed_when_the_shape_changes(link: Link) -> None:
    with _connect(link) as client:
        _ask(client)
        link.shape(rate=1e6)
        client.settimeout(TIMEOUT)
        assert client.recv(1) == b""
