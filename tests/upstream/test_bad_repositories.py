"""What fails for one repository is that repository's: the others are asked all the same."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

import pytest
from structlog.testing import capture_logs
from yarl import URL

from mirror.oci.names import Repository
from mirror.upstream import breakers as module
from mirror.upstream.breaker import FAILURES, PAUSE, Breaker, State
from mirror.upstream.breakers import Breakers, Role
from tests.support.scripted import Bearer, Fault, Upstream, serve
from tests.upstream.kit import ALPINE, THREE, Clock, fails, timed_client

BAD = Repository("team/bad")
BAD_PATH = "/team/bad/"
FIVE = [Repository(f"team/bad/{number}") for number in range(FAILURES)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    "fault", [Fault(status=500), Fault(hang=True), Fault(reset=True)], ids=["500", "hang", "reset"]
)
async def test_a_repository_that_always_fails_is_not_asked_and_the_others_are(
    clock: Clock, fault: Fault
) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.fault("*", BAD_PATH, fault)
    async with serve(upstream) as url, timed_client(url, clock, firstbyte=0.1) as client:
        with capture_logs() as logs:
            for _ in range(FAILURES):
                assert "not asked" not in (await fails(partial(client.manifest, BAD, THREE))).message
        asked = len(upstream.seen)
        assert "not asked" in (await fails(partial(client.manifest, BAD, THREE))).message
        assert len(upstream.seen) == asked
        await client.manifest(ALPINE, THREE)

        troubled, well = client.condition(BAD), client.condition(ALPINE)
        assert troubled.trouble is not None
        assert troubled.blobs is not None
        assert (well.trouble, well.blobs) == (None, None)
        assert client.describe(clock.now, ALPINE)["state"] == "ok"
        described = client.describe(clock.now, BAD)
        assert described["state"] == "open"
        assert [each["scope"] for each in described["breakers"]] == ["repository:team/bad:pull"]
    opened = [log for log in logs if log["event"] == "upstream.breaker.opened"]
    assert [log["scope"] for log in opened] == ["repository:team/bad:pull"]


async def test_a_repository_that_works_again_is_asked_by_one_probe(clock: Clock) -> None:
    upstream = Upstream()
    upstream.add_image("team/bad", "3")
    upstream.fault("*", BAD_PATH, Fault(status=500))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        for _ in range(FAILURES):
            await fails(partial(client.manifest, BAD, THREE))
        upstream.clear_faults()
        upstream.fault("*", BAD_PATH, Fault(hang=True), times=1)
        clock.now += PAUSE
        probe = asyncio.create_task(client.manifest(BAD, THREE))
        await upstream.arrived(count=FAILURES + 1)
        assert "not asked" in (await fails(partial(client.manifest, BAD, THREE))).message
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        with capture_logs() as logs:
            await client.manifest(BAD, THREE)
            await client.manifest(BAD, THREE)
        closed = [log for log in logs if log["event"] == "upstream.breaker.closed"]
        assert [(log["scope"], log["failures"]) for log in closed] == [("repository:team/bad:pull", FAILURES)]
        assert client.condition(BAD) is client.condition(ALPINE), "all is well, and nothing is remembered"


async def test_five_repositories_that_fail_one_after_the_other_are_a_registry_that_fails(
    clock: Clock,
) -> None:
    upstream = Upstream()
    upstream.fault("*", "", Fault(status=503))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        for repository in FIVE:
            await fails(partial(client.manifest, repository, THREE))
        assert "not asked" in (await fails(partial(client.manifest, ALPINE, THREE))).message
        assert client.condition(ALPINE).trouble is not None
    assert len(upstream.seen) == FAILURES


async def test_whoever_asks_for_what_always_fails_cannot_keep_a_breaker_open(clock: Clock) -> None:
    """Each time that the pause is over, they come first, and hang."""
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.fault("*", "/team/bad/", Fault(hang=True))
    async with serve(upstream) as url, timed_client(url, clock, firstbyte=0.1) as client:
        for repository in FIVE:
            await fails(partial(client.manifest, repository, THREE))
        assert "not asked" in (await fails(partial(client.manifest, ALPINE, THREE))).message
        clock.now += PAUSE
        hanging = [asyncio.create_task(fails(partial(client.manifest, each, THREE))) for each in FIVE]
        await upstream.arrived(count=2 * FAILURES)
        await client.manifest(ALPINE, THREE)
        await asyncio.gather(*hanging)
        await client.manifest(ALPINE, THREE)


async def test_a_token_server_that_fails_for_one_repository_gives_tokens_for_the_others(clock: Clock) -> None:
    upstream = Upstream(auth=Bearer())
    upstream.add_image("library/alpine", "3")
    upstream.repository("team/bad")
    upstream.fault("GET", "/token", Fault(status=500))
    async with serve(upstream) as url, timed_client(url, clock) as client:
        for _ in range(2 * FAILURES):
            await fails(partial(client.manifest, BAD, THREE))
        assert len(upstream.find("", "/token")) == FAILURES
        upstream.clear_faults()
        await client.manifest(ALPINE, THREE)
        assert client.condition(BAD).trouble is not None
        assert client.condition(ALPINE).trouble is None


async def test_where_nobody_is_reached_the_first_repository_speaks_for_all(clock: Clock) -> None:
    with socket.socket() as bound:  # bound, not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        async with timed_client(f"http://127.0.0.1:{bound.getsockname()[1]}", clock) as client:
            for _ in range(FAILURES):
                await fails(partial(client.manifest, BAD, THREE))
            assert "not asked" in (await fails(partial(client.manifest, ALPINE, THREE))).message


def test_repositories_that_fail_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCOPES", 2)
    breakers = Breakers(lambda: 0.0, lambda: 1.0)
    url = URL("http://registry.example")

    def fail(scope: str, count: int) -> None:
        for _ in range(count):
            with breakers.enter(url, Role.REGISTRY, again=False, scope=scope) as visit:
                visit.failed()

    for scope in ("one", "two"):
        fail(scope, FAILURES)
        assert breakers.is_shut(url, scope)
    fail("three", 1)
    assert [breakers.is_shut(url, scope) for scope in ("one", "two", "three", "")] == [
        False,
        True,
        False,
        False,
    ]


def test_one_thing_that_fails_counts_once_in_a_row_and_its_probes_say_nothing() -> None:
    breaker = Breaker()
    for _ in range(3 * FAILURES):
        assert breaker.admit(0.0, "bad") is None
        assert breaker.failed(breaker.turn, 0.0, 1.0, scope="bad") is None
    assert (breaker.is_closed, breaker.failures) == (True, 1)
    for number in range(FAILURES - 1):
        breaker.failed(breaker.turn, 0.0, 1.0, scope=str(number))
    assert breaker.state(0.0) is State.OPEN
    assert breaker.admit(0.0, "bad") == PAUSE, "nor is it let through meanwhile"

    assert breaker.admit(PAUSE, "bad") is None
    asked = breaker.turn
    assert breaker.admit(PAUSE) is None, "the probe's place is free"
    assert breaker.failed(asked, PAUSE, 1.0, scope="bad") is None
    assert breaker.succeeded(breaker.turn)
    assert breaker.failed(breaker.turn, PAUSE, 1.0, scope="bad") is None
    assert breaker.failures == 1, "it is a new row"


def test_a_probe_that_fails_as_it_did_before_makes_room_for_another() -> None:
    """It was let through as the probe before the same thing failed elsewhere."""
    breaker = Breaker()
    for number in range(FAILURES):
        breaker.failed(breaker.turn, 0.0, 1.0, scope=str(number))
    assert breaker.admit(PAUSE, "new") is None
    assert breaker.failed(breaker.turn, PAUSE, 1.0, scope="0") is None
    assert breaker.admit(PAUSE, "other") is None
