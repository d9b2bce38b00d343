"""What nobody should send, and what everybody does: the server answers or closes, and lives on."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest

from mirror.server import middleware
from mirror.server.routes import Settings
from tests.server.events import Events
from tests.server.memory import MemoryRegistry
from tests.server.raw import PATIENCE, ask, exchange, parse_broken, serving

TLS_HELLO = bytes.fromhex("16030100a5010000a10303") + bytes(range(160))
NONE = "sha256:" + "0" * 64
LINE = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n"

MALFORMED = {
    "tls hello": TLS_HELLO,
    "zeros": bytes(5000),
    "noise": bytes(range(256)) * 20,
    "bad version": b"GET /v2/ HTTP/9.9\r\n\r\n",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "space before colon": LINE + b"A : b\r\n\r\n",
    "bare header": LINE + b"nonsense\r\n\r\n",
    "two lengths": LINE + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunked": LINE + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": LINE + b"Content-Length: -1\r\n\r\n",
    "long url": b"GET /v2/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: m\r\n\r\n",
    "long header": LINE + b"A: " + b"a" * 40_000 + b"\r\n\r\n",
    "many headers": LINE + b"A: b\r\n" * 5000 + b"\r\n",
    "endless header": LINE + b"A: " + b"a" * 40_000,
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_http_gets_400_and_no_error_is_logged(
    data: bytes, registry: MemoryRegistry, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not our trouble, and nothing of what was sent is in the log: it may be a token."""
    async with serving(registry) as port:
        answered = await exchange(port, data)
        assert (await ask(port, "/v2/")).status == 200
    if answered:
        assert parse_broken(answered).status == 400
    assert registry.calls == []
    others = [event for event in events.all if not event["event"].startswith("response")]
    assert {event["event"] for event in others} <= {"client.tls"}
    assert {event["log_level"] for event in events.all} <= {"debug", "info"}
    for event in events.named("response completed with error"):
        assert re.fullmatch(r"[A-Z][\w' ,:/-]{8,80}", event["err.message"])
        assert "aaaa" not in event["err.message"]
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("bad version", "Bad status line: Invalid HTTP version"),
        ("two lengths", "Duplicate Content-Length"),
        ("long header", "Got more than 32768 bytes when reading"),
        ("noise", "Invalid method encountered"),
    ],
)
async def test_malformed_http_has_one_line_with_its_reason(
    kind: str, reason: str, registry: MemoryRegistry, events: Events, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the request log, and as ever in the access log."""
    async with serving(registry, Settings()) as port:
        await exchange(port, MALFORMED[kind])
    [event] = events.all
    assert (event["event"], event["log_level"]) == ("response completed with error", "info")
    assert (event["err.code"], event["err.message"]) == ("bad request", reason)
    assert capsys.readouterr().out.count("\n") == 1


async def test_a_tls_hello_is_told_at_debug_only(
    registry: MemoryRegistry, events: Events, capsys: pytest.CaptureFixture[str]
) -> None:
    """Podman and skopeo begin each pull with one; what they ask next is logged as ever."""
    async with serving(registry, Settings()) as port:
        await exchange(port, TLS_HELLO)
        [event] = events.all
        assert capsys.readouterr().out == ""
        await ask(port, "/v2/")
    text = "a client spoke TLS to the plain port (podman and skopeo try that first)"
    assert event == {"event": "client.tls", "log_level": "debug", "detail": text}
    assert [event["event"] for event in events.all[1:]] == ["response completed"]


@pytest.mark.parametrize("size", [8000, 30_000])
async def test_a_long_authorization_is_no_trouble(size: int, registry: MemoryRegistry) -> None:
    """Tokens with many scopes are longer than aiohttp's usual limit."""
    async with serving(registry) as port:
        answer = await ask(port, "/v2/", headers={"Authorization": "Bearer " + "a" * size})
    assert answer.status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v2/" + "a/" * 1000 + "manifests/v1",
        "/v2/%ff%fe/manifests/v1",
        "/v2/a%0d%0aX-Evil:%201/manifests/v1",
        "/v2/library%2fx/../../../etc/passwd",
        "/v2/library/x/manifests/" + "v" * 129,
        f"/v2/library/x/blobs/{NONE}/",
        "/v2/%0d%0aX-Evil:1//",
    ],
)
async def test_a_strange_path_is_404_or_redirected_here(path: str, registry: MemoryRegistry) -> None:
    """No header of the client's making, no redirect to anywhere else, no call."""
    async with serving(registry) as port:
        answer = await ask(port, path)
    assert answer.status in (301, 404)
    assert answer.one("X-Evil") is None
    location = answer.one("Location")
    assert location is None or (location.startswith("/") and not location.startswith(("//", "/\\")))
    assert registry.calls == []


async def test_pipelined_requests_are_answered_in_order(registry: MemoryRegistry) -> None:
    """One connection, three requests at once."""
    registry.add_manifest("v1", b"{}")
    request = b"GET /v2/library/x/manifests/v%d HTTP/1.1\r\nHost: m\r\nConnection: %s\r\n\r\n"
    data = request % (1, b"keep-alive") + request % (2, b"keep-alive") + request % (1, b"close")
    async with serving(registry) as port:
        answered = await exchange(port, data)
    statuses = [part.split()[0] for part in answered.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"404", b"200"]


async def test_http_1_0_works(registry: MemoryRegistry) -> None:
    """For health checks of old load balancers."""
    async with serving(registry) as port:
        answer = parse_broken(await exchange(port, b"GET /v2/ HTTP/1.0\r\n\r\n"))
    assert (answer.status, answer.body) == (200, b"{}")


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 1000000000", b"Transfer-Encoding: chunked"],
    ids=["length", "chunked"],
)
async def test_a_large_push_is_refused_at_once_and_not_read(
    framing: bytes, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer comes before the body is sent; then so much is taken, and the connection is closed."""
    monkeypatch.setattr(middleware, "LINGER_SECONDS", 60.0)  # the bound in bytes is what is tested here
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n" if b"chunked" in framing else b"x" * 0x8000
    head = b"PUT /v2/library/x/manifests/v1 HTTP/1.1\r\nHost: m\r\n" + framing + b"\r\n\r\n"
    async with serving(registry) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        async with asyncio.timeout(PATIENCE):
            answer = parse_broken(await reader.read())  # to the end: our side is closed after the answer
        sent = 0
        try:
            async with asyncio.timeout(PATIENCE):
                while sent < 200 << 20:
                    writer.write(chunk)
                    await writer.drain()
                    sent += len(chunk)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
    assert answer.status == 405
    assert b"read-only" in answer.body
    assert answer.one("Connection") == "close"
    # What the sockets of both sides hold comes on top of what is read.
    assert sent < middleware.LINGER_BYTES + (32 << 20)


async def test_a_push_of_bounded_size_can_be_sent_to_its_end(registry: MemoryRegistry) -> None:
    """Many clients look for the answer only then; closed earlier, they would see a reset instead."""
    body = b"x" * (middleware.LINGER_BYTES // 8)
    head = b"PUT /v2/library/x/manifests/v1 HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n"
    async with serving(registry) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(PATIENCE):
            writer.write(head % (8 * len(body)))
            await reader.readuntil(b"405 ")  # answered: whatever is sent from here on is lingered over
            for _ in range(8):
                writer.write(body)
                await writer.drain()
            answered = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert b"read-only" in answered


async def test_a_client_that_waits_for_continue_gets_the_answer(registry: MemoryRegistry) -> None:
    """`Expect: 100-continue`: no body is asked for."""
    head = b"PUT /v2/library/x/manifests/v1 HTTP/1.1\r\nHost: m\r\nContent-Length: 5\r\n"
    async with serving(registry) as port:
        answered = await exchange(port, head + b"Expect: 100-continue\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 405 ")


async def test_a_small_push_keeps_the_connection(registry: MemoryRegistry) -> None:
    """A body that is here already costs nothing: the next request is answered over the same connection."""
    head = b"PUT /v2/library/x/manifests/v1 HTTP/1.1\r\nHost: m\r\nContent-Length: 2\r\n\r\n{}"
    second = b"GET /v2/ HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"
    async with serving(registry) as port:
        answered = await exchange(port, head + second)
    assert answered.startswith(b"HTTP/1.1 405 ")
    assert answered.endswith(b"\r\n\r\n{}")
    assert answered.count(b"HTTP/1.1 200 ") == 1


@pytest.mark.parametrize("body", [b"zz\r\nnot a chunk", b"5\r\nab"], ids=["no chunk", "cut"])
async def test_a_broken_body_is_only_a_closed_connection(
    body: bytes, registry: MemoryRegistry, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is logged as an error."""
    monkeypatch.setattr(middleware, "LINGER_SECONDS", 0.2)
    head = b"POST /v2/library/x/blobs/uploads/ HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(registry) as port:
        answered = await exchange(port, head + body)
        assert (await ask(port, "/v2/")).status == 200
    assert answered == b"" or parse_broken(answered).status in (400, 405)
    assert {event["log_level"] for event in events.all} <= {"debug", "info"}


async def test_a_media_type_cannot_become_a_header(registry: MemoryRegistry) -> None:
    """It comes from JSON that somebody pushed."""
    registry.add_manifest("v1", b"{}", "a/b\r\nX-Evil: 1")
    async with serving(registry) as port:
        answer = await ask(port, "/v2/library/x/manifests/v1")
    assert (answer.status, answer.one("X-Evil")) == (200, None)
    assert answer.one("Content-Type") == "application/octet-stream"


async def test_a_prefix_is_before_every_path_and_in_every_link(registry: MemoryRegistry) -> None:
    """`http.prefix`; liveness stays at `/`."""
    registry.tag_names = ["v1", "v2"]
    async with serving(registry, Settings(prefix="/team/a/", access_log=False)) as port:
        assert (await ask(port, "/team/a/v2/")).status == 200
        assert (await ask(port, "/v2/")).status == 404
        assert (await ask(port, "/team/av2/")).status == 404
        assert (await ask(port, "/")).status == 200
        assert (await ask(port, "/team/a/v2")).one("Location") == "/team/a/v2/"
        link = (await ask(port, "/team/a/v2/library/x/tags/list?n=1")).one("Link")
    assert link == '</team/a/v2/library/x/tags/list?last=v1&n=1>; rel="next"'
