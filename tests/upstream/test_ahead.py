"""Connections that are opened ahead: how many, for what, how long they live, and who gets them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mirror.upstream.ahead import LIFE
from mirror.upstream.breaker import FAILURES
from mirror.upstream.calls import READY
from mirror.upstream.client import Client
from mirror.upstream.endpoints import Endpoints
from mirror.upstream.transport import KEPT_FOR
from tests.support.scripted import Fault, Image, Upstream, serve
from tests.support.webproxy import WebProxy
from tests.upstream import conftest, kit
from tests.upstream.kit import ALPINE, THREE, fails, read
from tests.upstream.relay import Relay, relay
from tests.upstream.test_tls import self_signed, tunnel

LAYERS = [b"layer %d" % number * 100 for number in range(READY - 1)]


@dataclass(frozen=True, slots=True)
class Secure:
    """A server's side of TLS, and the certificate to trust."""

    context: ssl.SSLContext
    certificate: Path


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Secure:
    certificate = self_signed(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1,DNS:registry.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return Secure(context, certificate)


class Place:
    """A registry with an image behind a relay, and a client of it that has asked for the tag."""

    def __init__(self, upstream: Upstream, image: Image, relay_: Relay, client: Client) -> None:
        self.upstream, self.image, self.relay, self.client = upstream, image, relay_, client

    async def pull(self) -> None:
        """All blobs at once, as dockerd does: READY of them."""
        bodies = await asyncio.gather(*(read(self.client, digest) for digest in self.image.blobs))
        assert bodies == list(self.image.blobs.values())


@contextlib.asynccontextmanager
async def place(
    secure: Secure | None = None, *, asks: bool = True, **settings: Any
) -> AsyncGenerator[Place, None]:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3", layers=LAYERS)
    tls = secure.context if secure else None
    if secure:
        settings["ca_file"] = secure.certificate
    async with serve(upstream, tls=tls) as url, relay(url) as middle:
        own = middle.url.replace("http:", "https:") if secure else middle.url
        async with conftest.client_of(own, **settings) as client:
            if asks:
                await client.resolve(ALPINE, THREE)
                assert middle.made == 1
            yield Place(upstream, image, middle, client)


async def test_blobs_find_connections_that_were_opened_before_they_were_asked_for() -> None:
    async with place() as at:
        at.client.expect(ALPINE)
        await at.relay.until(made=READY)
        assert sorted(at.relay.sent)[:-1] == [0] * (READY - 1), "nothing is sent before there is a request"
        await at.pull()
        assert at.relay.made == READY
    assert len({seen.connection for seen in at.upstream.find("GET", "/blobs/")}) == READY


async def test_a_request_takes_a_connection_that_is_still_being_opened(
    secure: Secure,
) -> None:
    async with place(secure) as at:
        at.relay.passing.clear()
        at.client.expect(ALPINE)
        await at.relay.until(made=READY)
        pulling = asyncio.create_task(at.pull())
        await at.upstream.arrived("GET", "/blobs/")  # over the connection that was there
        at.relay.passing.set()
        await pulling
        assert at.relay.made == READY


async def test_those_that_are_idle_or_on_their_way_are_not_opened_again() -> None:
    async with place() as at:
        for _ in range(3):
            at.client.expect(ALPINE)
        await at.pull()
        at.client.expect(ALPINE)
        await at.pull()
        assert at.relay.made == READY


async def test_one_that_is_too_old_to_be_used_again_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    async with place() as at:
        for clock in ("aiohttp.connector.monotonic", "mirror.upstream.ahead.monotonic"):
            monkeypatch.setattr(clock, lambda: time.monotonic() + KEPT_FOR + 1.0)
        at.client.expect(ALPINE)
        await at.pull()
        assert at.relay.made == 1 + READY


async def test_those_that_are_too_old_are_closed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async with place(connections=2) as at:
        at.client.expect(ALPINE)
        await at.pull()
        for clock in ("aiohttp.connector.monotonic", "mirror.upstream.ahead.monotonic"):
            monkeypatch.setattr(clock, lambda: time.monotonic() + KEPT_FOR + 1.0)
        at.client.expect(ALPINE)
        await at.relay.until(made=4, open_=2)
        await at.pull()
        assert at.relay.made == 4


async def test_what_nobody_took_is_closed_soon(clock: conftest.Clock) -> None:
    async with place() as at:
        at.client.expect(ALPINE)
        await at.relay.until(open_=READY)
        clock.advance(LIFE)
        await at.relay.until(open_=1)  # the one that a request has used
        await at.pull()


async def test_what_is_not_open_by_then_is_given_up(
    secure: Secure,
    clock: conftest.Clock,
) -> None:
    async with place(secure, connect=60.0) as at:
        at.relay.passing.clear()
        at.client.expect(ALPINE)
        await at.relay.until(made=READY)
        clock.advance(LIFE)
        at.relay.passing.set()
        await at.relay.until(open_=1)
        await at.pull()


async def test_there_are_never_more_than_there_may_be_to_one_host() -> None:
    async with place(connections=2) as at:
        at.client.expect(ALPINE)
        await at.pull()
        assert at.relay.made == 2
        at.client.expect(ALPINE)
        await at.pull()
        assert at.relay.made == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429),
        Fault(headers={"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "1;w=21600"}),
        Fault(status=503),
    ],
    ids=["limited", "nearly limited", "shut by its breaker"],
)
async def test_none_are_opened_where_the_registry_would_not_be_asked_or_is_near_its_limit(
    fault: Fault,
) -> None:
    async with place(retries=0) as at:
        at.upstream.fault("*", "/manifests/", fault)
        for _ in range(FAILURES + 1):
            with contextlib.suppress(Exception):
                await at.client.manifest(ALPINE, THREE)
        made = at.relay.made
        at.client.expect(ALPINE)
        reader, writer = await asyncio.open_connection("127.0.0.1", at.relay.port)
        writer.write(b"GET /v2/ HTTP/1.0\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.0 200")
        writer.close()
        assert at.relay.made == made + 1, "what was begun before this one would be there by now"
        condition = at.client.condition(ALPINE)
        assert condition.trouble is not None or condition.stretch > 1.0


async def test_before_the_first_request_nothing_is_opened() -> None:
    async with place(asks=False) as at:
        at.client.expect(ALPINE)
        await at.client.resolve(ALPINE, THREE)
        assert at.relay.made == 1


async def test_a_registry_that_closes_them_costs_no_request_its_answer() -> None:
    async with place(retries=0) as at:
        at.relay.breaks = True
        at.client.expect(ALPINE)
        await at.relay.until(made=READY, open_=1)
        at.relay.breaks = False
        await at.pull()
        assert at.relay.made == 2 * READY - 1


async def test_a_request_whose_connection_comes_to_nothing_opens_its_own(
    secure: Secure,
) -> None:
    async with place(secure, retries=0) as at:
        at.relay.passing.clear()
        at.client.expect(ALPINE)
        await at.relay.until(made=READY)
        pulling = asyncio.create_task(at.pull())
        await at.upstream.arrived("GET", "/blobs/")
        at.relay.cut_waiting()
        at.relay.passing.set()
        await pulling
        assert at.relay.made == 2 * READY - 1


async def test_a_request_that_is_given_up_takes_its_connection_with_it(
    secure: Secure,
) -> None:
    async with place(secure) as at:
        at.relay.passing.clear()
        at.client.expect(ALPINE)
        await at.relay.until(made=READY)
        pulling = asyncio.create_task(at.pull())
        await at.upstream.arrived("GET", "/blobs/")
        pulling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pulling
        await at.relay.until(made=READY)
        at.relay.passing.set()
        await at.client.manifest(ALPINE, THREE)


@pytest.mark.parametrize("passing", [True, False])
async def test_the_end_closes_them_open_or_not(
    secure: Secure,
    passing: bool,
) -> None:
    async with place(secure) as at:
        if not passing:
            at.relay.passing.clear()
        at.client.expect(ALPINE)
        await at.relay.until(made=READY)
        await at.client.close()
        at.relay.passing.set()
        await at.relay.until(open_=0)
        at.client.expect(ALPINE)
        assert at.relay.made == READY
        await fails(lambda: at.client.resolve(ALPINE, THREE))


async def test_the_storage_to_which_blobs_were_redirected_is_made_ready_too() -> None:
    storage = Upstream()
    async with place() as at, serve(storage) as url, relay(url) as there:
        for data in (*LAYERS, at.image.config):
            storage.add_blob("library/alpine", data)
        location = "http://127.0.0.1:{}/v2/library/alpine/blobs/{}"
        for digest in at.image.blobs:
            target = {"Location": location.format(there.port, digest)}
            at.upstream.fault("GET", digest, Fault(status=307, headers=target))
        at.client.expect(ALPINE)
        await at.relay.until(made=READY)
        assert there.made == 0, "nobody knows of it yet"
        await read(at.client, next(iter(at.image.blobs)))
        at.client.expect(ALPINE)
        await there.until(made=READY)
        await at.pull()
        assert (at.relay.made, there.made) == (READY, READY)
        at.upstream.clear_faults()
        await at.pull()  # the registry gives them itself now
        there.cut()
        await there.until(open_=0)
        at.client.expect(ALPINE)
        await at.pull()
        assert there.made == READY


async def test_a_tunnel_through_a_proxy_is_opened_ahead_with_the_proxys_login(
    secure: Secure,
) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3", layers=LAYERS)
    async with (
        serve(upstream, tls=secure.context) as url,
        tunnel(int(url.rpartition(":")[2])) as (proxy, heads),
    ):
        settings = {"ca_file": secure.certificate, "http_proxy": f"http://me:secret@{proxy}"}
        async with conftest.client_of("https://registry.test", **settings) as client:
            await client.resolve(ALPINE, THREE)
            client.expect(ALPINE)
            await asyncio.gather(*(read(client, digest) for digest in image.blobs))
    assert len(heads) == READY
    assert all(b"Proxy-Authorization: Basic bWU6c2VjcmV0\r\n" in head for head in heads)


async def test_connections_to_a_proxy_that_is_asked_itself_are_opened_ahead() -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3", layers=LAYERS)
    async with serve(upstream) as url:
        proxy = await asyncio.to_thread(WebProxy, {"registry.test": url})
        try:
            async with relay(proxy.address) as middle:
                there = middle.url.replace("//", "//me:secret@")
                async with conftest.client_of("http://registry.test", http_proxy=there) as client:
                    await client.resolve(ALPINE, THREE)
                    client.expect(ALPINE)
                    await asyncio.gather(*(read(client, digest) for digest in image.blobs))
                    assert middle.made == READY
        finally:
            await asyncio.to_thread(proxy.stop)


async def test_of_several_addresses_the_one_that_would_be_asked_is_made_ready() -> None:
    clock, upstreams = kit.Clock(), [Upstream(), Upstream()]
    for each in upstreams:
        each.add_image("library/alpine", "3")
    async with contextlib.AsyncExitStack() as stack:
        relays = [
            await stack.enter_async_context(relay(await stack.enter_async_context(serve(each))))
            for each in upstreams
        ]
        clients = [kit.make_client(each.url, clock) for each in relays]
        endpoints = Endpoints(clients, "quay.io", clock)
        stack.push_async_callback(endpoints.close)
        upstreams[0].fault("GET", "/manifests/", Fault(status=503), times=1)
        await endpoints.manifest(ALPINE, THREE)
        first, second = relays
        endpoints.expect(ALPINE)
        await second.until(made=READY)
        assert first.made == 1
