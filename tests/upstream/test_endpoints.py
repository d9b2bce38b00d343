"""Several addresses of one registry: who is asked in which order, and who finishes a blob."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import pytest

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository, Tag
from mirror.registry import Condition, Corrupt, RateLimited, Unavailable
from mirror.registry import Upstream as UpstreamRegistry
from mirror.upstream.body import RemoteBlob
from mirror.upstream.breaker import FAILURES
from mirror.upstream.endpoints import DEMOTED, Endpoints
from mirror.upstream.quota import STRETCH
from tests.support.scripted import Fault, Upstream, serve, sha256
from tests.upstream.kit import ALPINE, HEAD, THREE, Clock, fails, make_client, read

LARGE = 20_000_000  # bytes
DATA = random.Random(11).randbytes(300_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextlib.asynccontextmanager
async def endpoints_of(
    *upstreams: Upstream, clock: Clock, **settings: Any
) -> AsyncGenerator[Endpoints, None]:
    """Serve these, as addresses of `quay.io` in order of preference."""
    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(serve(upstream)) for upstream in upstreams]
        clients = [make_client(url, clock, namespace="quay.io", **settings) for url in urls]
        endpoints = Endpoints(clients, "quay.io", clock)
        stack.push_async_callback(endpoints.close)
        registry: UpstreamRegistry = endpoints  # mypy holds it to the protocol
        assert registry is endpoints
        yield endpoints


def pair() -> tuple[Upstream, Upstream]:
    """Two registries with the same image and blob."""
    upstreams = Upstream(), Upstream()
    for upstream in upstreams:
        upstream.add_image("library/alpine", "3", layers=[DATA])
    return upstreams


async def test_the_first_is_asked_as_long_as_it_answers(clock: Clock) -> None:
    first, second = pair()
    async with endpoints_of(first, second, clock=clock) as registry:
        resolved = await registry.resolve(ALPINE, THREE)
        digest = resolved.descriptor.digest
        assert (await registry.stat_manifest(ALPINE, digest)).digest == digest
        assert (await registry.manifest(ALPINE, digest)).descriptor.digest == digest
        assert (await registry.stat_blob(ALPINE, Digest.parse(sha256(DATA)))).size == len(DATA)
        assert await read(registry, sha256(DATA)) == DATA
        assert (await registry.tags(ALPINE, None, "")).names == ("3",)
        assert await registry.referrers(ALPINE, digest) == ()
        assert (await fails(partial(registry.repositories, None, ""))).code is ErrorCode.UNSUPPORTED
    assert len(first.seen) == 7
    assert second.seen == []


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(status=429), Fault(body=b"x"), Fault(hang=True)])
async def test_the_next_is_asked_when_one_fails_and_is_asked_first_for_a_minute(
    clock: Clock, fault: Fault
) -> None:
    first, second = pair()
    first.fault("GET", "/manifests/", fault, times=1)
    async with endpoints_of(first, second, clock=clock, firstbyte=0.2) as registry:
        await registry.manifest(ALPINE, THREE)
        assert (len(first.seen), len(second.seen)) == (1, 1)
        clock.now += DEMOTED - 0.5
        await registry.manifest(ALPINE, THREE)
        assert (len(first.seen), len(second.seen)) == (1, 2)
        described = registry.describe(clock.now)["endpoints"]
        assert [each.get("behind_for") for each in described] == [0.5, None]
        assert [each["url"] for each in described] == [first.url, second.url]
        clock.now += 0.5
        await registry.manifest(ALPINE, THREE)
    assert (len(first.seen), len(second.seen)) == (2, 2)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refusal_of_the_first_that_answers_is_final(clock: Clock, status: int) -> None:
    first, second = pair()
    first.fault("*", "", Fault(status=status))
    async with endpoints_of(first, second, clock=clock) as registry:
        error = await fails(partial(registry.manifest, ALPINE, THREE))
    assert error.status == status
    assert second.seen == []


async def test_one_that_failed_is_asked_again_when_it_is_the_only_one_left(clock: Clock) -> None:
    first, second = pair()
    first.fault("*", "", Fault(status=503), times=1)
    async with endpoints_of(first, second, clock=clock) as registry:
        await registry.resolve(ALPINE, THREE)
        clock.now += 1.0
        second.fault("*", "", Fault(status=503))
        await registry.resolve(ALPINE, THREE)
        assert (len(first.seen), len(second.seen)) == (2, 2)
        await registry.resolve(ALPINE, THREE)
        assert (len(first.seen), len(second.seen)) == (3, 2)
        second.clear_faults()
        first.fault("*", "", Fault(status=503), times=1)
        clock.now += 1.0
        await registry.resolve(ALPINE, THREE)
        assert (len(first.seen), len(second.seen)) == (4, 3)
        await registry.resolve(ALPINE, THREE)
    assert (len(first.seen), len(second.seen)) == (4, 4), "of two that failed the one that has rested longer"


async def test_one_that_would_not_be_asked_is_passed_over_without_being_asked(clock: Clock) -> None:
    first, second = pair()
    first.fault("*", "", Fault(status=429, headers={"Retry-After": "3600"}))
    async with endpoints_of(first, second, clock=clock) as registry:
        await registry.resolve(ALPINE, THREE)
        clock.now += DEMOTED - 1
        assert registry.condition(ALPINE) == Condition("quay.io")
        for _ in range(3):
            await registry.resolve(ALPINE, THREE)
    assert (len(first.seen), len(second.seen)) == (1, 4)


async def test_a_limit_on_manifests_does_not_move_blobs(clock: Clock) -> None:
    first, second = pair()
    first.fault("*", "/manifests/", Fault(status=429, headers={"Retry-After": "50"}))
    async with endpoints_of(first, second, clock=clock) as registry:
        client = registry._clients[0]
        await fails(partial(client.resolve, ALPINE, THREE))  # not through `registry`, which would demote it
        await registry.resolve(ALPINE, THREE)
        assert await read(registry, sha256(DATA)) == DATA
    assert [len(first.find("GET", "/blobs/")), len(second.find("GET", "/blobs/"))] == [1, 0]


@pytest.mark.parametrize(
    ("faults", "kind", "text"),
    [
        ((Fault(status=500), Fault(status=502)), Unavailable, "answered 500"),
        ((Fault(status=429), Fault(status=502)), RateLimited, "limits the rate"),
        ((Fault(body=b"x"), Fault(status=502)), Unavailable, "answered 502"),
        ((Fault(body=b"x"), Fault(body=b"")), Corrupt, "sent a manifest that"),
    ],
)
async def test_when_all_fail_the_preferred_ones_failure_is_told_but_what_passes_goes_first(
    clock: Clock, faults: tuple[Fault, Fault], kind: type[Exception], text: str
) -> None:
    first, second = pair()
    for upstream, fault in zip((first, second), faults, strict=True):
        upstream.fault("GET", "/manifests/", fault)
    first.fault("HEAD", "", Fault(status=503), times=1)
    async with endpoints_of(first, second, clock=clock) as registry:
        await registry.resolve(ALPINE, THREE)
        for wait in (0.0, DEMOTED):  # the second is asked first, and then the first
            clock.now += wait
            error = await fails(partial(registry.manifest, ALPINE, THREE))
            assert (type(error), text in error.message) == (kind, True), error.message


async def test_it_is_in_trouble_only_when_all_are(clock: Clock) -> None:
    first, second = pair()
    async with endpoints_of(first, second, clock=clock) as registry:
        for upstream, calls in ((first, FAILURES), (second, FAILURES)):
            assert registry.condition(ALPINE).trouble is None
            assert registry.condition(ALPINE).blobs is None
            upstream.fault("*", "", Fault(status=503))
            client = registry._clients[0 if upstream is first else 1]
            for _ in range(calls):
                await fails(partial(client.resolve, ALPINE, THREE))
        condition = registry.condition(ALPINE)
        assert condition.namespace == "quay.io"
        assert condition.trouble is not None
        assert condition.blobs is not None
        asked = len(first.seen) + len(second.seen)
        error = await fails(partial(registry.resolve, ALPINE, THREE))
        assert "not asked for now" in error.message
    assert len(first.seen) + len(second.seen) == asked


async def test_blobs_are_in_trouble_only_when_they_are_so_everywhere(clock: Clock) -> None:
    first, second = pair()
    async with endpoints_of(first, second, clock=clock) as registry:
        for number, upstream in enumerate((first, second)):
            assert registry.condition(ALPINE).blobs is None
            upstream.fault("GET", "/blobs/", Fault(status=429, headers={"Retry-After": "30"}))
            await fails(partial(read, registry._clients[number], sha256(DATA)))
        condition = registry.condition(ALPINE)
        assert condition.trouble is None
        assert isinstance(condition.blobs, RateLimited)


async def test_a_blob_that_breaks_off_is_finished_by_the_next_one_which_sends_only_the_rest(
    clock: Clock,
) -> None:
    data = random.Random(12).randbytes(LARGE)
    first, second = Upstream(), Upstream()
    digest = first.add_blob("library/alpine", data)
    second.add_blob("library/alpine", data)
    first.fault("GET", "/blobs/", Fault(cut_after=LARGE // 2))
    body = bytearray()
    async with endpoints_of(first, second, clock=clock) as registry:
        assert isinstance(await fails(partial(read, registry, digest, 0, body)), Unavailable)
        came = len(body)
        await read(registry, digest, came, body)
        assert registry.condition(ALPINE) == Condition("quay.io", parts=8), "one break opens no breaker"
    assert body == data
    assert LARGE // 4 < came <= LARGE // 2
    assert first.lines() == second.lines() == [f"GET /v2/library/alpine/blobs/{digest}"]
    assert second.seen[0].headers["Range"] == f"bytes={came}-"
    assert second.seen[0].sent == LARGE - came


async def test_a_blob_that_nobody_reads_on_demotes_nobody(clock: Clock) -> None:
    first, second = pair()
    async with endpoints_of(first, second, clock=clock) as registry:
        blob = await registry.blob(ALPINE, Digest.parse(sha256(DATA)))
        assert (blob.start, blob.descriptor.size) == (0, len(DATA))
        parts = blob.read(0, len(DATA))
        await anext(parts)
        await parts.aclose()
        await blob.close()
        await registry.resolve(ALPINE, THREE)
    assert second.seen == []


async def test_a_client_that_goes_away_demotes_nobody(clock: Clock) -> None:
    first, second = pair()
    first.fault("HEAD", "", Fault(hang=True), times=1)
    async with endpoints_of(first, second, clock=clock) as registry:
        asking = asyncio.create_task(registry.resolve(ALPINE, THREE))
        await first.arrived()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await registry.resolve(ALPINE, THREE)
    assert first.lines() == [HEAD, HEAD]
    assert second.seen == []


async def test_a_single_address_is_asked_and_believed_as_it_is(clock: Clock) -> None:
    only, _ = pair()
    async with endpoints_of(only, clock=clock) as registry:
        condition = registry.condition(ALPINE)
        assert condition is registry._clients[0].condition(ALPINE)
        blob = await registry.blob(ALPINE, Digest.parse(sha256(DATA)))
        assert type(blob) is RemoteBlob
        await blob.close()
        only.fault("*", "", Fault(status=503, headers={"ratelimit-limit": "9", "ratelimit-remaining": "0"}))
        assert (await fails(partial(registry.resolve, ALPINE, THREE))).status == 503
        assert registry.condition(ALPINE).stretch == STRETCH
        only.clear_faults()
        await registry.resolve(Repository("library/alpine"), Tag("3"))
        assert "behind_for" not in registry.describe(clock.now)["endpoints"][0]
    assert [seen.method for seen in only.seen] == ["GET", "HEAD", "HEAD"]


async def test_a_blob_with_wrong_bytes_comes_from_the_next_address_when_it_is_asked_for_again(
    clock: Clock,
) -> None:
    """Who asked finds out that they are wrong, and keeps nothing."""
    first, second = pair()
    first.fault("GET", "/blobs/", Fault(flip_at=5))
    async with endpoints_of(first, second, clock=clock) as registry:
        assert await read(registry, sha256(DATA)) != DATA
        assert await read(registry, sha256(DATA)) == DATA
        assert (len(first.seen), len(second.seen)) == (1, 1)

        first.clear_faults()
        clock.now += DEMOTED
        assert await read(registry, sha256(DATA)) == DATA
    assert (len(first.seen), len(second.seen)) == (2, 1), "not for ever"


async def test_whoever_gave_wrong_bytes_is_asked_again_where_nobody_else_answers(clock: Clock) -> None:
    first, second = pair()
    async with endpoints_of(first, second, clock=clock) as registry:
        await read(registry, sha256(DATA))
        second.fault("*", "", Fault(status=503))
        assert await read(registry, sha256(DATA)) == DATA
    assert (len(first.seen), len(second.seen)) == (2, 1)


async def test_a_blob_of_which_only_a_part_was_read_may_be_right(clock: Clock) -> None:
    first, second = pair()
    async with endpoints_of(first, second, clock=clock) as registry:
        blob = await registry.blob(ALPINE, Digest.parse(sha256(DATA)))
        async for _ in blob.read(0, len(DATA) - 1):
            pass
        await blob.close()
        assert await read(registry, sha256(DATA), len(DATA) - 100) == DATA[-100:]
    assert (len(first.seen), len(second.seen)) == (2, 0)
