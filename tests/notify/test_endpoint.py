"""Endpoints that fail, hang and redirect: nothing is slowed, nothing grows, the order is kept."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from mirror import outgoing
from mirror.notify import endpoint as endpoints
from mirror.notify import notifier as notifiers
from mirror.notify.endpoint import Endpoint, Settings
from mirror.notify.event import CONTENT_TYPE, Source
from mirror.notify.notifier import Notifier
from tests.notify.test_event import PULLED
from tests.server.events import Events
from tests.support.certificates import self_signed
from tests.support.waiting import PATIENCE, until

SOURCE = Source("host:5000", "i")


@dataclass
class Sink:
    """An endpoint's other side: statuses that it answers in turn, the last for ever; None hangs."""

    statuses: list[int | None] = field(default_factory=lambda: [200])
    location: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)  # that were accepted
    heads: list[dict[str, str]] = field(default_factory=list)  # of all requests
    methods: list[str] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.heads.append(dict(request.headers))
        self.methods.append(request.method)
        status = self.statuses[0] if len(self.statuses) == 1 else self.statuses.pop(0)
        if status is None:
            await asyncio.sleep(PATIENCE)
            status = 500
        headers = {"Location": self.location} if self.location and 300 <= status < 400 else {}
        if status < 300:
            self.bodies.append(json.loads(body))
        return web.Response(status=status, headers=headers)

    @property
    def digests(self) -> list[str]:
        """Of what was told, in order."""
        return [body["events"][0]["target"]["digest"] for body in self.bodies]


@asynccontextmanager
async def serving(sink: Sink, tls: ssl.SSLContext | None = None) -> AsyncIterator[Sink]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", sink.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    sink.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}/events"
    try:
        yield sink
    finally:
        await runner.cleanup()


def settings(url: str, **changed: Any) -> Settings:
    quick = Settings(
        "one", url, (("Authorization", "Bearer hunter2"),), timeout=20, threshold=3, backoff=0.02
    )
    return replace(quick, **changed)


def notifier(*all_: Settings, references: bool = False) -> Notifier:
    return Notifier(all_, SOURCE, "mirror/test", references=references)


def tell(to: Notifier, *numbers: int, **changed: Any) -> None:
    for number in numbers:
        to.tell(replace(PULLED, digest=f"sha256:{number}", **changed))


def counts(of: Notifier) -> tuple[int, int, int, int, int]:
    """Events, successes, failures, errors, dropped."""
    found = of.endpoints[0].counts
    return found.events, found.successes, found.failures, found.errors, found.dropped


async def test_events_are_told_one_by_one_in_order_with_the_headers() -> None:
    async with serving(Sink()) as sink:
        made = notifier(settings(sink.url))
        async with made.running():
            tell(made, *range(20))
            await until(lambda: len(sink.bodies) == 20)
        assert sink.digests == [f"sha256:{number}" for number in range(20)]
        assert set(sink.methods) == {"POST"}
        assert {head["Content-Type"] for head in sink.heads} == {CONTENT_TYPE}
        assert {head["Authorization"] for head in sink.heads} == {"Bearer hunter2"}
        assert {head["User-Agent"] for head in sink.heads} == {"mirror/test"}
        assert counts(made) == (20, 20, 0, 0, 0)
        assert made.endpoints[0].counts.statuses.values == {("200 OK",): 20}


async def test_what_is_refused_is_told_again_until_it_is_taken_and_the_order_is_kept(events: Events) -> None:
    async with serving(Sink([500, 503, 404, 429, 400, 202])) as sink:
        made = notifier(settings(sink.url))
        async with made.running():
            tell(made, 1, 2)
            await until(lambda: len(sink.bodies) == 2)
        assert sink.digests == ["sha256:1", "sha256:2"]
        assert counts(made) == (2, 2, 5, 0, 0)
        assert made.endpoints[0].counts.statuses["429 Too Many Requests",] == 1
        failing = events.named("notification.failing")
        assert [(event["endpoint"], event["failures"], event["reason"]) for event in failing] == [
            ("one", 3, "it answered 404")
        ]
        assert [event["failures"] for event in events.named("notification.resumed")] == [5]


async def test_an_endpoint_that_is_not_there_is_tried_at_the_pace_of_its_back_off() -> None:
    made = notifier(settings("http://127.0.0.1:1/", threshold=1, backoff=0.1))
    async with made.running():
        tell(made, 1)
        await until(lambda: counts(made)[3] >= 1)
        began, before = time.monotonic(), counts(made)[3]
        # The first of these may be due already when it is looked at, on a busy machine.
        await until(lambda: counts(made)[3] >= before + 4)
        assert time.monotonic() - began > 0.25
        assert made.endpoints[0].pending == 1


async def test_one_that_hangs_holds_no_other_and_nobody_who_tells() -> None:
    async with serving(Sink([None])) as slow, serving(Sink()) as quick:
        made = notifier(settings(slow.url, name="slow", timeout=0.05), settings(quick.url, name="quick"))
        async with made.running():
            began = time.perf_counter()
            tell(made, *range(500))
            assert time.perf_counter() - began < 500 * 0.05 / 5, "nobody waits for what hangs"
            await until(lambda: len(quick.bodies) == 500)
            await until(lambda: made.endpoints[0].counts.errors > 1)
            assert made.endpoints[0].pending == 500
        assert made.endpoints[0].counts.successes == 0


async def test_a_full_queue_loses_its_oldest_which_is_counted_and_said_once(events: Events) -> None:
    async with serving(Sink()) as sink:
        made = notifier(settings(sink.url))
        only = Endpoint(settings(sink.url), SOURCE, made._session, queue=10)
        made.endpoints = (only,)
        tell(made, *range(25))
        assert only.pending == 10
        async with made.running():
            await until(lambda: len(sink.bodies) == 10)
        assert sink.digests == [f"sha256:{number}" for number in range(15, 25)]
        assert (only.counts.events, only.counts.dropped) == (25, 15)
        (said,) = events.named("notification.dropped")
        assert (said["endpoint"], said["count"]) == ("one", 1)


async def test_a_queue_of_large_events_is_full_by_their_bytes() -> None:
    """Manifests whose references are told, headers of clients, media types of images."""
    async with serving(Sink()) as sink:
        made = notifier(settings(sink.url), references=True)
        only = Endpoint(settings(sink.url), SOURCE, made._session, queue_bytes=100_000)
        made.endpoints = (only,)
        large: dict[str, Any] = {"body": b"[]" * 5000, "user_agent": "a" * 5000, "media_type": "b" * 5000}
        for number in range(1000):
            made.tell(replace(PULLED, digest=f"sha256:{number}", **large))
        assert only.pending == 4
        async with made.running():
            await until(lambda: len(sink.bodies) == 4)
        tell(made, *range(1000, 2000))
        assert 80 < only.pending < 100


async def test_nothing_of_a_manifest_waits_where_no_references_are_told() -> None:
    made = notifier(settings("http://127.0.0.1:1/"))
    tell(made, 1, body=b"[]")
    assert made.endpoints[0]._queue[0].body == b""


async def test_an_event_that_cannot_be_told_is_lost_and_no_other(events: Events) -> None:
    async with serving(Sink()) as sink:
        made = notifier(settings(sink.url))
        async with made.running():
            tell(made, 1)
            made.tell(replace(PULLED, at=float("inf")))  # not a time
            tell(made, 2)
            await until(lambda: len(sink.bodies) == 2)
        assert sink.digests == ["sha256:1", "sha256:2"]
        assert counts(made) == (3, 2, 0, 0, 1)
        assert [event["endpoint"] for event in events.named("notification.crashed")] == ["one"]


async def test_an_event_that_nobody_takes_for_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "AGE", 0.05)
    async with serving(Sink([400])) as sink:
        made = notifier(settings(sink.url))
        async with made.running():
            tell(made, 1)
            await until(lambda: counts(made)[4] == 1)
            assert made.endpoints[0].pending == 0


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_that_keeps_the_event_is_followed_without_the_login(status: int) -> None:
    async with serving(Sink()) as target, serving(Sink([status], location=target.url)) as sink:
        made = notifier(settings(sink.url))
        async with made.running():
            tell(made, 1)
            await until(lambda: len(target.bodies) == 1)
        assert sink.heads[0]["Authorization"] == "Bearer hunter2"
        assert "Authorization" not in target.heads[0]
        assert target.heads[0]["Content-Type"] == CONTENT_TYPE


async def test_no_redirect_takes_an_event_from_https_to_http(tmp_path: Path) -> None:
    """It says who has pulled what, from where."""
    pair = self_signed(tmp_path, "endpoint")
    here = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    here.load_cert_chain(*pair)
    trusting = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=pair[0]))
    async with (
        serving(Sink()) as plain,
        serving(Sink([307], location=plain.url), here) as sink,
        aiohttp.ClientSession(connector=trusting) as client,
    ):
        with pytest.raises(outgoing.OutgoingError, match="from https to http"):
            await outgoing.ask(
                client, "POST", sink.url, body=b"{}", timeout=5, followed=outgoing.FOLLOWED_BY_POST
            )
        assert sink.methods == ["POST"]
        assert plain.methods == []


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_a_redirect_that_would_lose_the_event_is_a_failure(status: int, events: Events) -> None:
    async with serving(Sink()) as target, serving(Sink([status], location=target.url)) as sink:
        made = notifier(settings(sink.url))
        async with made.running():
            tell(made, 1)
            await events.wait("notification.failing")
        assert target.methods == []
        assert "configure where that leads" in events.named("notification.failing")[0]["reason"]


async def test_what_is_to_be_ignored_is_told_to_nobody_who_ignores_it() -> None:
    async with serving(Sink()) as sink:
        made = notifier(
            settings(sink.url, ignored_types=frozenset({"application/octet-stream"})),
            settings(sink.url, name="two", ignored_actions=frozenset({"pull"})),
        )
        async with made.running():
            tell(made, 1, media_type="application/octet-stream")
            tell(made, 2)
            await until(lambda: len(sink.bodies) == 1)
        assert sink.digests == ["sha256:2"]
        assert [endpoint.counts.events for endpoint in made.endpoints] == [1, 0]


async def test_references_of_what_was_given_before_are_known_at_a_head() -> None:
    body = json.dumps({"config": {"mediaType": "c", "digest": "sha256:9", "size": 1}}).encode()
    async with serving(Sink()) as sink:
        made = notifier(settings(sink.url), references=True)
        async with made.running():
            tell(made, 1, method="HEAD")
            tell(made, 1, body=body)
            tell(made, 1, method="HEAD")
            await until(lambda: len(sink.bodies) == 3)
        found = [event["events"][0]["target"].get("references") for event in sink.bodies]
        assert found == [None, [{"mediaType": "c", "size": 1, "digest": "sha256:9"}], found[1]]


async def test_what_waits_at_the_end_is_told_if_it_is_taken_and_else_said_to_be_lost(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifiers, "LEAVE", 6.0)  # a busy machine may need more than two seconds for 50
    async with serving(Sink()) as sink:
        made = notifier(settings(sink.url), settings("http://127.0.0.1:1/", name="gone", backoff=90))
        began = time.monotonic()
        async with made.running():
            tell(made, *range(50))
        assert time.monotonic() - began < 30, "which is less than its back-off"
        assert len(sink.bodies) == 50
        assert [(e["endpoint"], e["count"]) for e in events.named("notification.lost")] == [("gone", 50)]


async def test_no_event_of_the_log_shows_a_secret(events: Events) -> None:
    made = notifier(settings("http://u:hunter2@127.0.0.1:1/?token=hunter2"))
    async with made.running():
        tell(made, 1)
        await events.wait("notification.failing")
    assert "hunter2" not in str(events.all)
    assert "hunter2" not in repr(made.endpoints[0].settings)
