"""Who is told of which answers, and that the fast lane's repetitions are told like the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mirror.confighosts import LOOPBACK
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.pulled import Pulled
from mirror.registry import RegistryError
from mirror.server import connections
from mirror.server.account import Account
from mirror.server.certificates import Certificates
from mirror.server.health import Gate
from mirror.server.routes import Settings
from tests.server import tlskit
from tests.server.events import Events
from tests.server.memory import OCI, MemoryRegistry
from tests.server.raw import ask, exchange, running, serving
from tests.server.test_lane import MANIFEST, TAG, Client, connected, head, site, warmed
from tests.server.tlskit import LOOK, tls, trusting
from tests.support.certificates import self_signed
from tests.support.waiting import until

CONTENT = b"0123456789" * 10
LAYER = Digest.of(CONTENT)
BLOB = f"/v2/library/x/blobs/{LAYER}"


@pytest.fixture
def stocked(registry: MemoryRegistry) -> MemoryRegistry:
    registry.add_manifest("1", MANIFEST)
    registry.add_blob(CONTENT)
    for method in ("manifest", "stat_manifest", "blob"):
        registry.notes[method] = {"hit": True}
    return registry


async def test_pulls_by_get_and_head_are_told_with_what_was_given(stocked: MemoryRegistry) -> None:
    told: list[Pulled] = []
    digest = stocked.manifests["1"].descriptor.digest
    settings = Settings(access_log=False, notify=told.append, prefix="/p", proxies=LOOPBACK)
    agent = {"User-Agent": "docker", "X-Forwarded-For": "10.1.2.3"}
    async with serving(stocked, settings) as port:
        await ask(port, f"/p{TAG}", headers=agent)
        await ask(port, f"/p/v2/library/x/manifests/{digest}", "HEAD")
        await ask(port, f"/p{BLOB}")
        await ask(port, f"/p{BLOB}", "HEAD")
        await ask(port, f"/p{BLOB}", headers={"Range": "bytes=5-9"})
        await ask(port, f"/p{BLOB}", headers={"If-None-Match": f'"{LAYER}"'})
        await until(lambda: len(told) == 6)
    first, by_digest, *blobs = told
    assert (first.media_type, first.digest, first.size, first.tag) == (OCI, str(digest), len(MANIFEST), "1")
    assert (first.method, first.user_agent, first.address, first.host) == (
        "GET",
        "docker",
        "10.1.2.3",
        "mirror.test",
    )
    assert first.url == f"http://mirror.test/p/v2/library/x/manifests/{digest}"
    assert first.body == MANIFEST
    assert (by_digest.method, by_digest.tag, by_digest.body) == ("HEAD", "", b"")
    assert by_digest.address.startswith("127.0.0.1:")
    assert {(one.digest, one.size, one.media_type) for one in blobs} == {
        (str(LAYER), len(CONTENT), "application/octet-stream")
    }
    assert {one.url for one in blobs} == {f"http://mirror.test/p/v2/library/x/blobs/{LAYER}"}
    assert [one.method for one in blobs] == ["GET", "HEAD", "GET", "GET"]
    assert len({one.request_id for one in told}) == 6


async def test_what_was_not_pulled_is_not_told(stocked: MemoryRegistry, events: Events) -> None:
    """Refusals, lists, a manifest that the client knew, an answer that broke off."""
    told: list[Pulled] = []
    digest = stocked.manifests["1"].descriptor.digest
    broken = stocked.add_blob(CONTENT * 2)
    broken.breaks, broken.break_at = RegistryError(ErrorCode.UNAVAILABLE), 50
    async with serving(stocked, Settings(access_log=False, notify=told.append)) as port:
        await ask(port, "/v2/library/x/manifests/none")
        await ask(port, TAG, headers={"If-None-Match": f'"{digest}"'})
        await ask(port, BLOB, headers={"Range": "bytes=500-"})
        await ask(port, "/v2/library/x/tags/list")
        await ask(port, "/v2/")
        await ask(port, "/healthz")
        await ask(port, TAG, "PUT")
        await exchange(port, head(f"/v2/library/x/blobs/{broken.descriptor.digest}", Connection="close"))
        await events.wait("blob.broken")
        await ask(port, TAG)  # the last to be told of, if any other was
        await until(lambda: told)
    assert [(one.method, one.tag) for one in told] == [("GET", "1")]


async def test_the_mirrors_own_url_is_in_events_where_it_is_configured(stocked: MemoryRegistry) -> None:
    told: list[Pulled] = []
    settings = Settings(access_log=False, notify=told.append, public_url="https://mirror.example")
    async with serving(stocked, settings) as port:
        await ask(port, BLOB)
        await until(lambda: told)
    assert told[0].url == f"https://mirror.example/v2/library/x/blobs/{LAYER}"


async def test_each_repetition_is_told_with_its_time_and_the_id_that_the_log_has(
    stocked: MemoryRegistry, events: Events
) -> None:
    told: list[Pulled] = []
    account = Account()
    async with (
        site(stocked, notify=told.append, account=account) as port,
        connected(port) as first,
        connected(port) as second,
    ):
        request = head()
        await warmed(first, request)
        before = len(told)
        asked = len(stocked.calls)
        for client in (first, second):
            for _ in range(3):
                await client.ask(request)
        assert len(stocked.calls) == asked
        await until(lambda: account.repeated == 6)
    repeated = told[before:]
    assert len(repeated) == 6
    plain = {replace(one, at=0, request_id="", address="") for one in told}
    assert len(plain) == 1
    assert len({one.address for one in repeated}) == 2
    logged = [event["http.request.id"] for event in events.all if event.get("vars.reference") == "1"]
    assert [one.request_id for one in told] == logged
    assert [one.at for one in told] == sorted(one.at for one in told)


async def test_a_shut_gate_stops_the_lane_in_the_same_moment(stocked: MemoryRegistry) -> None:
    gate = Gate()
    async with site(stocked, gate=gate) as port, connected(port) as client:
        request = head()
        await warmed(client, request)
        assert (await client.ask(request)).startswith(b"HTTP/1.1 200")
        gate.set_failing(True)
        answer = await client.ask(request)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b'"detail":"health check failed: please see /debug/health"' in answer
        gate.set_failing(False)
        assert (await client.ask(request)).startswith(b"HTTP/1.1 200")


async def test_readiness_ends_when_the_mirror_stops(stocked: MemoryRegistry) -> None:
    gate = Gate()
    async with serving(stocked, Settings(access_log=False, gate=gate, warnings=lambda: ["x away"])) as port:
        ready = await ask(port, "/readyz")
        assert (ready.status, ready.body) == (200, b'{"status": "ready", "warnings": ["x away"]}\n')
        gate.is_stopping = True
        assert (await ask(port, "/readyz")).status == 503
        assert (await ask(port, "/healthz")).status == 200
        assert (await ask(port, TAG)).status == 200


async def test_the_scheme_of_one_door_is_not_told_of_anothers_pulls(
    stocked: MemoryRegistry, tmp_path: Path
) -> None:
    """Two doors of one application, one in TLS, have one table of repeated answers."""
    told: list[Pulled] = []
    pair = self_signed(tmp_path, "server")
    certificates = Certificates(tls(pair))
    chosen = Settings(access_log=False, notify=told.append, lessor=stocked)
    async with certificates.watched(LOOK), running(stocked, chosen) as runner:
        secure = connections.Site(runner, "127.0.0.1", 0, certificates=certificates)
        plain = connections.Site(runner, "127.0.0.1", 0)
        await secure.start()
        await plain.start()
        async with tlskit.connected(secure.port, trusting(pair[0])) as (reader, writer):
            client = Client(reader, writer)
            await warmed(client, head())
            await client.ask(head())
        asked = sum(call.startswith("manifest ") for call in stocked.calls)
        async with connected(plain.port) as client:
            await warmed(client, head())
            await client.ask(head())
        await until(lambda: len(told) == 6)
    schemes = [each.url.partition(":")[0] for each in told]
    assert schemes == ["https"] * 3 + ["http"] * 3
    assert asked == 2, "the third was repeated by the lane"
