"""Rate limits of scripted registries: what is asked, what is refused at once, and what the cache is told."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest
from structlog.testing import capture_logs

from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import RateLimited
from mirror.upstream.quota import STRETCH
from tests.support.scripted import Bearer, Fault, Upstream, serve, sha256
from tests.upstream.kit import ALPINE, HEAD, THREE, Clock, fails, read, timed_client

DATA = random.Random(5).randbytes(1000)
HUB = {"ratelimit-limit": "100;w=21600", "docker-ratelimit-source": "192.0.2.7"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limited(after: str | None = None) -> Fault:
    return Fault(status=429, headers={} if after is None else {"Retry-After": after})


async def test_after_a_429_manifests_are_refused_without_a_request_and_blobs_are_not(clock: Clock) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3", layers=[DATA])
    upstream.fault("*", "/manifests/", limited("30"))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        first = await fails(partial(client.resolve, ALPINE, THREE))
        assert isinstance(first, RateLimited)
        assert first.retry_after == 30.0
        clock.now += 10.0
        for ask in (
            partial(client.resolve, ALPINE, THREE),
            partial(client.manifest, Repository("library/other"), THREE),
            partial(client.tags, ALPINE, None, ""),
        ):
            refused = await fails(ask)
            assert (refused.code, refused.status, refused.retry_after) == (
                ErrorCode.TOOMANYREQUESTS,
                429,
                20.0,
            )
        assert upstream.lines() == [HEAD]
        condition = client.condition(ALPINE)
        assert isinstance(condition.trouble, RateLimited)
        assert condition.trouble.retry_after == 20.0
        assert condition.blobs is None
        assert condition.stretch == STRETCH
        assert client.describe(clock.now)["state"] == "limited"
        assert await read(client, sha256(DATA)) == DATA

        clock.now += 20.0
        assert client.condition(ALPINE).trouble is None
        upstream.clear_faults()
        assert (await client.manifest(ALPINE, THREE)).body == image.manifest
        await client.resolve(ALPINE, THREE)
        assert client.condition(ALPINE).trouble is None
    assert [line.split()[0] for line in upstream.lines("", "/manifests/")] == ["HEAD", "GET", "HEAD"]


async def test_one_question_tries_when_the_wait_is_over(clock: Clock) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.fault("*", "/manifests/", limited(), times=1)
    upstream.fault("*", "/manifests/", Fault(hang=True), times=1)
    async with serve(upstream) as url, timed_client(url, clock) as client:
        await fails(partial(client.resolve, ALPINE, THREE))
        clock.now += 1.0
        trying = asyncio.create_task(client.resolve(ALPINE, THREE))
        await upstream.arrived(count=2)
        errors = await asyncio.gather(*(fails(partial(client.resolve, ALPINE, THREE)) for _ in range(50)))
        assert {type(error) for error in errors} == {RateLimited}
        assert len(upstream.seen) == 2
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)
        await client.resolve(ALPINE, THREE)
    assert len(upstream.seen) == 3, "a question that went away gave its place away"


async def test_a_429_to_a_blob_holds_up_blobs_alone(clock: Clock) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3", layers=[DATA])
    upstream.fault("GET", "/blobs/", limited("7"))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        await fails(partial(read, client, sha256(DATA)))
        await client.resolve(ALPINE, THREE)
        condition = client.condition(ALPINE)
        assert condition.trouble is None
        assert isinstance(condition.blobs, RateLimited)
        assert (await fails(partial(read, client, sha256(DATA)))).retry_after == 7.0
    assert len(upstream.find("GET", "/blobs/")) == 1


async def test_a_token_server_that_limits_us_is_not_asked_for_each_question(clock: Clock) -> None:
    upstream = Upstream(auth=Bearer())
    upstream.add_image("library/alpine", "3")
    upstream.fault("GET", "^/token", limited("40"))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        for _ in range(5):
            assert isinstance(await fails(partial(client.resolve, ALPINE, THREE)), RateLimited)
    assert len(upstream.find("GET", "^/token")) == 1


async def test_what_is_left_of_the_limit_stretches_freshness_until_its_window_has_passed(
    clock: Clock,
) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.fault("*", "", Fault(headers={**HUB, "ratelimit-remaining": "10;w=21600"}), times=1)
    upstream.fault("*", "", Fault(headers={**HUB, "ratelimit-remaining": "9;w=21600"}), times=1)
    async with serve(upstream) as url, timed_client(url, clock, reserve=0.1) as client:
        with capture_logs() as logs:
            await client.resolve(ALPINE, THREE)
            assert client.condition(ALPINE).stretch == 1.0
            await client.resolve(ALPINE, THREE)
        condition = client.condition(ALPINE)
        assert (condition.stretch, condition.trouble, condition.blobs) == (STRETCH, None, None)
        assert client.describe(clock.now)["quota"] == {
            "limit": 100,
            "remaining": 9,
            "window": 21600.0,
            "reset_in": 21600.0,
        }
        clock.now += 21600.0
        assert client.condition(ALPINE).stretch == 1.0
    told = [log for log in logs if log["event"] == "upstream.quota"]
    assert [(log["source"], log["remaining"], log["log_level"]) for log in told] == [
        ("192.0.2.7", 10, "debug"),
        ("192.0.2.7", 9, "debug"),
    ]


async def test_what_storage_says_of_its_limits_is_not_the_registrys(clock: Clock) -> None:
    upstream, storage = Upstream(), Upstream()
    digest = upstream.add_blob("library/alpine", DATA)
    storage.fault("*", "", Fault(status=200, body=DATA, headers={**HUB, "ratelimit-remaining": "0;w=21600"}))
    async with serve(upstream) as url, serve(storage) as there, timed_client(url, clock) as client:
        upstream.fault("GET", "/blobs/", Fault(status=307, headers={"Location": f"{there}/blob"}))
        assert await read(client, digest) == DATA
        assert client.condition(ALPINE).stretch == 1.0
