"""How many connections one client may have: the addresses of loopback stand for clients."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.server import connections, limits
from mirror.server.certificates import Certificates
from mirror.server.crowd import client_of
from mirror.server.forwarded import Network
from mirror.server.limits import Limits
from mirror.server.routes import Settings
from tests.server.events import Events
from tests.server.memory import MemoryRegistry
from tests.server.raw import PATIENCE, running
from tests.server.tlskit import connected, trusting
from tests.server.tlskit import tls as tls_settings
from tests.support.certificates import self_signed

REQUEST = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"
PROXY: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.9/32"),)


@asynccontextmanager
async def site(
    registry: MemoryRegistry, each: int, proxies: tuple[Network, ...] = PROXY
) -> AsyncIterator[int]:
    """The port of a server that lets in so many of each client."""
    said = Limits(connections=20, per_client=each)
    async with running(registry, Settings(access_log=False, limits=said, proxies=PROXY)) as runner:
        made = connections.Site(runner, "127.0.0.1", 0)
        await made.start()
        yield made.port


async def first_line(port: int, client: str, forwarded: bytes = b"") -> tuple[bytes, asyncio.StreamWriter]:
    """Ask from this address, and stay connected."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(client, 0))
    async with asyncio.timeout(PATIENCE):
        try:
            writer.write(REQUEST.replace(b"\r\n\r\n", b"\r\n" + forwarded + b"\r\n"))
            return await reader.readline(), writer
        except ConnectionError:
            return b"", writer


async def test_a_client_that_has_all_its_connections_leaves_the_places_to_others(
    registry: MemoryRegistry, events: Events
) -> None:
    """The next of his is closed at once, the other's is answered; what he gives back he may have again."""
    async with site(registry, each=3) as port:
        mine = [await first_line(port, "127.0.0.2") for _ in range(3)]
        assert {line for line, _ in mine} == {b"HTTP/1.1 200 OK\r\n"}
        for _ in range(4):
            line, refused = await first_line(port, "127.0.0.2")
            assert line == b""
            refused.close()
        others = [await first_line(port, f"127.0.0.{last}") for last in (3, 4, 5)]
        assert {line for line, _ in others} == {b"HTTP/1.1 200 OK\r\n"}
        mine[0][1].close()
        await mine[0][1].wait_closed()
        async with asyncio.timeout(PATIENCE):
            while (again := await first_line(port, "127.0.0.2"))[0] == b"":
                again[1].close()
        for _, writer in (*mine, *others, again):
            writer.close()
    [event] = events.named("client.refused")
    assert (event["limit"], event["remote"], event["count"]) == (3, "127.0.0.2", 1)
    assert event["reason"] == "too many connections of one client"


async def test_a_trusted_proxy_is_not_counted_and_what_others_say_of_themselves_is_no_matter(
    registry: MemoryRegistry,
) -> None:
    """A header comes when the connection is there: it neither frees a client nor costs another his place."""
    async with site(registry, each=2) as port:
        kept = [await first_line(port, "127.0.0.9") for _ in range(8)]
        assert {line for line, _ in kept} == {b"HTTP/1.1 200 OK\r\n"}
        liars = [
            await first_line(port, "127.0.0.2", b"X-Forwarded-For: 127.0.0.%d\r\n" % n) for n in range(9, 13)
        ]
        assert [line != b"" for line, _ in liars] == [True, True, False, False]
        for _, writer in (*kept, *liars):
            writer.close()


@pytest.mark.parametrize(
    ("connections_", "each", "found"),
    [(0, 0, 5000), (40, 0, 20), (20, 0, 16), (8, 0, 8), (40, 7, 7), (40, 90, 40)],
)
def test_unless_it_is_said_a_client_may_have_half_of_all_places(
    connections_: int, each: int, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And at least as many as a pull needs."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1 << 20, 1 << 20))
    assert Limits(connections_, each).counted()[1] == found


def test_what_is_wanted_is_bounded_by_the_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the system gives are not let in: they would find no file for their answer."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1024, 1024))
    assert limits.connections_max(100_000) == 480
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1 << 20, 1 << 20))
    assert limits.connections_max(100_000) == 100_000


async def test_it_is_counted_before_a_handshake_in_tls(registry: MemoryRegistry, tmp_path: Path) -> None:
    """One too many costs no signature; the table is empty when all are gone."""
    pair = self_signed(tmp_path, "server")
    said = Settings(access_log=False, limits=Limits(connections=20, per_client=2))
    certificates = Certificates(tls_settings(pair))
    async with certificates.watched(1.0), running(registry, said) as runner:
        made = connections.Site(runner, "127.0.0.1", 0, certificates=certificates)
        await made.start()
        silent = [
            await asyncio.open_connection("127.0.0.1", made.port, local_addr=("127.0.0.2", 0))
            for _ in range(2)
        ]
        refused, its_writer = await asyncio.open_connection(
            "127.0.0.1", made.port, local_addr=("127.0.0.2", 0)
        )
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                assert await refused.read() == b""
        its_writer.close()
        async with connected(made.port, trusting(pair[0]), "127.0.0.3") as (reader, writer):
            writer.write(REQUEST)
            async with asyncio.timeout(PATIENCE):
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            assert certificates.handshakes_failed.total() == 0
        for _, each in silent:
            each.close()
        [door] = runner.app[connections.DOORS]
        async with asyncio.timeout(PATIENCE):
            while len(door.crowd):  # noqa: ASYNC110 - the server's state, not an event
                await asyncio.sleep(0.01)
        assert (door.inside, door.refused, door.heads) == (0, 1, {})


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_whose_connections_are_one_clients(address: str, name: str) -> None:
    """All of an IPv6 network that is given to one."""
    assert client_of(address) == name
