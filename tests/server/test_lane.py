"""The fast lane: what it answers is what the handlers would, and everything else is theirs."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from ipaddress import ip_network

import pytest
import structlog

from mirror import log
from mirror.access.base import Allowed, Asked
from mirror.oci.names import Repository
from mirror.server import connections, lane, lanelog, lanerider
from mirror.server.routes import Settings
from tests.server.events import Events
from tests.server.memory import MemoryRegistry
from tests.server.raw import PATIENCE, exchange, parse, running, small_socket

MANIFEST = b'{"schemaVersion": 2, "layers": []}'
SMALL = bytes(range(256)) * 20
TAG = "/v2/library/x/manifests/1"


class Clock:
    """A wall clock that stands still."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.25

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hits(registry: MemoryRegistry) -> MemoryRegistry:
    """All that it has is said to come from what is kept."""
    registry.add_manifest("1", MANIFEST)
    for method in ("manifest", "stat_manifest", "blob"):
        registry.notes[method] = {"hit": True}
    return registry


@asynccontextmanager
async def site(registry: MemoryRegistry, *, fast: bool = True, **settings: object) -> AsyncIterator[int]:
    """The port of a server with a lane, or without."""
    chosen = {"access_log": False, "lessor": registry if fast else None, **settings}
    async with running(registry, Settings(**chosen), lane=False) as runner:  # type: ignore[arg-type]
        made = connections.Site(runner, "127.0.0.1", 0)
        await made.start()
        yield made.port


class Client:
    """One connection that is kept alive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, head: bytes) -> bytes:
        """The bytes of the answer."""
        self.writer.write(head)
        return await self.answer(head.split(b" ", 1)[0].decode())

    async def answer(self, method: str = "GET") -> bytes:
        async with asyncio.timeout(PATIENCE):
            got = await self.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", got)
            if method == "GET" and length and b" 304 " not in got.split(b"\r\n")[0]:
                got += await self.reader.readexactly(int(length[1]))
        return got

    async def closed(self) -> None:
        """Wait until the server has closed it."""
        async with asyncio.timeout(PATIENCE):
            assert await self.reader.read() == b""


@asynccontextmanager
async def connected(port: int, address: str = "127.0.0.1") -> AsyncIterator[Client]:
    """A client at this address."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    with closing(writer):
        yield Client(reader, writer)


def head(target: str = TAG, method: str = "GET", **headers: str) -> bytes:
    """A request, as Go's clients write it."""
    lines = [f"{method} {target} HTTP/1.1", "Host: mirror.test"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def warmed(client: Client, request: bytes) -> bytes:
    """Ask until the lane has the answer: what comes once has no place in it."""
    await client.ask(request)
    answer = await client.ask(request)
    await client.ask(head("/v2/"))  # what comes after an answer, in the server, has been done then
    return answer


def steady(answer: bytes) -> bytes:
    """Without what the time changes."""
    return re.sub(rb"(?m)^Date: [^\r]*", b"Date: now", re.sub(rb"ttl=\d+", b"ttl=n", answer))


def kinds(registry: MemoryRegistry) -> dict[str, bytes]:
    """Requests that may be repeated, and those that may not, by what they are."""
    digest = registry.manifests["1"].descriptor.digest
    blob = registry.add_blob(SMALL, file=True).descriptor.digest
    bytes_ = registry.add_blob(SMALL[1:]).descriptor.digest
    large = registry.add_blob(bytes(lane.BODY_LIMIT + 1), file=True).descriptor.digest
    by_digest, of_blob = f"/v2/library/x/manifests/{digest}", f"/v2/library/x/blobs/{blob}"
    return {
        "a tag": head(),
        "a tag, HEAD": head(method="HEAD"),
        "a tag, as docker": head(User_Agent='docker/1 "x"', Accept="a/b, c/d", Accept_Encoding="gzip"),
        "a tag, forwarded": head(X_Forwarded_For="10.1.2.3, 10.0.0.1", Referer="http://a/?token=secret"),
        "a tag, known": head(If_None_Match=f'"{digest}"'),
        "a tag, ns": head(TAG + "?ns=docker.io"),
        "a digest": head(by_digest),
        "a digest, HEAD": head(by_digest, "HEAD"),
        "a blob": head(of_blob),
        "a blob from memory": head(f"/v2/library/x/blobs/{bytes_}"),
        "- a blob, HEAD": head(of_blob, "HEAD"),
        "- a blob, known": head(of_blob, If_None_Match=f'"{blob}"'),
        "- a range": head(of_blob, Range="bytes=1-9"),
        "- a large blob": head(f"/v2/library/x/blobs/{large}"),
        "- no tag": head(TAG + "9"),
        "- the version": head("/v2/"),
        "- tags": head("/v2/library/x/tags/list"),
        "an empty body": head(Content_Length="0"),
        "- HTTP/1.0": head(Connection="keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
        "- a long head": head(X_Long="x" * lanerider.HEAD_LIMIT),
    }


STREAMS = pytest.mark.parametrize("form", ["text", "json", "logstash", "unknown"])


@pytest.fixture
def _restored() -> Iterator[None]:
    """The logs' set-up is one for the process."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:], root.level = handlers, level


@STREAMS
@pytest.mark.usefixtures("_restored")
async def test_repeated_answers_and_their_log_lines_are_those_of_the_handlers(
    form: str, hits: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte, but for the date, the lifetime, the id, the duration and the port."""
    hits.fresh_seconds = 50.5
    requests = kinds(hits)
    seen: dict[bool, tuple[dict[str, list[bytes]], list[str], list[str]]] = {}
    for fast in (False, True):
        answers, events, access = {}, io.StringIO(), io.StringIO()
        monkeypatch.setattr("sys.stdout", access)
        log.configure("info", "text" if form == "unknown" else form, {"service": "100%"}, events)
        if form == "unknown":
            structlog.configure(processors=list(structlog.get_config()["processors"]))
        headers = {"X-Own": ("a", "b")}
        async with site(hits, fast=fast, access_log=True, headers=headers) as port:
            for name, request in requests.items():
                async with connected(port) as client:
                    for method in ("manifest", "stat_manifest"):
                        hits.notes[method]["ttl"] = 50.5 if b"manifests/1" in request else None
                    calls = len(hits.calls)
                    answers[name] = [await client.ask(request) for _ in range(2)]
                    asked = (len(hits.calls) - calls) // 2
                    answers[name].append(await client.ask(request))
                    repeated = asked > 0 and len(hits.calls) - calls == 2 * asked
                    assert repeated == (fast and not name.startswith("-")), name
        seen[fast] = (answers, events.getvalue().splitlines(), access.getvalue().splitlines())
    slow, quick = seen[False], seen[True]
    for name in requests:
        assert [*map(steady, quick[0][name])] == [*map(steady, slow[0][name])], name
    assert without_ids(quick[1]) == without_ids(slow[1])
    assert len(quick[1]) == 3 * len(requests)
    assert sorted(map(without_time, quick[2])) == sorted(map(without_time, slow[2]))


def without_ids(lines: list[str]) -> list[str]:
    """In the order of their content: the lines of different requests are not in one order by themselves."""
    holes = {
        "ID": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
        "DURATION": r'"?[0-9.]+(µs|\\u00b5s|ms)"?',
        "TIME": r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"',
        "TTL": r"ttl=\d+",
        "PEER": r'"?127\.0\.0\.1(:\d+)?"?',  # without a port where the client has gone meanwhile
    }
    for name, pattern in holes.items():
        lines = [re.sub(pattern, name, line) for line in lines]
    return sorted(lines)


def without_time(line: str) -> str:
    return re.sub(r"\[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]", "[TIME]", line)


async def test_the_lifetime_and_the_date_go_on_until_the_lease_is_over(hits: MemoryRegistry) -> None:
    """`ttl` is rounded downwards at each moment; then the registry is asked again."""
    clock = hits.clock = Clock()
    hits.lease_seconds = hits.fresh_seconds = 3.5
    hits.notes["manifest"]["ttl"] = 3.5
    async with site(hits) as port, connected(port) as client:
        await warmed(client, head())
        for passed, ttl in ((0.0, 3), (0.4, 3), (0.5, 3), (0.6, 2), (1.5, 2), (1.6, 1), (3.4, 0)):
            clock.now = 1_800_000_000.25 + passed
            answer = parse(await client.ask(head()))
            assert answer.one("Cache-Status") == f"mirror; hit; ttl={ttl}"
            assert answer.one("Date") == f"Fri, 15 Jan 2027 08:00:0{int(0.25 + passed)} GMT"
        assert len(hits.calls) == 2
        clock.now = 1_800_000_000.25 + 3.5
        await client.ask(head())
        assert len(hits.calls) == 3


async def test_a_clock_that_is_put_back_ends_the_lease(hits: MemoryRegistry) -> None:
    """How old the answer is, nobody knows then."""
    clock = hits.clock = Clock()
    async with site(hits) as port, connected(port) as client:
        await warmed(client, head())
        clock.now -= 1
        await client.ask(head())
        assert len(hits.calls) == 3


async def test_a_lease_that_is_ended_is_not_used_once_more(hits: MemoryRegistry) -> None:
    """Whatever has changed, the next answer tells it."""
    async with site(hits) as port, connected(port) as client:
        assert MANIFEST in await warmed(client, head())
        hits.add_manifest("1", b"{}")
        assert MANIFEST in await client.ask(head())  # nobody has said that it has moved
        hits.leases[-1].end()
        assert parse(await client.ask(head())).body == b"{}"


async def test_without_leave_or_without_a_hit_nothing_is_repeated(hits: MemoryRegistry) -> None:
    """A first answer came from the upstream; a stale one carries a warning."""
    hits.notes["stat_manifest"] = {"fwd": "uri-miss", "fwd_status": 200}
    blob = hits.add_blob(SMALL).descriptor.digest
    hits.notes["blob"] = {"hit": True, "detail": "stale", "warning": "old"}
    async with site(hits) as port, connected(port) as client:
        for request in (head(method="HEAD"), head(f"/v2/library/x/blobs/{blob}")):
            calls = len(hits.calls)
            for _ in range(4):
                await client.ask(request)
            assert len(hits.calls) == calls + 4
        hits.lease_seconds = 0.0
        for _ in range(4):
            await client.ask(head())
        assert hits.calls.count("manifest library/x 1") == 4


async def test_bytes_that_are_not_what_their_digest_says_are_not_repeated(hits: MemoryRegistry) -> None:
    """A file that has gone bad is the store's to find; the table holds what is right."""
    blob = hits.add_blob(SMALL)
    blob.content = b"x" * len(SMALL)
    async with site(hits) as port, connected(port) as client:
        for _ in range(4):
            await client.ask(head(f"/v2/library/x/blobs/{blob.descriptor.digest}"))
    assert len(hits.calls) == 4


async def test_a_head_in_pieces_is_answered_by_the_handlers_and_the_next_by_the_lane(
    hits: MemoryRegistry,
) -> None:
    """A connection may change between both ways at each request."""
    async with site(hits) as port, connected(port) as client:
        await warmed(client, head())
        client.writer.write(head()[:30])
        await asyncio.sleep(0)
        client.writer.write(head()[30:-2])
        async with connected(port) as other:  # the pieces have arrived before this
            await other.ask(head("/v2/"))
        client.writer.write(head()[-2:])
        assert MANIFEST in await client.answer()
        asked = len(hits.calls)
        assert MANIFEST in await client.ask(head())
        assert len(hits.calls) == asked


async def test_pipelined_requests_are_answered_in_their_order(hits: MemoryRegistry) -> None:
    """And whatever comes on that connection later, though the lane had the answer."""
    other = hits.add_manifest("2", b"{}")
    async with site(hits) as port, connected(port) as client:
        await warmed(client, head())
        client.writer.write(head(f"/v2/library/x/manifests/{other}") + head())
        assert b"{}" in await client.answer()
        assert MANIFEST in await client.answer()
        assert MANIFEST in await client.ask(head())
    async with site(hits) as port, connected(port) as client:
        await warmed(client, head())
        gate = asyncio.Event()
        blob = hits.add_blob(SMALL)
        blob.gate = gate
        client.writer.write(head(f"/v2/library/x/blobs/{blob.descriptor.digest}"))
        await blob.begun.wait()
        client.writer.write(head())
        async with connected(port) as another:
            await another.ask(head())
        gate.set()
        assert parse(await client.answer()).body == SMALL
        assert MANIFEST in await client.answer()


@pytest.mark.parametrize(
    "data",
    [
        head(Content_Length=str(len(head()))) + head() + head(Connection="close"),
        head(Connection="close"),
        head(Connection="close", Content_Length="3") + b"abc",
        head(Upgrade="websocket", Connection="Upgrade") + head(Connection="close"),
        b"GET /v2/ HTTP/1.1\nHost: a\n\nGET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"NONSENSE\r\n\r\n",
    ],
    ids=[
        "a body that looks like a request",
        "the last",
        "the last, with a body",
        "upgrade",
        "bare LF",
        "nonsense",
    ],
)
async def test_what_is_no_plain_request_is_answered_as_without_the_lane(
    data: bytes, hits: MemoryRegistry
) -> None:
    """Nothing is taken for a request that is none, and nothing is answered after the last."""
    answers = []
    for fast in (False, True):
        async with site(hits, fast=fast) as port:
            async with connected(port) as client:
                await warmed(client, head())
            answers.append(steady(await exchange(port, data)))
    assert answers[0] == answers[1]


async def test_a_client_that_reads_nothing_is_left_to_the_handlers(
    hits: MemoryRegistry, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who wait until it reads: what is unread is bounded, however much is asked.

    As on a system without the kernel's own guard, which has as much time, has begun before the handlers, and
    tells nobody.
    """
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    hits.add_manifest("1", bytes(lane.BODY_LIMIT))
    async with site(hits, write_timeout=0.5) as port:
        async with connected(port) as client:
            await warmed(client, head())
        with small_socket(port) as client_socket:
            loop = asyncio.get_running_loop()
            asked = len(hits.calls)
            async with asyncio.timeout(PATIENCE):
                with contextlib.suppress(ConnectionError):
                    for _ in range(4):  # some 64 KiB each; the kernel would take megabytes
                        if len(hits.calls) > asked:
                            break
                        await loop.sock_sendall(client_socket, head())
                        async with connected(port) as client:  # a turn later
                            await client.ask(head("/v2/"))
                await events.wait("client.dropped")
                with pytest.raises(ConnectionError):
                    await read_all(client_socket)


async def read_all(client: socket.socket) -> None:
    """Take what comes until the other side closes."""
    while await asyncio.get_running_loop().sock_recv(client, 1 << 20):
        continue


async def test_a_busy_connection_stays_and_an_idle_one_is_closed(hits: MemoryRegistry) -> None:
    """The time of the last repetition counts, as that of any answer does."""
    async with site(hits, keepalive_timeout=2.5) as port, connected(port) as client:
        await warmed(client, head())
        loop = asyncio.get_running_loop()
        end = loop.time() + 3.5
        while loop.time() < end:
            assert MANIFEST in await client.ask(head())
        assert len(hits.calls) == 2
        await client.ask(head("/v2/"))
        assert MANIFEST in await client.ask(head())
        began = loop.time()
        await client.closed()
        assert loop.time() - began >= 2.0


async def test_every_use_is_told_also_of_what_loses_its_place(
    hits: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second, and before the answer is dropped, and at the stop."""
    monkeypatch.setattr(lane, "SECOND", 0.05)
    async with site(hits) as port, connected(port) as client:
        await warmed(client, head())
        for _ in range(3):
            await client.ask(head())
        async with asyncio.timeout(PATIENCE):
            while sum(hits.used) < 3:  # noqa: ASYNC110 - a list, which tells nobody
                await asyncio.sleep(0.01)
        monkeypatch.setattr(lane, "SECOND", 1000.0)
        await client.ask(head())
        hits.leases[-1].end()
        await warmed(client, head())
        assert sum(hits.used) == 4  # what has ended was told; the second of these has its place back
        await client.ask(head())
    assert sum(hits.used) == 6


@pytest.mark.parametrize(("name", "value"), [("ANSWERS", 2), ("BYTES", 3 * 4700)])
async def test_the_table_is_bounded_and_the_oldest_answer_goes(
    name: str, value: int, hits: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By number and by bytes."""
    monkeypatch.setattr(lane, name, value)
    requests = [head(User_Agent=f"client/{number}") for number in range(4)]
    async with site(hits) as port, connected(port) as client:
        for request in requests:
            await warmed(client, request)
        asked = len(hits.calls)
        await client.ask(requests[3])
        await client.ask(requests[2])
        assert len(hits.calls) == asked
        await client.ask(requests[0])
        assert len(hits.calls) == asked + 1


async def test_the_kernel_drops_who_leaves_a_repeated_answer_unread(
    hits: MemoryRegistry, events: Events
) -> None:
    """As after any answer: else it would keep a closing connection for ever."""
    async with running(hits, Settings(access_log=False, lessor=hits, write_timeout=7.5)) as runner:
        made = connections.Site(runner, "127.0.0.1", 0)
        await made.start()
        async with connected(made.port) as client:
            await warmed(client, head())
        async with connected(made.port) as client:
            asked = len(hits.calls)
            await client.ask(head())
            assert len(hits.calls) == asked
            assert runner.server is not None
            transports = [each.transport for each in runner.server.connections if each.transport is not None]
            options = [
                each.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                for each in transports
            ]
            assert 7500 in options
    assert all("exception" not in event for event in events.all)


async def lines_of(stream: io.StringIO, count: int) -> list[str]:
    """So many, which come a moment after the answers."""
    async with asyncio.timeout(PATIENCE):
        while len(lines := stream.getvalue().splitlines()) < count:  # noqa: ASYNC110 - a text, which tells nobody
            await asyncio.sleep(0.001)
    assert len(lines) == count
    return lines


@pytest.mark.usefixtures("_restored")
async def test_below_the_level_nothing_is_logged(
    hits: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane respects what the log is set to, also when that changes."""
    stream, access = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stdout", access)
    log.configure("error", "json", {}, stream)
    async with site(hits, access_log=True) as port, connected(port) as client:
        for _ in range(4):
            await client.ask(head())
        await lines_of(access, 4)
        assert stream.getvalue() == ""
        log.configure("info", "json", {}, stream)
        await client.ask(head())
        (line,) = map(json.loads, await lines_of(stream, 1))
    assert line["msg"] == "response completed"
    assert line["vars.reference"] == "1"
    assert len(hits.calls) == 2


@pytest.mark.usefixtures("_restored")
async def test_lines_leave_when_many_wait_soon_and_at_the_stop(
    hits: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, each with an id of its own, however they leave."""
    stream = io.StringIO()
    log.configure("info", "json", {}, stream)
    monkeypatch.setattr(lanelog, "LATER", 1000.0)
    monkeypatch.setattr(lanelog, "MOST", 3)
    async with site(hits) as port, connected(port) as client:
        await warmed(client, head())
        before = len(stream.getvalue().splitlines())
        for _ in range(3):
            await client.ask(head())
        await lines_of(stream, before + 3)
        monkeypatch.setattr(lanelog, "LATER", 0.01)
        await client.ask(head())
        await lines_of(stream, before + 4)
        monkeypatch.setattr(lanelog, "LATER", 1000.0)
        await client.ask(head())
    lines = [json.loads(line) for line in await lines_of(stream, before + 5)]
    assert len({line["http.request.id"] for line in lines}) == len(lines)


def test_no_id_is_given_twice() -> None:
    """Not within one row that counts, and not between two of them."""
    ids = lanelog.Ids()
    given = [ids.take() for _ in range(10_000)]
    assert len(set(given)) == len(given)
    assert all(
        re.fullmatch(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", each)
        for each in given
    )


@pytest.mark.parametrize("mark", [lane.PLAIN, lane.TRUSTED, lane.SECURE, lane.SECURE_TRUSTED])
async def test_no_client_gets_a_trusted_peers_answer_whatever_it_sends_behind_its_request(
    hits: MemoryRegistry, mark: bytes
) -> None:
    """The table tells them apart by a mark behind the request: a client that knows it gains nothing."""
    hosts: list[str] = []

    def locate(_namespace: str | None, host: str, repository: Repository) -> Repository:
        hosts.append(host)
        return repository

    request = head(X_Forwarded_Host="inside.test")
    proxies = (ip_network("127.0.0.2/32"),)
    async with site(hits, proxies=proxies, locate=locate) as port:
        async with connected(port, "127.0.0.2") as proxy:
            await warmed(proxy, request)
            asked = len(hosts)
            await proxy.ask(request)
            assert hosts == ["inside.test"] * asked, "the lane has the proxy's answer"
        async with connected(port) as client:
            client.writer.write(request + mark)
            await client.answer()
            assert hosts == ["inside.test"] * asked + ["mirror.test"], "it was located as what it is"
            assert b" 400 " in (await client.answer()).split(b"\r\n")[0], "the mark is no request"


class Guard:
    """Lets everybody in, as long as `open`."""

    def __init__(self) -> None:
        self.open, self.asked = True, 0

    async def authorize(self, _asked: Asked) -> Allowed:
        self.asked += 1
        return Allowed("bob", lambda: self.open)

    async def close(self) -> None:
        """Nothing to do."""


async def test_no_answer_outlives_the_credentials_that_it_was_given_for(hits: MemoryRegistry) -> None:
    """The lease is others' too, and goes on; the access controller is asked again at once."""
    guard = Guard()
    async with site(hits, access=guard) as port, connected(port) as client:
        await warmed(client, head(Authorization="yes"))
        asked = guard.asked
        await client.ask(head(Authorization="yes"))
        assert guard.asked == asked, "the lane has the answer"
        guard.open = False
        await client.ask(head(Authorization="yes"))
        assert guard.asked == asked + 1
