"""Breakers in front of scripted registries: exactly which requests are made, and what is said instead."""

from __future__ import annotations

import asyncio
import random
import socket
from functools import partial

import pytest
from structlog.testing import capture_logs
from yarl import URL

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import Corrupt, Unavailable
from mirror.upstream.breaker import FAILURES, PAUSE
from mirror.upstream.breakers import ORIGINS, Breakers, Role
from tests.support.scripted import Bearer, Fault, Upstream, serve, sha256
from tests.upstream.kit import ALPINE, HEAD, THREE, Clock, fails, read, timed_client

DATA = random.Random(3).randbytes(200_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def redirecting(there: str) -> Fault:
    return Fault(status=307, headers={"Location": there})


async def test_after_five_failures_a_hundred_requests_make_no_connection_and_one_probe_closes_it(
    clock: Clock,
) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3")
    upstream.fault("*", "", Fault(status=503))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        with capture_logs() as logs:
            for _ in range(FAILURES):
                assert "answered 503" in (await fails(partial(client.resolve, ALPINE, THREE))).message
            refused = await asyncio.gather(
                *(fails(partial(client.resolve, ALPINE, THREE)) for _ in range(100))
            )
            assert upstream.lines() == [HEAD] * FAILURES
            for error in refused:
                assert isinstance(error, Unavailable)
                assert error.message == "the upstream registry is not asked for now: its last requests failed"
                assert error.status == 503
                assert error.retry_after is not None
                assert 0.0 < error.retry_after <= PAUSE

            upstream.clear_faults()
            clock.now += PAUSE
            upstream.fault("HEAD", "/manifests/", Fault(hang=True), times=1)
            probe = asyncio.create_task(client.resolve(ALPINE, THREE))
            await upstream.arrived(count=FAILURES + 1)
            meanwhile = await asyncio.gather(
                *(fails(partial(client.resolve, ALPINE, THREE)) for _ in range(9))
            )
            assert {error.status for error in meanwhile} == {503}
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)
            assert str((await client.resolve(ALPINE, THREE)).descriptor.digest) == image.digest
            for _ in range(3):
                await client.resolve(ALPINE, THREE)
    assert upstream.lines() == [HEAD] * (FAILURES + 1 + 4), "a cancelled probe gave its place away"
    changes = [log for log in logs if log["event"].startswith("upstream.breaker")]
    assert [change["event"].rpartition(".")[2] for change in changes] == ["opened", "closed"]
    assert [change["failures"] for change in changes] == [FAILURES] * 2
    assert changes[0]["host"] == changes[1]["host"] == url.removeprefix("http://")
    loud = [log for log in logs if log["event"] == "upstream.failed" and log["log_level"] != "debug"]
    assert len(loud) == 0, "what a breaker refuses is told once, by the breaker"


async def test_a_probe_that_fails_is_no_news(clock: Clock) -> None:
    upstream = Upstream()
    upstream.fault("*", "", Fault(status=503))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        with capture_logs() as logs:
            for _ in range(FAILURES):
                await fails(partial(client.manifest, ALPINE, THREE))
            clock.now += PAUSE
            assert "answered 503" in (await fails(partial(client.manifest, ALPINE, THREE))).message
            assert "not asked" in (await fails(partial(client.manifest, ALPINE, THREE))).message
            clock.now += PAUSE - 0.1
            assert "not asked" in (await fails(partial(client.manifest, ALPINE, THREE))).message
    assert len(upstream.seen) == FAILURES + 1
    assert len([log for log in logs if log["event"] == "upstream.breaker.opened"]) == 1


async def test_a_connection_that_is_reset_counts_once(clock: Clock) -> None:
    upstream = Upstream()
    upstream.fault("*", "", Fault(reset=True))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        texts = [(await fails(partial(client.manifest, ALPINE, THREE))).message for _ in range(FAILURES + 1)]
        asked = len(upstream.seen)
        await fails(partial(client.manifest, ALPINE, THREE))
    assert ["not asked" in text for text in texts] == [False] * FAILURES + [True]
    assert len(upstream.seen) == asked


async def test_a_refusing_upstream_opens_it_after_five_requests_however_often_each_was_tried(
    clock: Clock,
) -> None:
    with socket.socket() as bound:  # bound, not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        async with timed_client(f"http://127.0.0.1:{bound.getsockname()[1]}", clock, retries=2) as client:
            with capture_logs() as logs:
                texts = [(await fails(partial(client.resolve, ALPINE, THREE))).message for _ in range(7)]
    assert ["not asked for now" in text for text in texts] == [False] * 5 + [True] * 2
    assert [log["attempts"] for log in logs if log["event"] == "upstream.failed"][:4] == [3] * 4


async def test_the_last_failure_is_told_to_operators_before_the_fifth(clock: Clock) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with timed_client(f"http://127.0.0.1:{bound.getsockname()[1]}", clock) as client:
            assert "failed" not in str(client.describe(clock.now)["breakers"])
            for _ in range(3):
                await fails(partial(client.resolve, ALPINE, THREE))
            (told,) = client.describe(clock.now + 2.0)["breakers"]
    assert (told["state"], told["failures"]) == ("closed", 3)
    assert told["failed"] == {"ago": 2.0, "cause": "connection refused", "limit": FAILURES}
    upstream.fault("*", "", Fault(status=503), times=1)
    async with serve(upstream) as url, timed_client(url, clock) as client:
        await fails(partial(client.resolve, ALPINE, THREE))
        assert client.describe(clock.now)["breakers"][0]["failed"]["cause"] == "answered 503"
        await client.resolve(ALPINE, THREE)
        assert "failed" not in client.describe(clock.now, ALPINE)["breakers"][0]


async def test_a_repository_that_alone_fails_is_told_to_who_asks_for_it(clock: Clock) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.fault("*", "/v2/library/bad/", Fault(status=500))
    bad = Repository("library/bad")
    async with serve(upstream) as url, timed_client(url, clock) as client:
        for _ in range(2):
            await fails(partial(client.resolve, bad, THREE))
        await client.resolve(ALPINE, THREE)
        assert "failed" not in client.describe(clock.now)["breakers"][0]
        (told,) = client.describe(clock.now, bad)["breakers"]
    assert (told["failures"], told["failed"]["cause"]) == (2, "answered 500")
    assert told["scope"] == "repository:library/bad:pull"


async def test_a_request_whose_breaker_opens_meanwhile_tells_what_it_found_itself(clock: Clock) -> None:
    """Ten requests at once, of which each would be tried three times."""
    upstream = Upstream()
    upstream.fault("*", "", Fault(status=503))
    async with serve(upstream) as url, timed_client(url, clock, retries=2) as client:
        with capture_logs() as logs:
            asking = (fails(partial(client.manifest, ALPINE, THREE)) for _ in range(10))
            errors = await asyncio.gather(*asking)
    assert {error.message for error in errors} == {"the upstream registry answered 503 for this manifest"}
    assert len(upstream.seen) == 10
    waited = [log for log in logs if log["event"] == "upstream.retried"]
    assert len(waited) == FAILURES - 1, "the others do not even wait for another attempt"


@pytest.mark.parametrize("status", [401, 403, 404, 429, 501])
async def test_a_refusal_is_an_answer_and_no_failure(clock: Clock, status: int) -> None:
    upstream = Upstream()
    upstream.fault("*", "", Fault(status=status))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        for round_ in range(2 * FAILURES):
            clock.now = 1000.0 + 100.0 * round_  # longer than any wait after a 429
            assert "not asked" not in (await fails(partial(client.manifest, ALPINE, THREE))).message
            assert client.describe(clock.now)["breakers"][0]["failures"] == 0
    assert len(upstream.seen) == 2 * FAILURES


@pytest.mark.parametrize(
    "fault",
    [Fault(status=500), Fault(status=520), Fault(cut_after=5), Fault(stall_after=5), Fault(hang=True)],
    ids=["500", "520", "cut", "stall", "hang"],
)
async def test_what_counts_as_a_failure(clock: Clock, fault: Fault) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.fault("*", "", fault)
    async with serve(upstream) as url, timed_client(url, clock, firstbyte=0.1, stall=0.1) as client:
        for _ in range(FAILURES):
            await fails(partial(client.manifest, ALPINE, THREE))
        assert "not asked" in (await fails(partial(client.manifest, ALPINE, THREE))).message
    assert len(upstream.seen) == FAILURES


@pytest.mark.parametrize(
    "fault",
    [
        Fault(headers={"Content-Encoding": "br"}),
        Fault(body=b" " * (5 << 20)),
        redirecting("ftp://elsewhere.example"),
    ],
    ids=["encoded", "oversize", "redirect"],
)
async def test_one_bad_answer_of_a_registry_that_answers_is_no_failure(clock: Clock, fault: Fault) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.fault("*", "", fault)
    async with serve(upstream) as url, timed_client(url, clock) as client:
        for _ in range(2 * FAILURES):
            error = await fails(partial(client.manifest, ALPINE, THREE))
            assert isinstance(error, Corrupt) or "redirect" in error.message
    assert len(upstream.seen) == 2 * FAILURES


async def test_what_is_our_own_doing_is_no_failure(clock: Clock) -> None:
    async with timed_client("https://registry.invalid", clock, ca_file="/nonexistent/ca.pem") as client:
        texts = [(await fails(partial(client.manifest, ALPINE, THREE))).message for _ in range(2 * FAILURES)]
    assert all("CA file" in text for text in texts)


async def test_clients_that_go_away_are_no_failure(clock: Clock) -> None:
    upstream = Upstream()
    upstream.fault("*", "", Fault(hang=True))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        asking = [asyncio.create_task(client.manifest(ALPINE, THREE)) for _ in range(2 * FAILURES)]
        await upstream.arrived(count=2 * FAILURES)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert client.condition(ALPINE).trouble is None


async def test_a_token_server_that_is_down_opens_its_own_breaker_only(clock: Clock) -> None:
    upstream, tokens = Upstream(auth=Bearer()), Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.repository("library/alpine")
    tokens.fault("*", "", Fault(status=500))
    async with serve(upstream) as url, serve(tokens) as realm, timed_client(url, clock) as client:
        assert isinstance(upstream.auth, Bearer)
        upstream.auth.realm = f"{realm}/token"
        for number in range(FAILURES):
            await fails(partial(client.resolve, Repository(f"library/{number}"), THREE))
        asked = len(upstream.seen)
        assert len(tokens.seen) == FAILURES
        error = await fails(partial(client.resolve, ALPINE, THREE))
        assert error.message.startswith("the token server of the upstream registry is not asked for now")
        assert (len(upstream.seen), len(tokens.seen)) == (asked, FAILURES)
        states = {each["role"]: each["state"] for each in client.describe(clock.now)["breakers"]}
        assert states == {"registry": "closed", "token server": "open"}
        condition = client.condition(ALPINE)
        assert condition.trouble is not None
        assert condition.blobs is not None
        assert "token server" in condition.trouble.message

        upstream.auth.realm = None  # as if it had never been away
        tokens.clear_faults()
        tokens.auth = upstream.auth
        clock.now += PAUSE
        await client.resolve(ALPINE, THREE)
    assert len(tokens.seen) == FAILURES + 1


async def test_storage_that_is_down_opens_its_own_breaker_and_manifests_go_on(clock: Clock) -> None:
    upstream, storage = Upstream(), Upstream()
    image = upstream.add_image("library/alpine", "3", layers=[DATA])
    storage.fault("*", "", Fault(status=503))
    async with serve(upstream) as url, serve(storage) as there, timed_client(url, clock) as client:
        upstream.fault("GET", "/blobs/", redirecting(f"{there}/elsewhere?signature=1"))
        for _ in range(FAILURES):
            await fails(partial(read, client, sha256(DATA)))
        assert client.condition(ALPINE).trouble is None
        blobs = client.condition(ALPINE).blobs
        assert blobs is not None
        storage_name = "the storage that the upstream registry redirects to"
        text = f"{storage_name} is not asked for now: its last requests failed"
        assert blobs.message == text
        assert (await fails(partial(read, client, sha256(DATA)))).message == text
        assert len(storage.seen) == FAILURES
        assert (await client.manifest(ALPINE, THREE)).body == image.manifest

        clock.now += PAUSE
        assert client.condition(ALPINE).blobs is None, "the next question would be the probe"
        storage.clear_faults()
        storage.fault("*", "", Fault(status=200, body=DATA))
        assert await read(client, sha256(DATA)) == DATA
        assert client.describe(clock.now)["breakers"][-1] == {
            "host": there.removeprefix("http://"),
            "role": "blobs",
            "state": "closed",
            "failures": 0,
        }


async def test_storage_that_breaks_off_each_body_opens_its_breaker(clock: Clock) -> None:
    upstream = Upstream()
    digests = [upstream.add_blob("library/alpine", bytes([number]) + DATA) for number in range(FAILURES)]
    upstream.fault("GET", "/blobs/", Fault(cut_after=100_000))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        for digest in digests:
            assert "broke off" in (await fails(partial(read, client, digest))).message
        assert "not asked" in (await fails(partial(read, client, digests[0]))).message
    assert len(upstream.seen) == FAILURES


async def test_one_blob_that_breaks_off_time_and_again_opens_none(clock: Clock) -> None:
    """A transfer counts once, however often somebody asks for the rest of it."""
    upstream = Upstream()
    digest = upstream.add_blob("library/alpine", DATA)
    upstream.fault("GET", "/blobs/", Fault(cut_after=10_000))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        for attempt in range(2 * FAILURES):
            error = await fails(partial(read, client, digest, attempt * 10_000))
            assert "broke off" in error.message
    assert len(upstream.seen) == 2 * FAILURES


async def test_blobs_that_break_off_while_others_arrive_open_none(clock: Clock) -> None:
    upstream = Upstream()
    bad, good = (upstream.add_blob("library/alpine", byte + DATA) for byte in (b"-", b"+"))
    upstream.fault("GET", f"/blobs/{bad}", Fault(cut_after=100_000))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        for _ in range(3):
            for _ in range(FAILURES - 1):
                await fails(partial(read, client, bad))
            assert await read(client, good) == b"+" + DATA
        assert client.condition(ALPINE).blobs is None


async def test_a_body_that_ends_cleanly_before_its_end_counts_as_broken(clock: Clock) -> None:
    upstream = Upstream()
    digest = upstream.add_blob("library/alpine", DATA)
    upstream.fault("GET", "/blobs/", Fault(body=DATA[:1000], chunked=True))
    async with serve(upstream) as url, timed_client(url, clock) as client:

        async def short() -> None:
            blob = await client.blob(ALPINE, Digest.parse(digest), size=len(DATA))
            try:
                async for _ in blob.read(0, len(DATA)):
                    pass
            finally:
                await blob.close()

        for _ in range(FAILURES):
            assert "ended a blob after 1000" in (await fails(short)).message
        assert "not asked" in (await fails(short)).message


async def test_a_breaker_that_a_streamed_body_closed_opens_again_when_that_breaks_off(clock: Clock) -> None:
    upstream = Upstream()
    digests = [upstream.add_blob("library/alpine", bytes([number]) + DATA) for number in range(FAILURES + 2)]
    upstream.fault("GET", "/blobs/", Fault(cut_after=100_000))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        for digest in digests[:FAILURES]:
            await fails(partial(read, client, digest))
        clock.now += PAUSE
        assert "broke off" in (await fails(partial(read, client, digests[-2]))).message
        assert "not asked" in (await fails(partial(read, client, digests[-1]))).message


async def test_all_is_well_costs_no_new_value(clock: Clock) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    async with serve(upstream) as url, timed_client(url, clock, namespace="quay.io") as client:
        await client.resolve(ALPINE, THREE)
        condition = client.condition(ALPINE)
        assert client.condition(Repository("other")) is condition
        assert (condition.namespace, condition.trouble, condition.blobs, condition.stretch) == (
            "quay.io",
            None,
            None,
            1.0,
        )
        assert client.describe(clock.now) == {
            "url": url,
            "state": "ok",
            "retry_in": None,
            "failures": 0,
            "breakers": [
                {"host": url.removeprefix("http://"), "role": "registry", "state": "closed", "failures": 0}
            ],
            "quota": None,
        }


def test_breakers_are_bounded_and_the_longest_unused_goes() -> None:
    breakers = Breakers(lambda: 0.0, lambda: 1.0)
    shut = URL("http://registry.example")
    for _ in range(FAILURES):
        with breakers.enter(shut, Role.REGISTRY, again=False) as visit:
            visit.failed()
    for number in range(ORIGINS - 1):
        with breakers.enter(URL(f"http://{number}.example"), Role.BLOBS, again=False):
            assert breakers.is_shut(shut)
    for number in range(ORIGINS):
        with breakers.enter(URL(f"http://more-{number}.example"), Role.BLOBS, again=False):
            pass
    assert not breakers.is_shut(shut)
    assert len(breakers.describe(0.0)) == 2, "one for each role"


async def test_repositories_are_still_not_asked_of_an_upstream(clock: Clock) -> None:
    async with timed_client("http://registry.invalid", clock) as client:
        error = await fails(partial(client.repositories, None, ""))
    assert error.code is ErrorCode.UNSUPPORTED
