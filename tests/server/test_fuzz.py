"""The server under random bytes, and what the server's rooms read from a network, by properties.

What else reads from a network has its properties in its own room; docs/security.md lists all of them.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import structlog.testing
from aiohttp.web_request import BaseRequest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from mirror.access import basic
from mirror.oci.reference import Image
from mirror.server import control, forwarded
from mirror.server.lanerider import HEAD_LIMIT, is_head
from mirror.server.operations import OPTIONS, VALUE_LIMIT
from mirror.server.routes import Settings
from tests.oci.strategies import bounded, texts
from tests.server.memory import MemoryRegistry
from tests.server.raw import PATIENCE, exchange, let_in, serving

TARGETS = st.one_of(
    st.sampled_from(
        ["/", "/v2/", "/v2/_catalog?n=1", "/v2/library/x/manifests/v1", "/v2/library/x/tags/list", "*"]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=60).map("/v2/".__add__),
)
NAMES = st.sampled_from(
    (
        *("Range", "If-None-Match", "If-Range", "Authorization", "Forwarded", "X-Forwarded-For"),
        *("X-Forwarded-Host", "Content-Length", "Transfer-Encoding", "Connection", "Expect", "Upgrade"),
        *("Host", "Accept", "X-Other"),
    )
)
VALUES = st.one_of(
    st.sampled_from(
        ["chunked", "close", "keep-alive", "100-continue", "websocket", "bytes=0-", "bytes=-1,2-", "*"]
    ),
    st.sampled_from(["0", "5", "-1", '"a"', "for=1.2.3.4", "[::1]:5", "Bearer a.b.c", "Basic Og==", ""]),
    st.text(st.characters(min_codepoint=9, max_codepoint=255), max_size=60),
)
REQUESTS = st.builds(
    lambda method, target, fields, end, body: (
        f"{method} {target} HTTP/1.1{end}".encode("latin-1")
        + b"".join(f"{name}: {value}{end}".encode("latin-1") for name, value in fields)
        + end.encode()
        + body
    ),
    st.sampled_from(["GET", "HEAD", "PUT", "POST", "OPTIONS", "PRI", "get", ""]),
    TARGETS,
    st.lists(st.tuples(NAMES, VALUES), max_size=8),
    st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r"]),
    st.one_of(
        st.just(b""), st.binary(max_size=60), st.just(b"0\r\n\r\n"), st.just(b"5\r\nabcde\r\n0\r\n\r\n")
    ),
)


@given(data=st.lists(st.one_of(REQUESTS, st.binary(max_size=200)), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_whatever_is_sent_the_server_answers_whole_answers_or_closes(data: list[bytes]) -> None:
    """No 5xx, no header that was not the server's, and the next client is served."""

    async def run() -> None:
        registry = MemoryRegistry()
        registry.add_manifest("v1", b"{}")
        chosen = Settings(access_log=False, keepalive_timeout=0.2)
        async with serving(registry, chosen) as port:
            closing = b"GET /v2/ HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"
            answered = await exchange(port, b"".join(data) + closing)
            assert (await let_in(port)).status == 200
        registry.close()
        for part in answered.split(b"HTTP/1.1 ")[1:]:
            assert part[:3].isdigit()
            assert int(part[:3]) < 500, part[:200]

    async def within() -> None:
        async with asyncio.timeout(PATIENCE):
            await run()

    asyncio.run(within())


COMMANDS = st.builds(
    lambda method, target, fields, end, body: (
        f"{method} {target} HTTP/1.1{end}".encode("latin-1", "replace")
        + b"".join(f"{name}: {value}{end}".encode("latin-1") for name, value in fields)
        + end.encode()
        + body
    ),
    st.sampled_from(["GET", "POST", "POST", "HEAD", "PUT", ""]),
    st.one_of(
        st.sampled_from(
            [
                *("/explain?image=alpine", "/explain?image=%ff%00", "/explain", "/explain?image=a&image=b"),
                *("/garbage-collect?dry_run=true", "/garbage-collect?dry_run=", "/garbage-collect?x=1"),
                *("/verify", "/purge", "/purge?what=a&what=b", "/purge?what=%F0%80", "/purge/"),
            ]
        ),
        texts.filter(lambda text: "\r" not in text and "\n" not in text).map("/purge?what=".__add__),
        texts.filter(lambda text: "\r" not in text and "\n" not in text).map("/explain?image=".__add__),
    ),
    st.lists(st.tuples(NAMES, VALUES), max_size=4),
    st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r"]),
    st.one_of(st.just(b""), st.binary(max_size=60), st.just(b"0\r\n\r\n")),
)


@given(data=st.lists(st.one_of(COMMANDS, st.binary(max_size=200)), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_whatever_the_control_socket_is_told_it_answers_or_closes_and_does_no_more_than_it_knows(
    data: list[bytes],
) -> None:
    """No 5xx; an operation gets the options that there are, each once, and of a bounded length."""
    done: list[tuple[str, dict[str, str]]] = []

    async def explain(image: str) -> dict[str, Any]:
        return {"image": str(Image.parse(image))}

    async def operate(operation: str, options: Mapping[str, str]) -> AsyncGenerator[dict[str, Any], None]:
        done.append((operation, dict(options)))
        yield {"event": "summary"}

    async def sent(path: Path, what: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(path))
        try:
            writer.write(what)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def run(folder: Path) -> None:
        closing = b"GET /explain?image=alpine HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"
        path = folder / "control.sock"
        async with asyncio.timeout(PATIENCE), control.control(path, explain, operate):
            answered = await sent(path, b"".join(data) + closing)
            assert (await sent(path, closing)).startswith(b"HTTP/1.1 200")
        for part in answered.split(b"HTTP/1.1 ")[1:]:
            assert part[:3].isdigit()
            assert int(part[:3]) < 500, part[:200]

    with TemporaryDirectory() as folder, structlog.testing.capture_logs():
        asyncio.run(run(Path(folder)))
    for operation, options in done:
        assert set(options) <= set(OPTIONS[operation])
        assert all(len(value) <= VALUE_LIMIT for value in options.values())


def asked(**headers: str) -> BaseRequest:
    """A request with these headers, as far as `forwarded` looks at it."""
    fields: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        fields.add(name.replace("_", "-"), value)
    return cast("BaseRequest", SimpleNamespace(headers=fields))


addresses = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map("[{}]:80".format),
    st.just("unknown"),
    st.just("_x"),
    texts,
)
elements = st.one_of(
    texts,
    st.lists(addresses.map('for="{}";proto=https;host=h'.format), max_size=40).map(", ".join),
    st.lists(addresses, max_size=300).map(", ".join),
    st.text('=";,\\ for', max_size=3000),
)
NETWORKS = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fc00::/7"))


@bounded
@given(forwarded_=elements, addresses_=elements, real=elements, host=elements, proto=elements)
def test_what_a_proxy_says_is_an_address_a_scheme_and_a_text_or_nothing(
    forwarded_: str, addresses_: str, real: str, host: str, proto: str
) -> None:
    """Never raises, whatever stands there; and an address is one."""
    request = asked(
        Forwarded=forwarded_,
        X_Forwarded_For=addresses_,
        X_Real_Ip=real,
        X_Forwarded_Host=host,
        X_Forwarded_Proto=proto,
    )
    found = forwarded.client(request, NETWORKS)
    assert not found or str(ipaddress.ip_address(found)) == found
    assert forwarded.scheme(request) in ("", *forwarded.SCHEMES)
    assert len(forwarded.host(request)) <= forwarded.LIMIT


@bounded
@given(
    client=st.ip_addresses(v=4), before=elements, proxies=st.lists(st.ip_addresses(v=4, network="10.0.0.0/8"))
)
def test_what_a_client_writes_before_the_proxys_word_changes_nothing(
    client: ipaddress.IPv4Address, before: str, proxies: list[ipaddress.IPv4Address]
) -> None:
    """The last one that is no proxy of ours has been seen by one that is."""
    if client in NETWORKS[0]:
        return
    chain = ", ".join([before, *map(str, (client, *proxies))])[-2000:]
    assert forwarded.client(asked(X_Forwarded_For=chain), NETWORKS) == str(client)


@bounded
@given(
    text=st.one_of(
        texts, texts.map("Basic ".__add__), st.text("QWxhZGRpbjo=", max_size=50).map("basic ".__add__)
    )
)
def test_basic_credentials_are_two_parts_or_nothing(text: str) -> None:
    """Never raises; what is found is what stands in base64."""
    found = basic.parse(text)
    if found is not None:
        user, _password = found
        assert b":" not in user


@bounded
@given(data=st.one_of(st.binary(max_size=6000), REQUESTS, REQUESTS.map(lambda head: head * 2)))
def test_what_the_lane_takes_for_a_head_is_one_head_without_a_bare_line_feed(data: bytes) -> None:
    """What it must never do is see a request where another parser sees none."""
    if is_head(data):
        assert len(data) <= HEAD_LIMIT
        assert data.startswith((b"GET ", b"HEAD "))
        assert data.count(b"\r\n\r\n") == 1
        assert b"\n" not in data.replace(b"\r\n", b"")
